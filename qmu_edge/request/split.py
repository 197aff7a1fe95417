"""The sets of a run: what to forget, what to retain, and what to measure on.

`qmu_edge.request.resolve` finds what one request names, its claim. `divide` makes the sets of one run out of
the claims of one or many requests: retain is always everything minus all that was ever claimed. Messages go
to logs, so they count subjects and never name them.

Identical pixels. A sample with the pixels of a deleted one is the deleted one under another name: it
is deleted with it, whatever its label, and can never be trained on. The one exception is a sample
that the index gives to a known person other than those who were deleted: that person did not ask,
so theirs stays, and `duplicates_retained` counts it openly. Where nobody knows whose a sample is,
the deletion wins, because the pixels are what was asked to be forgotten.

Shapes: n samples in the index; sets are sorted int64 positions in it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.columns import Digests
from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.data.tombstones import Tombstones, barred_samples
from qmu_edge.errors import RequestError
from qmu_edge.io.digest import Sha256, salted
from qmu_edge.request import stored
from qmu_edge.request.resolve import LEAST_RETAINED, Claim, ScopeName
from qmu_edge.request.stored import Positions


class Passes(NamedTuple):
    """How many images of a request's sets a method takes through the network, forward and backward.

    An image that goes forward only counts as `runtime.throughput.FORWARD_ONLY`.

    Attributes:
        forget, retain: How often each image of these sets.
        pairs: How often besides in pairs of batches, one of each set, until the set with more batches is
            through; the other one is repeated.
        first, second: Images of a forget and of a retain batch in these pairs, at most.
    """

    forget: float
    retain: float
    pairs: float = 0.0
    first: float = 1.0
    second: float = 1.0

    def over(self, forget: int, retain: int) -> float:
        """Images of both sets together, which have as many images as said."""
        steps = self.pairs * max(forget / self.first, retain / self.second)
        paired = steps * (min(forget, self.first) + min(retain, self.second))
        return self.forget * forget + self.retain * retain + paired


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Split:
    """Disjoint sets of samples; together with what is barred or claimed they are the whole index.

    Attributes:
        forget: Training samples to unlearn, at least one.
        retain: All other training samples that nobody asked to delete, at least two.
        validation, test: Likewise; without `also_erased`.
        also_erased: See `Claim`.
        scope: What kind of thing the requests name.
        index_digest: `SampleIndex.digest` of the index that the positions refer to.
        requests: How many requests the run fulfils.
        copies: See `Claim`.
        duplicates_retained: How many retained samples have the very pixels of a forgotten one. They belong
            to somebody else and are not the request's to delete, but the model still learns from them.
        unmatched_subjects: See `Claim`.
        near_duplicates: How many retained samples look like a forgotten one and are no copies; None where
            nobody has looked.
        salt: The same text for the same requests, made of what a purge removes; "" in splits that are older.
    """

    forget: Positions
    retain: Positions
    validation: Positions
    test: Positions
    also_erased: Positions
    scope: ScopeName
    index_digest: Sha256
    requests: int = 1
    copies: int = 0
    duplicates_retained: int = 0
    unmatched_subjects: int = 0
    near_duplicates: int | None = None
    salt: str = ""

    @classmethod
    def parse(cls, data: bytes) -> "Split":
        """What `to_bytes` wrote.

        Raises:
            IntegrityError: It wrote something else.
        """
        return stored.parse(Split, data)

    def to_bytes(self) -> bytes:
        """The same bytes for the same split."""
        return stored.to_bytes(self)

    def digest(self) -> Sha256:
        """SHA-256 of forget, retain, validation, test and the index digest, salted."""
        total = hashlib.sha256(b"qmu-edge split v1\0" + self.index_digest.encode())
        for positions in (self.forget, self.retain, self.validation, self.test):
            total.update(len(positions).to_bytes(8, "little"))
            total.update(positions.astype("<i8").tobytes())
        return salted(Sha256(total.hexdigest()), self.salt)

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
            **({} if self.near_duplicates is None else {"near_duplicates": self.near_duplicates}),
        }


def divide(
    index: SampleIndex,
    claims: Sequence[Claim],
    *,
    barred: Tombstones = (),
    claimed: NDArray[np.bool_] | None = None,
    salt: str = "",
) -> Split:
    """The sets of one run that fulfils all these claims.

    Args:
        index: The index that the claims refer to.
        claims: At least one.
        barred: The tombstones of other requests: what they deleted is in no set.
        claimed: What other open requests claim (n,): it is not retained. None for nothing.
        salt: See `Split`.

    Raises:
        RequestError: Nothing would be left to forget, or to retain.
    """
    deleted = barred_samples(index, barred)
    named = np.zeros(len(deleted), np.bool_)
    named[np.concatenate([c.samples for c in claims])] = True
    train = index.in_split(SampleSplit.TRAIN)
    left = ~deleted & ~named  # with what is only claimed: that is not deleted yet
    kept = left if claimed is None else left & ~claimed
    forget, retain = np.flatnonzero(train & named & ~deleted), train & kept
    if not forget.size:
        raise RequestError("nothing is left to unlearn: it is deleted already", reason="already_deleted")
    if retain.sum() < LEAST_RETAINED:
        raise RequestError(
            f"{retain.sum()} training samples would be left to retain that no open request claims, allowed "
            f"at least {LEAST_RETAINED}: deny or withdraw another request, or withdraw the model",
            reason="nothing_left",
        )
    scopes = {c.scope for c in claims}
    measured = kept & ~np.isin(index.labels, _emptied(index.labels, forget, train & left))
    return Split(
        forget=forget,
        retain=np.flatnonzero(retain),
        validation=np.flatnonzero(index.in_split(SampleSplit.VALIDATION) & measured),
        test=np.flatnonzero(index.in_split(SampleSplit.TEST) & measured),
        also_erased=np.flatnonzero(~train & named & ~deleted),
        scope=scopes.pop() if len(scopes) == 1 else "mixed",
        index_digest=index.digest(),
        requests=len(claims),
        copies=sum(c.copies for c in claims),
        duplicates_retained=_duplicates(index.digests, forget, retain),
        unmatched_subjects=sum(c.unmatched_subjects for c in claims),
        salt=salt,
    )


@dataclass(frozen=True, slots=True)
class EmptiedClasses:
    """The classes of which a split leaves no training sample.

    Attributes:
        classes: Their labels, whether the classes or all of their samples were named.
        others: Whether samples of other labels are forgotten too. Then no rule says what a network that
            never saw them would do: only one that is trained again does.
    """

    classes: tuple[int, ...]
    others: bool


def emptied_classes(index: SampleIndex, split: Split, barred: NDArray[np.bool_]) -> EmptiedClasses:
    """The classes that a split empties; `barred` (n,) are all deleted samples.

    What open requests only ask to delete is not retained, but it is not deleted either.
    """
    left = index.in_split(SampleSplit.TRAIN) & ~barred
    left[split.forget] = False
    classes = _emptied(index.labels, split.forget, left)
    # Copies of a named class under another label are not a reason to train again.
    others = split.scope != "classes" and not np.isin(index.labels[split.forget], classes).all()
    return EmptiedClasses(tuple(classes.tolist()), others)


def _emptied(
    labels: NDArray[np.int64], forget: NDArray[np.int64], left: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Labels of forgotten samples that no sample which is `left` (n,) has."""
    return np.setdiff1d(labels[forget], labels[left])


def _duplicates(digests: Digests, forget: NDArray[np.int64], retain: NDArray[np.bool_]) -> int:
    """How many retained samples have the content digest of a forgotten one."""
    return int(retain[digests.find({digests[i] for i in forget.tolist()})].sum())
