"""The integer format: the codes of each layer, and integer kernels under onnxruntime."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from qmu_edge.errors import ExportError
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.formats.qonnx import quantizers
from qmu_edge.export.graph import initializers, set_initializer
from qmu_edge.export.targets import Format
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.resnet import BasicBlock
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


def test_stored_weights_are_exactly_the_codes_of_each_layer(case: Case) -> None:
    stored = {
        form: initializers(onnx.load_from_string(case.files[form].data))
        for form in (Format.INTEGER, Format.PACKED)
    }
    integer = [(n, m) for n, m in weight_layers(case.deployed) if m.weight_quant.is_quant_enabled]
    assert len(integer) >= 19
    for name, layer in integer:
        codes = layer.quant_weight().int().numpy()
        for form in (Format.INTEGER, Format.PACKED):
            assert np.array_equal(stored[form][f"{name}.weight"].astype(np.int8), codes), (form, name)
        assert stored[Format.INTEGER][f"{name}.weight"].dtype == np.int8


def test_integer_layers_become_integer_kernels(case: Case, tmp_path: Path) -> None:
    recipe = case.model.recipe
    for form in (Format.INTEGER, Format.PACKED):
        ran = _optimized(case.files[form].data, tmp_path / "optimized.onnx")
        layers = sum(isinstance(m, torch.nn.Conv2d) for m in case.model.modules())
        if recipe.activation_bits == "float":
            assert ran["DequantizeLinear"] == 0  # weights were widened at load, not at every run
        else:
            floats = 0 if recipe.edge_bits == 8 else 1
            assert ran["QLinearConv"] == layers - floats
            added = [m for m in case.model.modules() if getattr(m, "adds", isinstance(m, BasicBlock))]
            assert ran["QLinearAdd"] == len(added) >= 8
            assert ran["QGemm"] == 1 - floats


def _optimized(data: bytes, path: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_unsigned_activations_of_8_bits_do_not_fit_int8(one: Case) -> None:
    graph = one.graph()
    (eight,) = [q.node for q in quantizers(graph) if q.node.output[0] == "stem.1.quant"]
    for node in graph.graph.node:  # four unsigned bits become eight
        if (
            node.op_type == "Quant"
            and node.input[3] == eight.input[3]
            and not node.input[0].endswith("weight")
        ):
            node.input[3] = "eight"
    set_initializer(graph, "eight", np.array(8, np.float32))
    with pytest.raises(ExportError, match="unsigned activations of 8 bits"):
        to_integer(graph, zero_points=False)


def test_a_bias_beyond_int32_is_refused(one: Case) -> None:
    graph = one.graph()
    bias = initializers(graph)["head.1.bias"].copy()
    bias.reshape(-1)[0] = 1e12
    set_initializer(graph, "head.1.bias", bias)
    with pytest.raises(ExportError, match=r"head\.0\.bias: a bias of .* steps does not fit int32"):
        to_integer(graph)


def test_a_graph_that_is_no_deploy_form_is_refused(one: Case) -> None:
    graph = one.graph()
    for node in graph.graph.node:
        if node.op_type == "Mul" and node.input[1] == "head.1.gain":
            node.op_type = "Div"
    with pytest.raises(ExportError, match="not followed by a constant Mul; is this the deploy form"):
        to_integer(graph)
