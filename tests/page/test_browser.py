"""The page in a real browser, on a phone and on a desk: nothing sticks out, and nothing is loaded."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qmu_edge.page.language import known, language
from qmu_edge.page.page import page
from qmu_edge.project.checklist import Line
from qmu_edge.verify.codes import CodesChanged
from tests.page.browser import CHROMIUM, Browser
from tests.page.examples import REPORT, facts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
LAYERS = {f"stages.{i}.blocks.{i}.a_name_that_is_as_long_as_they_come.weight": i / 40 for i in range(40)}
LONG = facts(
    report=replace(REPORT, codes=CodesChanged(weights=10**9, changed=10**8, layers=LAYERS)),
    now=[Line("checkpoint", 2, 9000, "kept: an open request may compare with it")],
)
# Boxes that stick out of the window, of their plot, or lie on another text of it.
OUTSIDE = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".wide, pre, thead")
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
CUT = """[...document.querySelectorAll("svg text")].filter(t => {
    const own = t.getBoundingClientRect(), of = t.ownerSVGElement.getBoundingClientRect();
    return own.left < of.left - 1 || own.right > of.right + 1
        || own.bottom > of.bottom + 2 || own.top < of.top - 2;
}).map(t => t.textContent)"""
ON_EACH_OTHER = """[...document.querySelectorAll("svg")].flatMap(s => {
    const all = [...s.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
    return all.flatMap(([a, p], i) => all.slice(i + 1).filter(([b, q]) =>
        p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3)
        .map(([b]) => a + " / " + b));
})"""
SMALL = """[...document.querySelectorAll("body *")].filter(e => e.textContent.trim()
    && parseFloat(getComputedStyle(e).fontSize) * (e.closest("svg")
        ? e.closest("svg").getBoundingClientRect().width / 360 : 1) < 11).length"""
LOADED = 'performance.getEntriesByType("resource").length'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests."""
    with Browser() as found:
        yield found


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("code", known())
@pytest.mark.parametrize("case", ["long", "purged"])
def test_nothing_sticks_out_or_lies_on_something_else(
    browser: Browser, tmp_path: Path, width: int, case: str, code: str
) -> None:
    place = tmp_path / "report.html"
    place.write_bytes(page(LONG if case == "long" else facts(report=None), language(code)))
    browser.open(place, width=width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.compatMode") == "CSS1Compat"
    for expression in (OUTSIDE, CUT, ON_EACH_OTHER):
        assert browser.value(expression) == []
    assert browser.value(SMALL) == 0 and browser.value(LOADED) == 0


def test_dark_is_dark_and_paper_is_white(browser: Browser, tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    place.write_bytes(page(LONG))
    colour = "getComputedStyle(document.body).backgroundColor"
    browser.open(place, width=1280, dark=True)
    assert browser.value(colour) == "rgb(20, 24, 29)"
    browser.open(place, width=1280)
    assert browser.value(colour) == "rgb(255, 255, 255)"
    printed = browser.printed()
    assert printed.startswith(b"%PDF") and 2 <= printed.count(b"/Type /Page\n") <= 15


def test_a_fault_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    place = tmp_path / "bad.html"
    place.write_text(
        '<!doctype html><p style="width:900px">x<svg viewBox="0 0 360 50">'
        '<text x="340" y="20">long long</text><text x="340" y="22" style="font-size:4px">long</text></svg>'
    )
    browser.open(place, width=390)
    assert all(browser.value(expression) for expression in (OUTSIDE, CUT, ON_EACH_OTHER, SMALL))
