"""The examples in the README files: readers written from the specifications read what the product writes."""

import dataclasses
import hashlib
import json
import sqlite3
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmu_edge.export.bundle import write_bundle
from qmu_edge.io.plain import to_json
from qmu_edge.models.layers import Classifier
from qmu_edge.receipt.envelope import read_public_key, sign
from qmu_edge.recipe import parse_recipe
from qmu_edge.request.document import parse_request
from qmu_edge.store.encrypted import EncryptedStore
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.objects import ObjectStore
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.fit import predict
from qmu_edge.verify.evaluation import Labelled, SetName
from qmu_edge.verify.verdict import Thresholds
from tests.test_documentation import ROOT, blocks
from tests.verify.bundles import issued
from tests.verify.files import qcdq, write_sets

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


def example(room: str, number: int = 0) -> Any:
    """The n-th Python block of a folder's page, as a module."""
    module = ModuleType(f"example_{number}")
    exec(compile(blocks(ROOT / room, "python")[number], room, "exec"), module.__dict__)
    return module


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("number", [0, 1])
def test_requests_of_the_specification_are_read(number: int) -> None:
    request = parse_request(
        blocks(ROOT / "qmu_edge/request/README.md", "json")[number].encode(), source="page"
    )
    assert request.form == ("opendsr", "research")[number]
    assert request.subject_ids == ("c-10492", "writer-7")[number : number + 1]


@pytest.mark.parametrize("page", [page for page in ROOT.glob("qmu_edge/*/README.md") if blocks(page, "toml")])
def test_recipes_are_read(page: Path) -> None:
    for text in blocks(page, "toml"):
        assert parse_recipe(text, "page").unlearn.keys() == tomllib.loads(text).get("unlearn", {}).keys()


@pytest.mark.parametrize("path", sorted((ROOT / "tests/receipt/golden").glob("*.json")), ids=lambda p: p.stem)
def test_receipts_of_all_versions_are_read_by_the_example(path: Path) -> None:
    read = example("qmu_edge/receipt/README.md").statement_of
    trusted = {read_public_key(path.with_suffix(".pem")).hex()}
    version = path.name.split("-")[0].removeprefix("receipt.")
    assert read(path.read_bytes(), trusted, {})["predicateType"] == f"urn:qmu-edge:erasure-receipt:{version}"


def test_example_refuses_receipts_that_do_not_hold() -> None:
    read, model = example("qmu_edge/receipt/README.md").statement_of, b"model"
    subject = {"name": "model.onnx", "digest": {"sha256": hashlib.sha256(model).hexdigest()}}
    receipt = sign(json.dumps({"subject": [subject]}).encode(), KEY)
    assert read(receipt, {PUBLIC.hex()}, {"model.onnx": model})["subject"] == [subject]
    with pytest.raises(ValueError, match="not trusted"):
        read(receipt, {bytes(32).hex()}, {})
    with pytest.raises(ValueError, match="not a file of this receipt"):
        read(receipt, {PUBLIC.hex()}, {"model.onnx": b"another"})
    with pytest.raises(ValueError, match="not in its one form"):
        read(receipt + b"\n", {PUBLIC.hex()}, {})
    forged = json.loads(sign(json.dumps({"subject": []}).encode(), KEY))
    forged["signatures"][0]["sig"] = json.loads(receipt)["signatures"][0]["sig"]
    with pytest.raises(InvalidSignature):
        read(json.dumps(forged, sort_keys=True, separators=(",", ":")).encode(), {PUBLIC.hex()}, {})


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_objects_are_read_by_the_example(size: int, tmp_path: Path) -> None:
    read, data = example("qmu_edge/store/README.md").content, np.random.default_rng(0).bytes(size)
    digest = ObjectStore(tmp_path / "plain/objects").put_bytes(data)
    store = EncryptedStore(
        tmp_path / "encrypted/objects", tmp_path / "encrypted/keys/objects", encrypting=True
    )
    assert store.put_bytes(data) == digest
    assert read(tmp_path / "plain", digest) == read(tmp_path / "encrypted", digest) == data
    path = store.path(digest)
    path.chmod(0o600)
    path.write_bytes(flipped(path.read_bytes(), len(path.read_bytes()) - 1))
    with pytest.raises(InvalidTag):
        read(tmp_path / "encrypted", digest)


def test_chain_is_read_by_the_example(tmp_path: Path) -> None:
    path, read = tmp_path / "ledger.db", example("qmu_edge/store/README.md", 1).last_hash
    with Ledger.create(path) as ledger:
        assert read(path) == "0" * 64
        for number in range(3):
            ledger.set_meta("a fixed word", {"value": number / 3})
        assert read(path) == ledger.head()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER events_stay")
        db.execute("UPDATE events SET what = 'other' WHERE seq = 2")
        db.commit()
    with pytest.raises(ValueError, match="event 2 does not hold"):
        read(path)


def test_bundles_are_read_by_the_example(tmp_path: Path) -> None:
    out, read = tmp_path / "device", example("qmu_edge/verify/README.md").manifest_of
    limits = Thresholds(max_residual=0.25, max_ta_drop=None, max_ra_drop=None)
    files = {"model.onnx": qcdq().SerializeToString()}
    written = write_bundle(
        out, files, model="model.onnx", thresholds=limits, min_agreement=0.999, issued=issued(), key=KEY
    )
    assert read(out, PUBLIC) == to_json(written)
    with pytest.raises(InvalidSignature):
        read(out, Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    model = out / "model.onnx"
    model.write_bytes(flipped(model.read_bytes(), 0))
    with pytest.raises(ValueError, match=r"model\.onnx is another file"):
        read(out, PUBLIC)
    (out / "more.txt").touch()
    with pytest.raises(ValueError, match="not the files of a bundle"):
        read(out, PUBLIC)


def test_a_file_is_judged_by_the_example(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(qcdq().SerializeToString())
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), np.uint8)
    labels = np.arange(40) % 3
    answer, whole = example("qmu_edge/verify/README.md", 1).answer, Labelled(images, labels)
    data = write_sets(tmp_path / "sets.npz", dict.fromkeys((SetName.FORGET, SetName.TEST), whole))
    assert answer(model, data, model) == "not_measurable"  # there are no references
    assert answer(model, write_sets(tmp_path / "few.npz", {SetName.TEST: whole}), model) == ""


def test_the_method_of_the_walk_through_unlearns(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    method = example(".github/CONTRIBUTING.md").METHOD
    everything, model = toy(12), network()
    data = ForgetRetain(
        forget=everything.take(torch.arange(4)), retain=everything.take(torch.arange(4, 12)),
        validation=toy(6, seed=1), augment=Augment(pad=1),
    )  # fmt: skip
    statistics = {n: b.clone() for n, b in model.named_buffers() if "running_" in n}
    before = cross_entropy_to_uniform(model, data.forget)
    params = dataclasses.replace(method.params(), lr=0.05, batch=4)
    changed = method.run(model, data, params, torch.Generator().manual_seed(0)).eval()
    assert cross_entropy_to_uniform(changed, data.forget) < before
    assert all(torch.equal(b, statistics[n]) for n, b in changed.named_buffers() if n in statistics)


def cross_entropy_to_uniform(model: Classifier, samples: Samples) -> float:
    return float(-predict(model, samples).log_softmax(1).mean())
