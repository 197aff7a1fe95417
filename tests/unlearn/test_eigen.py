"""Eigenvalues: against a loop over matrices, without rows of zeros, and where a solver fails."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.unlearn.eigen import NotConverged, by_singular_values, eigen


def _covariances(g: int, d: int, rank: int, zeros: list[list[int]]) -> Tensor:
    """Matrices r rT, g of them; in the k-th the rows `zeros[k]` are zero."""
    r = torch.randn(g, d, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for matrix, rows in zip(r, zeros, strict=True):
        matrix[rows] = 0.0
    return r @ r.mT


def _check(matrices: Tensor, found: tuple[Tensor, Tensor]) -> None:
    """Against numpy, one matrix after the other; the vectors against what defines them."""
    values, vectors = found
    scale = float(matrices.abs().max()) or 1.0
    # Each entry is a sum of at most d products, each rounded to a relative 2^-53; bounded generously.
    near = 100 * matrices.shape[-1] * 2.0**-53
    expected = torch.stack([torch.from_numpy(np.linalg.eigvalsh(m.numpy())) for m in matrices])
    torch.testing.assert_close(values, expected, rtol=0, atol=near * scale)
    identity = torch.eye(matrices.shape[-1], dtype=torch.float64).expand_as(matrices)
    torch.testing.assert_close(vectors.mT @ vectors, identity, rtol=0, atol=near)
    rebuilt = vectors @ torch.diag_embed(values) @ vectors.mT
    torch.testing.assert_close(rebuilt, matrices, rtol=0, atol=near * scale)


SHARED, OWN, ALL = [[1, 4], [1, 4]], [[0], [2, 3]], [[*range(6)]] * 2


@pytest.mark.parametrize("zeros", [[[], []], SHARED, OWN, ALL], ids=["none", "shared", "own", "all"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_batch_has_the_eigenvalues_of_each_matrix(zeros: list[list[int]], sign: float) -> None:
    matrices = sign * _covariances(2, 6, 4, zeros)
    _check(matrices, eigen(matrices, "a test"))
    _check(matrices, by_singular_values(matrices))


def test_zero_rows_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix that MKL's divide and conquer did not converge on: 576 rows, 43 of them not zero."""
    solve, asked = torch.linalg.eigh, []

    def eigh(matrix: Tensor) -> Any:
        asked.append(matrix.shape)
        return solve(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    order = torch.randperm(576, generator=torch.Generator().manual_seed(1)).tolist()
    matrices = _covariances(1, 576, 35, [order[43:]])
    found = eigen(matrices, "a test")
    assert asked == [(1, 43, 43)]
    _check(matrices, found)


def _fails(matrix: Tensor) -> Any:
    raise NotConverged("linalg.eigh: The algorithm failed to converge")


def _no_numbers(matrix: Tensor) -> Any:
    return torch.full(matrix.shape[:-1], torch.nan), torch.full_like(matrix, torch.nan)


@pytest.mark.parametrize("broken", [_fails, _no_numbers])
def test_another_solver_steps_in(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", broken)
    matrices = _covariances(2, 6, 4, SHARED)
    _check(matrices, eigen(matrices, "a test"))


def test_without_a_solver_it_is_an_error_of_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", _fails)
    monkeypatch.setattr(torch.linalg, "svd", _fails)
    with pytest.raises(UnlearnError, match="no solver finds the eigenvalues of a test"):
        eigen(_covariances(1, 3, 2, [[]]), "a test")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    matrices = torch.eye(3, dtype=torch.float64)[None]
    matrices[0, 1, 1] = value
    with pytest.raises(UnlearnError, match="a test holds numbers that are not finite"):
        eigen(matrices, "a test")
