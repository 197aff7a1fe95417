"""Relearn time: how many passes over forgotten images until the network is as good on them as it was?

What was only hidden returns after a few steps. The network of the file is trained on forgotten images, in
memory and in a copy that is never stored, until it recognises as many of them as the original did; and
another copy on unseen images of the same classes, which it has to learn from nothing.

Source: Tarun et al., "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023, arXiv:2111.08947.
Differs: forgotten images alone, not a mixture with others; SGD at a fixed, small learning rate (they name
    none); accuracy in evaluation mode, as exported; unseen images to compare with, and no retrained network.
"""

import copy
from typing import Final

import torch

from qmu_edge.audit.attack import Attack, Sizes, Work
from qmu_edge.audit.matched import matched
from qmu_edge.audit.rates import share_of
from qmu_edge.audit.subject import Known, Subject
from qmu_edge.io.progress import Progress
from qmu_edge.models.layers import Classifier
from qmu_edge.project.audits import Estimate, Finding
from qmu_edge.train.batches import Samples, steps_per_epoch
from qmu_edge.train.fit import accuracy, predict
from qmu_edge.train.loop import Descent, Optimization, cross_entropy

LR: Final = 1e-3
LIMIT: Final = 20
IMAGES: Final = 500
EPOCHS: Final = f"passes until as accurate as the original was, at most {LIMIT}"
BEFORE: Final = "recognised before that"


def relearn_epochs(
    model: Classifier,
    forget: Samples,
    target: float,
    generator: torch.Generator,
    *,
    limit: int = LIMIT,
    images: int = IMAGES,
    batch: int = 64,
) -> int:
    """Epochs on forget images until the network reaches `target` on them; `limit` when it does not.

    Args:
        model: Not changed.
        forget: The forget set.
        target: Accuracy to reach, a fraction.
        generator: On the CPU; draws the images of each epoch and their order.
        limit: Largest number of epochs.
        images: Forget images of one epoch.
        batch: Images per step.
    """
    student = copy.deepcopy(model)
    steps = limit * steps_per_epoch(min(images, len(forget)), batch)
    descent = Descent(student, optimization(LR), max(1, steps), Progress())
    for epoch in range(limit):
        if accuracy(student, forget) >= target:
            return epoch
        some = torch.randperm(len(forget), generator=generator)[:images]
        one_epoch(student, forget.take(some), descent, generator, batch)
    return limit


def optimization(lr: float) -> Optimization:
    """How a copy is trained."""
    return Optimization(lr=lr, momentum=0.9, weight_decay=5e-4, schedule="constant")


def one_epoch(
    model: Classifier, samples: Samples, descent: Descent, generator: torch.Generator, batch: int
) -> None:
    """Train on each image once; evaluation mode afterwards."""
    model.train()
    descent.epoch(cross_entropy(model), samples.batches(batch, generator))
    model.eval()


def recognised(subject: Subject, model: Classifier, known: Known) -> Estimate:
    """The share of a set that a network recognises."""
    samples = subject.means.samples(known)
    hits = (predict(model, samples).argmax(1) == samples.labels.cpu()).numpy()
    return share_of(hits, subject.effective(known))


def run(subject: Subject) -> tuple[Finding, ...]:
    """Passes of the file, beside those that unseen images of the same classes take."""
    forgotten, unseen = matched(subject, IMAGES)
    target = accuracy(subject.original.network(), subject.means.samples(forgotten))
    model = subject.file.network()

    def passes(known: Known) -> Estimate:
        generator = torch.Generator().manual_seed(subject.seed)
        return Estimate(float(relearn_epochs(model, subject.means.samples(known), target, generator)))

    return (
        Finding(quantity=EPOCHS, file=passes(forgotten), unknowing=passes(unseen)),
        Finding(
            quantity=BEFORE, file=recognised(subject, model, forgotten),
            unknowing=recognised(subject, model, unseen),
        ),
    )  # fmt: skip


def work(sizes: Sizes) -> Work:
    """Two copies, as many passes as allowed."""
    return Work(trained=2.0 * LIMIT * 1.4 * min(IMAGES, sizes.forgotten, sizes.unseen), networks=4)


ATTACK: Final = Attack(
    run=run, work=work, quantities=(EPOCHS, BEFORE),
    summary="how quickly the forgotten is learned again",
)  # fmt: skip
