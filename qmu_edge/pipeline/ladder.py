"""The ladder: methods are tried from the cheapest on, until the exported file of one passes.

Each rung starts from the same checkpoint, and is judged on its own exported file. The last rung is exact
retraining. A rung whose file was judged is remembered in the ledger and not computed again: the same command
after a kill, or with a larger budget, goes on with the next one. One that made no file is tried again.
The receipt names all of them, those of earlier commands and settings too: what somebody tried until a file
passed is part of what it proves.
"""

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from qmu_edge.errors import ExportError, QmuEdgeError, UnlearnError, VerificationFailed
from qmu_edge.pipeline.unlearn_run import Detail, Run, attempt, produce
from qmu_edge.project.project import Project
from qmu_edge.queue.schedule import TRAINING_COST
from qmu_edge.recipe import RETRAIN
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.unlearn.registry import METHODS

REJECTED: Final = "rejected"  # how the steps begin that say what became of a run that did not pass
# What ends a rung and not the climb, and the word for it in the receipt.
_ENDS: Final[dict[type[QmuEdgeError], str]] = {
    VerificationFailed: "threshold_missed",
    UnlearnError: "method_failed",
    ExportError: "export_failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How to serve requests, as the caller asked.

    Attributes:
        device: Where to compute.
        method: The only method to try; the policy's rungs when None.
        budget_s: No further rung begins that many seconds after `started`, and no retraining that is
            expected to end later; None for no limit.
        started: When the command was given, on the monotonic clock.
    """

    device: torch.device
    method: str | None = None
    budget_s: float | None = None
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Climb:
    """Where a climb has ended: at a run that passed, after all that was `tried` for its requests before."""

    run: Run
    release: str
    report: Detail
    tried: list[dict[str, str]]


def climb(
    project: Project,
    rows: Sequence[RequestRow],
    split: Split,
    names: Sequence[str],
    effort: Effort,
) -> Climb:
    """Try the methods `names` in order.

    Returns:
        The first that passed; `tried` begins with the rungs of earlier commands, and ends with it.

    Raises:
        VerificationFailed: The budget is spent, or the last one missed a threshold.
        QmuEdgeError: The last one's own error.
    """
    tried: dict[str, dict[str, str]] = {}  # by the name of the run
    for name in names:
        _require_time(project, split, name, effort, list(tried.values()))
        run = attempt(project, rows, split, name, effort.device)
        try:
            release, report = produce(run)
        except tuple(_ENDS) as error:
            tried[run.name] = _rung(name, _ENDS[type(error)])
            run.step(f"{REJECTED}: {tried[run.name]['result']}", partial(dict, tried[run.name]))
            if name == names[-1]:
                raise
            project.progress.note(f"{error}; next: {names[len(tried)]}")
        else:
            tried[run.name] = _rung(name, "passed")
            return Climb(run, release, report, _distinct([*_earlier(project, rows, tried), *tried.values()]))
    raise ValueError("no method to try")


def _rung(name: str, result: str) -> dict[str, str]:
    return {"method": name, "category": METHODS[name].category, "result": result}


def _earlier(project: Project, rows: Sequence[RequestRow], tried: Container[str]) -> list[dict[str, str]]:
    """Rungs of earlier commands, but for runs that are `tried` again; all `rows` have the same."""
    steps = project.ledger.steps(rows[0].request_id)
    return [
        {key: step.detail[key] for key in ("method", "category", "result")}
        for step in steps
        if step.step.startswith(REJECTED) and step.status == "done" and step.run not in tried
    ]


def _distinct(rungs: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Each method and result once, where it came last: settings may have been many."""
    last = {tuple(rung.values()): number for number, rung in enumerate(rungs)}
    return [rungs[number] for number in sorted(last.values())]


def _require_time(
    project: Project, split: Split, name: str, effort: Effort, tried: Sequence[dict[str, str]]
) -> None:
    """Stop before a rung for which there is no time.

    Raises:
        VerificationFailed: The same command with more time goes on with this rung.
    """
    if effort.budget_s is None or not tried:
        return
    expected = _retraining_seconds(project, split) if name == RETRAIN else 0.0
    left = effort.budget_s - (time.monotonic() - effort.started)
    if left <= 0 or left < expected:
        missed = ", ".join(rung["method"] for rung in tried)
        known = f" (about {expected:.0f} s)" if expected else ""
        raise VerificationFailed(
            f"{missed} did not pass, and {max(0.0, left):.0f} s of the budget are left for {name}{known}; "
            "nothing was released, a larger --budget goes on there"
        )


def _retraining_seconds(project: Project, split: Split) -> float:
    """What training took, for as many images as are retained; 0 when it is not known."""
    known: dict[str, Any] = project.ledger.meta(TRAINING_COST) or {}
    return float(known.get("seconds", 0.0)) * len(split.retain) / max(1, int(known.get("images", 1)))
