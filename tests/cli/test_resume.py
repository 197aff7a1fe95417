"""A kill at any instant of a request leaves the old state or the new one, and the same command finishes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.machine.cost import measured_cost
from qmu_edge.pipeline import fulfil, unlearn_run
from qmu_edge.receipt.receipt import loads
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer

STEPS = ("resolved", "tombstoned", "unlearned", "requantized", "exported", "verified", "receipted")


class Killed(BaseException):
    """Stands for the end of the process: no `except Exception` sees it."""


def _start(patch: pytest.MonkeyPatch, step: str) -> None:
    """Die right after the intent was written down."""
    real, started = Ledger.start_step, [""]

    def start(self: Ledger, request_id: str, run: str, what: str) -> None:
        real(self, request_id, run, what)
        started[0] = what

    def work(*args: Any) -> Any:
        if started[0] == step:
            raise Killed
        return measured_cost(*args)

    patch.setattr(Ledger, "start_step", start)
    patch.setattr(unlearn_run, "measured_cost", work)


def _end(patch: pytest.MonkeyPatch, step: str) -> None:
    """Die when the work is done and about to be written down."""
    real = Ledger.finish_step

    def finish(self: Ledger, request_id: str, run: str, what: str, detail: Any) -> None:
        if what == step:
            raise Killed
        real(self, request_id, run, what, detail)

    patch.setattr(Ledger, "finish_step", finish)


def _before_outcome(patch: pytest.MonkeyPatch, step: str) -> None:
    """Die between the switch to the new state and the request's own row."""
    real = Ledger.set_outcome

    def outcome(self: Ledger, request_id: str, state: Any, *rest: Any) -> None:
        if state == step:
            raise Killed
        real(self, request_id, state, *rest)

    patch.setattr(Ledger, "set_outcome", outcome)


def _publishing(patch: pytest.MonkeyPatch, step: str) -> None:
    """Die before the release is put in place."""

    def publish(*args: Any) -> Any:
        raise Killed

    patch.setattr(fulfil, step, publish)


KILLS: list[tuple[Callable[[pytest.MonkeyPatch, str], None], str]] = [
    *((_end, step) for step in STEPS[:2]),
    (_before_outcome, "unlearning"),
    *((kill, step) for step in STEPS[2:-1] for kill in (_start, _end)),
    (_start, "receipted"),
    (_before_outcome, "completed"),
    (_end, "receipted"),
    (_publishing, "publish_current"),
]


def receipts(project: Path) -> list[str]:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        return [digest for (digest,) in ledger.rows("SELECT receipt_digest FROM receipts ORDER BY seq")]


def finished(project: Path, run: Any, made: Any) -> None:
    """Run the command again: one receipt, everything in place, nothing wrong, the same network."""
    result = run("unlearn", "--request", made.request, "--project", project, "--json", "--quiet")
    assert result.code == 0, result.err
    assert receipts(project) == [result.json["receipt_sha256"]]
    assert result.json["checkpoint"] == made.commands["unlearn"].json["checkpoint"]
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        (row,) = ledger.requests()
        assert (row.state, row.outcome) == ("completed", "unlearned")
        assert {s.step: s.status for s in ledger.steps(row.request_id)} == dict.fromkeys(STEPS, "done")
        assert ledger.current(Pointer.RECEIPT) == result.json["receipt_sha256"]
        assert ledger.current(Pointer.CHECKPOINT) == result.json["checkpoint"]
        assert (
            len(ledger.tombstones()) == result.json["counts"]["forget"] + result.json["counts"]["also_erased"]
        )
    statement = loads((project / "release/receipt.json").read_bytes(), project)
    assert statement.predicate.previous is None
    assert run("receipt", "verify", "--project", project).code == 0
    doctor = run("doctor", "--project", project, "--json")
    assert doctor.json["problems"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "step"), KILLS, ids=[f"{kill.__name__.strip('_')} {step}" for kill, step in KILLS]
)
def test_after_a_kill_the_same_command_finishes(
    made: Any, run: Any, trained: Path, kill: Callable[[pytest.MonkeyPatch, str], None], step: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, step)
        with pytest.raises(Killed):
            run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    finished(trained, run, made)


@pytest.mark.slow
def test_killed_at_every_instant_in_turn_it_still_ends_in_one_receipt(
    made: Any, run: Any, trained: Path
) -> None:
    for kill, step in KILLS:
        with pytest.MonkeyPatch.context() as patch:
            kill(patch, step)
            with pytest.raises(Killed):
                run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    finished(trained, run, made)


def test_ctrl_c_says_how_to_go_on(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qmu_edge.pipeline.distributed.apply", interrupted)
        ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    assert (ended.code, ended.out) == (130, "")
    assert ended.err == "interrupted; the same command goes on where it stopped\n"
    (request,) = run("status", "--project", trained, "--json").json["requests"]
    assert request["outcome"] is None and "unlearned" in request["next"]


@pytest.mark.slow
def test_another_request_may_come_before_a_killed_one_is_finished(
    made: Any, run: Any, trained: Path, tmp_path: Path
) -> None:
    """The killed one then starts from the other's network, and retains nothing of the other's."""
    with pytest.MonkeyPatch.context() as patch:
        _end(patch, "receipted")
        with pytest.raises(Killed):
            run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    second = tmp_path / "second.json"
    run("request", "new", "--subject", "writer-5", "--out", second)
    follower = run("unlearn", "--request", second, "--project", trained, "--json", "--quiet").json
    first = run("unlearn", "--request", made.request, "--project", trained, "--json", "--quiet").json
    assert receipts(trained) == [follower["receipt_sha256"], first["receipt_sha256"]]
    released = loads((trained / "release/receipt.json").read_bytes(), trained)
    assert released.predicate.previous == follower["receipt_sha256"]
    assert released.predicate.checkpoints.before == follower["checkpoint"]
    retained = first["counts"]["retain"]
    assert retained == made.commands["train"].json["images"] - sum(
        r["counts"]["forget"] for r in (first, follower)
    )


@pytest.mark.slow
def test_sigkill_of_the_real_process_is_survived(made: Any, run: Any, trained: Path) -> None:
    main = "from qmu_edge.cli.main import main; main()"
    shallow = "import pytest; from tests.networks import make_shallow; make_shallow(pytest.MonkeyPatch())"
    words = [sys.executable, "-W", "ignore", "-c", f"{shallow}; {main}"]
    words += ["unlearn", "--request", str(made.request), "--project", str(trained), "--quiet"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums in the order of this process
    killed = []
    for step in ("unlearned", "exported", "verified"):
        process = subprocess.Popen(words, start_new_session=True, env=one_thread)
        for found in _watched(trained, process):
            if found == step:
                os.kill(process.pid, signal.SIGKILL)
                killed.append(step)
                break
        process.wait()
    assert killed == ["unlearned", "exported", "verified"]
    finished(trained, run, made)


def _watched(project: Path, process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """The step that is started, again and again, while the process runs."""
    while process.poll() is None:
        time.sleep(0.02)
        with Ledger.open(project / ".qmu/ledger.db") as ledger:
            for (step,) in ledger.rows("SELECT step FROM steps WHERE status = 'started'"):
                yield step
