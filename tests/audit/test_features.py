"""Features before the classifier: where the file is cut, and what probe and test find in planted features."""

from typing import Any

import numpy as np
import pytest

from qmu_edge.audit import features
from qmu_edge.audit.features import Seen, before_classifier, by_chance, centred, probed
from qmu_edge.audit.subject import Subject
from qmu_edge.verify.mia import auc


def test_the_file_is_cut_before_its_last_layer(real: Subject) -> None:
    """What the file answers is an affine function of what is found, and of nothing else."""
    images = np.random.default_rng(0).integers(0, 255, (150, 1, 8, 8), np.uint8)
    found = features.features(real.file.runner, images)
    logits = real.file.runner.logits(images).astype(np.float64)
    assert found.shape[1] < len(found) - 50
    design = np.concatenate([found, np.ones((len(found), 1))], axis=1).astype(np.float64)
    weights = np.linalg.lstsq(design, logits, rcond=None)[0]
    assert np.abs(design @ weights - logits).max() < 1e-4 < np.abs(logits).max()
    assert before_classifier(real.file.runner.file)[1] not in ("logits", "image")


def planted(knows: float, n: int = 300, seed: int = 0) -> Seen:
    """Features of trained images lie along one direction; those of forgotten ones by `knows` of it."""
    rng, there = np.random.default_rng(seed), np.zeros(12)
    there[3] = 1.5
    forgotten, unseen, retained = (rng.normal(0.0, 1.0, (n, 12)) + s * there for s in (knows, 0.0, 1.0))
    return Seen(forgotten, unseen, retained)


@pytest.mark.parametrize("knows", [0.0, 1.0])
def test_the_probe_finds_what_trained_images_have_in_common(knows: float) -> None:
    found = auc(*probed(planted(knows), np.arange(300), np.random.default_rng(0)))
    assert found.low > 0.7 if knows else found.low <= 0.5 <= found.high


def test_the_probe_is_not_told_by_how_a_person_looks() -> None:
    """Forgotten images that lie elsewhere, but not where trained ones do, are no knowledge."""
    seen = planted(0.0)
    seen.forgotten[:, 7] += 5.0
    found = auc(*probed(seen, np.arange(300), np.random.default_rng(0)))
    assert 0.4 < found.value < 0.6


def test_people_who_lie_apart_are_told_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(40), rng.integers(1, 9, 40))
    own = rng.normal(0.0, 1.0, (40, 6))[people] + rng.normal(0.0, 1.0, (len(people), 6))
    chances = [by_chance(own, people, np.array([p]), np.random.default_rng(p), 99) for p in range(40)]
    assert sum(chance <= 0.05 for chance in chances) <= 6  # of 40, each 5 % by chance
    own[people == 4] += 6.0
    assert by_chance(own, people, np.array([4]), np.random.default_rng(0), 99) <= 0.05


def test_features_are_centred_by_class() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert centred(x, np.array([1, 1]), np.array([[9.0, 9.0], [1.0, 2.0]]))[0, :2].tolist() == [0.0, 0.0]


def test_all_of_it_on_real_files(real: Subject) -> None:
    rows = features.run(real)
    assert tuple(row.quantity for row in rows) == features.ATTACK.quantities
    chance: Any = rows[-1].file
    assert 0.0 < chance.value <= 1.0 and rows == features.run(real)
