"""The sample index: which samples there are, what they show, whose they are, how they are used.

Without it a deletion request cannot be honoured, so it is written whenever a dataset is registered.
Images are known by a digest of their pixels, people by a keyed pseudonym, never by name. Splits are
a function of the pixels alone, with no seed, so that the original model, the unlearned model and
the retrained reference can never disagree about what was trained on.

Shapes: n samples, k classes; images (n, c, h, w).
"""

import hashlib
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.columns import Digests, Names
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256


class SampleSplit(IntEnum):
    """What a sample is used for; the numbers are on disk."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2

    @property
    def word(self) -> str:
        """Its name as people and files write it.

        >>> SampleSplit.TEST.word
        'test'
        """
        return self.name.lower()


SMALLEST_SHARED: Final = 3  # samples of a class of which at least one is never trained on
SAMPLE_SPLITS: Final = tuple(split.word for split in SampleSplit)


@dataclass(frozen=True, slots=True)
class Form:
    """What the images of a set were made to be before anybody took a digest of their pixels.

    Attributes:
        decoding: Which rules of `qmu_edge.data.decoding` read the files.
        shape: c, h and w of all of them.
        fit: How images of another aspect are made to be of this one: "stretch", or "crop" to the middle.
    """

    decoding: int
    shape: tuple[int, int, int]
    fit: str = "stretch"


def content_digest(image: NDArray[np.uint8]) -> Sha256:
    """SHA-256 of the pixels of one image (c, h, w), whatever file they came from.

    Raises:
        ConfigError: It is not a uint8 array of three axes.

    >>> square = np.zeros((1, 2, 2), np.uint8)
    >>> content_digest(square) == content_digest(square.reshape(1, 1, 4))  # the shape counts
    False
    """
    return Sha256(content_digests(image[np.newaxis])[0])


def content_digests(images: NDArray[np.uint8]) -> Digests:
    """One `content_digest` per image of a (n, c, h, w) array.

    Raises:
        ConfigError: It is not a uint8 array of four axes.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ConfigError(f"images: found {images.dtype} of shape {images.shape}, allowed uint8 (n, c, h, w)")
    head = hashlib.sha256(b"qmu-edge image v1\0uint8\0" + np.array(images.shape[1:], "<i8").tobytes())
    raw = np.empty((len(images), 32), np.uint8)
    for place, image in zip(raw, images, strict=True):
        digest = head.copy()
        digest.update(np.ascontiguousarray(image).data)
        place[:] = np.frombuffer(digest.digest(), np.uint8)
    return Digests(raw)


