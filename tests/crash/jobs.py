"""The commands that are killed and hampered, and what must be true of a project at any instant."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmu_edge.project.doctor import examine
from qmu_edge.project.project import RECIPE, STORE
from qmu_edge.store.ledger.ledger import Ledger

# What a killed writer may leave, and the next one or `doctor --repair` puts right.
ALLOWED = (
    "left over from an interrupted write",
    "not the files of the current release",
    "not whole, and not current",
)
STATE = tuple[Any, ...]


def state(project: Path) -> STATE:
    """Everything that is current, and how many receipts there are; () where no project is."""
    if not (project / STORE).is_dir():
        return ()
    with Ledger.open(project / STORE / "ledger.db") as ledger:
        current = dict(ledger.rows("SELECT name, digest FROM current"))
        receipts = len(ledger.rows("SELECT * FROM receipts"))
        release = current.get("release")
        files = _release_files(project, release) if release else ()
        return current.get("checkpoint"), files, receipts, (current.get("receipt") is None) == (receipts == 0)


def _release_files(project: Path, digest: str) -> tuple[tuple[str, str], ...]:
    made = json.loads((project / STORE / "objects" / digest[:2] / digest[2:]).read_bytes())
    return tuple(sorted(made["files"].items()))


def problems(project: Path, *, allowed: tuple[str, ...] = ()) -> list[str]:
    """What the doctor finds, but for what is allowed."""
    if not (project / STORE).is_dir():
        return []
    return [p for p in examine(project)["problems"] if not any(a in p for a in allowed)]


@dataclass(frozen=True)
class Job:
    """One command on one project.

    Attributes:
        name: For people.
        start: The project before; None where the command makes it.
        command: Its words for a project.
    """

    name: str
    start: Path | None
    command: Callable[[Path], list[object]]

    def wrong(self, project: Path, old: STATE, new: STATE) -> list[str]:
        """What is wrong with a project after a crash: no state but the old and the new may be seen."""
        found = problems(project, allowed=ALLOWED)
        if state(project) not in (old, new):
            found.append(f"a mixed state: {state(project)}")
        return found

    def unfinished(self, project: Path, ended: Any, new: STATE) -> list[str]:
        """What is wrong after the command was run again."""
        done_before = self.start is None and ended.code == 2 and "already" in ended.err
        found = [] if ended.code == 0 or done_before else [f"code {ended.code}: {ended.err[-300:]}"]
        if state(project) != new:
            found.append(f"not the state of an undisturbed run: {state(project)}")
        top = {path.name for path in project.iterdir()} - {STORE, RECIPE, "release"}
        return [*found, *(f"left behind: {name}" for name in top), *problems(project)]
