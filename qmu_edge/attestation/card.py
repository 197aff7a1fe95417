"""`README.md`: a model card as model hubs show it, YAML fields above and text below.

The YAML is written by hand: every value is JSON, which is YAML too, so nothing in it can be taken for
anything else.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from qmu_edge.attestation.facts import Erasure, Facts, Rounded
from qmu_edge.receipt.share import told_apart

CARD: Final = "README.md"
ANSWERS: Final = {
    "forgotten": "What the exported file still knows of the images is within the limit that was set for it.",
    "retrained": "The network was trained again without the images.",
    "not_measurable": "Nothing can be said of what is left: the network before could not be told from one "
    "that never saw the images.",
}  # fmt: skip
_TAGS: Final = ("onnx", "quantized", "machine-unlearning", "edge")
_OLDER: Final = "See the receipt."
_VERIFY: Final = """\
## How to verify it

`model.sig` is an OpenSSF model signature over the files of this folder:

    model_signing verify key --signature model.sig --public_key KEY.pem .

`receipt.json` and `test-result.json`, where they are here, are signed in-toto statements, `bom.cdx.json` is a
bill of materials (CycloneDX). Take the public keys from whoever made this release, never from this folder.
"""


def card(facts: Facts) -> bytes:
    """The file: the same bytes for the same facts."""
    done = facts.erasure
    parts = [
        "---", *(f"{name}: {json.dumps(value)}" for name, value in _fields(facts)), "---",
        f"# {facts.architecture}, quantized", "",
        "An image classifier for devices, exported to ONNX.", "",
        *_table(("", ""), _model(facts)), "",
        *_table(("file", "bytes", "SHA-256"), _files(facts)), "",
        *(_deletion(done) if done else ["No receipt of a deletion covers these files.", ""]),
        _VERIFY,
    ]  # fmt: skip
    return "\n".join(parts).encode()


def _fields(facts: Facts) -> Iterator[tuple[str, Any]]:
    yield "library_name", "onnx"
    yield "pipeline_tag", "image-classification"
    yield "tags", [*_TAGS]
    accuracy = facts.erasure.accuracy if facts.erasure and _is_measured(facts, facts.erasure) else {}
    metrics = [
        {"type": "accuracy", "name": f"accuracy on {name} images", "value": round(share["value"], 4)}
        for name, share in accuracy.items()
        if name in ("test", "validation") and share["value"] is not None
    ]
    if metrics:
        task = {"type": "image-classification"}
        dataset = {"type": "private", "name": "the operator's own images"}
        results = [{"task": task, "dataset": dataset, "metrics": metrics}]
        yield "model-index", [{"name": facts.architecture, "results": results}]


def _is_measured(facts: Facts, done: Erasure) -> bool:
    return any(file.sha256 == done.measured for file in facts.files.values())


def _model(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "architecture", facts.architecture
    yield from ((f"bits of {name}", str(bits)) for name, bits in facts.bits.items())
    yield "checkpoint", f"`{facts.checkpoint}`"
    yield "recipe", f"`{facts.recipe}`"
    yield "made by", f"qmu-edge {facts.version}"


def _files(facts: Facts) -> Iterator[tuple[str, str, str]]:
    for name, file in sorted(facts.files.items()):
        yield f"`{name}`", f"{file.bytes:,}", f"`{file.sha256}`"


def _deletion(done: Erasure) -> Iterator[str]:
    """What was deleted, what is left, and what that does not prove."""
    yield from ("## What was deleted", "", ANSWERS.get(done.answer, _OLDER), "")
    yield from _table(
        ("", ""),
        [
            ("images", done.forgotten), ("outcome", done.outcome),
            ("method", f"{done.method}, {done.category}"), ("issued", done.issued),
            ("receipt", f"`{done.receipt}`"),
        ],
    )  # fmt: skip
    rows = [(f"accuracy, {name} images", *_interval(share, 95)) for name, share in done.accuracy.items()]
    rows += [(f"left of forgotten {left['scope']}", *_interval(left, 90)) for left in done.residuals]
    if rows:
        yield from ("", *_table(("measured on the exported file", "value", "interval"), rows))
    yield from ("", "## Limits", "", *(f"- {limit}" for limit in done.limits), "")


def _interval(found: Rounded, level: int) -> tuple[str, str]:
    """A share and its interval in percent; of what is left, 5 % lie beyond either end, which makes 90."""
    value, interval = told_apart(found["value"], found["low"], found["high"])
    return value, f"{interval} ({level} %)" if interval else "none"


def _table(head: Sequence[str], rows: "Iterator[Any] | Sequence[Any]") -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
