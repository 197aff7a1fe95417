"""A project in which things happen without any network: objects are a few bytes, steps take no time."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from qmu_edge.io.progress import Progress
from qmu_edge.project.checklist import LineJson, checklists
from qmu_edge.project.create import create
from qmu_edge.project.history import History
from qmu_edge.project.inventory import inventory
from qmu_edge.project.project import Project, opened
from qmu_edge.project.samples import IMAGES
from qmu_edge.recipe import DataRecipe, Recipe
from qmu_edge.request.resolve import Claim
from qmu_edge.store.ledger.states import Outcome, Pointer, State

PEOPLE = 6
START = datetime(2026, 3, 1, tzinfo=UTC)


def sha(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


class Clock:
    """The time that the ledger's events get."""

    def __init__(self) -> None:
        """Begin at noon of a fixed day."""
        self.now = START

    def __call__(self) -> str:
        """A moment later than the last one."""
        self.now += timedelta(milliseconds=1)
        return self.now.isoformat(timespec="milliseconds")


class Life:
    """What happens to a project."""

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
        """A new current checkpoint."""
        digest = self.put("checkpoint")
        self.ledger.set_meta(
            f"trained:{sha(digest.encode())}", {"checkpoint": digest, "images": 3, "accuracy": {}}
        )
        self.ledger.set_current(Pointer.CHECKPOINT, digest)
        return digest

    def release(self, checkpoint: str) -> str:
        """A release of a checkpoint, noted."""
        files = {name: self.put(name) for name in ("model.onnx", "model.qonnx.onnx")}
        text = json.dumps({"checkpoint": checkpoint, "files": files, "bytes": {}})
        digest = self.project.store.put_bytes(text.encode())
        self.ledger.set_meta(f"release:{checkpoint}:{sha(digest.encode())}", digest)
        return digest

    def publish(self, release: str) -> None:
        """The folder of a release and the link to it."""
        folder = self.project.folder / "releases" / release[:16]
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"model")
        link = self.project.root / "release"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(folder, self.project.root))

    def step(self, request: str, run: str, what: str, **detail: Any) -> None:
        """A step that is done."""
        self.ledger.start_step(request, run, what)
        self.ledger.finish_step(request, run, what, detail)

    def ask(self, person: int) -> str:
        """A request of a person, up to its tombstones."""
        request, index = f"ask-{person}", self.project.samples.index
        self.ledger.receive(
            request, sha(request.encode()), form="opendsr", regulation="gdpr",
            received="2026-01-01T00:00:00Z", due=None,
        )  # fmt: skip
        number = self.ledger.requests()[-1].seq
        self.ledger.set_meta(f"request key:{number}", sha(f"key {person}".encode()))
        mine = positions_of(person)
        claim = Claim(
            forget=np.array(mine), also_erased=np.array([], np.int64), scope="subjects",
            index_digest=index.digest(),
        )  # fmt: skip
        stored = self.project.store.put_bytes(claim.to_bytes())
        self.dated(self.project.store.path(stored))
        split = self.put("split")
        self.step(request, "", "resolved", claim=stored, split=split, counts={"forget": 2})
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
        self.ledger.set_outcome(request, State.COMPLETED, Outcome.UNLEARNED)
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
        note = {"report": made[0], "checkpoint": made[1]}
        self.ledger.set_meta(f"reference:{sha(made[0].encode())}", note)
        return [*made, self.release(made[1])]

    def stored(self) -> set[str]:
        """Digests of all objects."""
        return set(self.project.store)

    def is_blank(self, person: int) -> bool:
        """Whether the images of a person are all zero."""
        images = np.load(self.project.folder / IMAGES)
        blank = {not images[i].any() for i in positions_of(person)}
        assert len(blank) == 1
        return blank == {True}


def positions_of(person: int) -> list[int]:
    """The two images of a person, in the order of the dataset."""
    return [2 * person, 2 * person + 1]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registered dataset: two images of each person."""
    folder = tmp_path_factory.mktemp("purge")
    rows = ["sample,subject"]
    for i in range(2 * PEOPLE):
        kind = "cat" if i < PEOPLE else "dog"
        path = folder / "photos/train" / kind / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(1, 255, (4, 4), np.uint8)).save(path)
        rows.append(f"train/{kind}/{i:02d}.png,person {i // 2}")
    (folder / "subjects.csv").write_text("\n".join(rows) + "\n")
    recipe = Recipe(data=DataRecipe(source="folder", path=str(folder / "photos")))
    create(folder / "project", recipe, folder / "subjects.csv", Progress())
    return folder / "project"


class Living(Protocol):
    """Open a copy of the dataset's project, in which the events carry the clock's time."""

    def __call__(self, folder: Path, clock: Clock) -> AbstractContextManager[Life]:
        """Make `folder`."""
        ...


@pytest.fixture(scope="session")
def living(template: Path) -> Living:
    """A project of one's own."""

    @contextmanager
    def live(folder: Path, clock: Clock) -> Iterator[Life]:
        shutil.copytree(template, folder, symlinks=True)
        with mock.patch("qmu_edge.store.ledger.chain.now", clock), opened(folder, Progress()) as project:
            yield Life(project, clock)

    return live


@pytest.fixture
def clock() -> Clock:
    """The time."""
    return Clock()


@pytest.fixture
def life(living: Living, tmp_path: Path, clock: Clock) -> Iterator[Life]:
    """A project with the clock's time."""
    with living(tmp_path / "project", clock) as life:
        yield life


def checklist_of(project: Project, request_id: str) -> list[LineJson]:
    """The checklist of one request as a receipt states it."""
    history = History(project.ledger)
    found = inventory(project, history)
    lists = checklists(project.ledger, project.results, history, found, [request_id])
    return [line.to_json() for line in lists[request_id]]
