"""How a share with its interval is told: where neither end is known, it was not measured.

What is left is a quotient. Where the original knew next to nothing, its value may be anything, and no
interval says so: told alone, it would be read as a result.
"""

from collections.abc import Callable
from typing import Final

NOT_MEASURED: Final = "not measured"
Real = int | float  # JSON has whole numbers, too


def tellable(value: Real | None, low: Real | None, high: Real | None, bound: str = "high") -> Real | None:
    """A value where it may be told, else None.

    Args:
        value: The share; None where there is none.
        low: Lower end of its interval; None where there is none.
        high: Upper end.
        bound: What of it is held against a limit: "low", "high", or the "value", which needs no interval.

    >>> tellable(1.891, None, None), tellable(0.5, None, 0.9), tellable(1.0, None, None, "value")
    (None, 0.5, 1.0)
    """
    return value if bound == "value" or low is not None or high is not None else None


def percent(share: Real) -> str:
    """A share in percent; no minus before a zero.

    >>> percent(0.0525), percent(-0.0001)
    ('5.2 %', '0.0 %')
    """
    return f"{100 * share:z.1f} %"


def told(
    value: Real | None,
    low: Real | None,
    high: Real | None,
    write: Callable[[Real], str] = percent,
    bound: str = "high",
) -> str:
    """A share and its interval, see `tellable`; `write` makes text of each number.

    Where the value itself is compared, or is exact, it is told alone.

    >>> told(0.05, -0.1, 0.2)
    '5.0 % (-10.0 % to 20.0 %)'
    >>> told(0.5, 0.3, None, "{:.2f}".format)
    '0.50 (0.30 to no upper end)'
    >>> told(1.891, None, None)
    'not measured'
    """
    share, interval = told_apart(value, low, high, write, bound)
    return f"{share} ({interval})" if interval else share


def told_apart(
    value: Real | None,
    low: Real | None,
    high: Real | None,
    write: Callable[[Real], str] = percent,
    bound: str = "high",
) -> tuple[str, str]:
    """The same as two texts, for the columns of a table; the interval is "" where it is not told.

    >>> told_apart(0.05, -0.1, 0.2)
    ('5.0 %', '-10.0 % to 20.0 %')
    """
    if (found := tellable(value, low, high, bound)) is None:
        return NOT_MEASURED, ""
    if bound == "value" or low == value == high:
        return write(found), ""
    ends = "no lower end" if low is None else write(low), "no upper end" if high is None else write(high)
    return write(found), " to ".join(ends)
