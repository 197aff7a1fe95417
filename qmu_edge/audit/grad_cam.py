"""Grad-CAM: does the file look at the same places of an image as the original did?

A heat map says which places of an image a network takes its class from. It is made of the last features that
still have places: each channel counts by the mean of its gradient, and the places where the sum is positive
speak for the class. Maps of original and file are compared by their correlation, one image at a time.

This is something to look at, and evidence of little: a file may look at the same places of a person it has
forgotten, because the places are those that show the class. What counts is the forgotten beside the unseen.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017, arXiv:1610.02391. Compared before and after unlearning as in arXiv:2111.08947.
Differs: of the network that the file was exported from, because a file has no gradients; gradients go through
    roundings as in training. Of the last features of at least 4 x 4 places, and not of the last ones, which
    small images leave one place. Maps are correlated before their negative places are cut off.
Shapes: n images, c channels, i x j places.
"""

from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, fx

from qmu_edge.audit.attack import Attack, Sizes, Work
from qmu_edge.audit.subject import Attacked, Known, Subject
from qmu_edge.errors import ConfigError
from qmu_edge.models.follow import follow
from qmu_edge.models.kinds import weighted
from qmu_edge.models.layers import Classifier
from qmu_edge.project.audits import Estimate, Finding

FORGOTTEN: Final = "heat maps of forgotten images as before, mean correlation"
RETAINED: Final = "heat maps of retained images as before, mean correlation"
IMAGES: Final = 200
LEAST_PLACES: Final = 4  # on a side
_BATCH: Final = 50
_Z: Final = 1.96

Maps = Float[np.ndarray, "n i j"]


class _Places(fx.Interpreter):
    """Runs a network and keeps the last features of a layer that have places."""

    def __init__(self, model: Classifier) -> None:
        graph = follow(model)
        super().__init__(fx.GraphModule(model, graph))
        self.features: Tensor | None = None
        self.begun = self.in_rows = False
        self._layers = {node.name for node in weighted(model, graph)}

    def run_node(self, n: fx.Node) -> Any:
        """What a call gives."""
        found = super().run_node(n)
        self.begun |= n.name in self._layers
        if isinstance(found, Tensor):
            self.in_rows |= found.dim() == 3  # of tokens: from here on, four dimensions are none of places
            if self.begun and not self.in_rows and found.dim() == 4 and min(found.shape[2:]) >= LEAST_PLACES:
                self.features = found
        return found


def heat_maps(
    model: Classifier, images: Float[Tensor, "n c h w"], labels: Integer[Tensor, " n"]
) -> Float[Tensor, "n i j"]:
    """What speaks for the class of each image, and with a minus against it, place by place.

    Args:
        model: In evaluation mode.
        images: 0..1, on its device.
        labels: Their classes.

    Raises:
        ConfigError: No features have 4 x 4 places, as of images that small.
    """
    running = _Places(model)
    with torch.enable_grad():
        logits = running.run(images.detach().requires_grad_())
        if running.features is None:
            raise ConfigError(f"no features of at least {LEAST_PLACES} x {LEAST_PLACES} places")
        chosen = logits.gather(1, labels[:, None]).sum()
        (slope,) = torch.autograd.grad(chosen, running.features)
    return (slope.mean((2, 3), keepdim=True) * running.features.detach()).sum(1)


def maps_of(attacked: Attacked, known: Known, device: torch.device) -> Maps:
    """Heat maps of the network of a file for the images of a set."""
    model, found = attacked.network().eval(), []
    for start in range(0, len(known), _BATCH):
        images = torch.from_numpy(known.images[start : start + _BATCH]).to(device) / 255.0
        labels = torch.from_numpy(known.labels[start : start + _BATCH]).to(device)
        found.append(heat_maps(model, images, labels).cpu().numpy())
    return np.concatenate(found)


def likeness(before: Maps, after: Maps) -> Float[np.ndarray, " n"]:
    """Correlation of two maps of each image over its places; 0 where one of them is constant.

    >>> one = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> [round(float(likeness(one, k * one)[0]), 3) for k in (10, -1, 0)]
    [1.0, -1.0, 0.0]
    """
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (before, after))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found: np.ndarray = (a * b).sum(axis=1) / np.maximum(lengths, 1e-30)
    return found


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten, beside the unseen; and of the retained."""
    sets = (subject.forgotten, subject.unseen, subject.retained)
    forgotten, unseen, retained = (_compared(subject, known) for known in sets)
    return (
        Finding(quantity=FORGOTTEN, file=forgotten, unknowing=unseen),
        Finding(quantity=RETAINED, file=retained),
    )


def _compared(subject: Subject, known: Known) -> Estimate | None:
    if not len(known):
        return None
    generator = np.random.default_rng(subject.seed)
    some = known.take(generator.permutation(len(known))[:IMAGES])
    device = subject.means.samples(some.take(np.arange(1))).device
    found = likeness(*(maps_of(file, some, device) for file in (subject.original, subject.file)))
    mean, error = float(found.mean()), _Z * float(found.std()) / max(1.0, subject.effective(some)) ** 0.5
    low, high = max(-1.0, mean - error), min(1.0, mean + error)
    return Estimate(round(mean, 4), round(low, 4), round(high, 4))


def work(sizes: Sizes) -> Work:
    """Two networks, forward and backward."""
    images = sum(min(IMAGES, n) for n in (sizes.forgotten, sizes.unseen, sizes.retained))
    return Work(trained=2.0 * images, networks=6)


ATTACK: Final = Attack(
    run=run, work=work, quantities=(FORGOTTEN, RETAINED),
    summary="whether the file looks at the same places as before",
)  # fmt: skip
