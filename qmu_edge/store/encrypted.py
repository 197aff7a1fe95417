"""Objects encrypted at rest, each under a key of its own: to forget the key is to forget the object.

Contract. An encrypted file is MAGIC and then chunks of ChaCha20-Poly1305, numbered and the last one marked,
all bound to the object's digest: a chunk that is cut off, moved or taken from another object is noticed. A
key encrypts one content only, so no nonce is used twice with it although nonces are counted. Memory is one
chunk, whatever the size.

A key is a file of 32 bytes in `.qmu/keys/objects`. It is written before its object and shredded before its
object is removed. Keep this folder out of backups, or a shredded key comes back with them; without it a
backup of an encrypted object is worth nothing, also to you.

Trap: shredding overwrites the file in place. A file system or a disk that writes elsewhere (copy on write,
flash) may keep the old block for a while.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import cannot_read, make_folder, read_blocks, sync_folder, write_atomic
from qmu_edge.store.objects import ObjectStore

MAGIC: Final = b"qmu-edge sealed object 1\n"  # on disk: never change it
CHUNK_BYTES: Final = 1 << 20
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16


class Keyring:
    """The folder of keys, one for each encrypted object; made with the first key."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is read or written yet."""
        self.folder = folder

    def has(self, digest: Sha256) -> bool:
        """Whether an object has a key."""
        return (self.folder / digest).exists()

    def make(self, digest: Sha256) -> bytes:
        """The key of an object, forced to the disk; a new one when there is none.

        Raises:
            ConfigError: It cannot be written.
            IntegrityError: There is one and it is damaged.
        """
        if not self.has(digest):
            try:
                make_folder(self.folder, 0o700)
            except OSError as error:
                raise ConfigError(f"cannot write {self.folder}: {error.strerror}") from error
            sync_folder(self.folder.parent)
            write_atomic(self.folder / digest, secrets.token_bytes(KEY_BYTES), mode=0o600)
        return self.get(digest)

    def get(self, digest: Sha256) -> bytes:
        """The key of an object.

        Raises:
            IntegrityError: It is missing, which may be on purpose, or damaged.
        """
        path = self.folder / digest
        try:
            key = path.read_bytes()
        except PermissionError as error:
            raise cannot_read(path, error) from None
        except OSError as error:
            raise IntegrityError(
                f"object {digest}: encrypted, and its key cannot be read: {error.strerror} ({path})"
            ) from None
        if len(key) != KEY_BYTES:
            raise IntegrityError(f"{path}: {len(key)} bytes, allowed are {KEY_BYTES}")
        return key

    def shred(self, digest: Sha256) -> None:
        """Overwrite the key of an object and remove it; one that is missing already is no error.

        Raises:
            ConfigError: It cannot be removed.
        """
        path = self.folder / digest
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.pwrite(handle, bytes(KEY_BYTES), 0)
                os.fsync(handle)
            finally:
                os.close(handle)
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"cannot shred {path}: {error.strerror}") from error
        sync_folder(self.folder)


class EncryptedStore(ObjectStore):
    """An object store that reads encrypted objects, and encrypts new ones when told to."""

    def __init__(self, root: Path, keys: Path, *, encrypting: bool) -> None:
        """Name the folders; nothing is read or written yet."""
        super().__init__(root)
        self.keys, self.encrypting = Keyring(keys), encrypting

    def put_released(self, data: bytes) -> Sha256:
        """Store the bytes of a file that ships, as they are."""
        return ObjectStore(self.root).put_bytes(data)

    def verify(self, digest: Sha256) -> None:
        """Decrypt and hash the content of an object.

        Raises:
            IntegrityError: The object or its key is missing or altered.
        """
        if not _is_encrypted(self._present(digest)):
            super().verify(digest)
            return
        for _ in self._content(digest):
            pass

    def get_bytes(self, digest: Sha256, limit: int = 64 << 20) -> bytes:
        """Content of an object of at most `limit` bytes, decrypted and verified.

        Raises:
            IntegrityError: The object or its key is missing or altered, or it is larger than `limit`.
        """
        path = self._present(digest)
        if not _is_encrypted(path):
            return super().get_bytes(digest, limit)
        if path.stat().st_size > _encrypted_bytes(limit):
            raise IntegrityError(f"object {digest}: more than the {limit} bytes allowed ({path})")
        return b"".join(self._content(digest))

    def remove(self, digest: Sha256) -> None:
        """Shred the key of an object, then remove the object.

        Raises:
            ConfigError: One of them cannot be removed.
        """
        self.keys.shred(digest)
        super().remove(digest)

    def _put(self, digest: Sha256, blocks: Iterable[bytes]) -> None:
        if self.encrypting:
            if not self.keys.has(digest):  # what a killed removal has left cannot be read any more
                super().remove(digest)
            blocks = encrypt(blocks, self.keys.make(digest), digest)
        super()._put(digest, blocks)

    def _holds(self, digest: Sha256) -> bool:
        return _is_encrypted(self.path(digest)) == self.encrypting and super()._holds(digest)

    def _content(self, digest: Sha256) -> Iterator[bytes]:
        sha, path = hashlib.sha256(), self.path(digest)
        for block in decrypt(read_blocks(path, skip=len(MAGIC)), self.keys.get(digest), digest):
            sha.update(block)
            yield block
        if sha.hexdigest() != digest:
            raise IntegrityError(f"object {digest} is altered: found SHA-256 {sha.hexdigest()} ({path})")


def encrypt(blocks: Iterable[bytes], key: bytes, digest: Sha256) -> Iterator[bytes]:
    """Encrypt blocks of any size."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    cipher = ChaCha20Poly1305(key)
    yield MAGIC
    for number, (chunk, last) in enumerate(_chunks(blocks, CHUNK_BYTES)):
        yield cipher.encrypt(_nonce(number, last), chunk, digest.encode())


def decrypt(blocks: Iterable[bytes], key: bytes, digest: Sha256) -> Iterator[bytes]:
    """Decrypt what `encrypt` wrote, given without MAGIC.

    Raises:
        IntegrityError: It is altered, cut off, of another object, or the key is another one.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    cipher = ChaCha20Poly1305(key)
    for number, (chunk, last) in enumerate(_chunks(blocks, CHUNK_BYTES + TAG_BYTES)):
        try:
            yield cipher.decrypt(_nonce(number, last), chunk, digest.encode())
        except InvalidTag:
            raise IntegrityError(f"object {digest}: encrypted, and altered or of another key") from None


def _is_encrypted(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # whoever reads the content says what is wrong


def _encrypted_bytes(size: int) -> int:
    """Bytes of the file of an object of `size` bytes."""
    return len(MAGIC) + size + TAG_BYTES * max(1, -(-size // CHUNK_BYTES))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _chunks(blocks: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """The same bytes in chunks of `size`, each with whether it is the last; one empty chunk for none.

    >>> list(_chunks([b"ab", b"cde"], 2))
    [(b'ab', False), (b'cd', False), (b'e', True)]
    """
    pending = bytearray()
    for block in blocks:
        pending += block
        while len(pending) > size:
            yield bytes(pending[:size]), False
            del pending[:size]
    yield bytes(pending), True
