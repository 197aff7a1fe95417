"""Plots say the numbers that they were given, at the places where an axis puts them."""

import math
import re

import pytest

from qmu_edge.page import plots
from qmu_edge.page.language import language
from qmu_edge.page.plots import Axis
from qmu_edge.verify.figures import RATES

EN = language("en")
HOSTILE = '"><script>alert(1)</script>'


def numbers(svg: str, kind: str, name: str) -> list[float]:
    """An attribute of all elements of a class."""
    found = re.findall(rf'<\w+ class="{kind}"[^>]*>', svg)
    return [float(value) for tag in found for value in re.findall(rf' {name}="([-.\d]+)"', tag)]


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    """The corners of a path."""
    (path,) = re.findall(rf'<path class="{kind}" d="M([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (corner.split() for corner in path.split("L"))]


def test_an_interval_lies_on_its_axis_with_the_allowed_share_behind_it() -> None:
    svg = plots.interval(0.1, -0.05, 0.2, 0.25, "left", EN)
    axis = Axis(-0.25, 1.1, 12, 348)
    assert numbers(svg, "dot", "cx") == [axis.at(0.1)] == [99.1]
    whisker, low, high = zip(numbers(svg, "whisker", "x1"), numbers(svg, "whisker", "x2"), strict=True)
    assert whisker == (axis.at(-0.05), axis.at(0.2)) and {*low} == {axis.at(-0.05)}
    assert {*high} == {axis.at(0.2)}
    assert numbers(svg, "allowed", "width") == [axis.at(0.25) - 12]


def test_an_interval_without_an_end_goes_to_the_end_of_the_axis_and_a_wide_one_widens_it() -> None:
    assert numbers(plots.interval(None, None, 0.2, 0.25, "x", EN), "whisker", "x1")[0] == 12
    assert "circle" not in plots.interval(None, None, 0.2, 0.25, "x", EN)
    wide = plots.interval(0.5, -7.0, 9.0, 0.25, "x", EN)
    assert numbers(wide, "dot", "cx") == [180] and numbers(wide, "whisker", "x1")[0] == 12


def test_a_spread_has_a_step_for_each_bar_as_a_share_of_its_set() -> None:
    svg = plots.spread([0.0, 1.0, 2.0], [5, 15], [10, 0], "spread", EN)
    assert points(svg, "fill-b") == [
        (10, 150), (10, 30), (180, 30), (180, 150), (350, 150), (350, 150),
    ]  # fmt: skip
    assert points(svg, "line-a")[1:5] == [(10, 120), (180, 120), (180, 60), (350, 60)]


def test_a_curve_has_a_logarithmic_axis_of_false_alarms() -> None:
    svg = plots.curves([1.0] * len(RATES), [0.5] * len(RATES), "curves", EN)
    found = points(svg, "line-a")
    assert (found[0], found[10], found[-1]) == ((48, 113), (148, 113), (348, 113))
    assert {y for _, y in points(svg, "line-b")} == {30}
    x, y = points(svg, "guess")[20]
    assert x == round(48 + 300 * 2 / 3, 1) and math.isclose(y, 196 - 166 * 0.1, abs_tol=0.05)


def test_bars_are_as_long_as_their_numbers_and_all_of_nothing_is_drawn() -> None:
    svg = plots.bars([("a", 1.0, "one"), ("b", 0.5, "half"), ("c", 0.0, "none")], "bars")
    assert numbers(svg, "fill-a", "width") == [140, 70, 0]
    assert numbers(plots.bars([("a", 0.0, "none")], "bars"), "fill-a", "width") == [0]


def test_changes_are_drawn_from_before_to_after() -> None:
    svg = plots.changes([("class 1", 0.25, 0.75)], "changes", EN)
    assert numbers(svg, "ring", "cx")[0] == 143 and numbers(svg, "dot", "cx")[0] == 277
    assert numbers(svg, "whisker", "x1") == [143] and numbers(svg, "whisker", "x2") == [277]


@pytest.mark.parametrize(
    "svg",
    [
        plots.bars([(HOSTILE, 1.0, HOSTILE)], HOSTILE),
        plots.changes([(HOSTILE, 0.1, 0.2)], HOSTILE, EN),
        plots.interval(0.1, 0.0, 0.2, 0.25, HOSTILE, EN),
    ],
)
def test_a_hostile_name_stays_a_text(svg: str) -> None:
    assert "<script" not in svg and "&lt;script" in svg and svg.count("<svg") == 1
