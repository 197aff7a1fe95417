"""Verify any exported file against a project's data.

A file that a receipt speaks of is measured again on that request's sets and judged against the same
reference. Any other file is measured on all data: "forget" is then everything that was ever deleted, and
the reference is data never trained on.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qmu_edge.data.index import SAMPLE_SPLITS
from qmu_edge.pipeline.evaluate import evaluate_file, evaluation_in
from qmu_edge.pipeline.unlearn_run import served_steps, thresholds_of
from qmu_edge.project.project import TRAIN, Project
from qmu_edge.queue.lifecycle import SERVED
from qmu_edge.request.split import Split, from_json
from qmu_edge.verify.check import describe
from qmu_edge.verify.evaluation import to_json
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.verdict import Reference, Verdict, held_out, judge


def check_against_project(project: Project, path: Path) -> dict[str, Any]:
    """Structure, latent-weight gate, accuracies and verdict of one file.

    Returns:
        What `python -m qmu_edge.verify` returns, with `mia_efficacy`, `request` (whose receipt names the
        file, or None) and `passed`.
    """
    file = read(path)
    result = describe(file)
    if file.is_qonnx:
        result["note"] = "a QONNX file has no operators in onnxruntime: structure and weights were checked"
        return result
    request, split, report = _request_of(project, file.sha256)
    if request is not None and report is None:
        result["note"] = f"the images deleted by {request} are purged; the receipt says what was measured"
    found = evaluate_file(project, path, split)
    verdict = _verdict(project, found, report)
    passed = verdict is None or verdict.passed
    return {**result, **found, "request": request, "verdict": to_json(verdict), "passed": passed}


def _request_of(project: Project, sha256: str) -> tuple[str | None, Split, dict[str, Any] | None]:
    """The request whose release holds the file, its split and its report."""
    for row in reversed(project.ledger.requests()):
        if row.is_open or row.outcome not in SERVED:
            continue
        steps = served_steps(project, row.request_id)
        if project.purged(steps["exported"]["release"]):
            continue
        release = json.loads(project.store.get_bytes(steps["exported"]["release"]))
        if sha256 in release["files"].values():
            if project.purged(steps["unlearned"]["split"]) or project.purged(steps["verified"]["report"]):
                return row.request_id, _everything(project), None
            split = from_json(Split, project.store.get_bytes(steps["unlearned"]["split"]))
            return (
                row.request_id,
                _still_kept(project, split),
                json.loads(project.store.get_bytes(steps["verified"]["report"])),
            )
    return None, _everything(project), None


def _still_kept(project: Project, split: Split) -> Split:
    """The same split without what later requests deleted from the parts that are kept."""
    kept = ~project.barred()
    parts = {name: getattr(split, name) for name in ("retain", "validation", "test")}
    return replace(split, **{name: part[kept[part]] for name, part in parts.items()})


def _everything(project: Project) -> Split:
    """All data: what was deleted and is not purged as forget, everything else as retain."""
    index, gone = project.index, project.barred()
    parts = [np.flatnonzero((index.splits == code) & ~gone) for code in range(len(SAMPLE_SPLITS))]
    gone[list(project.ledger.erased_images())] = False  # zeros tell nothing about anybody
    return Split(
        forget=np.flatnonzero((index.splits == TRAIN) & gone), retain=parts[0], validation=parts[1],
        test=parts[2], also_erased=np.flatnonzero((index.splits != TRAIN) & gone), scope="mixed",
        index_digest=index.digest(),
    )  # fmt: skip


def _verdict(project: Project, found: dict[str, Any], report: dict[str, Any] | None) -> Verdict | None:
    evaluation = evaluation_in(found)
    if report is not None:
        reference = Reference(**report["reference"])
        return judge(evaluation, reference, thresholds_of(project), evaluation_in(report["original"]))
    if evaluation.fa is None:
        return None  # nothing was deleted yet, so there is nothing to have forgotten
    return judge(evaluation, held_out(evaluation), thresholds_of(project))
