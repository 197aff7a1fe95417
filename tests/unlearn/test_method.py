"""What methods refuse before any work."""

from collections.abc import Callable

import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import ForgetRetain, Samples
from qmu_edge.unlearn.method import Check, classes_only, samples_only, serves_all, validation_for_samples

# What is said of whole classes, of samples, and of samples without validation images; "" is served.
TABLE: dict[str, tuple[Check, str, str, str]] = {
    "samples_only": (samples_only("m"), "forgotten whole", "", "validation"),
    "validation_for_samples": (validation_for_samples, "", "", "validation"),
    "classes_only": (classes_only("m"), "", "this request names samples", "this request names samples"),
    "serves_all": (serves_all, "", "", ""),
}  # fmt: skip


def outcome(check: Check, model: Classifier, data: ForgetRetain) -> str:
    try:
        check(model, data, None)
    except UnlearnError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", TABLE)
def test_a_check_refuses_what_its_method_cannot_serve(
    name: str, network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    check, *expected = TABLE[name]
    none = toy(3).take(torch.arange(0))
    cases = [((1,), none), ((), toy(3)), ((), none)]
    for said, (classes, validation) in zip(expected, cases, strict=True):
        data = ForgetRetain(forget=toy(3), retain=toy(3), validation=validation, classes=classes)
        found = outcome(check, network(), data)
        assert said in found and bool(said) == bool(found), (classes, found)
