"""The vision transformer: sizes, stems, what its calls become, and that it learns on codes."""

from typing import Any

import pytest
import torch
from torch import nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.build import build
from qmu_edge.models.follow import MATMUL, follow
from qmu_edge.models.layers import Layers, Shape
from qmu_edge.models.own import checked
from qmu_edge.models.tokens import Softmax
from qmu_edge.models.vit import BLOCKS, Body, vit
from qmu_edge.recipe import ModelRecipe


def of(**fields: Any) -> Layers:
    return Layers(ModelRecipe.model_validate({"architecture": "vit", **fields}))


@pytest.mark.parametrize(("stem", "size", "side"), [("cifar", 32, 8), ("imagenet", 224, 14)])
def test_patches_are_those_of_the_stem(stem: str, size: int, side: int) -> None:
    with torch.device("meta"):
        _, given = checked(vit, of(stem=stem), Shape(channels=3, classes=1000, size=size))
    assert given == (1, 192, side, side)


@pytest.mark.parametrize(
    ("width", "numbers", "heads"), [(1.0, 192, 3), (2.0, 384, 6), (0.125, 24, 1), (0.34, 64, 1)]
)
def test_width_changes_the_number_of_heads_and_then_their_size(
    width: float, numbers: int, heads: int
) -> None:
    made: Any = vit(of(width=width), Shape(channels=1, classes=3, size=8))
    assert isinstance(made, Body) and made.places.shape == (1, 4, numbers)
    assert made.blocks[0].attention.heads == heads


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"vit: images of 3 pixels, allowed are patches of 4 and more"):
        vit(of(), Shape(channels=1, classes=3, size=3))


def test_attention_becomes_products_and_linear_layers_see_rows() -> None:
    model = build(ModelRecipe(architecture="vit", width=0.125), Shape(channels=1, classes=3, size=8), 0)
    graph = follow(model)
    assert sum(node.target is MATMUL for node in graph.nodes) == 2 * BLOCKS
    kinds = [type(m) for m in model.modules()]
    assert kinds.count(Softmax) == BLOCKS and kinds.count(nn.LayerNorm) == 2 * BLOCKS + 1
    images = torch.rand(3, 1, 8, 8)
    assert model.eval()(images).shape == (3, 3)
