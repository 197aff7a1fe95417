"""Networks with their exported files, made once for each row of the table."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.deploy import deploy
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.requantize import requantize
from tests.export.case import Case, export_small

BITS: dict[str, dict[str, Any]] = {
    "W8A8": {"weight_bits": 8, "activation_bits": 8},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "W2A4": {"weight_bits": 2, "activation_bits": 4},
    "W2AF": {"weight_bits": 2, "activation_bits": "float"},
}
ALWAYS = {("resnet18", "W4A4", "learned_step", 8)}
ROWS = [
    pytest.param(row, id="-".join(map(str, row)), marks=[] if row in ALWAYS else pytest.mark.slow)
    for row in (
        (architecture, bits, preset, edge)
        for architecture in ("resnet18", "mobilenet_v2")
        for bits in BITS
        for preset in PRESETS
        for edge in (8, "float")
    )
]


@pytest.fixture(scope="session")
def make_case(network: Callable[..., Classifier], toy: Callable[..., Samples]) -> Callable[..., Case]:
    """Make a case from the fields of a model recipe."""

    def make(**recipe: Any) -> Case:
        model, samples = network(**recipe), toy(64, seed=3)
        with torch.no_grad():
            model.get_parameter("head.weight").mul_(20)  # untrained logits differ too little to rank
            for _, layer in weight_layers(model):
                if layer.weight_quant.is_quant_enabled:
                    layer.weight.view(-1)[0] = -1e-9  # rounds to minus zero, which must not be told from zero
        requantize(model, samples, batch=32, seed=0, progress=Progress())
        deployed = deploy(model, 8)
        images, logits = samples.images().numpy(), predict(deployed, samples).numpy()
        files = export_small(model, images, 64)
        return Case(model, deployed, images, logits, {f.format: f for f in files})

    return make


@pytest.fixture(scope="session")
def one(make_case: Callable[..., Case]) -> Case:
    """ResNet18 W4A4, for what one network shows."""
    return make_case()


@pytest.fixture(scope="session", params=ROWS)
def case(request: pytest.FixtureRequest, one: Case, make_case: Callable[..., Case]) -> Case:
    """One row of the table."""
    architecture, bits, preset, edge = request.param
    recipe = ModelRecipe.model_validate(
        {"architecture": architecture, "quantizer": preset, "edge_bits": edge, "width": 0.125, **BITS[bits]}
    )
    return one if one.model.recipe == recipe else make_case(**recipe.model_dump())
