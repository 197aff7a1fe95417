"""The ladder: methods are tried from the cheapest on, until the exported file of one passes.

Each rung starts from the same checkpoint, and is judged on its own exported file. The last rung is exact
retraining. A rung whose file was judged is remembered in the ledger and not computed again: the same command
after a kill, or with a larger budget, goes on with the next one. One that made no file is tried again.
The receipt names all of them, those of earlier commands and settings too: what somebody tried until a file
passed is part of what it proves.
"""

import time
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import torch

from qmu_edge.errors import (
    ExportError,
    IntegrityError,
    NotMeasurable,
    QmuEdgeError,
    UnlearnError,
    VerificationFailed,
)
from qmu_edge.io.digest import Sha256
from qmu_edge.pipeline.unlearn_run import Run, attempt, produce
from qmu_edge.project.project import Project
from qmu_edge.project.records import Report, StepResult
from qmu_edge.queue.cost import Costs
from qmu_edge.queue.schedule import Plan
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow, StepRow
from qmu_edge.store.ledger.states import REJECTED, Status
from qmu_edge.unlearn import registry

# What ends a rung and not the climb, and the word for it in the receipt.
_ENDS: Final[dict[type[QmuEdgeError], str]] = {
    VerificationFailed: "threshold_missed",
    NotMeasurable: "not_measurable",
    UnlearnError: "method_failed",
    ExportError: "export_failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How to fulfil requests, as the caller asked.

    Attributes:
        device: Where to compute.
        method: The only method to try; the policy's rungs when None.
        budget_s: No further rung begins that many seconds after `started`, nor one that is expected to end
            later; None for no limit.
        started: When the command was given, on the monotonic clock.
    """

    device: torch.device
    method: str | None = None
    budget_s: float | None = None
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Rung:
    """A method that was tried: "exact" or "approximate", and what came of it, as receipts say it."""

    method: str
    category: str
    result: str

    @classmethod
    def of(cls, method: str, result: str) -> "Rung":
        """The rung of a registered method."""
        return cls(method, registry.method(method).category, result)

    @classmethod
    def parse(cls, step: StepRow) -> "Rung":
        """What `as_step` made.

        Raises:
            IntegrityError: It made something else.
        """
        found = StepResult.parse(step.detail)
        if found.method is None or found.category is None or found.result is None:
            raise IntegrityError(f"the ledger's step {step.step}: no method, category or result")
        return cls(found.method, found.category, found.result)

    def as_step(self) -> StepResult:
        """How the ledger keeps it."""
        return StepResult(**asdict(self))


@dataclass(frozen=True, slots=True)
class Climb:
    """Where a climb has ended: at a run that passed, after all that was `tried` for its requests before."""

    run: Run
    release: Sha256
    report: Report
    tried: list[Rung]


def climb(
    project: Project,
    rows: Sequence[RequestRow],
    plan: Plan,
    effort: Effort,
) -> Climb:
    """Try the methods of a plan in order.

    Returns:
        The first that passed; `tried` begins with the rungs of earlier commands, and ends with it.

    Raises:
        VerificationFailed: The budget is spent, or the last one missed a threshold.
        QmuEdgeError: The last one's own error.
    """
    tried: dict[str, Rung] = {}  # by the name of the run
    names = plan.rungs
    for name in names:
        _require_time(plan.expected, name, effort, list(tried.values()))
        run = attempt(project, rows, plan.split, name, effort.device)
        try:
            release, report = produce(run)
        except tuple(_ENDS) as error:
            tried[run.name] = rung = Rung.of(name, _ENDS[type(error)])
            run.step(f"{REJECTED}: {rung.result}", rung.as_step)
            if name == names[-1]:
                raise
            project.progress.note(f"{error}; next: {names[len(tried)]}")
        else:
            tried[run.name] = Rung.of(name, "passed")
            earlier = _earlier(project.ledger, rows, tried)
            return Climb(run, release, report, _distinct([*earlier, *tried.values()]))
    raise ValueError("no method to try")


def _earlier(ledger: Ledger, rows: Sequence[RequestRow], tried: Container[str]) -> list[Rung]:
    """Rungs of earlier commands, but for runs that are `tried` again; all `rows` have the same."""
    return [
        Rung.parse(step)
        for step in ledger.steps(rows[0].request_id)
        if step.step.startswith(REJECTED) and step.status is Status.DONE and step.run not in tried
    ]


def _distinct(rungs: Sequence[Rung]) -> list[Rung]:
    """Each method and result once, where it came last: settings may have been many."""
    last = {rung: number for number, rung in enumerate(rungs)}
    return [rungs[number] for number in sorted(last.values())]


def _require_time(costs: Costs, name: str, effort: Effort, tried: Sequence[Rung]) -> None:
    """Stop before a rung for which there is no time.

    Raises:
        VerificationFailed: The same command with more time goes on with this rung.
    """
    if effort.budget_s is None or not tried:
        return
    expected = costs.seconds(name) or 0.0
    left = effort.budget_s - (time.monotonic() - effort.started)
    if left <= 0 or left < expected:
        missed = ", ".join(rung.method for rung in tried)
        known = f" (about {expected:.0f} s)" if expected else ""
        raise VerificationFailed(
            f"{missed} did not pass, and {max(0.0, left):.0f} s of the budget are left for {name}{known}; "
            "nothing was released, a larger --budget goes on there"
        )
