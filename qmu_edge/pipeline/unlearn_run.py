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

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from pydantic import BaseModel

from qmu_edge.errors import QmuEdgeError, VerificationFailed
from qmu_edge.machine.cost import accounted
from qmu_edge.pipeline.distributed import Job
from qmu_edge.pipeline.evaluate import evaluate_release, evaluation_in
from qmu_edge.pipeline.inputs import forget_retain, load_checkpoint, origin_of, samples_of
from qmu_edge.pipeline.make_receipt import REFERENCE_SEED
from qmu_edge.pipeline.release import make_release
from qmu_edge.project.model_file import source_of
from qmu_edge.project.project import Project
from qmu_edge.request.split import Split, gone
from qmu_edge.request.split import to_json as split_to_json
from qmu_edge.runtime.memory import within_memory
from qmu_edge.runtime.throughput import metered
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.train import checkpoint
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import METHODS, parameters
from qmu_edge.verify.evaluation import to_json
from qmu_edge.verify.verdict import Reference, Thresholds, forgotten_class, from_retrained, held_out, judge

Detail = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at one request or many.

    Attributes:
        project: Open and held.
        rows: The requests, in the order of receipt.
        split: The samples of all of them.
        method: Name of the unlearning method.
        params: Its hyperparameters.
        before: Digest of the checkpoint that it starts from.
        device: Where to compute.
        seed: Of the method's randomness.
        name: Digest of all of this; what the ledger calls the attempt.
    """

    project: Project
    rows: Sequence[RequestRow]
    split: Split
    method: str
    params: Any
    before: str
    device: torch.device
    seed: int
    name: str

    def step(
        self, what: str, work: Callable[[], Detail], commit: Callable[[Detail], None] = lambda detail: None
    ) -> Detail:
        """Do a step of this attempt, or return what it found when it was done before.

        `commit` changes the ledger by what was found, in the transaction that marks the step done.
        """
        ledger, ids = self.project.ledger, [row.request_id for row in self.rows]
        known = ledger.step(ids[0], self.name, what)
        if known is not None and known.status == "done":
            return known.detail
        with ledger.change():
            for request_id in ids:
                ledger.start_step(request_id, self.name, what)
        try:
            found, cost = accounted(work)
        except QmuEdgeError as error:
            with ledger.change():
                for request_id in ids:
                    # The class only: a message may name a sample, and events must not.
                    ledger.fail_step(request_id, self.name, what, type(error).__name__)
            raise
        with ledger.change():
            commit(found)
            for request_id in ids:
                ledger.finish_step(request_id, self.name, what, {**found, **cost})
        return {**found, **cost}

    def set_outcome(self, state: str, outcome: str | None) -> None:
        """The same for all of its requests."""
        with self.project.ledger.change():
            for row in self.rows:
                self.project.ledger.set_outcome(row.request_id, state, outcome)


def attempt(
    project: Project, rows: Sequence[RequestRow], split: Split, name: str, device: torch.device
) -> Run:
    """A run of the method `name` on the current checkpoint."""
    params = parameters(name, project.recipe.unlearn.get(name, {}), project.recipe.train)
    before, seed = project.current("checkpoint"), project.recipe.train.seed
    identity = [name, plain(params), before, split.digest(), seed, project.recipe.digest()]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Run(
        project=project, rows=rows, split=split, method=name, params=params, before=before,
        device=device, seed=seed, name=digest,
    )  # fmt: skip


def produce(run: Run) -> tuple[str, Detail]:
    """Everything up to the verdict.

    Returns:
        Digest of the release, and the report.

    Raises:
        VerificationFailed: A threshold is not met.
        QmuEdgeError: Any step's own error.
    """
    run.set_outcome("unlearning", None)
    unlearned = run.step("unlearned", lambda: _unlearned_step(run))
    after = run.step("requantized", lambda: _requantized(run, unlearned["checkpoint"]))
    exported = run.step("exported", lambda: _exported(run, after["checkpoint"]))
    verified = run.step("verified", lambda: _verified(run, exported["release"]))
    report = json.loads(run.project.store.get_bytes(verified["report"]))
    if not report["verdict"]["passed"]:
        run.set_outcome("unlearning", "failed")
        raise VerificationFailed(_failure(run, report["verdict"]))
    return exported["release"], report


def served_steps(project: Project, request_id: str) -> dict[str, Detail]:
    """What each step of the attempt that ended in a receipt has found."""
    done = [s for s in project.ledger.steps(request_id) if s.status == "done"]
    served = [s.run for s in done if s.step == "receipted"][-1]
    return {s.step: s.detail for s in done if s.run in ("", served)}


def _unlearned_step(run: Run) -> Detail:
    split = run.project.store.put_bytes(split_to_json(run.split))
    return {**_unlearned(run, run.method, run.seed), "split": split, "counts": run.split.counts()}


def _unlearned(run: Run, method_name: str, seed: int) -> dict[str, Any]:
    project = run.project
    model, _ = load_checkpoint(project, run.before)
    model.to(run.device)
    state = project.folder / "work" / f"{run.name[:16]}-{method_name}.safetensors"
    data = forget_retain(project, run.split, run.device, state)
    params = run.params if method_name == run.method else _reference_params(project)
    job = Job(
        method=method_name, model=model, data=data, given=project.recipe.unlearn.get(method_name, {}),
        train=project.recipe.train, seed=seed, source=source_of(project.recipe.model, project.root),
    )  # fmt: skip
    train = getattr(params, "train", None)  # retraining has the batches of training
    setting = "[train] batch" if train else f"[unlearn.{method_name}] batch"
    with metered(run.device) as meter, within_memory(setting, (train or params).batch):
        changed = job.shared()
    spent = meter.spent(len(data.forget) + len(data.retain))
    origin = origin_of(project, method_name, run.before)
    return {"checkpoint": project.store.put_bytes(checkpoint.dumps(changed, origin)), "spent": spent}


def _reference_params(project: Project) -> Any:
    return parameters("retrain", project.recipe.unlearn.get("retrain", {}), project.recipe.train)


def _requantized(run: Run, digest: str) -> dict[str, Any]:
    project = run.project
    model, origin = load_checkpoint(project, digest)
    model.to(run.device)
    retain = samples_of(project, run.device, run.split.retain, "calibration")
    batch = project.recipe.train.batch
    with within_memory("[train] batch", batch):
        requantize(model, retain, batch=batch, seed=run.seed, progress=project.progress)
    return {"checkpoint": project.store.put_bytes(checkpoint.dumps(model, origin))}


def _exported(run: Run, digest: str) -> dict[str, Any]:
    release, _ = make_release(run.project, digest)
    return {"release": release}


def _verified(run: Run, release_digest: str) -> dict[str, Any]:
    project = run.project
    release = json.loads(project.store.get_bytes(release_digest))
    found = evaluate_release(project, release, run.split)
    _, original = make_release(project, run.before, ("integer",))
    before = evaluate_release(project, original, run.split)
    reference, retrained = _reference(run, found, before)
    thresholds = thresholds_of(project)
    verdict = judge(evaluation_in(found), reference, thresholds, evaluation_in(before))
    report = {
        "unlearned": found, "original": before, "retrained": retrained,
        "reference": to_json(reference), "thresholds": to_json(thresholds), "verdict": to_json(verdict),
        "bytes": {"unlearned": release["bytes"], "original": original["bytes"]},
    }  # fmt: skip
    data = json.dumps(report, sort_keys=True, separators=(",", ":")).encode()
    return {"report": project.store.put_bytes(data)}


def thresholds_of(project: Project) -> Thresholds:
    """What the project's policy allows."""
    policy = project.recipe.policy
    limits = {f.name: getattr(policy, f.name) for f in fields(Thresholds)}
    return Thresholds(**{k: None if v == "off" else v for k, v in limits.items()})


