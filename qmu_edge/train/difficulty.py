"""How hard each training image is: what the network thought of it early, before it knew it by heart.

A network that knows an image by heart is sure of it, however hard it was. In the first quarter of a training,
the logits by which a step is taken are those of an image that the network has seen a few times only. The mean
of their log-odds is kept, as a rank within the class: one byte for each image. A method that gives forgotten
images the confidences of unseen ones then knows which of them would be the hard ones.

Source: the area under the margin, arXiv:2001.10528, finds mislabelled images the same way. Differs: log-odds
    in place of the margin to the next logit, of the first quarter of the epochs, and ranks.
Shapes: n training images, N images of the dataset, b images of a batch, k classes.
"""

from typing import Final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from qmu_edge.runtime.device import sent
from qmu_edge.train.batches import Batch, Samples

UNKNOWN: Final = 255  # of images that the network was not trained on
EASIEST: Final = 254  # and 0 the hardest


def confidence(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Log-odds of the true class; above 0 it has more than half of the probability.

    >>> confidence(torch.tensor([[2.0, 0.0, -torch.inf]]), torch.tensor([0]))
    tensor([2.])
    """
    own = labels[:, None]  # a mask would make the host wait for the device
    return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).logsumexp(1)


def ranked(confidences: Float[Tensor, " n"], labels: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The share of images of the same class with a smaller confidence, half of the image itself included.

    >>> ranked(torch.tensor([5.0, -1.0, 2.0, 7.0]), torch.tensor([0, 0, 0, 1]))
    tensor([0.8333, 0.1667, 0.5000, 0.5000])
    """
    found = torch.empty(len(labels))
    for label in set(labels.tolist()):
        of = labels == label
        found[of] = (confidences[of].argsort(stable=True).argsort(stable=True) + 0.5) / of.sum()
    return found


def harder(own: UInt8[Tensor, " n"], among: UInt8[Tensor, " m"]) -> Float[Tensor, " n"]:
    """The share of other images that are harder, strictly between 0 and 1, by the bytes of both.

    >>> harder(torch.tensor([9, 0], dtype=torch.uint8), torch.tensor([1, 2, 9], dtype=torch.uint8))
    tensor([0.7500, 0.1250])
    """
    known, wanted = among.sort().values.int(), own.int()
    below, upto = (torch.searchsorted(known, wanted, right=right) for right in (False, True))
    return (below + upto + 1) / (2 * len(among) + 2)


def without(difficulty: UInt8[Tensor, " N"] | None, gone: Samples) -> UInt8[Tensor, " N"] | None:
    """The same, with nothing known of the images that are gone."""
    if difficulty is None:
        return None
    known = difficulty.clone()
    known[gone.index.cpu()] = UNKNOWN
    return known


def ease_of(
    difficulty: UInt8[Tensor, " N"] | None, images: Samples, among: Samples
) -> Float[Tensor, " n"] | None:
    """The share of the images `among` of the same class that are harder, for each of `images`.

    Returns:
        None where the difficulty of an image is not known, or of no image of its class.
    """
    if difficulty is None or len(difficulty) != len(images.pool):
        return None
    own, others = difficulty[images.index.cpu()], difficulty[among.index.cpu()]
    labels, classes = images.labels.cpu(), among.labels.cpu()
    found = torch.empty(len(own))
    for label in set(labels.tolist()):
        of = labels == label
        known = others[(classes == label) & (others != UNKNOWN)]
        if not len(known) or (own[of] == UNKNOWN).any():
            return None
        found[of] = harder(own[of], known)
    return found


class Difficulty:
    """What the network thinks of each image in the passes of the first quarter of its training.

    Attributes:
        epochs: Those in which it is asked: from the second on, because in the first it knows nothing.
        sums: Log-odds of each image in those that are over, float32 (n,), on the device of the samples.
    """

    def __init__(self, samples: Samples, epochs: int) -> None:
        """Of a training of so many epochs on `samples`."""
        last = round(epochs / 4)
        self.epochs = range(min(1, last), last + 1)
        self.sums = torch.zeros(len(samples), device=samples.device)
        self._samples = samples

    def see(self, batch: Batch, logits: Float[Tensor, "b k"]) -> None:
        """Add the log-odds that a step is taken by."""
        at = sent(batch.positions, self.sums.device)
        self.sums[at] += confidence(logits.float(), batch.labels)

    def noted(self) -> UInt8[Tensor, " N"]:
        """Ranks of the sums, for all images of the dataset that the samples were chosen from."""
        known = torch.full((len(self._samples.pool),), UNKNOWN, dtype=torch.uint8)
        share = ranked(self.sums.cpu(), self._samples.labels.cpu())
        known[self._samples.index.cpu()] = (share * EASIEST).round().to(torch.uint8)
        return known
