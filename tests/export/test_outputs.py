"""Outputs that are taken out: the row is in no format, and the others are the same to the bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from qmu_edge.export.exporter import Exported
from qmu_edge.export.gates import run_file, runnable
from qmu_edge.export.targets import Format
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Samples
from tests.export.case import Case, export_small
from tests.export.test_architectures import NAMES as NETWORKS
from tests.export.test_architectures import larger, made, trained

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves
KEPT, NAMES, ONE = (0, 2), ("cat", "owl"), (Format.INTEGER,)
Toy = Callable[..., Samples]


def exported(model: Classifier, images: np.ndarray, **plan: Any) -> dict[Format, Exported]:
    return {f.format: f for f in export_small(model, images, 64, **plan)}


def rows(file: Exported) -> set[int]:
    """First sizes of the tensors that a file stores."""
    return {t.dims[0] for t in onnx.load_from_string(file.data).graph.initializer if t.dims}


def same(
    whole: dict[Format, Exported], cut: dict[Format, Exported], images: np.ndarray, off: float = 0
) -> None:
    """Compare all formats; where float layers sum, `off` of the largest logit is allowed."""
    for form, file in cut.items():
        expected = run_file(runnable(whole[form].data), images)[:, list(KEPT)]
        found = run_file(runnable(file.data), images)
        assert found.shape == (len(images), 2)
        assert np.abs(found - expected).max() <= off * np.abs(expected).max(), form


def test_other_outputs_are_the_same_to_the_bit_in_every_format(case: Case) -> None:
    cut = {f.format: f for f in case.export(outputs=KEPT, class_names=NAMES)}
    edge_float = case.model.recipe.edge_bits == "float"
    same(case.files, cut, case.images, 1e-6 if edge_float else 0.0)
    for form, file in cut.items():
        assert 3 not in rows(file), f"{form} holds a row of the class that was taken out"


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_lose_an_output(name: str, toy: Toy) -> None:
    model, images = trained(made(name, "W4A4"), larger(toy(32))), larger(toy(64, seed=2)).images().numpy()
    whole, plan = exported(model, images, formats=ONE), {"outputs": KEPT, "class_names": NAMES}
    same(whole, exported(model, images, formats=ONE, **plan), images)
