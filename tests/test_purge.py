"""A purge removes what nothing needs, in its time, and nothing else; killed anywhere, it goes on."""

import errno
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from qmu_edge.artefacts import NEVER_STORED, OUTSIDE, derived_artefacts
from qmu_edge.errors import ConfigError, IntegrityError, LedgerError
from qmu_edge.ledger import Ledger
from qmu_edge.progress import Progress
from qmu_edge.project import IMAGES, Project, create, opened
from qmu_edge.purge import preview, purge
from qmu_edge.recipe import DataRecipe, Recipe
from qmu_edge.store import ObjectStore

PEOPLE = 6
DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """The time that the ledger's events get."""

    def __init__(self) -> None:
        """Begin at noon of a fixed day."""
        self.now = START

    def __call__(self) -> str:
        """A moment later than the last one."""
        self.now += timedelta(milliseconds=1)
        return self.now.isoformat(timespec="milliseconds")


class Killed(BaseException):
    """Stands for the end of the process: no `except Exception` sees it."""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Life:
    """What happens to a project, without any network: objects are a few bytes, steps take no time."""

    def __init__(self, project: Project, clock: Clock) -> None:
        """Nothing has happened yet."""
        self.project, self.ledger, self.clock = project, project.ledger, clock
        self.count = 0

    def put(self, what: str) -> str:
        """A new object."""
        self.count += 1
        digest = self.project.store.put_bytes(f"{what} {self.count}".encode())
        self.dated(self.project.store.path(digest))
        return digest

    def dated(self, path: Path) -> None:
        """Let the file be written now, by the clock."""
        os.utime(path, (self.clock.now.timestamp(),) * 2)

    def train(self) -> str:
        digest = self.put("checkpoint")
        self.ledger.set_meta(f"trained:{sha(digest.encode())}", {"checkpoint": digest, "images": 3})
        self.ledger.set_current("checkpoint", digest)
        return digest

    def release(self, checkpoint: str) -> str:
        files = {name: self.put(name) for name in ("model.onnx", "model.qonnx.onnx")}
        text = json.dumps({"checkpoint": checkpoint, "files": files, "bytes": {}})
        digest = self.project.store.put_bytes(text.encode())
        self.ledger.set_meta(f"release:{checkpoint}:{sha(digest.encode())}", digest)
        return digest

    def publish(self, release: str) -> None:
        folder = self.project.folder / "releases" / release[:16]
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"model")
        link = self.project.root / "release"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(folder, self.project.root))

    def step(self, request: str, run: str, what: str, **detail: Any) -> None:
        self.ledger.start_step(request, run, what)
        self.ledger.finish_step(request, run, what, detail)

    def ask(self, person: int) -> str:
        """A request of a person, up to its tombstones."""
        request, index = f"ask-{person}", self.project.index
        self.ledger.receive(
            request, sha(request.encode()), form="opendsr", regulation="gdpr",
            received="2026-01-01T00:00:00Z", due=None,
        )  # fmt: skip
        self.step(request, "", "resolved", split=self.put("split"), counts={"forget": 2})
        mine = positions_of(person)
        self.ledger.add_tombstones(request, [index.ids[i] for i in mine], [index.digests[i] for i in mine])
        self.step(request, "", "tombstoned", count=len(mine))
        return request

    def attempt(self, request: str) -> dict[str, str]:
        """Everything of one attempt but its receipt."""
        run = sha(f"{request} {self.count}".encode())
        made = {"run": run, "unlearned": self.put("unlearned"), "requantized": self.put("requantized")}
        made["release"], made["report"] = self.release(made["requantized"]), self.put("report")
        for step in ("unlearned", "requantized"):
            self.step(request, run, step, checkpoint=made[step])
        self.step(request, run, "exported", release=made["release"])
        self.step(request, run, "verified", report=made["report"])
        state = self.project.folder / "work" / f"{run[:16]}-qmul.safetensors"
        state.write_bytes(b"state")
        self.dated(state)
        return made

    def issue(self, request: str, made: dict[str, str]) -> str:
        """The receipt of an attempt, and the switch to what it has made."""
        receipt = self.put("receipt")
        self.ledger.start_step(request, made["run"], "receipted")
        self.ledger.commit_release(
            request, checkpoint=made["requantized"], release=made["release"], receipt=receipt
        )
        self.ledger.set_outcome(request, "completed", "unlearned")
        self.ledger.finish_step(request, made["run"], "receipted", {"receipt": receipt})
        self.publish(made["release"])
        return receipt

    def serve(self, person: int) -> dict[str, str]:
        """A request from beginning to end."""
        request = self.ask(person)
        made = self.attempt(request)
        return {**made, "request": request, "receipt": self.issue(request, made)}

    def reference(self) -> list[str]:
        """A retrained reference model."""
        made = [self.put("reference report"), self.put("reference model")]
        note = {"report": made[0], "checkpoints": made[1:]}
        self.ledger.set_meta(f"reference:{sha(made[0].encode())}", note)
        return [*made, self.release(made[1])]


