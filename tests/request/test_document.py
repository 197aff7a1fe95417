"""Requests: what is accepted, and what it means."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import RequestError
from qmu_edge.io.json import MAX_BYTES
from qmu_edge.request.document import load_request, new_request, parse_request
from tests.request.documents import NOW, OPENDSR, OURS, RESEARCH, SECRET, UUID4, changed, parse


def test_opendsr_request_is_read() -> None:
    request = parse(OPENDSR)
    assert request.request_id == UUID4
    assert (request.form, request.regulation) == ("opendsr", "gdpr")
    assert request.submitted_time == datetime(2026, 11, 2, 15, tzinfo=UTC)
    assert request.received_time == datetime(2026, 11, 2, 15, 4, 11, tzinfo=UTC)
    assert request.subject_ids == (SECRET,)
    assert request.sample_ids == ("img-1",)
    assert request.class_ids == (3, "cat")
    assert (request.model_sha256, request.model_name) == ("ab" * 32, "doorcam")
    assert (request.policy, request.requested_by) == ("ci-default", "dpo-queue")
    assert request.approved_by_ref == "TICKET-812"


def test_research_request_is_read() -> None:
    request = parse(RESEARCH)
    assert (request.request_id, request.form, request.regulation) == (UUID4, "research", None)
    assert request.sample_ids == ("a", "b")
    assert request.class_ids == ("cat", 3)
    assert request.subject_ids == (SECRET,)
    assert request.submitted_time == datetime(2026, 11, 2, 15, 0, 0, 250000, tzinfo=UTC)
    assert request.received_time == NOW


def test_opendsr_without_extension_asks_for_the_subject() -> None:
    assert parse(changed(OPENDSR, "extensions", to=...)).subject_ids == (SECRET,)


def test_subject_outside_the_scope_is_not_erased() -> None:
    document = changed(OPENDSR, *OURS, "scope", "subject", to=False)
    assert parse(document).subject_ids == ()
    hashed = changed(document, "subject_identities", 0, "identity_format", to="sha256")
    assert parse(hashed).sample_ids == ("img-1",)


@pytest.mark.parametrize("document", [OPENDSR, RESEARCH])
def test_repr_keeps_the_subject_to_itself(document: dict[str, Any]) -> None:
    assert SECRET not in repr(parse(document))


def test_digest_depends_on_content_and_key_only() -> None:
    request = parse(RESEARCH)
    reordered = json.dumps(dict(reversed(RESEARCH.items())), indent=3).encode()
    later = parse_request(reordered, source="other.json", now=NOW + timedelta(days=3))
    assert later.digest(b"key") == request.digest(b"key")
    assert later.digest(b"other") != request.digest(b"key")
    assert parse(changed(RESEARCH, "requested_by", to="her")).digest(b"key") != later.digest(b"key")
    assert len(bytes.fromhex(request.digest(b"key"))) == 32


def test_absent_request_id_is_derived_from_the_content() -> None:
    first, again = parse({"sample_ids": ["a"]}), parse(b'{ "sample_ids" : ["a"] }')
    assert first.request_id == again.request_id
    assert first.request_id != parse({"sample_ids": ["b"]}).request_id
    assert first.request_id != parse({"sample_ids": ["a"]}, key=b"key").request_id
    assert parse(changed(RESEARCH, "request_id", to=first.request_id)).request_id


def test_new_request_round_trips() -> None:
    document = new_request(
        subject_ids=[SECRET],
        sample_ids=["a"],
        class_ids=["cat", 3],
        regulation="ccpa",
        requested_by="me",
        now=NOW,
    )
    request = parse(document)
    assert request.subject_ids == (SECRET,)
    assert (request.sample_ids, request.class_ids) == (("a",), ("cat", 3))
    assert (request.regulation, request.requested_by) == ("ccpa", "me")
    assert request.approved_by_ref is None
    assert request.received_time == request.submitted_time == NOW
    assert parse(new_request(sample_ids=["a"], now=NOW)).subject_ids == ()


@pytest.mark.parametrize("arguments", [{}, {"sample_ids": [""]}, {"sample_ids": ["a"], "regulation": "lgpd"}])
def test_new_request_refuses_what_would_not_parse(arguments: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="new request: "):
        new_request(**arguments)


def test_load_request_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "req.json"
    path.write_text(json.dumps(RESEARCH))
    assert load_request(path, now=NOW) == parse(RESEARCH)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert load_request(link, now=NOW) == parse(RESEARCH)
    path.write_bytes(b"{")
    with pytest.raises(RequestError, match=r"req\.json: not JSON"):
        load_request(path)


def test_load_request_refuses_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = tmp_path / "large"
    large.write_bytes(b" " * (MAX_BYTES + 1))
    cases = {
        tmp_path: "not a regular file",
        pipe: "not a regular file",
        tmp_path / "absent": "no such file",
        pipe / "below": "cannot be read",
        large: "larger than the allowed",
        Path("nul\0"): "cannot be read",
    }
    for path, message in cases.items():
        with pytest.raises(RequestError, match=message):
            load_request(path)
