"""Parsers of what goes to a device, with valid documents to start from: networks, arrays, bundles."""

import io
import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.export.bundle import write_bundle
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches
from qmu_edge.models.layers import Shape
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train import checkpoint
from qmu_edge.verify.arrays import read_golden, read_sets
from qmu_edge.verify.bundle import golden, read_bundle
from qmu_edge.verify.manifest import GOLDEN, MANIFEST, SIGNATURE
from qmu_edge.verify.newest import TYPE, accepted
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.verdict import Thresholds
from qmu_edge.verify.verification import verify_structure
from tests.fuzz.mutate import mutated, mutated_json
from tests.fuzz.parser import JSON_WORDS, SHA, Parser, bytes_of, json_of
from tests.verify.bundles import issued


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


def _model(folder: Path, path: Path) -> None:
    verify_structure(read(path))


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
    np.savez_compressed(
        packed, forget_images=images, forget_labels=np.arange(4), forget_people=np.arange(4),
        forget_references=np.ones(4), networks=np.array(4), intraclass=np.array(0.5), flip=np.array(1),
    )  # fmt: skip
    return [plain.getvalue(), packed.getvalue()]


ARRAY_WORDS = (
    b"(4, 1, 2, 2)", b"(99999999999, 1)", b"(4,)", b"|O", b"<U9999999", b"True", b"((" * 300, b"{", b"'" * 50,
    b"(-1, 4)", b"<f8", b"('a', 'b')", b"[('a', '<i4')]", b"1e9",
    b"\x93NUMPY\x02\x00", b"\x93NUMPY\x03\x00\xff\xff",
    b"PK\x03\x04", b"PK\x05\x06", b"-" * 4000, b"(0x7fffffffffffffff, 9)",
)  # fmt: skip


def _golden(folder: Path, path: Path) -> None:
    """As the images or as the logits, whichever it was; the others are good."""
    data, (images, logits) = path.read_bytes(), arrays()
    pair = (data, logits) if b"|u1" in data else (images, data)
    found = golden(replace(read_bundle(bundle(folder)), content=dict(zip(GOLDEN, pair, strict=True))))
    assert len(found[0]) == len(found[1])


def _sets(folder: Path, path: Path) -> None:
    if b"logits" in path.read_bytes():
        read_golden(path)
    else:
        assert all(len(s.images) == len(s.labels) for s in read_sets(path).sets.values())


# Bundles.


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex().encode() + b"\n"


def bundle(folder: Path) -> Path:
    """An unsigned bundle in a folder, and the archive beside it; made once."""
    out = folder / "bundle"
    if not out.exists():
        files = {"model.onnx": models()[0]}
        limits = Thresholds(max_residual=0.25, max_ta_drop=None)
        write_bundle(
            out, files, model="model.onnx", thresholds=limits, min_agreement=0.9, issued=issued(), key=KEY
        )
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
    found = read_bundle(out)
    assert found.content.keys() <= found.manifest.files.keys()


def _archive(folder: Path, path: Path) -> None:
    assert read_bundle(path).manifest.files


def _public_key(folder: Path, path: Path) -> None:
    read_bundle(bundle(folder), path)


def _signature(folder: Path, path: Path) -> None:
    out = bundle(folder)
    (out / SIGNATURE).write_bytes(path.read_bytes())
    read_bundle(out)


ACCEPTED = {"number": 3, "time": "2026-01-02T03:04:05Z", "type": TYPE}
TAR_WORDS = (
    b"0000000\0", b"77777777777\0", b"\x80" + b"\xff" * 11, b"x", b"g", b"L", b"S", b"K", b"2", b"5",
    b"../../x\0",
    b"17 path=../../x\n", b"30 GNU.sparse.size=99999999999\n", b"9999999999 a=b\n", b"\0" * 512, b"ustar  \0",
)  # fmt: skip


def _tar(rng: random.Random) -> bytes:
    """A changed archive, mostly with header sums that are right again."""
    data = mutated(rng, [bundle_parts()[1]], TAR_WORDS)
    return summed(data) if rng.random() < 0.8 else data


def summed(archive: bytes) -> bytes:
    """An archive whose headers have sums that are right again."""
    data = bytearray(archive)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


DEVICE_PARSERS: dict[str, Parser] = {
    "checkpoint": Parser(
        lambda folder, path: checkpoint.loads(path.read_bytes(), "file", ModelRecipe(width=0.125)),
        _checkpoint,
        3_000,
    ),
    "model": Parser(_model, bytes_of(models, *MODEL_WORDS), 20_000),
    "golden inputs": Parser(_golden, bytes_of(arrays, *ARRAY_WORDS), 10_000),
    "sets": Parser(_sets, bytes_of(archives, *ARRAY_WORDS), 10_000),
    "manifest": Parser(_manifest, json_of(lambda: [bundle_parts()[0]]), 10_000),
    "archive": Parser(_archive, _tar, 5_000),
    "accepted": Parser(lambda folder, path: accepted(path), json_of(lambda: [ACCEPTED]), 2_000),
    "public key": Parser(
        _public_key, bytes_of(lambda: [PUBLIC], b"\xff", b"g", b"0" * 9999), 1_000, strict=True
    ),
    "signature": Parser(
        _signature, bytes_of(lambda: [bundle_parts()[2]], b"\xff", b"g", b"0" * 9999), 1_000, strict=True
    ),
}
