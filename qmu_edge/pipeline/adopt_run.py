"""Make a network that was trained elsewhere the current checkpoint.

It takes the place of training: the weights are quantized, calibrated and, if the recipe says so, trained on a
little, all on the images that whoever brings them declares as trained on. Nobody here has seen the first
training: receipts say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qmu_edge.data.declared import REGISTERED, declared_in, with_declared
from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.errors import ConfigError, VerificationFailed
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import read_regular
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import measured_cost
from qmu_edge.models.build import build
from qmu_edge.models.calibration import initialise_weight_steps, weight_layers
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.names import matched, names_in
from qmu_edge.models.weights_file import MAX_BYTES, weights_in
from qmu_edge.pipeline.distributed import TRAINING, Job
from qmu_edge.pipeline.inputs import samples_of
from qmu_edge.pipeline.networks import Networks, origin_of
from qmu_edge.pipeline.references_run import prepare_references
from qmu_edge.pipeline.train_run import accuracies
from qmu_edge.project.notices import require_trainable
from qmu_edge.project.project import Project
from qmu_edge.project.records import Adopted
from qmu_edge.project.results import BROUGHT
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import ModelRecipe, Recipe
from qmu_edge.runtime.device import device_named
from qmu_edge.runtime.memory import within_memory
from qmu_edge.runtime.throughput import counting
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.train.batches import Augment, ForgetRetain, Samples
from qmu_edge.train.fit import calibrate_on
from qmu_edge.train.requantize import requantize
from qmu_edge.unlearn.registry import require_known

METHOD: Final = "adopt"  # of a checkpoint's origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is brought.

    Attributes:
        weights: File of the network's weights.
        trained_on: What it has seen, see `qmu_edge.data.declared`.
        names: File of names that differ; None where none do.
        pretrained: File of the weights that retraining starts from; None to start from scratch.
    """

    weights: Path
    trained_on: str
    names: Path | None = None
    pretrained: Path | None = None

    def read(self) -> "Files":
        """The content of each file, once."""
        names, pretrained = (_content(f) if f else None for f in (self.names, self.pretrained))
        return Files(_content(self.weights), names, pretrained)


def _content(path: Path) -> bytes:
    return read_regular(path, limit=MAX_BYTES, error=ConfigError)


class Files(NamedTuple):
    """Content of the files of `Given`; None where there is none."""

    weights: bytes
    names: bytes | None
    pretrained: bytes | None


