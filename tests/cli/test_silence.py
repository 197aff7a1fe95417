"""Nothing phones home: no name is looked up, no address connected to, nothing left in the home folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import RECIPE, SUBJECT

HERE = Path(__file__).parent
CI = (
    "CI",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "TF_BUILD",
    "BUILD_ID",
    "JENKINS_URL",
    "TRAVIS",
    "PYTEST_CURRENT_TEST",
)


@pytest.fixture
def watched(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment in which the network is watched, with a new home, and the list of what was seen."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and Linux")
    library, seen, home = tmp_path / "network.so", tmp_path / "seen", tmp_path / "home"
    words = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "network.c"), "-ldl"]
    subprocess.run(words, check=True)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in CI and "TELEMETRY" not in name}
    return kept | {"LD_PRELOAD": str(library), "WATCHED": str(seen), "HOME": str(home)}, seen


def test_the_watch_sees_what_it_is_for(watched: tuple[dict[str, str], Path]) -> None:
    environment, seen = watched
    code = "import socket; socket.getaddrinfo('localhost', 9); socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert seen.read_text().splitlines() == ["looked up localhost", "connected to an address"]


@pytest.mark.slow
def test_no_command_phones_home(watched: tuple[dict[str, str], Path], tmp_path: Path) -> None:
    environment, seen = watched
    (tmp_path / "tiny.toml").write_text(RECIPE, "utf-8")

    def run(*arguments: str) -> None:
        words = [sys.executable, *arguments]
        ended = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr

    command = ("-c", "from qmu_edge.cli.main import main; main()")
    run(*command, "init", "shop", "--recipe", "tiny.toml")
    run(*command, "train", "--project", "shop", "--quiet")
    run(*command, "request", "new", "--subject", SUBJECT, "--out", "req.json")
    run(*command, "unlearn", "--project", "shop", "--request", "req.json", "--quiet")
    run(*command, "export", "--project", "shop", "--bundle", "bundle", "--quiet")
    run(*command, "verify", "shop/release/model.onnx", "--project", "shop", "--quiet")
    run("-m", "qmu_edge.verify", "bundle.tar")
    assert not seen.exists(), seen.read_text()
    assert [p.name for p in (tmp_path / "home").rglob("*") if p.is_file()] == []
