"""What the ledger and the store keep of steps and releases: read back as it was, or refused."""

import json
from typing import Any

import pytest

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import sha256_of
from qmu_edge.project.records import Release, Report, StepResult

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
