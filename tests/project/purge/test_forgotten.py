"""After a purge nobody with the folder and all its keys can confirm a guess at who was deleted."""

import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from qmu_edge.data.subjects import pseudonym
from qmu_edge.errors import IntegrityError, RequestError
from qmu_edge.io.digest import sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.project.create import create
from qmu_edge.project.doctor import examine
from qmu_edge.project.project import Project, opened
from qmu_edge.project.purge import purge
from qmu_edge.project.samples import IMAGES
from qmu_edge.queue.lifecycle import deny, known, register
from qmu_edge.recipe import Recipe, parse_recipe
from qmu_edge.request.document import DeletionRequest, parse_request
from qmu_edge.store.encrypted import EncryptedStore
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.samples import SampleLedger
from qmu_edge.store.objects import ObjectStore
from tests.project.purge.conftest import PEOPLE, positions_of


def secrets_in(project: Project) -> set[bytes]:
    """Everything in the folder that could be a key of 32 bytes."""
    found = {path.read_bytes()[:32] for path in (project.folder / "keys").rglob("*") if path.is_file()}
    for path in project.folder.glob("ledger.db*"):
        found |= {bytes.fromhex(text.decode()) for text in re.findall(rb"[0-9a-f]{64}", path.read_bytes())}
    return found


def asked(person: int) -> DeletionRequest:
    document = {"subject_ids": [f"person {person}"], "request_id": "a7551968-d5d6-44b2-9831-815ac9017798"}
    return parse_request(json.dumps(document).encode(), source="guess")


def confirmed(project: Project, digest: str) -> list[int]:
    """Whom the digest of a request's document gives away: all people are tried with all keys."""
    keys = secrets_in(project)
    return [n for n in range(PEOPLE) if any(asked(n).digest(key) == digest for key in keys)]


def test_the_digest_of_a_request_confirms_nobody(life: Any, clock: Any) -> None:
    project, ledger = life.project, life.ledger
    row = register(project, asked(3))
    assert confirmed(project, row.digest) == [3]  # while it is open: the same document is the same request
    assert known(ledger, asked(3), project.key) == row
    deny(ledger, row.request_id, "insuf_verification")
    assert confirmed(project, row.digest) == [3]
    clock.now = clock.now.replace(year=2027)
    purge(project, clock.now)
    assert confirmed(project, row.digest) == []
    assert known(ledger, asked(3), project.key) == known(ledger, asked(4), project.key)  # none is told apart
    for either in (3, 4):  # so neither counts as answered while what it names is there
        with pytest.raises(RequestError, match="its id was used before, and what for is purged"):
            register(project, asked(either))


def test_so_it_is_within_the_window_and_for_open_requests(life: Any, clock: Any) -> None:
    closed, opened_ = register(life.project, asked(3)), life.ask(0)
    deny(life.ledger, closed.request_id, "insuf_verification")
    purge(life.project, clock.now)
    assert confirmed(life.project, closed.digest) == [3]
    purge(life.project, clock.now, at_once=True)
    assert confirmed(life.project, closed.digest) == []
    assert life.ledger.rows("SELECT DISTINCT request_id FROM tombstones") == [(opened_,)]


def test_no_tombstone_leads_to_a_request(life: Any, clock: Any) -> None:
    for person in (4, 0, 2):  # in another order than that of the samples
        life.serve(person)
    purge(life.project, clock.now, at_once=True)
    rows = life.ledger.rows("SELECT rowid, sample_id, request_id, since FROM tombstones ORDER BY rowid")
    assert {(request, since) for _, _, request, since in rows} == {(None, "")}
    assert [name for _, name, _, _ in rows] == sorted(name for _, name, _, _ in rows) and len(rows) == 6
    assert life.project.samples.barred().sum() == 6 and life.ledger.problems() == []


def told(project: Project, salt: str) -> list[int]:
    """Whom the chain gives away: the emptied subjects of some moment are filled with each name in turn."""
    index = project.samples.index
    stated = [body["subjects"] for _, _, body in project.ledger.events("samples")]
    found = []
    for person in range(PEOPLE):
        raw = index.subjects.raw.copy()
        raw[positions_of(0)] = np.frombuffer(
            bytes.fromhex(pseudonym(project.key, f"person {person}")), np.uint8
        )
        subjects = sha256_of(raw.tobytes())
        found += [person] if (sha256_of((subjects + salt).encode()) if salt else subjects) in stated else []
    return found


def test_the_chain_confirms_nobody(life: Any, clock: Any) -> None:
    old = life.ledger._salt()
    assert told(life.project, old) == [0]
    life.serve(0)
    key = life.ledger.meta("request key:1")
    purge(life.project, clock.now, at_once=True)
    with opened(life.project.root, Progress()) as project:
        assert told(project, old) == [0]  # so the salt is all that keeps it
        assert told(project, "") == told(project, project.ledger._salt()) == []
        assert project.ledger._salt() != old
        files = b"".join(path.read_bytes() for path in project.folder.glob("ledger.db*"))
        assert key.encode() not in files and old.strip('"').encode() not in files


