"""The ladder: the first method that passes ends the climb, and every one that was tried is told."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from qmu_edge.errors import (
    ConfigError,
    ExportError,
    NotMeasurable,
    QmuEdgeError,
    UnlearnError,
    VerificationFailed,
)
from qmu_edge.io.digest import sha256_of
from qmu_edge.pipeline import ladder
from qmu_edge.pipeline.ladder import Climb, Effort, Rung, climb
from qmu_edge.pipeline.unlearn_run import Run
from qmu_edge.project.project import Project
from qmu_edge.project.records import Report, StepResult
from qmu_edge.queue.cost import Costs
from qmu_edge.queue.schedule import Plan
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow, StepRow
from qmu_edge.store.ledger.states import REJECTED, Status

CPU = torch.device("cpu")
ENDS = {"qmul": VerificationFailed("missed"), "ssd": UnlearnError("diverged"), "ct": ExportError("no parity")}


class World:
    """Methods that end as `ends` says; steps of the ledger are kept in `steps`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: dict[str, QmuEdgeError | None]) -> None:
        """Put it in the place of real attempts."""
        self.ends, self.made, self.steps = ends, list[str](), list[Any]()
        monkeypatch.setattr(ladder, "attempt", self.attempt)
        monkeypatch.setattr(ladder, "produce", self.produce)
        self.project = Mock(spec=Project)
        self.project.ledger = Mock(spec=Ledger)
        self.project.ledger.steps = lambda request: self.steps
        self.project.progress = Mock()

    def attempt(self, project: object, rows: object, split: object, name: str, device: object) -> Any:
        """A run that notes its steps."""
        run = Mock(spec=Run)
        run.name, run.method = f"run of {name}", name
        run.step.side_effect = lambda what, work: self.note(run.name, what, work())
        return run

    def note(self, run: str, what: str, result: StepResult) -> None:
        """A finished step."""
        now = "2026-01-01T00:00:00Z"
        row = StepRow(len(self.steps), "a", run, what, Status.DONE, now, now, result.to_json())
        self.steps.append(row)

    def produce(self, run: Any) -> tuple[Any, Any]:
        """A release, or the error of the method."""
        self.made.append(run.method)
        if error := self.ends[run.method]:
            raise error
        return sha256_of(b"release"), Mock(spec=Report)

    def climb(self, names: Sequence[str], **effort: Any) -> Climb:
        """All of it, for one request."""
        costs = Costs(images={"retrain": 90.0, "qmul": 40.0}, per_image=1.0, around=10.0)
        plan = Plan(Mock(spec=Split), tuple(names), "", None, costs)
        return climb(self.project, [Mock(spec=RequestRow)], plan, Effort(device=CPU, **effort))


def told(found: Sequence[Rung]) -> list[tuple[str, str]]:
    return [(rung.method, rung.result) for rung in found]


def test_the_first_that_passes_ends_it_and_the_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, {**ENDS, "retrain": None, "oeu": None})
    found = world.climb(["qmul", "ssd", "ct", "retrain", "oeu"])
    assert world.made == ["qmul", "ssd", "ct", "retrain"] and found.run.method == "retrain"
    assert told(found.tried) == [
        ("qmul", "threshold_missed"), ("ssd", "method_failed"), ("ct", "export_failed"),
        ("retrain", "passed"),
    ]  # fmt: skip
    assert [rung.category for rung in found.tried] == 3 * ["approximate"] + ["exact"]
    assert [step.step for step in world.steps] == [
        f"{REJECTED}: {word}" for word in ("threshold_missed", "method_failed", "export_failed")
    ]


def test_what_could_not_be_measured_is_not_called_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, {"finetune": NotMeasurable("nothing known"), "retrain": None})
    assert told(world.climb(["finetune", "retrain"]).tried) == [
        ("finetune", "not_measurable"), ("retrain", "passed"),
    ]  # fmt: skip


@pytest.mark.parametrize("error", ENDS.values(), ids=lambda e: type(e).__name__)
def test_the_error_of_the_last_one_is_the_callers(
    monkeypatch: pytest.MonkeyPatch, error: QmuEdgeError
) -> None:
    world = World(monkeypatch, {"qmul": ENDS["qmul"], "ssd": error})
    with pytest.raises(type(error)) as caught:
        world.climb(["qmul", "ssd"])
    assert caught.value is error and len(world.steps) == 2


def test_another_error_ends_the_climb_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, {"qmul": ConfigError("disk full"), "ssd": None})
    with pytest.raises(ConfigError):
        world.climb(["qmul", "ssd"])
    assert world.made == ["qmul"] and world.steps == []


def test_rungs_of_earlier_commands_are_told_once_and_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, {**ENDS, "retrain": None})
    for run in ("other settings", "again other settings"):
        world.note(run, f"{REJECTED}: threshold_missed", Rung.of("salun", "threshold_missed").as_step())
    world.note("run of qmul", f"{REJECTED}: method_failed", Rung.of("qmul", "method_failed").as_step())
    found = world.climb(["qmul", "retrain"])
    assert told(found.tried) == [
        ("salun", "threshold_missed"),
        ("qmul", "threshold_missed"),
        ("retrain", "passed"),
    ]


def test_no_rung_begins_for_which_no_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, {**ENDS, "retrain": None})
    with pytest.raises(VerificationFailed, match=r"qmul did not pass, and 0 s .* are left for ssd;"):
        world.climb(["qmul", "ssd"], budget_s=0.0)
    with pytest.raises(VerificationFailed, match=r"are left for retrain \(about 100 s\)"):
        world.climb(["qmul", "retrain"], budget_s=99.0)
    assert world.made == ["qmul", "qmul"]
    assert world.climb(["retrain"], budget_s=0.0).run.method == "retrain"  # the first always runs
    assert world.climb(["qmul", "retrain"], budget_s=1e6).run.method == "retrain"
