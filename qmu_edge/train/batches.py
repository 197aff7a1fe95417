"""Images as tensors on the device: subsets by index, batches, augmentation, streaming.

All images of a dataset are one uint8 tensor, on the computing device where it fits, else on the host, from
where a thread prefetches the next batch. A subset is a vector of indices, so retain and forget sets need no
copies. Augmentation is done for whole batches on the device; there are no worker processes.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from qmu_edge.errors import UnlearnError
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import DataRecipe
from qmu_edge.runtime.device import sent
from qmu_edge.runtime.threads import giving_way
from qmu_edge.runtime.throughput import waited
from qmu_edge.train.augmentations import colour_jitter, rand_augment, random_resized_crop


@dataclass(frozen=True, slots=True)
class Augment:
    """What training images go through, each on its own: the fields are those of `DataRecipe`.

    In this order: zero padding of `pad` pixels and a random crop; a horizontal flip with probability 1/2; a
    random crop of at least `crop_area` that is resized; RandAugment; colour jitter.
    """

    pad: int = 0
    flip: bool = False
    crop_area: float = 1.0
    jitter: float = 0.0
    hue: float = 0.0
    rand_ops: int = 0
    rand_level: int = 9

    @classmethod
    def of(cls, data: DataRecipe) -> "Augment":
        """As a recipe says."""
        return cls(**{f.name: getattr(data, f.name) for f in fields(cls)})

    def __call__(
        self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """The images, each changed at random; the generator is on the CPU."""
        images = self._shifted(images, generator)
        if self.crop_area < 1:
            images = random_resized_crop(images, self.crop_area, generator)
        if self.rand_ops:
            images = rand_augment(images, self.rand_ops, self.rand_level, generator)
        if self.jitter or self.hue:
            images = colour_jitter(images, self.jitter, self.hue, generator)
        return images

    def _shifted(
        self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        if not (self.pad or self.flip):
            return images
        n, _, h, w = images.shape
        device = images.device
        each, rows, columns = (torch.arange(m, device=device) for m in (n, h, w))
        each, rows, columns = each[:, None, None], rows.expand(n, h), columns.expand(n, w)
        if self.flip:
            flipped = sent(torch.rand(n, 1, generator=generator) < 0.5, device)
            columns = torch.where(flipped, w - 1 - columns, columns)
        if self.pad:
            offsets = sent(torch.randint(2 * self.pad + 1, (2, n, 1), generator=generator), device)
            rows, columns = rows + offsets[0], columns + offsets[1]
            images = F.pad(images, (self.pad,) * 4)
        return images[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images and labels on the computing device.

    Attributes:
        images: Float pixels 0..1.
        labels: Their classes.
        positions: Positions of the images in their `Samples`; on the CPU.
    """

    images: Float[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    positions: Int64[Tensor, " n"]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Pair:
    """Batches of two sets for one step; `images` and `labels` are those of both, the first batch first."""

    first: Batch
    second: Batch

    def __len__(self) -> int:
        """Number of images in both batches."""
        return len(self.first) + len(self.second)

    @property
    def images(self) -> Float[Tensor, "n c h w"]:
        """Pixels, as in `Batch`."""
        return torch.cat([self.first.images, self.second.images])

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """Their classes."""
        return torch.cat([self.first.labels, self.second.labels])


@dataclass(frozen=True, slots=True)
class Samples:
    """A subset of the images of a dataset.

    Attributes:
        pool: All images (N, c, h, w), shared between subsets; on `device`, or on the host to be streamed.
        index: Indices of the subset in `pool`, (n,), on the device of `pool`.
        labels: Labels of the subset (n,), on `device`.
        device: Device of the batches.
    """

    pool: UInt8[Tensor, "N c h w"]
    index: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    device: torch.device

    def __len__(self) -> int:
        """Number of images."""
        return self.index.shape[0]

    def require_some(self, what: str) -> None:
        """Refuse an empty set; `what` is its name in the message.

        Raises:
            UnlearnError: The set is empty.
        """
        if len(self) == 0:
            raise UnlearnError(f"the {what} set is empty: at least one image is needed")

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "Samples":
        """The same images with other labels."""
        return replace(self, labels=labels.to(self.device))

    def take(self, positions: Int64[Tensor, " m"]) -> "Samples":
        """The images at these positions."""
        index = self.index[positions.to(self.index.device)]
        return replace(self, index=index, labels=self.labels[positions.to(self.device)])

    def __add__(self, other: "Samples") -> "Samples":
        """Concatenation of both sets, this one first."""
        index = torch.cat([self.index, other.index])
        return replace(self, index=index, labels=torch.cat([self.labels, other.labels]))

    def images(self) -> UInt8[Tensor, "n c h w"]:
        """All images, on the host."""
        return self.pool[self.index].cpu()

    def batches(
        self, size: int, generator: torch.Generator | None = None, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """Batches of `size`, the last possibly smaller; with a generator, shuffled batches of even sizes.

        Networks are trained on shuffled batches. A last batch of a few images would have noisy batch-norm
        statistics and a noisy gradient, but a step of full length. (5,000 images in batches of 64 leave 8:
        they cost 4 points of training accuracy.) Of an odd number of images in batches of two, one has three.

        Args:
            size: Images per batch, at most; but see `steps_per_epoch`.
            generator: On the CPU; draws the order and the augmentation.
            augment: Applied when given; needs the generator.
        """
        return giving_way(waited(self._batches(size, generator, augment)))

    def _batches(
        self, size: int, generator: torch.Generator | None, augment: Augment | None
    ) -> Iterator[Batch]:
        n = len(self)
        if generator is None:
            chunks = torch.split(torch.arange(n), size) if n else ()
        else:
            chunks = (
                torch.randperm(n, generator=generator).tensor_split(steps_per_epoch(n, size)) if n else ()
            )
        for positions, images in zip(chunks, self._fetch(chunks), strict=True):
            if augment is not None and generator is not None:
                images = augment(images, generator)
            scaled = images.to(torch.float32, memory_format=torch.channels_last) / 255.0
            yield Batch(scaled, self.labels[sent(positions, self.device)], positions)

    def forever(
        self, size: int, generator: torch.Generator, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """An endless sequence of shuffled batches, pass after pass; the arguments are those of `batches`.

        Raises:
            UnlearnError: The set is empty.
        """
        self.require_some("repeated")
        while True:
            yield from self.batches(size, generator, augment)

    def _fetch(self, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
        if self.pool.device == self.device:
            for positions in chunks:
                yield self.pool[self.index[sent(positions, self.device)]]
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self._read, p) for p in chunks[:1]]
            for number in range(len(chunks)):
                current = ahead.pop()
                if number + 1 < len(chunks):
                    ahead.append(reader.submit(self._read, chunks[number + 1]))
                yield current.result().to(self.device, non_blocking=True)

    def _read(self, positions: Tensor) -> Tensor:
        images = self.pool[self.index[positions]]
        return images.pin_memory() if self.device.type == "cuda" else images


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRetain:
    """The data of one deletion: forget, retain and validation set.

    Attributes:
        forget, retain: Training images, split by the request.
        validation: Images never trained on. Methods may use them as targets or in stopping rules;
            therefore the verdict is taken on test images instead.
        classes: Labels of the classes that are forgotten whole; () where samples are forgotten.
        unretained: Labels of which no image is retained, because of this request or another one: methods that
            choose a new label by the network's outputs choose none of these.
        augment: Augmentation of training images.
        progress: Receives the number of processed images.
        state: File in which a method may store its state, for a later run or request.
    """

    forget: Samples
    retain: Samples
    validation: Samples
    classes: tuple[int, ...] = ()
    unretained: tuple[int, ...] = ()
    augment: Augment = Augment()
    progress: Progress = field(default_factory=Progress)
    state: Path | None = None


def on_device(
    images: np.ndarray, labels: np.ndarray, device: torch.device, *, limit_bytes: int | float
) -> Samples:
    """All images of a dataset as one set.

    Args:
        images: uint8 (n, c, h, w), possibly a memory map.
        labels: int64 (n,).
        device: Device of the batches.
        limit_bytes: A dataset larger than this stays on the host and is streamed.
    """
    pool = torch.from_numpy(images)
    if images.nbytes <= limit_bytes:
        pool = pool.to(device).contiguous()
        device = pool.device  # "cuda:0" where `device` is "cuda"
    index = torch.arange(len(images), device=pool.device)
    return Samples(pool, index, torch.from_numpy(labels).to(device), device)


def steps_per_epoch(images: int, batch: int) -> int:
    """Shuffled batches of one pass: as few as hold `batch` images at most.

    In batches of two or more no image is left alone, because a single one has no batch statistics: then one
    batch of two holds a third.

    >>> steps_per_epoch(257, 128), steps_per_epoch(7, 2), steps_per_epoch(1, 2), steps_per_epoch(3, 1)
    (3, 3, 1, 3)
    """
    return min(-(-images // batch), max(1, images // min(batch, 2)))
