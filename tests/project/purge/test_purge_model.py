"""Random lives of a project against a simple model of what is needed: a purge takes neither more nor less."""

import json
import tempfile
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qmu_edge.project.purge import purge
from qmu_edge.project.samples import IMAGES
from qmu_edge.store.ledger.states import Pointer

DAY = timedelta(days=1)
PEOPLE = range(6)
Spans = list[tuple[datetime | None, str]]  # when each use of an object ended, None while it lasts


class Purging(RuleBasedStateMachine):
    """The model knows of every object by what it is used, and of every use when it ended."""

    living: Any
    clock: Any

    def __init__(self) -> None:
        """A new project."""
        super().__init__()
        self.stack = ExitStack()
        self.time = self.clock()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.life = self.stack.enter_context(self.living(Path(folder) / "project", self.time))
        self.uses: dict[str, Spans] = {}
        self.current: dict[str, str] = {}
        self.open: dict[str, list[dict[str, str]]] = {}
        self.served: dict[int, datetime] = {}
        self.purged: set[str] = set()

    def teardown(self) -> None:
        self.stack.close()

    def use(self, digest: str, what: str) -> None:
        self.uses.setdefault(digest, []).append((None, what))

    def end(self, digest: str, what: str) -> None:
        spans = self.uses[digest]
        self.uses[digest] = [(self.time.now, w) if w == what and at is None else (at, w) for at, w in spans]

    def point(self, name: str, digest: str) -> None:
        if before := self.current.get(name):
            for part in self.parts(before):
                self.end(part, name)
        self.current[name] = digest
        for part in self.parts(digest):
            self.use(part, name)

    def parts(self, digest: str) -> list[str]:
        """An object, and the files of it when it is a release."""
        path = self.life.project.store.path(digest)
        text = path.read_bytes() if path.exists() else b""
        self.known = getattr(self, "known", {})
        if text.startswith(b"{"):
            self.known[digest] = list(json.loads(text)["files"].values())
        return [digest, *self.known.get(digest, [])]

    @initialize()
    def trained(self) -> None:
        self.train()

    @rule()
    def train(self) -> None:
        self.point("checkpoint", self.life.train())
        # Its note is a use that ends when it is made; the pointer always lasts longer.

    @rule()
    def export(self) -> None:
        release = self.life.release(self.current["checkpoint"])
        self.life.ledger.set_current(Pointer.RELEASE, release)
        self.point("release", release)
        self.of_checkpoint(release, self.current["checkpoint"])

    def of_checkpoint(self, release: str, checkpoint: str) -> None:
        """A noted release is used as long as its checkpoint."""
        for part in self.parts(release):
            self.uses.setdefault(part, []).append((None, f"of {checkpoint}"))

    @precondition(lambda self: len(self.open) + len(self.served) < len(PEOPLE))
    @rule()
    def ask(self) -> None:
        request = self.life.ask(len(self.open) + len(self.served))
        found = self.life.ledger.step(request, "", "resolved").detail
        self.open[request] = []
        self.use(found["claim"], request)
        self.use(found["split"], request)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def attempt(self, data: Any) -> None:
        request = data.draw(st.sampled_from(sorted(self.open)))
        made = self.life.attempt(request)
        self.open[request].append(made)
        parts = [made["unlearned"], made["requantized"], made["report"], *self.parts(made["release"])]
        for part in parts:
            self.use(part, request)
        self.of_checkpoint(made["release"], made["requantized"])

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data())
    def serve(self, data: Any) -> None:
        request = data.draw(st.sampled_from(sorted(r for r, made in self.open.items() if made)))
        made = self.open.pop(request)
        receipt = self.life.issue(request, made[-1])
        self.use(receipt, "receipt")
        self.served[int(request.removeprefix("ask-"))] = self.time.now
        for digest, spans in self.uses.items():
            if any(what == request for _, what in spans):
                self.end(digest, request)
        self.point("checkpoint", made[-1]["requantized"])
        self.point("release", made[-1]["release"])
        self.point("report", made[-1]["report"])

    @rule(days=st.sampled_from([1, 10, 31]))
    def wait(self, days: int) -> None:
        self.time.now += days * DAY

    @rule(at_once=st.booleans())
    def purge(self, at_once: bool) -> None:
        purge(self.life.project, self.time.now, at_once=at_once)
        limit = self.time.now if at_once else self.time.now - 30 * DAY
        stored = self.life.stored()
        for digest in self.uses:
            ended = self.ended(digest)
            if ended is not None and ended <= limit:
                self.purged.add(digest)
        assert stored == self.uses.keys() - self.purged
        self.check_people(limit)
        assert self.life.ledger.problems() == []

    def ended(self, digest: str) -> datetime | None:
        """When the last use of an object ended; None while one lasts."""
        found = []
        for at, what in self.uses[digest]:
            if at is None and what.startswith("of "):
                at = self.ended(what.removeprefix("of "))
            if at is None:
                return None
            found.append(at)
        return max(found)

    def check_people(self, limit: datetime) -> None:
        images = np.load(self.life.project.folder / IMAGES)
        subjects = self.life.ledger.read_samples().subjects
        self.erased = getattr(self, "erased", set()) | {p for p, at in self.served.items() if at <= limit}
        for person in PEOPLE:
            for position in (2 * person, 2 * person + 1):
                assert images[position].any() == (person not in self.erased)
                assert bool(subjects[position]) == (person not in self.erased)
        done = {r for r in self.life.ledger.requests() if self.life.ledger.step(r.request_id, "", "purged")}
        assert {int(r.request_id.removeprefix("ask-")) for r in done} <= self.served.keys()


def run_lives(living: Any, clock: Any, examples: int, steps: int) -> None:
    class Bound(Purging):
        pass

    Bound.living, Bound.clock = staticmethod(living), staticmethod(type(clock))
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_a_few_random_lives(living: Any, clock: Any) -> None:
    run_lives(living, clock, examples=6, steps=12)


@pytest.mark.slow
def test_many_random_lives(living: Any, clock: Any) -> None:
    run_lives(living, clock, examples=200, steps=30)
