"""The networks, sets and measurements behind `methods.py`: train, unlearn, export, measure the file."""

import argparse
import copy
import hashlib
import json
import os
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock
from scenarios import Sets, sets_of
from shared.record import ROOT

from qmu_edge.audit.codes import code_changes, integer_codes
from qmu_edge.audit.relearn import relearn_epochs
from qmu_edge.audit.relearn_retain import relearned_from_retain
from qmu_edge.audit.svm import mia_efficacy
from qmu_edge.data.index import assign_splits, content_digests
from qmu_edge.data.pictures import Source
from qmu_edge.data.sources import load
from qmu_edge.errors import ConfigError
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.files import write_atomic
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import Recipe
from qmu_edge.runtime.throughput import counting
from qmu_edge.train import checkpoint
from qmu_edge.train.batches import Augment, ForgetRetain, Samples, on_device
from qmu_edge.train.fit import accuracy, fit
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import apply, method, parameters
from qmu_edge.verify.evaluation import Labelled, SetName, evaluate
from qmu_edge.verify.session import OrtRunner

PARITY_INPUTS: Final = 1000
GRIDS: Final = ROOT / "bench" / "grids"
MEASURED: Final = 2000  # retain images that are measured
PASSES: Final = {"unsir": "repair_epochs"}  # what counts a method's passes, where it is not `epochs`


