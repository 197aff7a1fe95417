"""Heat maps against gradients written out, and how alike they are."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qmu_edge.audit import grad_cam
from qmu_edge.audit.subject import Subject
from qmu_edge.errors import ConfigError
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ModelRecipe


class Plain(nn.Module):
    """Features with places, their mean, a classifier."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def floats() -> Classifier:
    """A network without quantizers."""
    recipe = ModelRecipe(architecture="file", path="mine.py").unquantized()
    model = build(recipe, Shape(channels=1, classes=3, size=8), 0, lambda layers, shape: Plain())
    for module in model.modules():
        proxy: Any = getattr(module, "weight_quant", None)
        if proxy is not None:
            proxy.disable_quant = True
    return model.eval()


def test_before_an_average_the_map_is_that_of_the_classifiers_weights() -> None:
    model, rng = floats(), torch.Generator().manual_seed(0)
    images, labels = torch.rand(5, 1, 8, 8, generator=rng), torch.tensor([0, 1, 2, 1, 0])
    found = grad_cam.heat_maps(model, images, labels)
    conv: Any = model.get_submodule("body.conv")
    head: Any = model.get_submodule("head")
    with torch.no_grad():
        features = torch.relu(conv((images - 0.5) / 0.25))
        wanted = torch.einsum("nk,nkij->nij", head.weight[labels], features) / 64
    torch.testing.assert_close(found, wanted)


def test_a_quantized_network_has_maps_and_is_not_changed(network: Callable[..., Classifier]) -> None:
    model = network().eval()
    found = grad_cam.heat_maps(model, torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    assert found.shape[0] == 3 and min(found.shape[1:]) >= grad_cam.LEAST_PLACES
    assert bool(found.isfinite().all()) and bool((found != 0).any())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_without_places_is_refused() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 8, stride=8), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.fc(torch.relu(self.conv(x)).flatten(1))

    recipe = ModelRecipe(architecture="file", path="mine.py").unquantized()
    model = build(recipe, Shape(channels=1, classes=3, size=8), 0, lambda layers, shape: Flat()).eval()
    with pytest.raises(ConfigError, match="no features of at least 4 x 4 places"):
        grad_cam.heat_maps(model, torch.rand(1, 1, 8, 8), torch.tensor([0]))


def test_the_same_network_looks_at_the_same_places(real: Subject) -> None:
    of = {row.quantity: row for row in grad_cam.run(replace(real, file=real.original))}
    assert [of[name].file.value for name in grad_cam.ATTACK.quantities] == [1.0, 1.0]  # type: ignore[union-attr]
    other = grad_cam.run(real)[0]
    assert other.file is not None and other.unknowing is not None and other.original is None
    assert -1.0 < other.file.value < 1.0
    assert other == grad_cam.run(real)[0]


def test_nothing_is_said_of_no_images(real: Subject) -> None:
    none = replace(real, forgotten=real.forgotten.take(np.arange(0)))
    assert grad_cam.run(none)[0].file is None
