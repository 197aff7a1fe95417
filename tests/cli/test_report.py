"""`qmu-edge report`: the page of the release, and what it becomes when what it shows is gone."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.data.index import SampleIndex
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.receipt.personal_data import find
from tests.page.reading import Page


def index_of(project: Path) -> SampleIndex:
    with opened(project, Progress()) as found:
        return found.samples.index


def test_a_release_has_a_page_that_its_sums_cover_and_that_names_nobody(served: Path) -> None:
    release = served / "release"
    read = Page((release / "report.html").read_bytes())
    assert read.faults == [] and len(read.named("svg")) >= 2
    subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=release, check=True, capture_output=True
    )
    assert "report.html" in (release / "SHA256SUMS").read_text()
    index = index_of(served)
    people = [*(i for i in index.ids if not i.isdigit()), *index.digests, *index.everybody(), "writer-3"]
    assert find({"text": read.text}, forbidden=people, sentences=[read.text]) == []
    assert not [name for name in people if name in read.text]


def test_the_same_page_is_made_again_and_says_what_has_become_of_the_rest(
    run: Any, served: Path, tmp_path: Path
) -> None:
    request = run("status", "--project", served, "--json").json["requests"][0]
    out = tmp_path / "page.html"
    made = run("report", request["short"], "--project", served, "--out", out, "--json")
    assert made.json["request"] == request["request"] and made.json["out"] == str(out)
    again = run("report", "--project", served)
    assert again.code == 0 and out.read_text("utf-8") == again.out == made.json["text"]
    stored = (served / "release/report.html").read_text("utf-8")
    assert "<caption>Now</caption>" in again.out and "<caption>Now</caption>" not in stored
    before = stored[: stored.index('<section id="artefacts">')]
    assert again.out.startswith(before)


@pytest.mark.parametrize(
    "command", [("report",), ("keys", "export", "--public"), ("request", "new", "--subject", "a")]
)
@pytest.mark.parametrize(
    "place", [".qmu/ledger.db", ".qmu/new", "release/report.html", "release/new", "qmu.toml"]
)
def test_what_a_person_asks_for_is_never_written_into_a_project(
    run: Any, served: Path, digest: Any, command: tuple[str, ...], place: str
) -> None:
    before = digest(served)
    where = [] if command[0] == "request" else ["--project", served]
    ended = run(*command, "--out", served / place, *where)
    assert ended.code == 2 and ("exists already" in ended.err or "the store of a project" in ended.err)
    assert digest(served) == before


def test_page_and_letter_are_written_in_a_language_that_is_known(run: Any, served: Path) -> None:
    page = Page(run("report", "--lang", "de", "--project", served).out.encode())
    assert page.named("html") == [{"lang": "de"}] and "Was übrig ist" in page.text
    assert "Mit freundlichen Grüßen" in run("report", "--letter", "--lang", "de", "--project", served).out
    assert run("report", "--json", "--project", served).json["lang"] == "en"
    for code in ("fr", "../en", ""):
        ended = run("report", "--lang", code, "--project", served)
        assert (ended.code, ended.out) == (2, "")
        assert f"--lang {code!r}: no such language, allowed are de, en" in ended.err


def test_a_letter_names_the_request_and_not_the_person(run: Any, served: Path) -> None:
    request = run("status", "--project", served, "--json").json["requests"][0]["request"]
    text = run("report", request, "--letter", "--project", served).out
    assert request in text and "writer-3" not in text and "Dear" in text


def test_a_page_does_not_outlive_what_it_shows(run: Any, served: Path, tmp_path: Path) -> None:
    """Superseded, it goes with its report; the receipt is enough for a page that says so."""
    first = run("status", "--project", served, "--json").json
    old = (served / "release").resolve()
    other = tmp_path / "other.json"
    run("request", "new", "--subject", "writer-5", "--out", other)
    assert run("unlearn", "--request", other, "--project", served).code == 0
    assert (old / "report.html").is_file()
    with opened(served, Progress()) as project:
        page = project.ledger.page_of(first["receipt"])
        assert page and page in set(project.store)
    assert run("purge", "--project", served, "--now").code == 0
    with opened(served, Progress()) as project:
        assert page not in set(project.store) and not old.exists()
    assert run("doctor", "--project", served, "--json").json["problems"] == []
    ended = run("report", first["requests"][0]["request"], "--project", served)
    assert ended.code == 0 and "has been purged" in ended.out and Page(ended.out.encode()).faults == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["nobody-1"], 3, "not known"), ([], 2, "no receipt yet")],
)
def test_without_a_receipt_there_is_nothing_to_report(
    run: Any, trained_once: Path, words: list[str], code: int, said: str
) -> None:
    ended = run("report", *words, "--project", trained_once)
    assert (ended.code, ended.out) == (code, "") and said in ended.err


def test_an_open_request_or_one_that_was_closed_otherwise_has_no_report(
    run: Any, trained: Path, tmp_path: Path
) -> None:
    document = tmp_path / "open.json"
    run("request", "new", "--subject", "writer-5", "--out", document)
    request = run("request", "add", document, "--project", trained, "--json").json["request"]
    for words in ([], ["--letter"]):
        ended = run("report", request, *words, "--project", trained)
        assert (ended.code, ended.out) == (3, "")
        assert f"request {request}: is open, there is nothing to report yet" in ended.err
    assert run("request", "withdraw", request, "--project", trained).code == 0
    ended = run("report", request, "--project", trained)
    assert ended.code == 3 and "was closed as withdrawn" in ended.err


def test_a_letter_does_not_go_through_the_store(
    run: Any, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the inventory reads everything that lies in a project")

    monkeypatch.setattr("qmu_edge.api.receipts.inventory", never)
    ended = run("report", "--letter", "--project", served)
    assert ended.code == 0 and "Dear" in ended.out
