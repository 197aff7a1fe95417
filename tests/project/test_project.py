"""Which project a command opens: one's own that is come across, or anybody's that is named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qmu_edge import api
from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.io.progress import Progress
from qmu_edge.project.create import create
from qmu_edge.project.project import RECIPE, STORE, find, search
from qmu_edge.recipe import parse_recipe
from qmu_edge.store.ledger.ledger import Ledger

SOMEBODY = 12345


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that looks like a project, and one in it."""
    root = tmp_path / "shop"
    (root / STORE).mkdir(parents=True)
    (root / RECIPE).touch()
    (root / "photos").mkdir()
    return root


@pytest.fixture
def given_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, of another user: as root really, else by being another one ourselves."""
    if os.geteuid() == 0:
        for path in (root, root / STORE, root / RECIPE):
            os.chown(path, SOMEBODY, SOMEBODY)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    return root


def test_ones_own_project_is_found_upwards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "photos")
    assert search() == find() == find(root) == find(root / "photos") == root


def test_somebody_elses_is_opened_only_where_it_is_named(
    given_away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (given_away, given_away / "photos"):
        monkeypatch.chdir(place)
        with pytest.raises(ConfigError, match=rf"not yours; if you trust it, say --project {given_away}$"):
            search()
        for command in (api.status, api.doctor, api.train, api.export, api.request_list, api.receipt_verify):
            with pytest.raises(ConfigError, match="not yours"):
                command()
        with pytest.raises(ConfigError, match="not yours"):  # not the structure alone, as without a project
            api.verify(place / "model.onnx")
    with pytest.raises(ConfigError, match="not yours"):
        find(given_away / "photos")
    assert find(given_away) == find(given_away / "photos" / "..") == given_away


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", [RECIPE, STORE])
def test_a_part_that_is_somebody_elses_suffices(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that all may write to, like /tmp."""
    os.chown(root / name, SOMEBODY, SOMEBODY)
    monkeypatch.chdir(root)
    with pytest.raises(ConfigError, match=f"a project of user {SOMEBODY}, not yours"):
        search()


def test_what_root_has_made_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of root's")
    monkeypatch.chdir(root)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert search() == root


def test_where_there_is_none_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert search() is None and "problems" in api.doctor()
    for place in (None, tmp_path):
        with pytest.raises(ConfigError, match=f"no project at {tmp_path} or above"):
            find(place)
    with pytest.raises(ConfigError, match="no project at"):
        api.doctor(tmp_path)  # a misspelt folder is not healthy


def test_nothing_is_written_upon_a_ledger_that_was_changed_behind_its_back(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    create(root, parse_recipe('[data]\nsource = "digits"\nsize = 8\n', "tiny"), None, Progress())
    request = tmp_path / "req.json"
    api.request_new(subject_ids=["writer-3"], out=request)
    api.request_add(request, root)
    with Ledger.open(root / STORE / "ledger.db") as ledger:
        ledger.rows("UPDATE requests SET due = NULL")
        head, (asked,) = ledger.head(), ledger.requests()
    writes: list[Callable[[], object]] = [
        lambda: api.request_approve(asked.request_id, root, by="ticket-1"),
        lambda: api.request_deny(asked.request_id, root, reason="other"), lambda: api.keys_rotate(root),
        lambda: api.purge(root, now=True), lambda: api.train(root), lambda: api.export(root),
        lambda: api.unlearn(None, root, pending=True), lambda: api.references_build(root),
    ]  # fmt: skip
    for write in writes:
        with pytest.raises(LedgerError, match="request 1 is not as the last event left it; qmu-edge doctor"):
            write()
    with Ledger.open(root / STORE / "ledger.db") as ledger:
        assert ledger.head() == head
    assert api.status(root)["open"] == 1  # looking is allowed