def positions_of(person: int) -> list[int]:
    """The two images of a person, in the order of the dataset."""
    return [2 * person, 2 * person + 1]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registered dataset: two images of each person."""
    folder = tmp_path_factory.mktemp("purge")
    rows = ["sample,subject"]
    for i in range(2 * PEOPLE):
        path = folder / "photos/train/cat" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(1, 255, (4, 4), np.uint8)).save(path)
        rows.append(f"train/cat/{i:02d}.png,person {i // 2}")
    (folder / "subjects.csv").write_text("\n".join(rows) + "\n")
    recipe = Recipe(data=DataRecipe(source="folder", path=str(folder / "photos")))
    create(folder / "project", recipe, folder / "subjects.csv", Progress())
    return folder / "project"


@contextmanager
def living(template: Path, folder: Path, clock: Clock) -> Iterator[Life]:
    """A project of one's own whose events carry the clock's time."""
    shutil.copytree(template, folder, symlinks=True)
    with mock.patch("qmu_edge.chain.now", clock), opened(folder, Progress()) as project:
        yield Life(project, clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def life(template: Path, tmp_path: Path, clock: Clock) -> Iterator[Life]:
    with living(template, tmp_path / "project", clock) as life:
        yield life


def is_blank(project: Project, person: int) -> bool:
    images = np.load(project.folder / IMAGES)
    blank = {bool(images[i].any()) for i in positions_of(person)}
    assert len(blank) == 1
    return blank == {False}


def rows(result: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(row["kind"], row["state"]): row["count"] for row in result}


def stored(life: Life) -> set[str]:
    return set(life.project.store)


# What goes and what stays


def test_nothing_goes_before_its_time(life: Life, clock: Clock) -> None:
    life.train()
    life.serve(0)
    before = stored(life)
    result = purge(life.project, clock.now + 29 * DAY)
    assert (result["removed"], result["requests"], stored(life)) == ([], [], before)
    assert {row["reason"] for row in result["kept"] if row["kind"] == "split"} == {
        "until 2026-03-31: younger than 30 days"
    }
    assert not is_blank(life.project, 0)


def test_after_its_time_everything_superseded_goes(life: Life, clock: Clock) -> None:
    base = life.train()
    served = life.serve(0)
    result = purge(life.project, clock.now + 30 * DAY)
    files = json.loads(life.project.store.get_bytes(served["release"]))["files"].values()
    kept = {served[k] for k in ("requantized", "release", "report", "receipt")} | set(files)
    assert stored(life) == kept and base not in kept
    assert is_blank(life.project, 0) and not is_blank(life.project, 1)
    assert {i: bool(s) for i, s in enumerate(life.ledger.read_samples().subjects)} == {
        i: i not in positions_of(0) for i in range(2 * PEOPLE)
    }
    assert not list((life.project.folder / "work").iterdir())
    assert result["requests"] == [served["request"]]
    assert [s.status for s in life.ledger.steps(served["request"]) if s.step == "purged"] == ["done"]
    assert life.ledger.check() == [] and life.project.images is not None


def test_retention_days_of_the_recipe_are_the_window(life: Life, clock: Clock) -> None:
    policy = life.project.recipe.policy.model_copy(update={"retention_days": 3})
    life.project.recipe = life.project.recipe.model_copy(update={"policy": policy})
    life.train()
    life.serve(0)
    assert purge(life.project, clock.now + 2 * DAY)["requests"] == []
    assert purge(life.project, clock.now + 3 * DAY)["requests"] == ["ask-0"]


def test_each_request_waits_for_its_own_window(life: Life, clock: Clock) -> None:
    life.train()
    life.serve(0)
    clock.now += 20 * DAY
    life.serve(1)
    assert purge(life.project, clock.now + 15 * DAY)["requests"] == ["ask-0"]
    assert (is_blank(life.project, 0), is_blank(life.project, 1)) == (True, False)
    assert purge(life.project, clock.now + 30 * DAY)["requests"] == ["ask-1"]


def test_an_open_request_keeps_what_it_needs_even_at_once(life: Life, clock: Clock) -> None:
    base = life.train()
    life.serve(0)
    request = life.ask(1)
    made = life.attempt(request)
    models = life.reference()
    result = purge(life.project, clock.now, at_once=True)
    needed = {made[k] for k in ("unlearned", "requantized", "release", "report")}
    assert needed.union(models) <= stored(life)
    assert base not in stored(life)
    assert (is_blank(life.project, 0), is_blank(life.project, 1)) == (True, False)
    assert "request 2 is open" in {row["reason"] for row in result["kept"]}
    assert [p.name for p in (life.project.folder / "work").iterdir()] == [
        f"{made['run'][:16]}-qmul.safetensors"
    ]


def test_reference_models_go_when_no_request_may_compare_with_them(life: Life, clock: Clock) -> None:
    life.train()
    life.ask(0)
    models = set(life.reference())
    purge(life.project, clock.now + 99 * DAY)
    assert models <= stored(life)
    life.issue("ask-0", life.attempt("ask-0"))
    purge(life.project, clock.now + 99 * DAY)
    assert not models & stored(life)


def test_failed_attempts_go_with_their_request(life: Life, clock: Clock) -> None:
    life.train()
    request = life.ask(0)
    failed = life.attempt(request)
    life.issue(request, life.attempt(request))
    purge(life.project, clock.now, at_once=True)
    assert not {failed[k] for k in ("unlearned", "requantized", "release", "report")} & stored(life)


def test_a_checkpoint_that_is_current_again_is_kept(life: Life, clock: Clock) -> None:
    first = life.train()
    second = life.train()
    life.ledger.set_current("checkpoint", first)
    purge(life.project, clock.now, at_once=True)
    assert first in stored(life) and second not in stored(life)


def test_what_nothing_names_goes_by_the_age_of_its_file(life: Life, clock: Clock) -> None:
    life.train()
    clock.now += 5 * DAY
    orphan = life.put("orphan")
    purge(life.project, clock.now + 29 * DAY)
    assert orphan in stored(life)
    purge(life.project, clock.now + 31 * DAY)
    assert orphan not in stored(life)


def test_training_state_goes_but_for_the_training_that_can_go_on(life: Life, clock: Clock) -> None:
    work = life.project.folder / "work"
    going_on = work / f"train-{life.project.training()[:16]}.safetensors"
    stale = work / "train-0123456789abcdef.safetensors"
    for path in (going_on, stale):
        path.write_bytes(b"state")
    purge(life.project, clock.now, at_once=True)
    assert list(work.iterdir()) == [going_on]


def test_only_the_current_release_folder_stays(life: Life, clock: Clock) -> None:
    life.train()
    served = [life.serve(person) for person in range(3)]
    purge(life.project, clock.now, at_once=True)
    folders = [p.name for p in (life.project.folder / "releases").iterdir()]
    assert folders == [served[-1]["release"][:16]]
    assert (life.project.root / "release/model.onnx").is_file()


def test_earlier_results_that_are_gone_are_not_looked_for(life: Life, clock: Clock) -> None:
    """Otherwise the next training would make a checkpoint current that does not exist."""
    base = life.train()
    life.serve(0)
    note = f"trained:{sha(base.encode())}"
    assert life.ledger.meta(note) is not None
    purge(life.project, clock.now, at_once=True)
    assert life.ledger.meta(note) is None


# Records


def test_every_removal_is_an_event_without_a_person_or_a_sample(life: Life, clock: Clock) -> None:
    base = life.train()
    life.serve(0)
    purge(life.project, clock.now, at_once=True)
    bodies = [json.loads(b) for (b,) in life.ledger.rows("SELECT body FROM events WHERE what = 'removal'")]
    (start, end) = [b for b in bodies if b["name"] == base]
    assert (start["status"], end["status"]) == ("started", "done")
    assert (end["kind"], end["bytes"], end["reason"]) == ("checkpoint", len(b"checkpoint 1"), "asked for")
    assert ("decoded images", "request-1", 2, 32) in [
        (b["kind"], b["name"], b["items"], b["bytes"]) for b in bodies
    ]
    text = json.dumps(bodies)
    index = life.project.index
    assert not any(word in text for word in (*index.ids, *index.digests, *index.subjects, "ask-0"))
    assert life.ledger.removed(base) and base in life.ledger.removed_names()
    assert not life.ledger.removed("0" * 64)


def test_pseudonyms_leave_no_trace_in_the_file(life: Life, clock: Clock) -> None:
    life.train()
    life.serve(0)
    pseudonym = life.project.index.subjects[0].encode()

    def traces() -> int:
        return sum(path.read_bytes().count(pseudonym) for path in life.project.folder.glob("ledger.db*"))

    assert traces()
    purge(life.project, clock.now, at_once=True)
    assert not traces()


def test_a_tampered_removal_is_noticed(life: Life, clock: Clock) -> None:
    life.train()
    life.serve(0)
    purge(life.project, clock.now, at_once=True)
    with life.ledger.change() as db:
        db.execute("UPDATE removals SET name = 'nothing' WHERE seq = 1")
    assert any("removal 1" in problem for problem in life.ledger.check())


# The checklist


def test_the_checklist_before_during_and_after(life: Life, clock: Clock) -> None:
    life.train()
    request = life.ask(0)
    made = life.attempt(request)
    life.ledger.start_step(request, made["run"], "receipted")
    at_receipt = derived_artefacts(life.project, request)
    present = {kind: n for (kind, state), n in rows(at_receipt).items() if state == "present"}
    assert present == {
        "checkpoint": 2, "split": 1, "decoded images": 2, "subject pseudonyms": 2, "training state": 1
    }  # fmt: skip
    assert {r["kind"] for r in at_receipt if r["state"] == "never stored"} == set(NEVER_STORED)
    assert {r["kind"] for r in at_receipt if r["state"] == "outside"} == set(OUTSIDE)
    life.put("a receipt that a kill left alone")
    assert derived_artefacts(life.project, request) == at_receipt  # the receipt comes out the same again
    life.issue(request, made)
    purge(life.project, clock.now, at_once=True)
    after = {kind: n for (kind, state), n in rows(derived_artefacts(life.project, request)).items() if n}
    assert after == {**present, "object that nothing names": 1}
    assert {r["state"] for r in derived_artefacts(life.project, request)} == {
        "purged", "never stored", "outside",
    }  # fmt: skip


def test_the_checklist_says_why_a_thing_is_kept(life: Life, clock: Clock) -> None:
    life.train()
    first = life.serve(0)
    life.ask(1)
    with mock.patch.object(Ledger, "removals", list):  # nothing removed yet
        assert ("split", "present") in rows(derived_artefacts(life.project, first["request"]))
    life.step("ask-1", "", "planned", split=life.ledger.step("ask-0", "", "resolved").detail["split"])  # type: ignore[union-attr]
    assert ("split", "kept: request 2 is open") in rows(derived_artefacts(life.project, first["request"]))
    result = purge(life.project, clock.now, at_once=True)
    assert result["requests"] == []  # not whole while something of it is left


def test_a_checklist_of_nobody_is_an_error(life: Life) -> None:
    with pytest.raises(LedgerError, match="no request 'nobody'"):
        derived_artefacts(life.project, "nobody")


def test_a_preview_changes_nothing_and_lists_what_a_purge_removes(life: Life, clock: Clock) -> None:
    life.train()
    life.serve(0)
    events = life.ledger.head()
    shown = preview(life.project, clock.now, at_once=True)
    assert life.ledger.head() == events and not is_blank(life.project, 0)
    assert preview(life.project, clock.now)["remove"] == []
    result = purge(life.project, clock.now, at_once=True)
    assert len(shown["remove"]) == len(life.ledger.removals())
    assert sum(r["bytes"] for r in result["removed"]) == sum(r["bytes"] for r in shown["remove"])
    assert preview(life.project, clock.now, at_once=True)["requests"] == {}


# Images


def test_another_persons_identical_image_stays(template: Path, tmp_path: Path, clock: Clock) -> None:
    with living(template, tmp_path / "project", clock) as life:
        images = np.load(life.project.folder / IMAGES)
        images[2] = images[0]
        np.save(life.project.folder / IMAGES, images)
        life.train()
        life.serve(0)
        purge(life.project, clock.now, at_once=True)
        left = np.load(life.project.folder / IMAGES)
        assert not left[0].any() and (left[2] == images[0]).all()


def test_only_zeros_are_accepted_where_an_image_was_erased(life: Life, clock: Clock) -> None:
    life.train()
    life.serve(0)
    original = np.load(life.project.folder / IMAGES)
    purge(life.project, clock.now, at_once=True)
    path = life.project.folder / IMAGES
    blank = np.load(path)
    for position, value, message in ((0, 1, "1 images .* purged"), (2, 0, "1 images are not the registered")):
        images = blank.copy()
        images[position, 0, 0, 0] ^= 1 + value
        np.save(path, images)
        with opened(life.project.root, Progress()) as again, pytest.raises(IntegrityError, match=message):
            _ = again.images
    np.save(path, original)  # put back from a backup
    with opened(life.project.root, Progress()) as again:
        with pytest.raises(IntegrityError, match="2 of them were purged: qmu-edge purge --now"):
            _ = again.images
        purge(again, clock.now, at_once=True)
    with opened(life.project.root, Progress()) as again:
        assert (again.images == blank).all()


# Kills, faults, repetition


def prepared(life: Life) -> None:
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
        assert p.ledger.check() == []
        _ = p.images
        return {
            "objects": set(p.store),
            "images": sha((p.folder / IMAGES).read_bytes()),
            "subjects": [bool(s) for s in p.index.subjects],
            "work": sorted(x.name for x in (p.folder / "work").iterdir()),
            "folders": sorted(x.name for x in (p.folder / "releases").iterdir()),
            "removed": {(r.kind, r.name, r.status) for r in p.ledger.removals()},
            "steps": {
                (r.request_id, s.step, s.status)
                for r in p.ledger.requests()
                for s in p.ledger.steps(r.request_id)
            },
            "notes": p.ledger.rows("SELECT key, value FROM meta ORDER BY key"),
        }


POINTS: list[tuple[Any, str]] = [
    (ObjectStore, "remove"), (os, "pwrite"), (os, "fsync"), (shutil, "rmtree"), (Path, "unlink"),
    (Ledger, "start_step"), (Ledger, "start_removals"), (Ledger, "end_removals"), (Ledger, "finish_step"),
    (Ledger, "forget_deleted_pages"),
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
    template: Path, tmp_path: Path, clock: Clock, kill: Callable[[Path, int, bool], bool], step: int
) -> int:
    """Kill a purge at one point after the other; each time the next purge must end in the same state."""
    with living(template, tmp_path / "made", clock) as life:
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
                assert project.ledger.check() == []
                _ = project.images  # a reader is not disturbed by a half-done purge
                missing = {d for d in expected["objects"] if not project.store.path(d).exists()}
                assert not missing
                purge(project, clock.now, at_once=True)
                assert state(project) == expected, f"killed {'after' if after else 'before'} call {at}"
            shutil.rmtree(copy)
    raise AssertionError("the purge never ended")


def test_killed_at_any_write_it_is_finished_by_the_next(template: Path, tmp_path: Path, clock: Clock) -> None:
    def kill(copy: Path, at: int, after: bool) -> bool:
        with opened(copy, Progress()) as project, interrupted(at, die, after):
            try:
                purge(project, clock.now, at_once=True)
            except Killed:
                return True
        return False

    assert killed_everywhere(template, tmp_path, clock, kill, step=5) > 10


@pytest.mark.slow
def test_sigkill_at_every_write_is_survived(template: Path, tmp_path: Path, clock: Clock) -> None:
    def kill(copy: Path, at: int, after: bool) -> bool:
        child = os.fork()
        if child == 0:
            with opened(copy, Progress()) as project:
                with interrupted(at, lambda: os.kill(os.getpid(), signal.SIGKILL), after):
                    purge(project, clock.now, at_once=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    kills = killed_everywhere(template, tmp_path, clock, kill, step=1)
    print(f"purge killed {kills} times, survived {kills} times")
    assert kills > 60


def test_twice_is_once(life: Life, clock: Clock) -> None:
    prepared(life)
    purge(life.project, clock.now, at_once=True)
    before = state(life.project)
    result = purge(life.project, clock.now, at_once=True)
    assert (result["removed"], result["requests"]) == ([], [])
    assert state(life.project) == before


def test_what_came_into_use_again_after_a_kill_is_left_alone(life: Life, clock: Clock) -> None:
    first = life.train()
    life.train()
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "remove", lambda *args: die())
        purge(life.project, clock.now, at_once=True)
    life.ledger.set_current("checkpoint", first)
    purge(life.project, clock.now, at_once=True)
    assert first in stored(life)
    assert [r.status for r in life.ledger.removals() if r.name == first] == ["void"]
    assert not life.ledger.removed(first)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_what_cannot_be_removed_is_named_and_the_rest_goes(life: Life, clock: Clock, number: int) -> None:
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
    assert base in stored(life) and is_blank(life.project, 0)
    assert {r.name for r in life.ledger.removals() if r.status == "started"} == {base}
    assert life.ledger.check() == []
    assert purge(life.project, clock.now)["requests"] == ["ask-0"]
    assert base not in stored(life)


def test_images_that_cannot_be_erased_are_tried_again(life: Life, clock: Clock) -> None:
    life.train()
    life.serve(0)

    def fails(*args: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", fails)
        with pytest.raises(ConfigError, match="decoded images request-1: Input/output error"):
            purge(life.project, clock.now, at_once=True)
    _ = life.project.images
    purge(life.project, clock.now, at_once=True)
    assert is_blank(life.project, 0)