def npy_header(shape: tuple[int, ...]) -> bytes:
    """What stands before the pixels of images (n, c, h, w) in a .npy file."""
    file = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, layout)
    return file.getvalue()


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """All samples of a dataset, in its order; positions in it are what a `Split` holds.

    A million samples take about 100 MB.

    Attributes:
        ids: Unique names (n), as in requests.
        digests: `content_digest` of each sample (n).
        labels: Class of each sample (n,), int64, 0 to k - 1.
        splits: `SampleSplit` of each sample (n,), int8.
        subjects: `pseudonym` of each sample's person (n), "" when unknown; of several the first.
        class_names: Unique names (k), written like ids.
        others: The pseudonyms of the further people of samples that show several, by position.

    Raises:
        ConfigError: One of these does not hold.
    """

    ids: Names
    digests: Digests
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    subjects: Digests
    class_names: tuple[str, ...]
    others: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def people(self, position: int) -> frozenset[str]:
        """The pseudonyms of everybody who is known to be in a sample."""
        return frozenset((self.subjects[position], *self.others.get(position, ()))) - {""}

    def people_of(self, positions: NDArray[np.int64]) -> int | None:
        """How many people the samples at these positions (m,) are of; None when of one that is not known."""
        of_each = [self.people(position) for position in positions.tolist()]
        return len(frozenset().union(*of_each)) if of_each and all(of_each) else None

    def showing(self, people: Collection[str]) -> NDArray[np.bool_]:
        """Which samples (n,) show one of these people at least."""
        found = self.subjects.mask(people)
        found[[i for i, more in self.others.items() if not frozenset(more).isdisjoint(people)]] = True
        return found

    def everybody(self) -> set[str]:
        """The pseudonyms of all people."""
        return {*self.subjects, *(name for more in self.others.values() for name in more)} - {""}

    def in_split(self, split: SampleSplit) -> NDArray[np.bool_]:
        """Which samples (n,) are of a split."""
        found: NDArray[np.bool_] = self.splits == split
        return found

    def __post_init__(self) -> None:
        """Check lengths, types and ranges; the columns have checked their values."""
        n, k = len(self.ids), len(self.class_names)
        if n == 0 or k == 0:
            raise ConfigError(f"sample index: {n} samples and {k} classes, allowed at least one")
        if not n == len(self.digests) == len(self.subjects):
            raise ConfigError(
                f"sample index: {n} ids, {len(self.digests)} digests, {len(self.subjects)} subjects"
            )
        _require_codes("labels", self.labels, np.dtype(np.int64), n, k)
        _require_codes("splits", self.splits, np.dtype(np.int8), n, len(SAMPLE_SPLITS))
        Names(self.class_names, "class names")

    @classmethod
    def of(
        cls,
        *,
        ids: Iterable[str],
        digests: Iterable[str],
        labels: NDArray[np.int64],
        splits: NDArray[np.int8],
        subjects: Iterable[str],
        class_names: Iterable[str],
    ) -> "SampleIndex":
        """An index of plain texts; each iterable is read once and not kept.

        A sample that shows several people has all their pseudonyms as its subject, a space between two.
        """
        names, contents = Names(ids, "sample ids"), Digests.of(digests)
        first, others = _people(subjects)
        return cls(
            ids=names,
            digests=contents,
            labels=labels,
            splits=splits,
            class_names=tuple(class_names),
            subjects=first,
            others=others,
        )

    def subject_texts(self) -> Iterator[str]:
        """What `of` takes as subjects: of each sample the pseudonyms, a space between two."""
        for position, first in enumerate(self.subjects):
            yield " ".join((first, *self.others.get(position, ())))

    def digest(self) -> Sha256:
        """SHA-256 of ids, digests, labels, splits and class names.

        Subjects do not enter: a list of subjects may be completed without a new dataset.
        """
        return self._digest

    def subjects_digest(self) -> Sha256:
        """SHA-256 of who is in which sample; where each shows one person, of the column alone."""
        total = hashlib.sha256(self.subjects.raw.data)
        for position, more in sorted(self.others.items()):
            total.update(position.to_bytes(8, "little") + bytes.fromhex("".join(more)))
        return Sha256(total.hexdigest())

    @cached_property
    def _digest(self) -> Sha256:
        columns = (
            self.ids.data,
            self.digests.raw.data,
            np.ascontiguousarray(self.labels, "<i8").data,
            np.ascontiguousarray(self.splits).data,
            "\n".join(self.class_names).encode(),
        )
        total = hashlib.sha256(b"qmu-edge samples v1\0")
        for column in columns:
            total.update(memoryview(column).nbytes.to_bytes(8, "little"))
            total.update(column)
        return Sha256(total.hexdigest())


