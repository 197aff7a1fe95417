"""Eigenvalues and eigenvectors of symmetric matrices, with a second solver where the first does not converge.

The covariance of a layer's inputs has a row of zeros for every input that is always zero, and a trained
network with dead channels has many of them. On such a matrix LAPACK's divide-and-conquer solver may fail: MKL
with one thread does not converge on 576 rows of which 533 are zero. So rows of zeros are left out, and where
the first solver fails, a second one is tried.

Shapes: g symmetric matrices of d rows.
"""

from contextlib import suppress
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from qmu_edge.errors import UnlearnError

NotConverged: Final[type[RuntimeError]] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def eigen(
    matrices: Float64[Tensor, "g d d"], name: str
) -> tuple[Float64[Tensor, "g d"], Float64[Tensor, "g d d"]]:
    """Eigenvalues in ascending order, and orthonormal eigenvectors as columns.

    Args:
        matrices: Symmetric.
        name: What the error message calls them.

    Raises:
        UnlearnError: An entry is not finite, or no solver converges.

    >>> values, vectors = eigen(torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]).double(), "an example")
    >>> values, vectors.abs()
    (tensor([[0., 2.]], dtype=torch.float64), tensor([[[0., 1.],
             [1., 0.]]], dtype=torch.float64))
    """
    if not bool(matrices.isfinite().all()):
        raise UnlearnError(f"{name} holds numbers that are not finite")
    g, d, _ = matrices.shape
    is_zero = ~matrices.any(-1).any(0)
    zero, rest = torch.nonzero(is_zero)[:, 0], torch.nonzero(~is_zero)[:, 0]
    of_rest, directions = _solve(matrices[:, rest][:, :, rest], name)
    # A row of zeros is an eigenvector of eigenvalue 0 by itself.
    values = torch.cat([matrices.new_zeros(g, len(zero)), of_rest], -1)
    vectors = torch.zeros_like(matrices)
    columns = torch.arange(d, device=matrices.device)
    vectors[:, zero, columns[: len(zero)]] = 1.0
    vectors[:, rest[:, None], columns[len(zero) :]] = directions
    values, order = values.sort(-1)
    return values, vectors.gather(-1, order[:, None].expand_as(vectors))


def _solve(matrices: Float64[Tensor, "g d d"], name: str) -> tuple[Tensor, Tensor]:
    for solver in (torch.linalg.eigh, by_singular_values):
        with suppress(NotConverged):
            values, vectors = solver(matrices)
            if bool(values.isfinite().all() & vectors.isfinite().all()):
                return values, vectors
    raise UnlearnError(f"no solver finds the eigenvalues of {name}; take another --method")


def by_singular_values(
    matrices: Float64[Tensor, "g d d"],
) -> tuple[Float64[Tensor, "g d"], Float64[Tensor, "g d d"]]:
    """The result of `torch.linalg.eigh`, computed by a singular value decomposition.

    A multiple of the identity is added first, which makes the matrix positive semidefinite: its singular
    values are then its eigenvalues.

    >>> by_singular_values(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]).double())[0].round(decimals=9)
    tensor([[-1.,  1.]], dtype=torch.float64)
    """
    bound = matrices.abs().sum(-1).amax(-1, keepdim=True)  # no eigenvalue is larger in magnitude
    shifted = matrices + torch.diag_embed(bound.expand(matrices.shape[:2]))
    vectors, values, _ = torch.linalg.svd(shifted)
    return (values - bound).flip(-1), vectors.flip(-1)
