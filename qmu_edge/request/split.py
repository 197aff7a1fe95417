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
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.data.tombstones import Stones, barred_samples
from qmu_edge.errors import IntegrityError, RequestError
from qmu_edge.request.resolve import Claim, ScopeName

Stored = TypeVar("Stored", "Claim", "Split")


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
    train = index.in_split(SampleSplit.TRAIN)
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
        validation=np.flatnonzero(index.in_split(SampleSplit.VALIDATION) & measured),
        test=np.flatnonzero(index.in_split(SampleSplit.TEST) & measured),
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
    left = index.in_split(SampleSplit.TRAIN) & ~barred
    left[split.forget] = False
    classes = _whole(index, split.forget, left)
    # Copies of a named class under another label are not a reason to train again.
    others = split.scope != "classes" and not np.isin(index.labels[split.forget], classes).all()
    return Gone(tuple(classes.tolist()), others)


def _whole(index: SampleIndex, forget: NDArray[np.int64], left: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Labels of forgotten samples that no sample which is `left` (n,) has."""
    return np.setdiff1d(index.labels[forget], index.labels[left])


def _duplicates(index: SampleIndex, forget: NDArray[np.int64], kept: NDArray[np.bool_]) -> int:
    """How many retained samples have the content digest of a forgotten one."""
    forgotten = {index.digests[i] for i in forget.tolist()}
    return int(kept[index.digests.find(forgotten)].sum())
