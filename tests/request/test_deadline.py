"""Deadlines are calendar dates: short months, leap years, and one extension."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.request.deadline import days_left, due_time, rfc3339

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("regulation", "received", "due", "extended"),
    [
        ("gdpr", "2026-01-31", "2026-02-28", "2026-04-30"),
        ("gdpr", "2024-01-31", "2024-02-29", "2024-04-30"),
        ("gdpr", "2025-12-31", "2026-01-31", "2026-03-31"),
        ("gdpr", "2025-11-30", "2025-12-30", "2026-02-28"),
        ("gdpr", "2026-10-15", "2026-11-15", "2027-01-15"),
        ("ccpa", "2026-01-31", "2026-03-17", "2026-05-01"),
    ],
)
def test_due_time(regulation: str, received: str, due: str, extended: str) -> None:
    start = datetime.fromisoformat(f"{received}T08:00:00Z")
    assert due_time(start, regulation) == datetime.fromisoformat(f"{due}T08:00:00Z")
    assert due_time(start, regulation, extended=True) == datetime.fromisoformat(f"{extended}T08:00:00Z")


def test_without_a_regulation_nothing_is_due() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert due_time(now, None) is None and days_left(None, now) is None


@given(MOMENTS)
def test_a_gdpr_month_is_28_to_31_days_and_the_extension_two_more_months(received: datetime) -> None:
    due, late = due_time(received, "gdpr"), due_time(received, "gdpr", extended=True)
    assert due is not None and late is not None
    assert timedelta(28) <= due - received <= timedelta(31)
    assert timedelta(89) <= late - received <= timedelta(92)


@given(MOMENTS, st.integers(-10_000, 10_000))
def test_days_left_counts_down_to_the_deadline(now: datetime, days: int) -> None:
    now = now.replace(microsecond=0)
    assert days_left(rfc3339(now + timedelta(days=days)), now) == days


def test_times_are_written_in_utc() -> None:
    there = timezone(timedelta(hours=2))
    assert rfc3339(datetime(2026, 3, 1, 1, 30, tzinfo=there)) == "2026-02-28T23:30:00Z"
