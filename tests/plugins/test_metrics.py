"""Metrics are told copies, give one finite number, and cannot end a run."""

import sys
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.plugins.metrics import Outputs, measured_by
from qmu_edge.plugins.registry import confirm
from tests.plugins.package import Notes, package

CODE = """
import numpy as np
def right(sets): return (sets["forget"].logits.argmax(1) == sets["forget"].labels).mean()
def spoils(sets):
    sets["forget"].logits[:] = 0
    return 1
def raises(sets): return sets["test"]
def text(sets): return "much"
def nothing(sets): return float("nan")
def ends(sets): raise SystemExit(0)
"""
NAMES = ("spoils", "right", "raises", "text", "nothing", "ends")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "my_plugins", raising=False)
    package(tmp_path / "site", {f"metric:{name}": f"my_plugins:{name}" for name in NAMES}, CODE)


def test_values_by_name_and_none_where_one_raised() -> None:
    for name in NAMES:
        confirm("metric", name)
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    progress = Notes()
    sets = {"forget": Outputs(logits, np.array([0, 1, 0]))}
    found = measured_by(NAMES, sets, progress)
    assert found == {
        "spoils": 1.0, "right": 2 / 3, "raises": None, "text": None, "nothing": None, "ends": None,
    }  # fmt: skip
    assert logits[0, 0] == 1.0
    assert [line.split()[1] for line in progress.notes] == ["raises", "text", "nothing", "ends"]
    assert all(line.endswith("it has no value") for line in progress.notes)
