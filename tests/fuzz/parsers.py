"""Every parser of what comes from outside, with valid documents to start from: one table."""

import io
import json
import random
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qmu_edge.attestation.bom import BOM
from qmu_edge.attestation.papers import findings, papers
from qmu_edge.attestation.results import TEST_RESULT
from qmu_edge.attestation.signature import MODEL_SIGNATURE
from qmu_edge.data.decoding import decoded, fitted, mode_and_size
from qmu_edge.data.index import SampleIndex
from qmu_edge.data.subjects import read_subjects
from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.project.recipes import recipe_text, shipped_recipes
from qmu_edge.receipt import envelope, receipt
from qmu_edge.receipt.verify import verify
from qmu_edge.recipe import Recipe, parse_recipe, to_toml
from qmu_edge.request.document import load_request, new_request
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from tests.attestation.examples import facts
from tests.fuzz.adopted_parsers import ADOPTED_PARSERS
from tests.fuzz.dataset_parsers import DATASET_PARSERS
from tests.fuzz.device_parsers import DEVICE_PARSERS
from tests.fuzz.mutate import mutated, mutated_json
from tests.fuzz.parser import JSON_WORDS, SHA, Parser, bytes_of, json_of
from tests.receipt import test_receipt

# Requests, subjects, recipes.


@cache
def requests() -> list[Any]:
    some = new_request(subject_ids=["ana"], sample_ids=["a", "b"], class_ids=["cat", 3], requested_by="me")
    research = {
        "request_id": "a7551968-d5d6-44b2-9831-815ac9017798", "sample_ids": ["a"], "class_ids": [1],
        "subject_ids": ["ana"], "submitted_time": "2026-01-02T03:04:05Z", "approved_by_ref": "T-1",
    }  # fmt: skip
    return [some, research]


SUBJECTS = (b"sample,subject\na,ana\nb,bo\nc,\n", b'\xef\xbb\xbfsample,subject\r\n"a","ana"\r\n\r\nb,bo\r\n')
SUBJECT_WORDS = (b'"', b",", b"\n", b"\r", b"\0", b"a,ana\n", b"\xff", b"\xe2\x80\x8b", b'"' * 200_000)


@cache
def recipes() -> list[bytes]:
    return [to_toml(Recipe()).encode(), *(recipe_text(name).encode() for name in shipped_recipes())]


RECIPE_WORDS = (
    b"[" * 3000, b"{a=" * 3000, b"a." * 3000 + b"a=1\n", b"=", b"\n", b'"', b"'''", b"9" * 5000, b"nan",
    b"-inf",
    b"1979-05-27", b"0x7fffffffffffffffff", b"[unlearn.qmul]\nx = {y = [1, {z = 2}]}\n", b"[[data]]\n",
    b'path = "\\u0000"\n', b'method = "\\u202e"\n', b"[data]\n", b"true", b"[]", b"\xff", b"1e999", b"_",
    b'[unlearn."a.b"]\n"\\u0007" = 1\n', b"[unlearn.qmul]\nlr = 1979-05-27\n",
)  # fmt: skip


def _recipe(folder: Path, path: Path) -> None:
    recipe = parse_recipe(recipe_text(str(path)), "recipe")
    assert parse_recipe(to_toml(recipe), "again") == recipe


# The store.


@cache
def ledgers() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ledger.db"
        with Ledger.create(path) as ledger:
            ledger.write_samples(_index())
            ledger.set_meta("a word", {"b": [1, None]})
            ledger.set_current(Pointer.CHECKPOINT, SHA)
        return [path.read_bytes()]


