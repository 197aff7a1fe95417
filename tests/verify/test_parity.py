"""Parity of two sets of logits."""

import numpy as np
import pytest

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.verify.parity import Parity, compare, require_parity


def test_parity() -> None:
    logits = np.random.default_rng(0).normal(size=(2000, 5))
    require_parity(compare(logits, logits))
    swapped = logits.copy()
    swapped[:3] = -swapped[:3]
    with pytest.raises(ExportError, match=r"99\.8500%"):
        require_parity(compare(logits, swapped))
    with pytest.raises(ExportError, match="on 10 inputs"):
        require_parity(Parity(10, 1.0, 0.0, 0.0))
    with pytest.raises(ExportError, match="finite"):
        compare(logits, logits * np.nan)
    with pytest.raises(ConfigError):
        compare(logits, logits[:5])
    with pytest.raises(ConfigError):
        compare(logits[:0], logits[:0])


def test_differences_are_reported_in_float64() -> None:
    found = compare(np.array([[0, 1], [2, 1]], np.float32), np.array([[0, 2], [2, 1]], np.float32))
    assert found == Parity(n=2, agreement=1.0, max_abs_difference=1.0, mean_abs_difference=0.25)
