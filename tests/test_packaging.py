"""What is installed: the package list, the links, the data files, and nothing else."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LINKS = ("cli", "models", "export")


def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def packages_in_tree() -> set[str]:
    inits = [(ROOT / "qmu_edge", "qmu_edge"), *((ROOT / name, f"qmu_edge.{name}") for name in LINKS)]
    found = set()
    for folder, name in inits:
        for init in folder.rglob("__init__.py"):  # does not follow links
            inner = init.parent.relative_to(folder).parts
            found.add(".".join((name, *inner)))
    return found


def test_the_package_list_is_the_tree() -> None:
    assert set(project()["tool"]["setuptools"]["packages"]) == packages_in_tree()


def test_every_folder_of_python_files_is_a_package() -> None:
    for top in ("qmu_edge", *LINKS):
        folders = {path.parent for path in (ROOT / top).rglob("*.py")}
        assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", LINKS)
def test_a_part_at_the_top_is_a_relative_link_in_the_package(name: str) -> None:
    link = ROOT / "qmu_edge" / name
    assert link.is_symlink() and link.readlink() == Path("..") / name
    assert (link / "__init__.py").is_file()
    directories = project()["tool"]["setuptools"]["package-dir"]
    assert directories[f"qmu_edge.{name}"] == name


def test_a_device_needs_numpy_and_onnxruntime_only() -> None:
    names = [line.split(">")[0].split("=")[0].strip() for line in project()["project"]["dependencies"]]
    assert names == ["numpy", "onnxruntime"]


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    subprocess.run([*words, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"qmu_edge", f"qmu_edge-{project()['project']['version']}.dist-info"}
    assert {"qmu_edge/py.typed", "qmu_edge/cli/main.py", "qmu_edge/export/__init__.py"} <= set(names)
    for folder, pattern in (("recipes", "*.toml"), ("schemas", "*.json")):
        data = {f"qmu_edge/{folder}/{p.name}" for p in (source / "qmu_edge" / folder).glob(pattern)}
        assert data and data <= set(names)
    assert not [n for n in names if "test" in n.lower() or n.startswith("bench")]
    sources = {n for n in names if n.endswith(".py")}
    assert sources == {f"qmu_edge/{p}" for p in _sources(source)}


def _sources(root: Path) -> set[str]:
    own = {p.relative_to(root / "qmu_edge").as_posix() for p in (root / "qmu_edge").rglob("*.py")}
    return own | {p.relative_to(root).as_posix() for name in LINKS for p in (root / name).rglob("*.py")}
