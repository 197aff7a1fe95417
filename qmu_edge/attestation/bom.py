"""`bom.cdx.json`: a bill of materials with a model card inside, CycloneDX 1.7.

Written as plain JSON: the format is an object of fixed fields, and the same facts give the same bytes. Its
serial number is made of its content, so that two different ones never share one.

Source: CycloneDX 1.7 (ECMA-424), machine-learning-model components.
"""

import uuid
from collections.abc import Iterator
from typing import Final

from qmu_edge.attestation.facts import Erasure, Facts, File, Rounded
from qmu_edge.io.canonical import canonical

BOM: Final = "bom.cdx.json"
MODEL: Final = "model"  # how the other parts refer to it
RECEIPT: Final = "receipt.json"
USE: Final = "Classification of images on devices; a class is one of the classes that it was trained on."


def bom(facts: Facts) -> bytes:
    """The file: RFC 8785 form, the same bytes for the same facts."""
    document: dict[str, object] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "metadata": {
            **({"timestamp": facts.erasure.issued} if facts.erasure else {}),
            "lifecycles": [{"phase": "post-build"}],
            "tools": {
                "components": [{"type": "application", "name": "qmu-edge", "version": facts.version}]
            },
            "component": _model(facts),
        },
        "components": [_file(name, file) for name, file in sorted(facts.files.items())],
        "dependencies": [
            {"ref": MODEL, "dependsOn": sorted(facts.files)}, *({"ref": n} for n in sorted(facts.files)),
        ],
    }  # fmt: skip
    number = uuid.uuid5(uuid.NAMESPACE_URL, canonical(document).decode())
    return canonical({"serialNumber": f"urn:uuid:{number}", **document})


def _model(facts: Facts) -> dict[str, object]:
    done = facts.erasure
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": facts.architecture,
        "version": facts.checkpoint[:16],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "image-classification",
                "modelArchitecture": facts.architecture,
                "inputs": [{"format": "image"}],
                "outputs": [{"format": "one score for each class"}],
            },
            **({"quantitativeAnalysis": {"performanceMetrics": [*_measured(facts, done)]}} if done else {}),
            "considerations": {
                "useCases": [USE],
                **({"technicalLimitations": [*done.limits]} if done else {}),
            },
            "properties": [_property(name, value) for name, value in _properties(facts)],
        },
        **({"externalReferences": [_receipt(done)]} if done else {}),
    }  # fmt: skip


def _measured(facts: Facts, done: Erasure) -> Iterator[dict[str, object]]:
    """What is known of the file that was measured, where it is among those that are shipped."""
    if any(file.sha256 == done.measured for file in facts.files.values()):
        yield from (_metric("accuracy", name, share) for name, share in done.accuracy.items())
    for left in done.residuals:
        yield _metric("residual", f"forgotten {left['scope']}", left)


def _metric(kind: str, of: str, found: Rounded) -> dict[str, object]:
    """A figure with its interval; an end that there is not is left out."""
    ends = {"lowerBound": found["low"], "upperBound": found["high"]}
    told = {name: _text(end) for name, end in ends.items() if end is not None}
    value = {} if found["value"] is None else {"value": _text(found["value"])}
    return {"type": kind, "slice": of, **value, **({"confidenceInterval": told} if told else {})}


def _text(value: float) -> str:
    """A number as CycloneDX has it.

    >>> _text(0.98), _text(1.0)
    ('0.98', '1.00')
    """
    return f"{value:.2f}"


def _properties(facts: Facts) -> Iterator[tuple[str, str]]:
    yield from (("bits." + name, str(bits)) for name, bits in facts.bits.items())
    yield from (("checkpoint", facts.checkpoint), ("recipe", facts.recipe))
    if done := facts.erasure:
        yield from (("erasure.outcome", done.outcome), ("erasure.answer", done.answer))
        yield from (("erasure.method", done.method), ("erasure.category", done.category))
        yield "erasure.images", done.forgotten


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"qmu-edge:{name}", "value": value}


def _receipt(done: Erasure) -> dict[str, object]:
    """Where the erasure receipt lies: beside this file."""
    return {
        "type": "attestation", "url": RECEIPT, "comment": "Erasure receipt",
        "hashes": [{"alg": "SHA-256", "content": done.receipt}],
    }  # fmt: skip


def _file(name: str, file: File) -> dict[str, object]:
    return {
        "type": "file", "bom-ref": name, "name": name, "mime-type": "application/octet-stream",
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        "properties": [_property("bytes", str(file.bytes))],
    }  # fmt: skip
