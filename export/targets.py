"""Targets, the consumers of exported files: formats, versions and bit widths that each supports.

    onnxruntime   everything; INT2 needs onnxruntime 1.24 or newer, the rest 1.18
    openvino      no INT2 tensors; its kernels clip narrow activations as values, not as codes
    tensorrt      symmetric int8 activations without zero point, float biases; so unsigned activations have
                  at most 7 bits
    finn, hls4ml  QONNX with a fixed batch, cleaned by qonnx's own passes; hls4ml needs MatMul in place of
    Gemm,
                  and qonnx-to-channels-last run on the file first; neither has attention or layer-norm

Source: the consumers' own documentation and import errors.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from qmu_edge.errors import ConfigError, ExportError

TOKENS: Final = frozenset({"LayerNormalization", "MatMul", "ReduceMax", "Softmax", "Sqrt"})  # as traced


class Format(StrEnum):
    """A kind of exported file; see the module of the same name in `qmu_edge.export.formats`."""

    INTEGER = "integer"
    PACKED = "packed"
    QCDQ = "qcdq"
    QONNX = "qonnx"

    @property
    def file_name(self) -> str:
        """Name of the file in a release or a bundle."""
        return "model.onnx" if self is Format.INTEGER else f"model.{self}.onnx"

    @classmethod
    def parse(cls, name: str) -> "Format":
        """Parse the name of a format.

        Raises:
            ConfigError: There is no such format.
        """
        if name not in [*cls]:
            raise ConfigError(f"format {name!r} is not one of {', '.join(cls)}")
        return cls(name)


@dataclass(frozen=True, slots=True)
class Target:
    """One consumer of exported files.

    Attributes:
        name: Name in the user interface.
        formats: Formats that it reads.
        opset, ir_version: Versions of its files; a packed file may need newer ones.
        int2: Whether it supports 2-bit tensors.
        zero_points: Whether activations may be uint8 with a zero point; otherwise they are int8 without one.
        clip_values: Whether activations below 8 bits are clipped as values, before quantization.
        batch: Fixed batch size that it requires; None for any.
        matmul: Whether it needs MatMul in place of Gemm.
        tokens: Whether it has attention and layer-norm, which tensors of tokens go through.
    """

    name: str
    formats: tuple[Format, ...]
    opset: int = 21
    ir_version: int = 10
    int2: bool = True
    zero_points: bool = True
    clip_values: bool = False
    batch: int | None = None
    matmul: bool = False
    tokens: bool = True

    def require(self, formats: tuple[Format, ...]) -> None:
        """Refuse formats that the target does not read.

        Raises:
            ConfigError: One of `formats` is not among its own.
        """
        for wanted in formats:
            if wanted not in self.formats:
                allowed = ", ".join(self.formats)
                raise ConfigError(
                    f"target {self.name} does not take format {wanted.value!r}; allowed: {allowed}"
                )

    def require_known(self, operators: Collection[str]) -> None:
        """Refuse a network of operators that the target does not have.

        Raises:
            ExportError: It has attention or layer-norm, and the target has neither.
        """
        found = sorted(TOKENS.intersection(operators))
        if found and not self.tokens:
            able = ", ".join(name for name, target in TARGETS.items() if target.tokens)
            raise ExportError(
                f"target {self.name} has no attention and no layer-norm (here {', '.join(found)}); "
                f"allowed for such a network: {able}"
            )


ONNXRUNTIME: Final = Target("onnxruntime", tuple(Format))
OPENVINO: Final = Target(
    "openvino", (Format.INTEGER, Format.PACKED, Format.QCDQ), int2=False, clip_values=True
)
TENSORRT: Final = Target("tensorrt", (Format.INTEGER,), opset=19, ir_version=9, zero_points=False)
FINN: Final = Target("finn", (Format.QONNX,), opset=18, batch=1, tokens=False)
HLS4ML: Final = Target("hls4ml", (Format.QONNX,), opset=18, batch=1, matmul=True, tokens=False)
TARGETS: Final[Mapping[str, Target]] = {
    target.name: target for target in (ONNXRUNTIME, OPENVINO, TENSORRT, FINN, HLS4ML)
}


def target_named(name: str) -> Target:
    """The target of this name.

    Raises:
        ConfigError: There is no such target.
    """
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is not one of {', '.join(TARGETS)}")
    return TARGETS[name]
