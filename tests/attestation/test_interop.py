"""Public tools read what a release holds: OpenSSF model signing and the CycloneDX library."""

import subprocess
import sys
from pathlib import Path

import pytest

from qmu_edge.attestation.bom import bom
from qmu_edge.receipt import p256
from tests.attestation.examples import facts, measured
from tests.attestation.test_papers import MINE, written
from tests.receipt.test_receipt import OTHER, made, made_old
from tests.verify import files
from tests.verify.bundles import write

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_7).validate_str(sys.stdin.read()))
"""
pytestmark = pytest.mark.slow


def tool(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-W", "ignore", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, input=stdin, check=False)


def require(module: str) -> None:
    if tool("-c", f"import {module}").returncode:
        pytest.skip(f"{module} is not installed: the extra interop has it")


def verified(folder: Path, key: bytes = MINE) -> tuple[int, str]:
    """What `model_signing verify` says of a folder."""
    pem = folder.with_name("key.pem")
    pem.write_text(p256.to_pem(key))
    words = ("verify", "key", "--signature", folder / "model.sig", "--public_key", pem, folder)
    done = tool("-m", "model_signing", *words)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(params=["release", "bundle"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    require("model_signing")
    out = tmp_path / "signed"
    if request.param == "bundle":
        write(out, files.write(tmp_path / "model.onnx", files.qcdq()))
    else:
        out.mkdir()
        written(out)
    return out


def test_model_signing_verifies_a_folder(folder: Path) -> None:
    assert verified(folder) == (0, "Verification succeeded\n")


@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_model_signing_tells_a_changed_a_removed_and_an_added_file(folder: Path, damage: str) -> None:
    path = folder / ("model.onnx" if damage != "added" else "new.onnx")
    if damage == "removed":
        path.unlink()
    else:
        with path.open("ab") as file:
            file.write(b"x")
    code, said = verified(folder)
    word = {"changed": "Hash mismatch", "removed": "Missing files", "added": "Extra files"}[damage]
    assert code != 0 and word in said and path.name in said


def test_model_signing_tells_a_changed_signature_and_a_foreign_key(folder: Path) -> None:
    assert verified(folder, p256.public_half(p256.beside(OTHER)))[0] != 0
    path = folder / "model.sig"
    data = bytearray(path.read_bytes())
    data[data.index(b'"payload":"') + 40] ^= 1
    path.write_bytes(data)
    assert verified(folder)[0] != 0


RECEIPTS = {
    "none": None, "few": made(), "many": measured(100), "partial": made(outcome="partial"), "old": made_old(),
}  # fmt: skip


@pytest.mark.parametrize("name", RECEIPTS)
def test_the_cyclonedx_library_finds_the_bill_of_materials_valid(name: str) -> None:
    require("cyclonedx.validation.json")
    data = bom(facts(RECEIPTS[name])).decode()
    done = tool("-c", VALIDATE, stdin=data)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = tool("-c", VALIDATE, stdin=data.replace('"supervised"', '"by magic"'))
    assert done.returncode != 0
