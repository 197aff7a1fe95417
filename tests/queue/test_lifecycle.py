"""What may happen to a request besides being served, and what is kept of it; no torch, no images."""

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from qmu_edge.data.index import SAMPLE_SPLITS, SampleIndex
from qmu_edge.data.subjects import pseudonym
from qmu_edge.errors import IntegrityError, NoMatchError, RequestError
from qmu_edge.project.project import STORE, Project
from qmu_edge.project.records import StepResult
from qmu_edge.queue import lifecycle
from qmu_edge.queue.schedule import standing
from qmu_edge.request.document import new_request, parse_request
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import REJECTED, Outcome, State
from tests.queue.people import NOW, PEOPLE, SECRET, ask, bar, make_index, sha


def test_a_request_is_recorded_and_resolved_once(project: Project) -> None:
    request = ask("1", requested_by="dpo", approved_by_ref="T-1")
    row = lifecycle.register(project, request)
    assert (row.state, row.outcome, row.due) == ("received", None, "2026-12-03T12:00:00Z")
    assert (row.requested_by, row.approved_by) == ("dpo", "T-1")
    head = project.ledger.head()
    assert lifecycle.register(project, request) == row
    assert project.ledger.head() == head
    held = np.flatnonzero(project.samples.claimed()).tolist()
    assert held == list(range(10, 20)) and not set(held) & set(project.samples.trainable().tolist())
    assert len(project.samples.trainable()) == 8 * (PEOPLE - 1) and project.ledger.problems() == []


def test_neither_the_document_nor_a_name_in_it_is_kept(project: Project) -> None:
    request = ask("1", sample_ids=["img-033"], requested_by="dpo")
    lifecycle.register(project, request)
    project.ledger.close()
    stored = b"".join(p.read_bytes() for p in (project.root / STORE).rglob("*") if p.is_file())
    assert b"person-1" not in stored and b"subject_identities" not in stored and b"dpo" in stored
    objects = b"".join(p.read_bytes() for p in (project.folder / "objects").rglob("*") if p.is_file())
    assert objects and b"img-" not in objects and pseudonym(SECRET, "person-1").encode() not in objects


def test_the_same_id_with_another_content_is_a_conflict(project: Project) -> None:
    document = new_request(subject_ids=["person-1"], now=NOW)
    lifecycle.register(project, parse_request(json.dumps(document).encode(), source="a", now=NOW))
    document["api_version"] = "3"
    head = project.ledger.head()
    with pytest.raises(RequestError, match="conflict"):
        lifecycle.register(project, parse_request(json.dumps(document).encode(), source="b", now=NOW))
    assert project.ledger.head() == head


