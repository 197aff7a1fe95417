"""The linter finds what names somebody, and leaves what a receipt must say."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.project.inventory import SENTENCES as ARTEFACTS
from qmu_edge.receipt import receipt
from qmu_edge.receipt.personal_data import find

SENTENCES = {*receipt.LIMITS, *ARTEFACTS}
PSEUDONYM = hashlib.sha256(b"pseudonym").hexdigest()
FORBIDDEN = ["img/0017.png", "7", PSEUDONYM, "c-10492"]
GOLDEN = sorted((Path(__file__).parent / "golden").glob("receipt.v3-*.json"))


def looked(document: Any, forbidden: list[str] = FORBIDDEN) -> list[str]:
    return find(document, forbidden=forbidden, sentences=SENTENCES)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_a_real_receipt_holds_no_personal_data(path: Path) -> None:
    forbidden = ["digits/0001", "writer-3", "7", "12", "2026", "an", PSEUDONYM, "", " ", *"0123456789"]
    assert looked(receipt.loads(path.read_bytes(), path).document(), forbidden) == []


FOUND = {
    "img/0017.png": "a forbidden text",
    "IMG/0017.PNG": "a forbidden text",
    "by-C-10492-x": "a forbidden text",
    "7": "a forbidden text",
    PSEUDONYM: "a forbidden text",
    "ana.b+c@mail.example.org": "an e-mail address",
    "ana@localhost": "an e-mail address",
    "/home/ana/x": "an absolute path",
    "~/photos": "an absolute path",
    "path=/srv/data": "an absolute path",
    r"C:\Users\ana": "an absolute path",
    r"\\server\share": "an absolute path",
    "train/cats/001": "a path or an image file",
    "ana.JPG": "a path or an image file",
    "file:///srv/x": "a web address",
    "data:image/gif": "a web address",
    "http://example.org": "a web address",
    "a7551968-d5d6-44b2-9831-815ac9017798": "a UUID",
    "+49 170 1234567": "a telephone number",
    "+41-44-123-45-67": "a telephone number",
    "192.168.0.17": "an address of a machine",
    "0a:1b:2c:3d:4e:5f": "an address of a machine",
    base64.b64encode(bytes(range(60))).decode(): "encoded data",
    "f" * 63: "encoded data",
    "Ana M\u00fcller": "text beyond ASCII",
    "Ana Miller": "a sentence that is not one of ours",
}


@pytest.mark.parametrize("text", FOUND)
def test_personal_data_is_found_with_its_place(text: str) -> None:
    for document, where in (({"a": [1, {"b": text}]}, "$.a[1].b"), ({"a": {text: 1}}, "$.a")):
        assert f"{where}: {FOUND[text]}" in looked(document)


@pytest.mark.parametrize(
    "text",
    [
        "2.11.0+cpu", "2.11.0+cu128", "3.11.7", "scikit-learn", "model.packed.onnx", "held-out",
        "mia_auc_gap", "2026-11-21T14:37:00.265+00:00", "2026-12-02T15:04:11.250+01:00", "0" * 64,
        "resnet18", "https://in-toto.io/Statement/v1", "urn:qmu-edge:erasure-receipt:v1",
        "0.1.0.dev3+g1234567",
    ],
)  # fmt: skip
def test_what_a_receipt_must_say_is_left_alone(text: str) -> None:
    assert looked({"x": text, text: 1}) == []


def test_a_picture_in_numbers_is_found() -> None:
    assert looked({"a": {"b": list(range(16))}}) == []
    assert looked({"a": {"b": list(range(17))}}) == ["$.a.b: a list of numbers, as long as a picture"]
    rows = {"a": [[0.5] * 28] * 28}
    assert len(looked(rows)) == 28


def test_a_person_called_like_a_field_does_not_stop_every_receipt() -> None:
    """Fields, fixed words and our own sentences name nobody; the same text elsewhere is found."""
    forbidden = ["outcome", "unlearned", "samples", "images"]
    assert looked({"outcome": "unlearned", "limits": list(SENTENCES)}, forbidden) == []
    assert looked({"x": "unlearned-by-b"}, forbidden) == ["$.x: a forbidden text"]


def test_a_million_ids_are_read_once() -> None:
    ids = (f"digits/{i:07}" for i in range(1_000_000))
    assert find({"a": "digits/0999999"}, forbidden=ids, sentences=())[0] == "$.a: a forbidden text"
    assert next(ids, None) is None
