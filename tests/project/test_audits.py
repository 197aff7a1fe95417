"""Results of attacks as they are stored."""

import pytest

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import salted, sha256_of
from qmu_edge.project.audits import AttackResult, Estimate, Finding

NAME = sha256_of(b"all that went into it")
RESULT = AttackResult(
    attack="rmia", made_of=salted(NAME, "00ff"), forgotten=120, unseen=285, salt="00ff", seconds=1.5,
    findings=(Finding(quantity="area", original=Estimate(0.9, 0.8, 1.0), file=Estimate(0.5)),),
)  # fmt: skip


def test_it_is_read_back_as_it_was_written() -> None:
    again = AttackResult.parse(RESULT.to_bytes())
    assert again == RESULT and again.to_bytes() == RESULT.to_bytes()
    assert again.is_of(NAME) and not again.is_of(sha256_of(b"something else"))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"attack":"rmia"}', RESULT.to_bytes().replace(b"0.9", b'"x"')]
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="a stored audit"):
        AttackResult.parse(data)
