"""Claims and splits are stored in one form, which never changes, and nothing else is read as one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.request.resolve import Claim
from qmu_edge.request.split import Split

DIGEST = Sha256("ab" * 32)
CLAIM = Claim(
    forget=np.array([1, 3]),
    also_erased=np.array([], np.int64),
    scope="samples",
    index_digest=DIGEST,
    copies=1,
)
STORED = (
    b'{"also_erased":[],"copies":1,"forget":[1,3],"index_digest":"' + DIGEST.encode() + b'","partial":false,'
    b'"scope":"samples","unmatched_subjects":0}'
)
positions = st.lists(st.integers(0, 2**40), max_size=5).map(lambda values: np.array(sorted(values), np.int64))


def test_the_form_of_a_stored_claim_never_changes() -> None:
    """Requests that are open in older projects point to such objects."""
    assert CLAIM.to_bytes() == STORED
    split = Split(
        forget=np.array([0]), retain=np.array([1, 2]), validation=np.array([3]), test=np.array([4]),
        also_erased=np.array([5]), scope="mixed", index_digest=DIGEST, requests=2,
    )  # fmt: skip
    assert split.to_bytes() == (
        b'{"also_erased":[5],"copies":0,"duplicates_retained":0,"forget":[0],"index_digest":"'
        + DIGEST.encode()
        + b'","requests":2,"retain":[1,2],"scope":"mixed","test":[4],"unmatched_subjects":0,"validation":[3]}'
    )
    assert split.digest() == "9731865b352d585fba58bcf18f971dec26a542ba26e938d909e930170bc17903"


@given(positions, positions, st.sampled_from(["samples", "classes", "subjects", "mixed"]), st.integers(0, 9))
def test_claims_and_splits_come_back_as_they_were(one: Any, two: Any, scope: Any, copies: int) -> None:
    claim = Claim(forget=one, also_erased=two, scope=scope, index_digest=DIGEST, copies=copies, partial=True)
    read = Claim.parse(claim.to_bytes())
    assert read.to_bytes() == claim.to_bytes() and read.forget.dtype == np.int64
    split = Split(
        forget=one, retain=two, validation=two, test=one, also_erased=one, scope=scope, index_digest=DIGEST,
        copies=copies,
    )  # fmt: skip
    assert Split.parse(split.to_bytes()).digest() == split.digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"[1,3]", b"[1, 3]"),
        (b"[1,3]", b"[1.0,3]"),
        (b"[1,3]", b"[1,3e0]"),
        (b"[1,3]", b"[true,3]"),
        (b"[1,3]", b'["1",3]'),
        (b"[1,3]", b"[[1,3]]"),
        (b"[1,3]", b"[1,[3]]"),
        (b"[1,3]", b"[1,null]"),
        (b"[1,3]", b"[1,NaN]"),
        (b"[1,3]", b"[1," + b"9" * 30 + b"]"),
        (b"[1,3]", b"7"),
        (b"[1,3]", b"{}"),
        (b"[1,3]", b"[" * 100_000),
        (b'"copies":1,', b""),
        (b'"copies":1', b'"copies":1,"copies":1'),
        (b'"copies":1', b'"copies":1.0'),
        (b'"copies":1', b'"copies":"1"'),
        (b'"copies":1', b'"copies":1,"extra":1'),
        (b"samples", b"persons"),
        (b"false", b"0"),
        (STORED, b""),
        (STORED, b"[]"),
        (STORED, b"\xff"),
        (STORED, STORED + b"\n"),
    ],
)
def test_anything_else_is_refused(old: bytes, new: bytes) -> None:
    assert STORED.count(old) == 1
    with pytest.raises(IntegrityError, match=r"^a stored claim is not (as it was written|JSON|an object)"):
        Claim.parse(STORED.replace(old, new))
