"""Threads give way to other processes, and come back."""

from collections.abc import Iterator

import pytest
import torch

from qmu_edge.runtime import threads as module
from qmu_edge.runtime.threads import LAST_TRY_S, Sharing, giving_way, waited_s


def follow(sharing: Sharing, seconds: int, share: float) -> list[int]:
    """Threads second by second, while they wait for that share of the time whenever there are several."""
    now, waited, found = sharing._looked, sharing._waited, []
    for _ in range(seconds):
        now += 1.0
        waited += share if sharing.threads > 1 else 0.0
        sharing.look(now, waited)
        found.append(sharing.threads)
    return found


def test_threads_that_do_not_wait_stay() -> None:
    assert follow(Sharing(8, 0.0, 0.0), 100, share=0.05) == [8] * 100


def test_threads_that_wait_are_halved_down_to_one_and_tried_ever_more_rarely() -> None:
    sharing = Sharing(8, 0.0, 0.0)
    assert follow(sharing, 4, share=0.5) == [4, 2, 1, 1]
    tries = follow(sharing, 1000, share=0.5).count(2)
    assert 1000 / (LAST_TRY_S + 3) <= tries <= 1000 / LAST_TRY_S + 6


def test_all_threads_are_back_soon_after_a_short_disturbance() -> None:
    sharing = Sharing(8, 0.0, 0.0)
    follow(sharing, 3, share=0.5)
    assert follow(sharing, 12, share=0.0)[-1] == 8


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process with two threads that always have to wait, and looks every time."""
    waited = iter(range(1_000_000))
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "waited_s", lambda: float(next(waited)))
    sharing = Sharing(2, 0.0, 0.0)
    monkeypatch.setattr(module, "_sharing", lambda: sharing)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("waiting")
def test_a_run_that_waits_goes_on_with_fewer_threads() -> None:
    assert [(item, torch.get_num_threads()) for item in giving_way(iter("ab"))][-1] == ("b", 1)


@pytest.mark.usefixtures("waiting")
def test_what_the_caller_has_set_stays_while_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "waited_s", lambda: 0.0)
    found = []
    for _ in giving_way(iter("abc")):
        found.append(torch.get_num_threads())
        torch.set_num_threads(3)
    assert found == [2, 3, 3]


@pytest.mark.usefixtures("waiting")
def test_a_deterministic_run_keeps_its_threads() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert [torch.get_num_threads() for _ in giving_way(iter("ab"))] == [2, 2]
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("text", "most"), [("false", 1), ("true", 2)])
def test_the_environment_keeps_the_threads(monkeypatch: pytest.MonkeyPatch, text: str, most: int) -> None:
    monkeypatch.setenv("OMP_DYNAMIC", text)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert module._sharing.__wrapped__().most == most


def test_what_the_system_does_not_say_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TASKS", module.TASKS / "missing")
    assert waited_s() == 0.0
