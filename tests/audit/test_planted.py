"""Planted leaks: real files of which it is known who has seen what, and what each attack says of them.

The images are noise with labels of chance, so that nobody recognises one that was not learned by heart. The
original was trained on forgotten and retained images. One file is of another network that was trained on both
(a leak), one of a network that never saw the forgotten. Every attack finds the first, and not the second.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qmu_edge.audit import bits, features, relearn, relearn_retain, weights
from qmu_edge.audit.pair import NAMES as PAIR
from qmu_edge.audit.rates import AREA
from qmu_edge.audit.registry import ATTACKS
from qmu_edge.audit.subject import Attacked, Known, Means, Subject
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.project.audits import Estimate, Finding
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, Samples, on_device
from qmu_edge.train.fit import fit, predict
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.mia import mean_score
from qmu_edge.verify.residual import Values
from tests.networks import two_blocks

pytestmark = pytest.mark.slow

RECIPE = ModelRecipe(width=0.5)
TRAIN = TrainRecipe(epochs=40, batch=32, lr=0.1, weight_decay=0.0)
FORGOTTEN, UNSEEN, RETAINED, REFERENCES = 80, 160, 240, 3


def noise(n: int, seed: int) -> Known:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 1, 8, 8), np.uint8)
    return Known(images=images, labels=rng.integers(0, 3, n), people=np.arange(n))


def samples(known: Known) -> Samples:
    return on_device(known.images, known.labels, torch.device("cpu"), limit_bytes=1 << 30)


def both(one: Known, other: Known) -> Known:
    images = np.concatenate([one.images, other.images])
    labels = np.concatenate([one.labels, other.labels])
    return Known(images=images, labels=labels, people=np.arange(len(labels)))


def trained(known: Known, seed: int, recipe: ModelRecipe = RECIPE) -> Classifier:
    """A network that knows these images by heart, and no other."""
    model = build(recipe, Shape(channels=1, classes=3), seed, two_blocks)
    fit(model, samples(known), TRAIN.model_copy(update={"seed": seed}), Augment(), progress=Progress())
    requantize(model, samples(known), batch=32, seed=seed, progress=Progress())
    return model.eval()


def answers(model: Classifier, known: Known) -> NDArray[np.float32]:
    return predict(model, samples(known)).numpy()


@dataclass
class Trained(Means):
    """What attacks may ask for, of the retained images of this test; everything is trained.

    Attributes:
        sets: Forgotten, unseen and retained images.
        widths: Networks that stand for the file's at other bit widths.
    """

    sets: Sequence[Known]
    widths: Mapping[int, Classifier]

    def samples(self, known: Known) -> Samples:
        """See `Means`."""
        return samples(known)

    @cached_property
    def networks(self) -> list[Classifier]:
        """Networks on parts of the retained images."""
        parts = np.array_split(np.arange(RETAINED), REFERENCES)
        return [trained(self.sets[2].take(part), 20 + i) for i, part in enumerate(parts)]

    def references(self) -> Mapping[Known, Values]:
        """See `Means`."""
        return {
            known: np.stack([mean_score([answers(m, known)], known.labels) for m in self.networks])
            for known in self.sets
        }

    def shadow(self, training: Known, asked: Sequence[Known], number: int) -> list[NDArray[np.float32]]:
        """See `Means`."""
        model = trained(training, 30 + number)
        return [answers(model, known) for known in asked]

    def requantized(self, bits: int, asked: Sequence[Known]) -> list[Values]:
        """See `Means`."""
        return [mean_score([answers(self.widths[bits], known)], known.labels) for known in asked]


@dataclass
class Planted:
    """One subject for each file: of the original's kind, a leak, and one that never saw the forgotten."""

    leak: Subject
    clean: Subject
    forgotten_alone: Attacked


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("planted")
    sets = tuple(noise(n, seed) for n, seed in ((FORGOTTEN, 1), (UNSEEN, 2), (RETAINED, 3)))
    everything = both(sets[0], sets[2])
    networks = {
        "original": trained(everything, 10), "leak": trained(everything, 11),
        "clean": trained(sets[2], 12), "forgotten alone": trained(sets[0], 13),
    }  # fmt: skip
    files = {name: exported(model, folder / f"{name}.onnx") for name, model in networks.items()}
    leaks, cleans = networks["leak"], networks["clean"]
    means = Trained(sets, {8: leaks, 4: cleans, 2: cleans})
    found = means.references()
    known = [replace(of, expected=found[of].mean(axis=0)) for of in sets]
    means.sets = known

    def subject(file: Attacked) -> Subject:
        return Subject(
            forgotten=known[0], unseen=known[1], retained=known[2], original=files["original"], file=file,
            intraclass=0.0, means=means,
        )  # fmt: skip

    return Planted(subject(files["leak"]), subject(files["clean"]), files["forgotten alone"])


