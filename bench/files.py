"""How large and how fast are the exported files beside the float ONNX file of the same network?

The files run under onnxruntime in one process, taking turns. Networks are calibrated, not trained: size and
speed do not depend on what they learned.

    python bench/files.py [--width 1.0] [--repeats 15]
"""

import argparse
import copy
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from record import float_twin, interleaved, summary, write

from qmu_edge.export import FORMATS, ExportPlan, export
from qmu_edge.models import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.scales import calibrate
from qmu_edge.recipe import ModelRecipe
from qmu_edge.verify.runner import OrtRunner

BITS = {"W8A8": (8, 8), "W4A4": (4, 4), "W2A4": (2, 4), "W2AF": (2, "float")}


def calibrated(architecture: str, bits: str, width: float) -> Classifier:
    """A network whose activation grids are set on random images."""
    weight_bits, activation_bits = BITS[bits]
    recipe = ModelRecipe.model_validate(
        {
            "architecture": architecture,
            "width": width,
            "weight_bits": weight_bits,
            "activation_bits": activation_bits,
        }
    )
    model = build(recipe, Shape(channels=3, classes=10), 0)
    calibrate(model, [torch.rand(64, 3, 32, 32)])
    return model.eval()


def float_onnx(model: Classifier, path: Path) -> bytes:
    """The float twin of a network as ONNX, by way of a file at `path`."""
    twin = float_twin(copy.deepcopy(model)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            twin, (torch.zeros(2, 3, 32, 32),), path, dynamo=True, verbose=False, external_data=False,
            input_names=["image"], output_names=["logits"], opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )  # fmt: skip
    return path.read_bytes()


def runner(folder: Path, name: str, data: bytes, threads: int) -> OrtRunner:
    """Session of a file under onnxruntime."""
    path = folder / f"{name}.onnx"
    path.write_bytes(data)
    return OrtRunner(path, threads=threads)


def measure(architecture: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Sizes and latencies of one architecture at all bit widths."""
    models = {bits: calibrated(architecture, bits, options.width) for bits in BITS}
    files = {"float": float_onnx(models["W4A4"], folder / "twin.onnx")}
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), np.uint8)
    for bits, model in models.items():
        plan = ExportPlan(formats=FORMATS, class_names=tuple("0123456789"))
        made = export(model, plan, images=images, min_agreement=0.0, min_inputs=1)
        files |= {f"{bits} {f.format}": f.data for f in made}
    sizes = {
        name: {"bytes": len(data), "ratio": len(data) / len(files["float"])} for name, data in files.items()
    }
    runs = {
        name: runner(folder, name.replace(" ", "-"), data, options.threads)
        for name, data in files.items()
        if "qonnx" not in name
    }
    result: dict[str, object] = {"size": sizes}
    for batch in (1, 64):
        work = {name: lambda r=run, b=batch: r.logits(images[:b]) for name, run in runs.items()}
        result[f"batch {batch}"] = summary(interleaved(work, repeats=options.repeats), "float")
    return result


def main() -> None:
    """Measure both architectures and write bench/results/files.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {a: measure(a, options, Path(folder)) for a in ("resnet18", "mobilenet_v2")}
    print(write("files", vars(options), results))


if __name__ == "__main__":
    main()
