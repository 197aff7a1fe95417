"""What a verdict is made of is kept, and says the same of the same file again."""

import numpy as np
import pytest
from safetensors.numpy import save

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import sha256_of
from qmu_edge.pipeline.comparison import Comparison
from qmu_edge.pipeline.evaluate import Seen
from qmu_edge.pipeline.references import Expected
from qmu_edge.verify.evaluation import SetName

INDEX = SampleIndex.of(
    ids=[f"img-{i}" for i in range(10)],
    digests=[sha256_of(f"image {i}".encode()) for i in range(10)],
    labels=np.arange(10) % 3,
    splits=np.array([0] * 6 + [1, 1, 2, 2], np.int8),
    subjects=[""] * 10,
    class_names=["cat", "dog", "hen"],
)
POSITIONS = {
    SetName.FORGET: np.array([1, 4]),
    SetName.RETAIN: np.array([0, 2, 3]),
    SetName.TEST: np.array([8]),
}
NOBODY = np.zeros(10, bool)


def seen(shift: float = 0.0) -> Seen:
    return Seen(
        POSITIONS,
        {name: at % 2 == 0 for name, at in POSITIONS.items()},
        {name: at * 1.0 + shift for name, at in POSITIONS.items()},
    )


EXPECTED = Expected(np.arange(10) / 10, np.full(10, 4), np.arange(10) // 2, 0.25)
COMPARISON = Comparison.of(seen(), EXPECTED)


def test_it_is_read_back_as_it_was_written() -> None:
    for comparison in (COMPARISON, Comparison.of(seen(), None)):
        again = Comparison.parse(comparison.to_bytes())
        assert again.to_bytes() == comparison.to_bytes()
        assert [*again.before.positions] == [name for name in SetName if name in comparison.before.positions]
        ours, theirs = (e.compared(seen(0.5), INDEX, NOBODY) for e in (comparison, again))
        assert ours.keys() == theirs.keys() == POSITIONS.keys()
        for name, one in ours.items():
            for field in ("labels", "right", "score", "right_before", "score_before", "references", "people"):
                value, other = getattr(one, field), getattr(theirs[name], field)
                assert (value is None and other is None) or np.array_equal(value, other)
                assert value is None or value.dtype == other.dtype
    assert Comparison.of(seen(), None).references == {}


def test_a_file_stands_beside_the_original_image_by_image() -> None:
    forget = COMPARISON.compared(seen(0.5), INDEX, NOBODY)[SetName.FORGET]
    assert forget.score.tolist() == [1.5, 4.5] and forget.classes == 3
    assert forget.score_before is not None and forget.score_before.tolist() == [1.0, 4.0]
    assert forget.references is not None and forget.references.tolist() == [0.1, 0.4]
    assert forget.people is not None and forget.people.tolist() == [0, 2]
    assert forget.labels.tolist() == [1, 1]
    bare = Comparison.of(seen(), None).compared(seen(), INDEX, NOBODY)[SetName.FORGET]
    assert bare.references is None and bare.people is None and bare.right_before is not None


def test_who_was_deleted_since_is_left_out_of_what_is_kept() -> None:
    barred = NOBODY.copy()
    barred[[1, 2, 4]] = True
    left = COMPARISON.positions(barred)
    assert {name: at.tolist() for name, at in left.items()} == {
        SetName.FORGET: [1, 4], SetName.RETAIN: [0, 3], SetName.TEST: [8],
    }  # fmt: skip
    after = Seen(
        left,
        {n: np.ones(len(at), bool) for n, at in left.items()},
        {n: 2 * at.astype(np.float64) for n, at in left.items()},
    )
    retain = COMPARISON.compared(after, INDEX, barred)[SetName.RETAIN]
    assert retain.score.tolist() == [0.0, 6.0]
    assert retain.score_before is not None and retain.score_before.tolist() == [0.0, 3.0]
    assert retain.references is not None and retain.references.tolist() == [0.0, 0.3]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x" * 50, COMPARISON.to_bytes()[:-1], save({"other.positions": np.zeros(1)}),
        save({"forget.fingerprints": np.zeros(1)}), save({"forget": np.zeros(1)}),
    ],
)  # fmt: skip
def test_what_is_no_evidence_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="stored comparison is not as it was written"):
        Comparison.parse(data)