def exported(model: Classifier, path: Path) -> Attacked:
    plan = ExportPlan(formats=(Format.INTEGER,), class_names=("a", "b", "c"))
    images = np.random.default_rng(9).integers(0, 256, (32, 1, 8, 8), np.uint8)
    (made,) = export(model, plan, images=images, min_agreement=0.9, min_inputs=1)
    path.write_bytes(made.data)
    return Attacked(path, lambda: copy.deepcopy(model), flip=False)


Rows = dict[str, Finding]


def of(rows: Rows, quantity: str) -> Estimate:
    found = rows[quantity].file
    assert found is not None
    return found


def above_chance(quantity: str) -> Callable[[Rows], bool]:
    """Whether an area's interval lies above one half."""
    return lambda rows: (of(rows, quantity).low or 0.0) > 0.5


def above_unseen(quantity: str) -> Callable[[Rows], bool]:
    """Whether a share's interval lies above that of unseen images."""

    def found(rows: Rows) -> bool:
        beside = rows[quantity].unknowing
        assert beside is not None
        return (of(rows, quantity).low or 0.0) > (beside.high or 0.0)

    return found


def sooner(rows: Rows) -> bool:
    beside = rows[relearn.EPOCHS].unknowing
    assert beside is not None
    return of(rows, relearn.EPOCHS).value < beside.value - 1


# When each attack has found that a file has seen what it should not know.
FOUND: dict[str, Callable[[Rows], bool]] = {
    **{name: above_chance(AREA) for name in ("rmia", "lira", "bavaria", "shadow")},
    "features": above_chance(features.PROBED[0]),
    "relearn": sooner,
    "relearn-retain": above_unseen(relearn_retain.AFTER),
}


def run(name: str, subject: Subject) -> Rows:
    return {row.quantity: row for row in ATTACKS[name].run(subject) if not row.part}


@pytest.mark.parametrize("name", FOUND)
def test_a_leak_is_found_and_a_file_that_never_saw_the_images_is_not(name: str, planted: Planted) -> None:
    assert FOUND[name](run(name, planted.leak))
    assert not FOUND[name](run(name, planted.clean))


def test_what_a_width_brings_back_is_found_at_that_width(planted: Planted) -> None:
    rows = run("bits", planted.clean)
    assert [above_chance(bits.NAMES[width][0])(rows) for width in (8, 4, 2)] == [True, False, False]


def test_the_pair_tells_that_something_was_deleted_and_nothing_where_it_was_not(planted: Planted) -> None:
    """Beside those who stay: from unseen ones, the original alone tells the forgotten."""
    fell = above_chance(PAIR["retained"][0])
    assert fell(run("pair", planted.clean)) and not fell(run("pair", planted.leak))


def test_those_who_stay_are_found_in_the_file_that_was_trained_on_them(planted: Planted) -> None:
    found = above_chance(AREA)
    assert found(run("retain", planted.clean))
    assert not found(run("retain", replace(planted.clean, file=planted.forgotten_alone)))


def test_a_file_in_which_little_changed_lies_near_the_original(planted: Planted) -> None:
    same = replace(planted.clean, file=planted.clean.original)
    near, far = (of(run("weights", there), weights.CHANGED).value for there in (same, planted.clean))
    assert near == 0.0 and far > 0.1


def test_every_attack_has_a_planted_leak() -> None:
    no_leak = {"grad-cam"}  # it shows where a network looks, and not what it knows
    assert {*FOUND, "bits", "pair", "retain", "weights"} == {*ATTACKS} - no_leak
