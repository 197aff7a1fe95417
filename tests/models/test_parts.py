"""The part of a tensor that an index takes is the one that torch takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from qmu_edge.models.follow import follow, values
from qmu_edge.models.parts import part_of
from tests.models.test_follow import Of

IMAGE = torch.arange(2 * 6 * 4 * 5).reshape(2, 6, 4, 5)
TAKEN: dict[str, Callable[[Any], Any]] = {
    "a slice": lambda x: x[:, 1:4],
    "with steps": lambda x: x[:, ::2, 1:-1],
    "from the end": lambda x: x[:, -2:],
    "dots": lambda x: x[..., 1:3],
    "all": lambda x: x[:, :, :],
    "half": lambda x: x[:, : x.shape[1] // 2],
    "a worked out step": lambda x: x[:, :: x.size(2) - 2, ..., x.shape[3] - 2 :],
    "a piece": lambda x: x.chunk(2, dim=1)[1],
    "the last piece": lambda x: x.split([1, 2, 3], 1)[-1],
    "pieces of rows": lambda x: x.split(split_size=3, dim=-2)[1],
    "a worked out number of pieces": lambda x: x.chunk(x.shape[1], 1)[2],
    "the only piece": lambda x: torch.chunk(x, 1, dim=3)[0],
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_part_is_the_one_that_torch_takes(name: str) -> None:
    network = Of(TAKEN[name])
    graph = follow(network)
    found = values(network, graph, IMAGE)
    call: Any = graph.output_node().args[0]
    axes = part_of(call, found)
    taken = tuple(slice(*axes[axis]) if axis in axes else slice(None) for axis in range(4))
    assert torch.equal(IMAGE[taken], TAKEN[name](IMAGE))
    assert (not axes) == (name in ("all", "the only piece"))
