"""What an exported file says about itself: one JSON object in the property `qmu_edge` of its metadata.

The exporter writes all of `Metadata`. The readers here need a share of it only, and take files without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Final

from qmu_edge.errors import ExportError
from qmu_edge.io.json import compact, parse_object, shown
from qmu_edge.io.plain import from_json, to_json
from qmu_edge.verify.onnx.graph import OnnxFile

METADATA_KEY: Final = "qmu_edge"
PROCESSORS_KEY: Final = "qmu_edge:processors"  # a property of its own, see `rounding.Processors`


class Dtype(StrEnum):
    """Element type of a file's input: float32 holds values 0..1, uint8 holds 0..255."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class Layout(StrEnum):
    """Order of the axes of a file's input: n images, c channels, h rows, w columns."""

    NCHW = "NCHW"
    NHWC = "NHWC"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputMetadata:
    """The input: its layout and element type, smallest and largest value, and number of channels."""

    layout: Layout
    dtype: Dtype
    range: tuple[int | float, int | float]
    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a device or an auditor needs to know; no paths, nothing of the training.

    Attributes:
        tool: Name and version of the exporter.
        architecture: Of the network.
        recipe: Digest of the recipe.
        weight_bits: Width of the codes of each quantized weight, by the name of its initializer.
        float_weights: Initializers of the weights that the recipe leaves float.
        activation_bits: Width of the codes of activations, or "float".
        input: What the file takes.
        classes: Names of the classes, in the order of the logits.
    """

    tool: str
    architecture: str
    recipe: str
    weight_bits: Mapping[str, int]
    float_weights: tuple[str, ...]
    activation_bits: int | str
    input: InputMetadata
    classes: tuple[str, ...]

    def to_text(self) -> str:
        """The value of the property: the same text for the same metadata."""
        return compact(to_json(self)).decode()


@dataclass(frozen=True, slots=True)
class DeclaredWeights:
    """Width of the codes by initializer, and the initializers that may be float; see `Metadata`."""

    weight_bits: Mapping[str, int] = field(default_factory=dict)
    float_weights: tuple[str, ...] = ()


def declared_weights(file: OnnxFile) -> DeclaredWeights:
    """What a file says about its weights; nothing where the property is missing.

    Raises:
        ExportError: The property is malformed, or a width is not from 2 to 8.
    """
    names = {each.name for each in fields(DeclaredWeights)}
    said = {name: value for name, value in _document(file).items() if name in names}
    declared = from_json(DeclaredWeights, said, _subject(file), error=ExportError)
    if not all(2 <= bits <= 8 for bits in declared.weight_bits.values()):
        raise ExportError(f"{_subject(file)}: weight_bits {declared.weight_bits}; allowed 2 to 8")
    return declared


def input_layout(file: OnnxFile) -> Layout:
    """The order of the input's axes; NCHW where the file says nothing.

    Raises:
        ExportError: The property is malformed, or names another order.
    """
    about = _document(file).get("input", {})
    found = about.get("layout", Layout.NCHW) if isinstance(about, dict) else None
    if not isinstance(found, str) or found not in [*Layout]:
        allowed = ", ".join(Layout)
        raise ExportError(f"{_subject(file)}: input {shown(about)}; allowed layouts {allowed}")
    return Layout(found)


def _document(file: OnnxFile) -> dict[str, object]:
    text = file.metadata.get(METADATA_KEY, "{}").encode()
    return parse_object(text, _subject(file), ExportError)


def _subject(file: OnnxFile) -> str:
    """What messages call the property."""
    return f"{file.path}: metadata {METADATA_KEY!r}"
