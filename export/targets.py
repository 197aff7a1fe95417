"""What each consumer of a file takes: formats, versions, bit widths.

    onnxruntime   everything; INT2 needs onnxruntime 1.24 or newer, the rest 1.18
    openvino      no INT2 tensors; its kernels clip narrow activations as values, not as codes
    tensorrt      symmetric int8 activations without zero point, float biases; so unsigned activations have
                  at most 7 bits
    finn, hls4ml  QONNX with a fixed batch, cleaned by qonnx's own passes; hls4ml wants MatMul for Gemm, and
                  its own step qonnx-to-channels-last before it reads the file

Source: the consumers' own documentation and import errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from qmu_edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Target:
    """One consumer of exported files.

    Attributes:
        formats: What it reads.
        opset, ir_version: Of its files; a packed file may need newer ones.
        int2: Whether it takes 2-bit tensors.
        zero_points: Whether activations may be uint8 with a zero point; else they are int8 without.
        clip_values: Whether narrow activations are clipped as values, before they become codes.
        batch: Fixed batch size it asks for; None for any.
    """

    formats: tuple[str, ...]
    opset: int = 21
    ir_version: int = 10
    int2: bool = True
    zero_points: bool = True
    clip_values: bool = False
    batch: int | None = None


TARGETS: Final[Mapping[str, Target]] = {
    "onnxruntime": Target(("integer", "packed", "qcdq", "qonnx")),
    "openvino": Target(("integer", "packed", "qcdq"), int2=False, clip_values=True),
    "tensorrt": Target(("integer",), opset=19, ir_version=9, zero_points=False),
    "finn": Target(("qonnx",), opset=18, batch=1),
    "hls4ml": Target(("qonnx",), opset=18, batch=1),
}


def target_named(name: str, formats: tuple[str, ...]) -> Target:
    """The target, which must take these formats.

    Raises:
        ConfigError: It is not known, or does not.
    """
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is not one of {', '.join(TARGETS)}")
    target = TARGETS[name]
    for wanted in formats:
        if wanted not in target.formats:
            allowed = ", ".join(target.formats)
            raise ConfigError(f"target {name} does not take format {wanted!r}; allowed: {allowed}")
    return target
