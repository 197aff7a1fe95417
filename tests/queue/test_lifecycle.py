"""What may happen to a request besides being served, and what is kept of it; no torch, no images."""

import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge.data.index import SAMPLE_SPLITS, SampleIndex, pseudonym
from qmu_edge.errors import ConfigError, IntegrityError, NoMatchError, RequestError
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import KEY, KEY_CHECK, STORE, Project, key_check
from qmu_edge.project.results import EXACT
from qmu_edge.queue import lifecycle
from qmu_edge.queue.schedule import batch_name, batches, deleted_share, places, rungs, standing
from qmu_edge.recipe import Recipe
from qmu_edge.request.document import DeletionRequest, new_request, parse_request
from qmu_edge.request.resolve import tombstones_of
from qmu_edge.request.split import Split, divide, emptied_classes
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import Outcome, State, Step

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)
SECRET = b"k" * 32
PEOPLE = 10  # of ten images each: eight to train on, one for validation, one to test


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_index() -> SampleIndex:
    n = 10 * PEOPLE
    return SampleIndex.of(
        ids=tuple(f"img-{i:03}" for i in range(n)),
        digests=tuple(sha(f"pixels {i}") for i in range(n)),
        labels=np.arange(n, dtype=np.int64) % 2,
        splits=np.array([max(0, i % 10 - 7) for i in range(n)], np.int8),
        subjects=tuple(pseudonym(SECRET, f"person-{i // 10}") for i in range(n)),
        class_names=("cat", "dog"),
    )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project without images."""
    key = tmp_path / STORE / KEY
    key.parent.mkdir(parents=True)
    key.write_bytes(SECRET)
    with Ledger.create(tmp_path / STORE / "ledger.db") as ledger:
        ledger.write_samples(make_index())
        ledger.set_meta(KEY_CHECK, key_check(SECRET))
        yield Project(tmp_path, Recipe(), ledger, Progress())


def ask(*subjects: str, **fields: Any) -> DeletionRequest:
    document = new_request(subject_ids=[f"person-{s}" for s in subjects], now=NOW, **fields)
    return parse_request(json.dumps(document).encode(), source="r.json", now=NOW)


def split_of(project: Project, *rows: Any) -> Split:
    resolved = project.ledger.open_details(Step.RESOLVED)
    return divide(project.samples.index, [project.samples.claim(resolved[row.request_id]) for row in rows])


def change(project: Project, **policy: Any) -> Project:
    recipe = project.recipe.model_copy(update={"policy": project.recipe.policy.model_copy(update=policy)})
    return Project(project.root, recipe, project.ledger, project.progress)


def bar(project: Project, *rows: Any) -> None:
    """What serving does first."""
    resolved = project.ledger.open_details(Step.RESOLVED)
    with project.ledger.change():
        for row in rows:
            stones = tombstones_of(project.samples.index, project.samples.claim(resolved[row.request_id]))
            project.ledger.start_step(row.request_id, "", "tombstoned")
            project.ledger.add_tombstones(row.request_id, *zip(*stones, strict=True))
            project.ledger.finish_step(row.request_id, "", "tombstoned", {"batch": batch_name(rows)})
            project.ledger.set_outcome(row.request_id, State.UNLEARNING, None)


def waits(project: Project) -> dict[str, str]:
    return {p.row.request_id: p.waits for p in places(project.ledger, project.recipe.policy)}


def rungs_for(
    project: Project, rows: Sequence[RequestRow], split: Split, asked: str | None
) -> tuple[tuple[str, ...], str]:
    """What `plan` chooses for a split that is given."""
    emptied = emptied_classes(project.samples.index, split, project.samples.barred())
    share = deleted_share(project.ledger, project.results, rows, split)
    return rungs(project.recipe.policy, asked, emptied, share)


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


def test_a_large_request_waits_until_somebody_else_approves_it(project: Project) -> None:
    project = change(project, approval_above=0.1)
    big = lifecycle.register(project, ask("1", "2", requested_by="anna"))
    assert waits(project)[big.request_id].startswith("approval: 20.0% of the training images, approval_above")
    with pytest.raises(RequestError, match="whoever asked"):
        lifecycle.approve(project.ledger, big.request_id, "anna")
    for bad in ("", " ", "a\nb", "x" * 513):
        with pytest.raises(RequestError, match="printable"):
            lifecycle.approve(project.ledger, big.request_id, bad)
    assert lifecycle.approve(project.ledger, big.request_id, "T-9").approved_by == "T-9"
    assert waits(project)[big.request_id] == ""
    own = lifecycle.register(project, ask("3", "4", requested_by="anna", approved_by_ref="anna"))
    assert own.approved_by is None and waits(project)[own.request_id]


def test_many_small_requests_wait_when_together_they_are_too_much(project: Project) -> None:
    project = change(project, approval_above_total=0.3)
    rows = [lifecycle.register(project, ask(s)) for s in "12345"]
    assert [bool(waits(project)[r.request_id]) for r in rows] == [False, False, False, True, True]
    bar(project, *rows[:3])
    assert [bool(waits(project)[r.request_id]) for r in rows] == [False, False, False, True, True]
    lifecycle.approve(project.ledger, rows[4].request_id, "T-1")
    assert [bool(waits(project)[r.request_id]) for r in rows] == [False, False, False, True, False]


def test_no_limit_and_the_strictest_one(project: Project) -> None:
    row = lifecycle.register(project, ask("1"))
    assert waits(change(project, approval_above=0.0))[row.request_id]
    assert not waits(change(project, approval_above="off", approval_above_total="off"))[row.request_id]


def test_a_part_waits_for_approval_whatever_the_document_says(project: Project) -> None:
    request = ask(sample_ids=["img-000", "img-999"], approved_by_ref="T-1")
    with pytest.raises(RequestError, match="1 of 2 not in the index"):
        lifecycle.register(project, request)
    assert "only a part" in waits(project)[request.request_id]
    lifecycle.approve(project.ledger, request.request_id, "T-2")
    assert waits(project)[request.request_id] == ""


def test_retraining_is_forced_by_what_was_deleted_since_the_last_one(project: Project) -> None:
    project = change(project, retrain_above=0.25)
    rows = [lifecycle.register(project, ask(s)) for s in "12"]
    bar(project, rows[0])
    one = split_of(project, rows[1])
    two = replace(one, forget=np.arange(16))
    assert len(one.forget) == 8
    assert rungs_for(project, rows[1:], one, None) == (("held_out_match", "retrain"), "")
    # Its own samples count once.
    assert rungs_for(project, rows[:1], two, None) == (("held_out_match", "retrain"), "")
    names, why = rungs_for(project, rows[1:], two, None)
    assert names == ("retrain",) and why.startswith("30.0% of the training images")
    with pytest.raises(ConfigError, match=r"method finetune: 30\.0%.*allowed is retrain"):
        rungs_for(project, rows[1:], two, "finetune")
    assert rungs_for(project, rows[1:], two, "retrain") == (("retrain",), "")
    project.ledger.set_meta(EXACT, 8)
    assert rungs_for(project, rows[1:], two, None) == (("held_out_match", "retrain"), "")


def test_a_class_and_other_samples_together_are_trained_again(project: Project) -> None:
    project = change(project, retrain_above="off")
    cats, person = (lifecycle.register(project, r) for r in (ask(class_ids=[0]), ask("1")))
    for rows in ([cats], [person]):
        assert rungs_for(project, rows, split_of(project, *rows), None)[1] == ""
    both = split_of(project, cats, person)
    names, why = rungs_for(project, [cats, person], both, None)
    assert names == ("retrain",) and why == "whole classes and samples of other classes go together"
    with pytest.raises(ConfigError, match=r"method qmul: whole classes and .*allowed is retrain"):
        rungs_for(project, [cats, person], both, "qmul")


def test_a_batch_that_has_begun_stays_together(project: Project) -> None:
    one, two, three, four = (lifecycle.register(project, ask(s)) for s in "1234")
    assert batches(project.ledger, [one, two]) == [(one, two)]
    bar(project, one, two)
    one, two = (lifecycle.require(project.ledger, r.request_id) for r in (one, two))
    assert batches(project.ledger, [two]) == [(one, two)]
    assert batches(project.ledger, [three, one, four]) == [(one, two), (three, four)]
    assert batches(project.ledger, []) == []


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
