"""Calls of networks of tokens, against the networks themselves, and what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmu_edge.errors import ConfigError
from qmu_edge.models.follow import ADD, JOIN, MATMUL, follow, stored
from qmu_edge.models.kinds import require_known
from qmu_edge.models.standard import standard
from qmu_edge.models.tokens import Softmax
from tests.models.test_follow import Of

TOKENS = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0)) - 0.5


class With(nn.Module):
    """A network of parameters and a function of them."""

    def __init__(self, function: Any, **parts: Any) -> None:
        """Store it, and parameters or modules by name."""
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        for name, part in parts.items():
            made = (
                part()
                if isinstance(part, type) or (callable(part) and not isinstance(part, nn.Module))
                else part
            )
            setattr(self, name, nn.Parameter(torch.randn(part)) if isinstance(part, tuple) else made)

    def forward(self, x: Tensor) -> Tensor:
        """What it gives."""
        out: Tensor = self.function(self, x)
        return out


def stacked(x: Tensor, *, last: bool) -> Tensor:
    """Attention of four heads as it is often written."""
    n, t, d = x.shape
    x = torch.cat([x, x * 2, x + 1], 2)
    if last:
        q, k, v = x.reshape(n, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        all_of_them = x.reshape(n, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
        q, k, v = all_of_them[0], all_of_them[1], all_of_them[2]
    shares = ((q * 0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    return (shares @ v).transpose(1, 2).reshape(n, t, d)


SAME: dict[str, nn.Module] = {
    "stacked": Of(lambda x: stacked(x, last=False)),
    "taken apart": Of(lambda x: stacked(x, last=True)),
    "attention": Of(lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1)),
    "attention with a scale": Of(lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.3)),
    "softmax of a difference": Of(lambda x: torch.softmax((x - 1) / 3, 2)),
    "softmax of a negative": Of(lambda x: (-x).softmax(-1)),
    "matrices": Of(lambda x: torch.bmm(x, x.transpose(1, 2))),
    "several heads": With(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=lambda: nn.MultiheadAttention(8, 2, batch_first=True)),
    "linear": With(lambda m, x: m.b(F.gelu(m.a(x))), a=lambda: nn.Linear(8, 5), b=lambda: nn.Linear(5, 3, bias=False)),
    "linear of four": With(lambda m, x: m.a(x.reshape(2, 2, 3, 8)), a=lambda: nn.Linear(8, 5)) if False
    else With(lambda m, x: m.a(x.reshape(x.shape[0], 2, 3, 8)), a=lambda: nn.Linear(8, 5)),
    "linear of parameters": With(lambda m, x: F.linear(x, m.weight, m.bias), weight=(5, 8), bias=(5,)),
    "norm of parameters": With(lambda m, x: F.layer_norm(x, (8,), m.weight, m.bias, 1e-3), weight=(8,), bias=(8,)),
    "norm": With(lambda m, x: m.a(x), a=lambda: nn.LayerNorm(8)),
    "places": With(lambda m, x: x + m.places[:, 1:], places=(1, 7, 8)),
    "gains": With(lambda m, x: m.gain * x, gain=(8,)),
    "a first token": With(
        lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.places, token=(1, 1, 8), places=(1, 7, 8)
    ),
    "a last token": With(lambda m, x: torch.cat((x, m.token.repeat(x.size(0), 1, 1)), dim=1), token=(1, 2, 8)),
    "repeated places": With(lambda m, x: x + m.places.expand(x.shape[0], -1, -1), places=(1, 6, 8)),
    "the first one": Of(lambda x: x[:, 0]),
    "the last number": Of(lambda x: x[..., -1]),
    "mean": Of(lambda x: x.mean(1)),
    "mean kept": Of(lambda x: x.mean(dim=1, keepdim=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_calls_written_out_compute_the_same_and_can_be_exported(name: str) -> None:
    given = SAME[name].eval()
    calls = standard(given, TOKENS)
    torch.testing.assert_close(calls.network(TOKENS), given(TOKENS))
    more = torch.cat([TOKENS, TOKENS, TOKENS])  # of any number of images
    torch.testing.assert_close(calls.network(more), given(more))
    require_known(calls, None, {})
    again = standard(calls.network, TOKENS)
    assert again.network is calls.network, "it is written in one way"


def test_parameters_stay_the_ones_that_they_were() -> None:
    given: Any = SAME["several heads"]
    found = dict(standard(given, TOKENS).network.named_parameters())
    assert found["a.in_proj.weight"] is given.a.in_proj_weight
    assert found["a.out_proj.weight"] is given.a.out_proj.weight


def test_the_number_before_a_softmax_becomes_its_scale() -> None:
    network: Any = standard(SAME["softmax of a difference"], TOKENS).network
    (softmax,) = [m for m in network.modules() if isinstance(m, Softmax)]
    assert softmax.scale == pytest.approx(1 / 3)


def test_a_token_for_every_image_is_added_to_zeros() -> None:
    graph = standard(SAME["a first token"], TOKENS).graph
    targets = [node.target for node in graph.nodes]
    assert JOIN not in targets and targets.count(ADD) == 2 and MATMUL not in targets
    assert len(stored(graph)) == 3  # the token, zeros behind it, and the places


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Of(lambda x: x.softmax(1)), "along another axis than the last one"),
        (Of(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), "cannot be exported"),
        (With(lambda m, x: m.a(x), a=lambda: nn.LayerNorm((6, 8))), "of several axes"),
        (With(lambda m, x: m.a(x), a=lambda: nn.LayerNorm(8, elementwise_affine=False)), "without a weight"),
    ],
)
def test_what_no_file_can_have_is_refused(network: nn.Module, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        require_known(standard(network.eval(), TOKENS), None, {})


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda m, x: m.a(x, x + 1, x)[0], "of several tensors, or with a mask"),
        (lambda m, x: m.a(x, x, x, attn_mask=x[0])[0], "of several tensors, or with a mask"),
    ],
)
def test_attention_of_several_tensors_is_refused_with_its_line(call: Any, why: str) -> None:
    network = With(call, a=lambda: nn.MultiheadAttention(8, 2, batch_first=True))
    with pytest.raises(ConfigError, match=rf"test_tokens\.py, line \d+: .*{why}"):
        follow(network)
