"""The network of an adoption: from float weights, which are quantized here, or from what is quantized.

Of a checkpoint of quantization-aware training, and of a deployed file, codes and steps are taken as they are:
nothing is trained. A network that does not answer as its file does under onnxruntime is refused. Of a
checkpoint it is only said how far the two agree: PyTorch itself rounds ties in another way than any file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from qmu_edge.errors import ConfigError, ExportError, IntegrityError
from qmu_edge.export.brought import in_words, normalisation
from qmu_edge.export.qoperators import QOPERATORS
from qmu_edge.export.read_back import agreement, as_exported, read_back
from qmu_edge.io.files import read_regular
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import measured_cost
from qmu_edge.models.build import build
from qmu_edge.models.calibration import (
    initialise_weight_steps,
    require_calibrated,
    uncalibrated,
)  # fmt: skip
from qmu_edge.models.deploy import settle
from qmu_edge.models.layers import Classifier
from qmu_edge.models.names import QUANTIZER, matched, names_in
from qmu_edge.models.own import OwnNetwork, take_state
from qmu_edge.models.weights_file import MAX_BYTES, weights_in
from qmu_edge.pipeline.distributed import Job
from qmu_edge.pipeline.inputs import samples_of, shape_of
from qmu_edge.pipeline.networks import Networks
from qmu_edge.pipeline.release import parity_images
from qmu_edge.pipeline.train_run import accuracies
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import ModelRecipe, Recipe
from qmu_edge.runtime.memory import within_memory
from qmu_edge.runtime.throughput import counting
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.train.fit import calibrate_on
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.onnx.reader import DOMAINS, parse_file
from qmu_edge.verify.parity import Parity, require_parity

MUCH: Final = 0.1  # of accuracy, lost by quantization and the training behind it
_WHY: Final = (
    "; a tool that rounds otherwise may be allowed by [policy] min_agreement; a file that takes images "
    "normalised outside of it differs far more, and is to be exported with [data] mean and std inside"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is brought.

    Attributes:
        weights: File of the network's weights; a deployed one where its name ends in .onnx.
        trained_on: What it has seen, see `qmu_edge.data.declared`.
        names: File of names that differ; None where none do.
        pretrained: File of the weights that retraining starts from; None to start from scratch.
    """

    weights: Path
    trained_on: str
    names: Path | None = None
    pretrained: Path | None = None

    @property
    def deployed(self) -> bool:
        """Whether it is a deployed file."""
        return self.weights.suffix == ".onnx"

    def read(self) -> "Files":
        """The content of each file, once."""
        names, pretrained = (_content(f) if f else None for f in (self.names, self.pretrained))
        return Files(_content(self.weights), names, pretrained)


class Files(NamedTuple):
    """Content of the files of `Given`; None where there is none."""

    weights: bytes
    names: bytes | None
    pretrained: bytes | None


