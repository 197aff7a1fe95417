"""Dataclasses as plain JSON values, and back: what is read has the fields and types that the class declares.

Standard library only, so that a device can read a bundle.
"""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from qmu_edge.errors import IntegrityError, QmuEdgeError
from qmu_edge.io.digest import Sha256, is_sha256
from qmu_edge.io.json import MAX_INTEGER, join, shown

T = TypeVar("T")


def to_json(value: object) -> Any:
    """Turn dataclasses, mappings, sequences and enumerations into what `json.dumps` takes.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Point:
    ...     at: tuple[int, ...]
    >>> to_json({"point": Point((1, 2))})
    {'point': {'at': [1, 2]}}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    return value.value if isinstance(value, Enum) else value


def from_json(kind: type[T], document: object, what: str, *, error: type[QmuEdgeError] = IntegrityError) -> T:
    """Read back what `to_json` made of a dataclass.

    Args:
        kind: The dataclass. Its fields are text, numbers, booleans, digests, enumerations, `Literal`, other
            dataclasses, `tuple[X, ...]`, `Mapping[K, X]`, unions of these and None, or `Any`.
        document: What a JSON reader made.
        what: What a message calls the document.
        error: The class to raise.

    Returns:
        The object. A field that is missing has its default; an integer stands for the float it equals.

    Raises:
        QmuEdgeError: Of class `error`: a field without default is missing, is unknown, or has another type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Line:
    ...     width: float
    ...     name: str | None = None
    >>> from_json(Line, {"width": 1}, "example")
    Line(width=1.0, name=None)
    >>> from_json(Line, {"width": True}, "example")
    Traceback (most recent call last):
    qmu_edge.errors.IntegrityError: example: width: found True, allowed float
    """
    try:
        found: T = _read(kind, document, "")
    except _Mismatch as problem:
        raise error(f"{what}: {problem}") from None
    return found


class _Mismatch(Exception):
    """A value is not of the declared type; the message has its path."""


def _read(kind: Any, value: object, path: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read_union(arguments, value, path)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], entry, join(path, i)) for i, entry in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        keys, entries = arguments
        return {_read(keys, k, path): _read(entries, v, join(path, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _read_fields(kind, value, path)
    if kind is float and type(value) is int and abs(value) <= MAX_INTEGER:
        return float(value)
    if kind is Any or type(value) is kind or (kind is Sha256 and is_sha256(value)):
        return value
    if isinstance(kind, type) and issubclass(kind, Enum) and value in [member.value for member in kind]:
        return kind(value)
    name = getattr(kind, "__name__", str(kind))
    raise _Mismatch(f"{path or 'the document'}: found {shown(value)}, allowed {name}")


def _read_union(kinds: tuple[Any, ...], value: object, path: str) -> Any:
    """The value as the first kind that takes it."""
    if value is None and NoneType in kinds:
        return None
    first, *others = (kind for kind in kinds if kind is not NoneType)
    for kind in (first, *others):
        try:
            return _read(kind, value, path)
        except _Mismatch:
            if not others:
                raise
    raise _Mismatch(f"{path}: found {shown(value)}, allowed {' or '.join(map(str, kinds))}")


def _read_fields(kind: Any, document: Mapping[str, object], path: str) -> Any:
    hints = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in document:
        if name not in known:
            raise _Mismatch(f"{join(path, name)}: unknown field")
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in document:
            raise _Mismatch(f"{join(path, name)}: missing")
    return kind(**{name: _read(hints[name], value, join(path, name)) for name, value in document.items()})
