"""What lies beside a receipt is held against it: a changed byte, a missing file, a foreign key."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from qmu_edge.attestation import signature
from qmu_edge.attestation.bom import BOM, bom
from qmu_edge.attestation.papers import PAPERS, findings, papers
from qmu_edge.attestation.results import TEST_RESULT, result_of
from qmu_edge.attestation.signature import MODEL_SIGNATURE
from qmu_edge.io.canonical import canonical
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.receipt import envelope, p256
from qmu_edge.receipt.receipt import loads
from tests.attestation.examples import FILES, facts
from tests.receipt.test_receipt import KEY, OTHER, made

GOLDEN = Path(__file__).parent / "golden"
RECEIPT = made()
MINE, FOREIGN = (p256.public_half(p256.beside(key)) for key in (KEY, OTHER))


def written(folder: Path, receipt: bytes = RECEIPT) -> Path:
    """A folder of a release with everything that goes with it."""
    whole = {**FILES, "receipt.json": receipt}
    digests = {name: sha256_of(data) for name, data in whole.items()}
    whole |= papers(facts(receipt), receipt, digests, ["SHA256SUMS"], KEY)
    for name, data in {**whole, "SHA256SUMS": b"of all"}.items():
        (folder / name).write_bytes(data)
    return folder


def wrong(folder: Path, *keys: bytes, receipt: bytes = RECEIPT) -> list[str]:
    return [line for holds, line in findings(folder, receipt, lying(folder), keys) if not holds]


def lying(folder: Path) -> Mapping[str, str]:
    return {path.name: sha256_of(path.read_bytes()) for path in folder.iterdir()}


def test_all_that_is_written_holds_and_is_the_same_again(tmp_path: Path) -> None:
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
    folder, again = written(tmp_path / "first"), written(tmp_path / "again")
    assert lying(folder) == lying(again) and set(lying(again)) > PAPERS
    said = [line for holds, line in findings(again, RECEIPT, lying(again), [FOREIGN, MINE]) if holds]
    assert len(said) == 3 and wrong(again, FOREIGN, MINE) == []
    assert "6 files" in said[2] and said[2].endswith("which is trusted")
    assert said[:2] == [
        "test-result.json: PASSED, as the receipt says", "bom.cdx.json: of these files and the receipt",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_they_have_the_bytes_that_were_recorded(tmp_path: Path, name: str) -> None:
    """What was published must be made again: a form that differs is a new version of it."""
    assert (written(tmp_path) / name).read_bytes() == (GOLDEN / f"{name}.txt").read_bytes()


def test_without_a_key_the_files_are_compared_and_it_is_said_that_nobody_vouches(tmp_path: Path) -> None:
    written(tmp_path)
    *_, (holds, line) = findings(tmp_path, RECEIPT, lying(tmp_path), [])
    assert holds and "was not checked: no P-256 key was given" in line


def test_older_releases_have_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_bytes(RECEIPT)
    assert [*findings(tmp_path, RECEIPT, lying(tmp_path), [MINE])] == []


@pytest.mark.parametrize("name", [*sorted(PAPERS), *FILES, "receipt.json"])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_flipped_byte_and_a_missing_file_are_told_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = written(tmp_path) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage == "flipped":
        path.write_bytes(data)
    told = "; ".join(wrong(tmp_path, MINE))
    if (name, damage) == (MODEL_SIGNATURE, "missing"):
        assert told == ""  # which the ledger knows, and `qmu-edge receipt verify` there
    else:
        assert name in told


def test_another_file_is_told(tmp_path: Path) -> None:
    (written(tmp_path) / "new").write_bytes(b"")
    assert wrong(tmp_path, MINE) == ["new: not signed in model.sig"]


def test_of_many_files_the_first_are_named(tmp_path: Path) -> None:
    written(tmp_path)
    for number in range(9):
        (tmp_path / f"new{number}").write_bytes(b"")
    lines = wrong(tmp_path, MINE)
    assert len(lines) == 6 and lines[-1] == "model.sig: 4 more files differ"


def test_a_foreign_key_is_told(tmp_path: Path) -> None:
    written(tmp_path)
    (line,) = wrong(tmp_path, FOREIGN)
    assert line == f"model.sig: by P-256 key {p256.hint(MINE)[:16]}; trusted: {p256.hint(FOREIGN)[:16]}"
    result = canonical(result_of(loads(RECEIPT, "receipt"), sha256_of(RECEIPT)))
    (tmp_path / TEST_RESULT).write_bytes(envelope.sign(result, OTHER))
    assert "not the receipt's" in "; ".join(wrong(tmp_path, MINE))


def test_papers_of_another_receipt_are_told_though_their_signatures_hold(tmp_path: Path) -> None:
    other = made(outcome="partial")
    written(tmp_path, other)
    (tmp_path / "receipt.json").write_bytes(RECEIPT)
    assert [line.partition(":")[0] for line in wrong(tmp_path, MINE)] == [
        TEST_RESULT, BOM, "receipt.json"
    ]  # fmt: skip


@pytest.mark.parametrize("data", [b"{}", b"[]", b"", b'{"components":[1]}', b'{"components":{"a":0}}'])
def test_a_bill_of_another_form_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / BOM).write_bytes(data)
    (line,) = wrong(tmp_path)
    assert line.startswith("bom.cdx.json: ") and "\n" not in line


def test_a_signature_that_claims_another_key_does_not_hold(tmp_path: Path) -> None:
    written(tmp_path)
    files = {
        name: Sha256(sha)
        for name, sha in lying(tmp_path).items()
        if name not in ("SHA256SUMS", MODEL_SIGNATURE)
    }
    forged = signature.sign(files, ["SHA256SUMS"], p256.beside(OTHER)).decode()
    (tmp_path / MODEL_SIGNATURE).write_text(forged.replace(p256.hint(FOREIGN), p256.hint(MINE)))
    (line,) = wrong(tmp_path, MINE)
    assert line == f"model.sig: the signature does not hold for P-256 key {p256.hint(MINE)[:16]}"


def test_a_bill_of_other_files_is_told(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"another")
    (tmp_path / BOM).write_bytes(bom(facts(RECEIPT)))
    assert wrong(tmp_path, MINE)[0] == "bom.cdx.json: not of these files and the receipt"
