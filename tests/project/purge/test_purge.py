"""A purge removes what nothing needs, in its time, and nothing else."""

import json
import os
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge.errors import IntegrityError
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.project.purge import purge
from qmu_edge.project.samples import IMAGES
from qmu_edge.store.ledger.states import Outcome, Pointer, State
from tests.project.purge.conftest import checklist_of

DAY = timedelta(days=1)


# What goes and what stays


def test_nothing_goes_before_its_time(life: Any, clock: Any) -> None:
    life.train()
    life.serve(0)
    before = life.stored()
    result = purge(life.project, clock.now + 29 * DAY)
    assert (result["removed"], result["requests"], life.stored()) == ([], [], before)
    assert {row["reason"] for row in result["kept"] if row["kind"] == "split"} == {
        "until 2026-03-31: younger than 30 days"
    }
    assert not life.is_blank(0)


def test_after_its_time_everything_superseded_goes(life: Any, clock: Any) -> None:
    base = life.train()
    served = life.serve(0)
    result = purge(life.project, clock.now + 30 * DAY)
    files = json.loads(life.project.store.get_bytes(served["release"]))["files"].values()
    kept = {served[k] for k in ("requantized", "release", "report", "receipt")} | set(files)
    assert life.stored() == kept and base not in kept
    assert life.is_blank(0) and not life.is_blank(1)
    assert {i: bool(s) for i, s in enumerate(life.ledger.read_samples().subjects)} == {
        i: i not in (0, 1) for i in range(12)
    }
    assert not list((life.project.folder / "work").iterdir())
    assert result["requests"] == [served["request"]]
    assert [s.status for s in life.ledger.steps(served["request"]) if s.step == "purged"] == ["done"]
    assert life.ledger.problems() == [] and life.project.samples.images is not None


def test_retention_days_of_the_recipe_are_the_window(life: Any, clock: Any) -> None:
    policy = life.project.recipe.policy.model_copy(update={"retention_days": 3})
    life.project.recipe = life.project.recipe.model_copy(update={"policy": policy})
    life.train()
    life.serve(0)
    assert purge(life.project, clock.now + 2 * DAY)["requests"] == []
    assert purge(life.project, clock.now + 3 * DAY)["requests"] == ["ask-0"]


def test_each_request_waits_for_its_own_window(life: Any, clock: Any) -> None:
    life.train()
    life.serve(0)
    clock.now += 20 * DAY
    life.serve(1)
    assert purge(life.project, clock.now + 15 * DAY)["requests"] == ["ask-0"]
    assert (life.is_blank(0), life.is_blank(1)) == (True, False)
    assert purge(life.project, clock.now + 30 * DAY)["requests"] == ["ask-1"]


def test_a_report_is_superseded_by_the_next_receipt_not_by_its_own(life: Any, clock: Any) -> None:
    life.train()
    first = life.serve(0)
    clock.now += 40 * DAY
    life.serve(1)
    purge(life.project, clock.now)
    assert first["report"] in life.stored()
    clock.now += 40 * DAY
    purge(life.project, clock.now)
    assert first["report"] not in life.stored()


def test_an_audit_goes_with_the_network_that_it_is_about(life: Any, clock: Any) -> None:
    """It was made of a person's images; like the report it stays while its network is current."""
    life.train()
    made = life.serve(0)
    audit, results = life.put("audit"), life.project.results
    results.note_audited(made["requantized"], "rmia", audit)
    purge(life.project, clock.now, at_once=True)
    assert audit in life.stored()
    life.serve(1)
    purge(life.project, clock.now)
    assert audit in life.stored()  # for as long as everything else that was superseded
    purge(life.project, clock.now + timedelta(days=31))
    assert audit not in life.stored() and results.audited(made["requantized"]) == {}
    assert [r.kind for r in life.ledger.removals() if r.name == audit] == ["audit"]


