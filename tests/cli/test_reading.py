"""Projects that may only be read: an auditor's, a backup that was put back, a volume mounted read-only."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ended, copied, files_of, run_command
from tests.cli.refusals import refused

SOMEBODY = 12345


def as_reader(works: dict[str, Callable[[], Ended]]) -> dict[str, Ended]:
    """Run commands as a user whom permissions bind: in a child process where this one is root."""
    if os.geteuid() != 0:
        return {name: work() for name, work in works.items()}
    receive, send = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            found = {name: work() for name, work in works.items()}
        except BaseException as error:
            found = {"": Ended(-1, "", repr(error))}
        with open(send, "w", encoding="utf-8") as file:
            json.dump(found, file)
        os._exit(0)
    os.close(send)
    with open(receive, encoding="utf-8") as file:
        said = json.load(file)
    os.waitpid(child, 0)
    return {name: Ended(*ended) for name, ended in said.items()}


def refused_to_reader(*words: object, said: str = "Permission denied") -> None:
    """The command ends in one line about permissions."""
    found = as_reader({"it": lambda: run_command(*words)})
    assert "" not in found, found
    refused(found["it"], 2, said)


def own(folder: Path, mode: int) -> None:
    """Give a tree to the reader, with these permissions for files, and x for folders."""
    for path in (folder, *folder.rglob("*")):
        if os.geteuid() == 0:
            os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(mode | 0o100 if path.is_dir() else mode)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the reader can reach, and write to."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    own(folder, 0o600)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


def number(status: Ended) -> int:
    """Of the ledger's newest event."""
    (found,) = re.findall(r"(\d+) events", status.out)
    return int(found)


def reading(made: Any, project: Path, out: Path) -> dict[str, Callable[[], Ended]]:
    """Every command that has nothing to write into the project."""
    ask, file = ("unlearn", "--request", made.request, "--dry-run"), project / "release/model.onnx"
    return {
        "status": lambda: run_command("status", "--project", project),
        "request list": lambda: run_command("request", "list", "--project", project),
        "receipt show": lambda: run_command("receipt", "show", "--project", project),
        "receipt verify": lambda: run_command("receipt", "verify", "--project", project),
        "report": lambda: run_command("report", "--project", project),
        "keys list": lambda: run_command("keys", "list", "--project", project),
        "dry run": lambda: run_command(*ask, "--project", project),
        "pending": lambda: run_command("unlearn", "--pending", "--dry-run", "--project", project),
        "purge": lambda: run_command("purge", "--dry-run", "--project", project),
        "doctor": lambda: run_command("doctor", "--project", project),
        "export": lambda: run_command("export", "--out", out, "--project", project, "--quiet"),
        "verify": lambda: run_command("verify", file, "--project", project, "--quiet"),
    }  # fmt: skip


def _log_left(project: Path) -> None:
    """As a copy of a running project has it: the newest events are in the log alone."""
    from qmu_edge.store.ledger.ledger import Ledger

    ledger = Ledger.open(project / ".qmu/ledger.db")
    ledger.set_meta("newest", 1)
    for end in ("", "-wal"):
        shutil.copyfile(f"{ledger.path}{end}", f"{project}/{end}copy")
    ledger.close()
    for end in ("", "-wal"):
        Path(f"{project}/{end}copy").chmod(0o600)
        shutil.move(f"{project}/{end}copy", f"{ledger.path}{end}")


@pytest.mark.parametrize("log", [False, True], ids=["whole", "with a log"])
def test_whoever_may_only_read_can_read_everything(
    made: Any, served: Path, place: Path, tmp_path: Path, log: bool
) -> None:
    project, request = copied(served, place / "project"), Path(shutil.copy(made.request, place / "req.json"))
    request.chmod(0o644)
    made = made._replace(request=request)
    (place / "out").mkdir(mode=0o777)
    own(place / "out", 0o600)
    expected = {name: work() for name, work in reading(made, project, tmp_path / "mine").items()}
    if log:
        _log_left(project)
    own(project, 0o400)
    before = files_of(project)
    found = as_reader(reading(made, project, place / "out"))
    assert "" not in found, found
    for name, ended in found.items():
        assert ended.code == expected[name].code == 0, (name, ended.err)
    assert number(found["status"]) == number(expected["status"]) + log
    for name in ("request list", "receipt verify", "report", "keys list", "dry run"):
        assert found[name].out == expected[name].out, name
    assert files_of(project) == before
    exported = {path.name: path.read_bytes() for path in (place / "out").iterdir()}
    assert exported == {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} != {}
    refused_to_reader("purge", "--project", project)
    refused_to_reader("train", "--project", project, "--quiet")


CLOSED = (
    ".qmu/ledger.db",
    ".qmu/objects",
    ".qmu/cache/images.npy",
    ".qmu/keys/pseudonym.key",
    ".qmu",
    "qmu.toml",
)


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_closed_to_a_user_is_no_damage(made: Any, served: Path, place: Path, name: str) -> None:
    project, request = copied(served, place / "project"), Path(shutil.copy(made.request, place / "req.json"))
    request.chmod(0o644)
    for work in reading(made._replace(request=request), project, place / "warm").values():
        work()  # so that nothing has to be imported later
    own(project, 0o600)
    (project / name).chmod(0)
    words = ["unlearn", "--request", request, "--dry-run", "--project", project]
    if name in (".qmu/objects", ".qmu/cache/images.npy"):
        words = ["verify", project / "release/model.onnx", "--project", project, "--quiet"]
    refused_to_reader(*words, said="ermission denied")
