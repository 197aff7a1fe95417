"""Datasets that are Python objects, such as torchvision's: at each place an image with its label."""

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from qmu_edge.data.decoding import Encoded
from qmu_edge.data.pictures import Picture, in_order, split_of
from qmu_edge.data.subjects import subject_name
from qmu_edge.errors import ConfigError, QmuEdgeError

_MOST: Final = 1 << 24  # images


@runtime_checkable
class ImageDataset(Protocol):
    """What can be registered.

    An item is an image and its label, and perhaps the name of the person in it. Images are Pillow's, or uint8
    arrays (h, w) or (h, w, 3); the same every time that they are asked for. Labels are text, or numbers into
    `classes` where the object has it.
    """

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, i: int, /) -> tuple[Any, ...]:
        """The item at a place."""


def given(sets: Mapping[str, ImageDataset]) -> tuple[list[Picture], tuple[str, ...], dict[str, Any]]:
    """The pictures of objects, by split ("" where it is not known); names of classes, where all say the same.

    Raises:
        ConfigError: An object raises, is empty, changes its length, or has other items.
    """
    found = [picture for split, dataset in sets.items() for picture in _pictures(split, dataset)]
    if not found:
        raise ConfigError("dataset: no images")
    named = {tuple(map(str, getattr(dataset, "classes", ()))) for dataset in sets.values()}
    names = named.pop() if len(named) == 1 else ()
    labels = {picture.label for picture in found}
    return found, names if labels <= set(names) else in_order(labels), {}


def _pictures(split: str, dataset: ImageDataset) -> list[Picture]:
    place, reader = split_of(split, "dataset"), _Reader(split or "dataset", dataset)
    classes = [str(name) for name in getattr(dataset, "classes", ())]
    found = []
    for i in range(reader.length):
        _, label, *whom = reader.item(i)
        if classes and isinstance(label, int | np.integer):
            if not 0 <= label < len(classes):
                raise ConfigError(f"{reader.name}, item {i}: label {label}, allowed 0 to {len(classes) - 1}")
            label = classes[label]
        person = subject_name(str(whom[0] or ""), f"{reader.name}, item {i}") if whom else ""
        found.append(
            Picture(
                f"{split or 'images'}/{i:06d}", place, str(label),
                Encoded(f"{reader.name}, item {i}", partial(reader.image, i)), (person,) if person else (),
            )
        )  # fmt: skip
    return found


class _Reader:
    """Asks an object for one item at a time: not every one may be asked by several threads."""

    def __init__(self, name: str, dataset: ImageDataset) -> None:
        """`name` is for messages."""
        self.name, self._dataset, self._lock = name, dataset, threading.Lock()
        self.length = self._asked(lambda: len(dataset), "its length")
        if not 0 <= self.length <= _MOST:
            raise ConfigError(f"{name}: {self.length} images, allowed {_MOST}")

    def item(self, i: int) -> tuple[Any, ...]:
        """An image, its label, and perhaps a name."""
        with self._lock:
            found = self._asked(lambda: self._dataset[i], f"item {i}")
            length = self._asked(lambda: len(self._dataset), "its length")
        if length != self.length:
            raise ConfigError(f"{self.name}: its length was {self.length} and is {length}")
        if not isinstance(found, tuple | list) or not 2 <= len(found) <= 3:
            kind = type(found).__name__
            raise ConfigError(
                f"{self.name}, item {i}: {kind}, allowed (image, label) or (image, label, name)"
            )
        return tuple(found)

    def image(self, i: int) -> Image.Image:
        """The image at a place."""
        found = self.item(i)[0]
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
