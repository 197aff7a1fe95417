"""Folders with copies of all receipts: continued by the project that issued them, and by no other."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, LedgerError, QmuEdgeError
from qmu_edge.io.progress import Progress
from qmu_edge.project.create import create
from qmu_edge.project.kept import keep
from qmu_edge.project.project import opened
from qmu_edge.recipe import Recipe, parse_recipe
from tests.project.issuing import issue

TINY = parse_recipe('[data]\nsource = "digits"\nsize = 8\n', "tiny")
NAMES = ["000001.json", "000002.json", "000003.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A project that has issued three receipts."""
    root = tmp_path_factory.mktemp("made") / "project"
    create(root, Recipe.model_validate(TINY.model_dump()), None, Progress())
    return root, [issue(root, number) for number in range(3)]


@pytest.fixture
def folder(made: tuple[Path, list[bytes]], tmp_path: Path) -> Path:
    """All three of them."""
    (tmp_path / "receipts").mkdir()
    for name, data in zip(NAMES, made[1], strict=True):
        (tmp_path / "receipts" / name).write_bytes(data)
    return tmp_path / "receipts"


def _kept(root: Path, folder: Path, *, begin: bool = False) -> list[str]:
    with opened(root, Progress()) as project:
        found = keep(folder, project.ledger, project.store, begin=begin)
        assert found["receipts"] == len(project.ledger.receipts())
        return found["added"]


def test_a_project_without_receipts_makes_the_folder(tmp_path: Path) -> None:
    create(tmp_path / "new", Recipe.model_validate(TINY.model_dump()), None, Progress())
    assert _kept(tmp_path / "new", tmp_path / "ci/receipts") == []
    assert (tmp_path / "ci/receipts").stat().st_mode & 0o777 == 0o755
    first = issue(tmp_path / "new", 0)
    with pytest.raises(LedgerError, match="no receipt in it"):
        _kept(tmp_path / "new", tmp_path / "ci/receipts")
    assert _kept(tmp_path / "new", tmp_path / "ci/receipts", begin=True) == NAMES[:1]
    assert (tmp_path / "ci/receipts" / NAMES[0]).read_bytes() == first


@pytest.mark.parametrize("missing", [NAMES[2:], NAMES[1:], NAMES[:1], NAMES[1:2], []])
def test_what_is_missing_is_added(made: tuple[Path, list[bytes]], folder: Path, missing: list[str]) -> None:
    (folder / "README.md").write_text("ours")
    for name in missing:
        (folder / name).unlink()
    assert _kept(made[0], folder) == missing
    assert [(folder / name).read_bytes() for name in NAMES] == made[1]
    assert (folder / "README.md").read_text() == "ours"


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _replaced(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


WRONG: dict[str, tuple[Callable[[Path], object], str, type[QmuEdgeError]]] = {
    "empty": (_emptied, "no receipt in it, .* say --begin", LedgerError),
    "missing": (shutil.rmtree, "no receipt in it", LedgerError),
    "swapped": (
        lambda f: shutil.copyfile(f / NAMES[0], f / NAMES[1]), "not of this number", LedgerError,
    ),
    "one more": (lambda f: shutil.copyfile(f / NAMES[0], f / "000004.json"), "put back", LedgerError),
    "text": (lambda f: (f / NAMES[2]).write_text("{}"), "no receipt of", LedgerError),
    "twice": (lambda f: shutil.copyfile(f / NAMES[0], f / "1.json"), "say the same number", LedgerError),
    "a folder": (lambda f: (f / "9.json").mkdir(), "not a regular file", LedgerError),
    "a file": (_replaced, "Not a directory", ConfigError),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_folder_that_is_not_this_projects_is_refused(
    made: tuple[Path, list[bytes]], folder: Path, name: str
) -> None:
    change, said, error = WRONG[name]
    change(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(error, match=said):
        _kept(made[0], folder)
    assert sorted(folder.rglob("*")) == before


def test_a_project_that_was_put_back_does_not_continue(
    made: tuple[Path, list[bytes]], folder: Path, tmp_path: Path
) -> None:
    """Its first receipts are the same; then it went on otherwise, or not at all."""
    create(tmp_path / "old", Recipe.model_validate(TINY.model_dump()), None, Progress())
    for number in range(2):
        issue(tmp_path / "old", number)
    with pytest.raises(LedgerError, match="no receipt of"):
        _kept(tmp_path / "old", folder)
    backup = shutil.copytree(tmp_path / "old", tmp_path / "backup", symlinks=True)
    later = tmp_path / "later"
    issue(tmp_path / "old", 2)
    assert _kept(tmp_path / "old", later, begin=True) == NAMES
    with pytest.raises(LedgerError, match=r"has issued 2.* or was put back"):
        _kept(backup, later)


def test_nothing_is_kept_in_a_store(made: tuple[Path, list[bytes]]) -> None:
    with pytest.raises(ConfigError, match="lies in the store of a project"):
        _kept(made[0], made[0] / ".qmu/work", begin=True)
