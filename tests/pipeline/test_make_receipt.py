"""The same facts and the same key make the same receipt, byte for byte, as they did when it was recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.plain import to_json
from qmu_edge.pipeline.make_receipt import FulfilledRun, make_receipt, require_impersonal
from qmu_edge.project.checklist import Line
from qmu_edge.project.needs import CURRENT
from qmu_edge.project.records import Measured, Release, Report
from qmu_edge.receipt.receipt import ADOPTED, LIMITS, PRETRAINED, loads, sign
from qmu_edge.receipt.statement import Method, PredicateV1, PredicateV2, Rung, Statement
from qmu_edge.receipt.verify import verify
from qmu_edge.recipe import ModelRecipe
from qmu_edge.request.resolve import Claim
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.receipts import Standing
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import State
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.evaluation import Accuracy, Evaluation, SetName
from qmu_edge.verify.mia import Auc
from qmu_edge.verify.residual import Residual, Scope
from qmu_edge.verify.verdict import (
    RESIDUAL,
    UNCHANGED,
    Answer,
    Bound,
    Check,
    Terms,
    Thresholds,
    Verdict,
)

GOLDEN = Path(__file__).parent / "golden"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def sha(text: str) -> Sha256:
    return sha256_of(text.encode())


INDEX = SampleIndex.of(
    ids=[f"img-{i:04d}" for i in range(10)],
    digests=[sha(f"image {i}") for i in range(10)],
    labels=np.arange(10) % 3,
    splits=np.array([0] * 6 + [1, 1, 2, 2], np.int8),
    subjects=[sha(f"subject {i % 4}") for i in range(10)],
    class_names=["cat", "dog", "hen"],
)
CLAIM = Claim(
    forget=np.array([1, 3]),
    also_erased=np.array([7]),
    scope="subjects",
    index_digest=INDEX.digest(),
    copies=1,
)
SPLIT = Split(
    forget=np.array([1, 3, 4]), retain=np.array([0, 2, 5]), validation=np.array([6]), test=np.array([8, 9]),
    also_erased=np.array([7]), scope="subjects", index_digest=INDEX.digest(), requests=2, copies=2,
    duplicates_retained=1,
)  # fmt: skip
ROW = RequestRow(
    seq=1, request_id="a7551968-d5d6-44b2-9831-815ac9017798", digest=sha("request"), form="opendsr",
    regulation="gdpr", received="2026-11-02T15:04:11Z", due="2026-12-02T15:04:11Z", extended=None,
    requested_by="ticket-88", approved_by=None, state=State.UNLEARNING, outcome=None, reason=None,
)  # fmt: skip
RELEASE = Release(
    checkpoint=sha("after"),
    files={"model.onnx": sha("model"), "model.packed.onnx": sha("packed")},
    sizes={"model.onnx": 48_211, "model.packed.onnx": 31_007},
    parity={"integer": {"n": 1000, "agreement": 1.0, "max_abs_difference": -0.0, "share": 3e-7}},
    levels={"integer": {"conv1": 1}},
    gate={"integer": {"weights": ["conv1", "conv2", "fc"], "problems": [], "checked": 3}},
)
MEASURED = Measured(
    evaluation=Evaluation(
        sha256=sha("model"), bytes=48_211, seconds=2.0, fa=Accuracy(1 / 3, 3, 0.06, 0.79),
        ra=Accuracy(1.0, 3, 0.44, 1.0), ta=Accuracy(0.5, 2, 0.09, 0.91), va=None,
        mia_auc=Auc(0.52, 0.1, 0.9), forget_predictions=(1, 1, 1),
        mean_confidence={SetName.FORGET: 0.31, SetName.RETAIN: 1e-21},
    ),
    mia_efficacy={"mean": 0.25, "deviation": 0.0, "draws": 5},  # type: ignore[arg-type]  # as it was recorded
)  # fmt: skip
CODES = CodesChanged(weights=1000, changed=17, layers={"conv1": 0.1})
CHECKS = (
    Check("ta_drop", 1 / 30, 0.02, True, -0.06, 0.12, Bound.LOW, 2),
    Check(RESIDUAL, 0.1, 0.25, True, -0.05, 0.2, Bound.HIGH, 3),
    Check(UNCHANGED, CODES.unchanged, CODES.most_unchanged, True, n=1000),
)
LEFT = Residual(
    scope=Scope.SAMPLES, value=0.1, low=-0.05, high=0.2, n=3, effective=2.5, references=4, excess_before=1.5,
    excess=0.15, detected=True, present=False, power=0.75,
)  # fmt: skip
REPORT = Report(
    unlearned=MEASURED, original=MEASURED, terms=Terms(thresholds=Thresholds(max_ra_drop=None), references=4),
    verdict=Verdict(passed=True, checks=CHECKS, answer=Answer.FORGOTTEN, residuals=(LEFT,)),
    sizes={"unlearned": {"model.onnx": 48_211}, "original": {"model.onnx": 48_311}}, codes=CODES,
)  # fmt: skip
RETRAINED = replace(
    REPORT, terms=replace(REPORT.terms, exact=True),
    verdict=Verdict(passed=True, checks=(CHECKS[0], CHECKS[2]), answer=Answer.RETRAINED),
)  # fmt: skip
PARAMETERS: dict[str, Any] = {
    "alpha": 10.0,
    "lambda": 1,
    "layers": ["conv1", "fc"],
    "train": {"epochs": 3, "lr": 1e-3},
}
RUN = FulfilledRun(
    method=Method(name="ssd", category="approximate", parameters=PARAMETERS, seed=7),
    rungs=[
        Rung(method="finetune", category="approximate", result="threshold_missed"),
        Rung(method="ssd", category="approximate", result="passed"),
    ],
    split=SPLIT,
    before=sha("before"),
    release=RELEASE,
    report=REPORT,
    completed="2026-11-21T14:37:00.265+00:00",
    recipe=sha("recipe"),
    model=ModelRecipe(architecture="resnet18", weight_bits=4, activation_bits="float", edge_bits=8),
    ledger=Standing(events=40, head=sha("event 40"), tombstones=15),
)
ARTEFACTS = [Line("checkpoint", 2, 9_000, "present"), Line("checkpoint", 1, 4_500, f"kept: {CURRENT}")]


def made(**changes: Any) -> Statement:
    """The receipt of `ROW`, with changed arguments."""
    arguments: dict[str, Any] = {"row": ROW, "claim": CLAIM, "artefacts": ARTEFACTS, "previous": None}
    return make_receipt(changes.pop("run", RUN), **{**arguments, **changes})


@pytest.fixture(autouse=True)
def versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipts were recorded on these."""
    monkeypatch.setattr(
        "qmu_edge.pipeline.make_receipt._versions", lambda _: {"python": "3.11.7", "torch": "2.11.0+cpu"}
    )
    monkeypatch.setattr("qmu_edge.pipeline.make_receipt.__version__", "0.1.0")


