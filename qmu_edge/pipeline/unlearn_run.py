"""One run, from samples to a judged release, as steps in the ledger.

    unlearned   the method ran on everything minus all requests so far; latent weights stored
    requantized batch-norm statistics and activation grids from retain data only
    exported    files made, gates passed
    verified    the exported file measured and judged

Each step stores its result under its digest before it is marked done, and a step that is done is not done
again: the same command after a kill goes on where it stopped. A run may serve many requests. Its steps then
stand in the ledger once for each of them, written in one transaction, so they never differ. What comes
before and after these steps is in `qmu_edge.pipeline.fulfil`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from qmu_edge.errors import IntegrityError, NotMeasurable, QmuEdgeError, VerificationFailed
from qmu_edge.export.targets import Format
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.plain import to_json
from qmu_edge.machine.cost import measured_cost
from qmu_edge.pipeline.circumstances import circumstances
from qmu_edge.pipeline.comparison import Comparison
from qmu_edge.pipeline.distributed import Job
from qmu_edge.pipeline.evaluate import Seen, measured_file, positions_of, stored_file, thresholds_of
from qmu_edge.pipeline.inputs import forget_retain, samples_of
from qmu_edge.pipeline.networks import Networks, origin_of
from qmu_edge.pipeline.references import Bank, Expected, expected
from qmu_edge.pipeline.release import evaluate_release, make_release, shipped
from qmu_edge.project.project import Project
from qmu_edge.project.records import Measured, Release, Report, StepResult
from qmu_edge.queue.schedule import NO_RECIPE, may_retrain
from qmu_edge.request.split import Split, emptied_classes
from qmu_edge.runtime.memory import within_memory
from qmu_edge.runtime.throughput import counting
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import Outcome, Pointer, State, Status, Step
from qmu_edge.store.objects import ObjectStore
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import method, parameters
from qmu_edge.verify.codes_changed import codes_changed
from qmu_edge.verify.figures import figures_of
from qmu_edge.verify.verdict import Terms, Verdict, judge, reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at one request or many.

    Attributes:
        project: Open and locked.
        rows: The requests, in the order of receipt.
        split: The samples of all of them.
        method: Name of the unlearning method.
        params: Its hyperparameters.
        before: Digest of the checkpoint that it starts from.
        device: Where to compute.
        seed: Of the method's randomness.
        name: Digest of all of this; what the ledger calls the attempt.
        aside: Where its networks go when nothing of the project may change.
    """

    project: Project
    rows: Sequence[RequestRow]
    split: Split
    method: str
    params: Any
    before: Sha256
    device: torch.device
    seed: int
    name: str
    aside: ObjectStore | None = None

    @property
    def networks(self) -> Networks:
        """The project's checkpoints, or those aside."""
        found = Networks.of(self.project)
        return replace(found, store=self.aside) if self.aside else found

    @property
    def state(self) -> Path:
        """File for the state of its training when that is not finished."""
        folder = self.aside.root if self.aside else self.project.folder / "work"
        return folder / f"{self.name[:16]}-{self.method}.safetensors"

    def evaluate(self, release: Release) -> tuple[Measured, Seen]:
        """What the exported file of a release does on the sets of this attempt."""
        project, recipe = self.project, self.project.recipe
        positions = positions_of(self.split, most=recipe.policy.evaluation_images)
        return evaluate_release(
            project.store, release, project.samples, positions,
            flip=recipe.data.flip and recipe.references.trained != "never", progress=project.progress,
            metrics=recipe.plugins.metrics,
        )  # fmt: skip

    def step(
        self,
        what: str,
        work: Callable[[], StepResult],
        commit: Callable[[StepResult], None] = lambda result: None,
    ) -> StepResult:
        """Do a step of this attempt, or return what it found when it was done before.

        `commit` changes the ledger by what was found, in the transaction that marks the step done.
        """
        ledger, ids = self.project.ledger, [row.request_id for row in self.rows]
        known = ledger.step(ids[0], self.name, what)
        if known is not None and known.status is Status.DONE:
            return StepResult.parse(known.detail)
        with ledger.change():
            for request_id in ids:
                ledger.start_step(request_id, self.name, what)
        try:
            found, cost = measured_cost(work)
        except QmuEdgeError as error:
            with ledger.change():
                for request_id in ids:
                    # The class only: a message may name a sample, and events must not.
                    ledger.fail_step(request_id, self.name, what, type(error).__name__)
            raise
        result = replace(found, seconds=cost["seconds"], peak_mb=cost["peak_mb"])
        with ledger.change():
            commit(result)
            for request_id in ids:
                ledger.finish_step(request_id, self.name, what, result.to_json())
        return result

    def set_outcome(self, outcome: Outcome | None) -> None:
        """Say how far its requests are."""
        with self.project.ledger.change():
            for row in self.rows:
                self.project.ledger.set_outcome(row.request_id, State.UNLEARNING, outcome)


