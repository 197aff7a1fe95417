"""What the ledger and the store keep of steps and releases: read back as it was, or refused."""

import json
from typing import Any

import pytest

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import sha256_of
from qmu_edge.project.records import ReferenceNote, Release, Report, StepResult, noted, said
from qmu_edge.verify.verdict import Terms, Thresholds

SHA = sha256_of(b"x")
RELEASE = Release(checkpoint=SHA, files={"model.onnx": SHA}, sizes={"model.onnx": 3}, gate={"qcdq": {"n": 1}})
STEP = StepResult(claim=SHA, report=SHA, counts={"forget": 3}, method="qmul", seconds=1.5)


def test_a_release_comes_back_from_the_same_bytes() -> None:
    assert Release.parse(RELEASE.to_bytes()) == RELEASE
    assert Release.parse(RELEASE.to_bytes()).to_bytes() == RELEASE.to_bytes()


@pytest.mark.parametrize("change", [{"bytes": ...}, {"files": ...}, {"surprise": 1}])
def test_another_release_is_refused(change: dict[str, Any]) -> None:
    document = {**json.loads(RELEASE.to_bytes()), **change}
    data = json.dumps({key: value for key, value in document.items() if value is not ...}).encode()
    with pytest.raises(IntegrityError, match="a stored release is not as it was written"):
        Release.parse(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"unlearned": {}}', b'{"unlearned": 3}'])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^a stored report is not "):
        Report.parse(data)


def test_a_report_from_before_there_were_answers_is_read(report: dict[str, Any]) -> None:
    found = Report.parse(json.dumps(report).encode())
    assert found.terms == Terms(thresholds=Thresholds(max_ta_drop=0.03, max_ra_drop=None), exact=True)
    assert found.verdict.passed and found.verdict.answer is None and found.verdict.residuals == ()
    again = Report.parse(found.to_bytes())
    assert (again.terms, again.verdict) == (found.terms, found.verdict)


@pytest.fixture
def report() -> dict[str, Any]:
    """As version 0.1.0 wrote it."""
    accuracy = {"value": 0.5, "n": 10, "low": 0.24, "high": 0.76}
    measured = {
        "evaluation": {
            "sha256": SHA, "bytes": 3, "seconds": 1.0, "fa": accuracy, "ra": None, "ta": accuracy, "va": None,
            "mia_auc": None, "forget_predictions": None, "mean_confidence": {},
        },
        "mia_efficacy": None,
    }  # fmt: skip
    check = {"name": "ta_drop", "value": 0.01, "allowed": 0.03, "passed": True, "low": 0.24, "high": 0.76}
    return {
        "unlearned": measured, "original": measured, "retrained": None, "bytes": {"unlearned": {}},
        "reference": {"kind": "exact", "fa": None, "ta": 0.5, "ra": None, "mia_auc": None},
        "thresholds": {"max_fa_gap": 0.05, "max_ta_drop": 0.03, "max_ra_drop": None, "max_mia_auc_gap": 0.1},
        "verdict": {"passed": True, "checks": [check]},
    }  # fmt: skip


def test_a_reference_is_noted_by_what_it_was_made_of() -> None:
    note = ReferenceNote(made_of=SHA, scores=SHA)
    assert noted(ReferenceNote, {**said(note), "of_a_later_version": 1}) == note
    with pytest.raises(IntegrityError, match="note of a result is not as it was written"):
        noted(ReferenceNote, {"trained": SHA})  # a whole network, up to version 0.1.0


def test_a_step_keeps_what_it_says_and_passes_over_other_versions() -> None:
    assert STEP.to_json() == {
        "claim": SHA,
        "report": SHA,
        "counts": {"forget": 3},
        "method": "qmul",
        "seconds": 1.5,
    }
    assert StepResult.parse({**STEP.to_json(), "of_a_later_version": 1}) == STEP
    assert [*STEP.objects()] == [("claim", SHA), ("report", SHA)]


def test_an_object_that_a_step_does_not_name_is_an_error() -> None:
    assert STEP.stored("claim") == SHA
    for name in ("split", "counts"):
        with pytest.raises(IntegrityError, match=f"names no {name}"):
            STEP.stored(name)