def _reference(
    run: Run, found: dict[str, Any], before: dict[str, Any]
) -> tuple[Reference, dict[str, Any] | None]:
    """What to compare with, and the retrained model's report when there is one."""
    left = gone(run.project.index, run.split, run.project.barred())
    together = left.classes and left.others
    if together or run.project.recipe.policy.reference == "retrained":
        retrained = _retrained(run)
        return from_retrained(evaluation_in(retrained)), retrained
    if left.classes:
        return forgotten_class(evaluation_in(before)), None
    return held_out(evaluation_in(found), evaluation_in(before)), None


def _retrained(run: Run) -> dict[str, Any]:
    """Train the same recipe without the forget set, export it, and measure the file; once per split."""
    project = run.project
    recipe = project.recipe
    identity = f"{run.split.digest()}{recipe.model}{recipe.train}{recipe.data}"
    key = f"reference:{hashlib.sha256(identity.encode()).hexdigest()}"
    known = project.ledger.meta(key)
    if known is None:
        work = lambda: _unlearned(run, "retrain", run.seed + REFERENCE_SEED)  # noqa: E731
        trained, cost = accounted(work)
        after = _requantized(run, trained["checkpoint"])
        _, release = make_release(project, after["checkpoint"], ("integer",))
        report = {
            **evaluate_release(project, release, run.split),
            **cost,
            "bytes": release["bytes"],
        }
        stored = project.store.put_bytes(json.dumps(report, sort_keys=True).encode())
        known = {"report": stored, "checkpoint": after["checkpoint"], "trained": trained["checkpoint"]}
        project.ledger.set_meta(key, known)
    found: dict[str, Any] = json.loads(project.store.get_bytes(known["report"]))
    return found


def _failure(run: Run, verdict: dict[str, Any]) -> str:
    missed = [
        f"{c['name']} is {'not measured' if c['value'] is None else format(c['value'], '.4f')}, "
        f"allowed {c['allowed']}"
        for c in verdict["checks"]
        if not c["passed"]
    ] or ["the policy sets no threshold"]
    hint = "" if METHODS[run.method].category == "exact" else "; --method retrain is the exact answer"
    who = f"request {run.rows[0].request_id}" if len(run.rows) == 1 else f"{len(run.rows)} requests"
    return f"{who}: {run.method}: {'; '.join(missed)}; nothing was released{hint}"


def plain(params: Any) -> dict[str, Any]:
    """Hyperparameters as JSON values."""
    values = {f.name: getattr(params, f.name) for f in fields(params)}
    return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in values.items()}
