"""One request from receipt to release, as steps in the ledger.

    received    parsed, its digest recorded
    resolved    forget, retain, validation and test sets found and stored
    tombstoned  the samples can never be trained on again
    unlearned   the method ran; latent weights stored
    requantized batch-norm statistics and activation grids from retain data only
    exported    files made, gates passed
    verified    the exported file measured and judged
    receipted   receipt written, everything switched at once
    purged      what the request has superseded is removed, later and by `qmu_edge.purge`

Each step stores its result under its digest before it is marked done, and a step that is done is not done
again: the same command after a kill goes on where it stopped. Nothing is recorded for a request that
cannot be honoured.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from qmu_edge import checkpoint, receipt
from qmu_edge.accounting import accounted
from qmu_edge.errors import QmuEdgeError, RequestError, VerificationFailed
from qmu_edge.evidence import REFERENCE_SEED, write_receipt
from qmu_edge.project import Project
from qmu_edge.publication import publish
from qmu_edge.release import (
    evaluate_release,
    evaluation_in,
    forget_retain,
    load_checkpoint,
    make_release,
    origin_of,
    samples_of,
)
from qmu_edge.requantize import requantize
from qmu_edge.request import DeletionRequest, due_time
from qmu_edge.split import Split, resolve, split_from_json, split_to_json
from qmu_edge.unlearn import METHODS, apply, parameters
from qmu_edge.verify.report import (
    Reference,
    Thresholds,
    forgotten_class,
    from_retrained,
    held_out,
    judge,
    to_json,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attempt at a request.

    Attributes:
        project: Open and held.
        request: What was asked.
        split: Its samples.
        method: Name of the unlearning method.
        params: Its hyperparameters.
        before: Digest of the checkpoint that it starts from.
        device: Where to compute.
        seed: Of the method's randomness.
        name: Digest of all of this; what the ledger calls the attempt.
    """

    project: Project
    request: DeletionRequest
    split: Split
    method: str
    params: Any
    before: str
    device: torch.device
    seed: int = 0
    name: str = ""

    def step(self, what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a step of this attempt, or return what it found when it was done before."""
        return _step(self.project, self.request.request_id, self.name, what, work)


def _step(
    project: Project, request_id: str, run: str, what: str, work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    known = project.ledger.step(request_id, run, what)
    if known is not None and known.status == "done":
        return known.detail
    project.ledger.start_step(request_id, run, what)
    try:
        detail, cost = accounted(work)
    except QmuEdgeError as error:
        # The class only: a message may name a sample, and events must not.
        project.ledger.fail_step(request_id, run, what, type(error).__name__)
        raise
    project.ledger.finish_step(request_id, run, what, {**detail, **cost})
    return {**detail, **cost}


def plan(project: Project, request: DeletionRequest) -> Split:
    """The samples of a request; nothing is written.

    Raises:
        RequestError: It cannot be honoured; see `qmu_edge.split.resolve`.
    """
    _require_same(project, request)
    known = project.ledger.step(request.request_id, "", "resolved")
    if known is not None and known.status == "done":
        if project.purged(known.detail["split"]):
            raise RequestError(f"request {request.request_id}: was served, and what it named is purged")
        return split_from_json(project.store.get_bytes(known.detail["split"]))
    if request.model_sha256 is not None:
        _require_model(project, request.model_sha256)
    return resolve(project.index, request, tombstoned=project.ledger.tombstones(), key=project.key)


def _require_same(project: Project, request: DeletionRequest) -> None:
    """Raise RequestError when this id was received before with another content."""
    row, who = project.ledger.request(request.request_id), f"request {request.request_id}"
    if row is not None and row.digest != request.digest(project.key):
        raise RequestError(f"{who}: conflict: it was received before with another content")


def _require_model(project: Project, sha256: str) -> None:
    release = project.ledger.current("release")
    files = json.loads(project.store.get_bytes(release))["files"] if release else {}
    if sha256 not in {project.ledger.current("checkpoint"), *files.values()}:
        raise RequestError(f"the request is about model {sha256[:12]}…, which is not the current one")


def serve(
    project: Project, request: DeletionRequest, method_name: str, device: torch.device
) -> dict[str, Any]:
    """Serve one request from receipt to release.

    Args:
        project: Open; this function takes the store's lock.
        request: Parsed.
        method_name: Of the unlearning method.
        device: Where to compute.

    Returns:
        Digests, report, verdict, and what each step cost.

    Raises:
        VerificationFailed: A threshold is not met; nothing was released.
        QmuEdgeError: Any step's own error.
    """
    params = parameters(method_name, project.recipe.unlearn.get(method_name, {}), project.recipe.train)
    with project.held():
        _require_same(project, request)
        if not _is_served(project, request.request_id):
            split = plan(project, request)
            before = _starting_point(project, request)
            _receive(project, request, split)
            run = _run(project, request, split, method_name, params, before, device)
            _unlearn_to_receipt(run)
        return _result(project, request)


def _is_served(project: Project, request_id: str) -> bool:
    """Whether the request has its receipt; ends the step that a kill cut off right after issuing it.

    From that moment the current checkpoint is the new one: to start again would unlearn it twice.
    """
    ledger = project.ledger
    steps = [s for s in ledger.steps(request_id) if s.step == "receipted"]
    issued = ledger.rows("SELECT receipt_digest FROM receipts WHERE request_id = ?", request_id)
    if issued and all(s.status != "done" for s in steps):
        digest = issued[0][0]
        statement = receipt.loads(project.store.get_bytes(digest), f"receipt {digest[:12]}")
        ledger.set_outcome(request_id, "completed", statement["predicate"]["outcome"])
        last = max((s for s in steps if s.status == "started"), key=lambda s: s.started)
        ledger.finish_step(request_id, last.run, "receipted", {"receipt": digest, "seconds": 0, "peak_mb": 0})
    return bool(issued)


def served_steps(project: Project, request_id: str) -> dict[str, dict[str, Any]]:
    """What each step of the attempt that ended in a receipt has found."""
    done = [s for s in project.ledger.steps(request_id) if s.status == "done"]
    served = [s.run for s in done if s.step == "receipted"][-1]
    return {s.step: s.detail for s in done if s.run in ("", served)}


def _starting_point(project: Project, request: DeletionRequest) -> str:
    """The checkpoint to start from: it and the images are checked before the request is recorded."""
    before = project.current("checkpoint")
    load_checkpoint(project, before)
    _ = project.images
    return before


def _receive(project: Project, request: DeletionRequest, split: Split) -> None:
    due = due_time(request)
    ledger, request_id = project.ledger, request.request_id
    ledger.receive(
        request_id, request.digest(project.key), form=request.form, regulation=request.regulation,
        received=_rfc3339(request.received_time), due=_rfc3339(due) if due else None,
    )  # fmt: skip

    def resolved() -> dict[str, Any]:
        return {"split": project.store.put_bytes(split_to_json(split)), "counts": split.counts()}

    def tombstoned() -> dict[str, Any]:
        both = np.concatenate([split.forget, split.also_erased])
        ids, digests = project.index.ids, project.index.digests
        ledger.add_tombstones(request_id, [ids[i] for i in both], [digests[i] for i in both])
        return {"count": len(both)}

    _step(project, request_id, "", "resolved", resolved)
    _step(project, request_id, "", "tombstoned", tombstoned)


def _run(
    project: Project, request: DeletionRequest, split: Split, name: str, params: Any, before: str,
    device: torch.device,
) -> Run:  # fmt: skip
    seed = project.recipe.train.seed
    identity = [name, _plain(params), before, split.digest(), seed, project.recipe.digest()]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Run(
        project=project, request=request, split=split, method=name, params=params, before=before,
        device=device, seed=seed, name=digest,
    )  # fmt: skip


def _unlearn_to_receipt(run: Run) -> None:
    ledger, request_id = run.project.ledger, run.request.request_id
    ledger.set_outcome(request_id, "unlearning", None)
    unlearned = run.step("unlearned", lambda: _unlearned(run, run.method, run.seed))
    after = run.step("requantized", lambda: _requantized(run, unlearned["checkpoint"]))
    exported = run.step("exported", lambda: _exported(run, after["checkpoint"]))
    verified = run.step("verified", lambda: _verified(run, exported["release"]))
    report = json.loads(run.project.store.get_bytes(verified["report"]))
    if not report["verdict"]["passed"]:
        ledger.set_outcome(request_id, "unlearning", "failed")
        raise VerificationFailed(_failure(run, report["verdict"]))
    run.step("receipted", lambda: _receipted(run, exported["release"], report))


def _unlearned(run: Run, method_name: str, seed: int) -> dict[str, Any]:
    project = run.project
    model, _ = load_checkpoint(project, run.before)
    model.to(run.device)
    torch.manual_seed(seed)
    state = project.folder / "work" / f"{run.name[:16]}-{method_name}.safetensors"
    data = forget_retain(project, run.split, samples_of(project, run.device), state)
    params = run.params if method_name == run.method else _reference_params(project)
    generator = torch.Generator().manual_seed(seed)
    changed = apply(method_name, model, data, params, generator)
    origin = origin_of(project, method_name, run.before)
    return {"checkpoint": project.store.put_bytes(checkpoint.dumps(changed, origin))}


def _reference_params(project: Project) -> Any:
    return parameters("retrain", project.recipe.unlearn.get("retrain", {}), project.recipe.train)


def _requantized(run: Run, digest: str) -> dict[str, Any]:
    project = run.project
    model, origin = load_checkpoint(project, digest)
    model.to(run.device)
    retain = samples_of(project, run.device).take(torch.from_numpy(run.split.retain))
    batch = project.recipe.train.batch
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


def _receipted(run: Run, release: str, report: dict[str, Any]) -> dict[str, Any]:
    verified = run.project.ledger.step(run.request.request_id, run.name, "verified")
    return write_receipt(
        run.project, request=run.request, split=run.split, before=run.before, release=release,
        report=report, completed=(verified.finished if verified else None) or "",
        method={
            "name": run.method, "category": METHODS[run.method].category,
            "parameters": _plain(run.params), "seed": run.seed,
        },
    )  # fmt: skip


def _reference(
    run: Run, found: dict[str, Any], before: dict[str, Any]
) -> tuple[Reference, dict[str, Any] | None]:
    """What to compare with, and the retrained model's report when there is one."""
    if run.project.recipe.policy.reference == "retrained":
        retrained = _retrained(run)
        return from_retrained(evaluation_in(retrained)), retrained
    if run.split.scope == "classes":
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
    return f"request {run.request.request_id}: {run.method}: {'; '.join(missed)}; nothing was released{hint}"


def _result(project: Project, request: DeletionRequest) -> dict[str, Any]:
    """What became of a request that is done; also puts its files in place when a kill prevented it."""
    ledger, store = project.ledger, project.store
    steps = served_steps(project, request.request_id)
    row = ledger.request(request.request_id)
    head = {
        "request": request.request_id, "outcome": row.outcome if row else None,
        "counts": steps["resolved"]["counts"], "receipt_sha256": steps["receipted"]["receipt"],
    }  # fmt: skip
    if project.purged(steps["verified"]["report"]) or project.purged(steps["exported"]["release"]):
        return {**head, "purged": True}
    issued = store.get_bytes(steps["receipted"]["receipt"])
    report = store.get_bytes(steps["verified"]["report"])
    if ledger.current("receipt") == steps["receipted"]["receipt"]:
        publish(project, steps["exported"]["release"], issued, report)
    release = json.loads(store.get_bytes(steps["exported"]["release"]))
    return {
        **head,
        "checkpoint": release["checkpoint"],
        "files": {name: str(project.root / "release" / name) for name in release["files"]},
        "receipt": str(project.root / "release" / "receipt.json"),
        "report": json.loads(report),
        "steps": {k: {c: v[c] for c in ("seconds", "peak_mb")} for k, v in steps.items()},
    }


def _plain(params: Any) -> dict[str, Any]:
    values = {f.name: getattr(params, f.name) for f in fields(params)}
    return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in values.items()}


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