def test_nothing_of_a_request_is_fetched_from_a_network(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    document = new_request(subject_ids=["person-1"], now=NOW) | {
        "status_callback_urls": ["https://127.0.0.1/told", "file:///etc/passwd"]
    }
    lifecycle.register(project, parse_request(json.dumps(document).encode(), source="r", now=NOW))
    assert standing(project.ledger, project.recipe.policy, NOW)[0]["state"] == "received"


OUTCOMES: list[tuple[dict[str, Any], type[RequestError], tuple[str, str, str | None]]] = [
    ({"sample_ids": ["img-999"]}, NoMatchError, ("completed", "no_match", None)),
    ({"sample_ids": ["img-000", "img-999"]}, RequestError, ("received", "partial", None)),
    ({"class_ids": ["cat", "dog"]}, RequestError, ("received", "failed", "nothing_left")),
    ({"sample_ids": ["img-009"]}, RequestError, ("received", "failed", "never_trained_on")),
]


@pytest.mark.parametrize(("fields", "error", "expected"), OUTCOMES)
def test_what_cannot_be_honoured_is_recorded(
    project: Project, fields: dict[str, Any], error: type[RequestError], expected: tuple[str, str, str | None]
) -> None:
    request = ask(**fields)
    with pytest.raises(error):
        lifecycle.register(project, request)
    row = lifecycle.require(project.ledger, request.request_id)
    assert (row.state, row.outcome, row.reason) == expected
    head = project.ledger.head()
    if expected[1] == "failed":
        with pytest.raises(error):
            lifecycle.register(project, request)
    else:
        assert lifecycle.register(project, request) == row
    assert project.ledger.head() == head and project.ledger.problems() == []


def test_what_another_request_deletes_is_closed_only_when_it_is_done(project: Project) -> None:
    first = lifecycle.register(project, ask("1"))
    bar(project, first)
    second = ask(sample_ids=["img-010"])
    with pytest.raises(RequestError, match="already deleted"):
        lifecycle.register(project, second)
    row = lifecycle.require(project.ledger, second.request_id)
    assert (row.state, row.outcome) == ("received", "failed")  # barred, but the network still knows it
    lifecycle.close_deleted(project.ledger)
    assert lifecycle.require(project.ledger, row.request_id) == row
    project.ledger.set_outcome(first.request_id, State.COMPLETED, Outcome.UNLEARNED)
    before = project.ledger.head()
    lifecycle.close_deleted(project.ledger)
    row = lifecycle.require(project.ledger, second.request_id)
    assert (row.state, row.outcome, row.reason) == ("completed", "denied", "already_deleted")
    head = project.ledger.head()
    lifecycle.close_deleted(project.ledger)
    assert project.ledger.head() == head != before


def test_what_another_request_has_deleted_is_closed_when_it_is_asked_for_again(project: Project) -> None:
    first = lifecycle.register(project, ask("1"))
    bar(project, first)
    second = ask(sample_ids=["img-010"])
    with pytest.raises(RequestError, match="already deleted"):
        lifecycle.register(project, second)
    project.ledger.set_outcome(first.request_id, State.COMPLETED, Outcome.UNLEARNED)
    with pytest.raises(RequestError, match="already deleted"):
        lifecycle.register(project, second)
    row = lifecycle.require(project.ledger, second.request_id)
    assert (row.state, row.outcome, row.reason) == ("completed", "denied", "already_deleted")


@pytest.mark.parametrize(
    ("close", "outcome"),
    [
        (lambda ledger, i: lifecycle.withdraw(ledger, i), ("withdrawn", None)),
        (lambda ledger, i: lifecycle.deny(ledger, i, "insuf_verification"), ("denied", "insuf_verification")),
    ],
    ids=["withdraw", "deny"],
)
def test_a_request_is_withdrawn_or_denied_until_its_samples_are_barred(
    project: Project, close: Callable[[Ledger, str], Any], outcome: tuple[str, str | None]
) -> None:
    one, two = (lifecycle.register(project, ask(s)) for s in "12")
    row = close(project.ledger, one.request_id)
    assert (row.state, row.outcome, row.reason) == ("completed", *outcome)
    assert not project.samples.claimed()[10:20].any() and project.samples.claimed()[20:30].all()
    with pytest.raises(RequestError, match="is closed"):
        close(project.ledger, one.request_id)
    bar(project, two)
    head = project.ledger.head()
    with pytest.raises(RequestError, match="barred already, so it is finished"):
        close(project.ledger, two.request_id)
    assert project.ledger.head() == head
    assert project.samples.barred()[20:30].all()
    with pytest.raises(RequestError, match="not known"):
        close(project.ledger, "0" * 36)


def test_a_denial_needs_a_reason_that_others_understand(project: Project) -> None:
    row = lifecycle.register(project, ask("1"))
    with pytest.raises(RequestError, match="found 'no', allowed suspected_fraud, "):
        lifecycle.deny(project.ledger, row.request_id, "no")
    assert set(lifecycle.DENIALS) >= {
        "suspected_fraud", "insuf_verification", "no_match", "claim_not_covered", "outside_jurisdiction",
        "too_many_requests", "other",
    }  # fmt: skip


def test_a_deadline_is_put_off_once_in_time_and_for_a_reason(project: Project) -> None:
    row = lifecycle.register(project, ask("1"))
    late = datetime(2026, 12, 3, 12, 0, 1, tzinfo=UTC)
    for reason, now, message in (
        ("busy", NOW, "found 'busy', allowed complexity, number_of_requests"),
        ("complexity", late, "was due 2026-12-03T12:00:00Z"),
    ):
        with pytest.raises(RequestError, match=message):
            lifecycle.extend(project.ledger, row.request_id, reason, now)
    row = lifecycle.extend(project.ledger, row.request_id, "complexity", late - timedelta(seconds=1))
    assert row.extended == "2027-02-03T12:00:00Z"
    step = project.ledger.step(row.request_id, "", "extended")
    assert step is not None and step.detail == {"reason": "complexity"}
    with pytest.raises(RequestError, match="extended before"):
        lifecycle.extend(project.ledger, row.request_id, "complexity", NOW)
    research = parse_request(b'{"subject_ids": ["person-2"]}', source="r", now=NOW)
    row = lifecycle.register(project, research)
    with pytest.raises(RequestError, match="no deadline"):
        lifecycle.extend(project.ledger, row.request_id, "complexity", NOW)


def test_status_counts_the_days(project: Project) -> None:
    row = lifecycle.register(project, ask("1", regulation="ccpa"))
    day = timedelta(days=1)
    for now, left, overdue in ((NOW, 45, False), (NOW + 45 * day, 0, False), (NOW + 46 * day, -1, True)):
        (shown,) = standing(project.ledger, project.recipe.policy, now)
        assert (shown["days_left"], shown["overdue"]) == (left, overdue)
    lifecycle.extend(project.ledger, row.request_id, "number_of_requests", NOW)
    (shown,) = standing(project.ledger, project.recipe.policy, NOW + 46 * day)
    assert (shown["days_left"], shown["overdue"]) == (44, False)
    assert shown["next"] == "run qmu-edge unlearn --pending" and shown["images"] == 8
    lifecycle.withdraw(project.ledger, row.request_id)
    (shown,) = standing(project.ledger, project.recipe.policy, NOW + 400 * day)
    assert (shown["days_left"], shown["overdue"], shown["next"]) == (None, False, None)


def test_after_a_method_that_did_not_pass_the_plain_command_is_advised(project: Project) -> None:
    ledger, policy = project.ledger, project.recipe.policy
    row = lifecycle.register(project, ask("1"))
    bar(project, row)

    def missed(method: str) -> None:
        with ledger.change():
            step, detail = f"{REJECTED}: not_measurable", StepResult(method=method).to_json()
            ledger.start_step(row.request_id, f"run of {method}", step)
            ledger.finish_step(row.request_id, f"run of {method}", step, detail)
            ledger.set_outcome(row.request_id, State.UNLEARNING, Outcome.FAILED)

    def advised(retrain: bool = True) -> str | None:
        (shown,) = standing(ledger, policy, NOW, retrain=retrain)
        return shown["next"]

    missed("finetune")
    said = "run qmu-edge unlearn --pending: it goes on, with retrain at the latest"
    assert advised() == f"not passed: finetune; {said}"
    assert str(advised(retrain=False)).endswith("with held_out_match at the latest")
    missed("held_out_match")
    assert advised() == f"not passed: finetune, held_out_match; {said}"
    assert "another --method" in str(advised(retrain=False))
    missed("retrain")
    assert "another --method" in str(advised()) and "[policy]" in str(advised())


def test_the_guard_names_the_use_and_counts(project: Project) -> None:
    row = lifecycle.register(project, ask("1"))
    assert project.samples.allowed(np.arange(5, 15), "retain set").tolist() == list(
        range(5, 15)
    )  # only held yet
    bar(project, row)
    assert project.samples.allowed(np.arange(10), "retain set").tolist() == list(range(10))
    with pytest.raises(IntegrityError, match="retain set: 5 of 10 samples are deleted; allowed are none"):
        project.samples.allowed(np.arange(5, 15), "retain set")


def test_a_deleted_image_is_barred_under_another_name(project: Project) -> None:
    """As if it had been registered again: the same pixels, another id, nobody's."""
    row = lifecycle.register(project, ask("1"))
    bar(project, row)
    index = make_index()
    again = SampleIndex.of(
        ids=(*index.ids, "renamed"), digests=(*index.digests, index.digests[12]),
        labels=np.append(index.labels, 1), splits=np.append(index.splits, np.int8(0)),
        subjects=(*index.subjects, ""), class_names=index.class_names,
    )  # fmt: skip
    other = Project(project.root, project.recipe, project.ledger, project.progress)
    other.samples.__dict__["index"] = again
    assert other.samples.barred()[-1] and len(again.ids) - 1 not in other.samples.trainable()
    with pytest.raises(IntegrityError, match="1 of 1"):
        other.samples.allowed(np.array([len(again.ids) - 1]), "training set")


def test_events_tell_nothing_of_people(project: Project) -> None:
    row = lifecycle.register(project, ask("1", requested_by="anna"))
    lifecycle.extend(project.ledger, row.request_id, "complexity", NOW)
    lifecycle.approve(project.ledger, row.request_id, "bert")
    lifecycle.deny(project.ledger, row.request_id, "other")
    told = " ".join(body for (body,) in project.ledger.rows("SELECT body FROM events"))
    for secret in (row.request_id, "anna", "bert", "img-", pseudonym(SECRET, "person-1")):
        assert secret not in told
    assert SAMPLE_SPLITS[0] == "train"


def test_a_request_may_be_called_by_the_start_of_its_id(project: Project) -> None:
    ids = ["4fa4ecd7-2819-4ac5", "4fa4ecd7-3000-4ac5", "0b4654589a03b65c"]
    for request_id in ids:
        project.ledger.receive(
            request_id,
            sha(request_id),
            form="research",
            regulation=None,
            received="2026-11-03T12:00:00Z",
            due=None,
        )
    for request_id, short in lifecycle.short_ids(ids).items():
        assert lifecycle.require(project.ledger, short.upper()).request_id == request_id
    for bad, said in (("4fa4ecd7-", "2 ids begin so"), ("0b46545", "not known"), ("x" * 9, "not known")):
        with pytest.raises(RequestError, match=f"request {bad}: {said}"):
            lifecycle.require(project.ledger, bad)
    assert lifecycle.withdraw(project.ledger, "0b465458").request_id == ids[2]