def _index() -> SampleIndex:
    n = 6
    return SampleIndex.of(
        ids=map(str, range(n)), digests=[SHA] * n, labels=np.arange(n) % 2, splits=np.zeros(n, np.int8),
        subjects=[SHA, ""] * (n // 2), class_names=("cat", "dog"),
    )  # fmt: skip


LEDGER_WORDS = (
    b"CREATE TABLE", b"CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM events; END", b"CREATE VIEW",
    b"INTEGER", b"TEXT", b"NOT NULL", b"\xff" * 9, b"\0" * 16, b"\x0d", b"\x05", b"SQLite format 3\0",
    b"[" * 500,
    b'{"b":[1,', b"\x10\x00\x01\x01",
)  # fmt: skip


def _ledger(folder: Path, path: Path) -> None:
    for rest in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    with Ledger.open(path) as ledger:
        for problem in ledger.problems():
            assert problem.startswith("ledger ")
        for look in (
            ledger.has_samples, ledger.sample_count, ledger.read_samples, ledger.requests, ledger.head,
            ledger.tombstones, lambda: ledger.meta("a word"), lambda: ledger.current(Pointer.CHECKPOINT),
            lambda: ledger.steps("a"), lambda: ledger.set_meta("b", 1),
        ):  # fmt: skip
            look()


@cache
def splits() -> list[Any]:
    parts = {name: np.arange(i, i + 2) for i, name in enumerate(("forget", "retain", "validation", "test"))}
    split = Split(**parts, also_erased=np.arange(0), scope="samples", index_digest=SHA)  # type: ignore[arg-type]
    return [json.loads(split.to_bytes())]


def _split(folder: Path, path: Path) -> None:
    """Read the text, and its canonical form when it has one: any other is refused at once."""
    data = path.read_bytes()
    with suppress(ValueError, RecursionError):
        data = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()
    Split.parse(data)


# Receipts.


@cache
def envelopes() -> list[bytes]:
    return [test_receipt.made()]


def _statement(rng: random.Random) -> bytes:
    """A changed statement under a signature that holds."""
    text = mutated_json(rng, [test_receipt.make()]).decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return envelope.sign(text.encode("utf-8", "replace"), test_receipt.KEY)


def _receipt(folder: Path, path: Path) -> None:
    data = path.read_bytes()
    verify(data, files={})
    receipt.render(receipt.loads(data, path).document())


# What lies beside a receipt for other tools.


@cache
def papers_made() -> dict[str, bytes]:
    receipt = test_receipt.made()
    return papers(facts(receipt), receipt, {"receipt.json": Sha256(SHA)}, [], test_receipt.KEY)


def bills() -> list[Any]:
    return [json.loads(papers_made()[BOM])]


def results() -> list[bytes]:
    return [papers_made()[TEST_RESULT]]


def _model_signature(rng: random.Random) -> bytes:
    """A changed signature, or a changed list of files in one."""
    data = papers_made()[MODEL_SIGNATURE]
    if rng.random() < 0.5:
        return mutated(rng, [data], JSON_WORDS)
    document = json.loads(data)
    inner = json.loads(b64decode(document["dsseEnvelope"]["payload"]))
    document["dsseEnvelope"]["payload"] = b64encode(mutated_json(rng, [inner])).decode()
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _paper(name: str) -> Callable[[Path, Path], None]:
    def run(folder: Path, path: Path) -> None:
        data = path.read_bytes()
        (folder / name).write_bytes(data)
        found = findings(folder, test_receipt.made(), {name: sha256_of(data)}, [])
        if wrong := [line for holds, line in found if not holds]:
            raise LedgerError("; ".join(wrong))

    return run


# Images.


@cache
def images() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        for picture in (noise, noise.convert("P"), noise.convert("L")):
            buffer = io.BytesIO()
            (picture.convert("RGB") if kind in ("WEBP", "JPEG", "PPM") else picture).save(buffer, kind)
            found.append(buffer.getvalue())
    return found


IMAGE_WORDS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"IHDR", b"IDAT", b"tEXt", b"zTXt", b"acTL",
    b"\xff\xd8", b"P1\n", b"!\xff", b"\xff\xc0", b"\xff\xda", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF",
    b"P6\n99999 99999\n255\n", b"\x00\x00\xff\xff", b"\x7f\xff\xff\xff", b"IEND", b"\x89PNG\r\n\x1a\n",
)  # fmt: skip


def _image(rng: random.Random) -> bytes:
    """A changed image; the chunks of a PNG mostly have sums that are right again."""
    data = mutated(rng, images(), IMAGE_WORDS)
    return _summed(data) if data.startswith(b"\x89PNG") and rng.random() < 0.8 else data


def _summed(data: bytes) -> bytes:
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


def _open_image(folder: Path, path: Path) -> None:
    mode_and_size(path)
    found = decoded(path).pixels
    assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[0] in (1, 3)
    assert fitted(found, (3, 8, 8)).shape == (3, 8, 8)


PARSERS: dict[str, Parser] = {
    **DEVICE_PARSERS,
    **ADOPTED_PARSERS,
    **DATASET_PARSERS,
    "request": Parser(lambda folder, path: load_request(path), json_of(requests), 20_000),
    "subjects": Parser(
        lambda folder, path: read_subjects(path, ["a", "b", "c"]),
        bytes_of(lambda: SUBJECTS, *SUBJECT_WORDS),
        15_000,
    ),
    "recipe": Parser(_recipe, bytes_of(recipes, *RECIPE_WORDS), 15_000),
    "ledger": Parser(_ledger, bytes_of(ledgers, *LEDGER_WORDS), 3_000),
    "split": Parser(_split, json_of(splits), 5_000),
    "envelope": Parser(_receipt, bytes_of(envelopes, *JSON_WORDS), 5_000, strict=True),
    "receipt": Parser(_receipt, _statement, 5_000, strict=True),
    "bill of materials": Parser(_paper(BOM), json_of(bills), 3_000),
    "model signature": Parser(_paper(MODEL_SIGNATURE), _model_signature, 5_000, strict=True),
    "test result": Parser(_paper(TEST_RESULT), bytes_of(results, *JSON_WORDS), 3_000, strict=True),
    "image": Parser(_open_image, _image, 20_000, limit_mb=400),  # 40 megapixels are allowed
}
