"""A purge that is killed or refused anywhere is finished by the next one, and readers notice nothing."""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import Project, opened
from qmu_edge.project.purge import purge
from qmu_edge.project.samples import IMAGES
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.objects import ObjectStore


class Killed(BaseException):
    """Stands for the end of the process: no `except Exception` sees it."""


def prepared(life: Any) -> None:
    """Two served requests, one open, a reference, an orphan: something of every kind to remove."""
    life.train()
    life.reference()
    life.serve(0)
    life.serve(1)
    life.ask(2)
    life.put("orphan")


def state(project: Project) -> dict[str, Any]:
    """All that a purge changes, without times."""
    with opened(project.root, Progress()) as p:
        assert p.ledger.problems() == []
        _ = p.samples.images
        return {
            "objects": set(p.store),
            "images": sha256((p.folder / IMAGES).read_bytes()).hexdigest(),
            "subjects": [bool(s) for s in p.samples.index.subjects],
            "work": sorted(x.name for x in (p.folder / "work").iterdir()),
            "folders": sorted(x.name for x in (p.folder / "releases").iterdir()),
            "removed": {(r.kind, r.name, r.status) for r in p.ledger.removals()},
            "steps": {
                (r.request_id, s.step, s.status)
                for r in p.ledger.requests()
                for s in p.ledger.steps(r.request_id)
            },
            "notes": p.ledger.rows("SELECT key FROM meta ORDER BY key"),
            "tombstones": p.ledger.rows("SELECT sample_id, request_id FROM tombstones ORDER BY 1"),
        }


POINTS: list[tuple[Any, str]] = [
    (ObjectStore, "remove"), (os, "pwrite"), (os, "fsync"), (shutil, "rmtree"), (Path, "unlink"),
    (Ledger, "start_step"), (Ledger, "start_removals"), (Ledger, "end_removals"), (Ledger, "finish_step"),
    (Ledger, "forget"), (Ledger, "forget_deleted_pages"),
]  # fmt: skip


@contextmanager
def interrupted(at: int, end: Callable[[], Any], after: bool) -> Iterator[list[int]]:
    """Call `end` before, or after, the call number `at` of anything in POINTS; counts the calls."""
    calls = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            mine = calls[0] == at
            if mine and not after:
                end()
            result = real(*args, **kwargs)
            if mine and after:
                end()
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in POINTS:
            patch.setattr(owner, name, wrapped(getattr(owner, name)))
        yield calls


def die() -> None:
    raise Killed


def killed_everywhere(
    living: Any, tmp_path: Path, clock: Any, kill: Callable[[Path, int, bool], bool], step: int
) -> int:
    """Kill a purge at one point after the other; each time the next purge must end in the same state."""
    with living(tmp_path / "made", clock) as life:
        prepared(life)
    shutil.copytree(tmp_path / "made", tmp_path / "whole", symlinks=True)
    with opened(tmp_path / "whole", Progress()) as project:
        purge(project, clock.now, at_once=True)
        expected = state(project)
    kills = 0
    for at in range(1, 1000, step):
        for after in (False, True):
            copy = Path(shutil.copytree(tmp_path / "made", tmp_path / f"{at} {after}", symlinks=True))
            if not kill(copy, at, after):
                return kills
            kills += 1
            with opened(copy, Progress()) as project:
                assert project.ledger.problems() == []
                _ = project.samples.images  # a reader is not disturbed by a half-done purge
                missing = {d for d in expected["objects"] if not project.store.path(d).exists()}
                assert not missing
                purge(project, clock.now, at_once=True)
                assert state(project) == expected, f"killed {'after' if after else 'before'} call {at}"
            shutil.rmtree(copy)
    raise AssertionError("the purge never ended")


@pytest.mark.slow
def test_killed_at_any_write_it_is_finished_by_the_next(living: Any, tmp_path: Path, clock: Any) -> None:
    def kill(copy: Path, at: int, after: bool) -> bool:
        with opened(copy, Progress()) as project, interrupted(at, die, after):
            try:
                purge(project, clock.now, at_once=True)
            except Killed:
                return True
        return False

    assert killed_everywhere(living, tmp_path, clock, kill, step=5) > 10


@pytest.mark.slow
def test_sigkill_at_every_write_is_survived(living: Any, tmp_path: Path, clock: Any) -> None:
    def kill(copy: Path, at: int, after: bool) -> bool:
        child = os.fork()
        if child == 0:
            with opened(copy, Progress()) as project:
                with interrupted(at, lambda: os.kill(os.getpid(), signal.SIGKILL), after):
                    purge(project, clock.now, at_once=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    kills = killed_everywhere(living, tmp_path, clock, kill, step=1)
    print(f"purge killed {kills} times, survived {kills} times")
    assert kills > 60


def test_twice_is_once(life: Any, clock: Any) -> None:
    prepared(life)
    purge(life.project, clock.now, at_once=True)
    before = state(life.project)
    result = purge(life.project, clock.now, at_once=True)
    assert (result["removed"], result["requests"]) == ([], [])
    assert state(life.project) == before


def test_what_came_into_use_again_after_a_kill_is_left_alone(life: Any, clock: Any) -> None:
    first = life.train()
    life.train()
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "remove", lambda *args: die())
        purge(life.project, clock.now, at_once=True)
    life.ledger.set_current(Pointer.CHECKPOINT, first)
    purge(life.project, clock.now, at_once=True)
    assert first in life.stored()
    assert [r.status for r in life.ledger.removals() if r.name == first] == ["void"]
    assert not life.ledger.removed(first)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_what_cannot_be_removed_is_named_and_the_rest_goes(life: Any, clock: Any, number: int) -> None:
    base = life.train()
    life.serve(0)
    real = Path.unlink

    def refuses(path: Path, missing_ok: bool = False) -> None:
        if path.name == base[2:]:
            raise OSError(number, os.strerror(number))
        real(path, missing_ok=missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", refuses)
        with pytest.raises(ConfigError, match=f"1 of .* checkpoint {base}: .*{os.strerror(number)}.*again"):
            purge(life.project, clock.now, at_once=True)
    assert base in life.stored() and life.is_blank(0)
    assert {r.name for r in life.ledger.removals() if r.status == "started"} == {base}
    assert life.ledger.problems() == []
    assert purge(life.project, clock.now)["requests"] == ["ask-0"]
    assert base not in life.stored()


def test_images_that_cannot_be_erased_are_tried_again(life: Any, clock: Any) -> None:
    life.train()
    life.serve(0)

    def fails(*args: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", fails)
        with pytest.raises(ConfigError, match="decoded images request-1: Input/output error"):
            purge(life.project, clock.now, at_once=True)
    _ = life.project.samples.images
    purge(life.project, clock.now, at_once=True)
    assert life.is_blank(0)
