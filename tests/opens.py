"""How often files are opened: what is checked in one reading and used from another may be swapped between."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_COUNTS: dict[Path, Counter[str]] = {}  # by folder, of those that are watched


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _COUNTS and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = Path(os.fsdecode(arguments[0]))
        for folder, counts in _COUNTS.items():
            if folder in path.parents and path.is_file():
                counts[path.relative_to(folder).as_posix()] += 1


sys.addaudithook(_hook)  # which nothing removes: it counts only while a folder is watched


@contextmanager
def counted(folder: Path) -> Iterator[Counter[str]]:
    """Count how often each file below a folder is opened, by its path in it."""
    _COUNTS[folder] = Counter()
    try:
        yield _COUNTS[folder]
    finally:
        del _COUNTS[folder]
