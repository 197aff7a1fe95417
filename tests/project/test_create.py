"""A new project: whose its files are."""

import os
from pathlib import Path

from qmu_edge.io.digest import sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.project.create import create
from qmu_edge.project.doctor import examine
from qmu_edge.project.project import opened
from qmu_edge.project.publish import publish
from qmu_edge.project.records import Release
from qmu_edge.recipe import parse_recipe


def test_a_store_is_its_owners_alone_but_for_what_ships(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        recipe = parse_recipe('[data]\nsource = "digits"\nsize = 8\n', "tiny")
        create(tmp_path / "above/project", recipe, None, Progress())
        with opened(tmp_path / "above/project", Progress()) as project, project.locked():
            files = {"model.onnx": project.store.put_bytes(b"a model")}
            release = Release(checkpoint=sha256_of(b"a checkpoint"), files=files, sizes={})
            publish(project.root, project.store, release.checkpoint, release, {})
            open_to_others = {
                path.relative_to(project.folder).as_posix()
                for path in project.folder.rglob("*")
                if path.stat().st_mode & 0o077
            }
        everything = [tmp_path / "above", *(tmp_path / "above").rglob("*")]
        written = [path for path in everything if path.lstat().st_mode & 0o022 and not path.is_symlink()]
    finally:
        os.umask(before)
    assert {name for name in open_to_others if not name.startswith("releases")} <= {"holder"}
    assert written == [] and examine(tmp_path / "above/project")["problems"] == []