def attempt(
    project: Project, rows: Sequence[RequestRow], split: Split, name: str, device: torch.device
) -> Run:
    """A run of the method `name` on the current checkpoint."""
    params = parameters(name, project.recipe.unlearn.get(name, {}), project.recipe.train)
    before, seed = project.current(Pointer.CHECKPOINT), project.recipe.train.seed
    identity = [name, plain(params), before, split.digest(), seed, project.recipe.digest()]
    if method(name).category != "exact":  # with references built anew there is another verdict
        identity.append(to_json(project.results.sensitivity()))
    digest = sha256_of(json.dumps(identity, sort_keys=True).encode())
    return Run(
        project=project, rows=rows, split=split, method=name, params=params, before=before,
        device=device, seed=seed, name=digest,
    )  # fmt: skip


def produce(run: Run) -> tuple[Sha256, Report]:
    """Everything up to the verdict.

    Returns:
        Digest of the release, and the report.

    Raises:
        VerificationFailed: A threshold is not met; `NotMeasurable` where nothing else was missing.
        QmuEdgeError: Any step's own error.
    """
    run.set_outcome(None)
    unlearned = run.step(Step.UNLEARNED, lambda: _unlearned_step(run))
    after = run.step(Step.REQUANTIZED, lambda: requantized(run, unlearned.stored("checkpoint")))
    exported = run.step(Step.EXPORTED, lambda: _exported(run, after.stored("checkpoint")))
    release = exported.stored("release")
    verified = run.step(Step.VERIFIED, lambda: _verified(run, release))
    report = run.project.results.report(verified.stored("report"))
    if not report.verdict.passed:
        run.set_outcome(Outcome.FAILED)
        failed = NotMeasurable if report.verdict.unmeasured else VerificationFailed
        raise failed(_failure(run, report.verdict))
    return release, report


def _unlearned_step(run: Run) -> StepResult:
    split = run.project.store.put_bytes(run.split.to_bytes())
    return replace(unlearned(run, run.before), split=split, counts=run.split.counts())


def unlearned(run: Run, start: Sha256) -> StepResult:
    """Run the method on the network `start`; one that trains anew takes its architecture only."""
    project = run.project
    model, _ = run.networks.load(start)
    if method(run.method).category == "exact":  # nothing else begins with them
        model.start = Networks.of(run.project).start
    model.to(run.device)
    data = forget_retain(
        project.samples, project.recipe.data, run.device, run.split,
        state=run.state, progress=project.progress,
    )  # fmt: skip
    job = Job(
        method=run.method, model=model, data=data, given=project.recipe.unlearn.get(run.method, {}),
        train=project.recipe.train, seed=run.seed, source=run.networks.source,
    )  # fmt: skip
    train = getattr(run.params, "train", None)  # retraining has the batches of training
    setting = "[train] batch" if train else f"[unlearn.{run.method}] batch"
    with counting(run.device) as throughput, within_memory(setting, (train or run.params).batch):
        changed = job.shared()
    spent = throughput.spent(len(data.forget) + len(data.retain))
    origin = origin_of(project.samples, run.method, run.before)
    checkpoint = run.networks.save(changed, origin)
    return StepResult(checkpoint=checkpoint, spent=spent, circumstances=circumstances(run.device))


