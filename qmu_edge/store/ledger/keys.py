"""The project's Ed25519 keys: what they sign, others can check without asking anybody.

One key is in use. Its private half lies in the project's folder `keys/`, readable by its owner only; the
public halves of all keys, with the receipts that each has signed, stand in the ledger. A key's time is told
by receipts, not by clocks: it signed those from `first_receipt` to `last_receipt`.

How a key ends:
    rotated      its private half was deleted; what it signed stays good
    lost         the same, found out when the file was missing
    compromised  somebody else may have it, so its signature alone proves nothing any more. A receipt
                 counts when it stands in the ledger, or when a later receipt of a good key links to it;
                 who checks with the public key alone must be told to drop it.

A kill between the new file and the ledger leaves a file that no row names; the next rotation removes it.
Beside each key stands a P-256 key for model signatures (`qmu_edge.receipt.p256`). It is computed from the
private half and has no file; its public half is a note of the ledger, so that it stays known after the end of
the key. Projects that are older get the note when they first sign a model.

Trap: deleting a file does not wipe a disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.files import cannot_read, write_atomic
from qmu_edge.receipt import p256
from qmu_edge.receipt.envelope import key_name, to_pem
from qmu_edge.store.ledger.chain import ChainedFile, now
from qmu_edge.store.ledger.ledger import Ledger

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

REASONS: Final = ("rotated", "lost", "compromised")
P256: Final = "p256"  # and the name of the key: the note of the P-256 key beside it
_FILES: Final = "signing-*.key"


class KeyJson(TypedDict):
    """A `Key`.

    Attributes:
        p256: What model signatures call the P-256 key beside it; None where it has signed no model. Where it
            was asked for.
    """

    seq: int
    public_key: str
    since: str
    first_receipt: int
    until: str | None
    last_receipt: int | None
    reason: str | None
    p256: NotRequired[str | None]


class PublicKey(KeyJson):
    """What anybody may know of a key: its name, and in `pem` what other tools read."""

    key: str
    pem: str


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of the project.

    Attributes:
        seq: Its number.
        public_key: 64 hex digits.
        since: When it came into use, RFC 3339.
        first_receipt: Number of the first receipt that it may have signed.
        until: When it went out of use; None for the one in use.
        last_receipt: Number of the last receipt that it may have signed.
        reason: Why it went out of use; one of `REASONS`.
    """

    seq: int
    public_key: str
    since: str
    first_receipt: int
    until: str | None
    last_receipt: int | None
    reason: str | None

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the key."""
        return bytes.fromhex(self.public_key)

    @property
    def name(self) -> str:
        """What people call it."""
        return key_name(self.raw)

    def to_json(self) -> KeyJson:
        """What stands in the ledger, ready for JSON."""
        return {
            "seq": self.seq, "public_key": self.public_key, "since": self.since,
            "first_receipt": self.first_receipt, "until": self.until, "last_receipt": self.last_receipt,
            "reason": self.reason,
        }  # fmt: skip

    def public(self) -> PublicKey:
        """What anybody may know of it, ready for JSON."""
        return {"key": self.name, **self.to_json(), "pem": to_pem(self.raw)}

    def covers(self, receipt: int) -> bool:
        """Whether a receipt's number lies in its time."""
        return self.first_receipt <= receipt and (self.last_receipt is None or receipt <= self.last_receipt)


def known(ledger: ChainedFile) -> list[Key]:
    """All keys, oldest first."""
    return [Key(*row) for row in ledger.rows("SELECT * FROM keys ORDER BY seq")]


def named(ledger: ChainedFile, name: str | None) -> Key:
    """The key of this name; the one in use when None.

    Raises:
        ConfigError: There is no such key.
    """
    keys = known(ledger)
    found = [k for k in keys if (k.until is None if name is None else k.name == name)]
    if not found:
        raise ConfigError(f"key {name or 'in use'}: not one of {', '.join(k.name for k in keys) or 'none'}")
    return found[0]


def model_keys(ledger: Ledger) -> dict[str, bytes]:
    """The public P-256 keys that are known, 33 bytes each, by the name of the key that they stand beside."""
    return {key.partition(":")[2]: bytes.fromhex(value) for key, value in ledger.notes(P256)}


