"""The kinds of values that a receipt may hold: none that a name, a path or a picture would fit into."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import PATTERN, Sha256
from qmu_edge.io.json import MAX_INTEGER, join, shown

MAX_ITEMS: Final = 64  # of any list or open object
MAX_LIST: Final = 16  # of numbers: a row of more could be a picture


def _plain(value: object, validate: Callable[[object], Any]) -> Any:
    """One message for all kinds of value, instead of one for each kind."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError("allowed are numbers, true, false, null, words and short lists of these") from None


HexDigest = Annotated[Sha256, Field(pattern=f"^{PATTERN}$")]
Time = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
        r"(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
    ),
]
Word = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]
Sentence = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z ,;:.'-]{0,299}$")]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# The rest of what a pattern of names means to pydantic, said in the schema too.
OPEN: Final = Field(max_length=MAX_ITEMS, json_schema_extra={"additionalProperties": False})
Scalar = bool | Integer | Number | Word | None
Plain = Annotated[Scalar | Annotated[list[Scalar], Field(max_length=MAX_LIST)], WrapValidator(_plain)]
Values = Annotated[dict[Word, Plain], OPEN]
Groups = Annotated[dict[Word, Annotated[Plain | Values, WrapValidator(_plain)]], OPEN]
Counts = Annotated[dict[Word, Count], OPEN]


F = TypeVar("F", bound="Form")


class Form(BaseModel):
    """An object with exactly its fields, none converted; validators are built at the first use."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    @classmethod
    def of(cls: type[F], thing: object) -> F:
        """This form of an object that has the fields as attributes; its other attributes are left out.

        Raises:
            ValidationError: An attribute is missing, or its value is not allowed.
        """
        return cls.model_validate(thing, from_attributes=True)


def _line(error: Any) -> str:
    path = "$"
    for part in error["loc"]:
        path = join(path, part) if part != "[key]" else path  # pydantic's mark for a bad key
    known = {"extra_forbidden": "not a field", "missing": "missing"}
    found = "" if error["type"] in (*known, "too_short", "too_long") else f", found {shown(error['input'])}"
    reason = known.get(error["type"], error["msg"].removeprefix("Value error, "))
    return f"{path}: {reason}{found}"


@contextmanager
def refusing(source: object) -> Iterator[None]:
    """Turn a ValidationError about a receipt's fields into a LedgerError of at most ten "path: why"."""
    try:
        yield
    except ValidationError as error:
        lines = "; ".join(_line(e) for e in error.errors(include_url=False)[:10])
        raise LedgerError(f"{source}: not a receipt: {lines}") from None