def requantized(run: Run, digest: Sha256) -> StepResult:
    """Re-quantize a network that the method made."""
    project, recipe = run.project, run.project.recipe
    model, origin = run.networks.load(digest)
    model.to(run.device)
    retain = samples_of(project.samples, recipe.data, run.device, run.split.retain, "calibration")
    batch = recipe.train.batch
    with within_memory("[train] batch", batch):
        requantize(model, retain, batch=batch, seed=run.seed, progress=project.progress)
    checkpoint = run.networks.save(model, origin)
    return StepResult(checkpoint=checkpoint, circumstances=circumstances(run.device))


def _exported(run: Run, digest: Sha256) -> StepResult:
    release, _ = make_release(run.project, digest)
    return StepResult(release=release)


def _verified(run: Run, release_digest: Sha256) -> StepResult:
    project = run.project
    release = project.results.release(release_digest)
    original = shipped(run.before, run.networks, project.samples, project.recipe, project.results)
    original = original or make_release(project, run.before, (Format.INTEGER,))[1]
    before, seen_before = run.evaluate(original)
    found, seen = run.evaluate(release)
    known = _expected(run, seen_before)
    comparison, terms = Comparison.of(seen_before, known, _requests(run)), _terms(run, known)
    codes = codes_changed(*(stored_file(project.store, measured_file(r)) for r in (original, release)))
    index, barred = project.samples.index, project.samples.barred()
    compared = comparison.compared(seen, index, barred)
    verdict = judge(compared, terms, codes=codes)
    report = Report(
        unlearned=found, original=before, terms=terms, verdict=verdict,
        sizes={"unlearned": release.sizes, "original": original.sizes}, codes=codes,
        figures=figures_of(compared, people=index.people_of(run.split.forget)),
    )  # fmt: skip
    store = project.store.put_bytes
    return StepResult(report=store(report.to_bytes()), comparison=store(comparison.to_bytes(run.split.salt)))


def _requests(run: Run) -> NDArray[np.int64] | None:
    """Which of several requests names each sample to be forgotten, by number: each is to be forgotten."""
    if len(run.rows) < 2:
        return None
    resolved, found = (
        run.project.ledger.open_details(Step.RESOLVED),
        np.zeros(len(run.split.forget), np.int64),
    )
    for number, row in enumerate(run.rows):
        claim = run.project.samples.claim(resolved[row.request_id])
        found[np.isin(run.split.forget, claim.samples)] = number
    return found


def _expected(run: Run, before: Seen) -> Expected | None:
    """What networks that never saw an image think of it; None where none are at hand."""
    trained, index = run.project.recipe.references.trained, run.project.samples.index
    bank, exact = Bank.of(run.project), method(run.method).category == "exact"
    if trained == "once":
        try:
            return expected(index, bank.usable([row.request_id for row in run.rows]))
        except IntegrityError:
            if not exact:
                raise
            return None  # here it is for information only, and is trained again before the receipt
    if trained == "never" or exact:
        return None
    scored = np.concatenate([*before.positions.values()])
    return expected(index, bank.for_request(run.split.digest(), run.split.retain, scored, run.device))


def _terms(run: Run, known: Expected | None) -> Terms:
    samples, policy = run.project.samples, run.project.recipe.policy
    emptied = emptied_classes(samples.index, run.split, samples.barred())
    return Terms(
        thresholds=thresholds_of(policy),
        exact=method(run.method).category == "exact",
        classes=emptied.classes,
        references=int(known.networks[run.split.forget].min()) if known else 0,
        intraclass=known.intraclass if known else 0.0,
        release_unmeasurable=policy.when_not_measurable == "release",
    )


def _failure(run: Run, verdict: Verdict) -> str:
    hint = "; --method retrain is the exact answer"
    if method(run.method).category == "exact":
        hint = "; it was trained without them: in qmu.toml [train] says how long, [policy] what that may cost"
    elif not may_retrain(run.project.results, run.project.recipe):
        hint = f"; retrain is not tried: {NO_RECIPE}"
    who = f"request {run.rows[0].request_id}" if len(run.rows) == 1 else f"{len(run.rows)} requests"
    return f"{who}: {run.method}: {'; '.join(reasons(verdict))}; nothing was released{hint}"


def plain(params: Any) -> dict[str, object]:
    """Hyperparameters as JSON values."""
    values = {f.name: getattr(params, f.name) for f in fields(params)}
    return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in values.items()}
