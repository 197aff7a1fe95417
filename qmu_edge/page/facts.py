"""What a page says, as typed results: a receipt, and what else is stored about the request it answers.

Everything that a receipt says is taken from there, because it is signed. The report adds the original's
figures and what is drawn; it is None when a purge has removed it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.page.language import Real
from qmu_edge.project.audits import AttackResult
from qmu_edge.project.checklist import Line
from qmu_edge.project.records import Report, StepResult
from qmu_edge.project.results import Results
from qmu_edge.receipt import receipt
from qmu_edge.receipt.envelope import key_name
from qmu_edge.receipt.statement import Predicate, PredicateV1, PredicateV2, Statement
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow, StepRow
from qmu_edge.store.ledger.states import REJECTED, Status, Step
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.figures import Figures

_STEPS = (Step.UNLEARNED, Step.REQUANTIZED, Step.EXPORTED, Step.VERIFIED)


@dataclass(frozen=True, slots=True)
class Tried:
    """A method that was tried, and what it cost.

    Attributes:
        method: Its name.
        result: As receipts say it.
        seconds: Of all its steps together.
        peak_mb: MiB of resident memory at the highest point.
        epochs: Passes over all its images that its training is worth; None where that is not known.
    """

    method: str
    result: str
    seconds: float
    peak_mb: float
    epochs: Real | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one page says.

    Attributes:
        statement: Of the receipt.
        receipt, key: Digest of the receipt, and the name of the key that signed it.
        report: What was measured; None when it was purged.
        tried: The methods in order; the last one passed.
        now: What else was made of the data and what has become of it since the receipt; None in the page that
            is made with it.
        audits: What attacks of an audit have found; none in the page that is made with the receipt.
    """

    statement: Statement
    receipt: Sha256
    key: str
    report: Report | None
    tried: Sequence[Tried] = ()
    now: Sequence[Line] | None = None
    audits: Sequence[AttackResult] = ()

    @property
    def predicate(self) -> PredicateV1 | PredicateV2 | Predicate:
        """What the receipt says was done."""
        return self.statement.predicate

    @property
    def exact(self) -> bool:
        """Whether the network was trained anew without the data."""
        return self.predicate.method.category == "exact"

    @property
    def figures(self) -> Figures | None:
        """What plots are made of; None where the report is gone, or older than they."""
        return self.report.figures if self.report else None

    @classmethod
    def of(cls, data: bytes, report: Report | None, steps: Sequence[StepRow]) -> "Facts":
        """What is known with a receipt's bytes, its report and all steps of its request."""
        statement = receipt.loads(data, "receipt")
        return cls(
            statement=statement, receipt=sha256_of(data), key=key_name(receipt.signer(data)), report=report,
            tried=tuple(tried(steps, statement.predicate.method.name)),
        )  # fmt: skip


def stored_facts(row: RequestRow, ledger: Ledger, results: Results, store: ObjectStore) -> Facts:
    """What is stored about a request that was fulfilled.

    Raises:
        RequestError: It is open, or was closed otherwise: it has no receipt.
    """
    row.require_fulfilled("report", "a report")
    digest = ledger.receipt_of(row.request_id)
    report = ledger.report_of(digest)
    found = None if report is None or results.purged(report) else results.report(report)
    return Facts.of(store.get_bytes(digest), found, ledger.steps(row.request_id))


def tried(steps: Iterable[StepRow], passed: str) -> list[Tried]:
    """The attempts that were judged, in order.

    Args:
        steps: Of one request.
        passed: Name of the method that passed.
    """
    runs: dict[str, dict[str, StepResult]] = {}
    for step in steps:
        if step.run:
            done = StepResult.parse(step.detail) if step.status is Status.DONE else StepResult()
            runs.setdefault(step.run, {})[step.step] = done
    last = next((run for run in reversed(runs) if Step.RECEIPTED in runs[run]), None)
    found = [_rejected(of) for run, of in runs.items() if run != last]
    return [*filter(None, found), *([_cost(runs[last], passed, "passed")] if last else [])]


def _rejected(of: dict[str, StepResult]) -> Tried | None:
    """What an attempt came to that did not pass; None for one that was given up."""
    end = next((result for step, result in of.items() if step.startswith(REJECTED)), None)
    return _cost(of, end.method, end.result) if end and end.method and end.result else None


def _cost(of: dict[str, StepResult], method: str, result: str) -> Tried:
    steps = [of[step] for step in _STEPS if step in of]
    spent = next((step.spent for step in steps if step.spent), {})
    return Tried(
        method, result, sum(float(step.seconds or 0) for step in steps),
        max((float(step.peak_mb or 0) for step in steps), default=0.0), spent.get("epoch_equivalents"),
    )  # fmt: skip
