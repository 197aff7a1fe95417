"""Is the verdict right? Planted cases, judged by the product's own code: how often which answer is given.

A lab trains networks that have seen some subjects and not others. Each is taken as the original of a request
for each subject that it knows, with references on shards of its training images; every other network is taken
for the unlearned file. One that has seen the subject is a leak; one that has not is as good as retrained (and
worse than that: it lacks other subjects too, and is judged as if approximate). Beside these stand files
that methods made of the original, for some networks, and the original itself. Networks, scores and unlearned
files are kept in --work: a killed run goes on, and labs may run side by side.

    python bench/verdict.py moderate --data data/ --work work/     # a lab, in the background
    python bench/verdict.py --collect --work work/                 # all labs to bench/results/verdict.json
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from shared.record import write

from qmu_edge.data.index import SampleIndex, SampleSplit, content_digests
from qmu_edge.data.shards import owners, shards
from qmu_edge.data.sources import load
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.pipeline.references import Reference, expected, float_twin, reference_training
from qmu_edge.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from qmu_edge.train import checkpoint
from qmu_edge.train.batches import Augment, ForgetRetain, Samples, on_device
from qmu_edge.train.fit import fit, predict
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import apply, parameters
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.mia import auc, mean_score, scaled_confidence
from qmu_edge.verify.residual import Compared
from qmu_edge.verify.verdict import Answer, Terms, judge

Positions = NDArray[np.int64]
NETWORKS: Final = 10
SIZES: Final = ((1, 60), (5, 40), (20, 16), (100, 6), (500, 1))  # images of a subject, and how many subjects
ALWAYS: Final = 720  # images that every network has seen
UNSEEN: Final = 2000
RESNET: Final = ModelRecipe(width=0.25)
MOBILENET: Final = ModelRecipe(
    architecture="mobilenet_v2", width=0.5, weight_bits=2, activation_bits="float"
)  # fmt: skip
CIFAR: Final = DataRecipe(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616), flip=True)
# What is done to the original: method, parameters. "half" stops where about half should be left.
PLANTED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "one step": ("finetune", {"epochs": 1, "lr": 1e-5, "batch": 4096}),
    "half": ("held_out_match", {"epochs": 1, "batch": 64}),
    "held_out_match": ("held_out_match", {"epochs": 5, "batch": 64}),
    "random_label": ("random_label", {"epochs": 5, "lr": 0.01, "batch": 64}),
    "qmul": ("qmul", {"epochs": 5, "lr": 0.02, "batch": 64}),
    "too far": ("grad_ascent", {"batch": 64, "lr": 0.05}),
}
PLANTED_KINDS: Final = ("20", "100", "writer", "10 pictures", "class")
PLANTED_NETWORKS: Final = 4
SEEN: Final = {0.0: "retrained", 0.5: "half known", 1.0: "leak"}  # by the share of images that it has seen
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Lab:
    """Images, whose they are, and which network has seen whom.

    Attributes:
        images, labels: Of all samples, training samples first.
        subjects: Name of each sample's person (n,), "" for nobody.
        groups: Positions of the images of each request, with the name of its kind.
        members: Which network has seen which sample (networks, n).
        recipe: Of network, data and training.
        classes: Whether a request is for a whole class.
    """

    images: NDArray[np.uint8]
    labels: Positions
    subjects: list[str]
    groups: list[tuple[str, Positions]]
    members: NDArray[np.bool_]
    recipe: Recipe
    classes: bool = False

    @cached_property
    def unseen(self) -> Positions:
        """Samples that no network has seen."""
        return np.flatnonzero(~self.members.any(axis=0))

    def index(self, network: int) -> SampleIndex:
        """The samples as a project of this network would know them."""
        n = len(self.labels)
        splits = np.where(self.members[network], SampleSplit.TRAIN, SampleSplit.TEST).astype(np.int8)
        names = {s: f"{i + 1:064x}" for i, s in enumerate(sorted(set(self.subjects) - {""}))}
        return SampleIndex.of(
            ids=(f"s{i}" for i in range(n)), digests=list(content_digests(self.images)), labels=self.labels,
            splits=splits, subjects=(names.get(s, "") for s in self.subjects),
            class_names=(f"c{i}" for i in range(int(self.labels.max()) + 1)),
        )  # fmt: skip


def cifar(data: Path, model: ModelRecipe, epochs: int) -> Lab:
    """Random images of CIFAR-10 as subjects of 1 to 500 images; half of the networks have seen each."""
    pool = sum(size * count for size, count in SIZES) + ALWAYS
    files = sorted((data / "cifar10" / "train").glob("*/*"))
    chosen = [files[i] for i in np.random.default_rng(5).permutation(len(files))[: pool + UNSEEN]]
    names = sorted({file.parent.name for file in files})
    images = np.stack([np.asarray(Image.open(f).resize((16, 16), Image.Resampling.BOX)) for f in chosen])
    labels = np.array([names.index(file.parent.name) for file in chosen])
    members = np.zeros((NETWORKS, len(chosen)), np.bool_)
    members[:, pool - ALWAYS : pool] = True
    subjects, groups, start = [""] * len(chosen), [], 0
    rng = np.random.default_rng(6)
    for size, count in SIZES:
        for number in range(count):
            own = np.arange(start, start := start + size)
            members[rng.permutation(NETWORKS)[: NETWORKS // 2, None], own] = True
            groups.append((str(size), own))
            for position in own.tolist():
                subjects[position] = f"{size}-{number}"
        alike = [at for kind, at in groups if kind == str(size)]  # of two people a file may know one
        pairs = zip(alike[::2], alike[1::2], strict=False)
        groups += [(f"2 x {size}", np.concatenate(pair)) for pair in pairs if size > 1]
    recipe = Recipe(data=CIFAR, model=model, train=TrainRecipe(epochs=epochs, batch=64))
    return Lab(images.transpose(0, 3, 1, 2).copy(), labels, subjects, groups, members, recipe)


def classes(data: Path) -> Lab:
    """Images of CIFAR-10, where each network lacks another class."""
    lab = cifar(data, RESNET, 9)
    seen = lab.members.any(axis=0)
    members = seen & (lab.labels != np.arange(NETWORKS)[:, None])
    groups = [("class", np.flatnonzero(seen & (lab.labels == k))) for k in range(NETWORKS)]
    return Lab(lab.images, lab.labels, lab.subjects, groups, members, lab.recipe, classes=True)


def digits(epochs: int) -> Lab:
    """Writers of scikit-learn's digits: each network lacks another one."""
    source = load(DataRecipe(source="digits", size=16), Progress())
    people = [name for (name,) in source.subjects]
    known = sorted(set(people) - {""})
    test = np.random.default_rng(7).random(len(people)) < 0.2
    members = np.stack(
        [np.array([p != known[g % len(known)] for p in people]) & ~test for g in range(NETWORKS)]
    )
    owned = np.array(people)
    groups = [("writer", np.flatnonzero((owned == name) & ~test)) for name in known]
    train = TrainRecipe(epochs=epochs, batch=64)
    recipe = Recipe(data=DataRecipe(size=16, pad=1), model=RESNET, train=train)
    return Lab(source.images, np.asarray(source.labels), people, groups, members, recipe)


