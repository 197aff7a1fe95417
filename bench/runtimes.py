"""A trained network's files on real test images: same accuracy in torch, onnxruntime and OpenVINO?

Takes the current checkpoint of projects and answers for each file: accuracy, share of images on which it
names the class that the deploy form in torch names, and for OpenVINO's own quantizer (NNCF) what it makes of
the float network. OpenVINO is left out where it is not installed.

    python bench/runtimes.py PROJECT [PROJECT ...]
"""

import argparse
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared.record import write
from shared.sessions import CALIBRATION, Run, float_file, nncf_int8, onnxruntime_run, openvino_run

from qmu_edge.data.index import SampleSplit
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.gates import runnable
from qmu_edge.export.targets import OPENVINO, Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.deploy import deploy
from qmu_edge.pipeline.networks import Networks
from qmu_edge.pipeline.release import parity_images
from qmu_edge.project.project import Project, opened
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict

BATCH = 50
THREADS = 2


def all_logits(run: Run, images: np.ndarray) -> np.ndarray:
    """Logits of all images, batch by batch."""
    return np.concatenate([run(part) for part in np.split(images, len(images) // BATCH)])


def sessions(project: Project, folder: Path, images: np.ndarray) -> dict[str, Run]:
    """Every file under every runtime that can run it."""
    model, origin = Networks.of(project).load(project.current(Pointer.CHECKPOINT))
    plan = ExportPlan(formats=tuple(Format), class_names=origin.class_names)
    parity = parity_images(project.samples, project.recipe.policy.parity_inputs)
    made = export(model, plan, images=parity, min_agreement=0.999, min_inputs=len(parity))
    paths = {f.format: folder / f"{f.format}.onnx" for f in made}
    for file in made:
        paths[file.format].write_bytes(runnable(file.data))
    found = {f"{name}, onnxruntime": onnxruntime_run(path, THREADS) for name, path in paths.items()}
    if find_spec("openvino"):
        plan = replace(plan, formats=(Format.INTEGER, Format.QCDQ), target=OPENVINO)
        for file in export(model, plan, images=parity, min_agreement=0.999, min_inputs=len(parity)):
            paths[file.format].write_bytes(file.data)
            found[f"{file.format}, OpenVINO"] = openvino_run(paths[file.format], THREADS)
        float_file(model, folder / "float.onnx")
        found["float, OpenVINO"] = openvino_run(folder / "float.onnx", THREADS)
        if find_spec("nncf"):
            own = nncf_int8(folder / "float.onnx", folder, images[:CALIBRATION])
            found["NNCF int8, OpenVINO"] = openvino_run(own, THREADS)
    return found


def measure(project: Project) -> dict[str, Any]:
    """Accuracy and agreement of every file on all test images."""
    chosen = np.flatnonzero(project.samples.index.in_split(SampleSplit.TEST))
    chosen = chosen[: len(chosen) // BATCH * BATCH]
    images, labels = project.samples.images[chosen], project.samples.index.labels[chosen]
    floats = images.astype(np.float32) / np.float32(255)
    model, _ = Networks.of(project).load(project.current(Pointer.CHECKPOINT))
    each, unlabelled = torch.arange(len(images)), torch.zeros(len(images), dtype=torch.int64)
    samples = Samples(torch.from_numpy(images), each, unlabelled, torch.device("cpu"))
    expected = predict(deploy(model, images.shape[-1]), samples, 64).numpy()
    trained = predict(model, samples, 64).numpy()
    rows = {"deploy form, torch": expected, "trained network, torch": trained}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in sessions(project, Path(folder), floats).items():
            rows[name] = all_logits(run, floats)
    return {
        "model": project.recipe.model.model_dump(mode="json"),
        "images": len(images),
        "rows": {
            name: {
                "accuracy": float((logits.argmax(1) == labels).mean()),
                "agreement": float((logits.argmax(1) == expected.argmax(1)).mean()),
                "largest_difference": float(np.abs(logits - expected).max()),
            }
            for name, logits in rows.items()
        },
    }


def main() -> None:
    """Measure each project and write bench/results/runtimes.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("projects", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    results: dict[str, Any] = {}
    for path in options.projects:
        with opened(path, Progress()) as project:
            model = project.recipe.model
            name = f"{model.architecture} W{model.weight_bits}A{model.activation_bits}"
            results[f"{name}, {model.activation_steps} steps"] = measure(project)
        write("runtimes", {"threads": THREADS, "batch": BATCH}, results)
    for name, found in results.items():
        for row, values in found["rows"].items():
            print(f"{name:42} {row:26} {values['accuracy']:.4f} {values['agreement']:.4f}")


if __name__ == "__main__":
    main()
