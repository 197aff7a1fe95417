"""A receipt has one form, holds against its files, names no person, and says its limits."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmu_edge import receipt
from qmu_edge.errors import LedgerError


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


MODEL = b"the exported model"


def make(**changes: Any) -> receipt.Statement:
    fields: dict[str, Any] = {
        "subjects": {"model.onnx": sha(MODEL), "bundle.zip": sha(b"bundle")},
        "request": {
            "digest": sha(b"request"),
            "form": "opendsr",
            "regulation": "gdpr",
            "received": "2026-11-02T15:04:11Z",
            "due": "2026-12-02T15:04:11.250+01:00",
        },
        "completed": "2026-11-02T15:10:00Z",
        "issued": "2026-11-02T15:10:01Z",
        "outcome": "unlearned",
        "method": {
            "name": "ssd",
            "category": "approximate",
            "parameters": {"alpha": 10.0, "layers": ("a", "b")},
            "seed": 0,
        },
        "checkpoints": {"before": sha(b"before"), "after": sha(b"after")},
        "split": {"digest": sha(b"split"), "counts": {"forget": 12, "retain": 40_000}},
        "model": {"architecture": "resnet18", "bits": {"weights": 4, "activations": 4}},
        "metrics": {"fa": 0.41, "mia_auc": {"value": 0.502, "low": 0.47, "high": 0.53}},
        "reference": None,
        "thresholds": {"fa_max": 0.5},
        "verdict": {"passed": True, "reasons": []},
        "derived_artefacts": [{"kind": "split", "count": 1, "bytes": 9, "state": "present"}],
        "tool": {"name": "qmu-edge", "version": "0.1.0", "dependencies": {"torch": "2.11.0"}},
        "previous": None,
    }
    return receipt.build(**{**fields, **changes})


def changed(where: str, value: object) -> receipt.Statement:
    """A good receipt with one field, named by dots, set to something else or taken out."""
    statement: Any = make()
    *path, last = where.split(".")
    part = statement
    for name in path:
        part = part[int(name)] if name.isdigit() else part[name]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return dict(statement)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    return {"model.onnx": tmp_path / "model.onnx"}


# Form


def test_a_receipt_is_an_in_toto_statement_that_says_its_limits() -> None:
    statement = make()
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:qmu-edge:erasure-receipt:v1"
    assert [file["name"] for file in statement["subject"]] == ["bundle.zip", "model.onnx"]
    assert statement["predicate"]["limits"] == list(receipt.LIMITS)
    assert "operator who ran it is honest" in receipt.render(statement)


def test_one_statement_has_one_byte_string() -> None:
    data = receipt.dumps(make())
    shuffled = json.loads(data, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert receipt.dumps(shuffled) == data
    assert receipt.loads(data, "r") == make()
    assert data == json.dumps(make(), sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("predicate.method", ..., r"\$.predicate.method is missing"),
        ("predicate.extra", 1, r"\$.predicate.'?extra'? is not a field"),
        ("predicate.method.category", "certified", "allowed: 'exact' or 'approximate'"),
        ("predicate.method.seed", True, "allowed: a whole number from 0"),
        ("predicate.method.seed", -1, "allowed: a whole number from 0"),
        ("predicate.request.digest", sha(b"").upper(), "allowed: a SHA-256"),
        ("predicate.request.received", "yesterday", "allowed: an RFC 3339 time"),
        ("predicate.split.counts", {"forget": "12"}, "whole numbers"),
        ("predicate.verdict.passed", 1, "allowed: true or false"),
        ("predicate.metrics", [], "allowed: an object"),
        ("predicate.derived_artefacts", {}, "allowed: a list"),
        ("predicate.request", [], "allowed: an object"),
        ("predicate.limits", [], "one sentence or more"),
        ("predicate.limits", [""], "allowed: text"),
        ("subject", [], "at least one"),
        ("subject.0.name", "model.onnx", "each once"),
        ("_type", "https://example.org/v1", "allowed: 'https://in-toto.io/Statement/v1'"),
        ("predicateType", "urn:qmu-edge:erasure-receipt:v2", "erasure-receipt:v1"),
    ],
)
def test_a_wrong_field_is_named(where: str, value: object, said: str) -> None:
    with pytest.raises(LedgerError, match=f"r.json: not a receipt: .*{said}"):
        receipt.loads(receipt.dumps(changed(where, value)), Path("r.json"))


def test_build_refuses_what_could_not_be_read() -> None:
    wrongs: list[dict[str, Any]] = [
        {"metrics": {"fa": float("nan")}},
        {"outcome": ""},
        {"subjects": {}},
    ]
    for wrong in wrongs:
        with pytest.raises(LedgerError):
            make(**wrong)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"1e999",
        b"NaN",
        b'{"_type":NaN}',
        b'{"_type":"\\ud800"}',
        b" " * ((1 << 20) + 1),
    ],
    ids=lambda data: f"{data[:12]!r}",
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(LedgerError, match="from a stranger: not a receipt"):
        receipt.loads(data, "from a stranger")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b'{"_type": 1}')
def test_any_bytes_are_refused_the_same_way(data: bytes) -> None:
    with pytest.raises(LedgerError):
        receipt.loads(data, "r")


def test_the_same_json_in_another_form_is_refused() -> None:
    data = receipt.dumps(make())
    for other in (
        data + b"\n",
        json.dumps(make()).encode(),
        data.replace(b'"seed":0', b'"seed":0.0'),
        data.replace(b'"seed":0', b'"seed":0,"seed":0'),
        data.replace(b"ssd", b"ss\\u0064"),
    ):
        assert other != data
        with pytest.raises(LedgerError, match=r"RFC 8785|twice"):
            receipt.loads(other, "r")


def test_every_flipped_bit_is_noticed(files: dict[str, Path]) -> None:
    data = receipt.dumps(make())
    pinned = sha(data)
    unreadable = 0
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        if place % 61 == 0:  # the form alone catches the syntax, the pinned digest all
            with pytest.raises(LedgerError) as caught:
                receipt.verify(bytes(flipped), files=files, digest=pinned)
            unreadable += "not a receipt" in str(caught.value)
        assert sha(bytes(flipped)) != pinned
    assert unreadable > 0


# Against the files


def test_verify_says_what_it_checked_and_what_not(files: dict[str, Path]) -> None:
    first = receipt.dumps(make())
    lines = receipt.verify(first, files=files, digest=sha(first))
    assert len(lines) == 4
    assert lines[0] == "bundle.zip: not checked, no file given"
    assert lines[1].startswith(f"model.onnx ({files['model.onnx']}): SHA-256 {sha(MODEL)}, as")
    assert lines[2] == "previous receipt: not checked, stated: none"
    second = receipt.dumps(make(previous=sha(first)))
    assert receipt.verify(second, files={}, previous=first)[2].endswith("as stated")


def test_verify_names_everything_that_does_not_hold(files: dict[str, Path]) -> None:
    data = receipt.dumps(make(previous=sha(b"another")))
    files["model.onnx"].write_bytes(MODEL + b"!")
    files |= {"bundle.zip": files["model.onnx"].parent / "absent", "other.onnx": Path("other")}
    with pytest.raises(LedgerError) as caught:
        receipt.verify(data, files=files, previous=receipt.dumps(make()), digest=sha(b"x"))
    for said in (
        f"SHA-256 is {sha(MODEL + b'!')}; stated: {sha(MODEL)}",
        "bundle.zip: cannot read",
        "other.onnx: not a subject",
        f"previous receipt: SHA-256 is {sha(receipt.dumps(make()))}",
        f"stated: {sha(b'x')}",
    ):
        assert said in str(caught.value)
    with pytest.raises(LedgerError, match="stated: none, but one was given"):
        receipt.verify(receipt.dumps(make()), files={}, previous=data)


def test_the_previous_receipt_must_be_one() -> None:
    data = receipt.dumps(make(previous=sha(b"no receipt")))
    with pytest.raises(LedgerError, match="previous receipt: not a receipt"):
        receipt.verify(data, files={}, previous=b"no receipt")


def test_it_works_in_an_empty_folder_without_the_rest(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'pydantic', 'filelock', 'brevitas', 'onnx', 'sqlite3'):\n"
        "    sys.modules[name] = None\n"
        "from qmu_edge import receipt\n"
        "print(receipt.verify(sys.stdin.buffer.read(), files={})[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=receipt.dumps(make()),
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout == b"bundle.zip: not checked, no file given\n"


# Personal data


def test_a_good_receipt_holds_no_personal_data() -> None:
    forbidden = ["img/0017.png", "c-10492", "7", "12", "2026", "an", sha(b"pseudonym"), "", " "]
    assert receipt.personal_data(make(), forbidden=forbidden) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("img/0017.png", "a forbidden text"),
        ("see IMG/0017.PNG!", "a forbidden text"),
        ("sample 7 is out", "a forbidden text"),
        (sha(b"pseudonym"), "a forbidden text"),
        ("ask ana.b+c@mail.example.org", "an e-mail address"),
        ("/home/ana/x", "an absolute path"),
        ("in file:///srv/x", "an absolute path"),
        ("~/photos", "an absolute path"),
        ("path=/srv/data", "an absolute path"),
        (r"C:\Users\ana", "an absolute path"),
        (r"\\server\share", "an absolute path"),
    ],
)
def test_personal_data_is_found_with_its_place(text: str, what: str) -> None:
    forbidden = ["img/0017.png", "7", sha(b"pseudonym")]
    for statement, where in (
        (make(verdict={"passed": False, "reasons": ["FA 0.7", text]}), "verdict.reasons[1]"),
        (make(metrics={text: 1}), "metrics"),
    ):
        assert receipt.personal_data(statement, forbidden=forbidden) == [f"$.predicate.{where}: {what}"]


@pytest.mark.parametrize("text", ["images/s", "n/a", "1 / 2", "https://in-toto.io/x", "FA < 0.5"])
def test_harmless_texts_are_left_alone(text: str) -> None:
    assert receipt.personal_data(make(outcome=text), forbidden=[]) == []


# For people


def test_render_shows_every_value_and_steers_no_terminal() -> None:
    statement = make()
    statement["predicate"]["outcome"] = "\x1b[2Jgone\u202e"
    text = receipt.render(statement)
    for shown in (
        sha(MODEL),
        "resnet18",
        "0.41",
        "kind: split",
        "forget: 12",
        "torch: 2.11.0",
    ):
        assert shown in text
    assert r"\x1b[2Jgone\u202e" in text
    assert all(c.isprintable() or c == "\n" for c in text)
    for limit in receipt.LIMITS:
        assert limit in text
