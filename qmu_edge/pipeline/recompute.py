"""Train a network again that a receipt is about, and compare the exported files byte for byte.

Only what never saw the deleted data can be made again without it: exact receipts, made with --deterministic.
Nothing of the project changes.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
import torch

from qmu_edge.errors import ConfigError, IntegrityError, LedgerError
from qmu_edge.export.exporter import export
from qmu_edge.export.targets import Format
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.machine.versions import versions
from qmu_edge.pipeline.circumstances import circumstances
from qmu_edge.pipeline.make_receipt import BEGUN_WITH, COMPUTED
from qmu_edge.pipeline.networks import MAX_BYTES
from qmu_edge.pipeline.release import parity_images, planned
from qmu_edge.pipeline.unlearn_run import Run, requantized, unlearned
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.receipt.statement import Statement
from qmu_edge.request.split import Split
from qmu_edge.runtime.determinism import determinism
from qmu_edge.store.ledger.states import Step
from qmu_edge.store.objects import ObjectStore

HERE: Final = "receipt: cannot be recomputed here"
NEVER: Final = "receipt: cannot be recomputed"


class Recomputed(TypedDict):
    """Digest of each file by its name, the same as in the receipt; and `circumstances`."""

    files: dict[str, Sha256]
    computed_with: Mapping[str, object]


def recompute(run: Run, stated: Statement) -> Recomputed:
    """Do the training of a receipt again, in its recorded order and from its seed.

    Args:
        run: An attempt of its method on `recorded_split`, in the project that has issued it.
        stated: The receipt's statement.

    Raises:
        ConfigError: Recipe, versions or circumstances are others here.
        IntegrityError: The network is purged.
        LedgerError: A file came out otherwise.
    """
    here = {"digest": run.project.recipe.digest()}
    _require_same("recipe", {"digest": stated.predicate.recipe}, here)
    begun = stated.predicate.method.parameters.get(BEGUN_WITH)
    _require_same(
        "weights that it starts from", {"digest": begun}, {"digest": run.project.results.pretrained()}
    )
    with determinism(True), tempfile.TemporaryDirectory(prefix="qmu-edge-recompute-") as folder:
        require_here(stated, run.device)
        found = _files(_again(run, stated, ObjectStore(Path(folder))), stated)
    for name, digest in stated.files.items():
        if found.get(name) != digest:
            raise LedgerError(f"{name}: recomputed it is {found.get(name)}, the receipt says {digest}")
    return {"files": found, COMPUTED: dict(told(stated))}


def told(stated: Statement) -> Mapping[str, object]:
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
    _require_same("versions", {tool.name: tool.version, **tool.dependencies}, versions())
    _require_same(COMPUTED, told(stated), circumstances(device) or {})


def _require_same(what: str, said: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for name, value in said.items():
        if here.get(name) != value:
            raise ConfigError(f"{HERE}: {what}: {name} is {here.get(name)}, the receipt says {value}")


def recorded_split(
    stated: Statement, request_id: str, results: Results, store: ObjectStore, samples: ProjectSamples
) -> Split:
    """The sets that the network of a receipt was trained and judged on.

    Raises:
        ConfigError: See `require_exact`.
        IntegrityError: They are purged, or a sample that was kept was deleted since.
    """
    require_exact(stated)
    digest = results.fulfilled_steps(request_id)[Step.UNLEARNED].stored("split")
    if results.purged(digest):
        raise IntegrityError(f"{NEVER}: the sets that it was trained on are purged")
    split = Split.parse(store.get_bytes(digest))
    kept = np.concatenate([split.retain, split.validation])
    if gone := int(samples.barred()[kept].sum()):
        raise IntegrityError(f"{NEVER}: {gone} of the {len(kept)} samples that it kept were deleted since")
    return split


def _again(run: Run, stated: Statement, aside: ObjectStore) -> Run:
    """The run of the receipt, whose networks go aside; the one that it made lends its architecture."""
    networks, method = stated.predicate.checkpoints, stated.predicate.method
    if networks.before is None or networks.after is None:
        raise ConfigError(f"{NEVER}: it names no network")
    project, after = run.project, Sha256(networks.after)
    if project.results.purged(after):
        raise IntegrityError(f"{NEVER}: its network is purged")
    aside.put_bytes(project.store.get_bytes(after, limit=MAX_BYTES))
    return replace(run, before=Sha256(networks.before), seed=method.seed, aside=aside)


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
