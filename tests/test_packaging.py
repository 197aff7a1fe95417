"""What is installed: the package list, the links, the data files, and nothing else."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.export.bundle import write_bundle
from qmu_edge.verify.verdict import Thresholds
from tests.verify.bundles import issued

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


def _wheel(folder: Path) -> tuple[Path, Path]:
    """A wheel of a clean clone, and the clone."""
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    subprocess.run([*words, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel, source


@pytest.mark.slow
def test_a_device_with_numpy_and_onnxruntime_checks_a_bundle(
    tmp_path: Path, bundled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel, _ = _wheel(tmp_path)
    assert wheel.stat().st_size < 1_000_000
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    (site,) = (tmp_path / "bare/lib").glob("python*/site-packages")
    for name in ("numpy", "numpy.libs", "onnxruntime"):
        (site / name).symlink_to(Path(np.__file__).parents[1] / name)
    zipfile.ZipFile(wheel).extractall(site)
    python = [str(tmp_path / "bare/bin/python"), "-I"]
    done = subprocess.run(
        [*python, "-m", "qmu_edge.verify", str(bundled), "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)["bundle"]
    assert "not checked, for want of" in about["signature"]  # cryptography is not there either
    cost = (
        "import resource, time, onnxruntime\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, start = used(), time.perf_counter()\n"
        "import qmu_edge.verify.__main__\n"
        "print(time.perf_counter() - start, used() - before)"
    )
    measured = subprocess.run([*python, "-c", cost], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, measured.stdout.split())
    assert megabytes < 120
    with capsys.disabled():
        print(f" wheel {wheel.stat().st_size} B, import {seconds:.2f} s, {megabytes:.0f} MB above", end=" ")


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    """A bundle of a small file."""
    weights = np.random.default_rng(0).integers(-7, 8, (3, 12)).astype(np.int8)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    shapes: dict[str, list[str | int]] = {"image": ["n", 3, 2, 2], "logits": ["n", 3]}
    image, logits = (helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in shapes.items())
    stored: dict[str, Any] = {"w": weights, "scale": np.array(0.1, np.float32)}
    tensors = [numpy_helper.from_array(a, n) for n, a in stored.items()]
    graph = helper.make_graph(nodes, "net", [image], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    write_bundle(
        tmp_path / "bundle", {"model.onnx": model.SerializeToString()}, model="model.onnx",
        thresholds=Thresholds(), min_agreement=1.0, issued=issued(), key=Ed25519PrivateKey.generate(),
    )  # fmt: skip
    return tmp_path / "bundle.tar"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    wheel, source = _wheel(tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"qmu_edge", f"qmu_edge-{project()['project']['version']}.dist-info"}
    assert {"qmu_edge/py.typed", "qmu_edge/cli/main.py", "qmu_edge/export/__init__.py"} <= set(names)
    for folder, pattern in (("recipes", "*.toml"), ("schemas", "*.json"), ("page/languages", "*.toml")):
        data = {f"qmu_edge/{folder}/{p.name}" for p in (source / "qmu_edge" / folder).glob(pattern)}
        assert data and data <= set(names)
    assert not [n for n in names if re.search(r"(^|/)(tests?|bench)[/_.]", n.lower())]
    sources = {n for n in names if n.endswith(".py")}
    assert sources == {f"qmu_edge/{p}" for p in _sources(source)}


def _sources(root: Path) -> set[str]:
    own = {p.relative_to(root / "qmu_edge").as_posix() for p in (root / "qmu_edge").rglob("*.py")}
    return own | {p.relative_to(root).as_posix() for name in LINKS for p in (root / name).rglob("*.py")}


PLATFORMS = ("aarch64-manylinux_2_28", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program uv, which resolves for other platforms than this one; skip where it cannot be had."""
    folder = tmp_path_factory.mktemp("uv")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "uv"]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        pytest.skip("uv cannot be installed: no network")
    return folder / "bin/uv"


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("extra", ["", "workstation"])
def test_other_platforms_are_served_by_wheels_alone(
    resolver: Path, platform: str, extra: str, tmp_path: Path
) -> None:
    lines = _requirements("") | (_requirements("workstation") | _requirements("cli") if extra else set())
    wanted = tmp_path / "wanted.in"
    wanted.write_text("\n".join(sorted(line for line in lines if not line.startswith("qmu-edge"))))
    command = [str(resolver), "pip", "compile", "-q", "--only-binary", ":all:", "--python-version", "3.11"]
    ended = subprocess.run(
        [*command, "--python-platform", platform, str(wanted)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "onnxruntime==" in ended.stdout and ("torch==" in ended.stdout) == bool(extra)


def _requirements(extra: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return set(project["optional-dependencies"][extra] if extra else project["dependencies"])
