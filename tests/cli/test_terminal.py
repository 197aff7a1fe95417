"""What somebody else has written into a project is shown as text: it steers no terminal, forges no line."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.cli import main, render
from qmu_edge.io.progress import Progress
from qmu_edge.project.create import create
from qmu_edge.receipt.receipt import render as receipt_as_text
from qmu_edge.recipe import parse_recipe
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, Pointer, State
from qmu_edge.store.objects import ObjectStore
from tests.cli.conftest import copied

FORGED = "FORGED LINE"
# Escape sequences, return, bell, backspace, all that ends a line, text turned around, what nobody sees.
HOSTILE = (
    f"\x1b[2J\x1b]0;t\x07\x9b31m\rx\x08\n{FORGED}\x0b\x0c\x85\u2028\u2029"
    "\u202e\u2066\u200b\ufeff\x7f\U000e0041"
)
TINY = '[data]\nsource = "digits"\nsize = 8\n[references]\ntrained = "never"\n'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose ledger is sound, and holds such text wherever the ledger takes any."""
    root = tmp_path_factory.mktemp("hostile") / "project"
    create(root, parse_recipe(TINY, "recipe"), None, Progress())
    store = ObjectStore(root / ".qmu/objects")
    with Ledger.open(root / ".qmu/ledger.db") as ledger:
        for number in range(3):
            ledger.receive(
                f"{HOSTILE}{number}", HOSTILE, form=HOSTILE, regulation=HOSTILE, requested_by=HOSTILE,
                approved_by=HOSTILE, received="2026-01-01T00:00:00Z", due="2026-02-01T00:00:00Z",
            )  # fmt: skip
            request = f"{HOSTILE}{number}"
            ledger.start_step(request, HOSTILE, HOSTILE)
        ledger.finish_step(f"{HOSTILE}0", HOSTILE, HOSTILE, {"reason": HOSTILE, HOSTILE: HOSTILE})
        ledger.fail_step(f"{HOSTILE}1", HOSTILE, HOSTILE, HOSTILE)
        ledger.set_outcome(f"{HOSTILE}1", State.RECEIVED, Outcome.FAILED, HOSTILE)
        ledger.set_outcome(f"{HOSTILE}2", State.COMPLETED, Outcome.DENIED, HOSTILE)
        ledger.add_tombstones(f"{HOSTILE}0", [HOSTILE], [HOSTILE])
        ledger.start_removals([(HOSTILE, "a" * 64, 1, 1, HOSTILE)], HOSTILE, [])
        ledger.set_current(Pointer.RELEASE, store.put_bytes(b"no release"))
        with ledger.change() as db:
            rewritten(ledger, db)
        assert ledger.problems() == []
    return root


def rewritten(ledger: Ledger, db: Any) -> None:
    """Text where the ledger's own functions let none through; the chain vouches for it all the same."""
    db.execute("UPDATE keys SET since = ?, reason = ?", (HOSTILE, HOSTILE))
    ledger.append("key", 1)
    db.execute("UPDATE classes SET name = ? || code", (HOSTILE,))
    ledger.append("classes", 0)


def refused(text: str) -> list[str]:
    """Characters that are no print, and lines that begin with what a value says."""
    forged = [line for line in text.split("\n") if line.lstrip().startswith(FORGED)]
    return [hex(ord(c)) for c in text if not c.isprintable() and c != "\n"] + forged


COMMANDS = [
    ("status",), ("request", "list"), ("doctor",), ("doctor", "--repair"), ("keys", "list"),
    ("keys", "export", "--public"), ("keys", "revoke", HOSTILE), ("purge", "--dry-run"), ("receipt", "show"),
    ("receipt", "verify"), ("request", "deny", f"{HOSTILE}0", "--reason", HOSTILE),
    ("request", "withdraw", HOSTILE), ("request", "approve", f"{HOSTILE}1", "--by", HOSTILE),
    ("unlearn", "--pending", "--dry-run"), ("export",), ("verify", HOSTILE), ("train",),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]).split("\x1b")[0])
def test_whatever_a_command_prints_is_text(run: Any, hostile: Path, command: tuple[str, ...]) -> None:
    (hostile / ".qmu/holder").write_text(f"pid {HOSTILE}\nhost {HOSTILE}\ncommand {HOSTILE}\n", "utf-8")
    for options in ((), ("--json",)):
        ended = run(*command, "--project", hostile, *options)
        assert refused(ended.out) == [] and refused(ended.err) == [], ended
        assert ended.code != 1 and ended.out + ended.err


@pytest.mark.parametrize("time", [HOSTILE, "2026-01-01T00:00:00", "", "99999-01-01T00:00:00Z"])
def test_a_time_that_is_none_is_no_bug_of_ours(run: Any, hostile: Path, tmp_path: Path, time: str) -> None:
    own = copied(hostile, tmp_path / "own")
    for column in ("received", "due", "extended"):
        with Ledger.open(own / ".qmu/ledger.db") as ledger, ledger.change() as db:
            db.execute(f"UPDATE requests SET {column} = ? WHERE seq = 1", (time,))
            ledger.append("request", 1)
        ended = run("request", "list", "--project", own)
        assert ended.code == 8 and "request 1" in ended.err and refused(ended.err) == []


def test_json_says_what_the_ledger_says(run: Any, hostile: Path) -> None:
    listed = run("request", "list", "--project", hostile, "--json").json["requests"]
    assert [r["requested_by"] for r in listed] == [HOSTILE] * 3 and listed[2]["reason"] == HOSTILE


def test_whatever_is_rendered_is_text() -> None:
    nested = {HOSTILE: [HOSTILE, {HOSTILE: (HOSTILE, None, 1.5, [])}]}
    document = {"predicate": {"limits": [HOSTILE], "method": {HOSTILE: [HOSTILE]}}, "subject": []}
    texts = render.plain(render.legible(nested)), render.as_json(nested), receipt_as_text(document)
    assert [refused(text) for text in texts] == [[], [], []]


def test_json_is_the_same_value() -> None:
    value = {HOSTILE + "\U0001f600 \u00e9\ud800": [HOSTILE, 1, None]}
    assert json.loads(render.as_json(value)) == value


def test_progress_and_the_traceback_of_a_bug_say_text_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+", encoding="utf-8") as log:
        Progress(log).note(HOSTILE)
        with contextlib.redirect_stderr(log):
            main._bug(ValueError, ValueError(HOSTILE), None)
        log.seek(0)
        text = log.read()
    assert [c for c in text if not c.isprintable() and c != "\n"] == [] and "ValueError: " in text
