"""The ledger against dictionaries."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qmu_edge.errors import LedgerError, RequestError
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, Pointer, State
from tests.store.ledger.contents import RECEIVED, sha

names = st.sampled_from(["a", "b", "c"])


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against dictionaries; closing and opening it in between must not matter."""

    def __init__(self) -> None:
        """Start with both empty."""
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger.create(Path(self.folder.name) / "ledger.db")
        self.requests: dict[str, list[Any]] = {}
        self.steps: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
        self.stones: set[str] = set()
        self.pointers: dict[str, str] = {}

    @rule(name=names, body=names)
    def receive(self, name: str, body: str) -> None:
        known = self.requests.get(name)
        if known is not None and known[0] != sha(body):
            with pytest.raises(RequestError, match="conflict"):
                self.ledger.receive(name, sha(body), **RECEIVED)
        else:
            assert self.ledger.receive(name, sha(body), **RECEIVED) == (known is None)
            self.requests.setdefault(name, [sha(body), "received", None])

    @rule(name=names, state=st.sampled_from(State), outcome=st.none() | st.sampled_from(Outcome))
    def set_outcome(self, name: str, state: State, outcome: Outcome | None) -> None:
        if name in self.requests:
            self.ledger.set_outcome(name, state, outcome)
            self.requests[name][1:] = state, outcome
        else:
            with pytest.raises(LedgerError):
                self.ledger.set_outcome(name, state, outcome)

    @rule(name=names, step=names)
    def start(self, name: str, step: str) -> None:
        if name in self.requests and self.steps.get((name, step), ("",))[0] != "done":
            self.ledger.start_step(name, "", step)
            self.steps[name, step] = ("started", {})
        else:
            with pytest.raises(LedgerError):
                self.ledger.start_step(name, "", step)

    @rule(name=names, step=names, number=st.integers(0, 1), fail=st.booleans())
    def end(self, name: str, step: str, number: int, fail: bool) -> None:
        status = self.steps.get((name, step))
        after = ("failed", {"reason": str(number)}) if fail else ("done", {"n": number})

        def end() -> None:
            if fail:
                self.ledger.fail_step(name, "", step, str(number))
            else:
                self.ledger.finish_step(name, "", step, {"n": number})

        if status is not None and (status[0] == "started" or (status == after and not fail)):
            end()
            self.steps[name, step] = after
        else:
            with pytest.raises(LedgerError):
                end()

    @rule(name=names, samples=st.sets(names))
    def bury(self, name: str, samples: set[str]) -> None:
        if name in self.requests:
            new = self.ledger.add_tombstones(name, list(samples), [sha(s) for s in samples])
            assert new == len(samples - self.stones)
            self.stones |= samples
        else:
            with pytest.raises(LedgerError, match="no request"):
                self.ledger.add_tombstones(name, list(samples), [sha(s) for s in samples])

    @rule(checkpoint=st.none() | names, release=st.none() | names)
    def commit(self, checkpoint: str | None, release: str | None) -> None:
        digests = {"checkpoint": checkpoint, "release": release}
        given = {name: sha(text) for name, text in digests.items() if text is not None}
        self.ledger.commit_release(
            None, checkpoint=given.get("checkpoint"), release=given.get("release"), receipt=None
        )
        self.pointers |= given

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.ledger.path)

    @invariant()
    def same(self) -> None:
        found = {r.request_id: [r.digest, r.state, r.outcome] for r in self.ledger.requests()}
        assert found == self.requests
        assert self.steps == {
            (s.request_id, s.step): (s.status, s.detail)
            for name in self.requests
            for s in self.ledger.steps(name)
        }
        assert self.ledger.tombstones() == self.stones
        assert self.ledger.barred() == {(s, sha(s)) for s in self.stones}
        for pointer in (Pointer.CHECKPOINT, Pointer.RELEASE):
            assert self.ledger.current(pointer) == self.pointers.get(pointer)
        assert self.ledger.problems() == []

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestModel = LedgerMachine.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
