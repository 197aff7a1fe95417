"""The manifest of a bundle: read back as it was written, refused when it names what a bundle cannot hold."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.verify.manifest import GOLDEN, MANIFEST, RECEIPT, SIGNATURE, TYPE_V1, FileEntry, Manifest
from tests.verify.bundles import issued

MODEL = "model.onnx"
WHERE = Path("device.tar")
ENTRY = FileEntry(Sha256("ab" * 32), 10)
HONEST = Manifest(
    tool="qmu-edge 0",
    model=MODEL,
    files={name: ENTRY for name in (MODEL, *GOLDEN)},
    min_agreement=0.999,
    thresholds={"max_residual": 0.25, "max_ta_drop": None},
    key="0123456789abcdef",
    issued=issued(),
    onnxruntime={MODEL: "1.18"},
)
OLD = replace(HONEST, issued=None, onnxruntime=None, type=TYPE_V1)
RECEIVED = replace(
    HONEST, files={**HONEST.files, RECEIPT: ENTRY}, issued=replace(issued(3), receipt=ENTRY.sha256)
)


def test_what_is_written_is_read_back() -> None:
    data = HONEST.to_bytes()
    assert Manifest.parse(data, WHERE) == HONEST
    assert Manifest.parse(RECEIVED.to_bytes(), WHERE) == RECEIVED
    assert data.endswith(b"}\n") and data == HONEST.to_bytes()
    assert list(json.loads(data)) == sorted(json.loads(data))


def test_version_1_is_read_as_it_was_written() -> None:
    assert Manifest.parse(OLD.to_bytes(), WHERE) == OLD
    assert json.loads(OLD.to_bytes()).keys() == json.loads(HONEST.to_bytes()).keys() - {
        "issued",
        "onnxruntime",
    }
    strangers = replace(HONEST, onnxruntime={"other.onnx": "1.18"})
    nothing = (
        replace(OLD, type=HONEST.type),
        replace(HONEST, issued=None),
        replace(HONEST, onnxruntime=None),
    )
    with pytest.raises(IntegrityError, match=r"onnxruntime names 'other\.onnx'"):
        Manifest.parse(strangers.to_bytes(), WHERE)
    for wrong in nothing:
        with pytest.raises(IntegrityError, match="issued"):
            Manifest.parse(wrong.to_bytes(), WHERE)
    mixed = json.loads(OLD.to_bytes()) | {"issued": json.loads(HONEST.to_bytes())["issued"]}
    with pytest.raises(IntegrityError, match="not of type urn:qmu-edge:bundle:v2"):
        Manifest.parse(json.dumps(mixed).encode(), WHERE)


HISTORIES: dict[str, tuple[dict[str, Any], str]] = {
    "a negative number": ({"number": -1}, "number -1 with time"),
    "a number without a time": ({"time": None}, "number 3 with time None"),
    "a time before any deletion": ({"number": 0}, "number 0 with time"),
    "a time that is none": ({"time": "yesterday"}, "time 'yesterday', allowed RFC 3339 in UTC"),
    "a receipt that is not there": ({"receipt": "cd" * 32}, "is not receipt cdcd"),
    "a receipt that is not named": ({"receipt": None}, "receipt None of number 3"),
    "a number that is true": ({"number": True}, "found True, allowed int"),
    "a checkpoint that is none": ({"checkpoint": "x"}, "found 'x', allowed Sha256"),
    "another field": ({"who": "x"}, "unknown field"),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_that_contradicts_itself_is_refused(name: str) -> None:
    change, said = HISTORIES[name]
    document = json.loads(RECEIVED.to_bytes())
    document["issued"] |= change
    with pytest.raises(IntegrityError, match=said):
        Manifest.parse(json.dumps(document).encode(), WHERE)


def test_limits_of_older_bundles_are_read_and_left_out() -> None:
    old = replace(HONEST, thresholds={"max_fa_gap": 0.05, "max_mia_auc_gap": None, "max_ra_drop": 0.1})
    assert Manifest.parse(old.to_bytes(), WHERE) == old
    assert old.limits == {"max_ra_drop": 0.1} and HONEST.limits == HONEST.thresholds
    wrong = replace(old, thresholds={"max_fa_gap": 2.0})
    with pytest.raises(IntegrityError, match="no fraction"):
        Manifest.parse(wrong.to_bytes(), WHERE)


BAD: dict[str, tuple[Any, str]] = {
    "a field is missing": (lambda m: m.pop("key"), "not of type urn:qmu-edge:bundle:v2 with fields"),
    "a field is unknown": (lambda m: m.update(run="sh"), "not of type"),
    "another version": (lambda m: m.update(type="urn:qmu-edge:bundle:v3"), "not of type"),
    "files are a list": (lambda m: m.update(files=[]), "files: found"),
    "an entry is text": (lambda m: m["files"].update({MODEL: "x"}), "found 'x', allowed FileEntry"),
    "a digest is short": (lambda m: m["files"][MODEL].update(sha256="ab"), "found 'ab', allowed Sha256"),
    "a digest is capital": (lambda m: m["files"][MODEL].update(sha256="AB" * 32), "allowed Sha256"),
    "a size is true": (lambda m: m["files"][MODEL].update(bytes=True), "found True, allowed int"),
    "a size is zero": (lambda m: m["files"][MODEL].update(bytes=0), "is malformed"),
    "a size is huge": (lambda m: m["files"][MODEL].update(bytes=2**31), "is malformed"),
    "a name with a folder": (lambda m: m["files"].update({"a/b": m["files"][MODEL]}), "is malformed"),
    "a hidden name": (lambda m: m["files"].update({".b": m["files"][MODEL]}), "is malformed"),
    "itself": (lambda m: m["files"].update({MANIFEST: m["files"][MODEL]}), "is malformed"),
    "its signature": (lambda m: m["files"].update({SIGNATURE: m["files"][MODEL]}), "is malformed"),
    "too many files": (
        lambda m: m["files"].update({f"f{i}": m["files"][MODEL] for i in range(64)}),
        "67 files, allowed 64",
    ),
    "a model that is not there": (
        lambda m: m.update(model="other.onnx"),
        "'other.onnx' is not among its files",
    ),
    "no golden inputs": (lambda m: m["files"].pop(GOLDEN[0]), "is not among its files"),
    "a model that is a list": (lambda m: m.update(model=[]), r"model: found \[\], allowed str"),
    "an agreement of 2": (lambda m: m.update(min_agreement=2), "no fraction"),
    "a negative threshold": (lambda m: m["thresholds"].update(max_residual=-0.1), "no fraction"),
    "a threshold that is true": (
        lambda m: m["thresholds"].update(max_residual=True),
        "found True, allowed float",
    ),
    "no limit of the residual": (
        lambda m: m["thresholds"].update(max_residual=None),
        "max_residual is no fraction",
    ),
    "an unknown threshold": (lambda m: m["thresholds"].update(junit=0.5), "a threshold is unknown"),
}


@pytest.mark.parametrize("name", BAD)
def test_another_document_is_refused(name: str) -> None:
    change, message = BAD[name]
    document = json.loads(HONEST.to_bytes())
    change(document)
    with pytest.raises(IntegrityError, match=rf"^device\.tar: manifest\.json: .*{message}"):
        Manifest.parse(json.dumps(document).encode(), WHERE)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":1,"a":2}', b"[" * 1000, b"\xff"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^device\.tar: manifest\.json: "):
        Manifest.parse(data, WHERE)
