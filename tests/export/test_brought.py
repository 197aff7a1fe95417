"""What a deployed file says of itself: that it is not quantized, of other images, how it normalises them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ConfigError
from qmu_edge.export.brought import normalisation, require_fitting
from qmu_edge.export.input import InputSpec
from qmu_edge.export.targets import Format
from qmu_edge.verify.metadata import Dtype, Layout
from tests.export.case import Case
from tests.networks import TWO_BLOCKS


@pytest.fixture(scope="session")
def small(make_case: Callable[..., Case]) -> Case:
    return make_case(**TWO_BLOCKS)


def plain(*shape: Any) -> onnx.ModelProto:
    """A float network: one convolution of images of a shape."""
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    image, out = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", [image], [out], [weight])
    return helper.make_model(graph)


def test_the_file_of_a_float_network_is_said_to_be_one() -> None:
    with pytest.raises(ConfigError, match="nothing in it is quantized: it is the float network; adopt its"):
        require_fitting(plain(1, 3, 8, 8), (3, 8, 8))


@pytest.mark.parametrize("form", Format)
def test_weights_alone_may_be_quantized(make_case: Callable[..., Case], form: Format) -> None:
    case = make_case(**TWO_BLOCKS, weight_bits=2, activation_bits="float", edge_bits="float")
    require_fitting(onnx.load_from_string(case.files[form].data), case.images.shape[1:])


@pytest.mark.parametrize("form", Format)
def test_every_format_fits_its_own_images_only(small: Case, form: Format) -> None:
    model, shape = onnx.load_from_string(small.files[form].data), small.images.shape[1:]
    require_fitting(model, shape)
    side = shape[1] * 2
    with pytest.raises(ConfigError, match=f"those of the project are {shape[0]}x{side}x{side}: see"):
        require_fitting(model, (shape[0], side, side))


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        (("n", 3, 8, 8), True), (("n", 8, 8, 3), True), (("n", 3, "h", "w"), True), (("n", 1, 8, 8), False),
        (("n", 3, 8, 9), False), (("n", 192), True),
    ],
)  # fmt: skip
def test_axes_may_be_free_and_channels_last(given: tuple[Any, ...], fits: bool) -> None:
    model = plain(*given)
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "s"], ["q"]))
    if fits:
        require_fitting(model, (3, 8, 8))
        return
    with pytest.raises(ConfigError, match=r"takes images of .*, those of the project are 3x8x8"):
        require_fitting(model, (3, 8, 8))


@pytest.mark.parametrize("spec", [InputSpec(), InputSpec(Dtype.UINT8, Layout.NHWC)])
def test_its_normalisation_is_told_in_units_of_the_recipe(small: Case, spec: InputSpec) -> None:
    shape = small.model.shape
    (file,) = small.export(formats=(Format.QCDQ,), input=spec)
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (shape.mean, shape.std))
    assert normalisation(file.data) == f"mean = [{mean}], std = [{std}]"


def test_a_file_that_does_not_normalise_says_nothing(small: Case) -> None:
    model = onnx.load_from_string(small.files[Format.QCDQ].data)
    (image,) = {v.name for v in model.graph.input} - {t.name for t in model.graph.initializer}
    first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    first.input[0] = image
    assert normalisation(model.SerializeToString()) == ""
