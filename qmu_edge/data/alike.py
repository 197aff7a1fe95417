"""Images that look alike: the same picture saved again has other pixels, so its digest says nothing.

Each image becomes a thumbnail: 8 x 8 means of its grey, less their mean, of length 1. Two images look alike
when the product of their thumbnails, or of one with the mirrored other, is at least 0.99: a picture that was
compressed again, scaled, mirrored, made brighter, or changed in a pixel. One that was cropped is not noticed.
How often others are taken for alike is in `bench/RESULTS.md`.

Shapes: n images uint8 (n, c, h, w).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

SIDE: Final = 8
ALIKE: Final = 0.99
_BLOCK: Final = 1024


def look_alike(
    images: NDArray[np.uint8], some: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of `others` (m,) look like one of `some` (k,); both are positions of images.

    Images of one value look like none.
    """
    wanted = thumbnails(images, some)
    found = np.zeros(len(others), np.bool_)
    for start in range(0, len(others), _BLOCK):
        found[start : start + _BLOCK] = alike(thumbnails(images, others[start : start + _BLOCK]), wanted)
    return found


def alike(shown: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the thumbnails `shown` (n, 64) look like one of `wanted` (k, 64), or like one mirrored."""
    found = np.zeros(len(shown), np.bool_)
    for start in range(0, len(wanted), _BLOCK):
        block = wanted[start : start + _BLOCK]
        mirrored = block.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(block.shape)
        both = np.concatenate([block, mirrored])
        found |= (shown @ both.T).max(axis=1, initial=0.0) >= ALIKE
    return found


def thumbnails(images: NDArray[np.uint8], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """The thumbnails (m, 64) of the images at `positions` (m,), row by row; zeros for images of one value."""
    found = np.zeros((len(positions), SIDE * SIDE), np.float32)
    rows, columns = (_means(size) for size in images.shape[2:])
    for start in range(0, len(positions), _BLOCK):
        grey = images[positions[start : start + _BLOCK]].mean(axis=1, dtype=np.float32)
        small = (rows @ grey @ columns.T).reshape(len(grey), -1)
        small -= small.mean(axis=1, keepdims=True)
        length = np.linalg.norm(small, axis=1, keepdims=True)
        found[start : start + _BLOCK] = np.where(length > 1e-3, small / np.maximum(length, 1e-3), 0.0)
    return found


def _means(size: int) -> NDArray[np.float32]:
    """The matrix (8, size) that takes means over eighths of `size` pixels, of which parts count as parts.

    >>> _means(4)[:3].tolist()
    [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    """
    ends = np.linspace(0, size, SIDE + 1)
    pixels = np.arange(size)
    shares = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    shares = np.maximum(shares, 0.0)
    found: NDArray[np.float32] = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return found
