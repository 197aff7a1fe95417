"""What each method would cost on a request, before any work is done for it.

A method's hyperparameters say how often it takes the images of a request's sets through the network, forward
and backward; training has shown how long one image takes on this machine. What is around a rung (loading,
re-quantization, export, verification) is the same for all, and is what it was for the last request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from qmu_edge.project.results import Results
from qmu_edge.recipe import RETRAIN, Recipe
from qmu_edge.request.split import Passes, Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Step

AROUND: Final = (Step.REQUANTIZED, Step.EXPORTED, Step.VERIFIED, Step.RECEIPTED)
AROUND_S: Final = 5.0  # of the first request, beside AROUND_EPOCHS of training
AROUND_EPOCHS: Final = 0.5
REFERENCE: Final = 0.5  # of the network's time: references are float networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What methods would cost on one split.

    Attributes:
        images: Images that each takes through the network, forward and backward; with those of references
            that are trained for the request alone.
        per_image: Seconds for one; 0 where no training was measured on this project.
        around: Seconds of everything else.
    """

    images: Mapping[str, float]
    per_image: float
    around: float

    def seconds(self, method: str) -> float | None:
        """Of a rung with everything around it; None where that is not known."""
        if not self.per_image or method not in self.images:
            return None
        return self.images[method] * self.per_image + self.around

    def dearer(self, method: str) -> str:
        """Why retraining comes before this method: it costs no more, and is exact; else "".

        >>> costs = Costs(images={"qmul": 900.0, "retrain": 800.0}, per_image=0.01, around=3.0)
        >>> print(costs.dearer("qmul"))
        retraining is expected to cost no more: about 11 s, and qmul about 12 s
        >>> Costs(images={"qmul": 700.0, "retrain": 800.0}, per_image=0.0, around=0.0).dearer("qmul")
        ''
        """
        ours, exact = (self.images.get(name) for name in (method, RETRAIN))
        if method == RETRAIN or ours is None or exact is None or exact > ours:
            return ""
        found = [(self.seconds(name), of) for name, of in ((RETRAIN, exact), (method, ours))]
        told = [f"about {s:.0f} s" if s is not None else f"{of:.0f} images" for s, of in found]
        return f"retraining is expected to cost no more: {told[0]}, and {method} {told[1]}"


def expect(
    ledger: Ledger, results: Results, recipe: Recipe, split: Split, passes: Mapping[str, Passes]
) -> Costs:
    """What the methods whose `passes` are known would cost on a split."""
    references = 0.0
    if recipe.references.trained == "per_request":
        epochs = recipe.references.epochs or recipe.train.epochs
        references = REFERENCE * epochs * recipe.train.passes * len(split.retain)
    sizes = len(split.forget), len(split.retain)
    images = {
        name: found.over(*sizes) + (0.0 if name == RETRAIN else references) for name, found in passes.items()
    }
    per_image = results.seconds_per_image(recipe.train.epochs)
    around = _around(ledger, results)
    if around is None:
        around = AROUND_S + AROUND_EPOCHS * per_image * (len(split.retain) + len(split.forget))
    return Costs(images=images, per_image=per_image, around=around)


def _around(ledger: Ledger, results: Results) -> float | None:
    """Seconds around the rung of the last request; None where none was measured."""
    served = [receipt.request_id for receipt in ledger.receipts()]
    if not served or served[-1] is None:
        return None
    steps = results.fulfilled_steps(served[-1])
    found = [steps[name].seconds for name in AROUND if name in steps]
    known = [float(seconds) for seconds in found if seconds is not None]
    return sum(known) if len(known) == len(AROUND) else None
