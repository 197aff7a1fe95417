"""Plots as inline SVG: plain functions of numbers, without a script, a font or a colour of their own.

A plot is 360 units wide, which is a phone's width: text has the size of the page's text there and grows with
the plot elsewhere. Colours are classes of the page's style sheet, so that light, dark and print have theirs.
Every plot says in its label what it shows; the page has a table of the same numbers behind it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from qmu_edge.page.language import Language, Real
from qmu_edge.verify.figures import RATES

WIDTH: Final = 360
_ROW: Final = 19
_LABEL: Final = 148  # units for a bar's label
_LETTERS: Final = 17  # that fit there


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, drawn from `start` to `end`; what lies beyond is drawn at an end."""

    low: Real
    high: Real
    start: Real
    end: Real

    def at(self, value: Real) -> Real:
        """Where a value lies.

        >>> Axis(0.0, 2.0, 100.0, 0.0).at(0.5), Axis(0.0, 2.0, 100.0, 0.0).at(9.0)
        (75.0, 0.0)
        """
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def element(name: str, *inside: str, **attributes: str | Real) -> Markup:
    """An element of SVG; whatever is not markup already is escaped.

    >>> element("text", "<b>", x=1.0, text_anchor="end")
    Markup('<text x="1" text-anchor="end">&lt;b&gt;</text>')
    """
    named = "".join(
        f' {key.strip("_").replace("_", "-")}="{escape(_text(value))}"' for key, value in attributes.items()
    )
    body = Markup("").join(inside)
    return Markup(f"<{name}{named}>{body}</{name}>" if body else f"<{name}{named}/>")


def picture(height: Real, label: str, *inside: str) -> Markup:
    """A whole plot of this height, with what it shows in words."""
    return element(
        "svg", *inside, class_="plot", viewBox=f"0 0 {WIDTH} {short(height)}", role="img", aria_label=label
    )


def interval(
    value: Real | None, low: Real | None, high: Real | None, most: Real, label: str, say: Language
) -> Markup:
    """What is left as a share with its interval, between never seen (0) and known as before (1).

    The axis goes from -0.5 to 1.5 at most, and an interval that is wider to its ends.

    Args:
        value: The share; None draws the interval alone.
        low: Its lower end; None where there is none.
        high: Its upper end.
        most: The largest allowed.
        label: For those who do not see the picture.
        say: The language of what is written in it.
    """
    ends = [end for end in (value, low, high) if end is not None]
    axis = Axis(max(-0.5, min([-0.25, *ends])), min(1.5, max([1.1, *ends])), 12, WIDTH - 12)
    left, right = axis.at(axis.low if low is None else low), axis.at(axis.high if high is None else high)
    marks = [_line(axis.at(x), 22, axis.at(x), 66, "axis") for x in (0.0, 1.0)]
    return picture(
        104, label,
        element("rect", class_="allowed", x=axis.at(axis.low), y=26, height=36,
                width=axis.at(most) - axis.at(axis.low)),
        _line(12, 66, WIDTH - 12, 66, "axis"), *marks,
        _line(left, 44, right, 44, "whisker"), _line(left, 36, left, 52, "whisker"),
        _line(right, 36, right, 52, "whisker"),
        *([] if value is None else [element("circle", class_="dot", cx=axis.at(value), cy=44, r=6)]),
        _words(axis.at(0.0), 82, "0 %", "middle"), _words(axis.at(1.0), 82, "100 %", "middle"),
        _words(axis.at(0.0), 97, say("left.never_saw"), "middle"),
        _words(axis.at(1.0), 97, say("left.as_before"), "middle"),
        _words(12, 15, say("left.up_to", share=say.percent(most, 0)), "start"),
    )  # fmt: skip


def spread(
    edges: Sequence[Real], forgotten: Sequence[int], unseen: Sequence[int], label: str, say: Language
) -> Markup:
    """Two sets of images by their scaled confidence, as shares of each: unseen filled, forgotten as a line.

    Args:
        edges: Where bars begin and end (b + 1).
        forgotten: Images in each bar (b).
        unseen: Likewise.
        label: For those who do not see the picture.
        say: The language of what is written in it.
    """
    shares = [[n / max(1, sum(counts)) for n in counts] for counts in (unseen, forgotten)]
    x, y = Axis(edges[0], edges[-1], 10, WIDTH - 10), Axis(0.0, max(map(max, shares)) or 1.0, 150, 30)
    paths = [_steps(edges, of, x, y) for of in shares]
    ticks = (edges[0], min(max(0.0, edges[0]), edges[-1]), edges[-1])
    return picture(
        186, label,
        element("path", class_="fill-b", d=paths[0]), element("path", class_="line-a", d=paths[1]),
        _line(10, 150, WIDTH - 10, 150, "axis"),
        *(_words(x.at(t), 165, say.number(t), a)
          for t, a in zip(ticks, ("start", "middle", "end"), strict=True)),
        _words(WIDTH / 2, 181, say("confidence.axis"), "middle"),
        element("rect", class_="fill-b", x=10, y=8, width=14, height=10),
        _words(29, 17, say("confidence.unseen"), "start"),
        _line(120, 13, 134, 13, "line-a"), _words(139, 17, say("confidence.forgotten"), "start"),
    )  # fmt: skip


