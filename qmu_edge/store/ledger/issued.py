"""Receipts and the ledger that has issued them, each held against the other.

A receipt states how far the ledger was: so many events, the hash of the last, and so many tombstones. A
ledger that was put back from a backup, cut or written anew is another one, and any receipt from after that
point shows it. What cannot be noticed: that everything together, receipts too, is older than it was, or was
written anew by somebody who has the signing key. Then only a receipt that is kept elsewhere tells.
"""

from collections.abc import Iterable, Iterator

from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import sha256_of
from qmu_edge.receipt import receipt
from qmu_edge.receipt.envelope import key_name
from qmu_edge.receipt.statement import Predicate, Statement
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.receipts import ReceiptRow


def verify_issued(ledger: Ledger, data: bytes) -> list[str]:
    """Hold a receipt against the ledger of the project that is said to have issued it.

    The ledger's own list of receipts tells when it was issued, so it stays good when its key is later
    declared compromised.

    Returns:
        One line for each thing that was checked.

    Raises:
        LedgerError: The project has not issued it, its key was not in use then, or the ledger is not the one
            that it was made with.
    """
    digest, public = sha256_of(data), receipt.signer(data).hex()
    row, statement = ledger.receipt(digest), receipt.loads(data, "receipt")
    key = next((k for k in keys.known(ledger) if k.public_key == public), None)
    name, changed = key_name(bytes.fromhex(public)), _changed(ledger, statement)
    if row is None:
        ours = key is not None and key.reason != "compromised"  # else anybody may have signed it
        why = f"; {changed}" if changed and ours else ""
        raise LedgerError(f"receipt: SHA-256 {digest} is no receipt of {ledger.path}{why}")
    number, issued = row.seq, row.issued
    if key is None or not key.covers(number):
        raise LedgerError(
            f"receipt {number} of {ledger.path}: signed by key {name}, which was not in use then"
        )
    if changed:
        raise LedgerError(f"ledger {ledger.path}: {changed}")
    lines = [f"ledger: receipt {number} of this project, entered {issued}"]
    note = "; the signature alone would prove nothing, the ledger does" if key.reason == "compromised" else ""
    until = f"from {key.since} to {key.until}, then {key.reason}{note}" if key.until else f"since {key.since}"
    return [*lines, f"key {name}: in use {until}", _stated(statement), *_superseded(ledger, row)]


def _superseded(ledger: Ledger, row: ReceiptRow) -> list[str]:
    """That a later deletion has led to other files; receipts of one run are about the same files."""
    *_, last = ledger.receipts()
    release = ledger.release_of(row.digest)
    if last.seq == row.seq or (release is not None and release == ledger.release_of(last.digest)):
        return []
    later = f"receipt {last.seq}, issued {last.issued}"
    return [f"superseded: by {later}; the files that this one names were made with data deleted since"]


def problems(ledger: Ledger, receipts: Iterable[Statement]) -> Iterator[str]:
    """What receipts of this project say that its ledger does not, one sentence each; each kind once."""
    told, forgotten = "", {}
    for statement in receipts:
        told = told or _changed(ledger, statement)
        forgotten[statement.predicate.split.digest] = statement.predicate.batch.forget
    if told:
        yield told
    for what, found, said in (
        ("deleted training images", ledger.training_images(barred=True), sum(forgotten.values())),
        ("tombstones", ledger.tombstone_count(), ledger.tombstones_said()),
    ):
        if found < said:
            yield f"{found} {what}; its receipts and events say {said}"


def _changed(ledger: Ledger, statement: Statement) -> str:
    """Why this is not the ledger that a receipt was made with, or a later one; "" when it is."""
    if not isinstance(statement.predicate, Predicate):
        return ""  # up to version 2 receipts say nothing of the ledger
    said, tombstones = statement.predicate.ledger, ledger.tombstone_count()
    found = ledger.hash_of(said.events)
    if found != said.head:
        return (
            f"event {said.events} is {found or 'missing'}, a receipt states {said.head}: "
            "the ledger was put back, cut or written anew since"
        )
    return (
        f"{tombstones} tombstones, a receipt states {said.tombstones}" if tombstones < said.tombstones else ""
    )


def _stated(statement: Statement) -> str:
    if not isinstance(statement.predicate, Predicate):
        return "ledger: this receipt is older than the field that says how far it was"
    said = statement.predicate.ledger
    return f"ledger: event {said.events} is {said.head}, as the receipt says"
