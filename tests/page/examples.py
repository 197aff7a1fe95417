"""Facts about a request that nobody has made: recorded receipts, a report with figures, and steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qmu_edge.io.digest import sha256_of
from qmu_edge.page.facts import Facts
from qmu_edge.project.records import Measured, Report, StepResult
from qmu_edge.store.ledger.requests import StepRow
from qmu_edge.store.ledger.states import REJECTED, Status, Step
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.figures import figures_of
from qmu_edge.verify.verdict import Terms, Verdict
from tests.verify.results import evaluation
from tests.verify.worlds import world

GOLDEN = Path(__file__).parents[1] / "pipeline/golden"
RECEIPTS = ("unlearned", "partial", "unlearned.v2", "partial.v2", "unlearned.v3", "partial.v3")
HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>&amp;"

SETS = world(np.random.default_rng(0), 120, 0.1)
FIGURES = figures_of(
    {SetName.FORGET: SETS.forget, SetName.RETAIN: SETS.retain, SetName.TEST: SETS.unseen}, people=1
)
REPORT = Report(
    unlearned=Measured(evaluation=evaluation(0.4, 0.5, auc=0.55), mia_efficacy=None),
    original=Measured(evaluation=evaluation(0.9, 0.52, auc=0.9), mia_efficacy=None),
    terms=Terms(),
    verdict=Verdict(passed=True, checks=()),
    sizes={"unlearned": {"model.onnx": 48_211}, "original": {"model.onnx": 48_311}},
    codes=CodesChanged(weights=1000, changed=17, layers={"stem.weight": 0.02, "head.weight": 0.5}),
    figures=FIGURES,
)


def step(run: str, name: str, **found: Any) -> StepRow:
    """A finished step of an attempt."""
    detail = StepResult(**found).to_json()
    return StepRow(0, "r", run, name, Status.DONE, "2026-11-21T14:00:00Z", "2026-11-21T14:01:00Z", detail)


STEPS = (
    step("", Step.RESOLVED),
    step("a", Step.UNLEARNED, seconds=2.0, peak_mb=300.0, spent={"epoch_equivalents": 1.5}),
    step("a", Step.VERIFIED, seconds=1.0, peak_mb=400.0),
    step("a", f"{REJECTED}: threshold_missed", method="finetune", category="approximate",
         result="threshold_missed"),
    step("given up", Step.UNLEARNED, seconds=9.0),
    step("b", Step.UNLEARNED, seconds=70.0, peak_mb=900.0, spent={"epoch_equivalents": 18.0}),
    step("b", Step.VERIFIED, seconds=5.0, peak_mb=100.0),
    step("b", Step.RECEIPTED, receipts=1, page=sha256_of(b"page")),
)  # fmt: skip


def facts(name: str = "unlearned.v3", report: Report | None = REPORT, **changes: Any) -> Facts:
    """What is known with a recorded receipt."""
    data = (GOLDEN / f"{name}.json").read_bytes()
    return replace(Facts.of(data, report, STEPS), **changes)
