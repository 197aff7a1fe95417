"""The samples that a request names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SAMPLE_SPLITS, SampleIndex, SampleSplit
from qmu_edge.data.subjects import in_other_letters, pseudonyms
from qmu_edge.data.tombstones import Tombstones, barred_samples, tombstones_at
from qmu_edge.errors import NoMatchError, RequestError
from qmu_edge.io.digest import Sha256
from qmu_edge.request import stored
from qmu_edge.request.document import DeletionRequest
from qmu_edge.request.stored import Positions

ScopeName = Literal["samples", "classes", "subjects", "mixed"]
LEAST_RETAINED: Final = 2  # on fewer images nothing can be trained: a single one has no batch statistics
NEVER_TRAINED_ON: Final = "never trained on"
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
        salt: Random text, see `qmu_edge.request.stored`; "" in claims that are older.
    """

    forget: Positions
    also_erased: Positions
    scope: ScopeName
    index_digest: Sha256
    copies: int = 0
    unmatched_subjects: int = 0
    partial: bool = False
    salt: str = ""

    @classmethod
    def parse(cls, data: bytes) -> "Claim":
        """What `to_bytes` wrote.

        Raises:
            IntegrityError: It wrote something else.
        """
        return stored.parse(Claim, data)

    def to_bytes(self) -> bytes:
        """The same bytes for the same claim."""
        return stored.to_bytes(self)

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


@dataclass(frozen=True, slots=True)
class _Found:
    """What one kind of id has found: samples (n,), how many ids are known and unknown, and a complaint."""

    samples: NDArray[np.bool_]
    known: int
    unknown: int = 0
    problem: str = ""


def resolve(
    index: SampleIndex,
    request: DeletionRequest,
    *,
    barred: Tombstones = (),
    key: bytes,
    partial: bool = False,
    never: str = NEVER_TRAINED_ON,
) -> Claim:
    """Find the samples that a request names.

    Args:
        index: All samples of the dataset.
        request: What to forget.
        barred: The tombstones of earlier requests; those of samples outside the index do not matter.
        key: The HMAC key that the subjects of the index were made with.
        never: How to say that a sample was not trained on.
        partial: Whether to go on with what is known when something it names is not; else that is an error.

    Raises:
        NoMatchError: Nothing in the index answers to the request.
        RequestError: Something it names is not known; a named sample was never trained on; everything
            is deleted already; an index of a class is also the name of another; or nothing would be left
            to forget, or fewer than two samples to retain. Its `reason` is a fixed word.
    """
    who = f"request {request.request_id}"
    kinds = {
        "samples": _find_samples(index, request, never),
        "classes": _find_classes(index, request),
        "subjects": _find_subjects(index, request, key),
    }
    _require_known(list(kinds.values()), who, partial=partial)
    named = np.logical_or.reduce([found.samples for found in kinds.values()])
    before = barred_samples(index, barred)
    after = barred_samples(index, {*barred, *tombstones_at(index, np.flatnonzero(named))})
    train = index.in_split(SampleSplit.TRAIN)
    _require_sets(named, before, after, train, who, never)
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


def shared_with_others(index: SampleIndex, claim: Claim) -> int:
    """How many of the samples of a claim show further people, who lose them too."""
    return sum(position in index.others for position in claim.samples.tolist())


def tombstones_of(index: SampleIndex, claim: Claim) -> list[tuple[str, Sha256]]:
    """Id and content digest of everything that a claim bars."""
    return tombstones_at(index, claim.samples)


def _find_samples(index: SampleIndex, request: DeletionRequest, words: str) -> _Found:
    samples = index.ids.mask(request.sample_ids)
    never = np.flatnonzero(samples & ~index.in_split(SampleSplit.TRAIN))
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
            f"sample_ids: {words} {never.size} of {known}, first {first!r} ({split}); "
            "allowed are training samples"
        )
    return _Found(samples, known, unknown, problem)


def _find_classes(index: SampleIndex, request: DeletionRequest) -> _Found:
    names = index.class_names
    _require_unmistakable(names, request)
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


def _require_unmistakable(names: Sequence[str], request: DeletionRequest) -> None:
    """Folders 0 to 11 are sorted as text, so that index 2 is class "10": nobody means that."""
    numbers = {int(name): name for name in names if name.isdecimal()}
    for number in request.class_ids:
        if isinstance(number, int) and number < len(names) and number in numbers:
            if names[number] != numbers[number]:
                raise RequestError(
                    f"request {request.request_id}: class_ids: {number} is the index of class "
                    f"{names[number]!r}, and there is a class {numbers[number]!r}: write the name, as text",
                    reason="ambiguous_class",
                )


def _find_subjects(index: SampleIndex, request: DeletionRequest, key: bytes) -> _Found:
    """In the "opendsr" form the ids are names of one person, and one that is known suffices."""
    wanted = [pseudonyms(key, subject) for subject in request.subject_ids]
    samples = index.showing({name for names in wanted for name in names})
    present = {name for i in np.flatnonzero(samples).tolist() for name in index.people(i)}
    unknown = [i for i, names in enumerate(wanted) if present.isdisjoint(names)]
    known = len(wanted) - len(unknown)
    problem = ""
    if unknown and (known == 0 or request.form == "research"):
        problem = (
            f"subject_ids: {len(unknown)} of {len(wanted)} not in the index, first at position {unknown[0]}"
            f"{_alike(index, [request.subject_ids[i] for i in unknown], key)}"
        )
    return _Found(samples, known, len(unknown), problem)


def _alike(index: SampleIndex, names: Sequence[str], key: bytes) -> str:
    """What to add to a complaint about unknown names (m)."""
    if not index.subjects.raw.any():
        return "; whose the samples are is not known"
    others = index.showing({other for name in names for other in in_other_letters(key, name)})
    count = int(others.sum())
    return f"; {count} samples have a name that differs in case or spacing only" if count else ""


def _require_known(kinds: list[_Found], who: str, *, partial: bool) -> None:
    """Raise NoMatchError when nothing is known, and RequestError when something is not and all must be."""
    problems = "; ".join(found.problem for found in kinds if found.problem)
    if not any(found.samples.any() for found in kinds):
        raise NoMatchError(f"{who}: {problems or 'the classes it names have no samples'}")
    if problems and not partial:
        raise RequestError(f"{who}: {problems}", reason="partial")


def _require_sets(
    named: NDArray[np.bool_],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    train: NDArray[np.bool_],
    who: str,
    never: str,
) -> None:
    """Raise RequestError unless there is something to forget and something to retain."""
    total = int(named.sum())
    if not (after & ~before).any():
        raise RequestError(f"{who}: already deleted: all {total} samples it names", reason="already_deleted")
    if not (after & train & ~before).any():
        deleted = int((named & before).sum())
        raise RequestError(
            f"{who}: nothing to unlearn: of {total} samples it names, {deleted} are already "
            f"deleted and {total - deleted} are validation or test samples, {never}",
            reason="never_trained_on",
        )
    left = int((train & ~after).sum())
    if left < LEAST_RETAINED:
        raise RequestError(
            f"{who}: names every training sample that is left but {left}; allowed all but "
            f"{LEAST_RETAINED}: withdraw the model instead",
            reason="nothing_left",
        )