def assign_splits(
    labels: NDArray[np.int64],
    digests: Sequence[str],
    given: NDArray[np.character],
    *,
    validation: float = 0.1,
    test: float = 0.2,
) -> NDArray[np.int8]:
    """Choose the split of every sample from its pixels: no seed, no order, the same each time.

    A given split is kept, but that validation is taken out of train where none is given it. When no sample
    is given "test", the samples without a given split lend a share to it. In each class, samples
    are sorted by content digest; the first `test` share of them goes to test, then the first
    `validation` share of what is train by then goes to validation. Samples of a class with equal
    pixels stay together as long as none of them has a given split, so a share is never exceeded
    but may fall short by some duplicates. Classes of three samples or more share one at least.

    Args:
        labels: Classes (n,).
        digests: Content digests (n).
        given: "train", "validation", "test" or "" (no split given) for each sample (n,).
        validation: Share of each class's training samples, 0 <= validation < 1, rounded.
        test: Share of each class's samples without a split, 0 <= test < 1, rounded.

    Returns:
        Codes into `SAMPLE_SPLITS` (n,).

    Raises:
        ConfigError: A share or a given split is none of the allowed, or the lengths differ.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ConfigError(f"{name} share: found {share}, allowed 0 <= share < 1")
    if not len(labels) == len(digests) == len(given):
        raise ConfigError(f"splits: {len(labels)} labels, {len(digests)} digests, {len(given)} given splits")
    unknown = np.setdiff1d(given, [*(split.word for split in SampleSplit), ""])
    if unknown.size:
        raise ConfigError(f"given split: found {str(unknown[0])!r}, allowed train, validation, test or none")
    keys = np.array(digests, dtype="S64")
    codes = np.where(given == "test", np.int8(SampleSplit.TEST), np.int8(SampleSplit.TRAIN))
    if not (given == "test").any():
        move_share(codes, np.flatnonzero(given == ""), labels, keys, share=test, to=SampleSplit.TEST)
    if (given == "validation").any():
        codes[given == "validation"] = SampleSplit.VALIDATION
        return codes
    train = np.flatnonzero(codes == SampleSplit.TRAIN)
    move_share(codes, train, labels, keys, share=validation, to=SampleSplit.VALIDATION)
    return codes


def move_share(
    codes: NDArray[np.int8],
    pool: NDArray[np.int64],
    labels: NDArray[np.int64],
    keys: NDArray[np.character],
    *,
    share: float,
    to: SampleSplit,
) -> None:
    """Set `codes` to `to` for the first share, by key, of each class among `pool` (positions).

    Only whole groups of equal keys move, and only while they fit into the rounded share, or one sample.
    """
    order = pool[np.lexsort((keys[pool], labels[pool]))]
    n = len(order)
    if n == 0:
        return
    new_class = _changes(labels[order])
    new_group = new_class | _changes(keys[order])
    starts = np.flatnonzero(new_class)
    class_of = np.cumsum(new_class) - 1
    group_of = np.cumsum(new_group) - 1
    sizes = np.diff(starts, append=n)
    least = (sizes >= SMALLEST_SHARED) & (share > 0)
    allowed = np.maximum(np.rint(share * sizes), least)[class_of]
    group_end = np.append(np.flatnonzero(new_group)[1:], n)[group_of]
    codes[order[group_end - starts[class_of] <= allowed]] = to


def _changes(values: NDArray[np.int64] | NDArray[np.character]) -> NDArray[np.bool_]:
    """Where a sorted array (n > 0) starts a new value; the first place always does."""
    return np.append(True, values[1:] != values[:-1])


def _people(subjects: Iterable[str]) -> tuple[Digests, dict[int, tuple[str, ...]]]:
    """The columns of `SampleIndex` that say who is in which sample."""
    others: dict[int, tuple[str, ...]] = {}

    def first() -> Iterator[str]:
        for position, text in enumerate(subjects):
            one, *more = text.split(" ")
            if more:
                others[position] = tuple(Digests.of((one, *more), "subjects"))[1:]
            yield one

    return Digests.of(first(), "subjects", blank=True), others


def _require_codes(
    name: str, codes: NDArray[np.generic], dtype: np.dtype[np.generic], n: int, limit: int
) -> None:
    if codes.dtype != dtype or codes.shape != (n,):
        raise ConfigError(f"sample index: {name} are {codes.dtype} {codes.shape}, allowed {dtype} ({n},)")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= limit:
        raise ConfigError(f"sample index: {name} {low} to {high}, allowed 0 to {limit - 1}")
