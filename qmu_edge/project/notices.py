"""What `init` says of a dataset beyond counting it: what cannot be measured, or is not as it may seem."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.data.subjects import spelled_alike
from qmu_edge.errors import ConfigError, few
from qmu_edge.verify.residual import LEAST_UNSEEN

if TYPE_CHECKING:
    from qmu_edge.data.pictures import Source

_SHOWN: Final = 5


def require_trainable(index: SampleIndex) -> None:
    """Refuse a dataset of which no network could be judged.

    Raises:
        ConfigError: Training images of fewer than two classes.
    """
    found = len(np.unique(index.labels[index.in_split(SampleSplit.TRAIN)]))
    if found < 2:
        raise ConfigError(
            f"dataset: training images of {found} classes, allowed at least 2: of a single class nothing can "
            "be told apart, so no file could be judged"
        )


def notices(index: SampleIndex) -> list[str]:
    """Sentences about a dataset that may be other than it was meant, or too small."""
    images = {split: index.in_split(split) for split in SampleSplit}
    validation, test = images[SampleSplit.VALIDATION], images[SampleSplit.TEST]
    unseen = max(int(test.sum()), int(validation.sum()))
    trained, tested = (
        set(index.labels[of].tolist()) for of in (images[SampleSplit.TRAIN] | validation, test)
    )
    found = []
    if not test.any():
        found.append("no test images: test accuracy is not measured, and verdicts look at validation images")
    else:
        found += _only(index, trained - tested, "trained on and never tested")
        found += _only(index, tested - trained, "tested and never trained on")
    if not validation.any():
        found.append("no validation images: methods that need them are passed over")
    if unseen < LEAST_UNSEEN:
        found.append(
            f"{unseen} unseen images (test, or else validation), at least {LEAST_UNSEEN} are needed to "
            "measure what is left"
        )
    return found + _people(index)


def _people(index: SampleIndex) -> list[str]:
    """How many images no request for a person can find, wherever the set or a list says whose they are."""
    total, unknown = len(index.ids), len(index.ids) - int(index.subjects.raw.any(axis=1).sum())
    if unknown == total:
        return [
            "whose the images are is not known: requests can name samples and classes, and no person; init "
            "--subjects takes a list"
        ]
    said = f"whose {unknown} of {total} images are is not known: no request for a person finds these"
    return [said] if unknown else []


def names_alike(source: "Source") -> list[str]:
    """A sentence where the set's own names of people differ in case or spacing only; no name is said."""
    places: dict[str, int] = {}
    for i, people in enumerate(source.subjects):
        for name in people:
            places.setdefault(name, i)
    found = spelled_alike(places)
    if not found:
        return []
    first = " and ".join(source.ids[i] for i in found[0][:_SHOWN])
    return [f"{len(found)} names differ in case or spacing only, the first are those of {first}"]


def _only(index: SampleIndex, labels: Iterable[int], what: str) -> list[str]:
    names = [index.class_names[i] for i in sorted(labels)]
    return [f"classes {what}: {few(names, _SHOWN)}"] if names else []
