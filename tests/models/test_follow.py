"""The calls that a network makes."""

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.follow import follow, line_of, values

IMAGE = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Of(nn.Module):
    """A network of one function."""

    def __init__(self, function: Any) -> None:
        """Store it."""
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """What it gives."""
        out: Tensor = self.function(x)
        return out


def test_what_depends_on_values_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"test_follow\.py, line \d+: .*cannot be followed"):
        follow(Of(lambda x: x if x.sum() > 0 else -x))


def test_a_call_that_fails_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(5, 4, 1))
    with pytest.raises(ConfigError, match=r"^1: RuntimeError: "):
        values(network, follow(network), IMAGE)


def test_lines_are_those_of_the_given_file() -> None:
    graph = follow(Of(lambda x: operator.add(x, x)), lines=True)
    (node,) = [n for n in graph.nodes if n.op == "call_function"]
    assert isinstance(node, fx.Node)
    assert line_of(node, __file__).startswith(f"{__file__}, line ")
    assert line_of(node, "other.py") == "" == line_of(node, None)
