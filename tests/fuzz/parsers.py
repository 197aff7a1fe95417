"""Every parser of what comes from outside, with valid documents to start from: one table."""

import hashlib
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from qmu_edge.data.index import SampleIndex, read_subjects
from qmu_edge.data.sources import open_image
from qmu_edge.errors import QmuEdgeError
from qmu_edge.export.bundle import write_bundle
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches
from qmu_edge.models.layers import Shape
from qmu_edge.receipt import envelope, receipt
from qmu_edge.receipt.verify import verify
from qmu_edge.recipe import ModelRecipe, Recipe, parse_recipe, recipe_text, shipped_recipes, to_toml
from qmu_edge.request.document import load_request, new_request
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.train import checkpoint
from qmu_edge.verify.arrays import read_golden, read_sets
from qmu_edge.verify.bundle import golden, opened
from qmu_edge.verify.latent_weights import latent_weight_gate
from qmu_edge.verify.manifest import GOLDEN, MANIFEST, SIGNATURE
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.verdict import Thresholds
from tests.fuzz.mutate import mutated, mutated_json
from tests.receipt import test_receipt

Make = Callable[[random.Random], bytes]
JSON_WORDS = (
    b'"', b"{", b"[" * 20, b"}", b",", b":", b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"\\u0000",
    b"9" * 5000,
    b"\xe2\x80\xae", b"\xff", b"null", b'"a":1,"a":2', b"1" * 18, b"-0", b"0.1e-400",
)  # fmt: skip
SHA = hashlib.sha256(b"something").hexdigest()


@dataclass(frozen=True, slots=True)
class Parser:
    """One reader of untrusted bytes.

    Attributes:
        run: Gets a folder and the file in it that holds the bytes.
        make: Makes an input from a random generator.
        inputs: How many of them the slow tier tries.
        limit_mb: Memory that all of them together may take.
    """

    run: Callable[[Path, Path], object]
    make: Make
    inputs: int
    limit_mb: int = 200


def _bytes(corpus: Callable[[], Sequence[bytes]], *words: bytes) -> Make:
    return lambda rng: mutated(rng, corpus(), words or (b"\0",))


def _json(corpus: Callable[[], Sequence[Any]]) -> Make:
    texts = cache(lambda: [json.dumps(document).encode() for document in corpus()])
    return lambda rng: (
        mutated_json(rng, corpus()) if rng.random() < 0.6 else mutated(rng, texts(), JSON_WORDS)
    )


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


# Checkpoints and model files.


@cache
def checkpoints() -> list[bytes]:
    import torch

    model = build(ModelRecipe(width=0.125), Shape(channels=1, classes=3), seed=0)
    calibrate(model, [torch.rand(4, 1, 8, 8) for _ in range(calibration_batches(model))])
    origin = checkpoint.Origin(class_names=("cat", "dog", "owl"), size=8, split=SHA)
    return [checkpoint.dumps(model.eval(), origin)]


def _checkpoint(rng: random.Random) -> bytes:
    """Changes of the header, where all meaning is, rather than of the weights."""
    (data,) = checkpoints()
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = rng.random()
    if kind < 0.2:
        return mutated(rng, [data[: 8 + length] + tensors[:64]], JSON_WORDS)
    if kind < 0.7:
        inner = json.loads(header["__metadata__"]["qmu_edge"])
        header["__metadata__"]["qmu_edge"] = mutated_json(rng, [inner]).decode("utf-8", "replace")
        text = json.dumps(header).encode()
    else:
        text = mutated_json(rng, [header])
    return len(text).to_bytes(8, "little") + text + tensors


