"""Do two runs of one model agree: the torch model and its file, or two devices?

Low-bit activations flip by one step on ties, so the largest difference is reported but no limit
is set on it; the share of equal predictions is what must hold.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, ExportError

ROUNDING: Final = 1e-4  # of the largest logit, where sums of floats come in any order


@dataclass(frozen=True, slots=True)
class Parity:
    """Two sets of logits compared; `agreement` is the fraction of equal predictions."""

    n: int
    agreement: float
    max_abs_difference: float
    mean_abs_difference: float


def compare(expected: NDArray[Any], actual: NDArray[Any]) -> Parity:
    """Compare logits with logits.

    Args:
        expected: Float (n, k).
        actual: Float (n, k).

    Raises:
        ConfigError: Other shapes, or empty.
        ExportError: A logit is not finite.

    >>> compare(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 2.0]]))
    Parity(n=2, agreement=0.5, max_abs_difference=2.0, mean_abs_difference=0.5)
    """
    if expected.shape != actual.shape or expected.ndim != 2 or expected.size == 0:
        raise ConfigError(
            f"parity: logits {expected.shape} and {actual.shape}; allowed twice the same (n, k)"
        )
    difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    if not np.isfinite(difference).all():
        raise ExportError("parity: a logit is not finite")
    return Parity(
        n=len(expected),
        agreement=float((expected.argmax(axis=1) == actual.argmax(axis=1)).mean()),
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
    )


def require_parity(parity: Parity, *, min_agreement: float = 0.999, min_inputs: int = 1000) -> None:
    """Refuse a file that predicts otherwise than it should.

    Args:
        parity: From `compare`.
        min_agreement: Smallest fraction of equal predictions.
        min_inputs: Smallest number of inputs that says anything.

    Raises:
        ExportError: Too few inputs, or too little agreement.
    """
    if parity.n < min_inputs:
        raise ExportError(f"parity: measured on {parity.n} inputs, allowed at least {min_inputs}")
    if not parity.agreement >= min_agreement:
        raise ExportError(
            f"parity: {parity.agreement:.4%} of {parity.n} predictions agree, "
            f"allowed at least {min_agreement:.4%}"
        )
