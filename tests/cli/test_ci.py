"""The steps that the CI templates run, run here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

CI = Path(__file__).parents[2] / "export/ci"


def _release(project: Path, request: Path, out: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [CI / "release.sh", project, request, out],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )


@pytest.mark.slow
def test_a_request_ends_as_a_bundle_a_junit_report_and_a_summary(
    made: Any, served: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # the second time everything is there already
        done = _release(served, made.request, tmp_path / "out")
        assert done.returncode == 0, (tmp_path / "out/summary.md").read_text()
        assert {"bundle", "bundle.tar", "junit.xml", "summary.md"} == {
            p.name for p in (tmp_path / "out").iterdir()
        }
        assert ElementTree.parse(tmp_path / "out/junit.xml").getroot().get("failures") == "0"
        summary = (tmp_path / "out/summary.md").read_text()
        assert "### Unlearn" in summary and "FA %" in summary and "signature       valid" in summary


@pytest.mark.slow
def test_a_failure_fails_the_job_and_is_in_the_reports(trained: Path, tmp_path: Path) -> None:
    request = tmp_path / "req.json"
    request.write_text('{"subject_ids": ["nobody"]}')
    done = _release(trained, request, tmp_path / "out")
    assert done.returncode == 3
    assert ElementTree.parse(tmp_path / "out/junit.xml").getroot().get("failures") == "1"
    assert "**Unlearn failed with exit code 3.**" in (tmp_path / "out/summary.md").read_text()


def test_the_templates_run_the_script_and_expand_no_input_into_it() -> None:
    action = (CI / "github/action.yml").read_text()
    assert "../release.sh" in action and "run: ${{" not in action
    script = action.split("run: |")[1].split("- uses")[0]
    assert "${{" not in script
    assert "ci/release.sh" in (CI / "gitlab.yml").read_text()
