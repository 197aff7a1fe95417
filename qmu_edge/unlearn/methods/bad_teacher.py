"""Bad teacher: distil an untrained network on forget images, the original network on retain images.

The resulting predictions on forget images are nearly uniform, which a membership inference test can detect.
The method serves as a baseline.

Source: Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting?", AAAI 2023,
    arXiv:2205.08096.
Differs: the untrained teacher is quantized like the network itself; its activation steps and batch-norm
    statistics come from retain images. Batch-norm statistics of the network stay; scales are frozen.
"""

from dataclasses import dataclass
from itertools import count, islice
from typing import Final

import torch
from torch import Tensor

from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches
from qmu_edge.models.layers import Classifier
from qmu_edge.recipe import Count, Fraction, Positive
from qmu_edge.request.split import Passes
from qmu_edge.runtime.device import sent
from qmu_edge.runtime.throughput import FORWARD_ONLY
from qmu_edge.train.batches import Batch, ForgetRetain, Samples, steps_per_epoch
from qmu_edge.train.loop import Descent, Optimization, train_mode
from qmu_edge.unlearn.distillation import divergence, subset, teacher
from qmu_edge.unlearn.method import TRAINED, Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyperparameters of the bad teacher.

    Attributes:
        epochs: Passes over the forget set and the chosen retain images.
        lr: Learning rate of Adam; 1e-4 as released changes few integer codes at low bit widths.
        batch: Images per step, of both sets.
        retain_share: How much of the retain set is used, 0..1, at least one image.
        statistics_batches: Fewest retain batches for the batch-norm statistics of the untrained teacher;
            after 30 of them the initial values have a weight of 4 %.
    """

    epochs: Count = 1
    lr: Positive = 2e-3
    batch: Count = 128
    retain_share: Fraction = 0.3
    statistics_batches: Count = 30


def untrained(model: Classifier, retain: Samples, params: Params, generator: torch.Generator) -> Classifier:
    """A teacher of the architecture of `model` with random weights, calibrated on retain images."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    fresh = build(model.recipe, model.shape, seed, model.factory).to(retain.device)
    images = (b.images for _ in count() for b in retain.batches(params.batch, generator))
    calibrate(fresh, islice(images, max(params.statistics_batches, calibration_batches(fresh))))
    return teacher(fresh)


def run(model: Classifier, data: ForgetRetain, params: Params, generator: torch.Generator) -> Classifier:
    """Unlearn `data.forget` from `model`, in place.

    Raises:
        UnlearnError: A set is empty, or the loss is not finite.
    """
    data.retain.require_some("retain")
    both = data.forget + subset(data.retain, params.retain_share, generator)
    bad, good = untrained(model, data.retain, params, generator), teacher(model)
    settings = Optimization.of(params, optimizer="adam", schedule="constant")
    steps = params.epochs * steps_per_epoch(len(both), params.batch)
    descent = Descent(model, settings, steps, data.progress)

    def loss(b: Batch) -> Tensor:
        forget = sent(b.positions < len(data.forget), both.device)
        with torch.no_grad():
            target = torch.where(forget[:, None], bad(b.images), good(b.images))
        return divergence(target, model(b.images))

    data.progress.start("bad_teacher", params.epochs * len(both))
    train_mode(model, statistics=False)
    for _ in range(params.epochs):
        descent.epoch(loss, both.batches(params.batch, generator, data.augment))
    data.progress.finish()
    return model


def work(params: Params) -> Passes:
    """Both teachers and the network see every batch."""
    each = params.epochs * (1.0 + 2.0 * FORWARD_ONLY)
    return Passes(each, each * params.retain_share)


METHOD: Final = Method(
    run=run, params=Params, work=work,
    summary="imitates an untrained network on the forget set, the original on retain images",
    touches=TRAINED - {"bn_stats"},
)  # fmt: skip
