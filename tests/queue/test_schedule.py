"""Which requests wait for approval, which are served together, and by which methods."""

from dataclasses import replace

import numpy as np
import pytest

from qmu_edge.errors import ConfigError, RequestError
from qmu_edge.project.project import Project
from qmu_edge.project.results import EXACT
from qmu_edge.queue import lifecycle
from qmu_edge.queue.schedule import batches
from tests.queue.people import (
    ask,
    bar,
    change,
    rungs_for,
    split_of,
    waits,
)


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
