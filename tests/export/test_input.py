"""What a file takes: element type, order of axes, batch."""

import numpy as np
import onnx
import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.export.graph import INPUT, OUTPUT
from qmu_edge.export.input import InputSpec, apply_input, fix_batch
from qmu_edge.verify.metadata import Dtype, Layout
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        ("uint8", "NHWC"),
        pytest.param("uint8", "NCHW", marks=pytest.mark.slow),
        pytest.param("float32", "NHWC", marks=pytest.mark.slow),
    ],
)
def test_any_input_gives_the_same_logits(one: Case, dtype: str, layout: str) -> None:
    for file in one.export(input=InputSpec.parse(dtype, layout), batch=3):
        graph = onnx.load_from_string(file.data).graph
        dims = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
        assert dims == ([3, 1, 8, 8] if layout == "NCHW" else [3, 8, 8, 1])
        assert file.parity.max_abs_difference == 0.0


@pytest.mark.parametrize(("dtype", "layout"), [("int8", "NCHW"), ("float32", "HWC"), ("", "")])
def test_another_input_is_refused(dtype: str, layout: str) -> None:
    with pytest.raises(ConfigError, match="allowed float32 or uint8, NCHW or NHWC"):
        InputSpec.parse(dtype, layout)


def identity() -> onnx.ModelProto:
    """A graph that gives its image back."""
    image, logits = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("N", 3, 4, 5))
        for name in (INPUT, OUTPUT)
    )
    node = onnx.helper.make_node("Identity", [INPUT], [OUTPUT])
    graph = onnx.helper.make_graph([node], "identity", [image], [logits])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("layout", Layout)
def test_the_network_sees_floats_from_0_to_1_and_channels_first(dtype: Dtype, layout: Layout) -> None:
    pixels = np.arange(120, dtype=np.uint8).reshape(2, 3, 4, 5)
    graph = identity()
    apply_input(graph, InputSpec(dtype, layout))
    onnx.checker.check_model(graph, full_check=True)
    turned = pixels.transpose(0, 2, 3, 1) if layout is Layout.NHWC else pixels
    given = turned / np.float32(255) if dtype is Dtype.FLOAT32 else turned
    (seen,) = onnx.reference.ReferenceEvaluator(graph).run(None, {INPUT: given})
    assert np.array_equal(seen, pixels / np.float32(255))


def test_a_fixed_batch_stands_at_both_ends() -> None:
    graph = identity()
    fix_batch(graph, 7)
    for value in (*graph.graph.input, *graph.graph.output):
        assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [7, 3, 4, 5]


def test_metadata_say_which_values_are_meant() -> None:
    assert InputSpec(Dtype.UINT8, Layout.NHWC).metadata(3).range == (0, 255)
    assert InputSpec().metadata(1).range == (0.0, 1.0)