def test_a_receipt_has_the_bytes_that_were_recorded() -> None:
    assert sign(made(), KEY) == (GOLDEN / "unlearned.v3.json").read_bytes()


def test_a_network_that_was_not_trained_here_is_one_more_limit() -> None:
    limits = [ADOPTED, PRETRAINED]
    statement = made(run=replace(RUN, unwitnessed=limits))
    assert statement.predicate.limits == [*LIMITS, *limits]
    require_impersonal(statement, row=ROW, claim=CLAIM, index=INDEX, root=Path("/srv/anna"))


OLDER = {
    "unlearned": PredicateV1,
    "partial": PredicateV1,
    "unlearned.v2": PredicateV2,
    "partial.v2": PredicateV2,
}


@pytest.mark.parametrize("name", OLDER)
def test_those_of_older_versions_are_read_as_they_were_written(name: str) -> None:
    data = (GOLDEN / f"{name}.json").read_bytes()
    statement = loads(data, name)
    assert type(statement.predicate) is OLDER[name] and statement.predicate.verdict.passed
    assert sign(statement, KEY) == data


def test_a_receipt_says_what_the_report_says_of_what_is_left() -> None:
    verdict = made().document()["predicate"]["verdict"]
    assert (verdict["answer"], verdict["passed"]) == ("forgotten", True)
    assert verdict["codes"] == {"weights": 1000, "changed": 17}
    (left,) = verdict["residuals"]
    assert left == {name: to_json(getattr(LEFT, name)) for name in left} and len(left) == 9
    for result, check in zip(verdict["results"], CHECKS, strict=True):
        assert result == {
            "metric": check.name, "value": check.value, "low": check.low, "high": check.high,
            "bound": check.bound, "comparator": "<=", "threshold": check.allowed, "sample_size": check.n,
            "passed": True,
        }  # fmt: skip
    verify(sign(made(), KEY), files={})


