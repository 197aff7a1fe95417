"""Results as text for people: nothing is lost, columns are straight."""

import json
from dataclasses import replace
from typing import Any, get_type_hints

import pytest

from qmu_edge.cli import render
from qmu_edge.pipeline.dry_run import PendingPreview, Preview
from qmu_edge.request.resolve import resolve
from qmu_edge.request.split import divide
from tests.request.samples import KEY, ask, make_index

RESULT: dict[str, Any] = {
    "name": "Zoë", "share": 0.123456, "none": None, "empty": [], "rows": [{"a": 1}, {"a": [2, 3]}],
    "deep": {"b": {}},
}  # fmt: skip


def test_nested_values_are_indented_one_to_a_line() -> None:
    assert render.plain(RESULT).split("\n") == [
        "name  Zoë", "share  0.1235", "none  -", "empty  none", "rows", "  -", "    a  1", "  -", "    a",
        "      -  2", "      -  3", "deep", "  b  none",
    ]  # fmt: skip


def test_json_is_the_whole_result_in_its_order() -> None:
    text = render.as_json(RESULT)
    assert json.loads(text) == RESULT
    assert list(json.loads(text)) == list(RESULT) and "Zoë" in text


def test_columns_of_a_table_are_straight() -> None:
    lines = render.table([["name", "n"], ["a", "1000"], ["longer", "7"]]).split("\n")
    assert lines == ["name       n", "a       1000", "longer     7"]


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.00"), (0.98765, "98.77"), (1.0, "100.00")])
def test_a_share_is_said_in_percent(value: float | None, text: str) -> None:
    assert render.percent(value) == text


def row(short: str, **changes: Any) -> dict[str, Any]:
    """A request as `qmu-edge request list` has it."""
    return {
        "request": f"{short}-5f51-4b43", "short": short, "regulation": "gdpr",
        "received": "2026-11-02T15:04:11Z", "due": "2026-12-02T15:04:11Z", "extended": None, "days_left": 3,
        "overdue": False, "state": "received", "outcome": None, "reason": None, "requested_by": "ticket-88",
        "approved_by": None, "images": 3, "receipt": None, "next": None, **changes,
    }  # fmt: skip


def test_requests_are_a_table_with_what_comes_next_below() -> None:
    rows = [
        row("4fa4ecd7", next="run qmu-edge unlearn --pending"),
        row("81c1", requested_by="y" * 40, days_left=-2, overdue=True),
        row("92d2", requested_by=None, extended="2027-02-02T15:04:11Z", days_left=None, state="completed",
            outcome="denied", reason="other"),
    ]  # fmt: skip
    head, first, following, second, third = render.requests({"requests": rows}).split("\n")
    assert head.split() == ["request", "reference", "received", "due", "days", "left", "state", "outcome"]
    assert first.split() == ["4fa4ecd7", "ticket-88", "2026-11-02", "2026-12-02", "3", "received", "-"]
    assert following == "  run qmu-edge unlearn --pending"
    assert f"{'y' * 23}… " in second and "-2 OVERDUE" in second
    assert third.split() == ["92d2", "-", "2026-11-02", "2027-02-02", "-", "completed", "denied", "(other)"]
    assert len({line.index("2026-11-02") for line in (first, second, third)}) == 1
    assert render.requests({"requests": []}) == "no requests"


def test_status_is_short_and_tells_the_head_of_the_ledger_whole() -> None:
    result: dict[str, Any] = {
        "project": "/srv/shop", "dataset": "folder", "samples": 1797, "deleted": 180,
        "barred": 0,
        "ledger": {"events": 63, "head": "ab" * 32}, "checkpoint": "cd" * 32, "release": None,
        "receipt": None, "origin": None,
        "verdicts": {"networks": 4, "detects": {"1": 0.7275, "20": 1.0}, "proves": {"1": 0.1286, "20": 0.72}},
        "take_down": [], "open": 1, "overdue": 0,
        "requests": [row("4fa4ecd7", next="run it"), row("closed-1")],
    }  # fmt: skip
    text = render.status(result)
    assert (
        "ab" * 32 in text and "1,797 samples, 180 deleted" in text and "1 open, 0 overdue, 2 in all" in text
    )
    why = {**result["verdicts"], "why": "of 500 images it would be 3 %"}
    assert "\n5 % is chance; of 500 images it would be 3 %\n" in render.status({**result, "verdicts": why})
    assert "chance" not in text
    waiting = render.status({**result, "deleted": 140, "barred": 40})
    assert "1,797 samples, 140 deleted, 40 barred by open requests\n" in waiting and "barred" not in text
    assert "run it" in text and "closed-1" not in text and len(text.split("\n")) == 16
    (line,) = [line for line in text.split("\n") if line.startswith("20 ")]
    assert line.split() == ["20", "100.00", "72.00"]
    assert "verdicts" not in render.status({**result, "verdicts": None})
    assert "origin      trained here\n" in text and "TAKE DOWN" not in text
    assert "TAKE DOWN   shop/birds@ab\n" in render.status({**result, "take_down": ["shop/birds@ab"]})
    assert "origin      adopted, training" in render.status(
        {**result, "origin": "adopted, training not witnessed"}
    )
    assert "origin      -\n" in render.status({**result, "checkpoint": None})


