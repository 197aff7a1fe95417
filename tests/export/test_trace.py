"""The QONNX graph against the one that Brevitas' own exporter makes, and networks that it refuses."""

import copy
import io
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from qmu_edge.errors import ExportError
from qmu_edge.export.formats.qonnx import quantizers
from qmu_edge.export.gates import run_file, runnable
from qmu_edge.export.graph import initializers
from qmu_edge.export.trace import trace
from qmu_edge.models.layers import Classifier, Line
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


def brevitas_graph(model: nn.Module) -> onnx.ModelProto:
    """The graph of Brevitas' exporter, which follows the network operation by operation."""
    from brevitas.export import export_qonnx

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_qonnx(
            model, args=(torch.zeros(2, 1, 8, 8),), export_path=buffer, dynamo=True, optimize=True,
            verbose=False, opset_version=18, external_data=False, input_names=["image"],
            output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("N")},),
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


@pytest.mark.slow
def test_graph_is_the_one_of_brevitas_but_for_latent_weights(one: Case) -> None:
    ours, theirs = one.graph(), brevitas_graph(one.deployed)
    assert [n.op_type for n in ours.graph.node if n.op_type != "Quant"] == [
        n.op_type for n in theirs.graph.node if n.op_type != "Quant"
    ]
    described = [
        [(q.bits, q.signed, q.low, q.high, q.scale.tolist()) for q in quantizers(graph)]
        for graph in (ours, theirs)
    ]
    assert sorted(map(str, described[0])) == sorted(map(str, described[1]))
    for graph in (ours, theirs):
        assert np.array_equal(run_file(runnable(graph.SerializeToString()), one.images), one.logits)


def test_weights_enter_the_graph_as_codes_only(one: Case) -> None:
    graph = one.graph()
    stored = initializers(graph)
    weights = [q for q in quantizers(graph) if q.weight]
    assert len(weights) == 21
    for q in weights:
        codes = stored[q.weight] / q.scale
        assert np.array_equal(codes, np.rint(codes))
        assert q.low <= codes.min() <= codes.max() <= q.high


class Odd(nn.Module):
    """A layer that no format knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Do something."""
        return torch.sort(x).values


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.GroupNorm(1, 1), r"^normalize: a layer GroupNorm cannot be exported; allowed are AdaptiveAvg"),
        (nn.Conv2d(1, 1, 1), r"^normalize: a layer Conv2d cannot be exported"),
        (Odd(), r"^sort: the exporter has no .*sort"),
    ],
)
def test_unsupported_layer_is_named(one: Case, layer: nn.Module, message: str) -> None:
    odd: Any = copy.deepcopy(one.deployed)
    odd.normalize = layer
    with pytest.raises(ExportError, match=message):
        trace(odd, 8)


@pytest.mark.parametrize(
    "layers",
    [
        (Line(0.12345671, 2.0000001), Line(0.12345679, 2.0000004)),
        (nn.Hardtanh(-0.12345671, 0.5), nn.Hardtanh(-0.12345679, 0.50000012)),
        (nn.GELU("tanh"),),
        (nn.GELU(),),
    ],
)
def test_numbers_are_those_of_the_network(one: Case, layers: tuple[nn.Module, ...]) -> None:
    class Functions(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = [layer(x) for layer in self.get_submodule("of").children()]
            return torch.cat(made, 1).reshape(x.shape[0], -1)

    network = Functions(one.deployed.recipe, one.deployed.shape)
    network.of = nn.Sequential(*layers)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 8 - 4
    graph = trace(network.eval(), 8)
    written = {float(v) for v in initializers(graph).values() if v.size == 1}
    for number in (n for layer in layers for n in vars(layer).values() if isinstance(n, float)):
        assert float(np.float32(number)) in written
    graph.graph.output[0].type.tensor_type.ClearField("shape")
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": images.numpy()})
    np.testing.assert_allclose(found, network(images).numpy(), rtol=1e-5, atol=1e-6)


def test_data_dependent_control_flow_is_an_export_error(one: Case) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    odd: Any = copy.deepcopy(one.deployed)
    odd.normalize = Branches()
    with pytest.raises(ExportError, match="cannot be followed: "):
        trace(odd, 8)
