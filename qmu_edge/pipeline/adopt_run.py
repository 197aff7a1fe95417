"""Make a network that was trained elsewhere the current checkpoint.

It takes the place of training. What the network was trained on is declared by whoever brings it, and the
splits of the samples follow from that. Nobody here has seen that training: receipts say so.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from qmu_edge.data.declared import REGISTERED, declared_in, with_declared
from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.errors import ConfigError, VerificationFailed
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.pipeline.adoption import Adoption, Files, Given
from qmu_edge.pipeline.networks import Networks, origin_of
from qmu_edge.pipeline.references_run import prepare_references
from qmu_edge.project.notices import require_trainable
from qmu_edge.project.plain import AdoptedJson
from qmu_edge.project.project import Project
from qmu_edge.project.records import Adopted
from qmu_edge.project.results import BROUGHT
from qmu_edge.recipe import Recipe
from qmu_edge.runtime.device import device_named
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.unlearn.registry import require_known

LIST: Final = "list"
METHOD: Final = "adopt"  # of a checkpoint's origin


class AdoptedNetwork(AdoptedJson):
    """What became of a network that was brought.

    Attributes:
        origin: What receipts will say of it.
        declared: How many samples there are, by split.
    """

    origin: str
    declared: dict[str, int]


def adopt_project(project: Project, given: Given, device_name: str) -> AdoptedNetwork:
    """Adopt a network; the same again is done once.

    Raises:
        ConfigError: A file cannot be used, there are requests, or a network was released.
        VerificationFailed: The accuracy after quantization is below `[adopt] min_accuracy`.
    """
    recipe, device = project.recipe, device_named(device_name)
    require_known(recipe.policy.rungs, recipe)  # better now than after hours
    with project.locked():
        _require_unused(project.root, project.ledger)
        samples, results = project.samples, project.results
        before = results.adopted()
        declared = _declaration(project.root, given.trained_on, results.declared())
        if declared == LIST or results.declared() is None:  # else the samples are split already
            samples.index = with_declared(samples.index, declared_in(given.trained_on, samples.index))
            require_trainable(samples.index)
        files = given.read()
        run = _run(files, recipe, samples.index)
        if (
            before is None
            or before.run != run
            or project.ledger.current(Pointer.CHECKPOINT) != before.checkpoint
        ):
            adoption = Adoption(
                given, files, Networks.of(project), samples, recipe, device, project.progress
            )  # fmt: skip
            adopted = _adopted(run, adoption)
            with project.ledger.change():
                project.ledger.set_splits(samples.index.splits)
                results.note_declared(declared)
                project.ledger.set_current(Pointer.CHECKPOINT, adopted.checkpoint)
                results.note_shards(recipe.references.count, None)  # of the splits before
                results.note_adopted(adopted)
        else:
            adopted = before
        told: AdoptedNetwork = {
            **adopted.to_json(), "origin": BROUGHT, "declared": _counts(samples.index),
        }  # fmt: skip
        if recipe.references.trained == "once":
            told["references"] = prepare_references(project, device_name)
        return told


def _declaration(root: Path, trained_on: str, before: str | None) -> str:
    """How samples are declared; after a list, nobody knows any more which the test images were.

    Raises:
        ConfigError: By the word, where a list was given before.
    """
    if trained_on != REGISTERED:
        return LIST
    if before == LIST:
        raise ConfigError(
            f"{root}: its samples were declared by a list: give a list, or adopt in a new project"
        )
    return REGISTERED


def _require_unused(root: Path, ledger: Ledger) -> None:
    """What was trained on is declared once, before anything depends on it."""
    if ledger.requests():
        raise ConfigError(
            f"{root}: has requests, and what its samples are is settled: adopt in a new project"
        )
    if ledger.current(Pointer.RELEASE) is not None:
        raise ConfigError(f"{root}: has a release of another network: adopt in a new project")


def _run(files: Files, recipe: Recipe, index: SampleIndex) -> Sha256:
    """Digest of all that goes into the network."""
    digests = [sha256_of(data) if data is not None else "" for data in files]
    parts = (recipe.model, recipe.data, recipe.train, recipe.adopt, index.digest(), *digests)
    return sha256_of("".join(map(str, parts)).encode())


def _adopted(run: Sha256, adoption: Adoption) -> Adopted:
    """The network, stored."""
    networks, given, pretrained = adoption.networks, adoption.given, adoption.pretrained()
    made, images = adoption.made(), len(adoption.samples.trainable())
    _require_accuracy(made.accuracy, adoption.recipe.adopt.min_accuracy, given.weights)
    return Adopted(
        run=run, checkpoint=networks.save(made.model, origin_of(adoption.samples, METHOD)),
        weights=sha256_of(adoption.files.weights), images=images, accuracy=made.accuracy,
        float_accuracy=made.float_accuracy, agreement=made.agreement, spent=made.spent,
        pretrained=networks.save_start(pretrained) if pretrained else None,
    )  # fmt: skip


def _require_accuracy(scores: Mapping[str, float], least: float, weights: Path) -> None:
    of = "test" if "test" in scores else "validation"
    if least and not scores.get(of, 0.0) >= least:
        raise VerificationFailed(
            f"{weights}: accuracy after quantization is {scores.get(of, 0.0):.2%} on {of} images, [adopt] "
            f"min_accuracy is {least:.2%}; nothing was changed"
        )


def _counts(index: SampleIndex) -> dict[str, int]:
    return {split.word: int(np.count_nonzero(index.in_split(split))) for split in SampleSplit}
