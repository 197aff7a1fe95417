"""A deletion request resolved against the sample index: what to forget, what to keep, what to ask.

`claim` finds what one request names. `divide` makes the sets of one run out of the claims of one or
many requests: retain is always everything minus all that was ever claimed. Messages go to logs, so
they count subjects and never name them.

Identical pixels. A sample with the pixels of a deleted one is the deleted one under another name: it
is deleted with it, whatever its label, and can never be trained on. The one exception is a sample
that the index gives to a known person other than those who were deleted: that person did not ask,
so theirs stays, and `duplicates_retained` counts it openly. Where nobody knows whose a sample is,
the deletion wins, because the pixels are what was asked to be forgotten.

Shapes: n samples in the index; all index arrays are sorted int64 positions into it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import IntegrityError, NoMatchError, RequestError
from qmu_edge.index import SAMPLE_SPLITS, SampleIndex, pseudonym
from qmu_edge.request import DeletionRequest

ScopeName = Literal["samples", "classes", "subjects", "mixed"]
Stones = Collection[tuple[str, str]]  # id and content digest of each barred sample
Stored = TypeVar("Stored", "Claim", "Split")
_TRAIN: Final = SAMPLE_SPLITS.index("train")
_SHOWN_CLASSES: Final = 20


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Claim:
    """What one request names, without what was barred before it.

    Attributes:
        forget: Training samples.
        also_erased: Validation and test samples of the subjects and classes named. The model was
            never trained on them, but they are tombstoned too and leave every later measurement
            (class-wise test accuracy is taken without the class).
        scope: What kind of thing the request names.
        index_digest: `SampleIndex.digest` of the index that the positions refer to.
        copies: How many of both were not named, but have the pixels of one that was.
        unmatched_subjects: Names of the one person of an "opendsr" request that no sample has.
        partial: Whether something that it names is not in the index, or was never trained on.
    """

    forget: NDArray[np.int64]
    also_erased: NDArray[np.int64]
    scope: ScopeName
    index_digest: str
    copies: int = 0
    unmatched_subjects: int = 0
    partial: bool = False

    @property
    def samples(self) -> NDArray[np.int64]:
        """Everything that is to be barred."""
        return np.concatenate([self.forget, self.also_erased])

    def counts(self) -> dict[str, int]:
        """How many samples there are of each kind; no personal data."""
        return {
            "forget": len(self.forget), "also_erased": len(self.also_erased), "copies": self.copies,
            "unmatched_subjects": self.unmatched_subjects,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Split:
    """Disjoint sets of samples; together with what is barred or claimed they are the whole index.

    Attributes:
        forget: Training samples to unlearn, at least one.
        retain: All other training samples that nobody asked to delete, at least one.
        validation, test: Likewise; without `also_erased`.
        also_erased: See `Claim`.
        scope: What kind of thing the requests name.
        index_digest: `SampleIndex.digest` of the index that the positions refer to.
        requests: How many requests it serves.
        copies: See `Claim`.
        duplicates_retained: Retained samples with the very pixels of a forgotten one, which belong
            to somebody else. They are not the request's to delete, but the model still learns from
            them: say so.
        unmatched_subjects: See `Claim`.
    """

    forget: NDArray[np.int64]
    retain: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    also_erased: NDArray[np.int64]
    scope: ScopeName
    index_digest: str
    requests: int = 1
    copies: int = 0
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
            "requests": self.requests,
            "copies": self.copies,
            "duplicates_retained": self.duplicates_retained,
            "unmatched_subjects": self.unmatched_subjects,
        }


def to_json(part: Claim | Split) -> bytes:
    """A claim or split as JSON, the same bytes for the same one."""
    values = ((f.name, getattr(part, f.name)) for f in fields(part))
    document = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def from_json(kind: type[Stored], data: bytes) -> Stored:
    """What `to_json` wrote.

    Raises:
        IntegrityError: It wrote something else.
    """
    try:
        document: dict[str, Any] = json.loads(data)
        for name, value in document.items():
            document[name] = np.array(value, np.int64) if isinstance(value, list) else value
        found = kind(**document)
        if to_json(found) == data:
            return found
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise IntegrityError(f"a stored {kind.__name__.lower()} is not as it was written")


@dataclass(frozen=True, slots=True)
class _Found:
    """Answer for one kind of id: the samples (n,), how many ids are (un)known, and a complaint."""

    samples: NDArray[np.bool_]
    known: int
    unknown: int = 0
    problem: str = ""


def claim(
    index: SampleIndex, request: DeletionRequest, *, barred: Stones = (), key: bytes, partial: bool = False
) -> Claim:
    """Find the samples of a request.

    Args:
        index: All samples of the dataset.
        request: What to forget.
        barred: What earlier requests deleted; samples that are not in the index do not matter.
        key: The HMAC key that the subjects of the index were made with.
        partial: Take what is known when a part is not; otherwise that is an error.

    Raises:
        NoMatchError: Nothing in the index answers to the request.
        RequestError: Only a part of it is known; a named sample was never trained on; everything
            is deleted already; or nothing would be left to forget, or to retain. Its `reason` is a
            fixed word.
    """
    who = f"request {request.request_id}"
    kinds = {
        "samples": _find_samples(index, request),
        "classes": _find_classes(index, request),
        "subjects": _find_subjects(index, request, key),
    }
    _check_found(list(kinds.values()), who, partial=partial)
    named = np.logical_or.reduce([found.samples for found in kinds.values()])
    before = barred_samples(index, barred)
    after = barred_samples(index, {*barred, *_stones(index, np.flatnonzero(named))})
    train = index.splits == _TRAIN
    _check_parts(named, before, after, train, who)
    scopes: list[ScopeName] = ["samples", "classes", "subjects"]
    asked = [scope for scope in scopes if kinds[scope].known]
    return Claim(
        forget=np.flatnonzero(train & after & ~before),
        also_erased=np.flatnonzero(~train & after & ~before),
        scope=asked[0] if len(asked) == 1 else "mixed",
        index_digest=index.digest(),
        copies=int((after & ~before & ~named).sum()),
        unmatched_subjects=kinds["subjects"].unknown,
        partial=any(found.problem for found in kinds.values()),
    )


def divide(
    index: SampleIndex,
    claims: Sequence[Claim],
    *,
    barred: Stones = (),
    held: NDArray[np.bool_] | None = None,
) -> Split:
    """The sets of one run that serves all these claims.

    Args:
        index: The index that the claims refer to.
        claims: At least one.
        barred: What other requests deleted: it is in no set.
        held: What other open requests claim (n,): it is not retained.

    Raises:
        RequestError: Nothing would be left to forget, or to retain.
    """
    dead = barred_samples(index, barred)
    claimed = np.zeros(len(dead), np.bool_)
    claimed[np.concatenate([c.samples for c in claims])] = True
    train = index.splits == _TRAIN
    alive = ~dead & ~claimed if held is None else ~dead & ~claimed & ~held
    forget, kept = np.flatnonzero(train & claimed & ~dead), train & alive
    if not forget.size:
        raise RequestError("nothing is left to unlearn: it is deleted already", reason="already_deleted")
    if not kept.any():
        raise RequestError("no training sample would be left to retain", reason="nothing_left")
    scopes = {c.scope for c in claims}
    left = train & ~dead & ~claimed  # with what waits: that is not deleted yet
    measured = alive & ~np.isin(index.labels, _whole(index, forget, left))
    return Split(
        forget=forget,
        retain=np.flatnonzero(kept),
        validation=np.flatnonzero((index.splits == SAMPLE_SPLITS.index("validation")) & measured),
        test=np.flatnonzero((index.splits == SAMPLE_SPLITS.index("test")) & measured),
        also_erased=np.flatnonzero(~train & claimed & ~dead),
        scope=scopes.pop() if len(scopes) == 1 else "mixed",
        index_digest=index.digest(),
        requests=len(claims),
        copies=sum(c.copies for c in claims),
        duplicates_retained=_duplicates(index, forget, kept),
        unmatched_subjects=sum(c.unmatched_subjects for c in claims),
    )


@dataclass(frozen=True, slots=True)
class Gone:
    """What a split leaves nothing of.

    Attributes:
        classes: Labels of which every training sample is deleted, whether they or their samples were named.
        others: Whether samples of other labels are forgotten too. Then no rule says what a network that
            never saw them would do: only one that is trained again does.
    """

    classes: tuple[int, ...]
    others: bool


def gone(index: SampleIndex, split: Split, barred: NDArray[np.bool_]) -> Gone:
    """The classes that a split forgets whole; `barred` (n,) are all deleted samples.

    What open requests only ask to delete is not retained, but not gone either.
    """
    left = (index.splits == _TRAIN) & ~barred
    left[split.forget] = False
    classes = _whole(index, split.forget, left)
    # Copies of a named class under another label are not a reason to train again.
    others = split.scope != "classes" and not np.isin(index.labels[split.forget], classes).all()
    return Gone(tuple(classes.tolist()), others)


def _whole(index: SampleIndex, forget: NDArray[np.int64], left: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Labels of forgotten samples that no sample which is `left` (n,) has."""
    return np.setdiff1d(index.labels[forget], index.labels[left])


