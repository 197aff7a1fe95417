"""The evaluation of a file: figures by set, and the same again after JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.plain import from_json, to_json
from qmu_edge.verify.evaluation import Evaluation, Labelled, SetName, evaluate, measure
from qmu_edge.verify.mia import mia_auc
from qmu_edge.verify.session import OrtRunner

Sets = dict[SetName, Labelled]


def read_back(found: Evaluation) -> Evaluation:
    return from_json(Evaluation, json.loads(json.dumps(to_json(found))), "evaluation")


def test_every_set_has_its_figure(model_and_sets: tuple[Path, Sets]) -> None:
    path, sets = model_and_sets
    found, logits = evaluate(OrtRunner(path), sets)
    for accuracy in (found.fa, found.ra, found.ta, found.va):
        assert accuracy and (accuracy.value, accuracy.n) == (0.75, 40)
        assert accuracy.low < 0.75 < accuracy.high
    assert found.bytes == path.stat().st_size
    assert sum(found.forget_predictions or ()) == 40
    assert set(logits) == set(found.mean_confidence) == set(sets)
    assert all(found.shape == (40, 5) and found.dtype == np.float32 for found in logits.values())


def test_membership_is_measured_against_test_samples_first(model_and_sets: tuple[Path, Sets]) -> None:
    path, sets = model_and_sets
    found, logits = evaluate(OrtRunner(path), sets)

    def against(name: SetName) -> float:
        forget = SetName.FORGET
        return mia_auc(logits[forget], sets[forget].labels, logits[name], sets[name].labels).value

    assert found.mia_auc and found.mia_auc.value == against(SetName.TEST) != against(SetName.VALIDATION)
    without, _ = evaluate(OrtRunner(path), {n: s for n, s in sets.items() if n is not SetName.TEST})
    assert without.mia_auc and without.mia_auc.value == against(SetName.VALIDATION)


def test_sets_that_are_missing_are_none(model_and_sets: tuple[Path, Sets]) -> None:
    path, sets = model_and_sets
    only, _ = evaluate(OrtRunner(path), {SetName.TEST: sets[SetName.TEST]})
    assert only.fa is None and only.mia_auc is None and only.forget_predictions is None
    assert read_back(only) == only


def test_an_evaluation_is_read_back_as_it_was_written(model_and_sets: tuple[Path, Sets]) -> None:
    path, sets = model_and_sets
    found, _ = evaluate(OrtRunner(path), sets)
    assert read_back(found) == found
    for broken in ({}, {"fa": 3}, to_json(found) | {"extra": 1}, to_json(found) | {"fa": {"value": "x"}}):
        with pytest.raises(IntegrityError, match=r"^evaluation: "):
            from_json(Evaluation, broken, "evaluation")


def test_labels_that_do_not_belong_to_the_images(model_and_sets: tuple[Path, Sets]) -> None:
    path, sets = model_and_sets
    images, labels = sets[SetName.TEST]
    with pytest.raises(ConfigError, match=r"labels int64 \(39,\)"):
        evaluate(OrtRunner(path), {SetName.TEST: Labelled(images, labels[1:])})


def test_an_accuracy_has_its_interval() -> None:
    found = measure(np.eye(4), np.array([0, 1, 2, 0]))
    assert (found.value, found.n) == (0.75, 4)
    assert 0 < found.low < 0.75 < found.high < 1
