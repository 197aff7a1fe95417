"""A flipped bit in any stored file is noticed; the bytes where it is not are listed."""

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from qmu_edge.project.project import STORE
from tests.crash.conftest import Base, copied
from tests.crash.jobs import problems

MOST = 30  # positions per file
OF_LEDGER = 400


def flips(path: Path) -> Iterator[int]:
    """Positions: all of a small file, a sample of a large one, its first and last bytes always."""
    size = path.stat().st_size
    most = OF_LEDGER if path.name == "ledger.db" else MOST
    if size <= most:
        yield from range(size)
    else:
        ends = [*range(8), *range(size - 4, size)]
        yield from sorted({*ends, *random.Random(size).sample(range(size), most - len(ends))})


def stored(project: Path) -> list[Path]:
    """Every file of a project but the recipe, which is its user's to edit, and the empty lock."""
    files = (path for path in project.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in files if path.name not in ("qmu.toml", "lock"))


def rows_of(ledger: Path) -> list[str]:
    """Everything that the ledger holds, as SQL."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro&immutable=1", uri=True)) as db:
        return list(db.iterdump())


@pytest.mark.slow
def test_the_files_of_a_project_are_the_known_ones(base: Base) -> None:
    """Whoever stores something new must say here that it is watched."""
    kinds = {path.relative_to(base.served).parts[1] for path in stored(base.served)}
    assert kinds <= {"ledger.db", "objects", "keys", "cache", "releases"}


@pytest.mark.slow
def test_every_flipped_bit_is_noticed_or_changes_nothing(base: Base, tmp_path: Path) -> None:
    project = copied(base.served, tmp_path / "project")
    assert problems(project) == []
    ledger = project / STORE / "ledger.db"
    rows, chance = rows_of(ledger), random.Random(0)
    tried: Counter[str] = Counter()
    passed: dict[str, list[int]] = {}
    for path in stored(project):
        name = path.relative_to(project).parts[1]
        good, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o600)
        for at in flips(path):
            tried[name] += 1
            changed = bytearray(good)
            changed[at] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            if not problems(project, allowed=("lets others in",)):
                passed.setdefault(name, []).append(at)
                assert path == ledger and rows_of(ledger) == rows, f"{path} at {at}"
            for more in ("-wal", "-shm"):
                ledger.with_name(f"ledger.db{more}").unlink(missing_ok=True)
            path.write_bytes(good)
        path.chmod(mode)
    assert problems(project) == []
    print(f"flipped {dict(tried)}, not noticed {json.dumps(passed)}")


@pytest.mark.slow
def test_every_lost_or_cut_file_is_noticed(base: Base, tmp_path: Path) -> None:
    project = copied(base.served, tmp_path / "project")
    count = 0
    for path in stored(project):
        good, mode = path.read_bytes(), path.stat().st_mode
        for kept in (None, 0, len(good) // 2, len(good) - 1):
            path.chmod(0o600)
            path.write_bytes(good[:kept])
            if kept is None:
                path.unlink()
            assert problems(project, allowed=("lets others in",)), f"{path} cut to {kept}"
            for more in ("-wal", "-shm"):
                (project / STORE / f"ledger.db{more}").unlink(missing_ok=True)
            path.write_bytes(good)
            path.chmod(mode)
            count += 1
    print(f"lost or cut {count} times, noticed every time")
