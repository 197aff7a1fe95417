"""What has no place in an exported file is refused, by name."""

from typing import Any

import brevitas.nn as qnn
import pytest
import torch
import torch.nn.functional as F
from brevitas.quant import (
    Int8ActPerTensorFloat,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerTensorFloat,
)
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.follow import follow
from qmu_edge.models.kinds import allowed, grids, quantizer_grids, require_known
from qmu_edge.models.layers import Classifier
from qmu_edge.models.standard import standard
from tests.models.test_follow import Of


class _Twice(nn.Module):
    """A linear layer that its batch-norm does not read alone."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.flat, self.layer, self.norm = nn.Flatten(), nn.Linear(256, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        """With and without the batch-norm."""
        x = self.layer(self.flat(x))
        out: Tensor = x + self.norm(x)
        return out


REFUSED: dict[str, tuple[Any, str]] = {
    "a layer": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)), r"0\.1: GroupNorm cannot be exported"),
    "another function": (Of(lambda x: torch.cumsum(x, 1)), "cumsum: cumsum cannot be exported"),
    "padding": (nn.Conv2d(4, 4, 3, 1, 1, padding_mode="reflect"), "pads with 'reflect'; allowed is 'zeros'"),
    "a pool": (nn.AdaptiveAvgPool2d(3), r"gives \(3, 3\) pixels; allowed are 1"),
    "half a window": (nn.AvgPool2d(3, 2, ceil_mode=True), "allowed are whole windows"),
    "a border": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "allowed are whole windows"),
    "between pixels": (nn.Upsample(scale_factor=2, mode="bilinear"), "of mode 'bilinear'; allowed is 'n"),
    "half pixels": (nn.Upsample(size=12), "allowed are whole numbers"),
    "images side by side": (Of(lambda x: x.permute(1, 0, 2, 3)), "it mixes them"),
    "one dimension": (nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 4, 1)), "Conv1d cannot be exported"),
    "rows before a layer": (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256)),
        r"0\.1: BatchNorm1d that does not follow a linear layer",
    ),
    "rows of a tensor": (
        nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(4)),
        "BatchNorm1d that does not follow a linear layer",
    ),
    "a layer read twice": (
        _Twice(),
        "BatchNorm1d that does not follow a linear layer",
    ),
    "an alpha": (Of(lambda x: torch.add(x, x, alpha=2)), "add cannot be exported"),
    "some images": (Of(lambda x: x[:1] + x), "getitem takes a part .* slices behind the first axis"),
    "as many as are tried": (Of(lambda x: x[:2]), "getitem takes a part"),
    "one image": (Of(lambda x: x[0]), "getitem takes a part"),
    "a new axis": (Of(lambda x: x[:, None]), "getitem takes a part"),
    "a list": (Of(lambda x: x[:, [0, 1]]), "getitem takes a part"),
    "several pieces": (Of(lambda x: x.chunk(4, 1)[1:][0]), "getitem takes several pieces"),
    "pieces of images": (Of(lambda x: x.split(1)[0]), "it mixes them"),
    "one piece of images": (Of(lambda x: x.split(5)[0]), "getitem cuts the images apart"),
    "pieces together": (Of(lambda x: torch.cat(x.chunk(2, 1), 1)), "joins pieces that are not named"),
    "a number of images": (Of(lambda x: x * x.shape[0]), "how many images there are"),
    "mixed images": (Of(lambda x: x.reshape(4, -1)), "gives .* for 2 images and .* for 3: it mixes them"),
    "half a size": (Of(lambda x: F.adaptive_avg_pool2d(x, x.shape[2] - 3)), r"gives \(5, 5\) pixels"),
    "a function with a grid": (qnn.QuantSigmoid(), "QuantSigmoid cannot be exported"),
    "a grid of what comes out, of one bit": (
        qnn.QuantConv2d(4, 4, 1, output_quant=Int8ActPerTensorFloat, output_bit_width=1),
        "QuantConv2d has a quantizer of its output that cannot be taken: 1 bits",
    ),
    "a zero point": (qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat), "by a zero point"),
    "a weight's zero point": (
        qnn.QuantConv2d(4, 4, 1, weight_quant=ShiftedUint8WeightPerTensorFloat), "by a zero point"
    ),
    "a power": (Of(lambda x: x ** torch.ones(8)), "cannot be exported"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_without_a_place_in_a_file_is_refused(name: str) -> None:
    network, message = REFUSED[name]
    image = torch.zeros(2, 4, 8, 8)
    calls = standard(nn.Sequential(network).eval(), image)
    with pytest.raises(ConfigError, match=message):
        require_known(calls, None, {})


def test_grids_go_through_what_only_moves_numbers(network: Any) -> None:
    model: Classifier = network()
    graph = follow(model)
    known = quantizer_grids(model)
    found = {node.name: grid for node, grid in grids(model, graph, known).items()}
    assert found["flatten"] == known["pooled"] and found["stem_0_0"] is None
    assert (known["pooled"].bits, known["pooled"].low, known["stem.1"].bits, known["stem.1"].low) == (
        8,
        -128,
        4,
        0,
    )


def test_the_message_names_what_is_allowed() -> None:
    assert {"Conv2d", "Linear", "Hardswish", "MaxPool2d"} <= set(allowed().split(", "))
