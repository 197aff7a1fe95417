"""Columns: they behave like the tuples of text they stand for, and find as a set would."""

import hashlib
import tracemalloc
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmu_edge.data.columns import Column, Digests, Names
from qmu_edge.errors import ConfigError
from qmu_edge.io.json import INVISIBLE

NAMES = st.lists(st.text("abé\U0001f600", min_size=1, max_size=3), unique=True, max_size=30)
SHA = st.integers(0, 8).map(lambda i: hashlib.sha256(bytes([i])).hexdigest())


def agrees(column: Column, values: list[str], wanted: list[str]) -> None:
    """The column says what the list says."""
    n = len(values)
    assert list(column) == values == [column[i] for i in range(n)] == column[:]
    assert column[::-2] == values[::-2] and len(column) == n
    assert column.find(wanted).tolist() == [i for i, v in enumerate(values) if v in wanted]
    assert column.mask(wanted).tolist() == [v in wanted for v in values]
    with pytest.raises(IndexError):
        column[n]


@given(NAMES, st.lists(st.text("abé", max_size=3)))
def test_names_are_a_list_of_text(names: list[str], wanted: list[str]) -> None:
    agrees(Names(names), names, wanted)
    assert Names(names).data == "\n".join(names).encode()


@given(st.lists(SHA | st.just("")), st.lists(SHA | st.sampled_from(["", "x", "ab", "G" * 64])))
def test_digests_are_a_list_of_text(values: list[str], wanted: list[str]) -> None:
    agrees(Digests.of(values, blank=True), values, wanted)


def test_digests_that_begin_alike_are_told_apart() -> None:
    values = ["ab" * 16 + end * 32 for end in "0123"]
    assert Digests.of(values).find([values[2]]).tolist() == [2]


def test_names_that_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.hash", lambda value: 7)
    names = [str(i) for i in range(50)]
    assert Names(names).find(["3", "x"]).tolist() == [3]
    with pytest.raises(ConfigError, match="'3' appears twice"):
        Names([*names, "3"])


@pytest.mark.parametrize("values", [["0" * 64], ["ab" * 32, ""], ["AB" * 32], ["ab" * 31], ["\u0661" * 64]])
def test_digests_refuse_what_is_none(values: list[str]) -> None:
    with pytest.raises(ConfigError, match="digests: allowed 64"):
        Digests.of(values)


def test_all_that_unicode_hides_is_refused() -> None:
    hidden = [
        chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    assert len(hidden) > 2000 and all(map(INVISIBLE.fullmatch, hidden))
    for name in ("photo\u202egnp.exe", "ann\u200ba", "\ufeffann", "ann\u3164", "a\U000e0041"):
        with pytest.raises(ConfigError, match="invisible"):
            Names(["ann", name])
    assert not INVISIBLE.search("Zoë 王 Ἀθηνᾶ 🙂 a_b/c-d.png")


def test_many_names_take_little_memory() -> None:
    tracemalloc.start()
    names = Names(f"train/class-{i % 1000}/image-{i:08d}.jpg" for i in range(100_000))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 6e6  # measured 5.1 MB; a tuple of str takes 9.4
    assert names.find(["train/class-999/image-00099999.jpg"]).tolist() == [99_999]
