"""What the doctor finds, what it repairs, and what it leaves to a person."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import BusyError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import UNFINISHED
from qmu_edge.io.progress import Progress
from qmu_edge.project.create import create
from qmu_edge.project.doctor import examine
from qmu_edge.project.project import Project, opened
from qmu_edge.project.publish import publish, sums
from qmu_edge.project.records import Release
from qmu_edge.recipe import Recipe, parse_recipe
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.lock import locked
from tests.receipt.test_receipt import made
from tests.store.ledger.contents import RECEIVED

TINY = parse_recipe('[data]\nsource = "digits"\nsize = 8\n', "tiny")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a release of two small files, made without any network."""
    root = tmp_path_factory.mktemp("released") / "project"
    create(root, Recipe.model_validate(TINY.model_dump()), None, Progress())
    with opened(root, Progress()) as project, project.locked():
        release(project, b"one")
    assert examine(root)["problems"] == []
    return root


def release(project: Project, content: bytes) -> str:
    """Store and publish a release of one file."""
    sha = project.store.put_bytes(content)
    whole = Release(
        checkpoint=Sha256("0" * 64), files={"model.onnx": sha}, sizes={"model.onnx": len(content)}
    )
    made = project.store.put_bytes(whole.to_bytes())
    project.ledger.set_meta("release:x", made)
    project.ledger.set_current(Pointer.RELEASE, made)
    publish(project.root, project.store, made, whole, {})
    return sha


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "project", symlinks=True))


def model(root: Path) -> Path:
    return (root / "release").resolve() / "model.onnx"


def stored_model(root: Path) -> Path:
    with opened(root, Progress()) as project:
        return next(p for d in project.store if (p := project.store.path(d)).read_bytes() == b"one")


def relink(root: Path, target: str) -> None:
    (root / "release").unlink()
    (root / "release").symlink_to(target)


def folder(root: Path, name: str) -> Path:
    made = root / ".qmu/releases" / name
    made.mkdir()
    (made / "model.onnx").write_bytes(b"half")
    return made


def hidden(root: Path) -> None:
    """What a killed `export --bundle device` leaves."""
    left = root / f"{UNFINISHED}device"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    (root / ".tmp-mine").mkdir()  # somebody's own


def work(root: Path, name: str) -> None:
    path = root / ".qmu/work" / f"{name}.safetensors"
    path.touch(mode=0o600)


def temporary(path: Path) -> None:
    """A folder with whatever may lie in one."""
    (path / "below").mkdir(parents=True)
    (path / "below/.tmp-file").write_bytes(b"")
    (path / "link").symlink_to("/")
    os.mkfifo(path / "below/pipe")


Damage = Callable[[Path], object]
REPAIRED: dict[str, tuple[Damage, str]] = {
    "a temporary file": (lambda r: (r / ".qmu/objects/.tmp-1").write_bytes(b""), "interrupted write"),
    "a temporary folder": (lambda r: temporary(r / ".qmu/.tmp-x"), "interrupted write"),
    "a temporary pipe": (lambda r: os.mkfifo(r / ".qmu/work/.tmp-x"), "interrupted write"),
    "a temporary link": (lambda r: (r / ".qmu/.tmp-release").symlink_to("x"), "interrupted write"),
    "keys for all": (lambda r: (r / ".qmu/keys").chmod(0o755), "mode 0755 lets others in"),
    "the key for the group": (lambda r: (r / ".qmu/keys/pseudonym.key").chmod(0o640), "mode 0640"),
    "objects for all": (lambda r: (r / ".qmu/objects").chmod(0o755), "objects: mode 0755 lets others in"),
    "states for the group": (lambda r: (r / ".qmu/work").chmod(0o750), "work: mode 0750 lets others in"),
    "the store for all": (lambda r: (r / ".qmu").chmod(0o777), ".qmu: mode 0777 lets others write"),
    "releases for the group": (lambda r: (r / ".qmu/releases").chmod(0o775), "0775 lets others write"),
    "a release for all": (lambda r: model(r).parent.chmod(0o757), "0757 lets others write"),
    "a released file for all": (lambda r: model(r).chmod(0o666), "model.onnx: mode 0666 lets others write"),
    "the recipe for all": (lambda r: (r / "qmu.toml").chmod(0o646), "qmu.toml: mode 0646 lets others write"),
    "the folder for all": (lambda r: r.chmod(0o777), "project: mode 0777 lets others write"),
    "the ledger for all": (lambda r: (r / ".qmu/ledger.db").chmod(0o644), "mode 0644"),
    "images for all": (lambda r: (r / ".qmu/cache/images.npy").chmod(0o604), "mode 0604"),
    "no link": (lambda r: (r / "release").unlink(), "not the files of the current"),
    "a dangling link": (lambda r: relink(r, ".qmu/releases/gone"), "not the files of the current"),
    "a link elsewhere": (lambda r: relink(r, ".."), "not the files of the current"),
    "a released file altered": (lambda r: model(r).write_bytes(b"two"), "not the files of the current"),
    "a released file missing": (lambda r: model(r).unlink(), "not the files of the current"),
    "the sums altered": (lambda r: model(r).with_name("SHA256SUMS").write_bytes(b""), "altered"),
    "no sums": (lambda r: model(r).with_name("SHA256SUMS").unlink(), "altered"),
    "a file more": (lambda r: model(r).with_name("more").write_bytes(b""), "altered"),
    "half a bundle": (lambda r: hidden(r), "interrupted export"),
    "half a folder": (lambda r: folder(r, 16 * "0"), "not whole, and not current"),
    "a state of no training": (lambda r: work(r, "train-0123456789abcdef"), "nothing goes on with"),
    "a state of no attempt": (lambda r: work(r, "0123456789abcdef-qmul"), "nothing goes on with"),
}  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_what_is_safe_is_repaired(root: Path, name: str) -> None:
    damage, words = REPAIRED[name]
    damage(root)
    (problem,) = examine(root)["problems"]
    assert words in problem and str(root) in problem
    assert examine(root)["repairable"] == [problem]
    repaired = examine(root, repair=True)
    assert (repaired["problems"], repaired["repaired"]) == ([], [problem])
    assert examine(root)["problems"] == []
    assert model(root).read_bytes() == b"one"


