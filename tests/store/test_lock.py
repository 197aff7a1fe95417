"""The lock of a store: one holder, who is named, and nothing left behind."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from qmu_edge.errors import BusyError, ConfigError
from qmu_edge.io.files import TEMPORARY
from qmu_edge.store.lock import lock_holder, locked


def test_the_second_one_is_told_who_holds_it_and_may_follow(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with locked(tmp_path):
        assert f"pid {os.getpid()}, host {platform.node()}, command " in str(lock_holder(tmp_path))
        with pytest.raises(BusyError, match=f"is locked by pid {os.getpid()}, "), locked(tmp_path):
            raise AssertionError("two holders")
        assert lock_holder(tmp_path) is not None
    assert lock_holder(tmp_path) is None
    with locked(tmp_path):
        pass


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        assert lock_holder(tmp_path)


def test_a_name_that_a_dead_process_left_is_nobodys(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    holder = tmp_path / "holder"
    holder.write_text(f"pid {dead.pid}\nhost {platform.node()}\n", "utf-8")
    assert lock_holder(tmp_path) is None
    holder.write_text(f"pid {dead.pid}\nhost elsewhere\n", "utf-8")  # nobody here can tell
    assert lock_holder(tmp_path) == f"pid {dead.pid}, host elsewhere"


def test_unfinished_files_go_and_all_others_stay(tmp_path: Path) -> None:
    for name in (f"{TEMPORARY}half", "whole"):
        (tmp_path / name).write_bytes(b"x")
    with locked(tmp_path):
        assert not (tmp_path / f"{TEMPORARY}half").exists()
    assert (tmp_path / "whole").read_bytes() == b"x"


def test_whatever_is_temporary_goes_and_nothing_that_it_leads_to(tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    for folder in (store / f"{TEMPORARY}folder/below", store / "deep", elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / "kept").write_bytes(b"x")
    os.mkfifo(store / f"{TEMPORARY}pipe")
    os.mkfifo(store / f"{TEMPORARY}folder/pipe")
    for link in (f"{TEMPORARY}link", f"{TEMPORARY}folder/below/link", f"deep/{TEMPORARY}link"):
        (store / link).symlink_to(elsewhere)
    with locked(store):
        assert {path.name for path in store.rglob("*")} == {"deep", "lock", "holder"}
    assert (elsewhere / "kept").read_bytes() == b"x"


def test_nobody_else_can_hold_the_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").touch(mode=0o644)
    with locked(tmp_path):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_where_there_is_no_folder_there_is_no_lock(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no store at .*absent"), locked(tmp_path / "absent"):
        raise AssertionError("locked")
    assert not (tmp_path / "absent").exists()