def stones_of(index: SampleIndex, part: Claim) -> list[tuple[str, str]]:
    """Id and content digest of everything that a claim bars."""
    return _stones(index, part.samples)


def barred_samples(index: SampleIndex, stones: Stones) -> NDArray[np.bool_]:
    """Which samples (n,) must never be trained on: the re-ingestion guard.

    Barred is what was deleted by id, and every other sample with the pixels of a deleted one, unless
    it belongs to a known person, all of the deleted ones are in this index, and none of them is that
    person's. More stones never bar less.
    """
    if not stones:
        return np.zeros(len(index.ids), np.bool_)
    dead = index.ids.mask({name for name, _ in stones})
    deleted = np.flatnonzero(dead).tolist()
    here = {(index.ids[i], index.digests[i]) for i in deleted}
    elsewhere = {digest for name, digest in stones if (name, digest) not in here}
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for i in deleted:
        owners[index.digests[i]].add(index.subjects[i])
    alike = index.digests.find({digest for _, digest in stones})
    for i in alike[~dead[alike]].tolist():
        owner, digest = index.subjects[i], index.digests[i]
        dead[i] = not owner or digest in elsewhere or owner in owners[digest]
    return dead


def _stones(index: SampleIndex, positions: NDArray[np.int64]) -> list[tuple[str, str]]:
    return [(index.ids[i], index.digests[i]) for i in positions.tolist()]


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


