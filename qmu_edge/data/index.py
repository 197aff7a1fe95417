"""The sample index: which samples there are, what they show, whose they are, how they are used.

Without it a deletion request cannot be honoured, so it is written whenever a dataset is registered.
Images are known by a digest of their pixels, people by a keyed pseudonym, never by name. Splits are
a function of the pixels alone, with no seed, so that the original model, the unlearned model and
the retrained reference can never disagree about what was trained on.

Shapes: n samples, k classes; images (n, c, h, w).
"""

import csv
import hashlib
import hmac
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.columns import MAX_NAME, Digests, Names
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.json import INVISIBLE

MAX_SUBJECTS_BYTES: Final = 256 << 20


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


SAMPLE_SPLITS: Final = tuple(split.word for split in SampleSplit)


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


def pseudonym(key: bytes, subject_id: str) -> Sha256:
    """HMAC-SHA256 of a subject id: the same person, not to be guessed without the key.

    The id is put into Unicode normal form NFC first, as requests demand; otherwise letters count
    as written: "A@x.org" and "a@x.org" are two subjects.

    >>> pseudonym(b"key", "ana")[:8], pseudonym(b"other", "ana")[:8]
    ('0c8de79c', 'c13bc323')
    """
    name = unicodedata.normalize("NFC", subject_id).encode()
    return Sha256(hmac.digest(key, b"qmu-edge subject v1\0" + name, "sha256").hex())


@dataclass(frozen=True, eq=False)
class SampleIndex:
    """All samples of a dataset, in its order; positions in it are what a `Split` holds.

    A million samples take about 100 MB.

    Attributes:
        ids: Unique names (n), as in requests.
        digests: `content_digest` of each sample (n).
        labels: Class of each sample (n,), int64, 0 to k - 1.
        splits: `SampleSplit` of each sample (n,), int8.
        subjects: `pseudonym` of each sample's person (n), "" when unknown.
        class_names: Unique names (k), written like ids.

    Raises:
        ConfigError: One of these does not hold.
    """

    ids: Names
    digests: Digests
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    subjects: Digests
    class_names: tuple[str, ...]

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
        """An index of plain texts; each iterable is read once and not kept."""
        return cls(
            ids=Names(ids, "sample ids"),
            digests=Digests.of(digests),
            labels=labels,
            splits=splits,
            subjects=Digests.of(subjects, "subjects", blank=True),
            class_names=tuple(class_names),
        )

    def digest(self) -> Sha256:
        """SHA-256 of ids, digests, labels, splits and class names.

        Subjects do not enter: a list of subjects may be completed without a new dataset.
        """
        return self._digest

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

    A given "train" or "test" is kept, but that validation is taken out of train. When no sample
    is given "test", the samples without a given split lend a share to it. In each class, samples
    are sorted by content digest; the first `test` share of them goes to test, then the first
    `validation` share of what is train by then goes to validation. Samples of a class with equal
    pixels stay together as long as none of them has a given split, so a share is never exceeded
    but may fall short by some duplicates.

    Args:
        labels: Classes (n,).
        digests: Content digests (n).
        given: "train", "test" or "" (no split given) for each sample (n,).
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
    unknown = np.setdiff1d(given, ["train", "test", ""])
    if unknown.size:
        raise ConfigError(f"given split: found {str(unknown[0])!r}, allowed 'train', 'test' or ''")
    keys = np.array(digests, dtype="S64")
    codes = np.where(given == "test", np.int8(SampleSplit.TEST), np.int8(SampleSplit.TRAIN))
    if not (given == "test").any():
        _move_share(codes, np.flatnonzero(given == ""), labels, keys, share=test, to=SampleSplit.TEST)
    train = np.flatnonzero(codes == SampleSplit.TRAIN)
    _move_share(codes, train, labels, keys, share=validation, to=SampleSplit.VALIDATION)
    return codes


def read_subjects(path: Path, sample_ids: Sequence[str]) -> tuple[str, ...]:
    """The subject of each sample, from a CSV file with the header `sample,subject`.

    Args:
        path: UTF-8, at most 256 MiB. A subject that is empty or whose sample is absent is unknown.
        sample_ids: The ids of the dataset (n).

    Returns:
        Raw subject ids (n), "" when unknown: give them to `pseudonym` before they are stored.

    Raises:
        ConfigError: The file cannot be read, or a line is malformed, names a sample that is not
            in the dataset, or a second subject for one sample. No message repeats a subject.
    """
    known = set(sample_ids)
    subjects: dict[str, str] = {}
    for line, sample, subject in _subject_rows(path):
        if sample not in known:
            raise ConfigError(f"{path}, line {line}: sample {sample[:80]!r} is not in the dataset")
        if subjects.setdefault(sample, subject) != subject:
            raise ConfigError(f"{path}, line {line}: a second subject for sample {sample[:80]!r}")
    return tuple(subjects.get(sample, "") for sample in sample_ids)


def _subject_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, sample and subject (both NFC) of each row, each row checked by itself."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_SUBJECTS_BYTES:
            raise ConfigError(f"{path}: found {size} bytes, allowed a file of {MAX_SUBJECTS_BYTES}")
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a mark
            rows = csv.reader(file, strict=True)
            if next(rows, []) != ["sample", "subject"]:  # not shown: it may be a row of data
                raise ConfigError(f"{path}: the first line must be the header sample,subject")
            for row in filter(None, rows):
                if len(row) != 2:
                    raise ConfigError(f"{path}, line {rows.line_num}: {len(row)} fields, allowed 2")
                sample, subject = (unicodedata.normalize("NFC", text) for text in row)
                if INVISIBLE.search(subject) or len(subject) > MAX_NAME:
                    raise ConfigError(
                        f"{path}, line {rows.line_num}: the subject has control characters, invisible "
                        f"ones or more than {MAX_NAME} characters, so no request could name it"
                    )
                yield rows.line_num, sample, subject
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _move_share(
    codes: NDArray[np.int8],
    pool: NDArray[np.int64],
    labels: NDArray[np.int64],
    keys: NDArray[np.character],
    *,
    share: float,
    to: SampleSplit,
) -> None:
    """Set `codes` to `to` for the first share, by key, of each class among `pool` (positions).

    Only whole groups of equal keys move, and only while they fit into the rounded share.
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
    allowed = np.rint(share * np.diff(starts, append=n))[class_of]
    group_end = np.append(np.flatnonzero(new_group)[1:], n)[group_of]
    codes[order[group_end - starts[class_of] <= allowed]] = to


def _changes(values: NDArray[np.int64] | NDArray[np.character]) -> NDArray[np.bool_]:
    """Where a sorted array (n > 0) starts a new value; the first place always does."""
    return np.append(True, values[1:] != values[:-1])


def _require_codes(
    name: str, codes: NDArray[np.generic], dtype: np.dtype[np.generic], n: int, limit: int
) -> None:
    if codes.dtype != dtype or codes.shape != (n,):
        raise ConfigError(f"sample index: {name} are {codes.dtype} {codes.shape}, allowed {dtype} ({n},)")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= limit:
        raise ConfigError(f"sample index: {name} {low} to {high}, allowed 0 to {limit - 1}")