def grid_at(path: Path) -> dict[str, Any]:
    """A grid: networks, scenarios and seeds, in TOML."""
    return tomllib.loads(path.read_text("utf-8"))


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """Options of a script that works on one network of a grid; `text` says what it does."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("grid", help="A file in bench/grids, without .toml.")
    parser.add_argument("--data", type=Path, required=True, help="Folder of the image folders of the grid.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--network", required=True)
    return parser


class Network:
    """A network of the grid with its images; originals are trained once and kept."""

    def __init__(self, name: str, grid: dict[str, Any], data: Path | None, folder: Path) -> None:
        """Read the images; `folder` keeps what is trained, and the decoded images."""
        entry = grid["networks"][name]
        path = str(data / entry["dataset"]) if data else None
        document = {"data": entry["data"] | {"path": path}, **{k: entry[k] for k in ("model", "train")}}
        self.recipe = Recipe.model_validate(document | {"unlearn": grid.get("unlearn", {})})
        self.name, self.folder, self.dataset = name, folder, entry["dataset"]
        self.tuned_as: dict[str, str] = grid.get("tuned_as", {})
        self._require_same(entry)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.source, self.everything = self._images(entry)
        self.samples = on_device(self.source.images, self.source.labels, self.device, limit_bytes=8 * 2**30)

    def _require_same(self, entry: dict[str, Any]) -> None:
        """What is stored was made under these settings, or nothing is stored yet."""
        path = self.folder / self.name / "settings.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(entry).encode())
        if json.loads(path.read_bytes()) != json.loads(json.dumps(entry)):
            raise ConfigError(f"{path}: the grid has other settings for {self.name} now: take another --work")

    def _images(self, entry: dict[str, Any]) -> tuple[Source, Sets]:
        source = self._decoded()
        splits = assign_splits(source.labels, content_digests(source.images), source.given)
        rng = np.random.default_rng(0)
        parts: dict[str, Any] = {}
        for code, part, limit in (
            (0, "retain", "train_images"),
            (1, "validation", ""),
            (2, "test", "test_images"),
        ):
            found = np.flatnonzero(splits == code)
            wanted = entry.get(limit, len(found)) if limit else entry.get("train_images", 10**9) // 9
            parts[part] = np.sort(rng.permutation(found)[:wanted])
        empty = np.empty(0, np.int64)
        return source, Sets(labels=source.labels, forget=empty, **parts)

    def _decoded(self) -> Source:
        """The images, decoded once for all networks that see the same."""
        digest = hashlib.sha256(repr((self.dataset, self.recipe.data.size)).encode()).hexdigest()
        path = self.folder / f"images-{digest[:12]}.npz"
        if path.is_file():
            with np.load(path) as kept:
                texts = (tuple(kept[k].tolist()) for k in ("ids", "class_names", "subjects"))
                ids, names, subjects = texts
                return Source(kept["images"], kept["labels"], ids, kept["given"], names, subjects)
        source = load(self.recipe.data, Progress.stderr())
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".npz", delete=False) as file:
            np.savez(file, **asdict(source))
        os.replace(file.name, path)
        return source

    def bench(self, scenario: str, seed: int) -> "Bench":
        """One scenario under one seed."""
        subjects = np.array(
            [" ".join(people) for people in self.source.subjects] or [""] * len(self.source.ids)
        )
        return Bench(self, scenario, seed, sets_of(scenario, self.everything, subjects, seed), seed)

    def shape(self) -> Shape:
        """What enters and leaves the network."""
        data = self.recipe.data
        return Shape(
            channels=self.source.images.shape[1], classes=len(self.source.class_names),
            mean=data.mean, std=data.std,
        )  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A network, a scenario and a seed; `draw` is the seed of the method's own randomness."""

    network: Network
    scenario: str
    seed: int
    sets: Sets
    draw: int

    def part(self, name: str) -> Samples:
        """Images of one set, under the labels of the scenario."""
        positions = torch.from_numpy(getattr(self.sets, name))
        labels = torch.from_numpy(self.sets.labels)[positions]
        return self.network.samples.take(positions).relabelled(labels)

    def data(self) -> ForgetRetain:
        """What a method gets."""
        recipe = self.network.recipe.data
        forget, retain, validation = (self.part(p) for p in ("forget", "retain", "validation"))
        return ForgetRetain(
            forget=forget, retain=retain, validation=validation, augment=Augment(recipe.pad, recipe.flip),
            classes=self.sets.classes, unretained=self.sets.classes,
        )  # fmt: skip

    def original(self) -> Classifier:
        """The network before the request; trained when it is not there yet."""
        poisoned = self.scenario if self.scenario.startswith("poison") else "clean"
        path = self.network.folder / self.network.name / f"original.{poisoned}.{self.seed}.safetensors"
        with FileLock(f"{path}.lock"):  # many processes want the same one at first
            if not path.is_file():
                self._train_original(path)
        return checkpoint.loads(path.read_bytes(), str(path))[0].to(self.network.device)

    def _train_original(self, path: Path) -> None:
        recipe, augment = self.network.recipe, self.data().augment
        train = recipe.train.model_copy(update={"seed": self.seed})
        model = build(recipe.model, self.network.shape(), self.seed).to(self.network.device)
        everything = np.union1d(self.sets.forget, self.sets.retain)  # in the same order for all scenarios
        both = replace(self, sets=replace(self.sets, retain=everything)).part("retain")
        fit(model, both, train, augment, progress=Progress.stderr(), label=path.name)
        requantize(model, both, batch=train.batch, seed=self.seed, progress=Progress())
        origin = checkpoint.Origin(
            class_names=self.network.source.class_names, size=self.network.source.images.shape[-1], split=""
        )
        write_atomic(path, checkpoint.dumps(model, origin))

    def common(self, name: str) -> dict[str, Any]:
        """What the grid sets for every method that knows it."""
        fields = method(name).params.__dataclass_fields__
        given = {"batch": self.network.recipe.train.batch} if "batch" in fields else {}
        return given | self.network.recipe.unlearn.get(name, {})

    def within(self, name: str, given: dict[str, Any], budget: float | None) -> dict[str, Any]:
        """`given` with as many passes as cost at most `budget` epoch-equivalents, where the method has one.

        One and two passes are run for it: what a method does once costs nothing in the second.
        """
        passes = epochs_of(name)
        if passes is None or budget is None:
            return given
        runs = (self._applied(name, self.original(), given | {passes: n}) for n in (1, 2))
        one, two = (spent["epoch_equivalents"] for _, spent in runs)
        return given | {passes: affordable(budget, one, two)}

    def params(self, name: str, given: dict[str, Any]) -> Any:
        """Hyperparameters of a method."""
        return parameters(name, given, self.network.recipe.train)

    def unlearned(self, name: str, given: dict[str, Any]) -> tuple[Classifier, dict[str, float]]:
        """Run a method from the original, re-quantize; the network, and what it cost."""
        original = self.original()
        start = time.perf_counter()
        model, spent = self._applied(name, original, given)
        requantize(model, self.part("retain"), batch=256, seed=self.draw, progress=Progress())
        return model, {"seconds": time.perf_counter() - start, **spent}

    def _applied(
        self, name: str, model: Classifier, given: dict[str, Any]
    ) -> tuple[Classifier, dict[str, int | float]]:
        data, generator = self.data(), torch.Generator().manual_seed(self.draw)
        with counting(self.network.device) as throughput:
            model = apply(name, model, data, self.params(name, given), generator)
        return model, throughput.spent(len(data.forget) + len(data.retain))

    def measured(
        self, model: Classifier, params: dict[str, Any], seconds: float, *, relearn: bool = True
    ) -> dict[str, Any]:
        """Everything that the tables show, from the exported file; relearning, from its network."""
        sets = {name: getattr(self.sets, name) for name in SetName}
        sets[SetName.RETAIN] = np.random.default_rng(0).permutation(sets[SetName.RETAIN])[:MEASURED]
        pairs = {p: Labelled(self.network.source.images[i], self.sets.labels[i]) for p, i in sets.items()}
        runner, size = _exported(model, self.network.source)
        found, logits = evaluate(runner, pairs)
        order = (SetName.RETAIN, SetName.TEST, SetName.FORGET)
        of = [a for p in order for a in (logits[p], pairs[p].labels)]
        original = self.original()
        changes = code_changes(integer_codes(original), integer_codes(model.cpu()))
        model.to(self.network.device)
        return {
            "FA": found.fa.value if found.fa else None, "RA": found.ra.value if found.ra else None,
            "TA": found.ta.value if found.ta else None, "VA": found.va.value if found.va else None,
            "MIA": mia_efficacy(*of).mean, "AUC": found.mia_auc.value if found.mia_auc else None,
            "predictions": found.forget_predictions, "bytes": size, "params": params, "seconds": seconds,
            "codes": {name: asdict(c) for name, c in changes.items()},
            **(self._relearned(original, model) if relearn else {}),
        }  # fmt: skip

    def _relearned(self, original: Classifier, model: Classifier) -> dict[str, float]:
        data, generator = self.data(), torch.Generator().manual_seed(self.seed)
        target = accuracy(original, data.forget)
        return {
            "relearn_epochs": relearn_epochs(model, data.forget, target, generator),
            "relearned_from_retain": relearned_from_retain(model, data.retain, data.forget, generator),
        }


