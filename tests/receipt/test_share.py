"""A share that has no interval was not measured, wherever it is told."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qmu_edge.attestation.bom import bom
from qmu_edge.attestation.card import card
from qmu_edge.cli import render
from qmu_edge.io.plain import to_json
from qmu_edge.page.language import known, language
from qmu_edge.page.page import page
from qmu_edge.receipt.receipt import summary
from qmu_edge.receipt.share import told, told_apart
from qmu_edge.verify.render import junit, table
from qmu_edge.verify.residual import Residual, Scope
from qmu_edge.verify.verdict import Answer, Bound, Check, Verdict, reasons
from tests.attestation.examples import facts as attested
from tests.page.examples import facts
from tests.page.reading import Page
from tests.receipt.test_receipt import DROP, LEFT, RESIDUAL, VERDICT, made, make
from tests.verify.results import PLAIN

FIGURE = 1.891
NO = {"value": FIGURE, "low": None, "high": None}
RESULT = Verdict(
    passed=False,
    checks=(Check("residual", FIGURE, 0.25, False, None, None, Bound.HIGH, 40),),
    answer=Answer.NOT_MEASURABLE,
    residuals=(
        Residual(
            scope=Scope.SAMPLES, value=FIGURE, low=None, high=None, n=40, effective=40.0, references=4,
            excess_before=0.1, excess=0.2, detected=False, present=False, power=0.06,
        ),
    ),
)  # fmt: skip
STATED = {
    **VERDICT, "answer": "not_measurable", "residuals": [{**RESIDUAL, **NO, "detected": False}],
    "results": [DROP, {**LEFT, **NO, "passed": False}],
}  # fmt: skip


def receipted() -> bytes:
    """A receipt of a release of which nothing could be said, which the policy let pass."""
    return made(verdict=STATED)


def paged(code: str) -> str:
    """The page about it: with a verdict on samples, whatever the recorded receipt said."""
    found = facts("unlearned.v3")
    verdict = found.statement.predicate.verdict
    assert not hasattr(verdict, "checks")
    changed = verdict.__class__.model_validate(STATED)
    predicate = found.statement.predicate.model_copy(update={"verdict": changed})
    statement = found.statement.model_copy(update={"predicate": predicate})
    return Page(page(replace(found, statement=statement), language(code))).text


JUDGED = replace(PLAIN, verdict=RESULT)
TOLD: dict[str, Callable[[], str]] = {
    "receipt show": lambda: summary(make(verdict=STATED)),
    "model card": lambda: card(attested(receipted())).decode(),
    "verify": lambda: render.verified({**_verified(), "verdict": to_json(RESULT)}),
    "verify on a device": lambda: table(JUDGED),
    "JUnit": lambda: junit(JUDGED),
    "the demonstration": lambda: render._left(NO),
    "what was refused": lambda: "; ".join(reasons(RESULT)),
    "report": lambda: paged("en"),
}


def _verified() -> dict[str, Any]:
    evaluation = {"fa": None, "ra": None, "ta": None, "mia_auc": None}
    return {
        "file": "model.onnx", "bytes": 3, "sha256": "0" * 64, "latent_weights": {"weights": []},
        "evaluation": evaluation, "mia_efficacy": None,
    }  # fmt: skip


@pytest.mark.parametrize("place", TOLD)
def test_no_figure_without_an_interval_is_told_as_what_is_left(place: str) -> None:
    text = TOLD[place]()
    assert "not measured" in text
    found = re.search(r"1\.?89|\? to|\(\?|MISSED|FAILED", text)
    assert found is None, found


def test_a_bill_of_materials_has_no_value_of_it() -> None:
    assert b"1.89" not in bom(attested(receipted())) and b'"residual"' in bom(attested(receipted()))


@pytest.mark.parametrize("code", known())
def test_no_language_tells_the_figure_or_draws_it(code: str) -> None:
    text = paged(code)
    assert "189" not in text and text.count(language(code)("number.none")) >= 3
    assert language(code)("checks.unshown") in text and language(code)("checks.missed") not in text


def test_whole_classes_may_have_no_upper_end() -> None:
    assert told(0.5, 0.3, None) == "50.0 % (30.0 % to no upper end)"
    assert told(0.5, None, 0.7) == "50.0 % (no lower end to 70.0 %)"
    assert told(None, 0.1, 0.7) == told(None, None, None) == "not measured"
    assert told_apart(1, 1, 1) == ("100.0 %", "")
