"""Whether a receipt is one that this ledger has issued."""

from qmu_edge.errors import LedgerError
from qmu_edge.io.digest import sha256_of
from qmu_edge.receipt import receipt
from qmu_edge.receipt.envelope import key_name
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
        LedgerError: The project has not issued it, or its key was not in use then.
    """
    digest, public = sha256_of(data), receipt.signer(data).hex()
    row = ledger.receipt(digest)
    if row is None:
        raise LedgerError(f"receipt: SHA-256 {digest} is no receipt of {ledger.path}")
    number, issued = row.seq, row.issued
    key = next((k for k in keys.known(ledger) if k.public_key == public), None)
    name = key_name(bytes.fromhex(public))
    if key is None or not key.covers(number):
        raise LedgerError(
            f"receipt {number} of {ledger.path}: signed by key {name}, which was not in use then"
        )
    lines = [f"ledger: receipt {number} of this project, issued {issued}"]
    note = "; the signature alone would prove nothing, the ledger does" if key.reason == "compromised" else ""
    until = f"from {key.since} to {key.until}, then {key.reason}{note}" if key.until else f"since {key.since}"
    return [*lines, f"key {name}: in use {until}", *_superseded(ledger, row)]


def _superseded(ledger: Ledger, row: ReceiptRow) -> list[str]:
    """That a later deletion has led to other files; receipts of one run are about the same files."""
    *_, last = ledger.receipts()
    release = ledger.release_of(row.digest)
    if last.seq == row.seq or (release is not None and release == ledger.release_of(last.digest)):
        return []
    later = f"receipt {last.seq}, issued {last.issued}"
    return [f"superseded: by {later}; the files that this one names were made with data deleted since"]
