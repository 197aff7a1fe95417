"""The page: one file that needs nothing, that everybody can read, and that nobody can write into."""

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from qmu_edge.page.facts import Facts, Tried
from qmu_edge.page.language import known, language
from qmu_edge.page.page import MAX_BYTES, page
from qmu_edge.page.words import lead
from qmu_edge.project.checklist import Line
from qmu_edge.receipt.personal_data import find
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.figures import LEAST, Figures
from tests.page.examples import FIGURES, HOSTILE, RECEIPTS, REPORT, facts
from tests.page.reading import Page

SMALL = replace(REPORT, figures=Figures(forgotten=3, unseen=300))
WITHOUT = replace(REPORT, figures=None, codes=None)
ALL = {
    **{name: facts(name) for name in RECEIPTS},
    "purged": facts(report=None),
    "few images": facts(report=SMALL),
    "an older report": facts(report=WITHOUT),
    "later": facts(now=[Line("checkpoint", 2, 9000, "purged"), Line("backups", None, None, "outside")]),
    "no steps": facts(tried=()),
}


@pytest.fixture(params=[(name, code) for code in known() for name in ALL], ids="-".join)
def every(request: pytest.FixtureRequest) -> Page:
    """The pages about everything that there may be, in every language."""
    name, code = request.param
    return Page(page(ALL[name], language(code)))


