"""The strict reader of ONNX files, without the onnx package, and the policy for model files.

A model file is hostile input. `read` takes a regular file of bounded size, parses it with
`qmu_edge.verify.onnx.wire`, and applies the policy before anything is executed: no external data, no
foreign operators, no custom functions, no training graph, no tensor that lies about its size, none
that no output depends on. Fields that are of no use here are parsed all the same: a name that is no text, or
a shape that is no shape, could be anything.

Source: onnx.proto, IR version 13 (github.com/onnx/onnx); the policy follows onnx's
    docs/ExternalDataSecurity.md and advisory GHSA-7w46-vvrh-m8q5.
Differs: stricter than any ONNX loader; see `wire`. Names are unique over all graphs of a file.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from qmu_edge.errors import ExportError, IntegrityError, QmuEdgeError
from qmu_edge.io.files import open_regular
from qmu_edge.verify.onnx.graph import (
    ELEMENT_TYPES,
    QONNX_DOMAIN,
    Attribute,
    Graph,
    Node,
    OnnxFile,
    Tensor,
    Value,
)
from qmu_edge.verify.onnx.wire import Budget, Message, Schema, count_varints, parse

__all__ = ["OnnxFile", "parse_file", "read"]

DOMAINS: Final = frozenset({"", "ai.onnx", QONNX_DOMAIN})
MAX_BYTES: Final = 2**31 - 1
MAX_DEPTH: Final = 8
MAX_RANK: Final = 8
MAX_ELEMENTS: Final = 2**31
MAX_METADATA_BYTES: Final = 2**20

_MODEL: Final[Schema] = {
    1: ("ir_version", "int"),
    2: ("producer_name", "text"),
    3: ("producer_version", "text"),
    4: ("domain", "text"),
    5: ("model_version", "int"),
    6: ("doc_string", "text"),
    7: ("graph", "bytes"),
    8: ("opset_import", "bytes*"),
    14: ("metadata_props", "bytes*"),
    20: ("training_info", "bytes*"),
    25: ("functions", "bytes*"),
    26: ("configuration", "bytes*"),
}
_GRAPH: Final[Schema] = {
    1: ("node", "bytes*"),
    2: ("name", "text"),
    5: ("initializer", "bytes*"),
    10: ("doc_string", "text"),
    11: ("input", "bytes*"),
    12: ("output", "bytes*"),
    13: ("value_info", "bytes*"),
    14: ("quantization_annotation", "bytes*"),
    15: ("sparse_initializer", "bytes*"),
    16: ("metadata_props", "bytes*"),
}
_NODE: Final[Schema] = {
    1: ("input", "text*"),
    2: ("output", "text*"),
    3: ("name", "text"),
    4: ("op_type", "text"),
    5: ("attribute", "bytes*"),
    6: ("doc_string", "text"),
    7: ("domain", "text"),
    8: ("overload", "text"),
    9: ("metadata_props", "bytes*"),
    10: ("device_configurations", "bytes*"),
}
_ATTRIBUTE: Final[Schema] = {
    1: ("name", "text"),
    2: ("f", "float"),
    3: ("i", "int"),
    4: ("s", "bytes"),
    5: ("t", "bytes"),
    6: ("g", "bytes"),
    7: ("floats", "float*"),
    8: ("ints", "int*"),
    9: ("strings", "bytes*"),
    10: ("tensors", "bytes*"),
    11: ("graphs", "bytes*"),
    13: ("doc_string", "text"),
    20: ("type", "int"),
}
# AttributeProto.type -> the one field that holds the value
_ATTRIBUTE_VALUE: Final[Mapping[int, str]] = {
    1: "f",
    2: "i",
    3: "s",
    4: "t",
    5: "g",
    6: "floats",
    7: "ints",
    8: "strings",
    9: "tensors",
    10: "graphs",
}
_TENSOR: Final[Schema] = {
    1: ("dims", "int*"),
    2: ("data_type", "int"),
    4: ("float_data", "bytes"),
    5: ("int32_data", "bytes"),
    7: ("int64_data", "bytes"),
    8: ("name", "text"),
    9: ("raw_data", "bytes"),
    10: ("double_data", "bytes"),
    12: ("doc_string", "text"),
    13: ("external_data", "bytes*"),
    14: ("data_location", "int"),
    16: ("metadata_props", "bytes*"),
}
_TENSOR_VALUE: Final = ("raw_data", "float_data", "double_data", "int32_data", "int64_data")
_PAIR: Final[Schema] = {1: ("key", "text"), 2: ("value", "text")}
_ANNOTATION: Final[Schema] = {1: ("tensor_name", "text"), 2: ("metadata_props", "bytes*")}
_OPSET: Final[Schema] = {1: ("domain", "text"), 2: ("version", "int")}
_VALUE: Final[Schema] = {
    1: ("name", "text"),
    2: ("type", "bytes"),
    3: ("doc_string", "text"),
    4: ("metadata_props", "bytes*"),
}
_TYPE: Final[Schema] = {1: ("tensor_type", "bytes"), 6: ("denotation", "text")}
_TENSOR_TYPE: Final[Schema] = {1: ("elem_type", "int"), 2: ("shape", "bytes")}
_SHAPE: Final[Schema] = {1: ("dim", "bytes*")}
_DIMENSION: Final[Schema] = {
    1: ("dim_value", "int"),
    2: ("dim_param", "text"),
    3: ("denotation", "text"),
}
_REFUSED: Final[Mapping[str, str]] = {
    "functions": "custom functions",
    "training_info": "a training graph",
    "configuration": "a configuration of devices",
    "device_configurations": "a configuration of devices",
    "sparse_initializer": "sparse initializers",
}


def read(path: Path, *, max_bytes: int = MAX_BYTES) -> OnnxFile:
    """Read a model file and apply the model-file policy.

    Args:
        path: A regular file; a link to one is followed.
        max_bytes: Larger files are refused before they are read.

    Returns:
        The parsed file.

    Raises:
        IntegrityError: Missing, not a regular file, empty, too large, truncated, not protobuf,
            or without a graph.
        ExportError: External data, foreign operators, custom functions, a training graph, deep
            subgraphs, sparse, unused or unsupported tensors, a tensor whose size is not what its
            shape says, unknown fields.
    """
    try:
        data = _bytes(path, max_bytes)
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from error
    except QmuEdgeError as error:
        raise type(error)(f"{path}: {error}") from error
    return parse_file(data, path)


def parse_file(data: bytes, path: Path, domains: frozenset[str] = DOMAINS) -> OnnxFile:
    """As `read`, of bytes that were read before.

    Args:
        data: All of them.
        path: What messages call them.
        domains: Of the operators that are allowed.

    Raises:
        IntegrityError: See `read`.
        ExportError: See `read`.
    """
    try:
        if not data:
            raise IntegrityError("0 bytes; this is not an ONNX model")
        made = _model(path, data)
        _require_known(made.graph, domains)
        return made
    except QmuEdgeError as error:
        raise type(error)(f"{path}: {error}") from error


def _bytes(path: Path, max_bytes: int) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not 0 < size <= max_bytes:
            raise IntegrityError(f"{size} bytes, allowed 1 to {max_bytes}")
        data = file.read(size)
    if len(data) != size:
        raise IntegrityError(f"{len(data)} bytes read of {size}; the file is changing")
    return data


def _parsed(view: memoryview, schema: Schema, what: str, budget: Budget) -> Message:
    """Parse a message with what of it is of no use here: it must be what the format says, too.

    Else bytes of any kind would pass in a field that every other reader skips or fails on.
    """
    try:
        message = parse(view, schema, what, budget)
    except QmuEdgeError as error:
        if schema is not _MODEL:
            raise
        raise type(error)(f"not an ONNX file, or an altered one: {error}") from None
    for name in message.blobs:
        if name in _REFUSED:
            raise ExportError(f"the {what} holds {_REFUSED[name]}; allowed: none")
    if schema is not _MODEL:  # whose pairs are the metadata
        for blob in message.blobs.get("metadata_props", []):
            _parsed(blob, _PAIR, f"{what}: metadata", budget)
    for blob in message.blobs.get("value_info", []):
        _value(blob, budget)
    for blob in message.blobs.get("quantization_annotation", []):
        _parsed(blob, _ANNOTATION, "quantization_annotation", budget)
    return message


def _model(path: Path, data: bytes) -> OnnxFile:
    budget = Budget()
    model = _parsed(memoryview(data), _MODEL, "model", budget)
    if "graph" not in model:
        raise IntegrityError("no graph; this is not an ONNX model")
    imports = [_parsed(b, _OPSET, "opset_import", budget) for b in model.blobs.get("opset_import", [])]
    graph = _graph(model.blob("graph"), budget, 0)
    _require_unique_names(graph)
    _require_used(graph)
    return OnnxFile(
        path=path,
        data=data,
        ir_version=model.integer("ir_version"),
        opset_imports={m.text("domain"): m.integer("version") for m in imports},
        producer=f"{model.text('producer_name')} {model.text('producer_version')}".strip(),
        metadata=_metadata(model, budget),
        graph=graph,
    )


def _metadata(model: Message, budget: Budget) -> dict[str, str]:
    pairs = [_parsed(b, _PAIR, "metadata", budget) for b in model.blobs.get("metadata_props", [])]
    metadata = {p.text("key"): p.text("value", MAX_METADATA_BYTES) for p in pairs}
    if len(metadata) != len(pairs):
        raise ExportError("a metadata key occurs twice")
    return metadata


def _graph(view: memoryview, budget: Budget, depth: int) -> Graph:
    if depth > MAX_DEPTH:
        raise ExportError(f"subgraphs nest deeper than {MAX_DEPTH}")
    graph = _parsed(view, _GRAPH, "graph", budget)
    tensors = [_tensor(blob, budget) for blob in graph.blobs.get("initializer", [])]
    initializers = {tensor.name: tensor for tensor in tensors}
    if len(initializers) != len(tensors) or "" in initializers:
        raise ExportError("two initializers share a name, or one has none")
    return Graph(
        nodes=tuple(_node(blob, budget, depth) for blob in graph.blobs.get("node", [])),
        initializers=initializers,
        inputs=tuple(_value(blob, budget) for blob in graph.blobs.get("input", [])),
        outputs=tuple(_value(blob, budget) for blob in graph.blobs.get("output", [])),
    )


def _node(view: memoryview, budget: Budget, depth: int) -> Node:
    node = _parsed(view, _NODE, "node", budget)
    domain, op_type = node.text("domain"), node.text("op_type")
    if node.text("overload"):
        raise ExportError(f"operator {op_type!r} is one of several of its name; allowed: none")
    attributes = [_attribute(b, budget, depth) for b in node.blobs.get("attribute", [])]
    by_name = {attribute.name: attribute for attribute in attributes}
    if len(by_name) != len(attributes):
        raise ExportError(f"operator {op_type!r} has two attributes of one name")
    return Node(op_type, domain, node.text("name"), node.texts("input"), node.texts("output"), by_name)


def _attribute(view: memoryview, budget: Budget, depth: int) -> Attribute:
    attribute = _parsed(view, _ATTRIBUTE, "attribute", budget)
    name, kind = attribute.text("name"), _ATTRIBUTE_VALUE.get(attribute.integer("type"), "")
    present = {value for value in _ATTRIBUTE_VALUE.values() if value in attribute}
    if not kind or present - {kind}:
        raise ExportError(f"attribute {name!r}: type {attribute.integer('type')} with {present}")
    blobs = attribute.blobs.get(kind, [])
    return Attribute(
        name=name,
        floats=attribute.floats(kind) if kind in ("f", "floats") else (),
        ints=attribute.integers(kind) if kind in ("i", "ints") else (),
        strings=tuple(bytes(b) for b in blobs) if kind in ("s", "strings") else (),
        tensors=tuple(_tensor(b, budget) for b in blobs) if kind in ("t", "tensors") else (),
        graphs=tuple(_graph(b, budget, depth + 1) for b in blobs) if kind in ("g", "graphs") else (),
    )


def _tensor(view: memoryview, budget: Budget) -> Tensor:
    tensor = _parsed(view, _TENSOR, "tensor", budget)
    name, data_type = tensor.text("name"), tensor.integer("data_type")
    if tensor.integer("data_location") or "external_data" in tensor:
        raise ExportError(f"tensor {name!r}: external data; onnx.save(onnx.load(FILE), NEW) puts it inside")
    if data_type not in ELEMENT_TYPES:
        raise ExportError(f"tensor {name!r}: element type {data_type}; allowed {[*ELEMENT_TYPES]}")
    sources = [source for source in _TENSOR_VALUE if source in tensor]
    allowed = ("raw_data", ELEMENT_TYPES[data_type].typed)
    if len(sources) > 1 or not set(sources) <= set(allowed):
        raise ExportError(f"tensor {name!r}: values in {sources}; allowed one of {allowed}")
    source = sources[0] if sources else "raw_data"
    result = Tensor(name, tensor.integers("dims"), data_type, source, tensor.blob(source))
    _require_size(result)
    return result


def _require_size(tensor: Tensor) -> None:
    """The bytes must be exactly what the shape says: no more to hide in, no fewer to read past."""
    name, dims, element = tensor.name, tensor.dims, tensor.element
    if len(dims) > MAX_RANK or min(dims, default=0) < 0:
        raise ExportError(f"tensor {name!r}: rank {len(dims)} or a negative size; allowed {MAX_RANK}")
    if math.prod(max(size, 1) for size in dims) > MAX_ELEMENTS:
        raise ExportError(f"tensor {name!r}: shape {dims}; allowed {MAX_ELEMENTS} elements")
    needed, unit = (tensor.elements * element.bits + 7) // 8, "bytes"
    found = len(tensor.payload)
    if tensor.source in ("int32_data", "int64_data"):
        needed, unit = (needed if element.bits < 8 else tensor.elements), "numbers"
        found = count_varints(tensor.payload)
    if found != needed:
        raise ExportError(
            f"tensor {name!r}: {found} {unit} in {tensor.source}, allowed {needed} for {dims} "
            f"of {element.name}"
        )


def _value(view: memoryview, budget: Budget) -> Value:
    value = _parsed(view, _VALUE, "graph input or output", budget)
    kind = _parsed(value.blob("type"), _TYPE, "type", budget)
    tensor = _parsed(kind.blob("tensor_type"), _TENSOR_TYPE, "tensor type", budget)
    shape = _parsed(tensor.blob("shape"), _SHAPE, "shape", budget)
    dims = [_parsed(blob, _DIMENSION, "dim", budget) for blob in shape.blobs.get("dim", [])]
    return Value(
        name=value.text("name"),
        data_type=tensor.integer("elem_type"),
        dims=tuple(d.integer("dim_value") if "dim_value" in d else None for d in dims),
    )


def _require_known(whole: Graph, domains: frozenset[str]) -> None:
    for node in (node for graph in whole.walk() for node in graph.nodes):
        if node.domain not in domains:
            allowed = ", ".join(repr(d) for d in sorted(domains))
            raise ExportError(
                f"operator {node.op_type!r} of domain {node.domain!r}; allowed domains: {allowed}"
            )


def _require_unique_names(graph: Graph) -> None:
    """Every tensor is defined once, so that a name says which values are meant."""
    seen: set[str] = set()
    for each in graph.walk():
        defined = [*each.initializers, *(name for n in each.nodes for name in n.outputs if name)]
        for name in defined:
            if name in seen:
                raise ExportError(f"tensor {name!r} is defined twice")
            seen.add(name)


def _require_used(graph: Graph) -> None:
    """Every stored tensor must reach an output: an unused one ships data that no result shows."""
    used = _ancestors(graph)
    for each in graph.walk():
        for name in each.initializers:
            if name not in used:
                raise ExportError(f"initializer {name!r} is unused: no output depends on it")
        for node in each.nodes:
            if node.tensors() and not used.intersection(node.outputs):
                raise ExportError(f"{node.label} holds a tensor, and no output depends on it")


def _ancestors(graph: Graph) -> set[str]:
    """Names that the outputs of the graph depend on, themselves included."""
    producers = {name: node for each in graph.walk() for node in each.nodes for name in node.outputs}
    todo = [value.name for value in graph.outputs]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if node := producers.get(name):
            todo += node.inputs
            todo += (value.name for inner in node.graphs() for value in inner.outputs)
    return found
