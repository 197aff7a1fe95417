"""`qmu-edge audit` end to end: what it costs, what it finds, and what it keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.audit import pair
from qmu_edge.audit.registry import ATTACKS
from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.project.audits import Estimate, Finding
from qmu_edge.project.project import opened
from tests.cli.conftest import Run
from tests.page.reading import Page

FREE = ["--attack", "rmia", "--attack", "pair"]


def test_a_dry_run_says_what_each_attack_would_take_and_changes_nothing(
    run: Run, served: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    before = digest(served)
    ended = run("audit", "--project", served, "--dry-run", "--json")
    assert ended.code == 0, ended.err
    rows = ended.json["attacks"]
    assert [*rows] == [*ATTACKS] and {row["state"] for row in rows.values()} == {"to do"}
    assert rows["bavaria"]["expected_seconds"] > rows["pair"]["expected_seconds"] > 0
    assert digest(served) == before


def test_results_are_kept_and_shown_in_the_report(run: Run, served: Path) -> None:
    first = run("audit", "--project", served, "--json", "--quiet", *FREE)
    assert first.code == 0, first.err
    found = first.json["attacks"]
    assert found["rmia"]["without"].startswith("the verdict had no references")
    assert {row["quantity"] for row in found["pair"]["findings"]} == set(pair.ATTACK.quantities)
    again = run("audit", "--project", served, "--json", "--quiet", *FREE).json["attacks"]
    assert [row["expected_seconds"] for row in again.values()] == [0.0, 0.0]  # nothing is computed again
    assert {n: r["findings"] for n, r in again.items()} == {n: r["findings"] for n, r in found.items()}
    assert "area under the curve against unseen" in run("audit", "--project", served, *FREE).out

    page = run("report", "--project", served).out
    assert "What stronger attacks find" in page and Page(page.encode()).faults == []
    assert "stronger attacks" not in (served / "release/report.html").read_text("utf-8")
    assert run("doctor", "--project", served, "--json").json["problems"] == []
    kept = run("purge", "--project", served, "--now", "--json").json["kept"]
    assert [row["count"] for row in kept if row["kind"] == "audit"] == [2]  # current like the release


def test_a_killed_audit_goes_on_and_a_spent_budget_leaves_the_rest(
    run: Run, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = run("audit", "--project", served, "--budget", "0s", "--json", "--quiet", *FREE)
    assert spent.code == 0
    assert {row["state"] for row in spent.json["attacks"].values()} == {"left: the budget is spent"}

    def killed(_: Any) -> Any:
        raise UnlearnError("killed here")

    with monkeypatch.context() as patch:
        patch.setitem(ATTACKS, "pair", _with(killed))
        assert run("audit", "--project", served, "--quiet", *FREE).code != 0
    states = run("audit", "--project", served, "--dry-run", "--json", *FREE).json["attacks"]
    assert {name: row["state"] for name, row in states.items()} == {"rmia": "done", "pair": "to do"}


def test_nothing_that_names_a_sample_is_stored(
    run: Run, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(served, Progress()) as project:
        name = project.samples.index.ids[7]

    def telling(_: Any) -> tuple[Finding, ...]:
        return (Finding(quantity=pair.ATTACK.quantities[0], part=name, file=Estimate(0.5)),)

    monkeypatch.setitem(ATTACKS, "pair", _with(telling))
    ended = run("audit", "--project", served, "--quiet", "--attack", "pair")
    assert ended.code != 0 and "the audit would hold personal data" in ended.err and name not in ended.err
    with opened(served, Progress()) as project:
        assert [note for note in project.results.notes() if note.kind == "audit"] == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--attack", "svm"], 2, "--attack 'svm': allowed are rmia, lira, "),
        (["nobody-1"], 3, "not known"),
    ],
)
def test_what_cannot_be_attacked_is_one_line(
    run: Run, served: Path, words: list[str], code: int, said: str
) -> None:
    ended = run("audit", *words, "--project", served)
    assert (ended.code, ended.out) == (code, "") and said in ended.err


def test_what_is_purged_or_open_cannot_be_attacked(run: Run, served: Path, tmp_path: Path) -> None:
    run("request", "new", "--subject", "writer-5", "--out", tmp_path / "open.json")
    request = run("request", "add", tmp_path / "open.json", "--project", served, "--json").json["request"]
    ended = run("audit", request, "--project", served)
    assert ended.code == 3 and "is open, there is nothing to audit yet" in ended.err
    assert run("request", "withdraw", request, "--project", served).code == 0
    assert run("purge", "--project", served, "--now").code == 0
    ended = run("audit", "--project", served)
    assert ended.code == 2 and "cannot be audited: what it was judged by is purged" in ended.err


def _with(change: Callable[[Any], Any]) -> Any:
    from dataclasses import replace

    return replace(pair.ATTACK, run=change)


@pytest.mark.slow
def test_every_attack_is_made_on_a_project(run: Run, trained: Path, tmp_path: Path) -> None:
    """Of a project without references: those of the attacks' own are trained, and leave nothing behind."""
    request = tmp_path / "req.json"
    assert run("request", "new", "--subject", "writer-7", "--out", request).code == 0
    assert run("unlearn", "--request", request, "--project", trained, "--method", "retrain").code == 0
    ended = run("audit", "--project", trained, "--json", "--quiet")
    assert ended.code == 0, ended.err
    for name, row in ended.json["attacks"].items():
        assert row["state"] == "done", name
        assert {found["quantity"] for found in row["findings"]} <= {*ATTACKS[name].quantities}
        assert row["findings"] or name in ("rmia", "lira", "retain"), (name, row["without"])
    work = trained / ".qmu/work"
    assert work.is_dir() and not [*work.glob("reference-*")]


def test_heat_maps_are_written_where_asked_and_kept_nowhere(
    run: Run, served: Path, tmp_path: Path, digest: Callable[[Path], dict[str, str]]
) -> None:
    """Of forgotten images only where these were asked for, and then the file says so."""
    audited = ("audit", "--project", served, "--quiet", "--attack", "grad-cam")
    ended = run(*audited, "--json", "--pictures", tmp_path / "maps.html")
    assert ended.code == 0, ended.err
    assert all(row["findings"] for row in ended.json["attacks"].values())
    page = (tmp_path / "maps.html").read_text("utf-8")
    assert page.count("<img") == 24 and "asked to be forgotten" not in page
    assert (tmp_path / "maps.html").stat().st_mode & 0o777 == 0o600
    before = digest(served)
    both = run(*audited, "--pictures", tmp_path / "both.html", "--show-forgotten")
    assert both.code == 0, both.err
    page = (tmp_path / "both.html").read_text("utf-8")
    assert page.count("<img") == 48 and "asked to be forgotten" in page
    assert digest(served) == before
    assert "data:image" not in run("report", "--project", served).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--show-forgotten",), "--show-forgotten: say with --pictures into which file"),
        (("--pictures", "nowhere/maps.html"), "nowhere: no such folder"),
        (("--pictures", "maps.html", "--dry-run"), "--pictures: nothing is computed in a dry run"),
    ],
)
def test_heat_maps_that_cannot_be_written_are_refused_before_anything_is_computed(
    run: Run, served: Path, words: tuple[str, ...], said: str
) -> None:
    ended = run("audit", "--project", served, *words)
    assert ended.code == 2 and said in ended.err
