"""References: trained once, on people they may know, and never used once somebody they know was deleted."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qmu_edge.data.index import SampleSplit
from qmu_edge.data.shards import owners
from qmu_edge.data.subjects import pseudonym
from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.pipeline.references import (
    Bank,
    Reference,
    expected,
    float_twin,
    reference_training,
)
from qmu_edge.pipeline.references_run import prepare_references
from qmu_edge.project.create import create
from qmu_edge.project.project import Project, opened
from qmu_edge.project.results import REFERENCE_SHARE, TRAINING_COST
from qmu_edge.queue import lifecycle
from qmu_edge.recipe import Recipe, parse_recipe
from qmu_edge.request.document import parse_request
from qmu_edge.request.resolve import tombstones_of
from qmu_edge.store.ledger.states import Step
from tests.cli.conftest import ONCE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a bank; only its copies may be changed."""
    root = tmp_path_factory.mktemp("bank") / "project"
    create(root, parse_recipe(ONCE, "recipe"), None, Progress())
    with opened(root, Progress()) as project, project.locked():
        assert Bank.of(project).build(CPU) == {"references": 3, "trained": 3}
    return root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Iterator[Project]:
    root = shutil.copytree(built, tmp_path / "project", symlinks=True)
    with opened(root, Progress()) as found, found.locked():
        yield found


def changed(project: Project, **references: Any) -> Project:
    """The same project with other references in its recipe."""
    given = project.recipe.references.model_copy(update=references)
    recipe = project.recipe.model_copy(update={"references": given})
    return Project(project.root, recipe, project.ledger, project.progress)


def delete(project: Project, subject: str) -> tuple[str, NDArray[np.int64]]:
    """What the ledger holds once a request was begun: its id, and the samples."""
    document = json.dumps({"subject_ids": [subject]}).encode()
    row = lifecycle.register(project, parse_request(document, source="r", key=project.key))
    claim = project.samples.claim(project.ledger.open_details(Step.RESOLVED)[row.request_id])
    ids, digests = zip(*tombstones_of(project.samples.index, claim), strict=True)
    project.ledger.add_tombstones(row.request_id, ids, digests)
    return row.request_id, np.flatnonzero(project.samples.barred())


def stored(project: Project) -> list[Reference]:
    """All of the bank, whoever they know."""
    notes = [project.results.bank(shard) for shard in range(3)]
    n = len(project.samples.index.ids)
    return [Reference.parse(project.store.get_bytes(x.scores), n) for x in notes if x is not None]


def digests(project: Project) -> list[Sha256]:
    return [x.scores for x in (project.results.bank(shard) for shard in range(3)) if x is not None]


def knows(project: Project, positions: NDArray[np.int64]) -> list[bool]:
    return [bool(one.members[positions].any()) for one in stored(project)]


def test_each_scores_everybody_but_those_it_was_trained_on(project: Project) -> None:
    index, found = project.samples.index, stored(project)
    training = index.in_split(SampleSplit.TRAIN)
    times = np.stack([one.members for one in found]).sum(axis=0)
    assert (times[training] == 1).all() and (times[~training] <= 1).all()
    for one in found:
        assert np.array_equal(np.isnan(one.scores), one.members)
        people = owners(index, np.arange(len(index.ids)))  # nobody is known in part
        assert not set(people[one.members & training]) & set(people[~one.members & training])
        assert np.std(one.scores[~one.members]) > 0


def test_what_is_built_is_not_built_again(project: Project) -> None:
    before = digests(project)
    assert Bank.of(project).build(CPU) == {"references": 3, "trained": 0}
    assert digests(project) == before and len({*before}) == 3


def test_only_the_one_that_knew_the_deleted_person_is_trained_again(project: Project) -> None:
    before, known = digests(project), stored(project)
    request, gone = delete(project, "writer-3")
    trained_on = gone[project.samples.index.in_split(SampleSplit.TRAIN)[gone]]
    (shard,) = np.flatnonzero(knows(project, trained_on))
    assert Bank.of(project).build(CPU, [request]) == {"references": 3, "trained": 1}
    assert all(a != b for a, b in zip(before, digests(project), strict=True))
    for other in {0, 1, 2} - {shard}:  # it lost the scores of the deleted, and nothing else
        expected_scores = np.where(project.samples.barred(), np.float32(np.nan), known[other].scores)
        assert np.array_equal(stored(project)[other].scores, expected_scores, equal_nan=True)
        assert np.array_equal(stored(project)[other].members, known[other].members)
    again = stored(project)[shard]
    assert not again.members[gone].any() and np.isnan(again.scores[gone]).all()
    assert again.members.sum() == known[shard].members.sum() - known[shard].members[gone].sum()
    assert np.array_equal(np.isnan(again.scores), again.members | project.samples.barred())
    assert Bank.of(project).build(CPU, [request])["trained"] == 0


