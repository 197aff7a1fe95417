"""What a verdict on a request could show, before any work is done for it."""

from dataclasses import dataclass
from typing import Final, NotRequired, TypedDict

import numpy as np

from qmu_edge.data.shards import owners
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import Recipe
from qmu_edge.request.split import EmptiedClasses, Split
from qmu_edge.verify.metrics import effective_number
from qmu_edge.verify.residual import LEAST_REFERENCES, Sensitivity
from qmu_edge.verify.verdict import NO_REFERENCES, too_few_unseen

# A method that costs a fifth of retraining is worth trying where it can be shown to have worked that often.
WORTH_TRYING: Final = 0.2
NUMBERS: Final = (1, 5, 20, 100, 500)
SEEN: Final = 0.5  # where the most images are told less often, it is not for want of images


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a test of so many images can show.

    Attributes:
        images: To be forgotten, of classes that stay.
        effective: So many images of as many people would say as much.
        references: Networks that never saw an image; 0 where there are none.
        detects: How often a full trace is detected.
        proves: How often a network that never saw the images is shown to know at most `most` of a trace.
        most: The policy's `max_residual`.
        why: What is missing, where nothing or little can be shown, beside images.
    """

    images: int
    effective: float
    references: int
    detects: float
    proves: float
    most: float
    why: str = ""

    @property
    def hopeless(self) -> bool:
        """Whether nothing but retraining is likely to be released."""
        return self.proves < WORTH_TRYING

    def __str__(self) -> str:
        """In words.

        >>> print(Foreseen(images=12, effective=12.0, references=4, detects=0.62, proves=0.08, most=0.25))
        12 images and 4 references: detects a full trace with 62 %, proves at most 25 % left with 8 %
        """
        if self.references == 0:
            return self.why or NO_REFERENCES
        detects, most, proves = (f"{100 * share:.0f} %" for share in (self.detects, self.most, self.proves))
        return (
            f"{self.images} images and {self.references} references: detects a full trace with {detects}, "
            f"proves at most {most} left with {proves}{f'; {self.why}' if self.why else ''}"
        )


class Verdicts(TypedDict):
    """What a test can see, by number of images.

    Attributes:
        networks: References behind it.
        detects: How often a full trace is detected.
        proves: How often it is shown that at most the allowed share is left.
        why: See `hardly_known`; missing where it has nothing to say.
    """

    networks: int
    detects: dict[str, float]
    proves: dict[str, float]
    why: NotRequired[str]


def by_number(known: Sensitivity, results: Results, recipe: Recipe) -> Verdicts:
    """How often a test detects a full trace, and proves that little is left, by number of images."""
    most, why = recipe.policy.max_residual, hardly_known(known, results, recipe)
    found: Verdicts = {
        "networks": known.references,
        "detects": {str(n): round(known.power(float(n)), 4) for n in NUMBERS},
        "proves": {str(n): round(known.proof(float(n), most), 4) for n in NUMBERS},
    }
    return {**found, "why": why} if why else found


def hardly_known(known: Sensitivity, results: Results, recipe: Recipe) -> str:
    """Why a test sees little, where it would not see more with more images; else "".

    Accuracies do not tell: a network that knows no image by heart may be good, or have hardly been trained.
    """
    seen = known.power(float(NUMBERS[-1]))
    if seen >= SEEN:
        return ""
    found = results.adopted()
    name = "train" if found is None or found.retrained else "adopt"
    epochs = getattr(recipe, name).epochs
    return (
        f"of {NUMBERS[-1]} images it would be {100 * seen:.0f} %: the network is hardly surer of its "
        f"training images than of unseen ones; a training of more than [{name}] epochs = {epochs} leaves "
        "more to measure"
    )


def foresee(
    results: Results, samples: ProjectSamples, recipe: Recipe, split: Split, emptied: EmptiedClasses
) -> Foreseen | None:
    """What a verdict on this split could show; None where it is not known, or does not depend on references.

    Whole classes need no references, and those of one request are not trained yet.
    """
    index, most = samples.index, recipe.policy.max_residual
    left = split.forget[~np.isin(index.labels[split.forget], emptied.classes)]
    if not len(left) or recipe.references.trained == "per_request":
        return None
    known = results.sensitivity() if recipe.references.trained == "once" else None
    n = len(left)
    if known is None:
        few = too_few_unseen(max(len(split.test), len(split.validation)))
        return Foreseen(
            images=n, effective=0.0, references=0, detects=0.0, proves=0.0, most=most,
            why=few if len(results.banks()) >= LEAST_REFERENCES else "",
        )  # fmt: skip
    effective = effective_number(owners(index, left), known.intraclass)
    return Foreseen(
        images=n, effective=effective, references=known.references, detects=known.power(effective),
        proves=known.proof(effective, most), most=most, why=hardly_known(known, results, recipe),
    )  # fmt: skip
