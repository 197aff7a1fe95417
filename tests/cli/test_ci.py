"""The steps that the CI templates run, run here; and that everything the templates bring in is pinned."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement

from tests.cli.conftest import run_command

ROOT = Path(__file__).parents[2]
CI = ROOT / "export/ci"
RELEASED = {
    "bundle", "bundle.tar", "trusted.pub", "predicate.json", "junit.xml", "summary.md",
}  # fmt: skip


def _release(
    project: Path, request: Path, out: Path, receipts: Path, programs: Path | None = None
) -> subprocess.CompletedProcess[str]:
    folder = programs or Path(sys.executable).parent
    return subprocess.run(
        ["bash", CI / "release.sh", project, request, out, receipts],
        capture_output=True, text=True,
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable},
    )  # fmt: skip


@pytest.mark.slow
def test_a_request_ends_as_a_bundle_a_junit_report_and_a_summary(
    made: Any, served: Path, tmp_path: Path
) -> None:
    out, receipts = tmp_path / "out", tmp_path / "receipts"
    kept = run_command("receipt", "keep", receipts, "--begin", "--project", served)
    assert kept.code == 0, kept.err
    for _ in range(2):  # the second time everything is there already
        done = _release(served, made.request, out, receipts)
        summary = (out / "summary.md").read_text()
        assert done.returncode == 0, summary
        assert {p.name for p in out.iterdir()} == RELEASED
        assert ElementTree.parse(out / "junit.xml").getroot().get("failures") == "0"
        assert "### Unlearn" in summary and "FA %" in summary and "signature       valid" in summary
        assert "passed          yes\n" in summary
        (one,) = receipts.iterdir()
        assert one.name == "000001.json" and one.read_bytes() == (out / "bundle/receipt.json").read_bytes()
        assert "previous" in (out / "predicate.json").read_text()


@pytest.mark.slow
def test_a_failure_fails_the_job_and_is_in_the_reports(trained: Path, tmp_path: Path) -> None:
    request = tmp_path / "req.json"
    request.write_text('{"subject_ids": ["nobody"]}')
    done = _release(trained, request, tmp_path / "out", tmp_path / "receipts")
    assert done.returncode == 3
    assert ElementTree.parse(tmp_path / "out/junit.xml").getroot().get("failures") == "1"
    assert "**Unlearn failed with exit code 3.**" in (tmp_path / "out/summary.md").read_text()


@pytest.mark.slow
def test_a_project_made_anew_does_not_continue_the_receipts(made: Any, trained: Path, tmp_path: Path) -> None:
    """What a job without the project of the job before did: it trained on what that one had deleted."""
    receipts = tmp_path / "receipts"
    receipts.mkdir()
    (receipts / "000001.json").write_bytes((made.served / "release/receipt.json").read_bytes())
    assert _release(trained, made.request, tmp_path / "out", receipts).returncode == 8
    assert "is no receipt of" in (tmp_path / "out/summary.md").read_text()


FAKE = """#!/usr/bin/env bash
echo "$*" >> "$(dirname "$0")/calls"
here=$(dirname "$0")
case "$1 $2" in
  "receipt keep")
    none=1
    for one in "$3"/[0-9]*.json; do
      if [ -e "$one" ]; then none=0; grep -qf "$one" "$here/issued" || exit 8; fi
    done
    [ "$none" = 0 ] || [ "$4" = --begin ] || [ ! -s "$here/issued" ] || exit 8
    mkdir -p "$3"
    number=0
    while read -r line; do number=$((number + 1)); echo "$line" > "$3/$(printf %06d $number).json"; done \
      < "$here/issued" ;;
  "receipt show") echo '{"receipt": {"predicateType": "urn:x", "predicate": {"a": 1}}}' ;;
  "unlearn --request") cat "$here/next" >> "$here/issued"; : > "$here/next"; exit "$(cat "$here/unlearn")" ;;
  "export --bundle")
    mkdir "$3" || exit 2
    tail -n 1 "$here/issued" > "$3/receipt.json"
    echo "{\\"issued\\": {\\"number\\": $(wc -l < "$here/issued")}}" > "$3/manifest.json"
    tail -n 1 "$here/issued" > "$3.tar" ;;
  "keys export") touch "$5" ;;
