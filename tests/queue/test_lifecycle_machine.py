"""The life of requests as a state machine, against dictionaries: what is lost or doubled shows here."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import LedgerError, RequestError
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import KEY, KEY_CHECK, STORE, Project, key_check
from qmu_edge.queue import lifecycle
from qmu_edge.queue.schedule import batch_name, batches, places
from qmu_edge.recipe import Recipe
from qmu_edge.request.document import parse_request
from qmu_edge.request.resolve import tombstones_of
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Outcome, Pointer, State, Step

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)
N = 8  # samples; the last is a test image, and "s9" does not exist
NAMES = st.sets(st.sampled_from([*(f"s{i}" for i in range(N)), "s9"]), min_size=1, max_size=3)
OPEN, CLOSED = ("received", "unlearning"), "completed"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_index() -> SampleIndex:
    splits = np.zeros(N, np.int8)
    splits[-1] = 2
    return SampleIndex.of(
        ids=tuple(f"s{i}" for i in range(N)), digests=tuple(sha(f"pixels {i}") for i in range(N)),
        labels=np.zeros(N, np.int64), splits=splits, subjects=("",) * N, class_names=("all",),
    )  # fmt: skip


class Lost(Exception):
    """The end of the process in the middle of a transaction."""


class Lifecycle(RuleBasedStateMachine):
    """Requests that name samples; the model knows of each its samples, state, outcome and approval."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        """Start with an empty project."""
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        (root / STORE / KEY).parent.mkdir(parents=True)
        (root / STORE / KEY).write_bytes(b"k" * 32)
        ledger = Ledger.create(root / STORE / "ledger.db")
        ledger.write_samples(make_index())
        ledger.set_meta(KEY_CHECK, key_check(b"k" * 32))
        policy = Recipe().policy.model_copy(update={"approval_above": 0.3, "approval_above_total": "off"})
        recipe = Recipe().model_copy(update={"policy": policy})
        self.project = Project(root, recipe, ledger, Progress())
        self.model: dict[str, dict[str, Any]] = {}
        self.stones: dict[str, str] = {}
        self.receipts: list[str] = []

    @property
    def ledger(self) -> Ledger:
        """As it is open now."""
        return self.project.ledger

    def teardown(self) -> None:
        """Close and remove."""
        self.ledger.close()
        self.folder.cleanup()

    @rule(target=requests, names=NAMES, salt=st.integers(0, 2))
    def receive(self, names: set[str], salt: int) -> Any:
        """Twice the same is one; nothing, a part and everything are outcomes."""
        document = json.dumps({"sample_ids": sorted(names), "requested_by": f"{salt}"}).encode()
        request = parse_request(document, source="r", now=NOW, key=self.project.key)
        new = request.request_id not in self.model
        head = self.ledger.head()
        before = self.model.get(request.request_id)
        again = before is not None and (before["state"] == CLOSED or before["named"])
        expected = before if before is not None and again else self.looked_up(names)
        try:
            lifecycle.register(self.project, request)
            assert again or expected["error"] is None
        except RequestError as error:
            assert error.reason == expected["error"]
        if again:
            assert self.ledger.head() == head
        approved = before is not None and before["approved"]
        self.model[request.request_id] = expected | {"approved": approved}
        return request.request_id if new else multiple()

    def looked_up(self, names: set[str]) -> dict[str, Any]:
        """What ought to come of names, by the words of the documentation."""
        here = {n for n in names if n != "s9"}
        fresh = here - self.stones.keys()
        trained = {n for n in fresh if n != f"s{N - 1}"}
        left = {f"s{i}" for i in range(N - 1)} - self.stones.keys() - trained
        row: dict[str, Any] = {"state": "received", "outcome": None, "reason": None}
        row |= {"named": set(), "error": None}
        row |= {"approved": False}
        if not here:
            return row | {"state": CLOSED, "outcome": "no_match", "error": "no_match"}
        if not fresh:
            running = any(r["state"] == "unlearning" for r in self.model.values())
            closed = {"state": CLOSED, "outcome": "denied"} if not running else {"outcome": "failed"}
            return row | closed | {"reason": "already_deleted", "error": "already_deleted"}
        for word, holds in (("never_trained_on", not trained), ("nothing_left", len(left) < 2)):
            if holds:
                return row | {"outcome": "failed", "reason": word, "error": word}
        partial = here != names or f"s{N - 1}" in here
        row |= {"named": fresh}
        return row | ({"outcome": "partial", "error": "partial"} if partial else {})

    @rule(request=requests, how=st.sampled_from(["withdraw", "deny"]))
    def close(self, request: str, how: str) -> None:
        """Only before anything is barred."""
        row = self.model[request]
        if row["state"] != "received":
            with pytest.raises(RequestError):
                self.closed(request, how)
            return
        self.closed(request, how)
        reason = "other" if how == "deny" else None
        row.update(state=CLOSED, outcome="withdrawn" if how == "withdraw" else "denied", reason=reason)

    def closed(self, request: str, how: str) -> None:
        """Withdraw it or deny it."""
        if how == "withdraw":
            lifecycle.withdraw(self.ledger, request)
        else:
            lifecycle.deny(self.ledger, request, "other")

    @rule(request=requests)
    def approve(self, request: str) -> None:
        """While it is open."""
        row = self.model[request]
        if row["state"] == CLOSED:
            with pytest.raises(RequestError, match="is closed"):
                lifecycle.approve(self.ledger, request, "T-1")
        else:
            lifecycle.approve(self.ledger, request, "T-1")
            row["approved"] = True

    @rule(request=requests, days=st.integers(0, 60))
    def extend(self, request: str, days: int) -> None:
        """A research request has no deadline."""
        with pytest.raises(RequestError):
            lifecycle.extend(self.ledger, request, "complexity", NOW + timedelta(days=days))

    def ready(self) -> list[str]:
        """What may be served now: approved, begun, or small and whole."""
        small = {i: len(r["named"] - {f"s{N - 1}"}) / (N - 1) <= 0.3 for i, r in self.model.items()}
        return [
            i
            for i, r in self.model.items()
            if r["state"] == "unlearning"
            or (
                (r["state"] == "received" and r["named"])
                and (r["approved"] or (r["outcome"] != "partial" and small[i]))
            )
        ]

    @rule(killed=st.booleans())
    def begin(self, killed: bool) -> None:
        """Bar the samples of all that may be served, in one transaction or not at all."""
        found = places(self.ledger, self.project.recipe.policy)
        rows = [p.row for p in found if not p.waits]
        assert sorted(r.request_id for r in rows) == sorted(self.ready())
        resolved = self.ledger.open_details(Step.RESOLVED)
        fresh = [r for r in rows if r.state == "received"]
        try:
            with self.ledger.change():
                for row in fresh:
                    claim = self.project.samples.claim(resolved[row.request_id])
                    ids, digests = zip(*tombstones_of(self.project.samples.index, claim), strict=True)
                    self.ledger.start_step(row.request_id, "", "tombstoned")
                    self.ledger.add_tombstones(row.request_id, ids, digests)
                    detail = {"batch": batch_name(fresh)}
                    self.ledger.finish_step(row.request_id, "", "tombstoned", detail)
                    self.ledger.set_outcome(row.request_id, State.UNLEARNING, None)
                if killed:
                    raise Lost
        except Lost:
            return
        for row in fresh:
            self.model[row.request_id].update(state="unlearning", outcome=None)
            for name in self.model[row.request_id]["named"]:
                self.stones.setdefault(name, row.request_id)

    @rule(ends=st.sampled_from(["served", "failed", "killed"]))
    def finish(self, ends: str) -> None:
        """Serve the first batch that has begun: its steps, its receipts and one switch."""
        begun = [r for r in self.ledger.requests() if r.state == "unlearning"]
        if not begun:
            return
        batch, run = batches(self.ledger, begun)[0], sha(f"run {len(self.receipts)}")
        name = {r.request_id: d["batch"] for r in batch for d in [self.detail(r.request_id)]}
        assert len(set(name.values())) == 1
        with self.ledger.change():
            for row in batch:
                self.ledger.start_step(row.request_id, run, "receipted")
        if ends == "failed":
            with self.ledger.change():
                for row in batch:
                    self.ledger.fail_step(row.request_id, run, "receipted", "VerificationFailed")
                    self.ledger.set_outcome(row.request_id, State.UNLEARNING, Outcome.FAILED)
                    self.model[row.request_id]["outcome"] = "failed"
            return
        made = [sha(f"receipt of {row.request_id}") for row in batch]
        try:
            with self.ledger.change():
                for row, digest in zip(batch, made, strict=True):
                    self.ledger.commit_release(
                        row.request_id, checkpoint=sha(run), release=sha("r" + run), receipt=digest
                    )
                    self.ledger.set_outcome(row.request_id, State.COMPLETED, Outcome.UNLEARNED)
                    self.ledger.finish_step(row.request_id, run, "receipted", {})
                if ends == "killed":
                    raise Lost
        except Lost:
            return
        self.receipts += made
        for row in batch:
            self.model[row.request_id].update(state=CLOSED, outcome="unlearned")

    def detail(self, request_id: str) -> Mapping[str, object]:
        """What the ledger says of its batch."""
        return self.ledger.open_details(Step.TOMBSTONED)[request_id]

    @rule(request=requests)
    def nothing_undoes_a_done_step(self, request: str) -> None:
        """Whatever its state."""
        step, row = self.ledger.step(request, "", "tombstoned"), self.model[request]
        assert (step is not None) == (row["state"] == "unlearning" or row["outcome"] == "unlearned")
        if step is not None:
            with pytest.raises(LedgerError, match="is done"):
                self.ledger.start_step(request, "", "tombstoned")

    @rule()
    def reopen(self) -> None:
        """As after the end of the process."""
        self.ledger.close()
        self.project = Project(
            self.project.root, self.project.recipe, Ledger.open(self.ledger.path), Progress()
        )

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        """No request lost, none doubled, none in between."""
        keys = ("state", "outcome", "reason")
        found = {r.request_id: tuple(getattr(r, k) for k in keys) for r in self.ledger.requests()}
        assert found == {i: tuple(r[k] for k in keys) for i, r in self.model.items()}
        assert [r.approved_by is not None for r in self.ledger.requests()] == [
            self.model[r.request_id]["approved"] for r in self.ledger.requests()
        ]

    @invariant()
    def nobody_is_trained_on_who_asked(self) -> None:
        """Barred stays barred, and what is open is held."""
        held = {n for r in self.model.values() if r["state"] in OPEN for n in r["named"]}
        ids = self.project.samples.index.ids
        assert {ids[i] for i in np.flatnonzero(self.project.samples.claimed())} == held
        assert {ids[i] for i in np.flatnonzero(self.project.samples.barred())} == self.stones.keys()
        trainable = {f"s{i}" for i in range(N - 1)} - self.stones.keys() - held
        assert {ids[i] for i in self.project.samples.trainable()} == trainable

    @invariant()
    def receipts_are_one_chain_with_one_for_each_request(self) -> None:
        """And the last of them is current."""
        rows = self.ledger.rows("SELECT receipt_digest, previous_digest FROM receipts ORDER BY seq")
        assert rows == list(zip(self.receipts, [None, *self.receipts[:-1]], strict=False))
        assert self.ledger.current(Pointer.RECEIPT) == (self.receipts[-1] if self.receipts else None)
        served = sum(r["outcome"] == "unlearned" for r in self.model.values())
        assert len(self.receipts) == served

    @invariant()
    def the_ledger_is_sound(self) -> None:
        """Every row is as the last event left it."""
        assert self.ledger.problems() == []


def test_the_life_of_requests() -> None:
    run_state_machine_as_test(
        Lifecycle, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )


@pytest.mark.slow
def test_the_life_of_requests_at_length() -> None:
    run_state_machine_as_test(
        Lifecycle, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
