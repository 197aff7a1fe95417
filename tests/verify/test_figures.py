"""What is drawn about a verdict: right numbers, and none about a single image."""

from dataclasses import replace

import numpy as np
import pytest

from qmu_edge.io.plain import from_json, to_json
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.figures import BARS, LEAST, MOST_CLASSES, RATES, Figures, figures_of, found_at
from qmu_edge.verify.mia import auc
from qmu_edge.verify.residual import Compared
from tests.verify.worlds import World, world


def sets(found: World) -> dict[SetName, Compared]:
    return {SetName.FORGET: found.forget, SetName.RETAIN: found.retain, SetName.TEST: found.unseen}


@pytest.fixture(scope="module")
def found() -> World:
    """100 forgotten images of which a tenth of the trace is left."""
    return world(np.random.default_rng(1), 100, 0.1)


def test_every_image_is_in_a_bar_and_counts_are_in_fives(found: World) -> None:
    drawn = figures_of(sets(found), people=3)
    assert drawn and drawn.original and drawn.file and drawn.people == 3
    assert (drawn.forgotten, drawn.unseen, len(drawn.edges)) == (100, 300, BARS + 1)
    for spread in (drawn.original, drawn.file):
        for counts, n in ((spread.forgotten, 100), (spread.unseen, 300)):
            assert len(counts) == BARS and abs(sum(counts) - n) <= 2 * BARS and not any(c % 5 for c in counts)
    assert from_json(Figures, to_json(drawn), "figures") == drawn


def test_the_curve_is_that_of_the_area(found: World) -> None:
    """The trapezoids of shares found over false alarms, at every rate that there is, are the area."""
    drawn = figures_of(sets(found))
    assert drawn and drawn.original and found.forget.score_before is not None
    assert found.unseen.score_before is not None
    forgotten, unseen = found.forget.score_before, found.unseen.score_before
    rates = np.arange(301) / 300
    shares = [found_at(forgotten, unseen, float(rate)) for rate in rates]
    assert np.trapezoid(shares, rates) == pytest.approx(auc(forgotten, unseen).value, abs=0.005)
    assert drawn.original.found == tuple(round(found_at(forgotten, unseen, r), 4) for r in RATES)
    assert list(drawn.original.found) == sorted(drawn.original.found) and drawn.original.found[-1] == 1.0


def test_an_unlearned_file_is_nearer_to_guessing_than_the_original(found: World) -> None:
    drawn = figures_of(sets(found))
    assert drawn and drawn.original and drawn.file
    assert sum(drawn.file.found) < sum(drawn.original.found)


def test_of_few_forgotten_images_nothing_is_drawn() -> None:
    few = figures_of(sets(world(np.random.default_rng(2), LEAST - 1, 0.1)))
    assert few and few.forgotten == LEAST - 1
    assert few.original is None and few.file is None and few.edges == ()
    assert few.few and few.classes == ()
    assert figures_of(sets(world(np.random.default_rng(2), LEAST, 0.1))).original is not None  # type: ignore[union-attr]


def test_classes_are_numbers_with_their_accuracies(found: World) -> None:
    drawn = figures_of(sets(found))
    assert drawn and [c.label for c in drawn.classes] == [0, 1, 2, 3, 4] and drawn.other_classes == 0
    assert found.unseen.right_before is not None
    for c in drawn.classes:
        own = found.unseen.labels == c.label
        assert c.before == round(float(found.unseen.right_before[own].mean()), 4)
        assert c.after == round(float(found.unseen.right[own].mean()), 4) and c.images % 5 == 0


def test_of_many_classes_those_are_told_that_changed_most() -> None:
    n = 10 * (MOST_CLASSES + 5)
    labels = np.arange(n) % (MOST_CLASSES + 5)
    before = np.ones(n, np.bool_)
    test = Compared(
        labels=labels, classes=MOST_CLASSES + 5, right=labels >= 7, score=np.zeros(n), right_before=before,
        score_before=np.zeros(n),
    )  # fmt: skip
    drawn = figures_of({SetName.FORGET: replace(test), SetName.TEST: test})
    assert drawn and len(drawn.classes) == MOST_CLASSES and drawn.other_classes == 5
    assert {*range(7)} <= {c.label for c in drawn.classes}


def test_a_class_with_few_test_images_has_no_accuracy(found: World) -> None:
    labels = np.where(np.arange(300) < 9, 4, np.arange(300) % 4)
    drawn = figures_of({**sets(found), SetName.TEST: replace(found.unseen, labels=labels)})
    assert drawn and [c.label for c in drawn.classes] == [0, 1, 2, 3] and drawn.other_classes == 1


def test_nothing_is_drawn_where_nothing_was_forgotten(found: World) -> None:
    assert figures_of({SetName.TEST: found.unseen}) is None
    alone = figures_of({SetName.FORGET: found.forget})
    assert alone and (alone.unseen, alone.original, alone.classes) == (0, None, ())
