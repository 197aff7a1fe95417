"""A project folder that a stranger made: nothing outside it is read by its names, written or removed."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, IntegrityError, QmuEdgeError
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.project.create import create
from qmu_edge.project.doctor import examine
from qmu_edge.project.project import STORE, Project, opened
from qmu_edge.project.publish import publish_current
from qmu_edge.project.purge import purge
from qmu_edge.project.staging import STAGING
from qmu_edge.recipe import Recipe, parse_recipe
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.lock import locked

TINY = parse_recipe('[data]\nsource = "digits"\nsize = 8\n', "tiny")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project."""
    root = tmp_path_factory.mktemp("made") / "project"
    create(root, Recipe.model_validate(TINY.model_dump()), None, Progress())
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for the stranger."""
    return Path(shutil.copytree(made, tmp_path / "project", symlinks=True))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is nobody's business: a folder beside the project."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("diary", "lock", "signing-0.key", ".tmp-mine", "state.safetensors"):
        (folder / name).write_text(name)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def _publish(project: Project) -> object:
    return publish_current(project.root, project.store, project.ledger, project.results)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "doctor": examine,
    "doctor --repair": lambda root: examine(root, repair=True),
    "publish": lambda root: _within(root, _publish),
    "purge": lambda root: _within(root, lambda project: purge(project, NOW, at_once=True)),
    "keys rotate": lambda root: _within(root, lambda p: keys.renew(p.folder / "keys", p.ledger)),
    "the lock": lambda root: locked(root / STORE).__enter__(),
}


def _within(root: Path, work: Callable[[Project], object]) -> None:
    with opened(root, Progress()) as project, project.locked():
        work(project)


def _tried(root: Path) -> None:
    """Whatever each command does, it ends as it should."""
    for command in COMMANDS.values():
        try:
            command(root)
        except QmuEdgeError as error:
            assert str(error)


@pytest.mark.parametrize("where", ["../../../../outside/diary", "absolute"])
def test_a_release_names_files_of_its_own_folder_only(root: Path, outside: Path, where: str) -> None:
    name = str(outside / "diary") if where == "absolute" else where
    with opened(root, Progress()) as project:
        sha = project.store.put_bytes(b"overwritten")
        document = {"checkpoint": sha256_of(b""), "files": {name: sha}, "bytes": {name: 11}}
        project.ledger.set_current(Pointer.RELEASE, project.store.put_bytes(json.dumps(document).encode()))
        before = content(outside)
        with pytest.raises(IntegrityError, match="is no name of a file"):
            _publish(project)
    (problem,) = examine(root, repair=True)["problems"]
    assert "a stored release of checkpoint e3b0c44298fc: " in problem
    _tried(root)
    assert content(outside) == before


@pytest.mark.parametrize("kind", ["training state", "release folder", "checkpoint"])
@pytest.mark.parametrize("name", ["../../../outside", "../../../outside/diary", "absolute"])
def test_a_purge_removes_what_lies_in_its_folders_only(
    root: Path, outside: Path, kind: str, name: str
) -> None:
    named = str(outside) if name == "absolute" else name
    with opened(root, Progress()) as project:
        project.ledger.start_removals([(kind, named, 1, 1, NOW.isoformat())], "asked for", [])
    before = content(outside)
    (problem,) = examine(root)["problems"]
    assert "removal 1" in problem and "no name of a file" in problem
    _tried(root)
    assert content(outside) == before


LINKED = (
    ".", "objects", "objects/ab", "keys", "keys/objects", "cache", "work", "releases",
    "releases/0123456789abcdef", "lock", "holder", "ledger.db-wal", "ledger.db-shm", "ledger.db-journal",
    "cache/images.npy",
)  # fmt: skip


@pytest.mark.parametrize("name", LINKED)
def test_a_store_with_a_link_is_not_opened(root: Path, outside: Path, name: str) -> None:
    place = root / STORE / name
    if place.exists():
        shutil.move(place, outside / "its") if name == "." else _remove(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    target = outside / "lock" if place.suffix or name in ("lock", "holder") else outside
    (root / STORE if name == "." else place).symlink_to(outside / "its" if name == "." else target)
    before = content(outside) if name != "." else {}
    for command in COMMANDS.values():
        with pytest.raises(IntegrityError, match="a link; allowed are folders and regular files"):
            command(root)
    assert not before or content(outside) == before


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name", ["holder", "lock", "cache/images.npy", "work/pipe"])
def test_nobody_waits_for_a_pipe_in_the_store(root: Path, name: str) -> None:
    place = root / STORE / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    for command in COMMANDS.values():
        with pytest.raises(IntegrityError, match="something special"):
            command(root)


def test_init_does_not_write_through_a_link_that_was_there_before(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "fresh"
    root.mkdir()
    (root / STAGING).symlink_to(outside)
    before = content(outside)
    with pytest.raises(ConfigError, match="File exists"):
        create(root, Recipe.model_validate(TINY.model_dump()), None, Progress())
    assert content(outside) == before and not (root / STORE).exists()


def test_a_temporary_link_of_a_killed_writer_is_swept(root: Path, outside: Path) -> None:
    (root / STORE / ".tmp-release").symlink_to(outside)
    before = content(outside)
    assert examine(root, repair=True)["problems"] == [] and not (root / STORE / ".tmp-release").is_symlink()
    assert content(outside) == before


def test_what_this_program_never_writes_is_not_removed(root: Path) -> None:
    for name in ("work/.DS_Store", "releases/.DS_Store", "work/my notes"):
        (root / STORE / name).write_text("mine")
    with opened(root, Progress()) as project, project.locked():
        assert purge(project, NOW, at_once=True)["removed"] == []
    assert (root / STORE / "releases/.DS_Store").read_text() == "mine"