def note_model_key(ledger: Ledger, private: "Ed25519PrivateKey") -> None:
    """Keep the public half of the P-256 key beside a key, where that is not done yet."""
    name = key_name(private.public_key().public_bytes_raw())
    public = p256.public_half(p256.beside(private))
    if ledger.meta(f"{P256}:{name}") != public.hex():
        ledger.set_meta(f"{P256}:{name}", public.hex())


def renew(folder: Path, ledger: Ledger, reason: str = "rotated") -> Key:
    """Put a new key in use, the first or the next; the private half of the one before is deleted.

    Args:
        folder: `keys/`.
        ledger: Open, and locked by this process.
        reason: Why the one before goes.

    Raises:
        ConfigError: Another reason than `REASONS`, or the folder cannot be written to; the old key stays.
    """
    if reason not in REASONS:
        raise ConfigError(f"reason {reason!r}: allowed are {', '.join(REASONS)}")
    private = _private_keys().generate()
    public = private.public_key().public_bytes_raw()
    path = _path(folder, key_name(public))
    write_atomic(path, private.private_bytes_raw().hex().encode(), mode=0o600)
    with ledger.change() as db:
        ((last,),) = ledger.rows("SELECT coalesce(max(seq), 0) FROM receipts")
        moment = now()
        db.execute(
            "UPDATE keys SET until = ?, last_receipt = ?, reason = ? WHERE until IS NULL",
            (moment, last, reason),
        )
        db.execute(
            "INSERT INTO keys (public_key, since, first_receipt) VALUES (?, ?, ?)",
            (public.hex(), moment, last + 1),
        )
        for key in known(ledger)[-2:]:
            _record(ledger, key)
        note_model_key(ledger, private)
    for other in folder.glob(_FILES):
        if other != path:
            other.unlink()
    return named(ledger, None)


def revoke(ledger: ChainedFile, name: str) -> Key:
    """Declare a key that is out of use compromised.

    Raises:
        ConfigError: No such key, or it is the one in use.
    """
    key = named(ledger, name)
    if key.until is None:
        raise ConfigError(f"key {name} is in use: run qmu-edge keys rotate --reason compromised")
    with ledger.change() as db:
        db.execute("UPDATE keys SET reason = 'compromised' WHERE seq = ?", (key.seq,))
        _record(ledger, key := named(ledger, name))
    return key


def signing_key(folder: Path, ledger: ChainedFile) -> "Ed25519PrivateKey":
    """The private half of the key in use.

    Raises:
        IntegrityError: Its file is missing, or holds another key.
    """
    key = named(ledger, None)
    path = _path(folder, key.name)
    again = "; if it is lost: qmu-edge keys rotate --reason lost"
    try:
        text = path.read_text("ascii")
        if bytes.fromhex(text).hex() != text:  # fromhex reads capitals and spaces too
            raise ValueError
        private = _private_keys().from_private_bytes(bytes.fromhex(text))
    except OSError as error:
        raise cannot_read(path, error, hint=again) from None
    except ValueError:
        raise IntegrityError(f"{path}: not a signing key{again}") from None
    if private.public_key().public_bytes_raw().hex() != key.public_key:
        raise IntegrityError(f"{path}: holds another key than {key.name}, the one in use{again}")
    return private


def problems(folder: Path, ledger: Ledger) -> Iterator[str]:
    """What is wrong with the keys, one sentence each."""
    try:
        private = signing_key(folder, ledger)
        noted = model_keys(ledger).get(name := named(ledger, None).name)
        if noted is not None and noted != p256.public_half(p256.beside(private)):
            yield f"ledger {ledger.path}: notes another P-256 key beside key {name} than the one it has"
    except (ConfigError, IntegrityError) as error:
        yield str(error)
    in_use = {_path(folder, k.name) for k in known(ledger) if k.until is None}
    for path in sorted(folder.glob(_FILES)):
        if path not in in_use:
            yield f"{path}: the private half of no key in use; the next qmu-edge keys rotate deletes it"


def _private_keys() -> "type[Ed25519PrivateKey]":
    """The class of private keys; imported here, so that `status` answers without it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey


def _path(folder: Path, name: str) -> Path:
    return folder / f"signing-{name}.key"


def _record(ledger: ChainedFile, key: Key) -> None:
    ledger.append("key", key.seq, name=key.name, reason=key.reason)
