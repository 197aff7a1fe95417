"""Verify any exported file against a project's data.

A file that a receipt speaks of is measured again on that request's sets and judged against the same
reference. Any other file is measured on all data: "forget" is then everything that was ever deleted, and
the reference is data never trained on.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qmu_edge.data.index import SampleSplit
from qmu_edge.io.plain import to_json
from qmu_edge.pipeline.evaluate import evaluate_file, thresholds_of
from qmu_edge.pipeline.unlearn_run import fulfilled_steps
from qmu_edge.project.project import Project
from qmu_edge.project.records import Measured, Report
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import FULFILLED, Step
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.verdict import Thresholds, Verdict, held_out, judge
from qmu_edge.verify.verification import verify_structure


@dataclass(frozen=True, slots=True)
class _Released:
    """The request whose release holds a file; `split` and `report` are None when they are purged."""

    request_id: str
    split: Split | None
    report: Report | None


def check_against_project(project: Project, path: Path) -> dict[str, Any]:
    """Structure, latent-weight gate, accuracies and verdict of one file.

    Returns:
        What `python -m qmu_edge.verify` returns, with `mia_efficacy`, `request` (whose receipt names the
        file, or None) and `passed`.
    """
    file = read(path)
    result = verify_structure(file).to_json()
    if file.is_qonnx:
        result["note"] = "a QONNX file has no operators in onnxruntime: structure and weights were checked"
        return result
    ledger, policy, samples = project.ledger, project.recipe.policy, project.samples
    of = _released(ledger, project.results, project.store, file.sha256)
    if of is not None and of.report is None:
        result["note"] = (
            f"the images deleted by {of.request_id} are purged; the receipt says what was measured"
        )
    if of is not None and of.split is not None:
        split = _still_kept(of.split, samples.barred())
    else:
        split = _everything(samples, set(ledger.erased_images()))
    found = evaluate_file(path, samples, split, most=policy.evaluation_images, progress=project.progress)
    verdict = _verdict(thresholds_of(policy), found, of.report if of else None)
    return {
        **result, **found.to_json(), "request": of.request_id if of else None, "verdict": to_json(verdict),
        "passed": verdict is None or verdict.passed,
    }  # fmt: skip


def _released(ledger: Ledger, results: Results, store: ObjectStore, sha256: str) -> _Released | None:
    """The last request whose release holds the file."""
    for row in reversed(ledger.requests()):
        if row.is_open or row.outcome not in FULFILLED:
            continue
        steps = fulfilled_steps(ledger, row.request_id)
        release = steps[Step.EXPORTED].stored("release")
        if results.purged(release) or sha256 not in results.release(release).files.values():
            continue
        split, report = steps[Step.UNLEARNED].stored("split"), steps[Step.VERIFIED].stored("report")
        if results.purged(split) or results.purged(report):
            return _Released(row.request_id, None, None)
        return _Released(row.request_id, Split.parse(store.get_bytes(split)), results.report(report))
    return None


def _still_kept(split: Split, barred: np.ndarray) -> Split:
    """The same split without what later requests deleted from the sets that are kept."""
    sets = {name: getattr(split, name) for name in ("retain", "validation", "test")}
    return replace(split, **{name: positions[~barred[positions]] for name, positions in sets.items()})


def _everything(samples: ProjectSamples, erased: set[int]) -> Split:
    """All data: what was deleted and is not erased as forget, everything else as retain."""
    index, deleted = samples.index, samples.barred()
    kept = {split: np.flatnonzero(index.in_split(split) & ~deleted) for split in SampleSplit}
    deleted[list(erased)] = False  # zeros tell nothing about anybody
    train = index.in_split(SampleSplit.TRAIN)
    return Split(
        forget=np.flatnonzero(train & deleted), retain=kept[SampleSplit.TRAIN],
        validation=kept[SampleSplit.VALIDATION], test=kept[SampleSplit.TEST],
        also_erased=np.flatnonzero(~train & deleted), scope="mixed", index_digest=index.digest(),
    )  # fmt: skip


def _verdict(thresholds: Thresholds, found: Measured, report: Report | None) -> Verdict | None:
    evaluation = found.evaluation
    if report is not None:
        return judge(evaluation, report.reference, thresholds, report.original.evaluation, codes=report.codes)
    if evaluation.fa is None:
        return None  # nothing was deleted yet, so there is nothing to have forgotten
    return judge(evaluation, held_out(evaluation), thresholds)
