"""Results as text for people: nothing is lost, columns are straight."""

import json
from typing import Any

import pytest

from qmu_edge.cli import render

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
