"""What is in an ONNX file, as plain frozen dataclasses; arrays are decoded only when asked for.

Made by `qmu_edge.verify.onnx.reader.read`, read by the gates. Tensors are views into the file.

Source: onnx.proto, IR version 13 (github.com/onnx/onnx).
Differs: only the element types that our exports use.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.verify.onnx.wire import varints

QONNX_DOMAIN: Final = "qonnx.custom_op.general"


class Dialect(StrEnum):
    """Whose operators a file holds: standard ONNX alone, or those of QONNX as well."""

    ONNX = "onnx"
    QONNX = "qonnx"


@dataclass(frozen=True, slots=True)
class ElementType:
    """One tensor element type: its name, its width, and how numpy stores it.

    Attributes:
        name: As in TensorProto.DataType.
        bits: Width of one element in the file.
        word: numpy dtype of the stored word; elements below 8 bits share bytes, low bits first.
        typed: The field of TensorProto that holds the values when raw_data does not.
    """

    name: str
    bits: int
    word: str
    typed: str = "int32_data"

    @property
    def is_float(self) -> bool:
        """Tell whether elements are floating-point numbers."""
        return np.dtype(self.word).kind == "f"

    @property
    def is_signed(self) -> bool:
        """Tell whether integer elements have a sign."""
        return self.name.startswith("INT")


ELEMENT_TYPES: Final[Mapping[int, ElementType]] = {
    1: ElementType("FLOAT", 32, "<f4", "float_data"),
    2: ElementType("UINT8", 8, "|u1"),
    3: ElementType("INT8", 8, "|i1"),
    5: ElementType("INT16", 16, "<i2"),
    6: ElementType("INT32", 32, "<i4"),
    7: ElementType("INT64", 64, "<i8", "int64_data"),
    9: ElementType("BOOL", 8, "|u1"),
    10: ElementType("FLOAT16", 16, "<f2"),
    11: ElementType("DOUBLE", 64, "<f8", "double_data"),
    21: ElementType("UINT4", 4, "|u1"),
    22: ElementType("INT4", 4, "|u1"),
    25: ElementType("UINT2", 2, "|u1"),
    26: ElementType("INT2", 2, "|u1"),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One stored tensor; `payload` is a view into the file, in the form `source` names."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    source: str
    payload: memoryview = field(repr=False)

    @property
    def element(self) -> ElementType:
        """The element type."""
        return ELEMENT_TYPES[self.data_type]

    @property
    def elements(self) -> int:
        """How many elements there are."""
        return math.prod(self.dims)

    def array(self) -> NDArray[Any]:
        """Decode the values.

        Returns:
            Array of shape `dims`: float32, float64, float16, int8, uint8, int32, int64 or bool;
            4-bit and 2-bit elements come as int8 or uint8.

        Raises:
            ExportError: A value does not fit its element type.
            IntegrityError: Packed numbers are malformed.
        """
        words = self._words()
        if self.element.bits < 8:
            words = unpack(words, self.element.bits, self.element.is_signed)[: self.elements]
        elif self.element.name == "BOOL":
            words = words != 0
        return words.reshape(self.dims)

    def _words(self) -> NDArray[Any]:
        word = np.dtype(self.element.word)
        if self.source not in ("int32_data", "int64_data"):
            return np.frombuffer(self.payload, dtype=word)
        # float16 travels as its bit pattern in int32_data
        integer = np.dtype("<u2") if word.kind == "f" else word
        limits = np.iinfo(integer)
        chunks = [np.empty(0, integer)]
        for chunk in varints(self.payload):
            if chunk.min() < limits.min or chunk.max() > limits.max:
                raise ExportError(f"tensor {self.name!r}: a value that is no {self.element.name}")
            chunks.append(chunk.astype(integer))
        return np.concatenate(chunks).view(word)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a node; a singular value is a tuple of one, other kinds are empty."""

    name: str
    floats: tuple[float, ...] = ()
    ints: tuple[int, ...] = ()
    strings: tuple[bytes, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    graphs: "tuple[Graph, ...]" = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One operator."""

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    @property
    def label(self) -> str:
        """The node's name, or what it computes when it has none."""
        return f"{self.op_type} {self.name or ', '.join(self.outputs)!r}"

    def integer(self, name: str, default: int) -> int:
        """Read an integer attribute."""
        found = self.attributes.get(name)
        return found.ints[0] if found and found.ints else default

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors among the attributes."""
        return tuple(t for a in self.attributes.values() for t in a.tensors)

    def graphs(self) -> "tuple[Graph, ...]":
        """All subgraphs among the attributes."""
        return tuple(g for a in self.attributes.values() for g in a.graphs)


@dataclass(frozen=True, slots=True)
class Value:
    """A graph input or output: element type number, and dims with None where symbolic."""

    name: str
    data_type: int
    dims: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in file order, stored tensors by name, declared inputs and outputs."""

    nodes: tuple[Node, ...]
    initializers: Mapping[str, Tensor]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def walk(self) -> "Iterator[Graph]":
        """Yield this graph and all subgraphs."""
        yield self
        for node in self.nodes:
            for graph in node.graphs():
                yield from graph.walk()


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A file that passed the model-file policy; `data` are exactly the bytes that passed."""

    path: Path
    data: bytes = field(repr=False)
    ir_version: int
    opset_imports: Mapping[str, int]
    producer: str
    metadata: Mapping[str, str]
    graph: Graph

    @property
    def sha256(self) -> Sha256:
        """Digest of the bytes that were read."""
        return sha256_of(self.data)

    @property
    def dialect(self) -> Dialect:
        """Whose operators the file holds."""
        foreign = any(n.domain == QONNX_DOMAIN for g in self.graph.walk() for n in g.nodes)
        return Dialect.QONNX if foreign else Dialect.ONNX

    @property
    def is_qonnx(self) -> bool:
        """Whether there are QONNX operators, which onnxruntime does not know."""
        return self.dialect is Dialect.QONNX

    def tensors(self) -> Iterator[Tensor]:
        """Yield every stored tensor: initializers, and the values of Constant nodes.

        A tensor attribute is called after the output of its node.
        """
        for graph in self.graph.walk():
            yield from graph.initializers.values()
            for node in graph.nodes:
                yield from node.tensors()


def unpack(words: NDArray[np.uint8], bits: int, signed: bool) -> NDArray[Any]:
    """Split bytes into 4-bit or 2-bit elements, low bits first.

    Args:
        words: uint8 (m,).
        bits: 4 or 2.
        signed: Read two's complement.

    Returns:
        int8 when signed, else uint8, (m * 8 / bits,); the last may be padding.

    >>> unpack(np.array([0x1F], np.uint8), 4, True).tolist()  # low nibble 0xF = -1, then 1
    [-1, 1]
    >>> unpack(np.array([0b11_10_01_00], np.uint8), 2, False).tolist()
    [0, 1, 2, 3]
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = ((words[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)
    if not signed:
        return values
    half = np.int8(1 << (bits - 1))
    return (values.view(np.int8) ^ half) - half
