"""The words that the ledger keeps: where a request stands, what became of it, its steps.

They are on disk, in receipts and in the results of commands, so a word that was once written stays.
"""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a request stands."""

    RECEIVED = "received"
    UNLEARNING = "unlearning"  # its samples are barred
    COMPLETED = "completed"  # nothing more is due


class Outcome(StrEnum):
    """What became of a request."""

    UNLEARNED = "unlearned"
    RETRAINED = "retrained"
    PARTIAL = "partial"  # what is known of it
    WITHDRAWN = "withdrawn"
    DENIED = "denied"
    NO_MATCH = "no_match"
    FAILED = "failed"  # so far: it is still open


FULFILLED: Final = (Outcome.UNLEARNED, Outcome.RETRAINED, Outcome.PARTIAL)  # such requests have a receipt


class Step(StrEnum):
    """What is done for a request; from UNLEARNED to RECEIPTED once for each attempt."""

    RESOLVED = "resolved"
    EXTENDED = "extended"
    TOMBSTONED = "tombstoned"
    UNLEARNED = "unlearned"
    REQUANTIZED = "requantized"
    EXPORTED = "exported"
    VERIFIED = "verified"
    RECEIPTED = "receipted"
    PURGED = "purged"


REJECTED: Final = "rejected"  # how the steps begin that say what became of an attempt that did not pass


class Status(StrEnum):
    """How far a step is."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


class RemovalStatus(StrEnum):
    """How far a removal is."""

    STARTED = "started"
    DONE = "done"
    VOID = "void"  # the thing came into use again before it was touched


class Pointer(StrEnum):
    """What a project has one current object of."""

    CHECKPOINT = "checkpoint"
    RELEASE = "release"
    RECEIPT = "receipt"
