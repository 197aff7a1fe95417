"""Train a network again that a receipt is about, and compare the exported files byte for byte.

Only what never saw the deleted data can be made again without it: exact receipts, made with --deterministic.
Nothing of the project changes.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from qmu_edge import __version__
from qmu_edge.errors import ConfigError, IntegrityError, LedgerError
from qmu_edge.export.exporter import export
from qmu_edge.export.targets import Format
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.pipeline.circumstances import circumstances
from qmu_edge.pipeline.make_receipt import COMPUTED, versions
from qmu_edge.pipeline.networks import MAX_BYTES
from qmu_edge.pipeline.release import parity_images, planned
from qmu_edge.pipeline.unlearn_run import Run, attempt, requantized, unlearned
from qmu_edge.project.project import Project
from qmu_edge.receipt.statement import Statement
from qmu_edge.request.split import Split
from qmu_edge.runtime.determinism import determinism
from qmu_edge.runtime.device import device_named
from qmu_edge.store.ledger.states import Step
from qmu_edge.store.objects import ObjectStore

HERE: Final = "receipt: cannot be recomputed here"
NEVER: Final = "receipt: cannot be recomputed"


def recompute(project: Project, stated: Statement, request_id: str) -> dict[str, Any]:
    """Do the training of a receipt again, in its recorded order and from its seed.

    Args:
        project: Open, the one that has issued the receipt.
        stated: The receipt's statement.
        request_id: Whose receipt it is.

    Returns:
        `files`: digest of each by name, the same as in the receipt; `computed_with`: see `circumstances`.

    Raises:
        ConfigError: The receipt is not of an exact, deterministic run; or recipe, versions or circumstances
            are others here.
        IntegrityError: What it was made of was deleted or purged since.
        LedgerError: A file came out otherwise.
    """
    require_exact(stated)
    _require_same("recipe", {"digest": stated.predicate.recipe}, {"digest": project.recipe.digest()})
    device = device_named("cpu" if told(stated)["device"] == "cpu" else "cuda")
    with determinism(True), tempfile.TemporaryDirectory(prefix="qmu-edge-recompute-") as folder:
        require_here(stated, device)
        run = _run(project, stated, request_id, device, ObjectStore(Path(folder)))
        found = _files(run, stated)
    for name, digest in stated.files.items():
        if found.get(name) != digest:
            raise LedgerError(f"{name}: recomputed it is {found.get(name)}, the receipt says {digest}")
    return {"files": found, COMPUTED: dict(told(stated))}


def told(stated: Statement) -> Mapping[str, Any]:
    """The circumstances that a receipt names; {} where it names none."""
    found = stated.predicate.method.parameters.get(COMPUTED)
    return found if isinstance(found, Mapping) else {}


def require_exact(stated: Statement) -> None:
    """Refuse what nobody could make again.

    Raises:
        ConfigError: The method is approximate, or the run was not deterministic.
    """
    method = stated.predicate.method
    if method.category != "exact":
        raise ConfigError(f"{NEVER}: its method {method.name} is {method.category}, allowed is exact")
    if not told(stated):
        raise ConfigError(f"{NEVER}: it was not made with --deterministic")


def require_here(stated: Statement, device: torch.device) -> None:
    """Refuse where other versions, another kind of machine or other threads would give other bits.

    Raises:
        ConfigError: The first difference.
    """
    tool = stated.predicate.tool
    here = {tool.name: __version__, **versions()}
    _require_same("versions", {tool.name: tool.version, **tool.dependencies}, here)
    _require_same(COMPUTED, told(stated), circumstances(device) or {})


def _require_same(what: str, said: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for name, value in said.items():
        if here.get(name) != value:
            raise ConfigError(f"{HERE}: {what}: {name} is {here.get(name)}, the receipt says {value}")


def _run(
    project: Project, stated: Statement, request_id: str, device: torch.device, aside: ObjectStore
) -> Run:
    """The run of the receipt, whose networks go aside; the one that it made lends its architecture.

    Raises:
        IntegrityError: Its sets or its network are purged, or a sample that it kept was deleted since.
    """
    predicate, results = stated.predicate, project.results
    before, after = predicate.checkpoints.before, predicate.checkpoints.after
    digest = results.fulfilled_steps(request_id)[Step.UNLEARNED].stored("split")
    if before is None or after is None or any(map(results.purged, (digest, Sha256(after)))):
        raise IntegrityError(f"{NEVER}: the sets that it was trained on, or its network, are purged")
    split = Split.parse(project.store.get_bytes(digest))
    kept = np.concatenate([split.retain, split.validation])
    if gone := int(project.samples.barred()[kept].sum()):
        raise IntegrityError(f"{NEVER}: {gone} of the {len(kept)} samples that it kept were deleted since")
    aside.put_bytes(project.store.get_bytes(Sha256(after), limit=MAX_BYTES))
    made = attempt(project, (), split, predicate.method.name, device)
    return replace(made, before=Sha256(before), seed=predicate.method.seed, aside=aside)


def _files(run: Run, stated: Statement) -> dict[str, Sha256]:
    """Digest of each file by its name, from a new training on."""
    project, policy = run.project, run.project.recipe.policy
    trained = unlearned(run, Sha256(stated.predicate.checkpoints.after or "")).stored("checkpoint")
    model, origin = run.networks.load(requantized(run, trained).stored("checkpoint"))
    plan = planned(
        origin.class_names, project.samples, project.recipe,
        formats=tuple(form for form in Format if form.file_name in stated.files),
    )  # fmt: skip
    made = export(
        model, plan, images=parity_images(project.samples, policy.parity_inputs),
        min_agreement=policy.min_agreement, min_inputs=policy.parity_inputs,
    )  # fmt: skip
    return {file.format.file_name: sha256_of(file.data) for file in made}