esac
"""
PYTHON = """#!/usr/bin/env bash
[ "$1" = -P ] || exit 99  # nothing is imported from the folder it runs in
if [ "$2" = -m ]; then echo '<testsuite failures="0"/>' > "$8"; else exec "$PYTHON" "$@"; fi
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """In place of the real ones: a project that has issued what the file `issued` lists, and will `next`."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in (("qmu-edge", FAKE), ("python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "issued").touch()
    (folder / "next").write_text("first\n")
    (folder / "unlearn").write_text("0")
    return folder


def test_what_an_earlier_job_has_left_is_never_shipped(programs: Path, tmp_path: Path) -> None:
    out, receipts = tmp_path / "out", tmp_path / "receipts"
    words = (tmp_path, tmp_path / "req.json", out, receipts, programs)
    assert _release(*words).returncode == 0
    (programs / "next").write_text("second\n")
    assert _release(*words).returncode == 0
    assert (out / "bundle.tar").read_text() == (out / "bundle/receipt.json").read_text() == "second\n"
    assert sorted(p.name for p in receipts.iterdir()) == ["000001.json", "000002.json"]
    (programs / "unlearn").write_text("7")
    assert _release(*words).returncode == 7
    assert {p.name for p in out.iterdir()} == {"junit.xml", "summary.md"}
    assert ElementTree.parse(out / "junit.xml").getroot().get("failures") == "1"


@pytest.mark.parametrize("name", ["summary.md", "junit.xml", "predicate.json", "trusted.pub", "bundle.tar"])
def test_a_link_that_came_with_a_checkout_is_not_written_through(
    programs: Path, tmp_path: Path, name: str
) -> None:
    """Such as one to the ledger of the project, which lies on a disk of the runner."""
    (tmp_path / "ledger.db").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "ledger.db")
    words = (tmp_path, tmp_path / "req.json", tmp_path / "out", tmp_path / "receipts", programs)
    assert _release(*words).returncode == 0
    assert (tmp_path / "ledger.db").read_text() == "precious"


@pytest.mark.parametrize("name", ["out", "receipts"])
def test_a_folder_that_is_a_link_is_refused(programs: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    words = (tmp_path, tmp_path / "req.json", tmp_path / "out", tmp_path / "receipts", programs)
    done = _release(*words)
    assert (done.returncode, [*(tmp_path / "elsewhere").iterdir()]) == (2, []) and "a link" in done.stderr


def test_a_folder_that_is_no_bundle_is_not_removed(programs: Path, tmp_path: Path) -> None:
    precious = tmp_path / "out/bundle/thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.touch()
    words = (tmp_path, tmp_path / "req.json", tmp_path / "out", tmp_path / "receipts", programs)
    assert _release(*words).returncode == 2
    assert precious.exists() and not (programs / "calls").exists()


def test_a_chain_that_does_not_continue_ends_the_job_before_anything_is_done(
    programs: Path, tmp_path: Path
) -> None:
    receipts = tmp_path / "receipts"
    receipts.mkdir()
    (receipts / "000007.json").write_text("of another project")
    words = (tmp_path, tmp_path / "req.json", tmp_path / "out", receipts, programs)
    assert _release(*words).returncode == 8
    assert "unlearn" not in (programs / "calls").read_text()
    assert [p.name for p in receipts.iterdir()] == ["000007.json"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_receipts_does_not_continue_those_that_were_issued(
    programs: Path, tmp_path: Path, there: bool
) -> None:
    """A wrong path, or a branch without the commit of the job before."""
    (programs / "issued").write_text("of a job before\n")
    receipts = tmp_path / "receipts"
    if there:
        receipts.mkdir()
    words = (tmp_path, tmp_path / "req.json", tmp_path / "out", receipts, programs)
    assert _release(*words).returncode == 8
    assert "unlearn" not in (programs / "calls").read_text() and receipts.exists() == there


def test_what_a_job_has_issued_and_never_committed_is_added_by_the_next(
    programs: Path, tmp_path: Path
) -> None:
    (programs / "issued").write_text("first\nlost\n")
    (programs / "next").write_text("third\n")
    receipts = tmp_path / "receipts"
    receipts.mkdir()
    (receipts / "000001.json").write_text("first\n")
    words = (tmp_path, tmp_path / "req.json", tmp_path / "out", receipts, programs)
    assert _release(*words).returncode == 0
    assert [p.read_text() for p in sorted(receipts.iterdir())] == ["first\n", "lost\n", "third\n"]


def test_a_bundle_with_another_receipt_than_the_projects_ends_the_job(programs: Path, tmp_path: Path) -> None:
    script = (programs / "qmu-edge").read_text()
    (programs / "qmu-edge").write_text(script.replace('tail -n 1 "$here/issued" > "$3/r', 'echo x > "$3/r'))
    words = (tmp_path, tmp_path / "req.json", tmp_path / "out", tmp_path / "receipts", programs)
    assert _release(*words).returncode == 8
    assert "not the receipt of the bundle" in (tmp_path / "out/summary.md").read_text()


def test_the_script_says_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(["bash", CI / "release.sh", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_the_templates_run_the_script_and_expand_no_input_into_it() -> None:
    action = (CI / "github/action.yml").read_text()
    assert action == (ROOT / "action.yml").read_text()
    assert "export/ci/release.sh" in action and "run: ${{" not in action
    for script in re.findall(r"run: \|\n((?: {8}.*\n)+)", action):
        assert "${{" not in script
    assert "ci/release.sh" in (CI / "gitlab.yml").read_text()


def test_all_that_the_templates_bring_in_is_pinned() -> None:
    uses = re.findall(r"uses: (.*)", (CI / "github/action.yml").read_text())
    assert uses and all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v[0-9.]+", each) for each in uses)
    images = re.findall(
        r"(?:FROM|image:) (.*)", "".join((CI / n).read_text() for n in ("Dockerfile", "gitlab.yml"))
    )
    assert len(images) == 2 and all(re.fullmatch(r"python:3\.11-slim@sha256:[0-9a-f]{64}", i) for i in images)
    for name in ("github/action.yml", "gitlab.yml", "Dockerfile"):
        installs = re.findall(r"pip\"? install(.*)", (CI / name).read_text())
        assert len(installs) == 2 and "--require-hashes" in installs[0] and "--no-deps" in installs[1], name


def test_the_verifiers_lock_is_its_part_of_the_whole() -> None:
    def entries(path: Path) -> dict[str, str]:
        parts = re.split(r"(?m)^(?=[A-Za-z0-9])", path.read_text())[1:]
        return {p.split("==")[0]: re.sub(r"(?m)^\s*#.*\n", "", p).strip() for p in parts}

    whole, part = entries(ROOT / "requirements.lock"), entries(CI / "verifier.lock")
    assert part == {name: whole[name] for name in part}
    todo, needed = ["numpy", "onnxruntime", "cryptography"], {"setuptools"}
    while todo:
        name = todo.pop()
        needed.add(name)
        found = [Requirement(r) for r in metadata.requires(name) or []]
        todo += [r.name for r in found if not r.marker or r.marker.evaluate({"extra": ""})]
    assert part.keys() == {name.lower() for name in needed}


def test_no_image_gets_a_project() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*" and ".qmu" not in str(lines)
    assert {line[1:] for line in lines if line.startswith("!")} == {
        "qmu_edge", "cli", "models", "export", "pyproject.toml", "README.md",
    }  # fmt: skip


def test_nothing_installs_by_a_name_that_is_not_ours_on_an_index() -> None:
    ours = [p for p in ROOT.rglob("*") if p.suffix in (".md", ".py", ".sh", ".yml") or p.name == "Dockerfile"]
    kept = [
        p
        for p in ours
        if not {".venv", "build", ".git"} & {*p.relative_to(ROOT).parts} and p != Path(__file__)
    ]
    pattern = re.compile(r"pip\"? install[^\n`]*[ \"']qmu-edge")
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in kept for m in pattern.finditer(p.read_text("utf-8"))]
    assert len(kept) > 100 and not found