def test_scores_that_an_unfinished_request_waits_for_are_kept(project: Project) -> None:
    request_id, gone = delete(project, "writer-3")
    Bank.of(project).build(CPU)
    assert all(np.isfinite(one.scores[gone]).all() for one in stored(project))
    Bank.of(project).build(CPU, [request_id])
    assert all(np.isnan(one.scores[gone]).all() for one in stored(project))


def test_one_that_knows_whom_another_request_deleted_is_not_used(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda self, text: told.append(text))
    assert len(Bank.of(project).usable()) == 3 and told == []
    request, gone = delete(project, "writer-3")
    assert len(Bank.of(project).usable([request])) == 3 and told == []
    left = Bank.of(project).usable()
    assert len(left) == 2 and not any(one.members[gone].any() for one in left)
    assert told[0].startswith("1 of 3 references know somebody who was deleted and are not used")
    Bank.of(project).build(CPU)
    assert len(Bank.of(project).usable()) == 3


def test_nobody_who_has_asked_is_trained_on_meanwhile(project: Project) -> None:
    owner = pseudonym(project.key, "writer-5")
    asked = np.flatnonzero([subject == owner for subject in project.samples.index.subjects])
    document = json.dumps({"subject_ids": ["writer-5"]}).encode()
    lifecycle.register(project, parse_request(document, source="r", key=project.key))
    assert any(knows(project, asked))
    assert Bank.of(project).build(CPU)["trained"] == 1
    assert not any(knows(project, asked))
    assert all(np.isfinite(one.scores[asked]).all() for one in stored(project))  # and scored by all


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_what_is_damaged_is_refused_and_built_anew(project: Project, damage: str) -> None:
    before = [one.to_bytes() for one in stored(project)]
    path = project.store.path(digests(project)[1])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    if damage == "altered":
        path.write_bytes(data)
    with pytest.raises(IntegrityError):
        Bank.of(project).usable()
    assert Bank.of(project).build(CPU) == {"references": 3, "trained": 1}
    assert [one.to_bytes() for one in Bank.of(project).usable()] == before


def test_another_training_makes_others(project: Project) -> None:
    other = changed(project, epochs=1)
    assert Bank.of(other).build(CPU) == {"references": 3, "trained": 3}
    assert Bank.of(project).build(CPU) == {"references": 3, "trained": 3}


def test_those_that_are_not_asked_for_are_let_go(project: Project) -> None:
    Bank.of(changed(project, trained="never")).forget()
    assert digests(project) == [] and Bank.of(project).usable() == []
    assert expected(project.samples.index, []) is None


def test_those_of_a_request_know_nothing_that_it_names(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = changed(project, trained="per_request")
    training = own.samples.trainable()
    forget, retain = training[:40], training[40:]
    unseen = np.flatnonzero(~own.samples.index.in_split(SampleSplit.TRAIN))
    scored = np.concatenate([forget, retain[:50], unseen])
    found = Bank.of(own).for_request("a split", retain, scored, CPU)
    assert len(found) == 3
    for one in found:
        assert not one.members[forget].any() and np.isfinite(one.scores[forget]).all()
        left = np.setdiff1d(np.arange(len(one.scores)), scored)
        assert np.isnan(one.scores[left]).all() and np.isfinite(one.scores[unseen]).all()
    assert sum(one.members[retain].sum() for one in found) == len(retain)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Bank, "_trained", never)
    again = Bank.of(own).for_request("a split", retain, scored, CPU)
    assert [one.to_bytes() for one in again] == [one.to_bytes() for one in found]
    for other in ("another split", "a split"):
        longer = own if other == "another split" else changed(own, epochs=1)
        with pytest.raises(AssertionError, match="trained again"):
            Bank.of(longer).for_request(other, retain, scored, CPU)


