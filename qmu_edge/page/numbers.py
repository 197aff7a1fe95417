"""Numbers as people read them: the same text for the same number, on every machine."""

from datetime import datetime
from typing import Final

Real = int | float  # JSON has whole numbers, too
NOTHING: Final = "\u2013"  # where there is no value
_MINUS: Final = "\u2212"
_SPACE: Final = "\u00a0"  # that does not break
_UNITS: Final = ("B", "KiB", "MiB", "GiB")


def percent(share: Real | None, decimals: int = 1) -> str:
    r"""A fraction in percent.

    >>> percent(0.0525), percent(-0.08, 0), percent(-0.0001), percent(None)
    ('5.2\xa0%', '\u22128\xa0%', '0.0\xa0%', 'not measured')
    """
    return "not measured" if share is None else f"{signed(100 * share, decimals)}{_SPACE}%"


def between(low: Real | None, high: Real | None, decimals: int = 1) -> str:
    r"""The ends of an interval in percent; an end that there is not is said.

    >>> between(-0.05, 0.13, 0), between(None, 0.2, 0), between(None, None)
    ('\u22125\xa0% to 13\xa0%', 'no lower end to 20\xa0%', '\u2013')
    """
    if low is None and high is None:
        return NOTHING
    ends = (
        ("no lower end" if low is None else percent(low, decimals)),
        ("no upper end" if high is None else percent(high, decimals)),
    )
    return " to ".join(ends)


def short(value: Real) -> str:
    """A number with at most three decimals.

    >>> short(2.0), short(-0.5), short(1 / 3)
    ('2', '-0.5', '0.333')
    """
    return f"{value:.3f}".rstrip("0").rstrip(".")


def signed(value: Real, decimals: int = 0) -> str:
    r"""A number with a minus sign that is as wide as a plus; none before a zero.

    >>> signed(-1.25, 1), signed(-0.01, 1), signed(3.0)
    ('\u22121.2', '0.0', '3')
    """
    text = f"{value:.{decimals}f}"
    return text.replace("-", _MINUS) if float(text) else text.lstrip("-")


def count(number: Real | None) -> str:
    r"""A whole number.

    >>> count(12345.0), count(None)
    ('12,345', '\u2013')
    """
    return NOTHING if number is None else f"{number:,.0f}"


def size(bytes: int) -> str:
    r"""A number of bytes.

    >>> size(512), size(48_211), size(3 << 20)
    ('512\xa0B', '47.1\xa0KiB', '3.0\xa0MiB')
    """
    value, unit = float(bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.{1 if unit else 0}f}{_SPACE}{_UNITS[unit]}"


def seconds(value: Real) -> str:
    r"""A duration.

    >>> seconds(3.21), seconds(75.0), seconds(7260.0)
    ('3.2\xa0s', '1\xa0min 15\xa0s', '2\xa0h 1\xa0min')
    """
    if value < 60:
        return f"{value:.1f}{_SPACE}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"


def day(time: str | None) -> str:
    r"""The date of a time in RFC 3339.

    >>> day("2026-11-02T15:04:11Z"), day(None)
    ('2 November 2026', '\u2013')
    """
    if time is None:
        return NOTHING
    at = datetime.fromisoformat(time)
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}"


def of(number: int, what: str) -> str:
    """So many of something.

    >>> of(1, "picture"), of(1200, "picture")
    ('1 picture', '1,200 pictures')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# Not from the locale: the page has the same bytes everywhere.
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
