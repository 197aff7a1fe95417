"""What a receipt says is held against files, keys, numbers and other receipts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import LedgerError
from qmu_edge.receipt import envelope, receipt
from qmu_edge.receipt.verify import verify
from tests.receipt.test_receipt import (
    CHECK,
    DROP,
    LEFT,
    MODEL,
    OTHER,
    PUBLIC,
    RESIDUAL,
    STRANGER,
    VERDICT,
    made,
    made_old,
    make,
    sha,
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    return {"model.onnx": tmp_path / "model.onnx"}


def test_verify_says_what_it_checked_and_what_not(files: dict[str, Path]) -> None:
    first, name = made(), envelope.key_name(PUBLIC)
    assert verify(first, files=files) == [
        f"signature: holds, key {name}; compared with no key, so it does not tell who signed",
        "bundle.zip: not checked, no file given",
        f"model.onnx ({files['model.onnx']}): SHA-256 {sha(MODEL)}, as stated",
        "verdict: forgotten, passed, as its 2 values and limits say",
        "previous receipt: not checked, stated: none",
    ]
    second = made(previous=sha(first))
    assert verify(second, files={}, previous=[first])[-1].endswith("as stated")


def test_a_digest_that_a_device_reports_is_enough() -> None:
    lines = verify(made(), files={}, digests=[sha(MODEL)], keys=[STRANGER, PUBLIC])
    assert lines[0] == f"signature: holds, key {envelope.key_name(PUBLIC)}, which is trusted"
    assert lines[1:3] == [
        "bundle.zip: not checked, no file given", f"model.onnx: SHA-256 {sha(MODEL)}, as stated",
    ]  # fmt: skip
    with pytest.raises(LedgerError, match=f"SHA-256 {sha(b'old')} is none of bundle.zip .*, model.onnx"):
        verify(made(), files={}, digests=[sha(b"old")])


def test_verify_names_everything_that_does_not_hold(files: dict[str, Path]) -> None:
    data = made(previous=sha(b"another"))
    files["model.onnx"].write_bytes(MODEL + b"!")
    files |= {"bundle.zip": files["model.onnx"].parent / "absent", "other.onnx": Path("other")}
    with pytest.raises(LedgerError) as caught:
        verify(data, files=files, previous=[made()], keys=[STRANGER])
    for said in (
        f"signature: by key {envelope.key_name(PUBLIC)}; trusted: {envelope.key_name(STRANGER)}",
        f"SHA-256 is {sha(MODEL + b'!')}; stated: {sha(MODEL)}",
        "bundle.zip: cannot read",
        "other.onnx: not a subject",
        f"previous receipt: SHA-256 is {sha(made())}",
    ):
        assert said in str(caught.value)
    with pytest.raises(LedgerError, match="stated: none, but one was given"):
        verify(made(), files={}, previous=[data])


@pytest.mark.parametrize(
    "verdict",
    [
        {"passed": True, "checks": []},
        {"passed": True, "checks": [{**CHECK, "value": 0.06}]},
        {"passed": True, "checks": [{**CHECK, "value": None}]},
        {"passed": False, "checks": [CHECK]},
        {"passed": True, "checks": [{**CHECK, "passed": False}]},
        {"passed": True, "checks": [CHECK, {**CHECK, "value": 0.06, "passed": False}]},
    ],
)
def test_a_verdict_that_does_not_follow_from_its_numbers_is_noticed(verdict: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="verdict: not what its values and limits say"):
        verify(made_old(verdict=verdict), files={})


MISSED = {**DROP, "low": 0.021, "passed": False}
UNPROVED = {**LEFT, "high": 0.3, "passed": False}
SAME = {"weights": 1000, "changed": 0}


METHOD = make()["predicate"]["method"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"passed": False},
        {"answer": "still_present"},
        {"answer": "over_forgotten"},
        {"answer": "inconclusive"},
        {"results": [DROP, {**LEFT, "passed": False}]},
        {"results": [DROP, {**LEFT, "threshold": 0.1}]},
        {"results": [DROP, {**LEFT, "high": 0.3}]},
        {"results": [DROP, {**LEFT, "high": None}]},
        {"results": [{**DROP, "bound": "value"}, LEFT]},
        {"results": [{**DROP, "low": 0.03}, LEFT]},
        {"results": [MISSED, LEFT]},
        {"results": [DROP, UNPROVED]},
        {"answer": "not_measurable", "results": [MISSED, UNPROVED]},
        {"answer": "retrained", "results": [MISSED]},
        {"codes": SAME},
        {"answer": "not_measurable", "codes": SAME},
        {"results": [DROP]},
        {"residuals": []},
        {"residuals": [RESIDUAL, {**RESIDUAL, "detected": False}]},
    ],
)
def test_a_verdict_by_residuals_that_does_not_follow_is_noticed(wrong: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="verdict: not what its values and limits say"):
        verify(made(verdict={**VERDICT, **wrong}), files={})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "forgotten, passed"),
        ({"answer": "retrained", "results": [DROP], "residuals": []}, "retrained, passed"),
        ({"answer": "not_measurable", "results": [DROP, UNPROVED]}, "not measurable, passed"),
    ],
)
def test_a_verdict_by_residuals_that_follows_is_said(changes: dict[str, Any], said: str) -> None:
    category = "exact" if said.startswith("retrained") else "approximate"
    data = made(verdict={**VERDICT, **changes}, method={**METHOD, "category": category})
    assert any(line.startswith(f"verdict: {said}, as its ") for line in verify(data, files={}))


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": {**VERDICT, "answer": "retrained", "results": [DROP]}},  # by an approximate method
        {"method": {**METHOD, "category": "exact"}},
        {"thresholds": {"max_residual": 0.2}},
        {"thresholds": {"max_residual": 0.25, "max_ta_drop": 0.01}},
    ],
)
def test_a_verdict_of_another_method_or_other_limits_is_noticed(changes: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="verdict: not what its values and limits say"):
        verify(made(**changes), files={})


def test_a_later_receipt_vouches_for_those_before_it(files: dict[str, Path]) -> None:
    """However the key of the older ones ended: only the newest must be signed by a trusted key."""
    first = made(OTHER)
    second = made(OTHER, previous=sha(first))
    third = made(previous=sha(second))
    lines = verify(third, files=files, previous=[second, first], keys=[PUBLIC])
    assert [line for line in lines if line.startswith("previous")] == [
        f"previous receipt: SHA-256 {sha(second)}, as stated",
        f"previous receipt: SHA-256 {sha(first)}, as stated",
    ]
    forged = made(OTHER, previous=sha(first), outcome="retrained")  # by somebody who has the old key
    for wrong in ([forged, first], [second, made(OTHER, outcome="retrained")], [first, second]):
        with pytest.raises(LedgerError, match="previous receipt: SHA-256 is"):
            verify(third, files=files, previous=wrong, keys=[PUBLIC])


def test_the_previous_receipt_must_be_one() -> None:
    data = made(previous=sha(b"no receipt"))
    with pytest.raises(LedgerError, match="previous receipt: not a signed envelope"):
        verify(data, files={}, previous=[b"no receipt"])


def test_it_works_in_an_empty_folder_without_the_rest(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'filelock', 'brevitas', 'onnx', 'onnxruntime', 'sqlite3'):\n"
        "    sys.modules[name] = None\n"
        "from qmu_edge.receipt.verify import verify\n"
        "print(verify(sys.stdin.buffer.read(), files={})[1])\n"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, input=made(), capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout == b"bundle.zip: not checked, no file given\n"


GOLDEN = Path(__file__).parent / "golden"


GOLDENS = {
    "v1-first": None, "v1-second": "v1-first", "v1-sparse": "v1-second",
    "v2-first": None, "v2-second": "v2-first", "v2-class": "v2-second",
    "v3-first": None, "v3-second": "v3-first", "v3-class": "v3-second",
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDENS)
def test_receipts_of_earlier_versions_still_hold(name: str) -> None:
    """Written once and never again: whoever holds one must be able to check it for years."""
    before = GOLDENS[name]
    previous = [(GOLDEN / f"receipt.{before}.json").read_bytes()] if before else []
    key = envelope.read_public_key(GOLDEN / f"receipt.{name}.pem")
    data = (GOLDEN / f"receipt.{name}.json").read_bytes()
    statement = receipt.loads(data, name)
    assert statement.to_bytes() == envelope.read(data, name).payload
    digests = list(statement.files.values())
    lines = verify(data, files={}, digests=digests, previous=previous, keys=[key])
    assert "which is trusted" in lines[0] and not any("not checked" in line for line in lines if before)


def test_every_flipped_byte_of_a_receipt_is_noticed() -> None:
    assert _unnoticed(bits=(0,)) == []


@pytest.mark.slow
def test_every_flipped_bit_and_every_missing_or_doubled_byte_is_noticed() -> None:
    assert _unnoticed(bits=range(8)) == []
    data = (GOLDEN / "receipt.v3-second.json").read_bytes()
    for place in range(len(data)):
        for other in (
            data[:place] + data[place + 1 :],
            data[:place] + data[place : place + 1] + data[place:],
        ):
            with pytest.raises(LedgerError):
                verify(other, files={})


def _unnoticed(bits: Any) -> list[tuple[int, int]]:
    """Places where a flipped bit leaves a receipt that verifies, with no key and no digest to compare."""
    data = (GOLDEN / "receipt.v3-second.json").read_bytes()
    passed = []
    for place in range(len(data)):
        for bit in bits:
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                verify(bytes(flipped), files={})
                passed.append((place, bit))
            except LedgerError:
                pass
    return passed
