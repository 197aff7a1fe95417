"""What the receipt of a fulfilled request says.

It follows from what the ledger and the stored objects say, so making it again after a kill gives the same
bytes. Before it is signed, `require_impersonal` looks for personal data in it.
"""

import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from qmu_edge import __version__
from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.plain import to_json
from qmu_edge.project.checklist import Line
from qmu_edge.project.inventory import SENTENCES
from qmu_edge.project.records import Measured, Release, Report
from qmu_edge.receipt import personal_data, statement
from qmu_edge.receipt.fields import Values, refusing
from qmu_edge.receipt.receipt import ADOPTED, LIMITS, PRETRAINED, TAKEN_OUT
from qmu_edge.receipt.statement import Method, Predicate, Rung, Statement
from qmu_edge.recipe import ModelRecipe
from qmu_edge.request.resolve import Claim
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.receipts import Standing
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.verify.residual import Residual
from qmu_edge.verify.verdict import Check

COMPUTED: Final = "computed_with"  # among the parameters of a method: what its bits depend on
BEGUN_WITH: Final = "pretrained"  # the parameter of retraining that names the weights it starts from
LIBRARIES: Final = ("torch", "brevitas", "onnx", "onnxruntime", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class FulfilledRun:
    """What the receipts of all requests that one run has fulfilled have in common.

    Attributes:
        method: The method that passed.
        rungs: Every method that was tried for the requests, in order, and what it came to.
        split: The samples of all requests together.
        before: Digest of the checkpoint before.
        release: The exported files.
        report: What was measured on them.
        completed: When they were verified, RFC 3339.
        recipe: Digest of the recipe.
        model: The recipe's network.
        ledger: How far the ledger was when the run had passed.
        unwitnessed: Further limits, of a network that was not trained here.
        packages: Versions of packages that have plugged something in.
    """

    method: Method
    rungs: Sequence[Rung]
    split: Split
    before: Sha256
    release: Release
    report: Report
    completed: str
    recipe: Sha256
    model: ModelRecipe
    ledger: Standing
    unwitnessed: Sequence[str] = ()
    packages: Mapping[str, str] = field(default_factory=dict)


def make_receipt(
    run: FulfilledRun, *, row: RequestRow, claim: Claim, artefacts: Sequence[Line], previous: Sha256 | None
) -> Statement:
    """The statement of the receipt of one request.

    Args:
        run: The run that has fulfilled it, perhaps with others.
        row: The request.
        claim: Its own samples.
        artefacts: See `qmu_edge.project.checklist.checklists`.
        previous: Digest of the receipt before this one; None for the first.

    Raises:
        LedgerError: A value has no place in a receipt.
    """
    with refusing("new receipt"):
        predicate = Predicate(
            request=_request(row, run.completed),
            batch=statement.Batch(requests=run.split.requests, forget=len(run.split.forget)),
            completed=run.completed,
            issued=run.completed,
            outcome=_outcome(run.method, claim),
            method=run.method,
            rungs=list(run.rungs),
            recipe=run.recipe,
            checkpoints=statement.Checkpoints(before=run.before, after=run.release.checkpoint),
            split=statement.Split(digest=run.split.digest(), counts={**run.split.counts(), **claim.counts()}),
            model=model_of(run.model),
            metrics=_metrics(run.report.unlearned, run.release),
            thresholds=asdict(run.report.terms.thresholds),
            verdict=_verdict(run.report),
            derived_artefacts=[statement.Artefact.of(line) for line in artefacts],
            tool=statement.Tool(name="qmu-edge", version=__version__, dependencies=_versions(run.packages)),
            limits=[*LIMITS, *run.unwitnessed, *([TAKEN_OUT] if run.release.whole else [])],
            previous=previous,
            ledger=statement.Ledger.of(run.ledger),
        )
        return Statement.about(run.release.files, predicate)


def require_impersonal(
    made: Statement | Mapping[str, object], *, row: RequestRow, claim: Claim, index: SampleIndex, root: Path,
    what: str = "release", sentences: Collection[str] = (),
) -> None:  # fmt: skip
    """Look for personal data in a receipt before it is signed, or in what is written with it or about it.

    Args:
        made: What is to be signed or stored.
        row: The request that it answers.
        claim: The samples of that request.
        index: All samples of the project.
        root: The project's folder, whose path may name a person.
        what: It is called in an error, where it is no receipt.
        sentences: Further ones that may stand in it.

    Raises:
        LedgerError: There is some; the message says where and of what kind, not what.
    """
    forbidden = _identifying(row, claim, index, root)
    finds = personal_data.find(
        made.document() if isinstance(made, Statement) else made,
        forbidden=forbidden,
        sentences={*LIMITS, ADOPTED, PRETRAINED, TAKEN_OUT, *SENTENCES, *sentences},
    )  # fmt: skip
    if finds:
        what = "receipt" if isinstance(made, Statement) else what
        raise LedgerError(f"the {what} would hold personal data: {'; '.join(finds[:3])}")


def _identifying(row: RequestRow, claim: Claim, index: SampleIndex, root: Path) -> Iterator[str]:
    """Everything stored that names a person, a sample or a deleted class, of this request or any other."""
    yield from (row.request_id, row.requested_by or "", row.approved_by or "", str(root))
    if claim.scope in ("classes", "mixed"):
        yield from (index.class_names[i] for i in set(index.labels[claim.samples].tolist()))
    yield from index.ids
    yield from index.digests
    yield from index.everybody()


def _outcome(method: Method, claim: Claim) -> Literal["unlearned", "retrained", "partial"]:
    if claim.partial:
        return "partial"
    return "retrained" if method.category == "exact" else "unlearned"


def _request(row: RequestRow, completed: str) -> statement.Request:
    due = row.extended or row.due
    met = datetime.fromisoformat(completed) <= datetime.fromisoformat(due) if due else None
    return statement.Request.model_validate(
        {
            "digest": row.digest, "form": row.form, "regulation": row.regulation,
            "received": row.received, "due": due, "deadline_met": met,
        }
    )  # fmt: skip


def model_of(recipe: ModelRecipe) -> statement.Model:
    """The network of a recipe, in the words of a receipt."""
    bits = {"weights": recipe.weight_bits, "activations": recipe.activation_bits, "edges": recipe.edge_bits}
    architecture = recipe.architecture.replace(":", ".")
    return statement.Model.model_validate({"architecture": architecture, "bits": bits})


def _metrics(measured: Measured, release: Release) -> statement.MoreMetrics:
    # There is no field for the histogram of predictions: of one forgotten image it would be the prediction.
    others = {"others": dict(measured.metrics)} if measured.metrics else {}
    return statement.MoreMetrics(
        evaluation=statement.Evaluation.of(measured.evaluation),
        mia_efficacy=to_json(measured.mia_efficacy),
        parity=to_json(release.parity),
        bytes=dict(release.sizes),
        latent_weights={name: _gate_counts(gate) for name, gate in release.gate.items()},
        **others,
    )


def _gate_counts(gate: Mapping[str, object]) -> Values:
    """The gate's report without the names of layers: how many weights, how many float residues."""
    return {key: len(value) for key, value in gate.items() if isinstance(value, list)}


def _verdict(report: Report) -> statement.Verdict:
    found, codes = report.verdict, report.codes
    return statement.Verdict.model_validate(
        {
            "answer": found.answer and found.answer.value, "passed": found.passed,
            "residuals": [_residual(r) for r in found.residuals],
            "results": [_result(check) for check in found.checks],
            "codes": {"weights": codes.weights, "changed": codes.changed} if codes else None,
        }
    )  # fmt: skip


def _residual(found: Residual) -> dict[str, object]:
    return {name: to_json(getattr(found, name)) for name in statement.Residual.model_fields}


def _result(check: Check) -> statement.EvaluationResult:
    return statement.EvaluationResult(
        metric=check.name, value=check.value, low=check.low, high=check.high, bound=check.bound.value,
        comparator="<=", threshold=check.allowed, sample_size=check.n, passed=check.passed,
    )  # fmt: skip


def _versions(packages: Mapping[str, str]) -> dict[str, str]:
    """Of Python, of the libraries that a receipt names, and of packages that have plugged something in."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {**packages, "python": platform.python_version(), **found}