@cache
def models() -> list[bytes]:
    codes = np.random.default_rng(0).integers(-7, 8, (4, 3, 3, 3)).astype(np.int8)
    tensors: dict[str, np.ndarray] = {
        "w": codes,
        "s": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "z": np.zeros(4, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=0),
        helper.make_node("Conv", ["x", "f"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"qmu_edge": json.dumps({"weight_bits": {"w": 4}})})
    external = onnx.ModelProto()
    external.CopyFrom(model)
    external.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return [model.SerializeToString(), external.SerializeToString()]


MODEL_WORDS = (
    b"\xff" * 9 + b"\x01", b"\x80" * 10, b"\x08\x01", b"\x3a\x00", b"\x0a\xff\xff\xff\xff\x0f", b"qmu_edge",
    b"Constant", b"com.example", b'{"weight_bits": []}', b"\x08" + b"\xff" * 9 + b"\x01", b"\x6a\x00",
    b"../../x",
)  # fmt: skip


# Arrays.


@cache
def arrays() -> list[bytes]:
    found = []
    for array in (np.zeros((4, 1, 2, 2), np.uint8), np.ones((4, 3), np.float32)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        found.append(buffer.getvalue())
    return found


@cache
def archives() -> list[bytes]:
    images, logits = np.zeros((4, 1, 2, 2), np.uint8), np.ones((4, 3), np.float32)
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, images=images, logits=logits)
    np.savez_compressed(packed, forget_images=images, forget_labels=np.arange(4))
    return [plain.getvalue(), packed.getvalue()]


ARRAY_WORDS = (
    b"(4, 1, 2, 2)", b"(99999999999, 1)", b"(4,)", b"|O", b"<U9999999", b"True", b"((" * 300, b"{", b"'" * 50,
    b"(-1, 4)", b"<f8", b"('a', 'b')", b"[('a', '<i4')]", b"1e9",
    b"\x93NUMPY\x02\x00", b"\x93NUMPY\x03\x00\xff\xff",
    b"PK\x03\x04", b"PK\x05\x06", b"-" * 4000, b"(0x7fffffffffffffff, 9)",
)  # fmt: skip


def _golden(folder: Path, path: Path) -> None:
    for name in GOLDEN:
        (folder / name).write_bytes(path.read_bytes())
    golden(folder)


def _sets(folder: Path, path: Path) -> None:
    with suppress(QmuEdgeError):
        read_golden(path)
    read_sets(path)


# Bundles.


def bundle(folder: Path) -> Path:
    """An unsigned bundle in a folder, and the archive beside it; made once."""
    out = folder / "bundle"
    if not out.exists():
        files = {"model.onnx": models()[0]}
        limits = Thresholds(max_fa_gap=0.05, max_ta_drop=None)
        key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        write_bundle(out, files, model="model.onnx", thresholds=limits, min_agreement=0.9, key=key)
    return out


@cache
def bundle_parts() -> tuple[Any, bytes, bytes]:
    """Manifest, archive and signature of a bundle."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        out = bundle(Path(name))
        archive, signature = out.with_name("bundle.tar"), out / SIGNATURE
        return json.loads((out / MANIFEST).read_bytes()), archive.read_bytes(), signature.read_bytes()


def _manifest(folder: Path, path: Path) -> None:
    out = bundle(folder)
    (out / SIGNATURE).unlink(missing_ok=True)
    (out / MANIFEST).write_bytes(path.read_bytes())
    with opened(out) as found:
        assert found.model.parent == out


def _archive(folder: Path, path: Path) -> None:
    with opened(path) as found:
        assert found.manifest.files


def _public_key(folder: Path, path: Path) -> None:
    with opened(bundle(folder), path):
        pass


def _signature(folder: Path, path: Path) -> None:
    out = bundle(folder)
    (out / SIGNATURE).write_bytes(path.read_bytes())
    with opened(out):
        pass


TAR_WORDS = (
    b"0000000\0", b"77777777777\0", b"\x80" + b"\xff" * 11, b"x", b"g", b"L", b"S", b"K", b"2", b"5",
    b"../../x\0",
    b"17 path=../../x\n", b"30 GNU.sparse.size=99999999999\n", b"9999999999 a=b\n", b"\0" * 512, b"ustar  \0",
)  # fmt: skip


def _tar(rng: random.Random) -> bytes:
    """A changed archive, mostly with header sums that are right again."""
    data = bytearray(mutated(rng, [bundle_parts()[1]], TAR_WORDS))
    for at in range(0, len(data) - 511, 512) if rng.random() < 0.8 else ():
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


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
    with suppress(QmuEdgeError):
        open_image(path, None, 0)
    open_image(path, (3, 8, 8), 8)


PARSERS: dict[str, Parser] = {
    "request": Parser(lambda folder, path: load_request(path), _json(requests), 20_000),
    "subjects": Parser(
        lambda folder, path: read_subjects(path, ["a", "b", "c"]),
        _bytes(lambda: SUBJECTS, *SUBJECT_WORDS),
        15_000,
    ),
    "recipe": Parser(_recipe, _bytes(recipes, *RECIPE_WORDS), 15_000),
    "checkpoint": Parser(
        lambda folder, path: checkpoint.loads(path.read_bytes(), "file", ModelRecipe(width=0.125)),
        _checkpoint,
        3_000,
    ),
    "model": Parser(
        lambda folder, path: latent_weight_gate(read(path)), _bytes(models, *MODEL_WORDS), 20_000
    ),
    "golden inputs": Parser(_golden, _bytes(arrays, *ARRAY_WORDS), 10_000),
    "sets": Parser(_sets, _bytes(archives, *ARRAY_WORDS), 10_000),
    "manifest": Parser(_manifest, _json(lambda: [bundle_parts()[0]]), 10_000),
    "archive": Parser(_archive, _tar, 5_000),
    "public key": Parser(
        _public_key, _bytes(lambda: [b"ab" * 32 + b"\n"], b"\xff", b"g", b"0" * 9999), 1_000
    ),
    "signature": Parser(_signature, _bytes(lambda: [bundle_parts()[2]], b"\xff", b"g", b"0" * 9999), 1_000),
    "ledger": Parser(_ledger, _bytes(ledgers, *LEDGER_WORDS), 3_000),
    "split": Parser(_split, _json(splits), 5_000),
    "envelope": Parser(_receipt, _bytes(envelopes, *JSON_WORDS), 5_000),
    "receipt": Parser(_receipt, _statement, 5_000),
    "image": Parser(_open_image, _image, 20_000, limit_mb=400),  # 40 megapixels are allowed
}
