"""Calls that are written in one way, whatever way the network has them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmu_edge.models.follow import ADD, JOIN, MULTIPLY, follow, module_of, values
from qmu_edge.models.layers import Line
from qmu_edge.models.standard import standard
from tests.models.test_follow import IMAGE, Of
from tests.networks import Repeated


class Pools(nn.Module):
    """Pooling to a given size, called for images of two sizes."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Windows of 4 pixels, and of 2."""
        out: Tensor = self.pool(x) + self.pool(F.max_pool2d(x, 2))
        return out


SAME: dict[str, tuple[Any, list[Any]]] = {
    "relu": (lambda x: F.relu(x), [nn.ReLU]),
    "relu_": (lambda x: x.clone().relu_() if False else torch.relu(x), [nn.ReLU]),
    "a method": (lambda x: x.sigmoid(), [nn.Sigmoid]),
    "relu6": (lambda x: F.relu6(x, inplace=False), [nn.ReLU6]),
    "leaky": (lambda x: F.leaky_relu(x, 0.2), [nn.LeakyReLU]),
    "mean": (lambda x: x.mean((2, 3)), [nn.AdaptiveAvgPool2d, nn.Flatten]),
    "mean kept": (lambda x: torch.mean(x, dim=[-1, -2], keepdim=True), [nn.AdaptiveAvgPool2d]),
    "pool": (lambda x: F.max_pool2d(x, 2), [nn.MaxPool2d]),
    "average": (lambda x: F.avg_pool2d(x, 3, stride=2, padding=1), [nn.AvgPool2d]),
    "average to a size": (lambda x: F.adaptive_avg_pool2d(x, 4), [nn.AvgPool2d]),
    "to a size worked out": (lambda x: F.adaptive_avg_pool2d(x, (x.shape[2] // 2, 4)), [nn.AvgPool2d]),
    "all there is": (lambda x: F.avg_pool2d(x, x.size()[2:]), [nn.AvgPool2d]),
    "size of another": (lambda x: F.interpolate(F.relu(x), x.shape[2:]), [nn.ReLU, nn.Upsample]),
    "number worked out": (lambda x: x.shape[1] * x, [Line]),
    "one pool at two sizes": (Pools(), [nn.AvgPool2d, nn.MaxPool2d, nn.AvgPool2d, ADD]),
    "flatten": (lambda x: torch.flatten(x, 1), [nn.Flatten]),
    "dropout": (lambda x: F.dropout(x, 0.3, training=False), [nn.Dropout]),
    "of channels": (lambda x: F.dropout2d(x, 0.3, training=False), [nn.Dropout2d]),
    "pad": (lambda x: F.pad(x, (1, 0, 2, 0)), [nn.ZeroPad2d]),
    "larger": (lambda x: F.interpolate(x, scale_factor=2), [nn.Upsample]),
    "numbers": (lambda x: (3 - x * 2) / 6, [Line, Line, Line]),
    "minus": (lambda x: -x - 1, [Line, Line]),
    "sums": (lambda x: torch.add(x, x.mul(x)), [MULTIPLY, ADD]),
    "joined": (lambda x: torch.concat([x, x], dim=1), [JOIN]),
    "view": (lambda x: x.view(x.size(0), 2, x.shape[1] // 2, 64), ["reshape"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_functions_and_methods_become_the_same_few_calls(name: str) -> None:
    function, kinds = SAME[name]
    network = standard(Of(function).eval(), IMAGE).network
    torch.testing.assert_close(network(IMAGE), function(IMAGE))
    graph = follow(network)
    found = values(network, graph, IMAGE)
    made = [n for n in graph.nodes if n.op.startswith("call") and isinstance(found[n], Tensor)]
    assert [type(module_of(network, n)) if n.op == "call_module" else n.target for n in made] == kinds


def test_a_network_in_that_form_stays_the_object_that_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    assert standard(network, IMAGE).network is network


def test_what_is_called_twice_becomes_two_that_share_a_weight() -> None:
    given = Repeated(4, 3).eval()
    network: Any = standard(given, IMAGE).network
    names = [str(node.target) for node in network.graph.nodes if node.op == "call_module"]
    assert len(set(names)) == len(names) and {"conv", "conv_2", "bn_2", "relu_2"} <= set(names)
    assert network.conv_2.weight is network.conv.weight
    assert network.bn_2.weight is not network.bn.weight
    torch.testing.assert_close(network(IMAGE), given(IMAGE))


def test_numbers_of_sizes_stay_numbers() -> None:
    network = standard(Of(lambda x: x.reshape(x.shape[0], x.shape[1] * 2, -1)), IMAGE).network
    assert not any(isinstance(m, Line) for m in network.modules())
