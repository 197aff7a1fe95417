"""Confirmations are of one user, one kind and one digest."""

from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.confirmed import is_noted, note
from qmu_edge.io.digest import sha256_of

DIGEST = sha256_of(b"a")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "qmu-edge"


def test_what_is_noted_is_known_and_nothing_else(state: Path) -> None:
    assert not is_noted("plugins", DIGEST)
    note("plugins", DIGEST)
    assert is_noted("plugins", DIGEST)
    assert not is_noted("models", DIGEST) and not is_noted("plugins", sha256_of(b"b"))
    assert (state / "plugins").stat().st_mode & 0o777 == 0o700


def test_what_another_user_has_noted_counts_for_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note("plugins", DIGEST)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert not is_noted("plugins", DIGEST)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_STATE_HOME names another"):
        note("plugins", DIGEST)
