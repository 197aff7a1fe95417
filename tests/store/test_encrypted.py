"""Encrypted objects: read as they were written, noticed when altered, lost for good without their key."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.store.encrypted import CHUNK_BYTES, MAGIC, TAG_BYTES, EncryptedStore, decrypt, encrypt

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5]
KEY, DIGEST = bytes(range(32)), Sha256("ab" * 32)


@pytest.fixture
def store(tmp_path: Path) -> EncryptedStore:
    return EncryptedStore(tmp_path / "objects", tmp_path / "keys/objects", encrypting=True)


def content(size: int) -> bytes:
    return hashlib.shake_256(b"content").digest(size)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_put_comes_back_and_does_not_lie_there_in_clear(store: EncryptedStore, size: int) -> None:
    data = content(size)
    digest = store.put_bytes(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert store.get_bytes(digest) == data and store.problems() == []
    raw = store.path(digest).read_bytes()
    assert raw.startswith(MAGIC) and (size < 16 or data[:16] not in raw)
    assert len(raw) == len(MAGIC) + size + TAG_BYTES * max(1, -(-size // CHUNK_BYTES))
    assert store.keys.folder.stat().st_mode & 0o777 == 0o700
    assert (store.keys.folder / digest).stat().st_mode & 0o777 == 0o600
    before = raw, (store.keys.folder / digest).read_bytes()
    assert store.put_bytes(data) == digest
    assert (store.path(digest).read_bytes(), (store.keys.folder / digest).read_bytes()) == before


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=8))
def test_blocks_of_any_size_are_one_content(blocks: list[bytes]) -> None:
    encrypted = b"".join(encrypt(blocks, KEY, DIGEST))
    assert encrypted == b"".join(encrypt([b"".join(blocks)], KEY, DIGEST))
    pieces = [encrypted[i : i + 7] for i in range(len(MAGIC), len(encrypted), 7)]
    assert b"".join(decrypt(pieces, KEY, DIGEST)) == b"".join(blocks)


def test_every_altered_byte_of_object_or_key_is_noticed(store: EncryptedStore) -> None:
    digest = store.put_bytes(content(40))
    for path in (store.path(digest), store.keys.folder / digest):
        path.chmod(0o600)
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(IntegrityError):
                store.get_bytes(digest)
            assert len(store.problems()) == 1
        path.write_bytes(whole)
    assert store.problems() == []


def test_chunks_cannot_be_cut_off_moved_or_taken_from_another(store: EncryptedStore) -> None:
    step = CHUNK_BYTES + TAG_BYTES
    encrypted = b"".join(encrypt([content(3 * CHUNK_BYTES)], KEY, DIGEST))[len(MAGIC) :]
    first, second, third = (encrypted[i * step : (i + 1) * step] for i in range(3))
    forged = [first + second, second + first + third, first + second + third + third, first, b""]
    for data in forged:
        with pytest.raises(IntegrityError, match="altered or of another key"):
            b"".join(decrypt([data], KEY, DIGEST))
    for key, digest in ((KEY[::-1], DIGEST), (KEY, Sha256(DIGEST[::-1]))):
        with pytest.raises(IntegrityError, match="altered or of another key"):
            b"".join(decrypt([encrypted], key, digest))


def test_a_backup_of_the_object_is_worth_nothing_without_the_key(
    store: EncryptedStore, tmp_path: Path
) -> None:
    digest = store.put_bytes(content(100))
    backup = Path(shutil.copy(store.path(digest), tmp_path / "backup"))
    store.remove(digest)
    assert not store.path(digest).exists() and not list(store.keys.folder.iterdir())
    store.path(digest).parent.mkdir(exist_ok=True)
    shutil.copy(backup, store.path(digest))
    with pytest.raises(IntegrityError, match="its key cannot be read"):
        store.get_bytes(digest)
    store.remove(digest)
    store.remove(digest)


def test_a_key_is_overwritten_before_it_is_removed(
    store: EncryptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put_bytes(b"x")
    seen = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        seen.append((path.name, path.read_bytes()))
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    store.remove(digest)
    assert seen[0] == (digest, bytes(32)) and seen[1][0] == digest[2:]


def test_an_object_whose_key_was_shredded_can_be_stored_anew(store: EncryptedStore) -> None:
    """What a purge leaves that was killed between the key and the object."""
    digest = store.put_bytes(b"again")
    store.keys.shred(digest)
    assert store.put_bytes(b"again") == digest
    assert store.get_bytes(digest) == b"again"


def test_a_key_that_cannot_be_shredded_keeps_its_object(
    store: EncryptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put_bytes(b"x")

    def fails(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(ConfigError, match=r"cannot shred .*Input/output error"):
        store.remove(digest)
    assert store.get_bytes(digest) == b"x"


def test_released_files_stay_plain(store: EncryptedStore) -> None:
    released = store.put_released(b"model")
    assert store.path(released).read_bytes() == b"model" and not store.keys.has(released)


def test_the_limit_holds_before_anything_is_decrypted(store: EncryptedStore) -> None:
    digest = store.put_bytes(bytes(100))
    assert store.get_bytes(digest, limit=100) == bytes(100)
    with pytest.raises(IntegrityError, match="more than the 99 bytes allowed"):
        store.get_bytes(digest, limit=99)


def test_a_store_that_does_not_encrypt_still_reads_what_was_encrypted(store: EncryptedStore) -> None:
    digest = store.put_bytes(b"x")
    plain = EncryptedStore(store.root, store.keys.folder, encrypting=False)
    assert plain.get_bytes(digest) == b"x"
    other = plain.put_bytes(b"y")
    assert plain.path(other).read_bytes() == b"y" and store.get_bytes(other) == b"y"
