"""The store keeps what it was given, says when it cannot, and has one writer."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.errors import BusyError, ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import BLOCK_BYTES, MAX_FILE, file_digest, unfinished, write_atomic
from qmu_edge.store.lock import lock_holder, locked
from qmu_edge.store.objects import ObjectStore

ABC = Sha256("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")  # FIPS 180-2, "abc"
LOCK = """
import sys, time
from pathlib import Path
from qmu_edge.store.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real second process that has locked the store in `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def alter(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


# Writing


def test_write_atomic_replaces_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_atomic(path, b"old")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("call", ["mkstemp", "fchmod", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_failing_disk_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "ledger"
    write_atomic(path, b"old")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile if call == "mkstemp" else os, call, fail)
        with pytest.raises(ConfigError, match="nothing was changed") as caught:
            write_atomic(path, b"new")
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["ledger"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_in_the_middle_of_the_data(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tempfile.mkstemp

    def full(prefix: str, dir: Path) -> tuple[int, str]:
        handle, name = real(prefix=prefix, dir=dir)
        os.close(handle)
        return os.open("/dev/full", os.O_WRONLY), name

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        objects.put_bytes(bytes(3 * BLOCK_BYTES))
    assert list(objects) == []
    assert objects.problems() == []


def test_the_folder_that_cannot_be_synced_is_told_honestly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    calls: list[int] = []

    def second_fails(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(ConfigError, match="power cut"):
        write_atomic(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


# Objects


def test_the_name_is_the_digest(objects: ObjectStore) -> None:
    assert objects.put_bytes(b"abc") == ABC
    objects.verify(ABC)
    path = objects.path(ABC)
    assert path == objects.root / ABC[:2] / ABC[2:]
    assert path.read_bytes() == objects.get_bytes(ABC) == b"abc"
    assert path.stat().st_mode & 0o777 == 0o400
    assert {p.stat().st_mode & 0o777 for p in (path.parent, objects.root)} == {0o700}
    assert list(objects) == [ABC]


def test_an_object_is_written_once(objects: ObjectStore) -> None:
    objects.put_bytes(b"abc")
    before = objects.path(ABC).stat()
    assert objects.put_bytes(b"abc") == ABC
    assert objects.path(ABC).stat().st_ino == before.st_ino
    assert objects.path(ABC).stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("damaged", [b"ab", b"abd"])
def test_an_altered_object_is_put_right(objects: ObjectStore, damaged: bytes) -> None:
    objects.put_bytes(b"abc")
    alter(objects.path(ABC), damaged)
    objects.put_bytes(b"abc")
    assert objects.get_bytes(ABC) == b"abc"


@given(data=st.binary(min_size=1, max_size=50), bit=st.integers(0))
def test_every_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, bit: int
) -> None:
    objects = ObjectStore(tmp_path_factory.mktemp("objects"))
    digest = objects.put_bytes(data)
    flipped = bytearray(data)
    flipped[bit % (8 * len(data)) // 8] ^= 1 << bit % 8
    alter(objects.path(digest), bytes(flipped))
    for read in (objects.verify, objects.get_bytes):
        with pytest.raises(IntegrityError, match=f"expected SHA-256 {digest}, found"):
            read(digest)
    (problem,) = objects.problems()
    assert digest in problem


def test_a_hole_is_not_read(objects: ObjectStore) -> None:
    """A file of 300 GB that takes no space kept `export` and `doctor` busy for minutes, in 4 GB of memory."""
    digest = objects.put_bytes(b"abc")
    objects.path(digest).chmod(0o600)
    os.truncate(objects.path(digest), 1 << 40)
    start = time.process_time()
    for read in (objects.verify, objects.get_bytes, lambda name: objects.get_bytes(name, MAX_FILE)):
        with pytest.raises(IntegrityError, match="bytes allowed"):
            read(digest)
    (problem,) = objects.problems()
    assert digest in problem and time.process_time() - start < 1


def test_missing_linked_and_too_large_objects(objects: ObjectStore, tmp_path: Path) -> None:
    for read in (objects.verify, objects.get_bytes):
        with pytest.raises(IntegrityError, match=f"{ABC}.*no file"):
            read(ABC)
    (tmp_path / "abc").write_bytes(b"abc")
    objects.path(ABC).parent.mkdir(parents=True)
    objects.path(ABC).symlink_to(tmp_path / "abc")
    for read in (objects.verify, objects.get_bytes):
        with pytest.raises(IntegrityError, match="no plain file"):
            read(ABC)
    objects.put_bytes(b"abc")
    assert not objects.path(ABC).is_symlink()
    assert objects.get_bytes(ABC, limit=3) == b"abc"
    with pytest.raises(IntegrityError, match="2 bytes allowed"):
        objects.get_bytes(ABC, limit=2)


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc/passwd", ABC.upper(), ABC[:-1], ABC + "\n", "g" * 64, "٣" * 64]
)
def test_only_a_digest_becomes_a_path(objects: ObjectStore, name: str) -> None:
    with pytest.raises(IntegrityError, match="64 lower-case hex digits"):
        objects.path(Sha256(name))


def test_check_names_foreign_files_and_passes_over_unfinished_ones(objects: ObjectStore) -> None:
    objects.put_bytes(b"abc")
    (objects.root / ABC[:2] / ".tmp-dead").write_bytes(b"a")
    (objects.root / "notes.txt").write_bytes(b"")
    (objects.root / ABC).write_bytes(b"abc")  # right name, wrong place
    assert len(objects.problems()) == 2
    assert list(objects) == [ABC]


def test_a_store_without_objects(objects: ObjectStore) -> None:
    assert list(objects) == []
    assert objects.problems() == []


def test_a_file_with_a_hole_is_not_digested(tmp_path: Path) -> None:
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 40)
    with pytest.raises(IntegrityError, match=r"hole: 1099511627776 bytes, allowed"):
        file_digest(tmp_path / "hole")


def test_file_digest_of_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="No such file"):
        file_digest(tmp_path / "absent")


# The lock


def test_hold_writes_and_removes_the_holder(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert f"pid {os.getpid()}\n" in (tmp_path / "holder").read_text()
    assert not (tmp_path / "holder").exists()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("wait_s", [0.0, 0.2, -1.0])
def test_the_same_process_cannot_hold_twice(tmp_path: Path, wait_s: float) -> None:
    with locked(tmp_path):
        with pytest.raises(BusyError, match=f"pid {os.getpid()}"):
            with locked(tmp_path, wait_s=wait_s):
                pass
        assert (tmp_path / "holder").exists()


def test_a_second_process_is_told_who_holds(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(BusyError, match=f"pid {other.pid}, host .*, command -c"):
        with locked(tmp_path):
            pass


def test_a_killed_process_leaves_the_store_free(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert str(other.pid) in (tmp_path / "holder").read_text()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / "holder").read_text()


def test_the_name_that_a_killed_process_left_is_not_told(tmp_path: Path) -> None:
    """Between the lock and the name of the new holder, the file still names the dead one."""
    with locked(tmp_path):
        mine = (tmp_path / "holder").read_text()
        (tmp_path / "holder").write_text(mine.replace(str(os.getpid()), str(_dead_pid())))
        assert lock_holder(tmp_path) is None
        with pytest.raises(BusyError, match="has not written its name"), locked(tmp_path):
            pass
        (tmp_path / "holder").write_text(f"pid {_dead_pid()}\nhost another\n")
        assert lock_holder(tmp_path) == f"pid {_dead_pid()}, host another"


def _dead_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())  # one more than there can be


def test_the_next_holder_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    inside = tmp_path / "store"
    (inside / "objects/ab").mkdir(parents=True)
    (inside / "objects/ab/.tmp-1").write_bytes(b"half")
    (inside / ".tmp-2").symlink_to(outside)
    (inside / "objects/ab/kept").write_bytes(b"")
    assert [p.name for p in unfinished(inside)] == [".tmp-2", ".tmp-1"]
    with locked(inside):
        assert unfinished(inside) == []
    assert (inside / "objects/ab/kept").exists() and outside.read_bytes() == b"mine"


def test_a_leftover_that_cannot_be_removed_is_said_and_frees_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".tmp-1").write_bytes(b"half")

    def fail(*_args: object, **_named: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(ConfigError, match=r"cannot remove .*Input/output error"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_an_error_inside_frees_the_store(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_store_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="does not exist"), locked(tmp_path / "absent"):
        pass
    real = os.open

    def read_only(path: str, flags: int, *args: int, **named: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *args, **named)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ConfigError, match="Read-only file system"), locked(tmp_path):
        pass
