"""Languages: the same keys and gaps in each, every text used, and nothing of another language on a page."""

import re
import string
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.page import language as module
from qmu_edge.page.language import known, language
from qmu_edge.page.page import page
from qmu_edge.pipeline.audit_run import SENTENCES as AUDITED
from qmu_edge.project.inventory import SENTENCES
from qmu_edge.receipt.receipt import ADOPTED, LIMITS, PRETRAINED, TAKEN_OUT
from qmu_edge.verify.residual import Scope
from tests.page.examples import RECEIPTS, facts
from tests.page.reading import Page

ROOM = Path(module.__file__).parent
EN = language("en")
OTHERS = [code for code in known() if code != "en"]


def gaps(text: Any) -> list[set[str | None]]:
    """The gaps of a text, or of each of its forms."""
    forms = [text] if isinstance(text, str) else text
    return [{name for _, name, _, _ in string.Formatter().parse(form) if name is not None} for form in forms]


@pytest.mark.parametrize("code", OTHERS)
def test_every_language_has_every_text_with_the_same_gaps(code: str) -> None:
    other = language(code)
    assert other.texts.keys() == EN.texts.keys()
    assert {k: gaps(t) for k, t in other.texts.items()} == {k: gaps(t) for k, t in EN.texts.items()}
    assert all(text.strip() for of in other.texts.values() for text in ([of] if isinstance(of, str) else of))


@pytest.mark.parametrize("code", known())
def test_a_language_counts_one_and_more_and_has_twelve_months(code: str) -> None:
    forms = [text for text in language(code).texts.values() if not isinstance(text, str)]
    assert forms and all(len(of) == 2 and gaps(of)[0] <= gaps(of)[1] == {"n"} for of in forms)
    assert len(language(code)("number.months").split()) == 12


@pytest.mark.parametrize("code", OTHERS)
def test_every_language_has_the_sentences_that_receipts_hold(code: str) -> None:
    kept = {s.removeprefix("kept: ") for s in SENTENCES}
    older = {limit for name in RECEIPTS for limit in facts(name).predicate.limits}
    said = {*kept, *AUDITED, *LIMITS, *older, ADOPTED, PRETRAINED, TAKEN_OUT, "exact", "approximate", *Scope}
    assert said - language(code).fixed.keys() == set()
    assert language(code).fixed.keys() - said == set()  # or it is said no more
    assert language(code).translated("What an older receipt says.") == "What an older receipt says."


def test_every_text_is_said_somewhere_and_every_key_is_a_text() -> None:
    sources = "".join(p.read_text("utf-8") for p in [*ROOM.glob("*.py"), *ROOM.glob("templates/*.html")])
    literal = {*re.findall(r"""["']([a-z]+\.[a-z_]+)["']""", sources)}
    parts = {key.partition(".")[0] for key in EN.texts}
    assert {key for key in literal if key.partition(".")[0] in parts and "." in key} - EN.texts.keys() <= {
        "page.html", "page.css",
    }  # fmt: skip
    families = {*re.findall(r"""f["']([a-z]+)\.\{""", sources)}
    assert [k for k in EN.texts if k not in literal and k.partition(".")[0] not in families] == []


@pytest.mark.parametrize("name", RECEIPTS)
@pytest.mark.parametrize("code", OTHERS)
def test_a_page_has_no_english_but_names(name: str, code: str) -> None:
    text = Page(page(facts(name), language(code))).text
    assert re.findall(r"\b(?:the|of|and|not|with|were|is|pictures?|images?|file|left|allowed)\b", text) == []


def test_a_number_has_the_marks_of_its_language() -> None:
    text = Page(page(facts(), language("de"))).text.replace("\u00a0", " ").replace("\u2212", "-")
    assert "-5,0 % bis 20,0 %" in text and "2. November 2026" in text and "47,1 KiB" in text
    assert not re.search(r"\d\.\d+ %", text)


def test_a_further_language_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "languages").mkdir()
    english = (ROOM / "languages/en.toml").read_text("utf-8")
    (tmp_path / "languages/tlh.toml").write_text(english.replace("What is left", "Heghlu'meH"), "utf-8")
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    assert known() == ("tlh",)
    other = language.__wrapped__("tlh")
    assert '<html lang="tlh">' in (text := page(facts(), other).decode()) and "Heghlu&#39;meH" in text


def test_a_language_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--lang 'xx': no such language, allowed are de, en"):
        language("xx")
