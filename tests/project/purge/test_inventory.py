"""The checklist of a request: everything made with its samples, and what became of it."""

from typing import Any
from unittest import mock

import pytest

from qmu_edge.errors import LedgerError
from qmu_edge.project.checklist import LineJson
from qmu_edge.project.inventory import NEVER_STORED, OUTSIDE
from qmu_edge.project.purge import preview, purge
from qmu_edge.store.ledger.ledger import Ledger
from tests.project.purge.conftest import checklist_of


def rows(result: list[LineJson]) -> dict[tuple[str, str], int | None]:
    return {(row["kind"], row["state"]): row["count"] for row in result}


def test_the_checklist_before_during_and_after(life: Any, clock: Any) -> None:
    life.train()
    request = life.ask(0)
    made = life.attempt(request)
    life.ledger.start_step(request, made["run"], "receipted")
    at_receipt = checklist_of(life.project, request)
    present = {kind: n for (kind, state), n in rows(at_receipt).items() if state == "present"}
    assert present == {
        "checkpoint": 2, "claim": 1, "split": 1, "decoded images": 2, "subject pseudonyms": 2,
        "training state": 1,
    }  # fmt: skip
    assert {r["kind"] for r in at_receipt if r["state"] == "never stored"} == set(NEVER_STORED)
    assert {r["kind"] for r in at_receipt if r["state"] == "outside"} == set(OUTSIDE)
    life.put("a receipt that a kill left alone")
    assert checklist_of(life.project, request) == at_receipt  # the receipt comes out the same again
    life.issue(request, made)
    purge(life.project, clock.now, at_once=True)
    after = {kind: n for (kind, state), n in rows(checklist_of(life.project, request)).items() if n}
    assert after == {**present, "object that nothing names": 1}
    assert {r["state"] for r in checklist_of(life.project, request)} == {
        "purged", "never stored", "outside",
    }  # fmt: skip


def test_the_checklist_says_why_a_thing_is_kept(life: Any, clock: Any) -> None:
    life.train()
    first = life.serve(0)
    life.ask(1)
    with mock.patch.object(Ledger, "removals", list):  # nothing removed yet
        assert ("split", "present") in rows(checklist_of(life.project, first["request"]))
    life.step("ask-1", "", "planned", split=life.ledger.step("ask-0", "", "resolved").detail["split"])
    assert ("split", "kept: a request is open") in rows(checklist_of(life.project, first["request"]))
    result = purge(life.project, clock.now, at_once=True)
    assert result["requests"] == []  # not whole while something of it is left


def test_a_checklist_of_nobody_is_an_error(life: Any) -> None:
    with pytest.raises(LedgerError, match="no request 'nobody'"):
        checklist_of(life.project, "nobody")


def test_a_preview_changes_nothing_and_lists_what_a_purge_removes(life: Any, clock: Any) -> None:
    life.train()
    life.serve(0)
    events = life.ledger.head()
    shown = preview(life.project, clock.now, at_once=True)
    assert life.ledger.head() == events and not life.is_blank(0)
    assert preview(life.project, clock.now)["remove"] == []
    result = purge(life.project, clock.now, at_once=True)
    assert len(shown["remove"]) == len(life.ledger.removals())
    assert sum(r["bytes"] for r in result["removed"]) == sum(r["bytes"] for r in shown["remove"])
    assert preview(life.project, clock.now, at_once=True)["requests"] == {}
