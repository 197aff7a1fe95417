"""Whatever bytes come: a result or one deliberate error in one line, soon, in little memory."""

import random
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from qmu_edge.errors import QmuEdgeError
from tests.fuzz.parser import Parser
from tests.fuzz.parsers import PARSERS

FAST = 200
LIMIT_S = 1.0  # of this process's own time, for one input


def _is_read(parser: Parser, folder: Path, path: Path) -> bool:
    """Whether the parser reads it; a refusal is one short line."""
    try:
        parser.run(folder, path)
    except QmuEdgeError as error:
        text = str(error)
        assert text.isprintable() and len(text) <= 2000, f"{len(text)} characters, or lines: {text[:300]!r}"
        return False
    return True


def _trouble(parser: Parser, folder: Path, path: Path, read: Counter[bool], again: bool = True) -> str | None:
    """What is wrong with how the parser takes the bytes; who is slow once may have imported something."""
    start = time.process_time()
    try:
        read[_is_read(parser, folder, path)] += 1
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    spent = time.process_time() - start
    if spent > LIMIT_S and again:
        return _trouble(parser, folder, path, read, again=False)
    return f"{spent:.1f} s" if spent > LIMIT_S else None


def _tried(name: str, folder: Path, inputs: int) -> str:
    """Try so many inputs; every trouble with the number that makes it again."""
    parser, path = PARSERS[name], folder / "input"
    parser.make(random.Random(0))  # what is cached is no fault of an input
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, str] = {}
    read: Counter[bool] = Counter()
    for number in range(inputs):
        path.write_bytes(parser.make(random.Random(f"{name} {number}")))
        trouble = _trouble(parser, folder, path, read)
        if trouble:
            found.setdefault(trouble[:60], f"input {number}: {trouble}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert not found, f"{name}: {len(found)} kinds of trouble:\n" + "\n".join(found.values())
    assert grown < parser.limit_mb, f"{name}: took {grown:.0f} MB more"
    assert read[False] and (read[True] or parser.strict), f"{name}: {read[True]} of {inputs} were read"
    return f"{name}: {inputs} inputs, {read[True]} read, no crash, {grown:.0f} MB more"


@pytest.mark.parametrize("name", PARSERS)
def test_changed_documents_are_read_or_refused(name: str, tmp_path: Path) -> None:
    _tried(name, tmp_path, min(FAST, PARSERS[name].inputs // 20))


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_many_changed_documents_are_read_or_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _tried(name, tmp_path, PARSERS[name].inputs)
    with capsys.disabled():
        print(f"\n{told}")


def test_the_slow_tier_is_large_enough() -> None:
    assert sum(parser.inputs for parser in PARSERS.values()) >= 100_000