def curves(original: Sequence[Real], file: Sequence[Real], label: str, say: Language) -> Markup:
    """How many forgotten images an attack finds for each share of false alarms, on a logarithmic axis.

    Args:
        original: Shares found at each of `RATES` (r).
        file: Likewise.
        label: For those who do not see the picture.
        say: The language of what is written in it.
    """
    x, y = Axis(math.log10(RATES[0]), 0.0, 48, WIDTH - 12), Axis(0.0, 1.0, 196, 30)
    lines = [
        _path([(x.at(math.log10(rate)), y.at(share)) for rate, share in zip(RATES, of, strict=True)])
        for of in (RATES, original, file)
    ]
    ticks = (0.001, 0.01, 0.1, 1.0)
    return picture(
        236, label,
        *(_line(48, y.at(s), WIDTH - 12, y.at(s), "grid") for s in (0.5, 1.0)),
        *(_line(x.at(math.log10(t)), 30, x.at(math.log10(t)), 196, "grid") for t in ticks[1:3]),
        _line(48, 196, WIDTH - 12, 196, "axis"), _line(48, 30, 48, 196, "axis"),
        *(element("path", class_=c, d=d) for c, d in zip(("guess", "line-b", "line-a"), lines, strict=True)),
        *(_words(x.at(math.log10(t)), 211, say.percent(t, 1 if t < 0.01 else 0), a)
          for t, a in zip(ticks, ("start", "middle", "middle"), strict=False)),
        _words(WIDTH - 12, 211, say.percent(1.0, 0), "end"),
        *(_words(43, y.at(s) + 4, say.percent(s, 0), "end") for s in (0.0, 0.5, 1.0)),
        _words((48 + WIDTH) / 2, 229, say("attack.axis"), "middle"),
        _line(48, 13, 62, 13, "line-b"), _words(67, 17, say("attack.original"), "start"),
        _line(130, 13, 144, 13, "line-a"), _words(149, 17, say("attack.file"), "start"),
        _line(222, 13, 236, 13, "guess"), _words(241, 17, say("attack.guessing"), "start"),
    )  # fmt: skip


def bars(rows: Sequence[tuple[str, Real, str]], label: str) -> Markup:
    """One horizontal bar for each row of name, length and what is written behind it.

    Args:
        rows: At least one; lengths from 0.
        label: For those who do not see the picture.
    """
    axis = Axis(0.0, max(length for _, length, _ in rows) or 1.0, _LABEL, WIDTH - 72)
    drawn = []
    for number, (name, length, text) in enumerate(rows):
        y = number * _ROW + 4
        width = round(axis.at(length) - _LABEL, 1)
        drawn += [
            _words(_LABEL - 6, y + 11, _cut(name), "end"),
            element("rect", class_="fill-a", x=_LABEL, y=y + 1, width=width, height=_ROW - 7),
            _words(_LABEL + width + 5, y + 11, text, "start"),
        ]
    return picture(len(rows) * _ROW + 8, label, *drawn)


def changes(rows: Sequence[tuple[str, Real, Real]], label: str, say: Language) -> Markup:
    """Two shares for each row of name, before and after, and the way between them.

    Args:
        rows: At least one.
        label: For those who do not see the picture.
        say: The language of what is written in it.
    """
    axis, drawn = Axis(0.0, 1.0, 76, WIDTH - 16), []
    bottom = len(rows) * _ROW + 26
    for number, (name, before, after) in enumerate(rows):
        y = number * _ROW + 34
        drawn += [
            _words(64, y + 4, _cut(name), "end"), _line(76, y, WIDTH - 16, y, "grid"),
            _line(axis.at(before), y, axis.at(after), y, "whisker"),
            element("circle", class_="ring", cx=axis.at(before), cy=y, r=4.5),
            element("circle", class_="dot", cx=axis.at(after), cy=y, r=4),
        ]  # fmt: skip
    return picture(
        bottom + 18, label, *drawn,
        *(_words(axis.at(s), bottom + 12, say.percent(s, 0), a)
          for s, a in ((0.0, "middle"), (0.5, "middle"), (1.0, "end"))),
        element("circle", class_="ring", cx=82, cy=13, r=4.5),
        _words(92, 17, say("accuracy.original"), "start"),
        element("circle", class_="dot", cx=170, cy=13, r=4), _words(180, 17, say("accuracy.file"), "start"),
    )  # fmt: skip


def _steps(edges: Sequence[Real], shares: Sequence[Real], x: Axis, y: Axis) -> str:
    """The outline of bars, from the axis and back to it."""
    points = [(x.at(edges[0]), y.start)]
    for left, right, share in zip(edges, edges[1:], shares, strict=False):
        points += [(x.at(left), y.at(share)), (x.at(right), y.at(share))]
    return _path([*points, (x.at(edges[-1]), y.start)])


def _path(points: Sequence[tuple[Real, Real]]) -> str:
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in points)


def _line(x1: Real, y1: Real, x2: Real, y2: Real, kind: str) -> Markup:
    return element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def _words(x: Real, y: Real, text: str, anchor: str) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor)


def _cut(name: str) -> str:
    """The name, or its end, where what tells layers apart is; no word is cut where that can be.

    >>> _cut("stages.0.blocks.3.residual.weight"), _cut("blocks.2.shortcut.0.0"), _cut("blocks.0.second.0")
    ('…3.residual.weight', '….2.shortcut.0.0', 'blocks.0.second.0')
    """
    if len(name) <= _LETTERS:
        return name
    end = name[-_LETTERS:]
    whole = "." not in end or name[-_LETTERS - 1] == "."
    return f"…{end}" if whole else f"….{end.partition('.')[2]}"


def short(value: Real) -> str:
    """A number with at most three decimals, as SVG has it.

    >>> short(2.0), short(-0.5), short(1 / 3)
    ('2', '-0.5', '0.333')
    """
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _text(value: str | Real) -> str:
    return value if isinstance(value, str) else short(value)