def test_an_open_request_keeps_what_it_needs_even_at_once(life: Any, clock: Any) -> None:
    base = life.train()
    life.serve(0)
    request = life.ask(1)
    made = life.attempt(request)
    models = life.reference()
    result = purge(life.project, clock.now, at_once=True)
    needed = {made[k] for k in ("unlearned", "requantized", "release", "report")}
    assert needed.union(models) <= life.stored()
    assert base not in life.stored()
    assert (life.is_blank(0), life.is_blank(1)) == (True, False)
    assert "request 2 is open" in {row["reason"] for row in result["kept"]}
    assert [p.name for p in (life.project.folder / "work").iterdir()] == [
        f"{made['run'][:16]}-qmul.safetensors"
    ]


def test_reference_models_go_when_no_request_may_compare_with_them(life: Any, clock: Any) -> None:
    life.train()
    life.ask(0)
    models = set(life.reference())
    purge(life.project, clock.now + 99 * DAY)
    assert models <= life.stored()
    life.issue("ask-0", life.attempt("ask-0"))
    purge(life.project, clock.now + 99 * DAY)
    assert not models & life.stored()


def test_failed_attempts_go_with_their_request(life: Any, clock: Any) -> None:
    life.train()
    request = life.ask(0)
    failed = life.attempt(request)
    life.issue(request, life.attempt(request))
    purge(life.project, clock.now, at_once=True)
    assert not {failed[k] for k in ("unlearned", "requantized", "release", "report")} & life.stored()


def test_a_checkpoint_that_is_current_again_is_kept(life: Any, clock: Any) -> None:
    first = life.train()
    second = life.train()
    life.ledger.set_current(Pointer.CHECKPOINT, first)
    purge(life.project, clock.now, at_once=True)
    assert first in life.stored() and second not in life.stored()


def test_what_nothing_names_goes_by_the_age_of_its_file(life: Any, clock: Any) -> None:
    life.train()
    clock.now += 5 * DAY
    orphan = life.put("orphan")
    purge(life.project, clock.now + 29 * DAY)
    assert orphan in life.stored()
    purge(life.project, clock.now + 31 * DAY)
    assert orphan not in life.stored()


def test_training_state_goes_but_for_the_training_that_can_go_on(life: Any, clock: Any) -> None:
    work = life.project.folder / "work"
    going_on = work / f"train-{life.project.training()[:16]}.safetensors"
    stale = work / "train-0123456789abcdef.safetensors"
    for path in (going_on, stale):
        path.write_bytes(b"state")
    purge(life.project, clock.now, at_once=True)
    assert list(work.iterdir()) == [going_on]


def test_only_the_current_release_folder_stays(life: Any, clock: Any) -> None:
    life.train()
    served = [life.serve(person) for person in range(3)]
    purge(life.project, clock.now, at_once=True)
    folders = [p.name for p in (life.project.folder / "releases").iterdir()]
    assert folders == [served[-1]["release"][:16]]
    assert (life.project.root / "release/model.onnx").is_file()


def test_the_folder_behind_the_link_stays_when_a_kill_left_the_link_behind(life: Any, clock: Any) -> None:
    life.train()
    life.serve(0)
    link = os.readlink(life.project.root / "release")
    life.serve(1)
    (life.project.root / "release").unlink()
    (life.project.root / "release").symlink_to(link)
    purge(life.project, clock.now, at_once=True)
    assert (life.project.root / "release/model.onnx").is_file()


def test_earlier_results_that_are_gone_are_not_looked_for(life: Any, clock: Any) -> None:
    """Otherwise the next training would make a checkpoint current that does not exist."""
    base = life.train()
    life.serve(0)
    note = f"trained:{sha256(base.encode()).hexdigest()}"
    assert life.ledger.meta(note) is not None
    purge(life.project, clock.now, at_once=True)
    assert life.ledger.meta(note) is None and life.ledger.problems() == []


def test_a_note_that_is_deleted_behind_the_ledger_is_noticed(life: Any, clock: Any) -> None:
    life.train()
    with life.ledger.change() as db:
        db.execute("DELETE FROM meta")
    assert any("meta trained:" in problem for problem in life.ledger.problems())


