"""Bad requests: one clear line, exit code 3, no trace in the project."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.store.ledger.ledger import Ledger
from tests.cli.refusals import ask, refused

CORPUS = Path(__file__).parents[1] / "request/corpus"
# File -> exit code and words of the message.
BAD: dict[str, tuple[int, str]] = {
    "malformed": (3, "not JSON"),
    "binary": (3, "not JSON"),
    "empty-file": (3, "not JSON"),
    "not-utf8": (3, "not UTF-8 at byte 17"),
    "utf16": (3, "not UTF-8"),
    "byte-order-mark": (3, "BOM"),
    "single-quotes": (3, "not JSON"),
    "comment": (3, "not JSON"),
    "two-documents": (3, "not JSON"),
    "trailing-comma": (3, "not JSON"),
    "duplicate-key": (3, "'class_ids' appears twice"),
    "duplicate-key-escaped": (3, "'class_ids' appears twice"),
    "duplicate-key-deep": (3, "'subject' appears twice"),
    "nested-too-deep": (3, "nested deeper"),
    "a-list": (3, "JSON object"),
    "a-string": (3, "JSON object"),
    "null": (3, "JSON object"),
    "nan": (3, "NaN is not a JSON number"),
    "infinity": (3, "-Infinity is not a JSON number"),
    "overflow": (3, "number beyond"),
    "huge-integer": (3, "integer beyond"),
    "endless-integer": (3, "integer beyond"),
    "control-character": (3, "control characters"),
    "terminal-escape": (3, "control characters"),
    "line-feed-in-key": (3, "control characters"),
    "lone-surrogate": (3, "control characters"),
    "bidi-override": (3, "invisible"),
    "bidi-isolate": (3, "invisible"),
    "zero-width-space": (3, "invisible"),
    "soft-hyphen": (3, "invisible"),
    "tag-characters": (3, "invisible"),
    "hangul-filler": (3, "invisible"),
    "variation-selector": (3, "invisible"),
    "not-nfc": (3, "NFC"),
    "homoglyph": (3, "subject_ids"),
    "fullwidth-digits": (3, "not in the index"),
    "id-empty": (3, "sample_ids[0]"),
    "id-too-long": (3, "sample_ids[0]"),
    "empty-object": (3, "names no subject"),
    "names-nothing": (3, "names no subject"),
    "unknown-field": (3, "clas_ids: unknown field"),
    "both-forms": (3, "sample_ids: unknown field"),
    "prototype": (3, "unknown field"),
    "ids-not-a-list": (3, "sample_ids"),
    "id-a-number": (3, "sample_ids[0]"),
    "class-true": (3, "class_ids[0]"),
    "class-float": (3, "class_ids[0]"),
    "class-negative": (3, "class_ids[0]"),
    "request-id-path": (3, "request_id"),
    "regulation": (3, "found 'lgpd', allowed 'gdpr'"),
    "access-request": (3, "found 'access', allowed 'erasure'"),
    "request-id-braces": (3, "subject_request_id"),
    "no-identity": (3, "no identity is given"),
    "hashed-identity": (3, "a hash cannot be matched"),
    "identity-type": (3, "identity_type"),
    "schema-version-2": (3, "schema_version"),
    "schema-version-true": (3, "schema_version"),
    "foreign-extension": (3, "example.org"),
    "extension-field": (3, "callback: unknown field"),
    "model-path": (3, "model_ref.sha256"),
    "another-model": (3, "not the current one"),
    "future": (3, "future"),
    "received-in-future": (3, "future"),
    "no-such-day": (3, "submitted_time"),
    "no-zone": (3, "RFC 3339"),
    "seconds": (3, "RFC 3339"),
    "year-1": (3, "no such date"),
    "unknown-sample": (3, "digits/9999"),
    "one-unknown-among-known": (3, "digits/9999"),
    "path-traversal-sample": (3, "not in the index"),
    "every-sample": (3, "every training sample"),
    "unknown-class-name": (3, "class_ids"),
    "unknown-class-number": (3, "class_ids"),
    "unknown-subject": (3, "subject_ids"),
    "sql": (3, "subject_ids"),
    "shell": (3, "not in the index"),
}


def test_every_file_of_the_corpus_is_in_the_table() -> None:
    assert {path.stem for path in CORPUS.iterdir()} == set(BAD)


NO_MATCH = ("completed", "no_match", None)
RECORDED: dict[str, tuple[str, str, str | None]] = {  # understood, so it has a row: state, outcome, reason
    **dict.fromkeys(
        ("unknown-sample", "unknown-class-name", "unknown-class-number", "unknown-subject", "homoglyph",
         "fullwidth-digits", "path-traversal-sample", "sql", "shell"), NO_MATCH,
    ),
    "one-unknown-among-known": ("received", "partial", None),
    "every-sample": ("received", "failed", "nothing_left"),
    "another-model": ("received", "failed", "other_model"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD.keys() - RECORDED.keys()))
@pytest.mark.parametrize("flag", [[], ["--dry-run"]], ids=["serve", "dry run"])
def test_a_document_that_is_no_request_leaves_no_trace(
    run: Any, trained_once: Path, digest: Any, name: str, flag: list[str]
) -> None:
    code, words = BAD[name]
    before = digest(trained_once)
    ended = run("unlearn", "--request", CORPUS / f"{name}.json", "--project", trained_once, "--quiet", *flag)
    refused(ended, code, words)
    assert digest(trained_once) == before


@pytest.mark.parametrize("name", RECORDED)
def test_a_request_that_cannot_be_honoured_is_recorded_and_nothing_else(
    run: Any, trained: Path, digest: Any, name: str
) -> None:
    code, fragment = BAD[name]
    words = ("unlearn", "--request", CORPUS / f"{name}.json", "--project", trained, "--quiet")
    before = digest(trained)
    planned = run(*words, "--dry-run", "--json")
    assert planned.code == (0 if name == "one-unknown-among-known" else code)
    assert digest(trained) == before
    refused(run(*words), code, fragment)
    (row,) = run("request", "list", "--project", trained, "--json").json["requests"]
    assert tuple(row[k] for k in ("state", "outcome", "reason")) == RECORDED[name]
    after = digest(trained)
    changed = {n for n in before | after if before.get(n) != after.get(n)}
    assert not {n for n in changed if "/objects/" not in n} - {".qmu/ledger.db", ".qmu/lock"}
    refused(run(*words), code)
    assert run("request", "list", "--project", trained, "--json").json["requests"] == [row]
    with Ledger.open(trained / ".qmu/ledger.db") as ledger:
        assert ledger.tombstones() == set() and ledger.problems() == []


def test_a_request_that_is_too_large_is_not_read(run: Any, trained_once: Path, tmp_path: Path) -> None:
    path = ask(tmp_path, {"sample_ids": ["x" * 500] * 3000})
    refused(
        run("unlearn", "--request", path, "--project", trained_once, "--quiet"), 3, "larger than the allowed"
    )


def test_test_images_cannot_be_unlearned(run: Any, trained: Path, tmp_path: Path) -> None:
    with opened(trained, Progress()) as project:
        position = int(np.flatnonzero(project.samples.index.splits == 2)[0])
        document = {"sample_ids": [project.samples.index.ids[position]]}
    ended = run("unlearn", "--request", ask(tmp_path, document), "--project", trained, "--quiet")
    refused(ended, 3, "never trained on")
    (row,) = run("request", "list", "--project", trained, "--json").json["requests"]
    assert (row["outcome"], row["reason"]) == ("failed", "never_trained_on")


def test_a_message_does_not_repeat_who_it_is_about(run: Any, trained: Path, tmp_path: Path) -> None:
    document = ask(tmp_path, {"subject_ids": ["jane.doe@example.org"]})
    assert "jane" not in run("unlearn", "--request", document, "--project", trained, "--quiet").err


@pytest.mark.parametrize("what", ["missing", "folder", "pipe"])
def test_a_request_must_be_a_file(run: Any, trained: Path, digest: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / "asked.json"
    if what == "folder":
        path.mkdir()
    if what == "pipe":
        os.mkfifo(path)
    before = digest(trained)
    refused(run("unlearn", "--request", path, "--project", trained, "--quiet"), 3, str(path))
    assert digest(trained) == before


def test_the_same_id_with_another_body_is_a_conflict(
    made: Any, run: Any, served: Path, digest: Any, tmp_path: Path
) -> None:
    document = json.loads(made.request.read_text("utf-8"))
    document["extensions"]["qmu-edge"]["requested_by"] = "ticket 7"
    before = digest(served)
    refused(
        run("unlearn", "--request", ask(tmp_path, document), "--project", served, "--quiet"), 3, "conflict"
    )
    assert digest(served) == before


def test_what_is_deleted_cannot_be_deleted_again(run: Any, served: Path, digest: Any, tmp_path: Path) -> None:
    release = os.readlink(served / "release")
    document = ask(tmp_path, {"subject_ids": ["writer-3"]})
    words = ("unlearn", "--request", document, "--project", served, "--quiet")
    refused(run(*words), 3, "already deleted")
    row = run("request", "list", "--project", served, "--json").json["requests"][-1]
    assert (row["state"], row["outcome"], row["reason"]) == ("completed", "denied", "already_deleted")
    before = digest(served)
    refused(run(*words), 3, "is closed: denied (already_deleted)")
    assert digest(served) == before and os.readlink(served / "release") == release
