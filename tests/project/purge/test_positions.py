"""After a purge no digest of what a request named, or of what it left, tells whose request it was.

The attacker has the folder with all its keys, the sample index, and a list of whose samples are whose. Whom
the tombstones name is known; which of them asked in which request is guessed.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from qmu_edge.io.canonical import canonical, rows_digest
from qmu_edge.io.digest import Sha256, salted, sha256_of
from qmu_edge.pipeline.unlearn_run import attempt, plain
from qmu_edge.project.project import Project
from qmu_edge.project.purge import purge
from qmu_edge.project.records import ReferenceNote, said
from qmu_edge.project.results import REFERENCE
from qmu_edge.queue.lifecycle import register
from qmu_edge.queue.schedule import plan
from qmu_edge.request.document import parse_request
from qmu_edge.request.resolve import Claim
from qmu_edge.request.split import divide
from qmu_edge.store.ledger.states import Step
from qmu_edge.unlearn.registry import parameters
from tests.project.purge.conftest import PEOPLE, positions_of
from tests.queue.people import bar

CPU = torch.device("cpu")


def made_of(positions: Any) -> Sha256:
    """The kind of digest that names a training or a reference."""
    return sha256_of(np.asarray(positions, "<i8").tobytes())


def serve(life: Any, person: int) -> str:
    """A request with the real claim, sets and names; what would be computed of them is made up."""
    project, ledger = life.project, life.ledger
    document = json.dumps({"subject_ids": [f"person {person}"]}).encode()
    row = register(project, parse_request(document, source="r", key=project.ids_key))
    claim = project.samples.claim(ledger.open_details(Step.RESOLVED)[row.request_id])
    split = plan(project, [row], [claim], None, {}).split
    bar(project, row)
    run = attempt(project, [row], split, "retrain", CPU)
    assert (
        attempt(project, [row], plan(project, [row], [claim], None, {}).split, "retrain", CPU).name
        == run.name
    )
    salt = sha256_of(f"salt {person}".encode())
    note = ReferenceNote(
        made_of=salted(made_of(split.retain), salt), scores=life.put("reference scores"), salt=salt
    )
    project.results.note_reference(f"{split.digest()}:0", note)
    assert project.results.reference(f"{split.digest()}:0").is_of(made_of(split.retain))
    made = {**life.attempt(row.request_id), "run": run.name}
    stored = project.store.put_bytes(split.to_bytes())
    life.step(row.request_id, run.name, "unlearned", split=stored, checkpoint=made["unlearned"])
    state = project.folder / "work" / f"{run.name[:16]}-retrain.safetensors"
    state.write_bytes(b"state")
    project.store.put_bytes(f"what a receipt says: {split.digest()}".encode())
    life.issue(row.request_id, made)
    return row.request_id


def everything(project: Project) -> str:
    """All that the folder holds, and how its files are called."""
    paths = [path for path in project.folder.rglob("*") if path.is_file()]
    names = " ".join("".join(path.parts[-2:]) for path in paths)
    return names + b" ".join(path.read_bytes() for path in paths).decode("latin-1")


def guesses(project: Project, person: int, salts: set[str], before: str) -> Iterator[str]:
    """What would be stored of the first request if it were of this person."""
    index, recipe = project.samples.index, project.recipe
    params = plain(parameters("retrain", {}, recipe.train))
    training = f"{recipe.model}{recipe.train}{recipe.data}{index.digest()}".encode()
    keys = {body["key"] for _, _, body in project.ledger.events("meta") if body["key"].startswith(REFERENCE)}
    scores = {removal.name for removal in project.ledger.removals() if removal.kind == "reference scores"}
    claim = Claim(
        forget=np.array(positions_of(person)), also_erased=np.array([], np.int64), scope="subjects",
        index_digest=index.digest(),
    )  # fmt: skip
    split = divide(index, [claim])
    retain, left = made_of(split.retain), sha256_of(training + split.retain.tobytes())
    for salt in salts:
        claim, split = replace(claim, salt=salt), replace(split, salt=salt)
        identity = ["retrain", params, before, split.digest(), recipe.train.seed, recipe.digest()]
        name = sha256_of(json.dumps(identity, sort_keys=True).encode())
        yield from (sha256_of(claim.to_bytes()), sha256_of(split.to_bytes()), split.digest(), name[:16])
        yield from (salted(left, salt)[:16], salted(retain, salt))
        for digest in scores:  # what the chain would say of the note of a reference
            note = ReferenceNote(made_of=salted(retain, salt), scores=Sha256(digest), salt=salt or None)
            yield from (rows_digest([(key, canonical(said(note)).decode(), None)]) for key in keys)


def confirmed(project: Project, before: str) -> list[int]:
    """Whom the folder gives away as the one who asked first: all are tried with all that could be salts."""
    text = everything(project)
    found = {word[:size] for word in re.findall(r"(?=([0-9a-f]{64}))", text) for size in (16, 64)}
    found |= set(re.findall(r"[0-9a-f]{16}", text))
    salts = {"", *re.findall(r'"([0-9a-f]{64})"', text)}
    salts |= {sha256_of(salt.encode()) for salt in salts if salt}  # as the sets of one request are salted
    return [
        person
        for person in range(PEOPLE)
        if any(guess in found for guess in guesses(project, person, salts, before))
    ]


def test_digests_of_positions_confirm_nobody(life: Any, clock: Any) -> None:
    before = life.train()
    serve(life, 3)
    life.ledger.set_meta(
        f"trained:{life.project.training()}", {"checkpoint": before, "images": 10, "accuracy": {}}
    )
    assert confirmed(life.project, before) == [3]  # so the attack works while the salts are there
    serve(life, 0)
    purge(life.project, clock.now, at_once=True)
    assert life.ledger.remembered() == set()
    assert confirmed(life.project, before) == []
    assert life.ledger.problems() == [] and life.project.samples.barred().sum() == 4


def test_the_name_of_a_training_says_who_is_left_by_numbers_only(life: Any, clock: Any) -> None:
    project, names = life.project, [life.project.training()]
    life.train()
    for person in (3, 0):
        serve(life, person)
        names.append(project.training())
    assert len(set(names)) == 3
    purge(project, clock.now, at_once=True)
    assert project.training() == names[-1]  # what was trained is found after a purge, too