def adopt_project(project: Project, given: Given, device_name: str) -> dict[str, Any]:
    """Adopt a network; the same again is done once.

    Returns:
        Digest of the checkpoint, what is said of its origin, accuracies before and after quantization, how
        many samples are declared, and of the references what `prepare_references` returns.

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
        if before is None or given.trained_on != REGISTERED:  # else it is what was declared then
            samples.index = with_declared(samples.index, declared_in(given.trained_on, samples.index))
            require_trainable(samples.index)
        files = given.read()
        run = _run(files, recipe, samples.index)
        if (
            before is None
            or before.run != run
            or project.ledger.current(Pointer.CHECKPOINT) != before.checkpoint
        ):
            adopted = _adopted(
                given, files, run, Networks.of(project), samples, recipe, device, project.progress
            )
            with project.ledger.change():
                project.ledger.assign_splits(samples.index.splits)
                project.ledger.set_current(Pointer.CHECKPOINT, adopted.checkpoint)
                results.note_shards(recipe.references.count, None)  # of the splits before
                results.note_adopted(adopted)
        else:
            adopted = before
        told = {**adopted.to_json(), "origin": BROUGHT, "declared": _counts(samples.index)}
        if recipe.references.trained == "once":
            return {**told, "references": prepare_references(project, device_name)}
        return told


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


def _adopted(
    given: Given, files: Files, run: Sha256, networks: Networks, samples: ProjectSamples, recipe: Recipe,
    device: torch.device, progress: Progress,
) -> Adopted:  # fmt: skip
    shape = Shape(
        channels=samples.images.shape[1], classes=len(samples.index.class_names),
        mean=recipe.data.mean, std=recipe.data.std,
    )  # fmt: skip
    names = names_in(files.names, given.names) if files.names is not None else {}
    floats = build(unquantized(recipe.model), shape, recipe.train.seed, networks.factory)
    start = matched(floats, weights_in(files.weights, given.weights), names, given.weights)
    pretrained = None
    if files.pretrained is not None:  # its classifier may be of other classes, and is then drawn
        others = weights_in(files.pretrained, given.pretrained)
        pretrained = matched(floats, others, names, given.pretrained, any_head=True)
    chosen = samples_of(samples, recipe.data, device, samples.trainable(), "training set")
    before = accuracies(samples, recipe.data, _without_quantizers(floats, start).to(device), device)
    progress.note(f"float: {_said(before)}")
    model = build(recipe.model, shape, recipe.train.seed, networks.factory, start).to(device)
    with within_memory("[train] batch", recipe.train.batch):
        model, spent = _trained(model, chosen, recipe, networks.source, progress)
        requantize(model, chosen, batch=recipe.train.batch, seed=recipe.train.seed, progress=progress)
    scores = accuracies(samples, recipe.data, model, device)
    progress.note(f"quantized: {_said(scores)}")
    _require_accuracy(scores, recipe.adopt.min_accuracy, given.weights)
    return Adopted(
        run=run, checkpoint=networks.save(model, origin_of(samples, METHOD)),
        weights=sha256_of(files.weights), images=len(chosen), float_accuracy=before,
        accuracy=scores, spent=spent,
        pretrained=networks.save_start(pretrained) if pretrained else None,
    )  # fmt: skip


def unquantized(recipe: ModelRecipe) -> ModelRecipe:
    """The same network with float activations; weights are float without their quantizers."""
    changes = {"activation_bits": "float", "edge_bits": "float", "quantizer": "learned_step"}
    return recipe.model_copy(update=changes)


def _without_quantizers(model: Classifier, start: Mapping[str, Tensor]) -> Classifier:
    """The float network itself, as it was trained."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in start.items():
            own[name].copy_(tensor)
    initialise_weight_steps(model)
    for _, layer in weight_layers(model):
        layer.weight_quant.disable_quant = True
    return model.eval()


def _trained(
    model: Classifier, chosen: Samples, recipe: Recipe, source: bytes | None, progress: Progress
) -> tuple[Classifier, dict[str, int | float] | None]:
    """Calibrate, and train as `[adopt]` says; what that has cost."""
    augment, train = Augment(recipe.data.pad, recipe.data.flip), recipe.train
    if not recipe.adopt.epochs:
        calibrate_on(model, chosen, train.batch, torch.Generator().manual_seed(train.seed), augment)
        return model, None
    nothing = chosen.take(torch.empty(0, dtype=torch.int64))
    tuning = train.model_copy(update={"epochs": recipe.adopt.epochs, "lr": recipe.adopt.lr, "warmup": 0.0})
    data = ForgetRetain(forget=nothing, retain=chosen, validation=nothing, augment=augment, progress=progress)
    job = Job(
        method=TRAINING, model=model, data=data, given={}, train=tuning, seed=train.seed, source=source
    )  # fmt: skip
    with counting(chosen.device) as throughput:
        model, cost = measured_cost(job.shared)
    return model, {**cost, **throughput.spent(len(chosen))}


def _require_accuracy(scores: Mapping[str, float], least: float, weights: Path) -> None:
    of = "test" if "test" in scores else "validation"
    if least and not scores.get(of, 0.0) >= least:
        raise VerificationFailed(
            f"{weights}: accuracy after quantization is {scores.get(of, 0.0):.2%} on {of} images, [adopt] "
            f"min_accuracy is {least:.2%}; nothing was changed"
        )


def _said(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2%} of the {word} images" for word, value in scores.items())


def _counts(index: SampleIndex) -> dict[str, int]:
    return {split.word: int(np.count_nonzero(index.in_split(split))) for split in SampleSplit}