def _check_found(kinds: list[_Found], who: str, *, partial: bool) -> None:
    """Raise NoMatchError when nothing is known, RequestError when only a part is and all is wanted."""
    problems = "; ".join(found.problem for found in kinds if found.problem)
    if not any(found.samples.any() for found in kinds):
        raise NoMatchError(f"{who}: {problems or 'the classes it names have no samples'}")
    if problems and not partial:
        raise RequestError(f"{who}: {problems}", reason="partial")


def _check_parts(
    named: NDArray[np.bool_],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    train: NDArray[np.bool_],
    who: str,
) -> None:
    """Raise RequestError unless there is something to forget and something to retain."""
    total = int(named.sum())
    if not (after & ~before).any():
        raise RequestError(f"{who}: already deleted: all {total} samples it names", reason="already_deleted")
    if not (after & train & ~before).any():
        deleted = int((named & before).sum())
        raise RequestError(
            f"{who}: nothing to unlearn: of {total} samples it names, {deleted} are already "
            f"deleted and {total - deleted} are validation or test samples, never trained on",
            reason="never_trained_on",
        )
    if not (train & ~after).any():
        raise RequestError(
            f"{who}: names every training sample that is left; allowed all but one: withdraw "
            "the model instead",
            reason="nothing_left",
        )


def _duplicates(index: SampleIndex, forget: NDArray[np.int64], kept: NDArray[np.bool_]) -> int:
    """How many retained samples have the content digest of a forgotten one."""
    forgotten = {index.digests[i] for i in forget.tolist()}
    return int(kept[index.digests.find(forgotten)].sum())
