"""What kernels of several processors do with codes, written out, beside what is said of where they agree."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qmu_edge.verify import rounding

BELOW = np.float32(1 - 2**-12)
Codes = NDArray[np.int64]
Grid = tuple[np.float32, int]  # scale and zero point


def in_floats(a: Codes, b: Codes, grids: tuple[Grid, Grid, Grid]) -> Codes:
    """An addition of onnxruntime on x86: two fused multiplications, rounded half to even."""
    (sa, za), (sb, zb), (sc, zc) = grids
    ra, rb = sa / sc, sb / sc
    fixed = np.float32(zc) - (ra * np.float32(za) + rb * np.float32(zb))
    inner = (b * np.float64(rb) + np.float64(fixed)).astype(np.float32)
    return np.rint((a * np.float64(ra) + inner).astype(np.float32)).astype(np.int64)


def plainly(a: Codes, b: Codes, grids: tuple[Grid, Grid, Grid]) -> Codes:
    """One where there are no vectors: every step in float32."""
    (sa, za), (sb, zb), (sc, zc) = grids
    values = (sa * (a - za).astype(np.float32) + sb * (b - zb).astype(np.float32)) / sc
    return np.rint(values + np.float32(zc)).astype(np.int64)


def in_fixed_point(a: Codes, b: Codes, grids: tuple[Grid, Grid, Grid]) -> Codes:
    """One on ARM: multipliers of 22 bits, halves away from zero."""
    (sa, za), (sb, zb), (sc, zc) = grids
    ra, rb = float(sa / sc), float(sb / sc)
    shift = 21 - int(np.floor(np.log2(max(ra, rb))))
    total = (a - za) * round(ra * 2**shift) + (b - zb) * round(rb * 2**shift)
    return np.asarray(((total - (total < 0) + (1 << (shift - 1))) >> shift) + zc)


def alike(grids: tuple[Grid, Grid, Grid], most: int) -> bool:
    """Whether all three agree on every pair of codes up to `most`."""
    a, b = (m.reshape(-1) for m in np.meshgrid(np.arange(most + 1), np.arange(most + 1)))
    first, *others = (np.clip(k(a, b, grids), 0, 255) for k in (in_floats, plainly, in_fixed_point))
    return all((first == other).all() for other in others)


@pytest.mark.parametrize("seed", range(12))
def test_kernels_agree_wherever_the_proof_says_so(seed: int) -> None:
    rng, proven = np.random.default_rng(seed), 0
    for _ in range(20):
        steps = 2.0 ** rng.integers(-3, 4, 3)
        factors = [1.0, float(BELOW), 0.77, 0.7712345]
        factor, other = rng.choice(factors, 2) if rng.random() < 0.3 else [rng.choice(factors)] * 2
        zeros, most = rng.choice([0, 128], 3), int(rng.choice([15, 255]))
        scales = (steps * [factor, other, 1]).astype(np.float32)
        first, second, result = (
            (np.float32(scale), int(zero)) for scale, zero in zip(scales, zeros, strict=True)
        )
        a, b = (rounding.Codes(0, most, np.asarray(s), z) for s, z in (first, second))
        found = rounding.added("y", a, b, float(scales[2]), rounding.Codes(0, 255, zero=result[1]))
        assert found or alike((first, second, result), most)
        proven += not found
    assert proven >= 4


def test_halves_are_where_kernels_differ() -> None:
    step, half = (np.float32(1), 0), (np.float32(0.5), 0)
    assert not alike((half, half, step), 15)
    below = (np.float32(0.5) * BELOW, 0)
    assert alike((below, below, step), 15)
    assert not alike((half, below, step), 15)  # one alone leaves the halves of the other
