"""What do the same bits on every processor cost? Accuracy of trained networks, and time of their files.

Each network is trained with weights of 8 bits and with 7 in their place (`model.reduce_range`), over seeds,
and exported with ties broken and without. Accuracy is that of the exported integer file on unseen images.
Times of the files take turns in one process.

    python bench/processors.py [--data data/] [--seeds 0 1 2]
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from shared.record import interleaved, summary, write
from shared.sessions import onnxruntime_run

from qmu_edge.data.sources import load
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.gates import run_file
from qmu_edge.export.targets import Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.deployed import BELOW_ONE, BreakTies
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import DataRecipe, ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, on_device
from qmu_edge.train.fit import fit
from qmu_edge.train.requantize import requantize

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images and labels of training, of test
MOBILENET: Final[dict[str, Any]] = {"architecture": "mobilenet_v2", "width": 0.25}
NETWORKS: Final[dict[str, dict[str, Any]]] = {
    "resnet18 W4A4": {"width": 0.25},
    "resnet18 W8A8": {"width": 0.25, "weight_bits": 8, "activation_bits": 8},
    "mobilenet_v2 W8A8": MOBILENET | {"weight_bits": 8, "activation_bits": 8},
}
EPOCHS: Final = {"digits": 8, "cifar10": 10}
CIFAR: Final = 2500  # training images, and half as many for testing, of 16x16 pixels


def digits() -> Data:
    """A fifth of scikit-learn's digits for testing."""
    source = load(DataRecipe(source="digits", size=16), Progress())
    labels, test = np.asarray(source.labels), np.random.default_rng(0).random(len(source.labels)) < 0.2
    return source.images[~test], labels[~test], source.images[test], labels[test]


def cifar10(folder: Path) -> Data:
    """Some images of CIFAR-10, at half size."""
    files = sorted((folder / "cifar10" / "train").glob("*/*"))
    chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[: CIFAR + CIFAR // 2]]
    names = sorted({file.parent.name for file in chosen})
    shown = [np.asarray(Image.open(f).convert("RGB").resize((16, 16), Image.Resampling.BOX)) for f in chosen]
    images, labels = (
        np.stack(shown).transpose(0, 3, 1, 2),
        np.array([names.index(f.parent.name) for f in chosen]),
    )
    return images[:CIFAR], labels[:CIFAR], images[CIFAR:], labels[CIFAR:]


def trained(recipe: ModelRecipe, data: Data, epochs: int, seed: int) -> Classifier:
    """A network of this recipe, re-quantized."""
    samples = on_device(data[0], data[1], torch.device("cpu"), limit_bytes=1 << 31)
    model = build(recipe, Shape(channels=data[0].shape[1], classes=10), seed)
    train = TrainRecipe(epochs=epochs, batch=64, seed=seed)
    fit(model, samples, train, Augment(1, data[0].shape[1] == 3), progress=Progress())
    return requantize(model, samples, batch=64, seed=seed, progress=Progress())


def files_of(recipe: dict[str, Any], data: Data, epochs: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Integer files by what was done for the same bits."""
    plan = ExportPlan(formats=(Format.INTEGER,), class_names=tuple(map(str, range(10))))
    images = data[0][:1000]
    for reduce_range, name in ((False, "8 bits"), (True, "7 bits")):
        model = trained(ModelRecipe(**recipe, reduce_range=reduce_range), data, epochs, seed)
        for factor, ties in ((1.0, "ties"), (BELOW_ONE, "no ties")):
            BreakTies.factor = factor
            (file,) = export(model, plan, images=images, min_agreement=0.99, min_inputs=len(images))
            yield f"{name}, {ties}", file.data


def timed(files: dict[str, bytes], images: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Time of one batch, with one thread."""
    with TemporaryDirectory() as folder:
        runs: dict[str, Callable[[], object]] = {}
        for number, (name, data) in enumerate(files.items()):
            path = Path(folder) / f"{number}.onnx"
            path.write_bytes(data)
            runs[name] = partial(
                onnxruntime_run(path, threads=1), images.astype(np.float32) / np.float32(255)
            )
        return summary(interleaved(runs, repeats=repeats), "8 bits, ties")


def main() -> None:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = {"digits": digits()} | ({"cifar10": cifar10(options.data)} if options.data else {})
    accuracy: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    last: dict[str, dict[str, bytes]] = {}
    for source, data in sources.items():
        for network, recipe in NETWORKS.items():
            for seed in options.seeds:
                last[network] = dict(files_of(recipe, data, EPOCHS[source], seed))
                for variant, file in last[network].items():
                    right = run_file(file, data[2]).argmax(axis=1) == data[3]
                    accuracy[f"{source}, {network}"][variant].append(float(right.mean()))
                print(source, network, seed, dict(accuracy[f"{source}, {network}"]), flush=True)
    times = {
        f"{n}, batch {b}": timed(files, data[2][:b], options.repeats)
        for n, files in last.items()
        for b in (1, 64)
    }
    found = {
        row: {
            variant: [mean(values), stdev(values) if len(values) > 1 else 0.0]
            for variant, values in cells.items()
        }
        for row, cells in accuracy.items()
    }
    write(
        "processors",
        {"seeds": options.seeds, "epochs": EPOCHS, "cifar10": CIFAR},
        {"accuracy": found, "time": times},
    )


if __name__ == "__main__":
    main()