def test_an_id_that_was_made_of_the_document_confirms_nobody(life: Any, clock: Any) -> None:
    document = json.dumps({"subject_ids": ["person 3"]}).encode()
    first = parse_request(document, source="r", key=life.project.ids_key)
    assert parse_request(document, source="r", key=life.project.ids_key).request_id == first.request_id
    register(life.project, first)
    purge(life.project, clock.now, at_once=True)  # it is open
    assert parse_request(document, source="r", key=life.project.ids_key).request_id == first.request_id
    deny(life.ledger, first.request_id, "other")
    purge(life.project, clock.now, at_once=True)
    ids = {parse_request(document, source="r", key=key).request_id for key in secrets_in(life.project)}
    assert first.request_id not in ids
    before = life.project.ids_key
    purge(life.project, clock.now, at_once=True)
    assert life.project.ids_key == before  # nothing was received since


def test_images_that_come_back_from_a_backup_are_noticed_and_erased_again(life: Any, clock: Any) -> None:
    cache = life.project.folder / IMAGES
    before = cache.read_bytes()
    life.serve(0)
    purge(life.project, clock.now, at_once=True)
    cache.write_bytes(before)
    with opened(life.project.root, Progress()) as project:
        with pytest.raises(
            IntegrityError, match="2 of them were purged: qmu-edge purge --now erases them again"
        ):
            _ = project.samples.images
        purge(project, clock.now, at_once=True)
    with opened(life.project.root, Progress()) as project:
        assert not project.samples.images[positions_of(0)].any()


def test_while_somebody_reads_a_purge_says_what_stays_and_the_next_one_finishes(
    life: Any, clock: Any
) -> None:
    served = life.serve(0)
    key = life.ledger.meta("request key:1").encode()
    with Ledger.open(life.ledger.path) as reader, reader.snapshot():
        reader.requests()
        life.ledger.rows("PRAGMA busy_timeout = 100")
        result = purge(life.project, clock.now, at_once=True)
        assert result["requests"] == []
        assert result["kept"][-1]["reason"] == "somebody is reading it: run qmu-edge purge again"
        assert key in life.ledger.path.with_name("ledger.db-wal").read_bytes() + life.ledger.path.read_bytes()
    result = purge(life.project, clock.now, at_once=True)
    assert result["requests"] == [served["request"]]
    assert not any("somebody" in kept["reason"] for kept in result["kept"])
    files = b"".join(path.read_bytes() for path in life.project.folder.glob("ledger.db*"))
    assert key not in files


def test_an_encrypted_project_that_was_killed_in_a_purge_is_not_called_altered(
    life: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = life.project
    policy = project.recipe.policy.model_copy(update={"encrypt_at_rest": True})
    project.recipe = project.recipe.model_copy(update={"policy": policy})
    project.store.encrypting = True
    assert isinstance(project.store, EncryptedStore)
    life.serve(0)
    life.serve(1)
    life.train()
    real = ObjectStore.remove
    for number in range(1, 8):  # each time at the next object
        left = [number]

        def remove(store: ObjectStore, digest: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            real(store, digest)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ObjectStore, "remove", remove)  # after its key was shredded
            purge(project, clock.now, at_once=True)
        problems = examine(project.root)["problems"]
        assert not any("altered" in p or "key cannot be read" in p for p in problems)
    purge(project, clock.now, at_once=True)
    assert [r.status for r in life.ledger.removals() if r.status == "started"] == []
    assert not any("key cannot be read" in problem for problem in examine(project.root)["problems"])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A project as version 0.1 made it: no salt, no key but that of pseudonyms."""
    recipe = parse_recipe('[data]\nsource = "digits"\nsize = 8\n', "tiny")
    with (
        mock.patch.object(SampleLedger, "renew_salt", lambda ledger: None),
        mock.patch.object(Ledger, "VERSION", 1),
    ):
        create(tmp_path / "old", Recipe.model_validate(recipe.model_dump()), None, Progress())
    with Ledger.open(tmp_path / "old/.qmu/ledger.db") as ledger:
        with ledger.change() as db:
            db.execute("DELETE FROM meta WHERE key = 'key of request ids'")
            ledger.append("meta", "key of request ids")
    return tmp_path / "old"


def test_a_project_of_version_0_1_is_read_and_gets_a_salt_with_its_next_purge(old: Path, clock: Any) -> None:
    with opened(old, Progress()) as project:
        ledger, index = project.ledger, project.samples.index
        assert (ledger.rows("PRAGMA user_version"), ledger.problems()) == ([(1,)], [])
        assert project.ids_key == project.key
        request = asked(0)
        ledger.receive(
            request.request_id, request.digest(project.key), form="research", regulation=None,
            received="2026-01-01T00:00:00Z", due=None,
        )  # fmt: skip
        ledger.add_tombstones(request.request_id, [index.ids[0]], [index.digests[0]])
        assert known(ledger, request, project.key) is not None and ledger.problems() == []
        deny(ledger, request.request_id, "other")
        purge(project, clock.now, at_once=True)
        assert (ledger.rows("PRAGMA user_version"), ledger.problems()) == ([(2,)], [])
        assert ledger._salt() and project.ids_key != project.key
    assert examine(old)["problems"] == []