PREVIEW: dict[str, Any] = {
    "request": "r-1", "problem": "PROBLEM", "waits_for": "APPROVAL", "shared_with_others": 1234,
    "rungs": ["held_out_match", "retrain"], "rungs_forced_by": "FORCED",
    "expected_seconds": {"held_out_match": 9.5, "retrain": None}, "scope": "SCOPE",
    "counts": dict(zip(render._COUNTED, range(7001, 7999, 7), strict=False)),
    "classes": {"cats": 11, "dogs": 12}, "share": 0.0731, "look_alike": ["a/1.png", "b/2.png"],
    "limits": {"approval_above": 0.21, "approval_above_total": 0.52, "retrain_above": "off"},
    "verdict": "VERDICT", "dry_run": True,
}  # fmt: skip


def test_a_dry_run_is_told_in_words_and_nothing_of_it_is_lost() -> None:
    text = render.previewed(PREVIEW)
    assert "_" not in text.replace("held_out_match", "")
    for said in (
        "r-1", "PROBLEM", "APPROVAL", "1,234", "held_out_match (about 9.5 s), retrain (not known)", "FORCED",
        "SCOPE", *(f"{n:,}" for n in PREVIEW["counts"].values()), "cats: 11, dogs: 12", "7.31 %",
        "a/1.png, b/2.png", "21.00 %", "52.00 %", "above  ", "off", "VERDICT",
    ):  # fmt: skip
        assert said in text, said
    assert text.endswith("dry run: nothing was changed")


def test_what_a_dry_run_has_nothing_to_say_of_is_left_out() -> None:
    assert render.previewed({"request": "r-1", "dry_run": True, "outcome": "unlearned", "counts": None}) == (
        "request                          r-1\n"
        "served before, with the outcome  unlearned\n"
        "dry run: nothing was changed"
    )
    pending = {
        "requests": ["a", "b"],
        "waiting": [{"request": "c", "waits_for": "approval"}],
        "dry_run": True,
    }
    assert render.previewed(pending) == (
        "request    a\nrequest    b\nrequest c  waits for approval\ndry run: nothing was changed"
    )
    assert (
        render.previewed({"requests": [], "waiting": [], "dry_run": True}) == "dry run: nothing was changed"
    )


def test_the_fields_of_a_dry_run_are_those_that_are_told() -> None:
    told = {*get_type_hints(Preview), *get_type_hints(PendingPreview)}
    assert told == {*PREVIEW, "requests", "waiting", "outcome"}
    index = make_index([(f"s{i}", f"p{i}", 0, "train", "ana" if i else "bo") for i in range(4)])
    split = divide(index, [resolve(index, ask(sample_ids=["s0"]), key=KEY)])
    assert {*replace(split, near_duplicates=1).counts()} == {*render._COUNTED}


def test_the_last_line_says_that_a_receipt_holds_and_what_was_not_checked() -> None:
    found: dict[str, Any] = {"sha256": "5" * 64, "key": "k", "checks": ["signature: holds, which is trusted"]}
    assert render.verified_receipt(found).split("\n")[-1] == "the receipt holds"
    found["checks"] += ["previous receipt: not checked, stated: none"]  # there is none
    assert render.verified_receipt(found).split("\n")[-1] == "the receipt holds"
    found["checks"] += ["model.onnx: not checked, no file given"]
    last = render.verified_receipt(found).split("\n")[-1]
    assert last == "the receipt holds; not everything was checked: 1 of the lines above"