# Records


def test_every_removal_is_an_event_without_a_person_or_a_sample(life: Any, clock: Any) -> None:
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
    index = life.project.samples.index
    assert not any(word in text for word in (*index.ids, *index.digests, *index.subjects, "ask-0"))
    assert life.ledger.removed(base) and base in life.ledger.removed_names()
    assert not life.ledger.removed("0" * 64)


def test_pseudonyms_leave_no_trace_in_the_file(life: Any, clock: Any) -> None:
    life.train()
    life.serve(0)
    pseudonym = life.project.samples.index.subjects[0].encode()

    assert life.ledger.rows("PRAGMA secure_delete") == [(1,)]  # some builds of SQLite do it anyway

    def traces() -> int:
        return sum(path.read_bytes().count(pseudonym) for path in life.project.folder.glob("ledger.db*"))

    assert traces()
    purge(life.project, clock.now, at_once=True)
    assert not traces()


def test_a_tampered_removal_is_noticed(life: Any, clock: Any) -> None:
    life.train()
    life.serve(0)
    purge(life.project, clock.now, at_once=True)
    with life.ledger.change() as db:
        db.execute("UPDATE removals SET name = 'nothing' WHERE seq = 1")
    assert any("removal 1" in problem for problem in life.ledger.problems())


def test_keys_of_encrypted_objects_are_shredded(life: Any, clock: Any) -> None:
    policy = life.project.recipe.policy.model_copy(update={"encrypt_at_rest": True})
    life.project.recipe = life.project.recipe.model_copy(update={"policy": policy})
    base = life.train()
    assert b"checkpoint" not in life.project.store.path(base).read_bytes()
    served = life.serve(0)
    keys = life.project.folder / "keys/objects"
    assert {p.name for p in keys.iterdir()} == life.stored()
    purge(life.project, clock.now, at_once=True)
    assert {p.name for p in keys.iterdir()} == life.stored() and base not in life.stored()
    assert served["requantized"] in life.stored() and life.project.store.problems() == []


def test_requests_served_together_are_purged_together(life: Any, clock: Any) -> None:
    life.train()
    requests = [life.ask(0), life.ask(1)]
    made = life.attempt(requests[0])
    for step, detail in (("unlearned", made["unlearned"]), ("requantized", made["requantized"])):
        life.step(requests[1], made["run"], step, checkpoint=detail)
    for request in requests:
        clock.now += DAY
        life.ledger.start_step(request, made["run"], "receipted")
        life.ledger.commit_release(
            request, checkpoint=made["requantized"], release=made["release"], receipt=life.put("receipt")
        )
        life.ledger.set_outcome(request, State.COMPLETED, Outcome.UNLEARNED)
    for request in requests:
        rows = {row["kind"]: row for row in checklist_of(life.project, request)}
        assert (rows["checkpoint"]["count"], rows["split"]["count"]) == (2, 2)
    assert purge(life.project, clock.now, at_once=True)["requests"] == requests


# Images


def test_another_persons_identical_image_stays(living: Any, tmp_path: Path, clock: Any) -> None:
    with living(tmp_path / "project", clock) as life:
        images = np.load(life.project.folder / IMAGES)
        images[2] = images[0]
        np.save(life.project.folder / IMAGES, images)
        life.train()
        life.serve(0)
        purge(life.project, clock.now, at_once=True)
        left = np.load(life.project.folder / IMAGES)
        assert not left[0].any() and (left[2] == images[0]).all()


def test_only_zeros_are_accepted_where_an_image_was_erased(life: Any, clock: Any) -> None:
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
            _ = again.samples.images
    np.save(path, original)  # put back from a backup
    with opened(life.project.root, Progress()) as again:
        with pytest.raises(IntegrityError, match="2 of them were purged: qmu-edge purge --now"):
            _ = again.samples.images
        purge(again, clock.now, at_once=True)
    with opened(life.project.root, Progress()) as again:
        assert (again.samples.images == blank).all()
