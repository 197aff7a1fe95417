"""What goes into the receipt of a served request.

The receipt is built from what the ledger and the stored report say and signed with the key in use,
so building it again after a kill gives the same bytes. Before that a linter looks for personal data in it.
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from typing import Any, Final

from qmu_edge import __version__
from qmu_edge.errors import LedgerError
from qmu_edge.project.inventory import SENTENCES
from qmu_edge.project.project import Project
from qmu_edge.receipt import personal_data, receipt
from qmu_edge.request.resolve import Claim
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.requests import RequestRow

LIBRARIES: Final = ("torch", "brevitas", "onnx", "onnxruntime", "numpy", "scikit-learn")
REFERENCE_SEED: Final = 1  # added to the method's seed where a reference is trained
MEASURED: Final = (
    "sha256", "bytes", "seconds", "fa", "ra", "ta", "va", "mia_auc", "mean_confidence",
)  # fmt: skip


def make_receipt(
    project: Project,
    *,
    row: RequestRow,
    claim: Claim,
    split: Split,
    method: Mapping[str, Any],
    rungs: Sequence[Mapping[str, str]],
    before: str,
    release: str,
    report: Mapping[str, Any],
    completed: str,
    batch: Mapping[str, int],
    artefacts: Sequence[Mapping[str, Any]],
    previous: str | None,
) -> tuple[str, str]:
    """Store the receipt of one request. Nothing is current yet; the caller switches to all of it at once.

    Args:
        project: Open and held.
        row: The request.
        claim: Its own samples.
        split: Of the run, which may serve other requests too.
        method: name, category, parameters, seed.
        rungs: Every method that was tried for the request, in order, and what it came to.
        before: Digest of the checkpoint before.
        release: Digest of the release object.
        report: As the verified step stored it.
        completed: When the exported file was verified, RFC 3339.
        batch: requests that the run serves, and their forget samples together.
        artefacts: See `qmu_edge.project.checklist.derived_artefacts_of`.
        previous: Digest of the receipt before this one.

    Returns:
        The receipt's digest, and the outcome that it states.

    Raises:
        LedgerError: The receipt would hold personal data, or does not hold together.
    """
    made = json.loads(project.store.get_bytes(release))
    outcome = "retrained" if method["category"] == "exact" else "unlearned"
    outcome = "partial" if claim.partial else outcome
    statement = receipt.build(
        subjects=made["files"],
        request=_request(row, completed),
        batch=batch,
        completed=completed,
        issued=completed,
        outcome=outcome,
        method=method,
        rungs=rungs,
        recipe=project.recipe.digest(),
        checkpoints={"before": before, "after": made["checkpoint"]},
        split={"digest": split.digest(), "counts": {**split.counts(), **claim.counts()}},
        model={"architecture": project.recipe.model.architecture, "bits": _bits(project)},
        metrics=_metrics(report["unlearned"], made),
        reference=_reference(report["reference"], method["seed"]),
        thresholds=report["thresholds"],
        verdict=report["verdict"],
        derived_artefacts=artefacts,
        tool={"name": "qmu-edge", "version": __version__, "dependencies": _versions()},
        previous=previous,
    )  # fmt: skip
    _require_impersonal(project, row, claim, statement)
    return project.store.put_bytes(receipt.seal(statement, project.signing_key)), outcome


def _bits(project: Project) -> dict[str, Any]:
    model = project.recipe.model
    return {
        "weights": model.weight_bits, "activations": model.activation_bits, "edges": model.edge_bits
    }  # fmt: skip


def _request(row: RequestRow, completed: str) -> dict[str, Any]:
    due = row.extended or row.due
    met = datetime.fromisoformat(completed) <= datetime.fromisoformat(due) if due else None
    return {
        "digest": row.digest, "form": row.form, "regulation": row.regulation,
        "received": row.received, "due": due, "deadline_met": met,
    }  # fmt: skip


def _reference(found: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {**found, "seed": seed + REFERENCE_SEED if found["kind"] == "retrained" else None}


def _metrics(found: Mapping[str, Any], release: Mapping[str, Any]) -> dict[str, Any]:
    # Not the histogram of predictions: for one forgotten image it would be the prediction itself.
    return {
        "evaluation": {name: found["evaluation"][name] for name in MEASURED},
        "mia_efficacy": found["mia_efficacy"],
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


def _require_impersonal(project: Project, row: RequestRow, claim: Claim, statement: dict[str, Any]) -> None:
    sentences = {*receipt.LIMITS, *SENTENCES}
    finds = personal_data.find(statement, forbidden=_identifying(project, row, claim), sentences=sentences)
    if finds:
        raise LedgerError(f"the receipt would hold personal data: {'; '.join(finds[:3])}")


def _identifying(project: Project, row: RequestRow, claim: Claim) -> Iterator[str]:
    """Everything stored that names a person, a sample or a deleted class, of this request or any other."""
    index = project.samples.index
    yield from (row.request_id, row.requested_by or "", row.approved_by or "", str(project.root))
    if claim.scope in ("classes", "mixed"):
        yield from (index.class_names[i] for i in set(index.labels[claim.samples].tolist()))
    yield from index.ids
    yield from index.digests
    yield from set(index.subjects)
