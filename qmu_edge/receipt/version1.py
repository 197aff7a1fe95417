"""Fields that only receipts of version 1 have; those receipts stay readable."""

from typing import Annotated

from pydantic import Field

from qmu_edge.receipt.fields import MAX_ITEMS, Form, Integer, Number, Word


class Reference(Form):
    """What a model that never saw the data would do; `seed` when one was trained for it."""

    kind: Word
    fa: Number | None
    ta: Number | None
    ra: Number | None
    mia_auc: Number | None
    seed: Integer | None


class Check(Form):
    """The value found, the largest allowed, and the interval of what was measured."""

    name: Word
    value: Number | None
    allowed: Number
    passed: bool
    low: Number | None
    high: Number | None


class VerdictV1(Form):
    """Whether every threshold is met."""

    passed: bool
    checks: Annotated[list[Check], Field(max_length=MAX_ITEMS)]
