"""A name that a document gives leads nowhere else; every reader of such names is a row here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import IntegrityError, LedgerError, QmuEdgeError
from qmu_edge.io.canonical import canonical
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.names import file_name, is_file_name
from qmu_edge.project.records import Release, StepResult, Trained, noted
from qmu_edge.project.results import Results
from qmu_edge.receipt.statement import Statement
from qmu_edge.recipe import parse_recipe
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.manifest import GOLDEN, TYPE_V1, Manifest
from tests.receipt import test_receipt

SHA = sha256_of(b"x")
LEAD_ELSEWHERE = (
    "../../../victim", "/tmp/victim", "a/../../victim", "..", ".", "", "a/b", "a\\b", "a\0b", "a\nb", "-rf",
    "~", ".ssh", "a b", "\u0661", "x" * 101, "a/" + 62 * "0",
)  # fmt: skip


def _release(name: str, ledger: Ledger) -> object:
    return Release.parse(json.dumps({"checkpoint": SHA, "files": {name: SHA}, "bytes": {}}).encode())


def _removal(name: str, ledger: Ledger) -> object:
    ledger.start_removals([("training state", name, 1, 1, "2026-01-01T00:00:00Z")], "asked for", [])
    return ledger.removals()


def _manifest(name: str, ledger: Ledger) -> object:
    files = {n: {"sha256": SHA, "bytes": 1} for n in (*GOLDEN, "m.onnx", name)}
    document = {
        "tool": "t", "model": "m.onnx", "files": files, "min_agreement": 1.0, "thresholds": {}, "key": "k",
        "type": TYPE_V1,
    }  # fmt: skip
    return Manifest.parse(json.dumps(document).encode(), Path("bundle"))


def _receipt(name: str, ledger: Ledger) -> object:
    document = test_receipt.make()
    document["subject"][0]["name"] = name
    return Statement.parse(canonical(document), "receipt")


def _recipe(name: str, ledger: Ledger) -> object:
    text = f'[model]\narchitecture = "file"\npath = {json.dumps(name)}\nsha256 = "{SHA}"\n'
    return parse_recipe(text, "recipe")


def _pointer(name: str, ledger: Ledger) -> object:
    ledger.rows("PRAGMA ignore_check_constraints = ON")
    ledger.set_current(Pointer.RELEASE, name)
    return ledger.current(Pointer.RELEASE)


def _receipts(name: str, ledger: Ledger) -> object:
    ledger.commit_release(None, checkpoint=None, release=None, receipt=SHA)
    ledger.rows("UPDATE receipts SET receipt_digest = ?", name)
    return ledger.receipts()


def _noted(key: str, word: str = "", **others: Any) -> Callable[[str, Ledger], object]:
    def read(name: str, ledger: Ledger) -> object:
        ledger.set_meta(key, {word: name, **others} if word else name)
        return [*Results(ledger, ObjectStore(Path("objects"))).notes()]

    return read


READERS: dict[str, Callable[[str, Ledger], object]] = {
    "files of a release": _release,
    "removals of the ledger": _removal,
    "files of a bundle": _manifest,
    "subjects of a receipt": _receipt,
    "model file of a recipe": _recipe,
    "current objects of the ledger": _pointer,
    "receipts of the ledger": _receipts,
    "objects of a step": lambda name, _: StepResult.parse({"release": name}),
    "checkpoint of a release": lambda name, _: Release.parse(
        json.dumps({"checkpoint": name, "files": {}, "bytes": {}}).encode()
    ),
    "a training": lambda name, _: noted(Trained, {"checkpoint": name, "images": 1, "accuracy": {}}),
    "a noted release": _noted(f"release:{SHA}:{SHA}"),
    "a noted training": _noted(f"trained:{SHA}", "checkpoint", images=1, accuracy={}),
    "a noted reference": _noted("bank:0", "scores"),
    "noted shards": _noted("shards:5"),
    "objects": lambda name, _: ObjectStore(Path("objects")).path(Sha256(name)),
}  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    """A new ledger."""
    with Ledger.create(tmp_path / "ledger.db") as ledger:
        yield ledger


@pytest.mark.parametrize("name", LEAD_ELSEWHERE)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_takes_a_name_that_leads_elsewhere(reader: str, name: str, ledger: Ledger) -> None:
    with pytest.raises(QmuEdgeError) as caught:
        READERS[reader](name, ledger)
    assert str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_a_plain_name(reader: str, ledger: Ledger) -> None:
    """Else the test above could pass for another reason."""
    plain = {"files": "model.onnx", "removals": "work.1", "subjects": "other.onnx", "model": "net.py"}
    READERS[reader](plain.get(reader.split()[0], SHA), ledger)


@pytest.mark.parametrize("name", LEAD_ELSEWHERE)
def test_the_message_shows_the_name_and_what_is_allowed(name: str) -> None:
    assert not is_file_name(name)
    with pytest.raises(
        LedgerError, match=r"^ledger: removal 3: .* is no name of a file: allowed are letters"
    ):
        file_name(name, "ledger: removal 3", LedgerError)


@pytest.mark.parametrize(
    "name", ["model.packed.onnx", "SHA256SUMS", "0123456789abcdef-qmul.safetensors", "7"]
)
def test_plain_names_are_taken(name: str) -> None:
    assert file_name(name, "release") == name


def test_another_kind_of_value_is_no_name() -> None:
    for value in (None, 7, ["a"], True):
        with pytest.raises(IntegrityError, match="no name of a file"):
            file_name(value, "release")


def test_a_removal_that_is_over_may_have_any_name(ledger: Ledger) -> None:
    """Up to version 0.1 whatever lay in the folders of a project was removed by its name."""
    ledger.start_removals([("training state", "old", 1, 1, "2026-01-01T00:00:00Z")], "asked for", [])
    ledger.rows("UPDATE removals SET name = '.DS_Store', status = 'done'")
    assert [removal.name for removal in ledger.removals()] == [".DS_Store"]
