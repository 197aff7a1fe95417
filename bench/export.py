"""What do the exported files cost? Size, time and exactness of every format, in one run.

All sessions take turns in one process. The float file is the same network in plain PyTorch layers, its
batch-norm folded by onnxruntime; `static int8` is onnxruntime's own post-training quantization of it.
Export itself, from checkpoint to files through all gates, runs in a process of its own. OpenVINO runs the
files too where it is installed, beside what its own quantizer (NNCF) makes of the float file.

    python bench/export.py [--width 1.0] [--repeats 30]
"""

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared.record import interleaved, summary, write
from shared.sessions import (
    CALIBRATION,
    Run,
    float_file,
    nncf_int8,
    onnxruntime_run,
    openvino_run,
    static_int8,
)

from qmu_edge.export.exporter import Exported, ExportPlan, export
from qmu_edge.export.gates import run_file, runnable
from qmu_edge.export.targets import OPENVINO, Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, weight_layers
from qmu_edge.models.deploy import deploy
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.batches import Samples
from qmu_edge.train.checkpoint import Origin, dumps, loads
from qmu_edge.train.fit import predict
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.parity import compare

Bits = tuple[int, int | str]
NETWORKS: dict[str, tuple[Bits, ...]] = {
    "resnet18": ((8, 8), (4, 4), (2, 4), (2, "float")),
    "mobilenet_v2": ((8, 8), (4, 4), (2, 4), (2, "float")),
}


def natural_images(n: int, seed: int) -> np.ndarray:
    """Smooth random images, uint8 (n, 3, 32, 32): noise alone would leave most activations at zero."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).numpy()


def network(architecture: str, bits: Bits, width: float, images: np.ndarray) -> Classifier:
    """An untrained network, calibrated and re-quantized; times do not depend on the weights' values."""
    recipe = ModelRecipe.model_validate(
        {"architecture": architecture, "width": width, "weight_bits": bits[0], "activation_bits": bits[1]}
    )
    model = build(recipe, Shape(channels=3, classes=10), 0)
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(20)  # untrained logits differ too little to rank
    calibrate(model, [torch.from_numpy(images[:64]) / 255.0] * 4)
    pool = torch.from_numpy(images)
    retain = Samples(pool, torch.arange(len(pool)), torch.arange(len(pool)) % 10, torch.device("cpu"))
    return requantize(model.eval(), retain, batch=64, seed=0, progress=Progress())


def limit_bytes(model: Classifier) -> float:
    """Bytes of the weights alone at their width."""
    each = [m.weight.numel() * float(m.weight_quant.bit_width()) / 8 for _, m in weight_layers(model)]
    return float(sum(each))


