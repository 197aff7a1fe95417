"""Claims and splits as stored objects: their fields as JSON, positions as lists of integers.

Their digests outlive them, in steps, removals and receipts. Whoever knows whose samples are whose could
compute them for each person, so random text is a part of each; it goes with the object.
"""

from collections.abc import Hashable
from functools import cache
from typing import Annotated, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from qmu_edge.errors import IntegrityError
from qmu_edge.io.json import compact, parse_stored

T = TypeVar("T", bound=Hashable)
_adapter: Final = cache(TypeAdapter)  # a validator takes a millisecond to build


def _positions(value: object) -> NDArray[np.int64]:
    try:
        found = np.array(value, np.int64)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    if found.ndim != 1:
        raise ValueError("not a list of integers")
    return found


Positions = Annotated[NDArray[np.int64], PlainValidator(_positions), PlainSerializer(np.ndarray.tolist)]
"""Sorted positions in a sample index, int64 (m,)."""


def to_bytes(thing: Hashable) -> bytes:
    """A dataclass of positions, numbers and words as JSON: the same bytes for the same one."""
    fields: dict[str, object] = _adapter(type(thing)).dump_python(thing)
    # Older objects have no such fields, and their bytes are their names.
    return compact({name: value for name, value in fields.items() if value not in ("", None)})


def parse(kind: type[T], data: bytes) -> T:
    """What `to_bytes` made of one of this kind.

    Raises:
        IntegrityError: It made something else.
    """
    what = f"a stored {kind.__name__.lower()}"
    document = parse_stored(data, what)
    try:
        found: T = _adapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise IntegrityError(f"{what} is not as it was written: {first['msg']}") from None
    if to_bytes(found) != data:  # an unknown field, a value that was converted, a space
        raise IntegrityError(f"{what} is not as it was written")
    return found
