"""The highest number of a bundle that a device has accepted: what is lower is from before a later deletion.

A signature alone does not tell old from new: a bundle from before a deletion was signed properly, and whoever
kept it can bring it back. So a device remembers the number in a file of its own, and it only grows.
"""

import json
from pathlib import Path
from typing import Final

from qmu_edge.errors import IntegrityError
from qmu_edge.io.files import read_regular, write_atomic
from qmu_edge.io.json import parse_object
from qmu_edge.verify.manifest import Manifest

TYPE: Final = "urn:qmu-edge:accepted:v1"
_MAX_STATE: Final = 2**10


def accepted(state: Path) -> int:
    """The number in a device's file; 0 where there is no file yet.

    Raises:
        IntegrityError: It is not what `accept` writes.
    """
    if not state.exists() and not state.is_symlink():
        return 0
    document = parse_object(
        read_regular(state, limit=_MAX_STATE, error=IntegrityError), str(state), IntegrityError
    )
    number = document.get("number")
    if (
        document.keys() != {"type", "number"}
        or document["type"] != TYPE
        or type(number) is not int
        or number < 0
    ):
        raise IntegrityError(f"{state}: not of type {TYPE} with a number")
    return number


def accept(state: Path, manifest: Manifest) -> None:
    """Remember a bundle's number, if it is higher than the one before.

    Raises:
        ConfigError: The file cannot be written.
        IntegrityError: See `accepted`.
    """
    number = number_of(manifest)
    if number > accepted(state) or not state.exists():
        write_atomic(state, json.dumps({"number": number, "type": TYPE}).encode() + b"\n", mode=0o600)


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
