"""All that is written for other tools about one release, and whether it still is what it was.

The signature comes last and covers the rest. Nothing here is needed to read a release or a receipt: those
that are older have none of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qmu_edge.attestation import signature
from qmu_edge.attestation.bom import BOM, bom
from qmu_edge.attestation.card import CARD, card
from qmu_edge.attestation.facts import Facts
from qmu_edge.attestation.results import TEST_RESULT, contradicts, result_of
from qmu_edge.attestation.signature import MODEL_SIGNATURE
from qmu_edge.errors import LedgerError
from qmu_edge.io.canonical import canonical
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import read_regular
from qmu_edge.io.json import MAX_BYTES, parse_object
from qmu_edge.receipt import envelope, p256
from qmu_edge.receipt.receipt import loads, signer
from qmu_edge.receipt.statement import Statement

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAPERS: Final = frozenset({TEST_RESULT, BOM, CARD, MODEL_SIGNATURE})
MOST: Final = 5  # files that a message names
Finding = tuple[bool, str]  # whether it holds, and the line that says so
# Of a file's bytes, with the statement and bytes of the receipt, what lies in the folder, and trusted keys.
Check = Callable[[bytes, Statement, bytes, Mapping[str, str], Sequence[bytes]], Iterator[Finding]]


def papers(
    facts: Facts, receipt: bytes, others: Mapping[str, Sha256], ignored: Sequence[str],
    key: "Ed25519PrivateKey",
) -> dict[str, bytes]:  # fmt: skip
    """The files of a release that a receipt is about, by name.

    Args:
        facts: Of the release, with the receipt.
        receipt: Its bytes.
        others: SHA-256 of everything else in the folder, the receipt and the released files too.
        ignored: Names of files in the folder that list all others.
        key: The one that signed the receipt.
    """
    result = result_of(loads(receipt, "receipt"), sha256_of(receipt))
    made = {
        TEST_RESULT: envelope.sign(canonical(result, TEST_RESULT), key), BOM: bom(facts), CARD: card(facts),
    }  # fmt: skip
    digests = {**others, **{name: sha256_of(data) for name, data in made.items()}}
    return {**made, MODEL_SIGNATURE: signature.sign(digests, ignored, p256.beside(key))}


def findings(
    folder: Path, receipt: bytes, found: Mapping[str, str], keys: Sequence[bytes]
) -> Iterator[Finding]:
    """Hold what lies beside a receipt against it, and against its signature; nothing where nothing lies.

    Args:
        folder: Where they are.
        receipt: The receipt's bytes.
        found: SHA-256 of everything in the folder, by name.
        keys: P-256 public keys that are trusted (33 bytes each); without one, no signature is checked.
    """
    statement = loads(receipt, "receipt")
    checks: dict[str, Check] = {TEST_RESULT: _result, BOM: _bom, MODEL_SIGNATURE: _signature}
    for name, check in checks.items():
        if name in found:
            try:
                data = read_regular(folder / name, limit=MAX_BYTES, error=LedgerError)
                if sha256_of(data) != found[name]:
                    raise LedgerError(f"{name}: is changing")
                yield from check(data, statement, receipt, found, keys)
            except LedgerError as error:
                yield False, str(error)


def _result(data: bytes, statement: Statement, receipt: bytes, *_: Any) -> Iterator[Finding]:
    signed = envelope.read(data, TEST_RESULT)
    envelope.verify(signed, TEST_RESULT)
    said = parse_object(signed.payload, TEST_RESULT, LedgerError)
    if signed.public_key != signer(receipt):
        yield False, f"{TEST_RESULT}: signed by key {envelope.key_name(signed.public_key)}, not the receipt's"
    elif contradicts(said, statement, sha256_of(receipt)):
        yield False, f"{TEST_RESULT}: not what the receipt says"
    else:
        yield True, f"{TEST_RESULT}: {said['predicate']['result']}, as the receipt says"


def _bom(data: bytes, _: Statement, receipt: bytes, found: Mapping[str, str], *__: Any) -> Iterator[Finding]:
    document = parse_object(data, BOM, LedgerError)
    try:
        listed = {part["name"]: part["hashes"][0]["content"] for part in document["components"]}
        (about,) = document["metadata"]["component"]["externalReferences"]
        same = about["hashes"][0]["content"] == sha256_of(receipt)
        same &= all(found.get(name, sha) == sha for name, sha in listed.items())
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        same = False
    yield same, f"{BOM}: {'' if same else 'not '}of these files and the receipt"


def _signature(
    data: bytes, _: Statement, __: bytes, found: Mapping[str, str], keys: Sequence[bytes]
) -> Iterator[Finding]:
    signed = signature.read(data, MODEL_SIGNATURE)
    wrong = [*signature.differences(signed, found)]
    more = [f"{MODEL_SIGNATURE}: {len(wrong) - MOST} more files differ"] if len(wrong) > MOST else []
    yield from ((False, line) for line in [*wrong[:MOST], *more])
    mark = signed.hint[:16]
    known = [key for key in keys if p256.hint(key) == signed.hint]
    if keys and not known:
        trusted = ", ".join(p256.hint(key)[:16] for key in keys)
        yield False, f"{MODEL_SIGNATURE}: by P-256 key {mark}; trusted: {trusted}"
    elif known and not signature.verify(signed, known[0]):
        yield False, f"{MODEL_SIGNATURE}: the signature does not hold for P-256 key {mark}"
    elif not wrong:
        how = "which is trusted" if known else "whose signature was not checked: no P-256 key was given"
        yield True, f"{MODEL_SIGNATURE}: {len(signed.files)} files, as signed by P-256 key {mark}, {how}"
