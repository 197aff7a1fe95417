"""The letter: what a person wants to know, in words that need no knowledge of the field."""

import re
from dataclasses import replace

import pytest

from qmu_edge.page.language import known, language
from qmu_edge.page.letter import letter
from qmu_edge.page.page import page
from qmu_edge.project.inventory import ON_A_HUB
from qmu_edge.receipt.statement import Artefact
from tests.page.examples import HOSTILE, RECEIPTS, facts

EN, DE = language("en"), language("de")
TECHNICAL = re.compile(
    r"network|quanti|onnx|checkpoint|digest|sha|rho|residual|epoch|weights?\b|classifier|unlearn|verif|"
    r"tombstone|index|retrain|attack|metric|release\b|model\b", re.I
)  # fmt: skip

TECHNISCH = re.compile(
    r"netz|quanti|onnx|checkpoint|prüfsumme|sha|rho|epoche|gewicht|klassifikator|verlern|modell|metrik|"
    r"training|trainier|angriff|datensatz|export|beleg\b", re.I
)  # fmt: skip


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_letter_has_no_technical_word_and_fits_on_a_page(name: str) -> None:
    text = letter(facts(name), "4fa4ecd7-2819-4ac5-852b-c987c6cd723d", EN)
    assert TECHNICAL.findall(text) == []
    assert len(text.splitlines()) <= 50 and max(map(len, text.splitlines())) <= 90
    assert "Your request of 2 November 2026" in text and "4fa4ecd7-2819" in text


def test_it_says_how_much_is_left_and_how_sure_that_is() -> None:
    text = " ".join(letter(facts(), "r", EN).split())
    assert "about 10 parts in 100 are left" in text and "up to 20 in 100." in text
    assert (
        "We found 2 pictures" in " ".join(text.split())
        and "1 picture that it was only tested with" in " ".join(text.split())
        and "did not find everything" not in text
    )
    assert "No test can show that nothing at all is left" in text


def test_of_a_part_and_of_a_new_training_it_says_that() -> None:
    text = " ".join(letter(facts("partial.v3"), "r", EN).split())
    assert "did not find everything" in text and "has never seen your pictures" in text


@pytest.mark.parametrize("code", known())
def test_where_a_hub_was_sent_an_older_file_it_says_so(code: str) -> None:
    known_of, say = facts(), language(code)
    line = Artefact(kind=ON_A_HUB, count=1, bytes=9, state="outside")
    artefacts = [*known_of.predicate.derived_artefacts, line]
    predicate = known_of.predicate.model_copy(update={"derived_artefacts": artefacts})
    sent = replace(known_of, statement=known_of.statement.model_copy(update={"predicate": predicate}))
    text = letter(sent, "r", say)
    assert " ".join(say("letter.hub").split()) in " ".join(text.split())
    assert (TECHNISCH if code == "de" else TECHNICAL).findall(text) == [] and len(text.splitlines()) <= 50
    assert say("letter.hub") not in letter(known_of, "r", say)
    assert "qmu-edge recipients" in page(sent, say).decode() and "recipients" not in letter(sent, "r", say)
    assert "qmu-edge recipients" not in page(known_of, say).decode()


def test_of_one_part_it_speaks_in_the_singular() -> None:
    assert EN.of("letter.parts", 1) == "about 1 part in 100 is" and "sind" not in DE.of("letter.parts", 1)


def test_where_nothing_was_measured_nothing_is_promised() -> None:
    assert "could not be measured" in letter(facts("unlearned"), "r", EN)


def test_a_reference_cannot_steer_a_terminal() -> None:
    text = letter(facts(), f"a\x1b[2J\n{HOSTILE}", EN)
    assert "\x1b" not in text and f"Reference: a\\x1b[2J\\n{HOSTILE}" in text


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_german_letter_has_no_technical_word_and_fits_on_a_page(name: str) -> None:
    text = letter(facts(name), "4fa4ecd7-2819-4ac5-852b-c987c6cd723d", DE)
    assert TECHNISCH.findall(text) == []
    assert len(text.splitlines()) <= 50 and max(map(len, text.splitlines())) <= 90
    assert "Ihr Antrag vom 2. November 2026" in text and "4fa4ecd7-2819" in text


def test_a_german_letter_says_how_much_is_left_and_how_sure_that_is() -> None:
    text = " ".join(letter(facts(), "r", DE).split())
    assert "sind etwa 10 von 100 Teilen übrig" in text and "bis zu 20 von 100 Teilen" in text
    assert "haben wir 2 Bilder gefunden" in text and "und 1 Bild, mit dem es nur geprüft wurde" in text


@pytest.mark.parametrize("code", known())
def test_every_letter_leaves_what_only_the_sender_knows_in_brackets(code: str) -> None:
    text = letter(facts(), "r", language(code))
    assert len(re.findall(r"\[[^\]]+\]", text)) == 3 and "{" not in text
