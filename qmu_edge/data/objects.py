"""Datasets that are Python objects, such as torchvision's: at each place an image with its label."""

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from qmu_edge.data.decoding import Encoded
from qmu_edge.data.pictures import LeftOut, Picture, in_order, label_of, split_of
from qmu_edge.data.subjects import people_in
from qmu_edge.errors import ConfigError, QmuEdgeError

_MOST: Final = 1 << 24  # images


@runtime_checkable
class ImageDataset(Protocol):
    """What can be registered.

    An item is an image and its label, and perhaps whose it is: a name, or a list of names. Images are
    Pillow's, or uint8 arrays (h, w) or (h, w, 3); the same every time that they are asked for. Labels are
    text, or whole numbers, into `classes` where the object has it.
    """

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, i: int, /) -> tuple[Any, ...]:
        """The item at a place."""


Maker = Callable[[Path | None], ImageDataset | Mapping[str, ImageDataset]]
"""What an entry point of the group `qmu_edge.datasets` leads to; it is given what `--data-path` says."""


def given(sets: Mapping[str, ImageDataset]) -> tuple[list[Picture], tuple[str, ...], dict[str, LeftOut]]:
    """The pictures of objects, by split ("" where it is not known); names of classes, where all say the same.

    The sample ids are the split and the place, `train/000017`; `images/000017` where the split is not known.

    Raises:
        ConfigError: An object raises, is empty, changes its length, or has other items.
    """
    readers = [_Reader(split, dataset) for split, dataset in sets.items()]
    found = [picture for reader in readers for picture in _pictures(reader)]
    if not found:
        raise ConfigError("dataset: no images")
    named = {reader.classes for reader in readers}
    names = named.pop() if len(named) == 1 else ()
    labels = {picture.label for picture in found}
    return found, names if labels <= set(names) else in_order(labels), {}


def _pictures(reader: "_Reader") -> Iterator[Picture]:
    place = split_of(reader.split, "dataset")
    for i in range(reader.length):
        where = f"{reader.name}, item {i}"
        _, label, people = reader.item(i)
        yield Picture(
            f"{reader.split or 'images'}/{i:06d}", place, label,
            Encoded(where, partial(reader.image, i, (label, people))), people,
        )  # fmt: skip


class _Reader:
    """Asks an object for one item at a time: not every one may be asked by several threads."""

    def __init__(self, split: str, dataset: ImageDataset) -> None:
        """`split` is what it is given as."""
        self.split, self.name = split, str(split or "dataset")
        self._dataset, self._lock = dataset, threading.Lock()
        self.length = self._asked(lambda: len(dataset), "its length")
        if not 0 <= self.length <= _MOST:
            raise ConfigError(f"{self.name}: {self.length} images, allowed {_MOST}")
        named = self._asked(lambda: map(str, getattr(dataset, "classes", ())), "its classes")
        self.classes: tuple[str, ...] = tuple(named)

    def item(self, i: int) -> tuple[Any, str, tuple[str, ...]]:
        """An image, the name of its class, and the people in it."""
        with self._lock:
            found = self._asked(lambda: self._dataset[i], f"item {i}")
            length = self._asked(lambda: len(self._dataset), "its length")
        if length != self.length:
            raise ConfigError(f"{self.name}: its length was {self.length} and is {length}")
        if not isinstance(found, tuple | list) or not 2 <= len(found) <= 3:
            kind = type(found).__name__ + (f" of {len(found)}" if isinstance(found, tuple | list) else "")
            raise ConfigError(
                f"{self.name}, item {i}: {kind}, allowed (image, label) or (image, label, whose it is)"
            )
        where = f"{self.name}, item {i}"
        people = people_in(found[2], where) if len(found) > 2 else ()
        return found[0], label_of(found[1], where, self.classes), people

    def image(self, i: int, before: tuple[str, tuple[str, ...]]) -> Image.Image:
        """The image at a place, which had this label and these people before."""
        found, *now = self.item(i)
        if tuple(now) != before:
            raise ConfigError(
                f"{self.name}, item {i}: another label or person than at first, allowed is a dataset "
                "whose items stay at their places"
            )
        if isinstance(found, Image.Image):
            return found
        pixels = np.asarray(found)
        if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
            raise ConfigError(
                f"{self.name}, item {i}: {pixels.dtype} {pixels.shape}, allowed a Pillow image, or uint8 "
                "(h, w) or (h, w, 3)"
            )
        return Image.fromarray(pixels)

    def _asked(self, ask: Any, what: str) -> Any:
        try:
            return ask()
        except QmuEdgeError:
            raise
        except Exception as error:  # it is not our code
            raise ConfigError(f"{self.name}: {what}: {type(error).__name__}: {str(error)[:200]}") from error