def test_what_the_ledger_notes_of_a_reference_is_salted(project: Project) -> None:
    """Its positions could be guessed, and one that scores nothing has no secret but its salt."""
    bank, nobody = Bank.of(changed(project, trained="per_request")), np.array([], np.int64)
    retain = project.samples.trainable()
    bank.for_request("a split", retain[:3], nobody, CPU)
    known = [project.results.reference(f"a split:{shard}") for shard in range(3)]
    known += [project.results.bank(shard) for shard in range(3)]
    salts = {note.salt for note in known if note is not None}
    assert len(salts) == 6 and None not in salts
    for note, one in zip(
        known, [*bank.for_request("a split", retain[:3], nobody, CPU), *stored(project)], strict=True
    ):
        assert note is not None and not note.is_of(note.made_of)
        assert note.scores == sha256_of(one.to_bytes(note.salt or "")) != sha256_of(one.to_bytes())


def test_a_reference_is_read_back_or_refused() -> None:
    one = Reference(np.array([True, False]), np.array([np.nan, 1.5], np.float32))
    again = Reference.parse(one.to_bytes(), 2)
    assert np.array_equal(again.members, one.members) and np.array_equal(again.scores, one.scores, True)
    assert again.to_bytes() == one.to_bytes()
    flat = Reference(np.array([True]), np.array([1.0], np.float64).astype(np.float32))
    for data, n in (
        (b"", 2), (b"x" * 100, 2), (one.to_bytes(), 3), (one.to_bytes()[:-1], 2), (flat.to_bytes(), 2),
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match="stored references"):
            Reference.parse(data, n)


def test_what_is_expected_is_the_mean_of_those_that_never_saw_a_sample(project: Project) -> None:
    index, found = project.samples.index, stored(project)
    known = expected(index, found)
    assert known is not None and np.array_equal(known.people, owners(index, np.arange(len(index.ids))))
    training = index.in_split(SampleSplit.TRAIN)
    assert (known.networks == 2).all()  # one is left out for unseen samples, too
    for i in np.flatnonzero(training)[:200]:
        others = [one.scores[i] for one in found if not one.members[i]]
        assert known.scores[i] == pytest.approx(np.mean(others, dtype=np.float64))
    pairs = {(0, 1), (0, 2), (1, 2)}
    for i in np.flatnonzero(~training & ~np.any([one.members for one in found], axis=0))[:200]:
        means = [np.mean([found[a].scores[i], found[b].scores[i]], dtype=np.float64) for a, b in pairs]
        assert any(known.scores[i] == pytest.approx(mean) for mean in means)
    assert 0 <= known.intraclass <= 1


def test_the_twin_is_the_network_without_quantizers() -> None:
    recipe = Recipe()
    small = recipe.model_copy(
        update={"references": recipe.references.model_copy(update={"width": 0.5, "epochs": 3})}
    )
    twin, training = float_twin(small), reference_training(small, 2)
    assert (twin.activation_bits, twin.edge_bits, twin.width) == ("float", "float", 0.5)
    assert twin.architecture == recipe.model.architecture
    assert training.epochs == 3 and reference_training(recipe, 2).epochs == recipe.train.epochs
    seeds = {recipe.train.seed, *(reference_training(recipe, shard).seed for shard in range(5))}
    assert len(seeds) == 6


def test_a_bank_is_made_for_a_network_and_where_it_is_asked_for(project: Project) -> None:
    with pytest.raises(ConfigError, match=r'where \[references\] says trained = "once"'):
        prepare_references(changed(project, trained="never"), "cpu")
    with pytest.raises(ConfigError, match="no checkpoint"):
        prepare_references(project, "cpu")


def test_what_a_reference_took_is_noted_as_a_share_of_the_networks_own(project: Project) -> None:
    results = project.results
    assert results.reference_share(2) == REFERENCE_SHARE  # the network itself was not trained here
    project.ledger.set_meta(TRAINING_COST, {"seconds": 60.0, "images": 100, "epochs": 6.0})
    measured = results.reference_share(2)
    assert 0.0 < measured < 1.0  # a tenth of a second for an image is slow
    results.note_reference_cost(30.0, 600)
    assert results.reference_share(2) == pytest.approx(0.5)
