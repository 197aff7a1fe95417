"""When a request must be answered: by law, and after an extension. Pure functions of dates.

GDPR Art. 12(3): one month from receipt, and two further months once, with a reason that is given within
the first. CCPA regulations section 7021: 45 days, and 45 more once. Not legal advice.
"""

import calendar
from datetime import UTC, datetime, timedelta
from typing import Final

EXTENSIONS: Final = ("complexity", "number_of_requests")  # the reasons that Art. 12(3) knows
_GDPR_MONTHS: Final = (1, 3)
_CCPA_DAYS: Final = (45, 90)


def due_time(received: datetime, regulation: str | None, *, extended: bool = False) -> datetime | None:
    """When the answer is due; None without a regulation that says so.

    Where the month has no such day, the answer is due on its last day.

    >>> received = datetime(2027, 1, 31, 12, tzinfo=UTC)
    >>> str(due_time(received, "gdpr"))
    '2027-02-28 12:00:00+00:00'
    >>> str(due_time(received, "gdpr", extended=True))
    '2027-04-30 12:00:00+00:00'
    >>> str(due_time(received, "ccpa", extended=True))
    '2027-05-01 12:00:00+00:00'
    """
    if regulation == "gdpr":
        year, month = divmod(received.year * 12 + received.month - 1 + _GDPR_MONTHS[extended], 12)
        last = calendar.monthrange(year, month + 1)[1]
        return received.replace(year=year, month=month + 1, day=min(received.day, last))
    return received + timedelta(days=_CCPA_DAYS[extended]) if regulation == "ccpa" else None


def days_left(due: str | None, now: datetime) -> int | None:
    """Whole days until a deadline (RFC 3339); negative when it has passed, None without one.

    >>> days_left("2026-03-02T12:00:00Z", datetime(2026, 3, 1, 13, tzinfo=UTC))
    0
    >>> days_left("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 13, tzinfo=UTC))
    -1
    """
    return None if due is None else (datetime.fromisoformat(due) - now).days


def rfc3339(time: datetime) -> str:
    """A moment as the ledger writes it: UTC, whole seconds.

    >>> rfc3339(datetime(2026, 3, 1, 13, tzinfo=UTC))
    '2026-03-01T13:00:00Z'
    """
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
