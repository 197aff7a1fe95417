"""Two graphs side by side: which step of a file is which of the network's own.

Both are followed from their ends. Nothing is guessed: where the two differ, both nodes are named.
"""

from dataclasses import dataclass

import numpy as np

from qmu_edge.errors import ExportError
from qmu_edge.export.steps import Step


@dataclass(frozen=True, slots=True)
class Pair:
    """A step of the network's own graph and its counterpart in the file."""

    ours: Step
    theirs: Step


class Match:
    """Follows two networks from their ends; what is read twice must be the same twice."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.found: dict[Step, Pair] = {}

    def match(self, ours: Step, theirs: Step, *, rectified: bool = False) -> dict[Step, Pair]:
        """Pairs by our steps.

        Args:
            ours: The last step of the network's own graph.
            theirs: That of the file.
            rectified: Whether what is read of them has nothing below zero in the network either.

        Raises:
            ExportError: There is no counterpart; both nodes are named.
        """
        while theirs.kind == "grid" and ours.kind != "grid":
            _require_only_rounding(theirs, ours, rectified=rectified)
            (theirs,) = theirs.inputs  # it only rounds what the network leaves; the agreement shows how much
        if ours in self.found:
            if self.found[ours].theirs is not theirs:
                raise ExportError(f"{theirs.label}: stands where the network has {ours.label} a second time")
            return self.found
        if ours.kind == "affine" and theirs.kind == "image":
            return self.match(ours.inputs[0], theirs)  # images are normalised before the file
        if ours.kind != theirs.kind or ours.form != theirs.form or len(ours.inputs) != len(theirs.inputs):
            raise ExportError(
                f"{theirs.label}: {_a(theirs)} stands where the network of the recipe has "
                f"{ours.label}, {_a(ours)}; it cannot be trained as this network"
            )
        self.found[ours] = Pair(ours, theirs)
        failed: list[tuple[int, ExportError]] = []
        for order in (theirs.inputs, theirs.inputs[::-1]) if ours.kind == "add" else (theirs.inputs,):
            before = dict(self.found)
            try:
                for mine, other in zip(ours.inputs, order, strict=True):
                    self.match(mine, other, rectified=ours.kind == "grid" and ours.low >= 0)
                return self.found
            except ExportError as error:
                failed.append((len(self.found), error))
                self.found = before
        raise max(failed, key=lambda one: one[0])[1]  # of the order that went farther


def _require_only_rounding(theirs: Step, ours: Step, *, rectified: bool) -> None:
    """Refuse a grid that cuts off what the network leaves: there is a rectifier, or a clip, before it."""
    (before,) = theirs.inputs
    below = theirs.low < 0 or (rectified and theirs.low == 0)
    whole = theirs.floor == -np.inf and theirs.ceiling == np.inf and below and theirs.high > 0
    if before.kind in ("layer", "affine", "add") and not whole:
        raise ExportError(
            f"{theirs.label}: codes {theirs.low} to {theirs.high} cut off what {before.label} computes, as a "
            f"rectifier does, where the network of the recipe has {ours.label} as it is; "
            "it cannot be trained as this network"
        )


def _a(step: Step) -> str:
    """What a step is, with its article.

    >>> _a(Step("affine", "")), _a(Step("layer", "", form=("Conv", 2)))
    ('an affine', 'a layer Conv 2')
    """
    article = "an" if step.kind[0] in "aeiouAEIOU" else "a"
    return f"{article} {step.kind} {_form(step)}".rstrip()


def _form(step: Step) -> str:
    return " ".join(map(str, step.form)) + (f"{step.low}..{step.high}" if step.kind == "grid" else "")
