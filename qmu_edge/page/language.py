"""The languages of what people read: all texts of a language, and how it writes numbers, are one file.

`languages/en.toml` holds the texts by their key, with named gaps; every other file of the folder the same
keys with the same gaps, so a further language is a further file. No locale is asked: the same facts make the
same bytes on every machine. What receipts say in fixed English sentences is translated from `[fixed]`, and
stands as it is where a language has nothing for it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from qmu_edge.errors import ConfigError
from qmu_edge.receipt.share import tellable

Real = int | float  # JSON has whole numbers, too
NOTHING: Final = "\u2013"  # where there is no value
ENGLISH: Final = "en"
_MINUS: Final = "\u2212"
_SPACE: Final = "\u00a0"  # that does not break
_UNITS: Final = ("B", "KiB", "MiB", "GiB")


@dataclass(frozen=True, slots=True)
class Language:
    """Texts and numbers of one language.

    Attributes:
        code: Its name in HTML, and of its file.
        texts: Each text with its gaps, by its key; a list has the forms for one and for more.
        fixed: Translations of sentences that receipts hold.
    """

    code: str
    texts: Mapping[str, Any]
    fixed: Mapping[str, str]

    def __call__(self, key: str, /, **gaps: object) -> str:
        """The text of a key with its gaps filled.

        >>> language("en")("number.between", low="1", high="2")
        '1 to 2'
        """
        return str(self.texts[key]).format_map(gaps)

    def either(self, key: str, otherwise: str) -> str:
        """The text of a key, or what takes its place where there is none: a name that somebody else chose."""
        return str(self.texts.get(key, otherwise))

    def translated(self, sentence: str) -> str:
        """A fixed sentence of a receipt, in this language where it has one for it."""
        return self.fixed.get(sentence, sentence)

    def of(self, key: str, number: Real, /, **gaps: object) -> str:
        """A text about so many things.

        >>> language("en").of("left.pictures", 1), language("de").of("left.pictures", 1200)
        ('1 picture', '1.200 Bildern')
        """
        one, more = self.texts[key]
        return str(one if number == 1 else more).format_map({"n": self.count(number), **gaps})

    def number(self, value: Real, decimals: int = 0) -> str:
        r"""A number with a minus sign that is as wide as a plus; none before a zero.

        >>> language("en").number(-1.25, 1), language("de").number(-1.25, 1), language("de").number(-0.01, 1)
        ('\u22121.2', '\u22121,2', '0,0')
        """
        text = f"{value:,.{decimals}f}"
        text = text.replace("-", _MINUS) if float(text.replace(",", "")) else text.lstrip("-")
        marks = {",": self("number.thousands"), ".": self("number.decimal")}
        return "".join(marks.get(letter, letter) for letter in text)

    def percent(self, share: Real | None, decimals: int = 1) -> str:
        r"""A fraction in percent.

        >>> language("en").percent(0.0525), language("de").percent(0.0525), language("en").percent(None)
        ('5.2\xa0%', '5,2\xa0%', 'not measured')
        """
        return self("number.none") if share is None else f"{self.number(100 * share, decimals)}{_SPACE}%"

    def between(self, low: Real | None, high: Real | None, decimals: int = 1) -> str:
        r"""The ends of an interval in percent; an end that there is not is said.

        >>> language("en").between(-0.05, 0.13, 0), language("en").between(None, 0.2, 0)
        ('\u22125\xa0% to 13\xa0%', 'no lower end to 20\xa0%')
        """
        if low is None and high is None:
            return NOTHING
        return self(
            "number.between",
            low=self("number.no_low") if low is None else self.percent(low, decimals),
            high=self("number.no_high") if high is None else self.percent(high, decimals),
        )

    def share(self, value: Real | None, low: Real | None, high: Real | None, decimals: int = 1) -> str:
        r"""A share and its interval; what has none was not measured.

        >>> language("en").share(0.05, -0.05, 0.13, 0), language("en").share(1.891, None, None)
        ('5\xa0% (\u22125\xa0% to 13\xa0%)', 'not measured')
        """
        found = self.percent(tellable(value, low, high), decimals)
        if low is None and high is None:
            return found
        return self("number.share", share=found, interval=self.between(low, high, decimals))

    def count(self, number: Real | None) -> str:
        r"""A whole number.

        >>> language("en").count(12345.0), language("de").count(12345), language("de").count(None)
        ('12,345', '12.345', '\u2013')
        """
        return NOTHING if number is None else self.number(number)

    def size(self, bytes: int) -> str:
        r"""A number of bytes.

        >>> language("en").size(512), language("de").size(48_211)
        ('512\xa0B', '47,1\xa0KiB')
        """
        value, unit = float(bytes), 0
        while value >= 1024 and unit < len(_UNITS) - 1:
            value, unit = value / 1024, unit + 1
        return f"{self.number(value, 1 if unit else 0)}{_SPACE}{_UNITS[unit]}"

    def seconds(self, value: Real) -> str:
        r"""A duration.

        >>> language("de").seconds(3.21), language("en").seconds(75.0), language("en").seconds(7260.0)
        ('3,2\xa0s', '1\xa0min 15\xa0s', '2\xa0h 1\xa0min')
        """
        if value < 60:
            return f"{self.number(value, 1)}{_SPACE}s"
        minutes, rest = divmod(round(value), 60)
        if minutes < 60:
            return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
        return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"

    def day(self, time: str | None) -> str:
        r"""The date of a time in RFC 3339.

        >>> language("en").day("2026-11-02T15:04:11Z"), language("de").day("2026-11-02T15:04:11Z")
        ('2 November 2026', '2. November 2026')
        """
        if time is None:
            return NOTHING
        at = datetime.fromisoformat(time)
        month = self("number.months").split()[at.month - 1]
        return self("number.day", day=at.day, month=month, year=at.year)


def known() -> tuple[str, ...]:
    """The languages that there are."""
    names = [place.name for place in (files("qmu_edge.page") / "languages").iterdir()]
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


@cache
def language(code: str) -> Language:
    """A language by its code.

    Raises:
        ConfigError: There is none of this code.
    """
    if code not in known():
        raise ConfigError(f"--lang {code!r}: no such language, allowed are {', '.join(known())}")
    place = files("qmu_edge.page") / "languages" / f"{code}.toml"
    found = tomllib.loads(place.read_text("utf-8"))
    return Language(code, flat({k: v for k, v in found.items() if k != "fixed"}), found.get("fixed", {}))


def flat(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Texts by dotted key.

    >>> flat({"a": "x", "b": {"c": "y", "d": ["1", "2"]}})
    {'a': 'x', 'b.c': 'y', 'b.d': ['1', '2']}
    """
    found: dict[str, Any] = {}
    for key, value in texts.items():
        found |= (
            {f"{key}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {key: value}
        )
    return found
