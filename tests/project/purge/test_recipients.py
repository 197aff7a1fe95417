"""To whom bundles were sent: noted before, superseded by a deletion, counted until they are taken down."""

from typing import Any

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.project.inventory import ON_A_HUB
from qmu_edge.project.recipients import Recipients, Upload
from qmu_edge.store.ledger.ledger import Ledger
from tests.project.purge.conftest import checklist_of

COMMIT = 40 * "a"


def begin(ledger: Ledger, repository: str = "shop/birds", issued: int = 0) -> Upload:
    return Recipients(ledger).begin(
        hub="https://huggingface.co", repository=repository, manifest=Sha256(64 * "b"), issued=issued,
        files=9, bytes=1000,
    )  # fmt: skip


def sent(ledger: Ledger, commit: str = COMMIT, issued: int = 0) -> Upload:
    return Recipients(ledger).arrived(begin(ledger, issued=issued), commit, everybody=True)


def test_what_was_begun_may_have_arrived(life: Any) -> None:
    upload = begin(life.ledger)
    assert Recipients(life.ledger).there() == [upload]
    assert str(upload) == "shop/birds@unknown, see whether it arrived"
    assert str(sent(life.ledger)) == f"shop/birds@{COMMIT}"
    assert life.ledger.problems() == []


def test_what_the_hub_refused_or_has_already_is_no_recipient(life: Any) -> None:
    known = Recipients(life.ledger)
    known.refused(begin(life.ledger))
    assert known.all() == []
    first = sent(life.ledger)
    assert sent(life.ledger) == first and known.all() == [first]
    assert first.number == 2 and sent(life.ledger, 40 * "c").number == 4  # no number is given twice


def test_ten_are_in_order(life: Any) -> None:
    numbers = [sent(life.ledger, f"{n:040x}").number for n in range(11)]
    assert [upload.number for upload in Recipients(life.ledger).all()] == numbers == [*range(1, 12)]


def test_a_deletion_supersedes_what_was_sent_before_until_it_is_taken_down(life: Any) -> None:
    life.train()
    known, before = Recipients(life.ledger), sent(life.ledger)
    assert known.superseded() == []
    life.serve(0)
    after = sent(life.ledger, 40 * "c", issued=1)
    assert known.superseded() == [before]
    gone = known.take_down(before.number)
    assert gone.taken_down and known.take_down(before.number) == gone  # the first time counts
    assert known.superseded() == [] and known.there() == [after]
    with pytest.raises(ConfigError, match="recipient 7"):
        known.take_down(7)


def hub_lines(life: Any, request: str) -> list[tuple[int | None, int | None, str]]:
    lines = checklist_of(life.project, request)
    return [(line["count"], line["bytes"], line["state"]) for line in lines if line["kind"] == ON_A_HUB]


def test_a_checklist_counts_what_was_sent_before_its_request_was_fulfilled(life: Any) -> None:
    life.train()
    first = life.serve(0)["request"]
    assert hub_lines(life, first) == []
    upload = sent(life.ledger, issued=1)
    assert hub_lines(life, first) == []  # sent since
    second = life.ask(1)
    assert hub_lines(life, second) == [(1, 1000, "outside")]
    Recipients(life.ledger).take_down(upload.number)
    assert hub_lines(life, second) == []
