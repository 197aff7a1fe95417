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

    @property
    def metric(self) -> str:
        """The name, as later versions call it."""
        return self.name

    @property
    def threshold(self) -> float:
        """The largest allowed, as later versions call it."""
        return self.allowed


class VerdictV1(Form):
    """Whether every threshold is met; what later verdicts say besides is empty."""

    passed: bool
    checks: Annotated[list[Check], Field(max_length=MAX_ITEMS)]

    @property
    def answer(self) -> str:
        """What is known about the rest of the data's influence: nothing was said of it."""
        return ""

    @property
    def residuals(self) -> tuple[()]:
        """What is left: nothing was measured."""
        return ()

    @property
    def results(self) -> list[Check]:
        """The checks, as later versions call them."""
        return self.checks

    @property
    def codes(self) -> None:
        """How many integer weights have changed: nobody counted."""
        return None
