"""Keys come and go; what each has signed stays known, and a private half is never left behind."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmu_edge.errors import ConfigError, IntegrityError, LedgerError, QmuEdgeError
from qmu_edge.receipt import p256
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.issued import verify_issued
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer, Step
from tests.receipt.test_receipt import OTHER, made, sha
from tests.store.ledger.contents import RECEIVED


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "keys").mkdir(mode=0o700)
    with Ledger.create(tmp_path / "ledger.db") as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def standing(ledger: Ledger) -> dict[str, Any]:
    """What a receipt says of the ledger as it is now."""
    said = {"events": ledger.event_count(), "head": ledger.head(), "tombstones": ledger.tombstone_count()}
    return {"previous": ledger.current(Pointer.RECEIPT), "ledger": said}


def issue(ledger: Ledger, folder: Path, **changes: Any) -> bytes:
    """A receipt, signed with the key in use and recorded."""
    data = made(keys.signing_key(folder, ledger), **{**standing(ledger), **changes})
    ledger.commit_release(None, checkpoint=None, release=None, receipt=sha(data))
    return data


def test_the_first_key_is_private_and_known(ledger: Ledger, folder: Path) -> None:
    with pytest.raises(ConfigError, match="key in use: not one of none"):
        keys.signing_key(folder, ledger)
    key = keys.renew(folder, ledger)
    assert keys.known(ledger) == [key] and key.until is None and key.first_receipt == 1
    (path,) = folder.iterdir()
    assert path.name == f"signing-{key.name}.key" and path.stat().st_mode & 0o777 == 0o600
    private = keys.signing_key(folder, ledger)
    assert private.public_key().public_bytes_raw() == key.raw
    assert private.private_bytes_raw().hex() not in str(key.public()) + (
        folder.parent / "ledger.db"
    ).read_text("latin-1")
    assert list(keys.problems(folder, ledger)) == [] == ledger.problems()


def test_rotation_ends_one_key_and_begins_the_next(ledger: Ledger, folder: Path) -> None:
    first = keys.renew(folder, ledger)
    old = issue(ledger, folder)
    second = keys.renew(folder, ledger)
    new = issue(ledger, folder, outcome="retrained")
    ended = keys.known(ledger)[0]
    assert (ended.first_receipt, ended.last_receipt, ended.reason) == (1, 1, "rotated")
    assert ended.until == second.since and second.first_receipt == 2
    assert [p.name for p in folder.iterdir()] == [f"signing-{second.name}.key"]
    assert verify_issued(ledger, old)[1] == (
        f"key {first.name}: in use from {first.since} to {ended.until}, then rotated"
    )
    assert verify_issued(ledger, new)[1] == f"key {second.name}: in use since {second.since}"
    assert ledger.problems() == []


def _released(ledger: Ledger, folder: Path, request: str, release: str) -> bytes:
    """A receipt of a request whose run has led to a release."""
    data = made(keys.signing_key(folder, ledger), **standing(ledger))
    ledger.receive(request, sha(request.encode()), **RECEIVED)
    ledger.start_step(request, sha(b"run"), Step.EXPORTED)
    ledger.finish_step(request, sha(b"run"), Step.EXPORTED, {"release": sha(release.encode())})
    ledger.commit_release(request, checkpoint=None, release=None, receipt=sha(data))
    return data


def test_a_receipt_says_that_a_later_deletion_has_superseded_it(ledger: Ledger, folder: Path) -> None:
    """Receipts of requests that one run has served are about the same files, and none supersedes another."""
    keys.renew(folder, ledger)
    first = _released(ledger, folder, "req-1", "old")
    assert len(verify_issued(ledger, first)) == 3
    second = _released(ledger, folder, "req-2", "new")
    third = _released(ledger, folder, "req-3", "new")
    (said,) = verify_issued(ledger, first)[3:]
    assert said.startswith("superseded: by receipt 3, issued 20") and "deleted since" in said
    assert len(verify_issued(ledger, second)) == len(verify_issued(ledger, third)) == 3


def test_what_an_ended_key_signs_later_is_refused(ledger: Ledger, folder: Path) -> None:
    """Somebody who kept the old private half, and can even write to the list of receipts."""
    keys.renew(folder, ledger)
    thief = keys.signing_key(folder, ledger)
    keys.renew(folder, ledger, "compromised")
    forged = made(thief)
    with pytest.raises(LedgerError, match=f"SHA-256 {sha(forged)} is no receipt of"):
        verify_issued(ledger, forged)
    ledger.commit_release(None, checkpoint=None, release=None, receipt=sha(forged))
    with pytest.raises(LedgerError, match=r"receipt 1 of .*, which was not in use then"):
        verify_issued(ledger, forged)


def test_a_key_that_was_never_the_project_s_is_refused(ledger: Ledger, folder: Path) -> None:
    keys.renew(folder, ledger)
    foreign = made()
    ledger.commit_release(None, checkpoint=None, release=None, receipt=sha(foreign))
    with pytest.raises(LedgerError, match="which was not in use then"):
        verify_issued(ledger, foreign)


def test_receipts_of_a_compromised_key_stay_good_by_the_ledger(ledger: Ledger, folder: Path) -> None:
    first = keys.renew(folder, ledger)
    old = issue(ledger, folder)
    with pytest.raises(ConfigError, match="is in use: run qmu-edge keys rotate --reason compromised"):
        keys.revoke(ledger, first.name)
    keys.renew(folder, ledger)
    assert "rotated" in verify_issued(ledger, old)[1]
    keys.revoke(ledger, first.name)
    assert verify_issued(ledger, old)[1].endswith(
        "then compromised; the signature alone would prove nothing, the ledger does"
    )
    assert keys.known(ledger)[0].last_receipt == 1 and ledger.problems() == []


def test_the_time_of_a_key_is_told_by_receipts_and_not_by_clocks(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.renew(folder, ledger)
    old = issue(ledger, folder)
    monkeypatch.setattr("qmu_edge.store.ledger.keys.now", lambda: "1999-01-01T00:00:00.000+00:00")
    keys.renew(folder, ledger)
    assert verify_issued(ledger, old) and verify_issued(ledger, issue(ledger, folder, outcome="retrained"))


def test_a_lost_key_is_said_and_can_be_replaced(ledger: Ledger, folder: Path) -> None:
    key = keys.renew(folder, ledger)
    (folder / f"signing-{key.name}.key").unlink()
    with pytest.raises(IntegrityError, match=r"No such file.*keys rotate --reason lost"):
        keys.signing_key(folder, ledger)
    assert len(list(keys.problems(folder, ledger))) == 1
    keys.renew(folder, ledger, "lost")
    assert keys.known(ledger)[0].reason == "lost" and list(keys.problems(folder, ledger)) == []


@pytest.mark.parametrize("content", ["", "zz", "00" * 31, "11" * 32])
def test_a_damaged_or_exchanged_key_is_noticed(ledger: Ledger, folder: Path, content: str) -> None:
    key = keys.renew(folder, ledger)
    (folder / f"signing-{key.name}.key").write_text(content)
    with pytest.raises(IntegrityError, match=r"signing-\w+\.key: (not a signing key|holds another key)"):
        keys.signing_key(folder, ledger)


def test_a_key_is_written_in_one_way(ledger: Ledger, folder: Path) -> None:
    """Capitals and spaces read as the same number, but somebody has changed the file."""
    key = keys.renew(folder, ledger)
    path = folder / f"signing-{key.name}.key"
    good = path.read_text()
    for content in (good.upper(), good + "\n"):
        path.write_text(content)
        with pytest.raises(IntegrityError, match="not a signing key"):
            keys.signing_key(folder, ledger)


def test_a_forgotten_file_is_noticed(ledger: Ledger, folder: Path) -> None:
    keys.renew(folder, ledger)
    (folder / "signing-0123456789abcdef.key").write_text("11" * 32)
    found = list(keys.problems(folder, ledger))
    assert len(found) == 1 and "of no key in use" in found[0]
    keys.renew(folder, ledger)
    assert list(keys.problems(folder, ledger)) == []


def test_a_kill_between_file_and_ledger_leaves_the_old_key_in_use(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.renew(folder, ledger)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("qmu_edge.store.ledger.keys._record", killed)
        keys.renew(folder, ledger)
    assert keys.named(ledger, None) == key and keys.signing_key(folder, ledger)
    assert len(list(folder.iterdir())) == 2 and ledger.problems() == []
    keys.renew(folder, ledger)
    assert len(list(folder.iterdir())) == 1 and len(keys.known(ledger)) == 2


def test_a_full_disk_changes_nothing(ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.renew(folder, ledger)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(QmuEdgeError, match="No space left"):
        keys.renew(folder, ledger)
    assert keys.known(ledger) == [key] and keys.signing_key(folder, ledger)


def test_unknown_names_and_reasons_are_refused(ledger: Ledger, folder: Path) -> None:
    key = keys.renew(folder, ledger)
    with pytest.raises(ConfigError, match=f"key 00: not one of {key.name}"):
        keys.named(ledger, "00")
    with pytest.raises(ConfigError, match="reason 'bored': allowed are rotated, lost, compromised"):
        keys.renew(folder, ledger, "bored")
    assert keys.known(ledger) == [key]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["issue", "rotated", "lost", "compromised"]), max_size=8))
def test_whatever_happens_every_issued_receipt_has_one_key(tmp_path_factory: Any, acts: list[str]) -> None:
    root = tmp_path_factory.mktemp("keys")
    (root / "keys").mkdir()
    issued: list[bytes] = []
    with Ledger.create(root / "ledger.db") as ledger:
        keys.renew(root / "keys", ledger)
        for act in acts:
            if act == "issue":
                issued.append(issue(ledger, root / "keys"))
            else:
                keys.renew(root / "keys", ledger, act)
        for number, data in enumerate(issued, start=1):
            assert verify_issued(ledger, data)[0].startswith(f"ledger: receipt {number} of")
            assert sum(k.covers(number) for k in keys.known(ledger)) == 1
        assert sum(k.until is None for k in keys.known(ledger)) == 1
        assert len(list((root / "keys").iterdir())) == 1 and ledger.problems() == []


def test_a_changed_key_row_is_noticed(ledger: Ledger, folder: Path) -> None:
    keys.renew(folder, ledger)
    with ledger.change() as db:
        db.execute("UPDATE keys SET public_key = ?", ("11" * 32,))
    assert any("key 1 is not as the last event left it" in p for p in ledger.problems())


def test_the_p256_key_beside_each_key_stays_known(ledger: Ledger, folder: Path) -> None:
    first = keys.renew(folder, ledger)
    known = keys.model_keys(ledger)
    assert known == {first.name: p256.public_half(p256.beside(keys.signing_key(folder, ledger)))}
    second = keys.renew(folder, ledger)
    assert keys.model_keys(ledger).keys() == {first.name, second.name}
    assert keys.model_keys(ledger)[first.name] == known[first.name]
    before = ledger.event_count()
    keys.note_model_key(ledger, keys.signing_key(folder, ledger))  # known already
    assert ledger.event_count() == before and ledger.problems() == []


def test_another_p256_key_than_the_one_beside_is_told(ledger: Ledger, folder: Path) -> None:
    key = keys.renew(folder, ledger)
    ledger.set_meta(f"{keys.P256}:{key.name}", p256.public_half(p256.beside(OTHER)).hex())
    (problem,) = keys.problems(folder, ledger)
    assert "notes another P-256 key" in problem and key.name in problem
