"""Thumbnails of deleted images: what is kept of them, and that nothing else is taken for one."""

from pathlib import Path

import numpy as np
import pytest

from qmu_edge.data.alike import alike, thumbnails
from qmu_edge.errors import LedgerError
from qmu_edge.project import thumbnails as kind
from qmu_edge.project.thumbnails import keep, kept
from qmu_edge.store.ledger.ledger import Ledger

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), np.uint8)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.create(tmp_path / "ledger.db")


def test_what_is_kept_finds_the_image_again_whatever_came_first(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "_PART", 3)
    shown = thumbnails(IMAGES, np.arange(7))
    keep(ledger, shown[4:6])
    keep(ledger, shown[:5])
    keep(ledger, np.zeros((1, 64), np.float32))  # of an image of one value: it says nothing
    found = kept(ledger)
    assert len(found) == 6 and alike(shown, found).tolist() == [True] * 6 + [False]
    assert (found @ shown.T).max(axis=1).min() > 0.9999
    notes = ledger.notes("thumbnails")
    assert [len(note["values"]) for _, note in notes] == [3, 3]
    values = [text for _, note in notes for text in note["values"]]
    assert values == sorted(values), "the order would say which were deleted together"


def test_nothing_in_the_chain_confirms_which_were_added(ledger: Ledger) -> None:
    shown = thumbnails(IMAGES, np.arange(7))
    salts = []
    for some in (shown[:2], shown[2:3], shown[2:3]):
        keep(ledger, some)
        salts += [note["salt"] for _, note in ledger.notes("thumbnails")]
    assert len(set(salts)) == 3 and not any(ledger.problems())


@pytest.mark.parametrize("value", [{}, {"values": ["00"]}, {"values": [7]}, {"values": ["zz" * 64]}, []])
def test_anything_else_in_its_place_is_an_error(ledger: Ledger, value: object) -> None:
    ledger.set_meta("thumbnails:0", value)
    with pytest.raises(LedgerError, match="thumbnails"):
        kept(ledger)


def test_where_none_is_kept_there_is_none(ledger: Ledger) -> None:
    assert kept(ledger).shape == (0, 64)