def _exported(model: Classifier, source: Source) -> tuple[OrtRunner, int]:
    images = source.images[np.random.default_rng(0).permutation(len(source.images))[:PARITY_INPUTS]]
    (file,) = export(
        copy.deepcopy(model).cpu(), ExportPlan(formats=(Format.INTEGER,), class_names=source.class_names),
        images=images, min_agreement=0.99, min_inputs=len(images),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(file.data)
        return OrtRunner(path, threads=torch.get_num_threads()), len(file.data)


def epochs_of(name: str) -> str | None:
    """The parameter that counts a method's passes, where it reads retain images and so has a budget."""
    chosen = method(name)
    passes = PASSES.get(name, "epochs")
    return passes if passes in chosen.params.__dataclass_fields__ and "retain" in chosen.reads else None


def affordable(budget: float, one: float, two: float) -> int:
    """Passes that cost at most `budget`, and at least one, by the costs of one pass and of two.

    Where the second cost nothing, since the method stopped by itself, each counts as much as the first.

    >>> affordable(4.0, 1.5, 2.5), affordable(4.0, 5.0, 9.0), affordable(4.0, 1.0, 1.0)
    (3, 1, 4)
    """
    return max(1, 1 + int((budget - one) / (two - one or one)))


def score(bench: Bench, model: Classifier) -> float:
    """How far a network is from looking unseen and being accurate; smaller is better. Needs no reference.

    Random samples: |FA - VA|, classes: FA; less retain and validation accuracy. Retain images are drawn at
    random: they are sorted by class, so that the first ones would show half of the classes.
    """
    data = bench.data()
    drawn = torch.randperm(len(data.retain), generator=torch.Generator().manual_seed(0))[:MEASURED]
    fa, va, ra = (accuracy(model, s) for s in (data.forget, data.validation, data.retain.take(drawn)))
    return (fa if bench.sets.classes else abs(fa - va)) - ra - va