def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(every: Page) -> None:
    assert every.faults == []
    assert {name for name, _ in every.elements} <= {
        "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "p",
        "h1", "h2", "ul", "li", "a", "span", "strong", "figure", "figcaption", "div", "table", "caption",
        "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "code", "svg", "text", "rect",
        "line", "path", "circle",
    }  # fmt: skip
    assert all(a["href"].startswith("#") for a in every.named("a"))
    given = {name for _, a in every.elements for name in a}
    assert not given & {"src", "srcset", "xlink:href"} and not [n for n in given if n.startswith("on")]
    assert not re.search(r"url\(|@import|@font-face|https?:|//", every.style)
    (policy,) = (a["content"] for a in every.named("meta") if "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_a_page_can_be_read_without_eyes(every: Page) -> None:
    names = [name for name, _ in every.elements]
    assert every.named("html")[0]["lang"] in known() and names.count("h1") == names.count("main") == 1
    assert {a["href"][1:] for a in every.named("a")} == {a["id"] for a in every.named("section")}
    assert names.count("h2") == names.count("section") and "h3" not in names
    for plot in every.named("svg"):
        assert plot["role"] == "img" and len(plot["aria-label"]) > 30
    assert names.count("caption") == names.count("table") == len(every.named("thead"))
    assert all(a["scope"] in ("row", "col") for a in every.named("th"))
    assert not every.named("svg") or "details" in names


def test_the_same_facts_make_the_same_bytes_in_little_space() -> None:
    for found in ALL.values():
        assert page(found) == page(found)
    assert len(page(facts())) < 100_000 < MAX_BYTES
    layers = {f"blocks.{i}.weight": i / 3000 for i in range(3000)}
    wide = replace(REPORT, codes=CodesChanged(weights=9000, changed=30, layers=layers))
    assert len(page(facts(report=wide))) < MAX_BYTES


def hostile() -> Facts:
    """Facts of which every text that is not a word of a receipt is an attack."""
    codes = CodesChanged(weights=10, changed=1, layers={HOSTILE: 0.5, "ana@example.org": 0.1})
    report = replace(REPORT, codes=codes, sizes={"original": {HOSTILE: 1}})
    found = facts(
        report=report, key=HOSTILE, now=[Line(HOSTILE, 1, 1, HOSTILE)],
        tried=[Tried(HOSTILE, HOSTILE, 1.0, 1.0, None), Tried("ssd", "passed", 1.0, 1.0, None)],
    )  # fmt: skip
    stated = found.statement.predicate
    changed: dict[str, Any] = {
        "method": stated.method.model_copy(update={"name": HOSTILE}),
        "limits": [HOSTILE],
        "tool": stated.tool.model_copy(update={"version": HOSTILE}),
        "metrics": stated.metrics.model_copy(update={"bytes": {HOSTILE: 3}, "parity": {HOSTILE: {"n": 1}}}),
        "outcome": HOSTILE,
    }
    predicate = stated.model_copy(update=changed)
    return replace(found, statement=found.statement.model_copy(update={"predicate": predicate}))


def test_nothing_stored_becomes_markup() -> None:
    data = page(hostile())
    read, plain = Page(data), Page(page(facts()))
    assert read.faults == [] and read.text.count("<script>") >= 8
    assert not {"script", "img"} & {name for name, _ in read.elements}
    assert {a for _, given in read.elements for a in given} == {
        a for _, given in plain.elements for a in given
    }


def test_a_page_names_nobody(every: Page) -> None:
    """What the linter of receipts looks for in a text, word by word: it has no place in a page either."""
    told = {"sha256sum", "release/receipt.json"}
    words = [w for w in re.split(r"[\s,;()]+", every.text) if w.isascii() and w not in told]
    assert find({"words": words}, forbidden=["ana", "img-0004"], sentences=()) == []


def test_layers_that_are_named_like_a_person_or_a_path_go_by_their_number() -> None:
    layers = {"head.weight": 0.1, "ana@example.org": 0.2, "home/ana": 0.3, "of Ana": 0.4, "x" * 70: 0.5}
    found = facts(report=replace(REPORT, codes=CodesChanged(weights=9, changed=3, layers=layers)))
    text = Page(page(found)).text
    assert "head.weight" in text and "Ana" not in text and "ana" not in text and "x" * 9 not in text
    assert [f"layer {n}" in text for n in (1, 2, 3, 4, 5)] == [False, True, True, True, True]


def test_of_few_images_no_part_is_shown() -> None:
    read = Page(page(ALL["few images"]))
    assert f"fewer than {LEAST} forgotten" in read.text and len(read.named("svg")) == 3
    assert "What an attacker would find" not in read.text
    # Nor where an older version has kept classes all the same.
    assert FIGURES and FIGURES.classes
    kept = replace(REPORT, figures=replace(FIGURES, forgotten=LEAST - 1, original=None, file=None))
    assert "class 0" in Page(page(facts())).text and "class 0" not in Page(page(facts(report=kept))).text


def test_of_a_network_that_was_trained_anew_no_share_is_told_first() -> None:
    text = re.sub(r"\s+", " ", Page(page(facts("partial.v3"))).text)
    assert "still known nothing it never saw them" in text and "honesty" in text
    assert "still known 10" in re.sub(r"\s+", " ", Page(page(facts())).text)


def test_without_what_was_purged_or_never_kept_the_page_says_so() -> None:
    read = Page(page(ALL["purged"]))
    assert "has been purged" in read.text and "What changed in the file" not in read.text
    read, whole = Page(page(ALL["an older report"])), Page(page(facts()))
    assert "is older than this page" in read.text and "has been purged" not in read.text
    assert "What changed in the file" not in read.text and "Is it as good as before?" in read.text
    assert "has been purged" not in whole.text and "older than this page" not in whole.text


def test_every_check_has_value_interval_limit_and_what_would_be_right() -> None:
    text = re.sub(r"\s+", " ", Page(page(facts())).text).replace("\u2212", "-")
    assert (
        "What is left of what was known 10.0 % -5.0 % to 20.0 % at most 25.0 % 0 %: never saw them met"
        in text
    )
    assert "Accuracy lost on test images 3.3 % -6.0 % to 12.0 % at most 2.0 % 0 % met" in text


LEADS = {
    "unlearned.v3": "Under the GDPR one person asked on 2 November 2026 to have 2 pictures removed that this "
    "image classifier was trained on (and 1 that it was only tested on); the network was made to forget them "
    "and exported again; the exported file still knows 10 % (-5 % to 20 %) of what the file before knew of "
    "them.",
    "partial.v3": "A request asked on 2 November 2026 to have 2 pictures removed that this "
    "image classifier was trained on (and 1 that it was only tested on), which is what is known of it; the "
    "network was trained again from the start without them; so nothing of them can be left in it.",
    "unlearned": "Under the GDPR one person asked on 2 November 2026 to have 2 pictures removed that this "
    "image classifier was trained on (and 1 that it was only tested on); the network was made to forget them "
    "and exported again; how much of them the exported file still knows could not be measured.",
}


@pytest.mark.parametrize("name", LEADS)
def test_the_first_line_is_a_sentence_that_says_it_all(name: str) -> None:
    said = lead(facts(name), language("en")).replace("\u00a0", " ").replace("\u2212", "-")
    assert said == LEADS[name]
    (written,) = re.findall(r"<h1>(.*?)</h1>", page(facts(name)).decode(), re.DOTALL)
    assert unescape(written) == lead(facts(name), language("en"))


def luminance(colour: str) -> float:
    """Relative luminance of a colour, WCAG 2.2."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Between two colours.

    >>> round(contrast("#000000", "#ffffff"), 1), round(contrast("#777777", "#ffffff"), 2)
    (21.0, 4.48)
    """
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_colours_have_the_contrast_that_wcag_aa_asks_for(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", Page(page(facts())).style, re.DOTALL)
    assert len(blocks) == 3
    colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", blocks[scheme]))
    for text, on in (("ink", "paper"), ("soft", "paper"), ("b", "paper"), ("bad", "paper"),
                     ("ink", "panel"), ("soft", "panel")):  # fmt: skip
        assert contrast(colours[text], colours[on]) >= 4.5, (text, on)
    for drawn, on in (("a", "paper"), ("a", "good"), ("b", "paper"), ("soft", "paper"), ("soft", "good")):
        assert contrast(colours[drawn], colours[on]) >= 3, (drawn, on)


def test_metrics_of_other_packages_have_a_section_where_there_are_any() -> None:
    found = facts()
    metrics = found.statement.predicate.metrics.model_copy(
        update={"others": {"surprise": -0.25, "raises": None, "new": 3, HOSTILE: 1.0}}
    )
    predicate = found.statement.predicate.model_copy(update={"metrics": metrics})
    original = replace(REPORT.original, metrics={"surprise": 1.5, "raises": 0.5})
    changed = replace(
        found, statement=found.statement.model_copy(update={"predicate": predicate}),
        report=replace(REPORT, original=original),
    )  # fmt: skip
    read = Page(page(changed))
    text = re.sub(r"\s+", " ", read.text).replace("\u2212", "-")
    assert "surprise 1.5000 -0.2500" in text and "raises 0.5000 no value" in text
    assert "new \u2013 3.0000" in text and read.faults == []
    assert not {"script", "img"} & {name for name, _ in read.elements}
    assert "Weitere Ma\u00dfe" in Page(page(changed, language("de"))).text
    assert "Further metrics" not in Page(page(found)).text and "Further metrics" in text
