"""Weight and code distance by layer: how far is the file from the original?

A small distance shows that little was done; a large one shows nothing: fine-tuning moves weights as far. The
codes are those of the file; the latent weights behind them are the checkpoint's, which never ships.

Source: layer-wise weight distance: Tarun et al., arXiv:2111.08947; distance as a sign of what relearning
    brings back: arXiv:2505.22310.
Differs: relative to the length of the original's weights, and beside it the codes, which alone ship.
Shapes: one tensor for each layer, in the shape of its weight.
"""

from typing import Final

from jaxtyping import Float
from torch import Tensor

from qmu_edge.audit.attack import Attack, Sizes, Work
from qmu_edge.audit.codes import code_changes, integer_codes
from qmu_edge.audit.subject import Subject
from qmu_edge.models.calibration import weight_layers
from qmu_edge.project.audits import Estimate, Finding
from qmu_edge.receipt.personal_data import is_plain_word

CHANGED: Final = "codes that differ, share"
MOVED: Final = "mean distance of the codes"
LATENT: Final = "distance of the latent weights, relative"


def relative_distance(before: Float[Tensor, "*s"], after: Float[Tensor, "*s"]) -> float:
    """The length of the difference over that of the weight before.

    >>> import torch
    >>> relative_distance(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))  # 1 over 5
    0.2
    """
    length = float(before.double().norm())
    return round(float((after - before).double().norm()) / max(length, 1e-12), 6)


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of each layer and, for the codes, of the file as a whole."""
    old, new = subject.original.network(), subject.file.network()
    codes = integer_codes(old)
    changes = code_changes(codes, integer_codes(new)) if codes else {}
    before, after = ({n: layer.weight.detach() for n, layer in weight_layers(m)} for m in (old, new))
    told = {n: n if is_plain_word(n) else f"layer {at}" for at, n in enumerate(before, 1)}
    names = told | {"all": ""}
    found = [(CHANGED, name, change.flipped) for name, change in changes.items()]
    found += [(MOVED, name, change.distance) for name, change in changes.items()]
    found += [(LATENT, name, relative_distance(w, after[name])) for name, w in before.items()]
    return tuple(
        Finding(quantity=quantity, part=names[name], file=Estimate(round(value, 6)))
        for quantity, name, value in found
    )


def work(_: Sizes) -> Work:
    """No image at all."""
    return Work(networks=2)


ATTACK: Final = Attack(
    run=run, work=work, quantities=(CHANGED, MOVED, LATENT), compares=False,
    summary="distance to the original, layer by layer",
)  # fmt: skip
