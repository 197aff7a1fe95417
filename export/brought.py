"""What a deployed file that is brought says of itself, before its graph is followed.

Most files that cannot be read back are simply not the right ones: of the float network, or of images of
another size. Whoever brings one is told so, rather than at which node it first differs.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx

from qmu_edge.errors import ConfigError
from qmu_edge.export.graph import image_inputs
from qmu_edge.export.qoperators import expanded
from qmu_edge.export.steps import steps_of

_CODES: Final = {
    getattr(onnx.TensorProto, name) for name in ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
}


def require_fitting(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """Refuse a file of a network that is not quantized, or of other images.

    Args:
        model: The graph.
        shape: Channels, height and width of the images of the project.

    Raises:
        ConfigError: It is one; what to do is said.
    """
    codes = any(tensor.data_type in _CODES for tensor in model.graph.initializer)
    if not codes and not any(node.op_type.startswith("Quant") for node in model.graph.node):
        raise ConfigError(
            "nothing in it is quantized: it is the float network; adopt its weights (safetensors, or a "
            "state_dict), which are quantized here"
        )
    for value in image_inputs(model):
        axes = [axis.dim_value for axis in value.type.tensor_type.shape.dim][1:]
        if len(axes) == len(shape) and not _fit(axes, shape):
            found, wanted = ("x".join(str(n or "?") for n in each) for each in (axes, shape))
            raise ConfigError(f"takes images of {found}, those of the project are {wanted}: see [data] size")


def _fit(axes: list[int], shape: tuple[int, ...]) -> bool:
    """Whether images of a shape go in, channels first or last; 0 stands for any number."""
    orders = (shape, (*shape[1:], shape[0]))
    return any(all(n in (0, own) for n, own in zip(axes, order, strict=True)) for order in orders)


def normalisation(data: bytes) -> str:
    """What a file takes from its images and divides them by, as a recipe has it; "" where it does neither.

    Args:
        data: A file that `steps_of` can follow.
    """
    model = onnx.load_from_string(data)
    kinds = {value.type.tensor_type.elem_type for value in image_inputs(model)}
    step = steps_of(expanded(model))
    while step.inputs and (step.kind != "affine" or step.inputs[0].kind != "image"):
        step = step.inputs[0]
    gain, shift = (np.atleast_1d(v) for v in np.broadcast_arrays(step.gain, step.shift))
    if not step.inputs or not gain.all():
        return ""
    largest = 255.0 if onnx.TensorProto.UINT8 in kinds else 1.0
    return in_words(-shift / gain / largest, 1.0 / gain / largest)


def in_words(mean: Iterable[float], std: Iterable[float]) -> str:
    """Mean and deviation as a recipe has them: a value for each channel, or one for all.

    >>> in_words([0.5, 0.5], [0.25, 0.125])
    'mean = [0.5], std = [0.25, 0.125]'
    """
    return f"mean = {_numbers(mean)}, std = {_numbers(std)}"


def _numbers(values: Iterable[float]) -> str:
    texts = [f"{value:.4g}" for value in values]
    return f"[{', '.join(texts if len({*texts}) > 1 else texts[:1])}]"
