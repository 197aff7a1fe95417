"""What goes into the receipt of a served request, and the one step that makes everything current.

The receipt is built from what the ledger and the stored report say, so building it again after a kill
gives the same bytes. Before it is stored a linter looks for personal data in it.
"""

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

from qmu_edge import __version__, receipt
from qmu_edge.artefacts import derived_artefacts
from qmu_edge.errors import LedgerError
from qmu_edge.project import Project
from qmu_edge.request import DeletionRequest
from qmu_edge.split import Split

LIBRARIES: Final = ("torch", "brevitas", "onnx", "onnxruntime", "numpy", "scikit-learn")


def write_receipt(
    project: Project,
    *,
    request: DeletionRequest,
    split: Split,
    method: Mapping[str, Any],
    before: str,
    release: str,
    report: Mapping[str, Any],
    completed: str,
) -> dict[str, Any]:
    """Store the receipt of a request and make its checkpoint, release and receipt current, all at once.

    Args:
        project: Open and held.
        request: What was asked.
        split: Its samples.
        method: name, category, parameters, seed.
        before: Digest of the checkpoint before.
        release: Digest of the release object.
        report: As the verified step stored it.
        completed: When the exported file was verified, RFC 3339.

    Returns:
        The receipt's digest.

    Raises:
        LedgerError: The receipt would hold personal data, or does not hold together.
    """
    made = json.loads(project.store.get_bytes(release))
    row = project.ledger.request(request.request_id)
    if row is None:
        raise LedgerError(f"request {request.request_id} is not in the ledger")
    outcome = "retrained" if method["category"] == "exact" else "unlearned"
    statement = receipt.build(
        subjects=made["files"],
        request={
            "digest": row.digest, "form": row.form, "regulation": row.regulation,
            "received": row.received, "due": row.due,
        },
        completed=completed,
        issued=completed,
        outcome=outcome,
        method=method,
        checkpoints={"before": before, "after": made["checkpoint"]},
        split={"digest": split.digest(), "counts": split.counts()},
        model={"architecture": project.recipe.model.architecture, "bits": _bits(project)},
        metrics=_metrics(report["unlearned"], made),
        reference=report["reference"],
        thresholds=report["thresholds"],
        verdict={"passed": report["verdict"]["passed"], "reasons": []},
        derived_artefacts=derived_artefacts(project, request.request_id),
        tool={"name": "qmu-edge", "version": __version__, "dependencies": _versions()},
        previous=_previous(project, row.digest),
    )  # fmt: skip
    _require_impersonal(project, request, split, statement)
    digest = project.store.put_bytes(receipt.dumps(statement))
    project.ledger.commit_release(
        request.request_id, checkpoint=made["checkpoint"], release=release, receipt=digest
    )
    project.ledger.set_outcome(request.request_id, "completed", outcome)
    return {"receipt": digest}


def _previous(project: Project, request_digest: str) -> str | None:
    """Digest of the receipt before; looks past this request's own, when a kill came after it."""
    current = project.ledger.current("receipt")
    if current is None:
        return None
    known = receipt.loads(project.store.get_bytes(current), f"receipt {current[:12]}")
    own = known["predicate"]["request"]["digest"] == request_digest
    return known["predicate"]["previous"] if own else current


def _bits(project: Project) -> dict[str, Any]:
    model = project.recipe.model
    return {
        "weights": model.weight_bits, "activations": model.activation_bits, "edges": model.edge_bits
    }  # fmt: skip


def _metrics(found: Mapping[str, Any], release: Mapping[str, Any]) -> dict[str, Any]:
    # For one forgotten image the histogram of its predictions would be the prediction itself.
    evaluation = {k: v for k, v in found["evaluation"].items() if k != "forget_predictions"}
    return {
        **found,
        "evaluation": evaluation,
        "parity": release["parity"],
        "bytes": release["bytes"],
        "latent_weights": {name: _gate(gate) for name, gate in release["gate"].items()},
    }


def _gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    """The gate's report without the names of layers: how many weights, how many float residues."""
    return {key: len(value) for key, value in gate.items() if isinstance(value, list)}


def _versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **found}


def _require_impersonal(
    project: Project, request: DeletionRequest, split: Split, statement: dict[str, Any]
) -> None:
    index = project.index
    named = [*split.forget, *split.also_erased]
    forbidden = {
        *request.subject_ids, *request.sample_ids, request.requested_by or "", request.approved_by_ref or "",
        *(index.ids[i] for i in named), *(index.subjects[i] for i in named),
    }  # fmt: skip
    finds = receipt.personal_data(statement, forbidden=forbidden - {""})
    if finds:
        raise LedgerError(f"the receipt would hold personal data: {'; '.join(finds[:3])}")
