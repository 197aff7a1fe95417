"""What an audit has found, in the page."""

from qmu_edge.io.digest import sha256_of
from qmu_edge.page.audited import audited
from qmu_edge.page.language import language
from qmu_edge.page.page import page
from qmu_edge.project.audits import AttackResult, Estimate, Finding
from tests.page.examples import HOSTILE, facts
from tests.page.reading import Page

FOUND = AttackResult(
    attack="rmia", made_of=sha256_of(b""), forgotten=120, unseen=1285, seconds=75.0,
    findings=(
        Finding(
            quantity="area", original=Estimate(0.9, 0.8, 0.95), file=Estimate(0.5), unknowing=Estimate(0.5)
        ),
        Finding(quantity="moved", part="stem.weight", file=Estimate(0.25)),
        Finding(quantity="moved", part=HOSTILE, file=Estimate(0.5)),
    ),
)  # fmt: skip
SILENT = AttackResult(
    attack="lira", made_of=sha256_of(b""), forgotten=0, unseen=0, without="the images are too few"
)


def test_without_an_audit_there_is_no_section() -> None:
    assert audited(facts(), language("en")) is None and b"stronger attacks" not in page(facts())


def test_each_attack_has_a_table_with_intervals_and_what_nobody_knows_is_a_dash() -> None:
    section = audited(facts(audits=[FOUND, SILENT]), language("en"))
    assert section is not None and [table.title for table in section.tables] == ["rmia"]
    rows = section.tables[0].rows
    assert rows[0] == ("area", "0.9 (0.8 to 0.95)", "0.5", "0.5")
    assert rows[1] == ("stem.weight: moved", "\u2013", "0.25", "\u2013")
    assert rows[2][0] == "layer 3: moved"  # a name that is no plain word goes by its number
    text = " ".join(section.text)
    assert "1,285 never seen" in text and "lira: nothing can be said: the images are too few." in text
    assert "decide nothing" in text


def test_the_page_stays_whole() -> None:
    text = page(facts(audits=[FOUND, SILENT]))
    assert Page(text).faults == [] and HOSTILE.encode() not in text


def test_german_pages_say_it_in_german() -> None:
    real = AttackResult(
        attack="rmia", made_of=sha256_of(b""), forgotten=20, unseen=30,
        findings=(Finding(quantity="area under the curve", file=Estimate(0.5, 0.25, 0.75)),),
    )  # fmt: skip
    section = audited(facts(audits=[real]), language("de"))
    assert section is not None
    assert section.tables[0].rows == [("Fläche unter der Kurve", "\u2013", "0,5 (0,25 bis 0,75)", "\u2013")]
