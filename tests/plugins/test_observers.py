"""Observers are told of epochs, run by run; none of them can end the work."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.plugins.observers import observed
from qmu_edge.plugins.registry import confirm
from tests.plugins.package import Notes, package

CODE = """
told = []

class Good:
    def start(self, project, run): told.append(("start", project.name, run))
    def log(self, step, values): told.append((step, values))
    def finish(self): told.append("finish")

class Bad:
    def __init__(self): self.fails("__init__")
    def start(self, project, run): self.fails("start")
    def log(self, step, values): self.fails("log")
    def finish(self): self.fails("finish")
    def fails(self, here):
        if here == WHERE:
            raise SystemExit(3) if here == "start" else ValueError("no\\ndisk")
"""


class Told(NamedTuple):
    """What the good one was told, what was printed, and how often the first word was announced."""

    found: list[object]
    said: list[str]
    noted: list[str]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Run two pieces of work under observers; what the good one was told, what was printed and noted."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "my_plugins", raising=False)

    def run(*names: str, where: str = "finish") -> Told:
        points = {"observer:good": "my_plugins:Good", "observer:bad": "my_plugins:Bad"}
        package(tmp_path / "site", points, f"WHERE = {where!r}\n{CODE}")
        for name in ("good", "bad"):
            confirm("observer", name)
        progress, noted = Notes(), list[str]()
        with observed(names, Path("shop"), progress, lambda: noted.append("noted")):
            progress.start("export", 0)
            progress.finish()
            for label in ("training", "qmul"):
                progress.start(label, 10)
                for epoch in (1, 2):
                    progress.epoch(epoch, 2, 0.5 / epoch, 0.25 if label == "training" else None)
                if label == "training":
                    progress.finish()  # qmul is given up
        module = sys.modules.get("my_plugins")
        return Told(module.told if module else [], progress.notes, noted)

    return run


RIGHT = [
    ("start", "shop", "training-1"), (1, {"loss": 0.5, "accuracy": 0.25}),
    (2, {"loss": 0.25, "accuracy": 0.25}), "finish",
    ("start", "shop", "qmul-2"), (1, {"loss": 0.5}), (2, {"loss": 0.25}), "finish",
]  # fmt: skip


def test_each_run_is_told_from_its_first_epoch_to_its_end(told: Callable[..., Told]) -> None:
    found, _, noted = told("good")
    assert found == RIGHT and noted == ["noted"]


def test_without_observers_nothing_is_imported_or_noted(told: Callable[..., Told]) -> None:
    found, _, noted = told()
    assert found == [] and noted == []


@pytest.mark.parametrize("where", ["__init__", "start", "log", "finish"])
def test_one_that_raises_is_said_once_and_the_others_are_told_all(
    told: Callable[..., Told], where: str
) -> None:
    found, said, _ = told("bad", "good", where=where)
    (line,) = said
    assert line.startswith("observer bad of my-plugins 0.7: ") and "\n" not in line
    assert line.endswith("it is told nothing more, and the work goes on")
    assert found == RIGHT


def test_one_that_is_not_confirmed_ends_the_command_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    package(tmp_path / "site", {"observer:good": "my_plugins:Good"}, "")
    for name, said in (("good", "not confirmed"), ("other", "installed: good")):
        with pytest.raises(ConfigError, match=said), observed([name], tmp_path, Progress(), lambda: None):
            raise AssertionError("work has begun")
    assert not (tmp_path / "site/imported").exists()
