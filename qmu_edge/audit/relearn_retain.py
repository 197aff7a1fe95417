"""Relearning from retained images: does the forgotten return though nobody shows it?

After one pass over retained images alone some networks recognise again what they seemed to have forgotten.
So would a product that goes on training after a deletion.

Source: "weight distortion", arXiv:2505.22310: accuracy on forgotten images returns by fine-tuning on retained
    data.
Differs: one pass at a fixed learning rate; beside the forgotten stand unseen images of the same classes,
    which may also be recognised better after more training, and no retrained network.
"""

import copy
from typing import Final

import torch

from qmu_edge.audit.attack import Attack, Sizes, Work
from qmu_edge.audit.matched import matched
from qmu_edge.audit.relearn import LR, one_epoch, optimization, recognised
from qmu_edge.audit.subject import Subject
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.project.audits import Finding
from qmu_edge.train.batches import Samples, steps_per_epoch
from qmu_edge.train.fit import accuracy
from qmu_edge.train.loop import Descent

BEFORE: Final = "recognised before training on retained images"
AFTER: Final = "recognised after training on retained images"


def relearned_from_retain(
    model: Classifier, retain: Samples, forget: Samples, generator: torch.Generator, *, batch: int = 64
) -> float:
    """Accuracy on forget images after one epoch on retain images alone; `model` is not changed."""
    return accuracy(taught(model, retain, generator, batch=batch), forget)


def taught(model: Classifier, retain: Samples, generator: torch.Generator, *, batch: int = 64) -> Classifier:
    """A copy after one epoch on retain images."""
    student = copy.deepcopy(model)
    steps = steps_per_epoch(len(retain), batch)
    descent = Descent(student, optimization(10 * LR), max(1, steps), Progress())
    one_epoch(student, retain, descent, generator, batch)
    return student


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of original and file, and of unseen images under the file."""
    forgotten, unseen = matched(subject)
    old, new = subject.original.network(), subject.file.network()

    def student(model: Classifier) -> Classifier:
        generator = torch.Generator().manual_seed(subject.seed)
        return taught(model, subject.means.samples(subject.retained), generator)

    pairs = ((BEFORE, old, new), (AFTER, student(old), student(new)))
    return tuple(
        Finding(
            quantity=name, original=recognised(subject, before, forgotten),
            file=recognised(subject, after, forgotten), unknowing=recognised(subject, after, unseen),
        )
        for name, before, after in pairs
    )  # fmt: skip


def work(sizes: Sizes) -> Work:
    """One pass of each copy."""
    return Work(trained=2.0 * sizes.retained, networks=4)


ATTACK: Final = Attack(
    run=run, work=work, quantities=(BEFORE, AFTER),
    summary="whether the forgotten returns by training on retained images",
)  # fmt: skip