def _content(path: Path) -> bytes:
    return read_regular(path, limit=MAX_BYTES, error=ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A network that is ready to be adopted.

    Attributes:
        model: Calibrated.
        accuracy: In PyTorch, see `accuracies`; `float_accuracy` before quantization, None of a deployed file.
        agreement: How far the network as it is exported agrees with what was brought; None of float weights.
        spent: What training has cost; None where nothing was trained.
    """

    model: Classifier
    accuracy: Mapping[str, float]
    float_accuracy: Mapping[str, float] | None = None
    agreement: Mapping[str, int | float] | None = None
    spent: Mapping[str, int | float] | None = None


@dataclass(frozen=True)
class Adoption:
    """One adoption, with the parts of the project that it reads.

    Attributes:
        given, files: What is brought, and its content.
        networks, samples, recipe, progress: Of the project; the samples are split as is declared.
        device: Where to compute.
    """

    given: Given
    files: Files
    networks: Networks
    samples: ProjectSamples
    recipe: Recipe
    device: torch.device
    progress: Progress

    def made(self) -> Made:
        """The network.

        Raises:
            ConfigError: A file cannot be used for the recipe's network.
            ExportError: The deployed file cannot be trained; the node is named.
        """
        return self._from_file() if self.given.deployed else self._from_weights()

    def _from_weights(self) -> Made:
        recipe, weights = self.recipe, weights_in(self.files.weights, self.given.weights)
        if any(QUANTIZER in name for name in weights) or self._knows_its_steps:
            return self._from_checkpoint(weights)
        start = matched(self._floats, weights, self._names, self.given.weights)
        before = self._accuracies(_without_quantizers(self._floats, start))
        self.progress.note(f"float: {_said(before)}")
        model, chosen = self._built(recipe.model, start).to(self.device), self._chosen(self.device)
        with within_memory("[train] batch", recipe.train.batch):
            model, spent = _trained(model, chosen, recipe, self.networks.source, self.progress)
            requantize(
                model, chosen, batch=recipe.train.batch, seed=recipe.train.seed, progress=self.progress
            )
        scores = self._accuracies(model)
        self.progress.note(f"quantized: {_said(scores)}")
        if lost := _lost(before, scores):
            self.progress.warn(lost)
        return Made(model=model, accuracy=scores, float_accuracy=before, spent=spent)

    def _from_checkpoint(self, weights: Mapping[str, Tensor]) -> Made:
        """Weights and quantizers of quantization-aware training: everything is taken as it is."""
        model = self._built(self.recipe.model)
        brought: nn.Module = model
        if isinstance(model, OwnNetwork) and model.of_brevitas:
            brought = take_state(model, weights, self._names, self.given.weights)
        else:
            found = matched(model, weights, self._names, self.given.weights, quantizers=True)
            model.load_state_dict(found, strict=False)  # without the counters of batches
        require_calibrated(model)
        images = parity_images(self.samples, self.recipe.policy.parity_inputs)
        if brought is not model:
            settle(model.eval(), images.shape[-1], keep_scales=True)
        same = self._agreed(as_exported(model.eval(), brought.eval(), images))
        return Made(model=model, accuracy=self._as_brought(model), agreement=same)

    @cached_property
    def _knows_its_steps(self) -> bool:
        """Whether it is a network of Brevitas whose steps are constants, or follow from the weights."""
        model = self._built(self.recipe.model)
        return isinstance(model, OwnNetwork) and model.of_brevitas and not uncalibrated(model)

    def _agreed(self, found: Parity) -> Mapping[str, int | float]:
        """How far the network that is exported agrees with what was brought."""
        self.progress.note(
            f"as exported and as brought: on {found.n} images (test images first) {found.agreement:.2%} of "
            f"predictions agree, the logits differ by {found.max_abs_difference:g} at most"
        )
        return asdict(found)

    def _why(self) -> str:
        """What may be the cause where file and network disagree."""
        data = self.recipe.data
        own, theirs = in_words(data.mean, data.std), normalisation(self.files.weights)
        return _WHY if theirs in ("", own) else f"; the file has {theirs} inside, [data] has {own}"

    def _as_brought(self, model: Classifier) -> Mapping[str, float]:
        """Accuracies of what was not trained here; only its owner knows whether they are right."""
        scores = self._accuracies(model)
        self.progress.note(
            f"as brought: {_said(scores)}; where you know it as better, [data] mean, std or size is not that "
            "of its training, or the classes are in another order"
        )
        return scores

    def _from_file(self) -> Made:
        path, policy = self.given.weights, self.recipe.policy
        try:
            parse_file(self.files.weights, path, DOMAINS | {QOPERATORS})  # the policy for model files
        except (IntegrityError, ExportError) as error:  # nothing of ours is damaged, or was exported
            raise ConfigError(str(error)) from None
        if self.given.names is not None and self.given.pretrained is None:
            raise ConfigError(f"{self.given.names}: a deployed file is followed by its graph, not by names")
        model, chosen = self._built(self.recipe.model), self._chosen(torch.device("cpu"))
        read_back(self.files.weights, model, chosen, path)
        images = parity_images(self.samples, policy.parity_inputs)
        settle(model, images.shape[-1], keep_scales=True)
        found = agreement(self.files.weights, model, images)
        same = self._agreed(found)
        try:
            require_parity(found, min_agreement=policy.min_agreement, min_inputs=policy.parity_inputs)
        except ExportError as error:
            why = "" if found.n < policy.parity_inputs else self._why()
            raise ExportError(f"{path}: {error}{why}") from None
        return Made(model=model, accuracy=self._as_brought(model), agreement=same)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return names_in(self.files.names, self.given.names) if self.files.names is not None else {}

    @cached_property
    def _floats(self) -> Classifier:
        return self._built(self.recipe.model.unquantized())

    def _built(self, model: ModelRecipe, start: Mapping[str, Tensor] | None = None) -> Classifier:
        shape = shape_of(self.samples, self.recipe.data)
        return build(model, shape, self.recipe.train.seed, self.networks.factory, start)

    def pretrained(self) -> Mapping[str, Tensor] | None:
        """What retraining starts from; its classifier may be of other classes, and is then drawn."""
        if self.files.pretrained is None:
            return None
        tensors = weights_in(self.files.pretrained, self.given.pretrained)
        return matched(self._floats, tensors, self._names, self.given.pretrained, any_head=True)

    def _chosen(self, device: torch.device) -> Samples:
        return samples_of(self.samples, self.recipe.data, device, self.samples.trainable(), "training set")

    def _accuracies(self, model: Classifier) -> Mapping[str, float]:
        return accuracies(self.samples, self.recipe.data, model.to(self.device), self.device)


def _without_quantizers(model: Classifier, start: Mapping[str, Tensor]) -> Classifier:
    """The float network itself, as it was trained."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in start.items():
            own[name].copy_(tensor)
    initialise_weight_steps(model)
    for module in model.modules():
        for proxy in (getattr(module, "weight_quant", None), getattr(module, "act_quant", None)):
            if proxy is not None:
                proxy.disable_quant = True
    return model.eval()


def _trained(
    model: Classifier, chosen: Samples, recipe: Recipe, source: bytes | None, progress: Progress
) -> tuple[Classifier, dict[str, int | float] | None]:
    """Calibrate, and train as `[adopt]` says; what that has cost."""
    augment, train = Augment.of(recipe.data), recipe.train
    if not recipe.adopt.epochs:
        calibrate_on(model, chosen, train.batch, torch.Generator().manual_seed(train.seed), augment)
        return model, None
    tuning = train.model_copy(
        update={"epochs": recipe.adopt.epochs, "lr": recipe.adopt.lr, "warmup": 0.0, "distillation": 0.0}
    )
    job = Job.training(model, chosen, tuning, augment, source=source, progress=progress)
    with counting(chosen.device) as throughput:
        model, cost = measured_cost(job.shared)
    model.difficulty = None  # of images that the network has known for long
    return model, {"seconds": cost["seconds"], "peak_mb": cost["peak_mb"], **throughput.spent(len(chosen))}


def _lost(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """What to say where quantization and the training behind it cost more than is usual.

    >>> _lost({"validation": 0.9, "test": 0.88}, {"validation": 0.89, "test": 0.4})[:41]
    '48.00 points of the test images were lost'
    >>> _lost({"validation": 0.9}, {"validation": 0.85}) is None
    True
    """
    worst = max(before, key=lambda word: before[word] - after[word], default=None)
    if worst is None or before[worst] - after[worst] <= MUCH:
        return None
    return (
        f"{100 * (before[worst] - after[worst]):.2f} points of the {worst} images were lost: images may be "
        "augmented otherwise than in its own training ([data] pad, flip), [adopt] lr may be too high, or too "
        "few bits; with [adopt] epochs = 0 nothing is trained on, and [adopt] min_accuracy refuses the rest"
    )


def _said(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2%} of the {word} images" for word, value in scores.items())