def exported(
    checkpoint: bytes, recipe: ModelRecipe, images: np.ndarray
) -> tuple[list[Exported], dict[str, float]]:
    """All files of a checkpoint through all gates, with the seconds and megabytes that this process took."""
    torch.set_num_threads(2)
    start = time.perf_counter()
    model, _ = loads(checkpoint, "bench", recipe)
    plan = ExportPlan(formats=tuple(Format), class_names=tuple("0123456789"))
    made = export(model, plan, images=images, min_agreement=0.999, min_inputs=len(images))
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text("ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024  # ru_maxrss would start at the parent's
    return made, {"export_seconds": seconds, "export_peak_mb": peak}


def exactness(model: Classifier, made: list[Exported], images: np.ndarray) -> dict[str, dict[str, float]]:
    """How far each file is from the deploy form on all images, and at every level on some."""
    samples = Samples(
        torch.from_numpy(images),
        torch.arange(len(images)),
        torch.zeros(len(images), dtype=torch.int64),
        torch.device("cpu"),
    )
    logits = predict(deploy(model, images.shape[-1]), samples, 64).numpy()
    found = {f.format: compare(logits, run_file(runnable(f.data), images)) for f in made}
    return {
        "agreement": {name: parity.agreement for name, parity in found.items()},
        "largest_difference": {
            f.format: max(p.max_abs_difference for p in (found[f.format], *f.levels.values())) for f in made
        },
    }


def measure(
    architecture: str, bits: Bits, options: argparse.Namespace, folder: Path, images: np.ndarray
) -> dict[str, Any]:
    """Size, exactness and time of every format of one network."""
    model = network(architecture, bits, options.width, images[:CALIBRATION])
    paths = {"float": folder / "float.onnx"}
    float_file(model, paths["float"])
    floats = images.astype(np.float32) / np.float32(255)
    if bits[1] != "float":
        paths["static int8"] = folder / "static.onnx"
        static_int8(paths["float"], paths["static int8"], floats[:CALIBRATION])
    origin = Origin(class_names=tuple("0123456789"), size=32, split="0" * 64, method="train", parent="")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        made, cost = fresh.submit(exported, dumps(model, origin), model.recipe, images).result()
    for file in made:
        paths[file.format] = folder / f"{file.format}.onnx"
        paths[file.format].write_bytes(file.data)
    runs = {n: onnxruntime_run(p, 1) for n, p in paths.items() if n != Format.QONNX}
    two = {
        n: onnxruntime_run(p, 2) for n, p in paths.items() if n in ("float", Format.INTEGER, "static int8")
    }
    result: dict[str, Any] = {
        **cost,
        "limit_bytes": limit_bytes(model),
        "bytes": {name: path.stat().st_size for name, path in paths.items()},
        **exactness(model, made, images),
        "largest_logit": float(np.abs(runs[Format.INTEGER](floats[:64])).max()),
    }
    for batch in (1, 64):
        repeats = options.repeats * (4 if batch == 1 else 1)
        for threads, sessions in ((1, runs), (2, two)):
            work = {n: lambda r=r, b=batch: r(floats[:b]) for n, r in sessions.items()}
            seconds_of = interleaved(work, repeats=repeats)
            result[f"{threads} threads, batch {batch}"] = summary(seconds_of, "float")
    if find_spec("openvino") and bits[1] != "float":
        if find_spec("nncf"):
            paths["nncf int8"] = nncf_int8(paths["float"], folder, floats[:CALIBRATION])
        plan = ExportPlan(formats=(Format.INTEGER,), class_names=tuple("0123456789"), target=OPENVINO)
        (own,) = export(model, plan, images=images, min_agreement=0.999, min_inputs=len(images))
        paths[OPENVINO.name] = folder / "openvino.onnx"
        paths[OPENVINO.name].write_bytes(own.data)
        result["openvino"] = under_openvino(paths, floats, runs[Format.INTEGER], options.repeats)
    return result


def under_openvino(
    paths: dict[str, Path], floats: np.ndarray, reference: Run, repeats: int
) -> dict[str, Any]:
    """The second, independent runtime: time relative to its own float, and agreement with the first."""
    names = ["float", "static int8", Format.INTEGER, OPENVINO.name]
    names += ["nncf int8"] if "nncf int8" in paths else []
    runs = {name: openvino_run(paths[name], 1) for name in names}
    found: dict[str, Any] = {}
    for batch in (1, 64):
        work = {n: lambda r=r, b=batch: r(floats[:b]) for n, r in runs.items()}
        found[f"1 threads, batch {batch}"] = summary(interleaved(work, repeats=repeats), "float")
    ours = np.concatenate([runs[OPENVINO.name](part) for part in np.split(floats, len(floats) // 50)])
    theirs = np.concatenate([reference(part) for part in np.split(floats, len(floats) // 50)])
    found["agreement"] = float((ours.argmax(1) == theirs.argmax(1)).mean())
    return found


def main() -> None:
    """Measure and write bench/results/export.json, after each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(2)
    images = natural_images(options.images, 0)
    results: dict[str, Any] = {}
    for architecture, widths in NETWORKS.items():
        for bits in widths:
            name = f"{architecture} W{bits[0]}A{'F' if bits[1] == 'float' else bits[1]}"
            with tempfile.TemporaryDirectory() as folder:
                results[name] = measure(architecture, bits, options, Path(folder), images)
            print(write("export", {**vars(options), "threads": "1 and 2"}, results), name, flush=True)


if __name__ == "__main__":
    main()
