"""The highest number of a bundle that a device has accepted: what is lower is from before a later deletion.

A signature alone does not tell old from new: a bundle from before a deletion was signed properly, and whoever
kept it can bring it back. So a device remembers the number in a file of its own, and it only grows. With it
goes the time of the receipt of that number: a project that was put back and went on otherwise has another.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qmu_edge.errors import IntegrityError
from qmu_edge.io.files import read_regular, write_atomic
from qmu_edge.io.json import parse_object
from qmu_edge.verify.manifest import Manifest

TYPE: Final = "urn:qmu-edge:accepted:v1"
_MAX_STATE: Final = 2**10


@dataclass(frozen=True, slots=True)
class Accepted:
    """The highest number that was accepted, and the time of its receipt; None before any deletion."""

    number: int
    time: str | None


def accepted(state: Path) -> Accepted:
    """What a device's file holds; number 0 where there is no file yet.

    Raises:
        IntegrityError: It is not what `accept` writes.
    """
    if not state.exists() and not state.is_symlink():
        return Accepted(0, None)
    document = parse_object(
        read_regular(state, limit=_MAX_STATE, error=IntegrityError), str(state), IntegrityError
    )
    number, time = document.get("number"), document.get("time")
    sound = type(number) is int and number >= 0 and (isinstance(time, str) or time is None)
    if document.keys() != {"type", "number", "time"} or document["type"] != TYPE or not sound:
        raise IntegrityError(f"{state}: not of type {TYPE} with a number and a time")
    return Accepted(int(str(number)), None if time is None else str(time))


def accept(state: Path, manifest: Manifest) -> None:
    """Remember a bundle's number, if it is higher than the one before.

    Raises:
        ConfigError: The file cannot be written.
        IntegrityError: See `accepted`.
    """
    issued = manifest.issued
    number, time = number_of(manifest), None if issued is None else issued.time
    if number > accepted(state).number or not state.exists():
        document = {"number": number, "time": time, "type": TYPE}
        write_atomic(state, json.dumps(document).encode() + b"\n", mode=0o600)


def require_one_history(manifest: Manifest, known: Accepted, path: Path) -> None:
    """Refuse a bundle of the number that was accepted before, but of another receipt.

    Args:
        manifest: Of the bundle.
        known: What was accepted before.
        path: Of the bundle, for messages.

    Raises:
        IntegrityError: Its project is not the one that the device knows, or was put back.
    """
    issued = manifest.issued
    if issued is not None and issued.number == known.number and issued.time != known.time:
        raise IntegrityError(
            f"{path}: number {issued.number} of {issued.time}; the one accepted before was of {known.time}: "
            "the project was put back, or is another one"
        )


def require_newest(manifest: Manifest, least: int, path: Path) -> None:
    """Refuse a bundle from before a deletion that a device knows of.

    Args:
        manifest: Of the bundle.
        least: The lowest number that is not refused.
        path: Of the bundle, for messages.

    Raises:
        IntegrityError: Its number is lower, or it is of version 1, which has none.
    """
    if (number := number_of(manifest)) < least:
        what = f"number {number}" if manifest.issued else "a bundle of version 1, which has no number"
        raise IntegrityError(f"{path}: {what}: from before a later deletion; allowed from number {least}")


def number_of(manifest: Manifest) -> int:
    """The number of a bundle; 0 for version 1."""
    return manifest.issued.number if manifest.issued else 0


def told(manifest: Manifest, least: int | None) -> str:
    """What is known about a bundle's number, for people.

    Args:
        manifest: Of the bundle.
        least: What it was held against; None for nothing.
    """
    if manifest.issued is None:
        return "none: a bundle of version 1 does not show whether data were deleted since"
    of = f"{manifest.issued.number}, of {manifest.issued.time or 'before any deletion'}"
    return of + (
        ": not compared with what was accepted before" if least is None else f", allowed from {least}"
    )
