"""The form of an attack: what it does with a subject, and what it costs."""

from collections.abc import Callable
from dataclasses import dataclass

from qmu_edge.audit.subject import Subject
from qmu_edge.project.audits import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large an audit is.

    Attributes:
        forgotten, unseen, retained: Images of each set.
        training: All images that may be trained on, of which the retained ones are a sample.
        views: How often each image goes through a file for a score.
        epochs: Of a training, and of a reference; with those of its teacher.
    """

    forgotten: int
    unseen: int
    retained: int
    training: int
    views: int
    epochs: int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an attack is made of, for the time that it is expected to take.

    Attributes:
        forward: Images through an exported file.
        trained: Images through a network like the project's own, forward and backward.
        references: Images through a float network like a reference, forward and backward.
        networks: Networks that are loaded or copied.
        exports: Files that are exported.
        seconds: Of what is the same for every network and number of images.
    """

    forward: float = 0.0
    trained: float = 0.0
    references: float = 0.0
    networks: int = 0
    exports: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """An attack.

    Attributes:
        run: Makes it. Deterministic for the subject's seed on one machine.
        work: What that takes.
        summary: In a few words.
        quantities: Every text that may stand in `Finding.quantity`: the linter knows no other.
        calibrated: Whether it needs what networks expect of an image that they never saw.
        compares: Whether it compares forgotten with unseen images.
    """

    run: Callable[[Subject], tuple[Finding, ...]]
    work: Callable[[Sizes], Work]
    summary: str
    quantities: tuple[str, ...]
    calibrated: bool = False
    compares: bool = True


def on_compared(sizes: Sizes) -> Work:
    """Original and file on forgotten and unseen images."""
    return Work(forward=2.0 * sizes.views * (sizes.forgotten + sizes.unseen))


def on_all(sizes: Sizes) -> Work:
    """Original and file on all three sets."""
    return Work(forward=2.0 * sizes.views * (sizes.forgotten + sizes.unseen + sizes.retained))
