"""What bill of materials and model card say, as words and numbers.

Both are made of these facts alone, so whoever looks through the facts for personal data has looked through
both. They travel further than a receipt: counts of people's images are told in steps, and accuracies on fewer
than 20 images are left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

from qmu_edge import __version__
from qmu_edge.io.digest import Sha256
from qmu_edge.receipt.share import tellable
from qmu_edge.receipt.statement import PredicateV1, Residual, Share, Statement

FEW: Final = 20  # images: of fewer, no figure of theirs is told
# Of the forgotten images nothing but what is left of them is told.
SETS: Final = {"ta": "test", "va": "validation", "ra": "retained"}


class Rounded(TypedDict):
    """A share and the ends of its interval, see `rounded`; None for what is not known."""

    value: float | None
    low: float | None
    high: float | None


class RoundedResidual(Rounded):
    """What is left of samples, or of classes."""

    scope: Literal["samples", "classes"]


@dataclass(frozen=True, slots=True)
class File:
    """A released file: its SHA-256, and its size in bytes."""

    sha256: Sha256
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What a receipt says about the deletion that a release follows.

    Attributes:
        receipt: Its digest.
        issued: RFC 3339.
        outcome, method, category, answer: In the receipt's words.
        forgotten: How many images, in steps; see `in_steps`.
        accuracy: Of the measured file by set.
        measured: SHA-256 of that file.
        residuals: The shares that are left.
        limits: Sentences that say what is not proven.
    """

    receipt: Sha256
    issued: str
    outcome: str
    method: str
    category: str
    answer: str
    forgotten: str
    accuracy: Mapping[str, Rounded]
    measured: Sha256
    residuals: Sequence[RoundedResidual]
    limits: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about a release.

    Attributes:
        files: By name.
        architecture, bits: Of the network, in the receipt's words.
        recipe: Digest of the recipe.
        checkpoint: Digest of the network that the files were exported from.
        erasure: What the receipt that covers the files says; None where none does.
        version: Of this program.
    """

    files: Mapping[str, File]
    architecture: str
    bits: Mapping[str, object]
    recipe: Sha256
    checkpoint: Sha256
    erasure: Erasure | None = None
    version: str = __version__


def erasure_of(statement: Statement, receipt: Sha256) -> Erasure:
    """What a receipt says.

    Args:
        statement: Of the receipt.
        receipt: Its digest.
    """
    said, answer, residuals = statement.predicate, "", []
    if not isinstance(said, PredicateV1):  # which had another verdict
        answer, residuals = said.verdict.answer, [_residual(left) for left in said.verdict.residuals]
    measured = said.metrics.evaluation
    shares = {name: getattr(measured, key) for key, name in SETS.items()}
    return Erasure(
        receipt=receipt, issued=said.issued, outcome=said.outcome, method=said.method.name,
        category=said.method.category, answer=answer, residuals=residuals, limits=said.limits,
        forgotten=in_steps(said.batch.forget), measured=measured.sha256,
        accuracy={name: _share(found) for name, found in shares.items() if found and found.n >= FEW},
    )  # fmt: skip


def in_steps(count: int) -> str:
    """A number of images as a word that tells its size only.

    >>> [in_steps(n) for n in (1, 19, 20, 99, 100, 12345)]
    ['below-20', 'below-20', '20-to-99', '20-to-99', '100-to-999', '10000-to-99999']
    """
    if count < FEW:
        return f"below-{FEW}"
    step = 10 ** (len(str(count)) - 1)
    return f"{max(step, FEW)}-to-{10 * step - 1}"


def rounded(value: float | None, low: float | None, high: float | None) -> Rounded:
    """A share to the whole percent, and its interval, made wider, to five.

    More digits tell of how many images it is: 0.7347 from 0.5974 to 0.8379 can only be 36 of 49.

    >>> rounded(36 / 49, 0.5974, 0.8379)
    {'value': 0.73, 'low': 0.55, 'high': 0.85}
    """
    return {
        "value": None if value is None else round(value, 2),
        "low": None if low is None else round(math.floor(low * 20 + 1e-9) / 20, 2),
        "high": None if high is None else round(math.ceil(high * 20 - 1e-9) / 20, 2),
    }


def _share(found: Share) -> Rounded:
    return rounded(found.value, found.low, found.high)


def _residual(left: Residual) -> RoundedResidual:
    """What is left; a figure that no interval stands by is none."""
    return {"scope": left.scope, **rounded(tellable(left.value, left.low, left.high), left.low, left.high)}
