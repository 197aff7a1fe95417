"""A dataset: pictures of upright and lying stripes, made up here; two people have ten of each."""

from pathlib import Path

import numpy as np

CLASSES = ("lying", "upright")


class Stripes:
    """An object with a length and, at each place, an image, its label and whose it is."""

    def __init__(self, pictures: int, seed: int) -> None:
        """So many pictures; the same seed makes the same ones."""
        self.pictures, self.seed = pictures, seed
        self.classes = CLASSES  # so labels may be numbers

    def __len__(self) -> int:
        """How many there are."""
        return self.pictures

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, str]:
        """The same picture every time, uint8 (16, 16), with its label and whose it is."""
        noise = np.random.default_rng((self.seed, i)).integers(0, 128, (16, 16))
        noise[:: 2 + i % 3] += 127
        label = i // 10 % 2
        return (noise.T if label else noise).astype(np.uint8), label, f"person-{i // 20}"


def make(path: Path | None) -> dict[str, Stripes]:
    """The sets by split; `path` is what `--data-path` says, where a set of yours would be read from."""
    return {"train": Stripes(200, 0), "test": Stripes(60, 1)}