def test_so_has_one_of_a_partial_request_without_a_deadline() -> None:
    exact = Method(name="retrain", category="exact", parameters=PARAMETERS, seed=7)
    statement = made(
        run=replace(RUN, method=exact, report=RETRAINED),
        row=replace(ROW, form="research", regulation=None, due=None),
        claim=replace(CLAIM, partial=True),
        previous=sha("previous"),
    )
    assert sign(statement, KEY) == (GOLDEN / "partial.v3.json").read_bytes()


def test_an_exact_method_retrains_and_a_deadline_can_be_missed() -> None:
    exact = Method(name="retrain", category="exact", parameters={}, seed=7)
    statement = made(
        run=replace(RUN, method=exact, report=RETRAINED), row=replace(ROW, due="2026-11-21T14:37:00Z")
    )
    assert statement.predicate.outcome == "retrained"
    assert statement.predicate.request.deadline_met is False
    extended = made(row=replace(ROW, due="2026-11-21T14:37:00Z", extended="2027-01-21T14:37:00Z"))
    assert extended.predicate.request.due == "2027-01-21T14:37:00Z"
    assert extended.predicate.request.deadline_met is True


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"previous": "no digest"}, r"previous: .*pattern"),
        ({"row": replace(ROW, form="by telephone")}, r"form: .*'opendsr' or 'research'"),
        ({"artefacts": [Line("checkpoint", -1, 0, "present")]}, r"count: .*greater than or equal to 0"),
        ({"run": replace(RUN, report=replace(REPORT, codes=None))}, r"codes: .*Codes"),
        ({"run": replace(RUN, recipe=Sha256(""))}, r"recipe: .*pattern"),
        ({"run": replace(RUN, release=replace(RELEASE, files={}))}, r"subject: .*at least 1"),
    ],
)
def test_what_has_no_place_in_a_receipt_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LedgerError, match=f"^new receipt: not a receipt: .*{said}"):
        made(**changes)


@pytest.mark.parametrize(
    "person", [INDEX.ids[4], INDEX.digests[4], INDEX.subjects[0], "ticket-88", ROW.request_id, "ana"]
)
def test_a_receipt_that_names_somebody_is_not_for_signing(
    person: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmu_edge.pipeline.make_receipt._versions", lambda _: {"torch": person})
    found: dict[str, Any] = {"row": ROW, "claim": CLAIM, "index": INDEX, "root": Path("ana")}
    with pytest.raises(
        LedgerError, match=r"personal data: \$\.predicate\.tool\.dependencies\.torch"
    ) as caught:
        require_impersonal(made(), **found)
    assert person not in str(caught.value)


def test_a_class_is_named_only_by_requests_that_do_not_delete_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmu_edge.pipeline.make_receipt._versions", lambda _: {"torch": "dog"})
    require_impersonal(made(), row=ROW, claim=CLAIM, index=INDEX, root=Path("/srv"))
    with pytest.raises(LedgerError, match="a forbidden text"):
        require_impersonal(
            made(), row=ROW, claim=replace(CLAIM, scope="classes"), index=INDEX, root=Path("/srv")
        )
