"""What methods say of their work, by which they are planned, against the images that a run counts."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from qmu_edge.models.layers import Classifier
from qmu_edge.runtime.throughput import counting
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.unlearn.registry import METHODS, apply, parameters
from tests.networks import TWO_BLOCKS
from tests.unlearn.test_methods import CLASSES_ONLY, LAST_BLOCKS, TABLE, TRAIN
from tests.unlearn.toys import split

# What does not grow with the sets is small, and what depends on the images (stopping early) does not come.
SMALL: dict[str, dict[str, Any]] = {
    "qmul": {"norm_batches": 1}, "natmu": {"hybrids": 2, "batch": 12},
    "bad_teacher": {"statistics_batches": 1},
    "held_out_match": {"views": 4}, "unsir": {"noise_images": 1, "noise_steps": 1, "copies": 1},
}  # fmt: skip
WRONG = ("pgu", "lotus", "neg_grad_plus", "munba", "oeu", "natmu", "unsir", "held_out_match")


def _sets(name: str, toy: Callable[..., Samples], forget: int) -> ForgetRetain:
    """Of 48 images as many as said are forgotten, or a class of three."""
    data = split(toy, 48, forget)
    if name not in CLASSES_ONLY:
        return data
    ours = data.retain.labels == 2
    kept, lost = (data.retain.take(torch.nonzero(which)[:, 0]) for which in (~ours, ours))
    return replace(data, forget=lost, retain=kept, classes=(2,))


@pytest.mark.parametrize("forget", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [name if name in WRONG else pytest.param(name, marks=pytest.mark.slow) for name in TABLE]
)
def test_work_is_what_a_run_counts(
    name: str, forget: int, network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    data = _sets(name, toy, forget)
    changes = {"batch": 4} if any(f.name == "batch" for f in fields(METHODS[name].params)) else {}
    given = TABLE[name] | changes | SMALL.get(name, {})
    params = parameters(name, given, TRAIN.model_copy(update={"batch": 4}))
    with counting(torch.device("cpu")) as counted:
        model = network() if name in LAST_BLOCKS else network(**TWO_BLOCKS)
        apply(name, model, data, params, torch.Generator().manual_seed(0))
    found = counted.spent(1)["epoch_equivalents"]
    said = METHODS[name].work(params).over(len(data.forget), len(data.retain))
    assert 0.8 * found <= said <= 1.25 * found, (said, found)
