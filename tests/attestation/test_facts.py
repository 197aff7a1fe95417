"""Facts that travel: what a receipt says, without figures on few images."""

from typing import Any, cast

import pytest

from qmu_edge.attestation.facts import FEW, erasure_of, in_steps, rounded
from qmu_edge.io.digest import Sha256
from qmu_edge.receipt.receipt import loads
from tests.attestation.examples import measured
from tests.receipt.test_receipt import RESIDUAL, made, made_old, sha

DIGEST = Sha256("d1" * 32)


def wilson(k: int, n: int) -> tuple[float, float, float]:
    """A share and its 95 % interval."""
    z, p = 1.959964, k / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@pytest.mark.parametrize(("n", "told"), [(FEW - 1, set()), (FEW, {"retained", "test"})])
def test_accuracies_on_few_images_are_left_out(n: int, told: set[str]) -> None:
    assert set(erasure_of(loads(measured(n), "receipt"), DIGEST).accuracy) == told


def test_what_is_told_of_a_share_leaves_open_of_how_many_images_it_is() -> None:
    """36 of 49, and the ends of its Wilson interval: with four digits of each there was one solution."""
    told = rounded(*wilson(36, 49))
    same = {n for n in range(FEW, 200) for k in range(n + 1) if rounded(*wilson(k, n)) == told}
    assert 49 in same and len(same) > 5


def test_what_is_left_comes_with_its_interval_and_without_counts() -> None:
    found = erasure_of(loads(made(), "receipt"), DIGEST)
    left: dict[str, Any] = dict(rounded(*(cast(float, RESIDUAL[name]) for name in ("value", "low", "high"))))
    assert found.residuals == [{"scope": RESIDUAL["scope"], **left}]
    assert (found.answer, found.outcome, found.method) == ("forgotten", "unlearned", "ssd")
    assert found.forgotten == "20-to-99" and found.receipt == DIGEST


def test_a_receipt_of_version_1_has_no_answer() -> None:
    found = erasure_of(loads(made_old(), "receipt"), DIGEST)
    assert (found.answer, list(found.residuals)) == ("", []) and found.measured == sha(b"the exported model")


def test_steps_hold_every_number_once() -> None:
    """A number lies between the ends of its step, and a larger one never in a lower step."""
    ends = []
    for n in (*range(20, 1200, 7), 99, 100, 999, 1000, 123_456):
        low, high = map(int, in_steps(n).split("-to-"))
        assert low <= n <= high
        ends.append((n, low))
    ordered = [low for _, low in sorted(ends)]
    assert ordered == sorted(ordered) and {in_steps(n) for n in range(20)} == {"below-20"}