def alter(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"altered")


def other_key(folder: Path) -> None:
    (folder / "pseudonym.key").write_bytes(bytes(32))


def users_own(link: Path) -> None:
    link.unlink()
    link.mkdir()


def _row(root: Path) -> None:
    with Ledger.open(root / ".qmu/ledger.db") as ledger:
        ledger.rows("UPDATE samples SET label = 0 WHERE position = 1")


LEFT: dict[str, tuple[Damage, str, bool]] = {
    "an object altered": (lambda r: alter(stored_model(r)), "is altered", True),
    "an object missing": (lambda r: stored_model(r).unlink(), "needs it, and it is missing", True),
    "a foreign file": (lambda r: (r / ".qmu/objects/notes").touch(), "no object of this store", True),
    "images altered": (lambda r: alter(r / ".qmu/cache/images.npy"), "images.npy", True),
    "the key changed": (lambda r: other_key(r / ".qmu/keys"), "not the key", True),
    "something of the user's": (
        lambda r: users_own(r / "release"), "not the files of the current", True,
    ),
    "a row changed": (_row, "not as the last event left it", False),
    "no ledger": (lambda r: (r / ".qmu/ledger.db").unlink(), "no such file", True),
    "a ledger that is none": (lambda r: alter(r / ".qmu/ledger.db"), "ledger.db", False),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_safe_is_left_to_a_person(root: Path, name: str) -> None:
    damage, words, ledger_holds = LEFT[name]
    damage(root)
    found = examine(root)
    assert any(words in problem for problem in found["problems"])
    assert found["repairable"] == [] and found["ledger_holds"] == ledger_holds
    again = examine(root, repair=True)
    assert again["problems"] == found["problems"] and again["repaired"] == []


def test_a_repair_changes_neither_the_ledger_nor_an_object(root: Path) -> None:
    for damage, _ in REPAIRED.values():
        damage(root) if model(root).exists() else None

    def kept() -> list[tuple[str, bytes]]:
        files = (p for p in (root / ".qmu/objects").rglob("*") if p.is_file() and ".tmp-" not in p.name)
        return [*((str(p), p.read_bytes()) for p in sorted(files)), ("", head(root).encode())]

    before = kept()
    assert examine(root, repair=True)["problems"] == []
    assert kept() == before


def head(root: Path) -> str:
    with Ledger.open(root / ".qmu/ledger.db") as ledger:
        return ledger.head()


def test_an_older_release_that_is_whole_stays(root: Path) -> None:
    first = (root / "release").resolve()
    with opened(root, Progress()) as project, project.locked():
        release(project, b"newer")
    assert examine(root, repair=True)["problems"] == []
    assert first.is_dir() and first.name != (root / "release").resolve().name
    (first / "model.onnx").write_bytes(b"altered")
    assert len(examine(root, repair=True)["repaired"]) == 1
    assert not first.exists() and model(root).read_bytes() == b"newer"


def test_an_object_that_nothing_names_is_counted_and_kept(root: Path) -> None:
    with opened(root, Progress()) as project:
        digest = project.store.put_bytes(b"of an attempt that was given up")
        found = examine(root, repair=True)
        assert (found["problems"], found["unnamed"]) == ([], 1)
        project.store.verify(digest)


HOLDER = """
import sys
from pathlib import Path
from qmu_edge.store.lock import locked
from tests.receipt.test_receipt import made
from tests.store.ledger.contents import RECEIVED
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_writer_at_work_is_no_problem_and_is_not_repaired(root: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(root / ".qmu")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        (root / ".qmu/objects/.tmp-1").write_bytes(b"half")
        found = examine(root)
        assert found["problems"] == [] and f"pid {process.pid}," in (found["held_by"] or "")
        with pytest.raises(BusyError, match=str(process.pid)):
            examine(root, repair=True)
        process.kill()
        process.wait()
        assert process.stdin is not None
    found = examine(root)
    assert found["held_by"] is None and "interrupted write" in found["problems"][0]


def test_a_command_waits_for_a_writer_when_it_is_asked_to(root: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(root / ".qmu")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with opened(root, Progress(), wait_s=0.1) as project:
            with pytest.raises(BusyError, match=f"pid {process.pid}"), project.locked():
                pass
        threading.Timer(0.5, process.stdin.close).start()
        with opened(root, Progress(), wait_s=60.0) as project, project.locked():
            assert process.wait() == 0


def test_looking_takes_no_lock_and_writes_nothing(root: Path) -> None:
    with locked(root / ".qmu"):
        assert examine(root)["problems"] == []
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if not p.name.endswith(("-wal", "-shm"))}
    before.pop(root / ".qmu")  # where SQLite puts its own two
    examine(root)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_the_released_folder_can_be_checked_without_us(root: Path) -> None:
    assert (root / "release/SHA256SUMS").read_bytes() == sums({"model.onnx": _sha(b"one")})
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=root / "release", check=True)


def _sha(data: bytes) -> str:

    return hashlib.sha256(data).hexdigest()


def test_the_ledger_is_examined_at_one_instant(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody changes a row between the look at the events and the look at the rows."""
    real: Any = Ledger._chain

    def meanwhile(self: Ledger) -> Any:
        with Ledger.open(root / ".qmu/ledger.db") as other:
            other.set_meta("word", 1)
        yield from real(self)
        with Ledger.open(root / ".qmu/ledger.db") as other:
            other.set_meta("word", 2)

    monkeypatch.setattr(Ledger, "_chain", meanwhile)
    assert examine(root)["problems"] == []


@pytest.mark.parametrize("litter", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_a_file_manager_leaves_is_no_damage(root: Path, litter: str) -> None:
    folders = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    for folder in folders:
        (folder / litter).write_bytes(b"x")
    assert len(folders) > 8 and examine(root)["problems"] == []
    (root / ".qmu/objects/other").write_bytes(b"x")
    assert len(examine(root)["problems"]) == 1


def test_a_ledger_that_was_put_back_is_told_by_the_receipts_that_are_left(root: Path) -> None:
    def issue(number: int) -> None:
        with opened(root, Progress()) as project, project.locked():
            ledger, name = project.ledger, f"request {number}"
            ledger.receive(name, _sha(name.encode()), **RECEIVED)
            ledger.start_step(name, "run", "receipted")
            said = asdict(ledger.standing_at(name, "run", "receipted"))
            previous = ledger.current(Pointer.RECEIPT)
            data = made(
                project.signing_key, ledger=said, previous=previous, batch={"requests": 1, "forget": 0}
            )
            digest = project.store.put_bytes(data)
            ledger.commit_release(name, checkpoint=None, release=None, receipt=digest)

    issue(0)
    with Ledger.open(root / ".qmu/ledger.db") as ledger:
        ledger.forget_deleted_pages()
    backup = (root / ".qmu/ledger.db").read_bytes()
    issue(1)
    assert examine(root)["problems"] == []
    for path in (root / ".qmu").glob("ledger.db*"):
        path.unlink()
    (root / ".qmu/ledger.db").touch(mode=0o600)
    (root / ".qmu/ledger.db").write_bytes(backup)
    found = examine(root, repair=True)
    assert [("put back, cut or written anew" in p) for p in found["problems"]] == [True]
    assert not found["ledger_holds"] and found["repaired"] == []


def test_a_folder_that_only_looks_temporary_is_left_alone(root: Path) -> None:
    own = root / ".tmp-mine"
    own.mkdir()
    (own / "thesis.txt").write_text("precious")
    examine(root, repair=True)
    assert (own / "thesis.txt").read_text() == "precious"
