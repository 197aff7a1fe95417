"""A deletion request resolved against the sample index: what to forget, what to keep, what to ask.

Either every part of a request is found or it is refused; nothing is silently left out. Messages go
to logs, so they count subjects and never name them.

Shapes: n samples in the index; all index arrays are sorted int64 positions into it.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import IntegrityError, NoMatchError, RequestError
from qmu_edge.index import SAMPLE_SPLITS, SampleIndex, pseudonym
from qmu_edge.request import DeletionRequest

ScopeName = Literal["samples", "classes", "subjects", "mixed"]
_TRAIN: Final = SAMPLE_SPLITS.index("train")
_SHOWN_CLASSES: Final = 20


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Split:
    """Disjoint sets of samples; together with what is tombstoned they are the whole index.

    Attributes:
        forget: Training samples to unlearn, at least one.
        retain: All other training samples that are not tombstoned, at least one.
        validation, test: Without tombstoned samples and without `also_erased`.
        also_erased: Validation and test samples of the subjects and classes named. The model was
            never trained on them, but they are tombstoned too and leave every later measurement
            (class-wise test accuracy is taken without the class).
        scope: What kind of thing the request names.
        index_digest: `SampleIndex.digest` of the index that the positions refer to.
        duplicates_retained: Retained samples with the very pixels of a forgotten one. They are
            not the request's to delete, but the model still learns from them: say so.
        unmatched_subjects: Names of the one person of an "opendsr" request that no sample has.
    """

    forget: NDArray[np.int64]
    retain: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    also_erased: NDArray[np.int64]
    scope: ScopeName
    index_digest: str
    duplicates_retained: int = 0
    unmatched_subjects: int = 0

    def digest(self) -> str:
        """SHA-256 (hex) of forget, retain, validation, test and the index digest."""
        total = hashlib.sha256(b"qmu-edge split v1\0" + self.index_digest.encode())
        for part in (self.forget, self.retain, self.validation, self.test):
            total.update(len(part).to_bytes(8, "little"))
            total.update(part.astype("<i8").tobytes())
        return total.hexdigest()

    def counts(self) -> dict[str, int]:
        """How many samples there are of each kind; no personal data."""
        return {
            "forget": len(self.forget),
            "retain": len(self.retain),
            "validation": len(self.validation),
            "test": len(self.test),
            "also_erased": len(self.also_erased),
            "duplicates_retained": self.duplicates_retained,
            "unmatched_subjects": self.unmatched_subjects,
        }


def split_to_json(split: Split) -> bytes:
    """The split as JSON, the same bytes for the same split."""
    values = ((f.name, getattr(split, f.name)) for f in fields(split))
    document = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def split_from_json(data: bytes) -> Split:
    """The split that `split_to_json` wrote.

    Raises:
        IntegrityError: It wrote something else.
    """
    try:
        document: dict[str, Any] = json.loads(data)
        for name, value in document.items():
            document[name] = np.array(value, np.int64) if isinstance(value, list) else value
        split = Split(**document)
        if split_to_json(split) == data:
            return split
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise IntegrityError("a stored split is not as it was written")


@dataclass(frozen=True, slots=True)
class _Found:
    """Answer for one kind of id: the samples (n,), how many ids are (un)known, and a complaint."""

    samples: NDArray[np.bool_]
    known: int
    unknown: int = 0
    problem: str = ""


def resolve(
    index: SampleIndex,
    request: DeletionRequest,
    *,
    tombstoned: Collection[str] = (),
    key: bytes,
) -> Split:
    """Find the samples of a request.

    Args:
        index: All samples of the dataset.
        request: What to forget.
        tombstoned: Ids of the samples that earlier requests deleted; unknown ones do not matter.
        key: The HMAC key that the subjects of the index were made with.

    Returns:
        The split; nothing tombstoned is in any part of it.

    Raises:
        NoMatchError: Nothing in the index answers to the request.
        RequestError: Only a part of it is known; a named sample was never trained on; everything
            is deleted already; or nothing would be left to forget, or to retain.
    """
    who = f"request {request.request_id}"
    kinds = {
        "samples": _find_samples(index, request),
        "classes": _find_classes(index, request),
        "subjects": _find_subjects(index, request, key),
    }
    _check_found(list(kinds.values()), who)
    named = np.logical_or.reduce([found.samples for found in kinds.values()])
    dead = index.ids.mask(tombstoned)
    train = index.splits == _TRAIN
    alive = ~dead & ~named
    kept = train & alive
    forget = np.flatnonzero(train & named & ~dead)
    _check_parts(named, dead, train, who)
    scopes: list[ScopeName] = ["samples", "classes", "subjects"]
    asked = [scope for scope in scopes if kinds[scope].known]
    return Split(
        forget=forget,
        retain=np.flatnonzero(kept),
        validation=np.flatnonzero((index.splits == SAMPLE_SPLITS.index("validation")) & alive),
        test=np.flatnonzero((index.splits == SAMPLE_SPLITS.index("test")) & alive),
        also_erased=np.flatnonzero(~train & named & ~dead),
        scope=asked[0] if len(asked) == 1 else "mixed",
        index_digest=index.digest(),
        duplicates_retained=_duplicates(index, forget, kept),
        unmatched_subjects=kinds["subjects"].unknown,
    )


def _find_samples(index: SampleIndex, request: DeletionRequest) -> _Found:
    samples = index.ids.mask(request.sample_ids)
    never = np.flatnonzero(samples & (index.splits != _TRAIN))
    known = int(samples.sum())
    unknown = len(request.sample_ids) - known
    problem = ""
    if unknown:
        found = {index.ids[i] for i in np.flatnonzero(samples).tolist()}
        first = next(i for i in request.sample_ids if i not in found)
        problem = f"sample_ids: {unknown} of {known + unknown} not in the index, first {first!r}"
    elif never.size:
        first, split = index.ids[never[0]], SAMPLE_SPLITS[index.splits[never[0]]]
        problem = (
            f"sample_ids: never trained on {never.size} of {known}, first {first!r} ({split}); "
            "allowed are training samples"
        )
    return _Found(samples, known, unknown, problem)


def _find_classes(index: SampleIndex, request: DeletionRequest) -> _Found:
    names = index.class_names
    position = {name: i for i, name in enumerate(names)} | {i: i for i in range(len(names))}
    unknown = [c for c in request.class_ids if c not in position]
    classes = [position[c] for c in request.class_ids if c in position]
    problem = ""
    if unknown:
        more = ", ..." if len(names) > _SHOWN_CLASSES else ""
        problem = (
            f"class_ids: {len(unknown)} of {len(request.class_ids)} unknown, first {unknown[0]!r}; "
            f"allowed 0 to {len(names) - 1} or {', '.join(names[:_SHOWN_CLASSES])}{more}"
        )
    return _Found(np.isin(index.labels, classes), len(classes), len(unknown), problem)


def _find_subjects(index: SampleIndex, request: DeletionRequest, key: bytes) -> _Found:
    """In the "opendsr" form the ids are names of one person, and one that is known suffices."""
    wanted = [pseudonym(key, subject) for subject in request.subject_ids]
    samples = index.subjects.mask(wanted)
    present = {index.subjects[i] for i in np.flatnonzero(samples).tolist()}
    unknown = [i for i, subject in enumerate(wanted) if subject not in present]
    known = len(wanted) - len(unknown)
    problem = ""
    if unknown and (known == 0 or request.form == "research"):
        problem = (
            f"subject_ids: {len(unknown)} of {len(wanted)} not in the index, first at position {unknown[0]}"
        )
    return _Found(samples, known, len(unknown), problem)


def _check_found(kinds: list[_Found], who: str) -> None:
    """Raise NoMatchError when nothing is known, RequestError when only a part is."""
    problems = "; ".join(found.problem for found in kinds if found.problem)
    if not any(found.samples.any() for found in kinds):
        raise NoMatchError(f"{who}: {problems or 'the classes it names have no samples'}")
    if problems:
        raise RequestError(f"{who}: {problems}")


def _check_parts(
    named: NDArray[np.bool_], dead: NDArray[np.bool_], train: NDArray[np.bool_], who: str
) -> None:
    """Raise RequestError unless there is something to forget and something to retain."""
    total = int(named.sum())
    if not (named & ~dead).any():
        raise RequestError(f"{who}: already deleted: all {total} samples it names")
    if not (named & train & ~dead).any():
        deleted = int((named & dead).sum())
        raise RequestError(
            f"{who}: nothing to unlearn: of {total} samples it names, {deleted} are already "
            f"deleted and {total - deleted} are validation or test samples, never trained on"
        )
    if not (train & ~named & ~dead).any():
        raise RequestError(
            f"{who}: names every training sample that is left; allowed all but one: withdraw "
            "the model instead"
        )


def _duplicates(index: SampleIndex, forget: NDArray[np.int64], kept: NDArray[np.bool_]) -> int:
    """How many retained samples have the content digest of a forgotten one."""
    forgotten = {index.digests[i] for i in forget.tolist()}
    return int(kept[index.digests.find(forgotten)].sum())
