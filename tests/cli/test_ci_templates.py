"""The shell steps of the CI templates, run as their services would, but for containers: none is at hand here.

Where a step installs, the programs are stand-ins that note what they are asked for: the real ones need a
network.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.cli.test_ci import CI, FAKE, PYTHON, ROOT

ACTIONS = {"root": ROOT, "its folder": CI / "github"}
PIP = '#!/usr/bin/env bash\necho "$*" >> "$PIP_CALLS"\n'
# A python that makes an environment whose pip is the stand-in; all else is as in the tests of the script.
VENV = PYTHON.replace(
    '[ "$1" = -P ]',
    'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$PIP" "$3/bin/pip"; exit; fi\n[ "$1" = -P ]',
)


def steps_of_the_action() -> dict[str, str]:
    """The scripts of its steps by name."""
    text = (ROOT / "action.yml").read_text()
    return {
        name: dedent(script)
        for name, script in re.findall(
            r"- name: (.*)\n(?:(?!    - ).*\n)*?      run: \|\n((?: {8}.*\n)+)", text
        )
    }


def script_of_gitlab() -> str:
    """The lines of its job, as a script."""
    script = re.search(r"  script:\n((?:    - .*\n)+)", (CI / "gitlab.yml").read_text())
    assert script
    return dedent(script[1]).replace("- ", "", 1).replace("\n- ", "\n")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a job runs: a checkout that may hold anything, and stand-ins for all programs."""
    programs = tmp_path / "programs"
    for folder in (programs, tmp_path / "work", tmp_path / "temp"):
        folder.mkdir()
    for name, text in (("qmu-edge", FAKE), ("python", VENV), ("pip", PIP)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "issued").touch()
    (programs / "next").write_text("first\n")
    (programs / "unlearn").write_text("0")
    (tmp_path / "work/json.py").write_text("raise SystemExit('imported from the folder of the job')")
    return tmp_path


def run_step(script: str, place: Path, **env: object) -> subprocess.CompletedProcess[str]:
    """As both services run a step: bash that ends at the first failure."""
    own = {
        "PATH": f"{place / 'programs'}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable,
        "PIP": place / "programs/pip", "PIP_CALLS": place / "pip", "RUNNER_TEMP": place / "temp",
        "GITHUB_PATH": place / "path", "GITHUB_OUTPUT": place / "output",
        "GITHUB_STEP_SUMMARY": place / "summary",
        "PROJECT": place / "project", "REQUEST": "req.json", "RECEIPTS": "receipts", "OUT": "a folder/out",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd=place / "work",
        env={k: str(v) for k, v in {**os.environ, **own, **env}.items()}, capture_output=True, text=True,
    )  # fmt: skip


def installed(place: Path) -> tuple[Path, Path]:
    """What pip was asked for: the lock, then the package, both of which must be there."""
    lock, package = (line.split()[-1] for line in (place / "pip").read_text().splitlines())
    assert Path(lock).is_file() and (Path(package) / "pyproject.toml").is_file()
    return Path(lock), Path(package)


@pytest.mark.parametrize("where", ACTIONS)
def test_the_action_installs_from_its_own_checkout_wherever_it_lies(place: Path, where: str) -> None:
    done = run_step(steps_of_the_action()["Install"], place, GITHUB_ACTION_PATH=ACTIONS[where])
    assert done.returncode == 0, done.stderr
    assert installed(place) == (ROOT / "requirements.lock", ROOT)
    assert (place / "path").read_text() == f"{place / 'temp/qmu-edge/bin'}\n"


@pytest.mark.parametrize("where", ACTIONS)
@pytest.mark.parametrize("may", [True, False])
def test_the_action_releases_and_tells_the_steps_behind_it(place: Path, where: str, may: bool) -> None:
    token = {"ACTIONS_ID_TOKEN_REQUEST_URL": "https://example.org"} if may else {}
    script = steps_of_the_action()["Unlearn, export, verify"]
    done = run_step(script, place, GITHUB_ACTION_PATH=ACTIONS[where], **token)
    assert done.returncode == 0, done.stderr
    told = (place / "output").read_text().splitlines()
    assert told == ["predicate-type=urn:x", "may-attest=yes" if may else "may-attest="]
    assert (place / "work/a folder/out/bundle.tar").read_text() == "first\n"
    assert "### Unlearn" in (place / "summary").read_text()


def test_the_action_fails_with_the_scripts_code_and_tells_no_type(place: Path) -> None:
    (place / "programs/unlearn").write_text("7")
    script = steps_of_the_action()["Unlearn, export, verify"]
    done = run_step(script, place, GITHUB_ACTION_PATH=ROOT)
    assert done.returncode == 7 and not (place / "output").exists()
    assert "exit code 7" in (place / "summary").read_text()
    assert not (place / "work/a folder/out/bundle.tar").exists()


def gitlab(place: Path) -> subprocess.CompletedProcess[str]:
    script = script_of_gitlab().replace("/tmp/qmu-edge", str(place / "temp/qmu-edge"))
    return run_step(script, place, SOURCE=ROOT)


def test_gitlabs_job_ships_the_bundle_of_a_job_that_has_passed_and_no_other(place: Path) -> None:
    shipped = place / "work/a folder/out/release/bundle.tar"
    assert (done := gitlab(place)).returncode == 0, done.stderr
    assert installed(place) == (ROOT / "requirements.lock", ROOT) and shipped.read_text() == "first\n"
    (place / "programs/issued").write_text("first\nsecond\n")
    assert (done := gitlab(place)).returncode == 0, done.stderr  # in a folder that an earlier job has left
    assert shipped.read_text() == "second\n"
    (place / "programs/unlearn").write_text("7")
    assert gitlab(place).returncode == 7
    assert not shipped.exists()  # else the artifacts of a failed job would hold the bundle of the one before


@pytest.mark.slow
def test_what_the_image_is_made_of_verifies_a_bundle(
    made: Any, run: Any, served: Path, tmp_path: Path
) -> None:
    """The lines of the Dockerfile without docker: what the context lets in is installed, alone, and run."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        source, to = ROOT / name, tmp_path / "source" / name
        to.parent.mkdir(exist_ok=True)
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, to, symlinks=True, ignore=skip) if source.is_dir() else shutil.copy(
            source, to
        )
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", tmp_path / "site")
    pip = (sys.executable, "-m", "pip", "install", *options, tmp_path / "source")
    subprocess.run(pip, check=True)
    bundle, key = tmp_path / "bundle", tmp_path / "trusted.pub"
    assert run("export", "--bundle", bundle, "--project", served, "--quiet").code == 0
    assert run("keys", "export", "--public", "--out", key, "--project", served).code == 0
    for what in (bundle, bundle.with_suffix(".tar")):
        done = subprocess.run(
            [sys.executable, "-m", "qmu_edge.verify", what, "--key", key], cwd=tmp_path, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        )  # fmt: skip
        assert done.returncode == 0 and "signature       valid" in done.stdout, done.stderr