def faces(data: Path) -> Lab:
    """Faces: requests for 10 pictures of 10 people, who are known from other pictures too."""
    files = sorted((data / "att_faces").glob("*/*/*"))
    shown = [Image.open(f).convert("L").resize((16, 16), Image.Resampling.BOX) for f in files]
    labels = np.array([sorted({f.parent.name for f in files}).index(f.parent.name) for f in files])
    training = np.flatnonzero([f.parts[-3] == "train" for f in files])
    rng = np.random.default_rng(8)
    members = np.zeros((NETWORKS, len(files)), np.bool_)
    groups = [("10 pictures", np.sort(g)) for g in np.array_split(rng.permutation(training), 32)]
    for _, own in groups:
        members[rng.permutation(NETWORKS)[: NETWORKS // 2, None], own] = True
    recipe = Recipe(data=DataRecipe(size=16), model=RESNET, train=TrainRecipe(epochs=60, batch=32))
    images = np.stack([np.asarray(s) for s in shown])[:, None]
    return Lab(images, labels, [""] * len(files), groups, members, recipe)


LABS: Final[dict[str, Callable[[Path], Lab]]] = {
    "moderate": lambda data: cifar(data, RESNET, 9),
    "by heart": lambda data: cifar(data, RESNET, 20),
    "mobilenet": lambda data: cifar(data, MOBILENET, 30),
    "digits": lambda data: digits(12),
    "faces": faces,
    "classes": classes,
}


class Bench:
    """A lab, and the folder in which its networks are kept."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        """Make the folder."""
        self.lab, self.folder = lab, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.pool = on_device(lab.images, lab.labels, torch.device("cpu"), limit_bytes=1 << 40)
        mirrored = np.ascontiguousarray(lab.images[..., ::-1])
        self.mirrored = on_device(mirrored, lab.labels, torch.device("cpu"), limit_bytes=1 << 40)
        self.augment = Augment.of(lab.recipe.data)

    def logits(self, name: str, make: Callable[[], Classifier]) -> list[NDArray[np.float32]]:
        """What a network makes of every sample: of each view (n, k)."""
        file = self.folder / f"{name}.npz"
        if not file.exists():
            model = make()
            shown = [self.pool, self.mirrored] if self.augment.flip else [self.pool]
            np.savez(self.folder / "new.npz", *[predict(model, s).numpy() for s in shown])
            (self.folder / "new.npz").rename(file)
            print(name, flush=True)
        with np.load(file) as arrays:
            return [arrays[key] for key in arrays.files]

    def network(self, g: int) -> list[NDArray[np.float32]]:
        """Logits of a trained network."""
        return self.logits(f"network-{g}", lambda: self.trained(g))

    def trained(self, g: int) -> Classifier:
        """A network, from its checkpoint when there is one."""
        train = self.lab.recipe.train.model_copy(update={"seed": g})
        kept = self.folder / f"network-{g}.safetensors"
        if kept.exists():
            return checkpoint.loads(kept.read_bytes(), str(kept), self.lab.recipe.model)[0]
        model = build(self.lab.recipe.model, self._shape(), g)
        samples = self.take(np.flatnonzero(self.lab.members[g]))
        fit(model, samples, train, self.augment, progress=Progress())
        requantize(model, samples, batch=train.batch, seed=g, progress=Progress())
        names = tuple(map(str, range(model.shape.classes)))
        kept.write_bytes(checkpoint.dumps(model, checkpoint.Origin(class_names=names, size=1, split="")))
        return model

    def references(self, g: int) -> list[Reference]:
        """The references that a project of network g would have."""
        index, found = self.lab.index(g), []
        assigned = shards(index, self.lab.recipe.references.count)
        for shard in range(self.lab.recipe.references.count):
            chosen = np.flatnonzero(assigned == shard)
            make = partial(self._reference, g, shard, chosen)
            views = self.logits(f"reference-{g}-{shard}", make)
            scores = mean_score(views, self.lab.labels).astype(np.float32)
            members = assigned == shard
            scores[members] = np.nan
            found.append(Reference(members, scores))
        return found

    def unlearned(self, g: int, own: Positions, key: str, case: str) -> list[NDArray[np.float32]]:
        """Logits of what a method makes of network g."""
        return self.logits(f"{case.replace(' ', '_')}-{g}-{key}", lambda: self._unlearn(g, own, case))

    def take(self, positions: Positions) -> Samples:
        """Some samples."""
        return self.pool.take(torch.from_numpy(positions))

    def _reference(self, g: int, shard: int, chosen: Positions) -> Classifier:
        train = reference_training(self.lab.recipe, 10 * g + shard)
        model = build(float_twin(self.lab.recipe), self._shape(), train.seed)
        fit(model, self.take(chosen), train, self.augment, progress=Progress())
        return model

    def _unlearn(self, g: int, own: Positions, case: str) -> Classifier:
        name, given = PLANTED[case]
        retain = np.setdiff1d(np.flatnonzero(self.lab.members[g]), own)
        half = np.array_split(self.lab.unseen, 2)
        data = ForgetRetain(
            forget=self.take(own), retain=self.take(retain), validation=self.take(half[1]),
            augment=self.augment, progress=Progress(), state=self.folder / "unlearning.safetensors",
        )  # fmt: skip
        params = parameters(name, given, self.lab.recipe.train)
        model = apply(name, copy.deepcopy(self.trained(g)), data, params, torch.Generator().manual_seed(g))
        requantize(model, data.retain, batch=self.lab.recipe.train.batch, seed=g, progress=Progress())
        return model

    def _shape(self) -> Shape:
        data = self.lab.recipe.data
        channels, classes = self.lab.images.shape[1], int(self.lab.labels.max()) + 1
        mean, std = (v * channels if len(v) < channels else v for v in (data.mean, data.std))
        return Shape(channels=channels, classes=classes, mean=mean, std=std)


def judged(bench: Bench) -> Iterator[dict[str, Any]]:
    """One row for each original, request and file."""
    lab = bench.lab
    for g in range(len(lab.members)):
        index, references = lab.index(g), bench.references(g)
        known = expected(index, references)
        assert known is not None
        before, people = bench.network(g), owners(index, np.arange(len(lab.labels)))
        test = np.array_split(lab.unseen, 2)[0]  # the other half is for validation
        for number, (kind, own) in enumerate(lab.groups):
            if not lab.members[g, own].all():
                continue
            files = _files(bench, g, number, kind, own)
            for case, logits in files:
                retain = np.setdiff1d(np.flatnonzero(lab.members[g]), own)
                sets = {
                    name: Compared(
                        labels=lab.labels[at], classes=before[0].shape[1],
                        right=logits[0][at].argmax(axis=1) == lab.labels[at],
                        score=mean_score([z[at] for z in logits], lab.labels[at]),
                        right_before=before[0][at].argmax(axis=1) == lab.labels[at],
                        score_before=mean_score([z[at] for z in before], lab.labels[at]),
                        references=known.scores[at], people=people[at],
                    )
                    for name, at in ((SetName.FORGET, own), (SetName.RETAIN, retain), (SetName.TEST, test))
                }  # fmt: skip
                gone = tuple(np.unique(lab.labels[own]).tolist()) if lab.classes else ()
                terms = Terms(
                    references=int(known.networks[own].min()), intraclass=known.intraclass, classes=gone
                )
                yield {"case": case, "kind": kind, **_row(judge(sets, terms))}


def _files(
    bench: Bench, g: int, number: int, kind: str, own: Positions
) -> Iterator[tuple[str, list[NDArray[np.float32]]]]:
    """The files that are judged as if they were unlearned of network g."""
    members = bench.lab.members
    yield "no-op", bench.network(g)
    for other in range(len(members)):
        case = SEEN.get(float(members[other, own].mean()))
        if other != g and case is not None:
            yield case, bench.network(other)
    known = [i for i, (k, at) in enumerate(bench.lab.groups) if k == kind and members[g, at].all()]
    if g < PLANTED_NETWORKS and number == known[g % len(known)] and kind in PLANTED_KINDS:
        for case in PLANTED:
            yield case, bench.unlearned(g, own, kind.replace(" ", "_"), case)


def _row(verdict: Any) -> dict[str, Any]:
    (left,) = verdict.residuals
    drops = {c.name: c.passed for c in verdict.checks}
    return {
        "answer": verdict.answer, "released": verdict.passed, "rho": left.value, "low": left.low,
        "high": left.high, "detected": left.detected, "present": left.present, "power": left.power,
        "ta_kept": drops["ta_drop"], "ra_kept": drops["ra_drop"],
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often which answer, by case and kind of request."""
    keys = list(dict.fromkeys((row["kind"], row["case"]) for row in rows))
    return [
        _cell(kind, case, [r for r in rows if (r["kind"], r["case"]) == (kind, case)]) for kind, case in keys
    ]


def _cell(kind: str, case: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    rho = [r["rho"] for r in rows if r["rho"] is not None and r["detected"]]
    shares = {a.value: sum(r["answer"] == a for r in rows) / len(rows) for a in Answer}
    return {
        "kind": kind, "case": case, "files": len(rows), **{k: v for k, v in shares.items() if v},
        "released": sum(r["released"] for r in rows) / len(rows),
        "present": sum(r["present"] for r in rows) / len(rows),
        "detected": sum(r["detected"] for r in rows) / len(rows),
        "power": float(np.mean([r["power"] for r in rows])),
        "rho": float(np.median(rho)) if rho else None,
        "rho_quantiles": np.quantile(rho, QUANTILES).tolist() if rho else None,
    }  # fmt: skip


def described(bench: Bench) -> dict[str, Any]:
    """How well the networks know what they were trained on."""
    lab, found = bench.lab, []
    for g in range(len(lab.members)):
        logits = bench.network(g)[0]
        right, scores = logits.argmax(axis=1) == lab.labels, scaled_confidence(logits, lab.labels)
        inside = lab.members[g]
        found.append(
            (right[inside].mean(), right[lab.unseen].mean(), auc(scores[inside], scores[lab.unseen]).value)
        )
    names = ("member_accuracy", "unseen_accuracy", "population_auc")
    columns = dict(zip(names, np.array(found, dtype=np.float64).T, strict=True))
    spread = {name: [float(v.mean()), float(v.std(ddof=1))] for name, v in columns.items()}
    return {"networks": len(lab.members), "training_images": int(lab.members.sum(1).mean()), **spread}


def main() -> None:
    """Run one lab, or collect all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lab", nargs="?", choices=LABS)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    if options.lab:
        bench = Bench(LABS[options.lab](options.data), options.work / options.lab.replace(" ", "-"))
        document = {**described(bench), "cells": summary(list(judged(bench)))}
        (bench.folder / "result.json").write_text(json.dumps(document, indent=1))
    if options.collect:
        files = {name: options.work / name.replace(" ", "-") / "result.json" for name in LABS}
        found = {name: json.loads(f.read_text()) for name, f in files.items() if f.exists()}
        write("verdict", {"networks": NETWORKS, "references": Recipe().references.count}, found)


if __name__ == "__main__":
    main()
