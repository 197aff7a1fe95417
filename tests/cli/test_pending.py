"""Many open requests in one run: one unlearning, a receipt for each, and nobody held up by another."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qmu_edge.data.subjects import pseudonym
from qmu_edge.io.digest import Sha256
from qmu_edge.io.progress import Progress
from qmu_edge.machine.cost import measured_cost
from qmu_edge.models.build import build
from qmu_edge.pipeline import fulfil, inputs, networks, unlearn_run
from qmu_edge.project.project import Project, opened
from qmu_edge.receipt.receipt import loads
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.train import checkpoint
from qmu_edge.train.batches import Augment
from qmu_edge.train.fit import fit
from qmu_edge.train.requantize import requantize

STEPS = ("unlearned", "requantized", "exported", "verified", "receipted")


class Killed(BaseException):
    """Stands for the end of the process."""


def add(run: Any, project: Path, document: dict[str, Any], code: int = 0) -> str:
    """Register a request and return its id."""
    path = project.parent / "asked.json"
    path.write_text(json.dumps(document), "utf-8")
    ended = run("request", "add", path, "--project", project, "--json")
    assert ended.code == code, ended.err
    rows = run("request", "list", "--project", project, "--json").json["requests"]
    if code == 0:
        assert ended.json == rows[-1]
    return str(rows[-1]["request"])


def policy(project: Path, **values: Any) -> None:
    text = (project / "qmu.toml").read_text("utf-8")
    for name, value in values.items():
        lines = [f"{name} = {value}" if line.startswith(f"{name} =") else line for line in text.split("\n")]
        text = "\n".join(lines)
    (project / "qmu.toml").write_text(text, "utf-8")


def rows(run: Any, project: Path) -> dict[str, dict[str, Any]]:
    return {r["request"]: r for r in run("status", "--project", project, "--json").json["requests"]}


def samples(project: Path, subject: str, n: int) -> list[str]:
    """The first training samples of one writer."""
    with opened(project, Progress()) as p:
        owner = pseudonym(p.key, subject)
        return [
            p.samples.index.ids[i] for i in p.samples.trainable() if p.samples.index.subjects[i] == owner
        ][:n]


def sound(run: Any, project: Path) -> None:
    doctor = run("doctor", "--project", project, "--json")
    assert doctor.json["problems"] == []
    assert run("receipt", "verify", "--project", project).code == 0


def test_all_open_requests_are_served_in_one_run(run: Any, trained: Path) -> None:
    policy(trained, approval_above=0.15)
    one = add(run, trained, {"subject_ids": ["writer-1"]})
    first_three = samples(trained, "writer-2", 3)
    some = add(run, trained, {"sample_ids": first_three})
    again = add(run, trained, {"subject_ids": ["writer-1"], "requested_by": "another channel"})
    big = add(run, trained, {"class_ids": [1, 2], "requested_by": "anna"})
    part = add(run, trained, {"sample_ids": [first_three[0], "digits/9999"]}, code=3)
    nobody = add(run, trained, {"subject_ids": ["writer-11"]}, code=3)
    words = ("unlearn", "--pending", "--project", trained, "--quiet")
    planned = run(*words, "--dry-run", "--json")
    assert planned.json["requests"] == [one, some, again] and planned.json["counts"]["requests"] == 3
    ended = run(*words, "--json")
    assert ended.code == 3 and "2 open requests wait for a person" in ended.err
    (batch,) = ended.json["batches"]
    assert [r["request"] for r in batch["requests"]] == [one, some, again]
    assert planned.json["counts"] == batch["counts"] and batch["counts"]["forget"] > 3
    assert {w["request"] for w in ended.json["waiting"]} == {big, part} and ended.json["failed"] == []
    receipts_chain_and_name_the_same_files(trained, [r["receipt_sha256"] for r in batch["requests"]])
    found = rows(run, trained)
    assert [found[i]["outcome"] for i in (one, some, again)] == ["unlearned"] * 3
    assert (found[nobody]["state"], found[nobody]["outcome"]) == ("completed", "no_match")
    assert "approval_above" in found[big]["next"] and "only a part" in found[part]["next"]
    with opened(trained, Progress()) as project:
        run_of = project.results.fulfilled_steps(one)["unlearned"]
        split = Split.parse(project.store.get_bytes(run_of.stored("split")))
        assert not project.samples.claimed()[split.retain].any()  # what still waits was not trained on either
        for request_id in (one, some, again):
            steps = {s.step: s.status for s in project.ledger.steps(request_id)}
            assert steps == dict.fromkeys(("resolved", "tombstoned", *STEPS), "done")
    sound(run, trained)

    assert run("request", "deny", big, "--reason", "claim_not_covered", "--project", trained).code == 0
    assert run("request", "approve", part, "--by", "T-1", "--project", trained).code == 0
    ended = run(*words, "--json")
    assert (ended.code, ended.json["batches"], ended.json["closed"]) == (0, [], [part])
    assert rows(run, trained)[part]["reason"] == "already_deleted"  # its one sample went with `some`
    nothing = run(*words, "--json")
    assert (nothing.code, nothing.json) == (0, {"batches": [], "failed": [], "waiting": [], "closed": []})
    assert run(*words).out == "no request is open\n"
    sound(run, trained)


def receipts_chain_and_name_the_same_files(project: Path, digests: list[Sha256]) -> None:
    with opened(project, Progress()) as p:
        found = [p.ledger.rows("SELECT receipt_digest, previous_digest FROM receipts ORDER BY seq")]
        assert found[0][-len(digests) :] == list(
            zip(digests, [found[0][-len(digests)][1], *digests[:-1]], strict=True)
        )
        assert p.ledger.current(Pointer.RECEIPT) == digests[-1]
        documents = [p.store.get_bytes(d) for d in digests]
    current = (project / "release/receipt.json").read_bytes()
    assert current == documents[-1] and len(set(documents)) == len(digests)


def _kill_after_start(patch: pytest.MonkeyPatch, step: str) -> None:
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


def _kill_at_end(patch: pytest.MonkeyPatch, step: str) -> None:
    """After the first of the requests, in the transaction that is for all of them."""
    real, calls = Ledger.finish_step, [0]

    def finish(self: Ledger, request_id: str, run: str, what: str, detail: Any) -> None:
        calls[0] += what == step
        if calls[0] == 2:
            raise Killed
        real(self, request_id, run, what, detail)

    patch.setattr(Ledger, "finish_step", finish)


def _kill_publishing(patch: pytest.MonkeyPatch, step: str) -> None:
    def publish(*args: Any) -> Any:
        raise Killed

    patch.setattr(fulfil, "publish_current", publish)


@pytest.mark.slow
def test_a_batch_that_is_killed_at_every_instant_ends_in_a_receipt_for_each(run: Any, trained: Path) -> None:
    ids = [add(run, trained, {"subject_ids": [f"writer-{n}"]}) for n in (1, 2)]
    words = ("unlearn", "--pending", "--project", trained, "--quiet", "--json")
    kills = [
        (_kill_at_end, "tombstoned"),
        *((k, s) for s in STEPS for k in (_kill_after_start, _kill_at_end)),
    ]
    later = ""
    for kill, step in (*kills, (_kill_publishing, "")):
        with pytest.MonkeyPatch.context() as patch:
            kill(patch, step)
            with pytest.raises(Killed):
                run(*words)
        with Ledger.open(trained / ".qmu/ledger.db") as ledger:
            assert ledger.problems() == []
            steps = [[(s.run, s.step, s.status) for s in ledger.steps(i)] for i in ids]
            assert steps[0] == steps[1]
        if step == "requantized" and not later:  # a request that comes meanwhile joins no batch that began
            later = add(run, trained, {"sample_ids": samples(trained, "writer-3", 2)})
    ended = run(*words)
    assert ended.code == 0, ended.err
    with Ledger.open(trained / ".qmu/ledger.db") as ledger:
        found = ledger.rows("SELECT request_id FROM receipts ORDER BY seq")
        assert [i for (i,) in found] == [*ids, later]
        assert [r.outcome for r in ledger.requests()] == ["unlearned"] * 3
    sound(run, trained)


@pytest.mark.slow
def test_a_batch_that_fails_does_not_hold_up_the_next(run: Any, trained: Path) -> None:
    policy(trained, max_ta_drop=0.0, when_not_measurable='"retrain"')
    first = add(run, trained, {"subject_ids": ["writer-1"]})
    words = ("unlearn", "--pending", "--project", trained, "--method", "qmul", "--quiet", "--json")
    failed = run(*words)
    assert failed.code == 7 and failed.json["failed"][0]["requests"] == [first]
    row = rows(run, trained)[first]
    assert (row["state"], row["outcome"]) == ("unlearning", "failed") and "it goes on, with" in row["next"]
    assert run("request", "withdraw", first, "--project", trained).code == 3
    policy(trained, max_ta_drop=1.0, when_not_measurable='"release"')
    second = add(run, trained, {"sample_ids": samples(trained, "writer-2", 3)})
    policy(trained, when_not_measurable='"retrain"')
    both = run(*words)
    assert both.code == 7 and [f["requests"] for f in both.json["failed"]] == [[first], [second]]
    policy(trained, when_not_measurable='"release"')
    assert run(*words).code == 0
    assert {r["outcome"] for r in rows(run, trained).values()} == {"unlearned"}
    sound(run, trained)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [True, False])
def test_who_asks_again_while_the_deletion_is_under_way_is_answered_when_it_is_done(
    run: Any, trained: Path, tmp_path: Path, alone: bool
) -> None:
    policy(trained, when_not_measurable='"retrain"')
    first = add(run, trained, {"subject_ids": ["writer-1"]})
    words = ["unlearn", "--project", trained, "--method", "qmul", "--quiet", "--json"]
    assert run(*words, "--pending").code == 7  # its samples are barred, and the network still knows them
    again = add(run, trained, {"subject_ids": ["writer-1"], "requested_by": "another channel"}, code=3)
    shown = rows(run, trained)[again]
    assert (shown["state"], shown["reason"]) == ("received", "already_deleted")
    assert shown["next"] == "is closed with the request that deletes the same samples"
    policy(trained, when_not_measurable='"release"')
    if alone:
        (tmp_path / "first.json").write_text(json.dumps({"subject_ids": ["writer-1"]}), "utf-8")
        ended = run(*words, "--request", tmp_path / "first.json")
    else:
        ended = run(*words, "--pending")
        assert ended.json["closed"] == [again] and ended.json["waiting"] == []
    assert ended.code == 0, ended.err
    found = rows(run, trained)
    assert found[first]["outcome"] == "unlearned" and found[again]["next"] is None
    assert (found[again]["outcome"], found[again]["reason"]) == ("denied", "already_deleted")
    sound(run, trained)


@pytest.mark.slow
def test_a_partial_request_is_served_once_it_is_approved(run: Any, trained: Path, tmp_path: Path) -> None:
    document = {"sample_ids": [*samples(trained, "writer-1", 3), "digits/9999"]}
    part = add(run, trained, document, code=3)
    request = tmp_path / "asked.json"
    request.write_text(json.dumps(document), "utf-8")
    words = ("unlearn", "--request", request, "--project", trained, "--quiet", "--json")
    assert run(*words).code == 3
    run("request", "approve", part, "--by", "T-1", "--project", trained)
    ended = run(*words)
    assert ended.code == 0 and ended.json["outcome"] == "partial" and ended.json["counts"]["forget"] == 3
    statement = loads((trained / "release/receipt.json").read_bytes(), trained)
    assert statement.predicate.outcome == "partial"
    assert run("verify", trained / "release/model.onnx", "--project", trained, "--quiet").code == 0


def test_a_withdrawn_request_is_not_served_and_its_samples_are_trained_on_again(
    made: Any, run: Any, trained: Path
) -> None:
    images = made.commands["train"].json["images"]
    added = run("request", "add", made.request, "--project", trained, "--json").json
    with opened(trained, Progress()) as project:
        assert len(project.samples.trainable()) == images - added["images"]
    assert run("request", "withdraw", added["request"], "--project", trained).code == 0
    ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    assert ended.code == 3 and "is closed: withdrawn" in ended.err
    assert run("unlearn", "--pending", "--project", trained, "--quiet").code == 0
    with opened(trained, Progress()) as project:
        assert len(project.samples.trainable()) == images and project.ledger.tombstones() == set()


# Retraining


@pytest.mark.slow
def test_retraining_after_some_requests_is_training_without_them(run: Any, trained: Path) -> None:
    """Bitwise, on the CPU: whatever happened before, by whatever method and in whatever order."""
    words = ("--project", trained, "--quiet", "--json")
    for subject, method in (("writer-1", "qmul"), ("writer-2", "finetune"), ("writer-3", "retrain")):
        add(run, trained, {"subject_ids": [subject]})
        ended = run("unlearn", "--pending", "--method", method, *words)
        assert ended.code == 0, ended.err
    assert rows(run, trained)[ended.json["batches"][0]["request"]]["outcome"] == "retrained"
    with opened(trained, Progress()) as project:
        kept = {project.samples.index.ids[i] for i in project.samples.trainable()}
        assert kept and not kept & project.ledger.tombstones()
        model, _ = networks.Networks.of(project).load(project.current(Pointer.CHECKPOINT))
        fresh = from_scratch(project)
        for name, value in model.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[name]), name
        assert checkpoint.dumps(model, networks.origin_of(project.samples, "x")) == checkpoint.dumps(
            fresh, networks.origin_of(project.samples, "x")
        )


def from_scratch(project: Project) -> Any:
    """The recipe on what is left, written down without the pipeline, and with its seeds."""
    recipe = project.recipe
    generator = torch.Generator().manual_seed(recipe.train.seed)
    torch.randint(2**31, (1,), generator=generator)  # the seed of dropout
    seed = int(torch.randint(2**31, (1,), generator=generator))
    old, _ = networks.Networks.of(project).load(project.current(Pointer.CHECKPOINT))
    kept = inputs.samples_of(
        project.samples, recipe.data, torch.device("cpu"), project.samples.trainable(), "test"
    )
    model = build(recipe.model, old.shape, seed)
    train = recipe.train.model_copy(update={"seed": seed})
    fit(model, kept, train, Augment.of(recipe.data), progress=Progress())
    # As stored and read back: a network fresh from training lies otherwise in memory and sums otherwise.
    stored = checkpoint.dumps(model.eval(), networks.origin_of(project.samples, "x"))
    model, _ = checkpoint.loads(stored, "x", recipe.model)
    requantize(model, kept, batch=recipe.train.batch, seed=recipe.train.seed, progress=Progress())
    return model


@pytest.mark.slow
def test_too_much_unlearned_forces_a_retraining(run: Any, trained: Path) -> None:
    policy(trained, retrain_above=0.15)
    words = ("unlearn", "--pending", "--project", trained, "--json", "--quiet")
    add(run, trained, {"subject_ids": ["writer-1"]})
    assert run(*words).json["batches"][0]["outcome"] == "unlearned"
    add(run, trained, {"subject_ids": ["writer-2"]})
    assert run(*words, "--method", "qmul").code == 2
    assert run(*words, "--dry-run").json["rungs"] == ["retrain"]
    assert run(*words).json["batches"][0]["outcome"] == "retrained"
    add(run, trained, {"subject_ids": ["writer-3"]})
    assert run(*words).json["batches"][0]["outcome"] == "unlearned"
    assert os.readlink(trained / "release")


@pytest.mark.slow
def test_a_class_and_a_person_together_are_trained_again(run: Any, trained: Path) -> None:
    words = ("unlearn", "--pending", "--project", trained, "--json", "--quiet")
    add(run, trained, {"class_ids": [3]})
    add(run, trained, {"subject_ids": ["writer-1"]})
    planned = run(*words, "--dry-run").json
    assert planned["rungs"] == ["retrain"] and planned["rungs_forced_by"].startswith("whole classes and")
    (batch,) = run(*words).json["batches"]
    assert [r["outcome"] for r in batch["requests"]] == ["retrained", "retrained"]
    report = batch["report"]
    assert report["terms"]["exact"] and report["verdict"]["answer"] == "retrained"
