"""Ready networks of plain layers: shapes, stems, widths, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.build import PLAIN, factory_of
from qmu_edge.models.convnets import torchvision
from qmu_edge.models.layers import Layers, Shape
from qmu_edge.models.own import checked
from qmu_edge.recipe import ARCHITECTURES, ModelRecipe

PARAMETERS = {  # for 1,000 classes; the first three as torchvision and the authors' code have them
    "mobilenet_v3_small": 2_542_856, "efficientnet_lite0": 4_652_008, "squeezenet1_1": 1_235_496,
    "allcnn": 1_562_056, "small_vgg": 1_403_304,
}  # fmt: skip


def of(architecture: str, **fields: Any) -> Layers:
    return Layers(ModelRecipe.model_validate({"architecture": architecture, **fields}))


@pytest.mark.parametrize("stem", ["cifar", pytest.param("imagenet", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PARAMETERS)
def test_ready_networks_can_be_exported_and_have_the_size_of_their_papers(name: str, stem: str) -> None:
    layers, size = of(name, stem=stem), {"cifar": 32, "imagenet": 224}[stem]
    with torch.device("meta"):
        calls, given = checked(PLAIN[name], layers, Shape(channels=3, classes=1000, size=size))
    assert given == (1, 1000)
    assert sum(p.numel() for p in calls.network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_imagenet_stem_sees_fewer_pixels(name: str) -> None:
    def first(stem: str) -> nn.Conv2d:
        network = PLAIN[name](of(name, stem=stem, width=0.125), Shape(channels=1, classes=3))
        return next(m for m in network.modules() if isinstance(m, nn.Conv2d))

    assert first("cifar").stride == (1, 1) and first("imagenet").stride[0] >= 2
    assert first("cifar").in_channels == 1


def test_every_architecture_is_built_by_somebody() -> None:
    assert {*PARAMETERS, "vit"} == set(PLAIN) <= set(ARCHITECTURES)
    assert factory_of(ModelRecipe(architecture="torchvision:resnet50")) is torchvision
    assert factory_of(ModelRecipe()) is None


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("torchvision:no_such_net", {}, "torchvision has no network no_such_net; it has alexnet, "),
        ("torchvision:fcn_resnet50", {}, "torchvision has no network fcn_resnet50"),
        ("torchvision:mobilenet_v3_small", {"width": 0.5}, "model.width is 0.5; .* takes 1 alone"),
        ("torchvision:swin_t", {}, "swin_t"),
    ],
)
def test_what_torchvision_cannot_give_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        checked(torchvision, of(name, **fields), Shape(channels=3, classes=10, size=224))
