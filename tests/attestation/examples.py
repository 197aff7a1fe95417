"""A release with its receipt, as the writers of papers are given it."""

from dataclasses import replace
from typing import Any

from qmu_edge.attestation.facts import Facts, File, erasure_of
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.receipt.receipt import loads
from tests.receipt.test_receipt import EVALUATION, MODEL, SHARE, made, make, sha

FILES = {"model.onnx": MODEL, "bundle.zip": b"bundle"}


def facts(receipt: bytes | None = None) -> Facts:
    """Of a release of two files, with a receipt or without."""
    found = Facts(
        files={name: File(sha256_of(data), len(data)) for name, data in FILES.items()},
        architecture="resnet18", bits={"weights": 4, "activations": "float"},
        recipe=Sha256(sha(b"recipe")), checkpoint=Sha256(sha(b"after")), version="0.1.0",
    )  # fmt: skip
    if receipt is None:
        return found
    return replace(found, erasure=erasure_of(loads(receipt, "receipt"), sha256_of(receipt)))


def measured(n: int, **changes: Any) -> bytes:
    """A receipt whose accuracies are of so many images."""
    share = {**SHARE, "n": n}
    evaluation = {**EVALUATION, "fa": share, "ra": share, "ta": share}
    metrics = {**make()["predicate"]["metrics"], "evaluation": evaluation}
    return made(metrics=metrics, **changes)
