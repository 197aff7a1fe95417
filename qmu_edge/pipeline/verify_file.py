"""Verify any exported file against a project's data.

A file that a receipt speaks of is measured again on that request's sets and judged by the same evidence. Any
other file is measured on all data, without a verdict: "forget" is then everything that was ever deleted.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.io.plain import to_json
from qmu_edge.pipeline.evaluate import Seen, evaluate_file, positions_of, thresholds_of
from qmu_edge.pipeline.evidence import MAX_BYTES, Evidence
from qmu_edge.pipeline.unlearn_run import fulfilled_steps
from qmu_edge.project.project import Project
from qmu_edge.project.records import Report
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import FULFILLED, Step
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.verdict import Verdict, judge
from qmu_edge.verify.verification import verify_structure


@dataclass(frozen=True, slots=True)
class _Released:
    """The request whose release holds a file; its report and evidence are None when they are purged."""

    request_id: str
    report: Report | None
    evidence: Evidence | None


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
    samples, recipe = project.samples, project.recipe
    of, barred = _released(project.ledger, project.results, project.store, file.sha256), samples.barred()
    if of is None:
        result["note"] = "no receipt names this file: it is measured, not judged"
    elif of.report is None or of.evidence is None:
        result["note"] = (
            f"the images deleted by {of.request_id} are purged; the receipt says what was measured"
        )
    if of is not None and of.evidence is not None:
        positions = of.evidence.positions(barred)
    else:
        split = _everything(samples, set(project.ledger.erased_images()))
        positions = positions_of(split, most=recipe.policy.evaluation_images)
    found, seen = evaluate_file(path, samples, positions, flip=recipe.data.flip, progress=project.progress)
    verdict = _verdict(of, seen, samples.index, barred, recipe.policy) if of else None
    return {
        **result, **found.to_json(), "request": of.request_id if of else None,
        "verdict": to_json(verdict) if verdict else None, "passed": verdict is None or verdict.passed,
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
        verified = steps[Step.VERIFIED]
        report, evidence = verified.stored("report"), verified.evidence
        if results.purged(report) or evidence is None or results.purged(evidence):
            return _Released(row.request_id, None, None)
        return _Released(
            row.request_id, results.report(report), Evidence.parse(store.get_bytes(evidence, limit=MAX_BYTES))
        )
    return None


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


def _verdict(
    of: _Released, seen: Seen, index: SampleIndex, barred: NDArray[np.bool_], policy: PolicyRecipe
) -> Verdict | None:
    """The same verdict again, by what the policy allows now; None where its evidence is gone."""
    if of.report is None or of.evidence is None:
        return None
    terms = replace(
        of.report.terms, thresholds=thresholds_of(policy),
        release_unmeasurable=policy.when_not_measurable == "release",
    )  # fmt: skip
    return judge(of.evidence.compared(seen, index, barred), terms, codes=of.report.codes)
