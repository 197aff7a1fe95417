"""Transposed convolutions against those of torch, and branches that are left out as torchvision does."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from qmu_edge.errors import ConfigError
from qmu_edge.models.build import build
from qmu_edge.models.kinds import require_known
from qmu_edge.models.layers import Layers, Shape
from qmu_edge.models.names import matched
from qmu_edge.models.own import OwnNetwork, is_followed
from qmu_edge.models.standard import standard
from qmu_edge.recipe import ModelRecipe

IMAGES = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
SHAPE = Shape(channels=1, classes=3, size=8)
FORMS = [
    {"kernel_size": k, "stride": s, "padding": p, "output_padding": m, "groups": g, "dilation": d, "bias": b}
    for (k, s, p, m), g, d, b in product(
        [(4, 2, 1, 0), (2, 2, 0, 0), (3, 2, 1, 1), ((3, 2), (1, 2), (1, 0), 0), (3, 1, 1, 0)],
        (1, 2), (1, 2), (True, False),
    )
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_convolution_of_pixels_apart_is_the_transposed_one(form: dict[str, Any]) -> None:
    torch.manual_seed(0)
    given = nn.Sequential(nn.ConvTranspose2d(4, 6, **form)).eval()
    calls = standard(given, IMAGES)
    require_known(calls, None, {})
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in calls.network.modules() if m is not given[0])
    torch.testing.assert_close(calls.network(IMAGES), given(IMAGES))
    torch.testing.assert_close(calls.network(IMAGES[:1]), given(IMAGES[:1]))


@pytest.mark.parametrize(
    "form", [{"kernel_size": 1, "stride": 2}, {"kernel_size": 2, "padding": 2, "stride": 1}]
)
def test_one_that_cuts_pixels_off_is_refused(form: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ConvTranspose2d cannot be exported"):
        require_known(standard(nn.Sequential(nn.ConvTranspose2d(4, 4, **form)).eval(), IMAGES), None, {})


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_branches_are_left_out_as_torchvision_does(mode: str) -> None:
    def factory(layers: Any, shape: Any) -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), StochasticDepth(0.5, mode))

    assert is_followed(factory, Layers(ModelRecipe(architecture="file", path="mine.py")), SHAPE)


class Upsampling(nn.Module):
    """A classifier that has a transposed convolution."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.down, self.norm = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        x = self.up(torch.relu(self.norm(self.down(x)))).relu()
        return self.fc(x.mean((2, 3)))


def test_weights_that_were_trained_elsewhere_are_turned_around() -> None:
    torch.manual_seed(0)
    theirs, recipe = Upsampling().eval(), ModelRecipe(architecture="file", path="mine.py").unquantized()
    model = build(recipe, SHAPE, 1, lambda layers, shape: Upsampling())
    assert isinstance(model, OwnNetwork) and model.tail is not None
    found = matched(model, theirs.state_dict(), {"head": "fc"}, "w")
    model.load_state_dict(found, strict=False)
    for module in model.modules():
        proxy: Any = getattr(module, "weight_quant", None)
        if proxy is not None:
            proxy.disable_quant = True
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.eval()(images), theirs((images - 0.5) / 0.25))
    given = {**theirs.state_dict(), "up.weight": torch.zeros(4, 4, 4, 4)}
    with pytest.raises(ConfigError, match=r"up\.weight \(4, 4, 4, 4\) for body\.up\.weight \(4, 2, 4, 4\)"):
        matched(model, given, {"head": "fc"}, "w")
