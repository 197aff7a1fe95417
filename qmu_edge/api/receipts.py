"""The `report`, `receipt` and `keys` commands as Python functions; part of `qmu_edge.api`, and torch-free."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from qmu_edge.attestation.papers import PAPERS, findings
from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import AnyPath, lies_in, path_of, read_regular, write_new
from qmu_edge.io.json import MAX_BYTES
from qmu_edge.io.progress import Progress
from qmu_edge.project.checklist import checklists
from qmu_edge.project.history import History
from qmu_edge.project.inventory import inventory
from qmu_edge.project.kept import KeptReceipts, keep
from qmu_edge.project.project import KEYS, STORE, Project, find, opened
from qmu_edge.project.publish import SUMS, files_in, papers_named
from qmu_edge.project.results import Results
from qmu_edge.receipt import p256, receipt
from qmu_edge.receipt.envelope import key_name, read_public_key
from qmu_edge.receipt.verify import verify as verify_receipt
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.issued import verify_issued
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.manifest import MANIFEST


class ShownReceipt(TypedDict):
    """A receipt, its digest, and the name of the key that has signed it."""

    sha256: Sha256
    key: str
    receipt: Mapping[str, object]


class VerifiedReceipt(TypedDict):
    """What was verified of a receipt, one line for each thing."""

    sha256: Sha256
    key: str
    checks: list[str]


class RecomputedReceipt(TypedDict):
    """A receipt that was computed again, and whose it is.

    Attributes:
        files, computed_with: See `qmu_edge.pipeline.recompute.Recomputed`.
    """

    request: str
    receipt: Sha256
    files: dict[str, Sha256]
    computed_with: Mapping[str, object]


class Written(TypedDict):
    """What people read about a request, and the path of the file where it was written to one."""

    request: str
    receipt_sha256: Sha256
    lang: str
    out: str | None
    text: str


def receipt_show(path: AnyPath | None = None, project: AnyPath | None = None) -> ShownReceipt:
    """A receipt: the file at `path`, or the project's current one."""
    path = path_of(path)
    data = _receipt_bytes(path, project)
    return {
        "sha256": sha256_of(data),
        "key": key_name(receipt.signer(data)),
        "receipt": receipt.loads(data, path or "receipt").document(),
    }


def receipt_verify(
    path: AnyPath | None = None,
    project: AnyPath | None = None,
    *,
    files: Sequence[AnyPath] = (),
    digests: Sequence[str] = (),
    previous: Sequence[AnyPath] = (),
    trusted_keys: Sequence[AnyPath] = (),
) -> VerifiedReceipt:
    """Check a receipt: signature, form, and the digests of the files at hand. Offline and without torch.

    Args:
        path: The receipt; the project's released one, or else its current one, when None.
        project: Whose ledger must have issued the receipt, and whose store holds the one before it; with
            a path and no project the receipt is checked on its own.
        files: Model files; those that lie beside the receipt are found by name.
        digests: SHA-256 of model files that are elsewhere, as a device reports them.
        previous: The receipts before this one, newest first.
        trusted_keys: Public keys, one of which must have signed it; the project's when empty. Those of the
            kind P-256 are for the model signature that lies beside the receipt.

    Raises:
        ConfigError: A key came with the receipt, in one bundle or release.
        LedgerError: Something does not hold.
    """
    place = path_of(path) or _published(project)
    given_keys, given_files = [*map(Path, trusted_keys)], [*map(Path, files)]
    data = _receipt_bytes(place, project)
    statement = receipt.loads(data, place or "receipt")
    beside = [place.parent / n for n in statement.files if (place.parent / n).is_file()] if place else []
    given = {f.name: f for f in [*beside, *given_files]}
    near = _keys_beside(place.parent, given_keys) if place else []
    p256_keys = {path: p256.read_public_key(path) for path in given_keys}
    trusted = [read_public_key(path) for path, key in p256_keys.items() if key is None]
    model_keys = [key for key in p256_keys.values() if key is not None]
    before = [_receipt_bytes(other, None) for other in previous]
    issued: list[str] = []
    published: dict[str, Sha256] = {}
    if path is None or project is not None:
        with _project(project) as found:
            issued = verify_issued(found.ledger, data)
            trusted = trusted or [k.raw for k in keys.known(found.ledger)]
            model_keys = model_keys or [*keys.model_keys(found.ledger).values()]
            if path is None and found.ledger.current(Pointer.RECEIPT) == sha256_of(data):
                published = _papers(found.ledger, found.results, found.store)
            if not before and (stated := statement.predicate.previous):
                before = [found.store.get_bytes(stated)]
    reported = [digest.lower() for digest in digests]
    checks = verify_receipt(data, files=given, digests=reported, previous=before, keys=trusted)
    papers = _beside(place.parent, data, published, model_keys) if place else []
    return {
        "sha256": sha256_of(data),
        "key": key_name(receipt.signer(data)),
        "checks": [*checks, *near, *papers, *issued],
    }


def _keys_beside(folder: Path, keys: Sequence[Path]) -> list[str]:
    """What is to be said of keys that lie in the folder of a receipt.

    Raises:
        ConfigError: The folder is a bundle or a release, and a key in it came with it.
    """
    near = [key for key in keys if lies_in(key, folder)]
    packed = next((name for name in (MANIFEST, SUMS) if (folder / name).is_file()), None)
    if near and packed:
        raise ConfigError(
            f"{near[0]}: came with the receipt, in a folder with {packed}, and whoever made the one made the "
            "other: it vouches for nothing; allowed is a key that you have from elsewhere, or no --key"
        )
    return [f"{key}: lies beside the receipt; if it came with it, it vouches for nothing" for key in near]


def _papers(ledger: Ledger, results: Results, store: ObjectStore) -> dict[str, Sha256]:
    """What must lie beside the released receipt."""
    digest = ledger.current(Pointer.RELEASE)
    return papers_named(results.release(digest), ledger, store) if digest else {}


def _beside(
    folder: Path, data: bytes, expected: Mapping[str, Sha256], model_keys: Sequence[bytes]
) -> list[str]:
    """What was verified of the files that lie beside a receipt for other tools.

    Raises:
        LedgerError: Something does not hold; every such thing is named.
    """
    there = {name for name in PAPERS if (folder / name).is_file()}
    if not there and not expected:
        return []
    lying = files_in(folder)
    found = [*findings(folder, data, lying, model_keys)]
    for name, sha in expected.items():
        if lying.get(name) != sha:
            what = "missing" if name not in lying else "not the one that the ledger names"
            found.append((False, f"{folder / name}: {what}"))
    if not all(holds for holds, _ in found):
        raise LedgerError("receipt: " + "; ".join(line for holds, line in found if not holds))
    return [line for _, line in found]


def receipt_recompute(
    path: AnyPath | None = None, project: AnyPath | None = None, *, progress: Progress | None = None
) -> RecomputedReceipt:
    """Train the network of an exact, deterministic receipt again, and compare its files byte for byte.

    Args:
        path: The receipt; the project's current one when None.
        project: Which has issued it; nothing in it changes.
        progress: Silent when None.

    Raises:
        ConfigError: It is not of such a run, or recipe, versions, kind of machine or threads are others here.
        IntegrityError: What it was made of was deleted or purged since.
        LedgerError: The project has not issued it, or a file came out otherwise.
    """
    from qmu_edge.pipeline.recompute import recompute, recorded_split, told
    from qmu_edge.pipeline.unlearn_run import attempt
    from qmu_edge.runtime.device import device_named

    path = path_of(path)
    data = _receipt_bytes(path, project)
    with opened(find(project), progress or Progress()) as found:
        verify_issued(found.ledger, data)
        row = found.ledger.receipt(sha256_of(data))
        if row is None or row.request_id is None:
            raise ConfigError("receipt: cannot be recomputed: no request asked for it")
        stated = receipt.loads(data, path or "receipt")
        split = recorded_split(stated, row.request_id, found.results, found.store, found.samples)
        device = device_named("cpu" if told(stated)["device"] == "cpu" else "cuda")
        made = recompute(attempt(found, (), split, stated.predicate.method.name, device), stated)
        return {"request": row.request_id, "receipt": sha256_of(data), **made}


def report(
    request: str | None = None,
    project: AnyPath | None = None,
    *,
    letter: bool = False,
    lang: str = "en",
    out: AnyPath | None = None,
) -> Written:
    """What people read about a request that was fulfilled, made anew from what is stored.

    Args:
        request: Its id; that of the current receipt when None.
        project: Folder of the project.
        letter: A letter to the person, as text, in place of the page for others.
        lang: Its language, as `qmu_edge.page.language.known` names them.
        out: Written there, where nothing is yet.

    Raises:
        ConfigError: There is no receipt yet, or no such language. Or `out` exists, or lies in a store.
        RequestError: No such request, or it has no receipt.
    """
    from qmu_edge.page.facts import stored_facts
    from qmu_edge.page.language import language
    from qmu_edge.page.letter import letter as write
    from qmu_edge.page.page import page
    from qmu_edge.queue.lifecycle import answered, require

    say = language(lang)
    with _project(project) as found:
        ledger, results = found.ledger, found.results
        row = require(ledger, request or answered(ledger, found.root))
        facts = stored_facts(row, ledger, results, found.store)
        if not letter:  # which says nothing of other things
            history = History(ledger)
            lines = checklists(ledger, results, history, inventory(found, history), [row.request_id])
            audits = [*results.audited(Sha256(facts.predicate.checkpoints.after or "")).values()]
            facts = replace(facts, now=lines[row.request_id], audits=audits)
    text = write(facts, row.request_id, say) if letter else page(facts, say).decode()
    if out is not None:
        write_new(Path(out), text.encode(), outside=STORE)
    return {
        "request": row.request_id, "receipt_sha256": facts.receipt, "lang": say.code,
        "out": str(out) if out else None, "text": text,
    }  # fmt: skip


def receipt_keep(folder: AnyPath, project: AnyPath | None = None, *, begin: bool = False) -> KeptReceipts:
    """Copy every receipt into a folder outside of the project; what is there must be the project's.

    `begin` fills an empty one, though receipts were issued before: see `qmu_edge.project.kept`.
    """
    with _project(project) as found:
        return keep(Path(folder), found.ledger, found.store, begin=begin)


def receipt_schema() -> dict[str, Any]:
    """The JSON Schema of a receipt's statement, the payload of its envelope."""
    from qmu_edge.receipt.statement import json_schema

    return json_schema()


def keys_list(project: AnyPath | None = None) -> dict[str, keys.KeyJson]:
    """The project's public keys by name, their time, and the receipts that they may have signed."""
    with _project(project) as found:
        model_keys = keys.model_keys(found.ledger)
        hints = {name: p256.hint(key) for name, key in model_keys.items()}
        return {key.name: {**key.to_json(), "p256": hints.get(key.name)} for key in keys.known(found.ledger)}


def keys_rotate(project: AnyPath | None = None, *, reason: str = "rotated") -> keys.PublicKey:
    """Put a new key in use and delete the private half of the one before.

    `reason` is one of `qmu_edge.store.ledger.keys.REASONS`.
    """
    with _project(project) as found, found.locked():
        return keys.renew(found.folder / KEYS, found.ledger, reason).public()


def keys_revoke(name: str, project: AnyPath | None = None) -> keys.PublicKey:
    """Declare a key that is out of use compromised."""
    with _project(project) as found, found.locked():
        return keys.revoke(found.ledger, name).public()


def keys_export(
    name: str | None = None, project: AnyPath | None = None, *, public: bool = False, model: bool = False,
    out: AnyPath | None = None,
) -> keys.PublicKey:  # fmt: skip
    """A public key as PEM, the one in use when `name` is None; written to `out` when given.

    With `model` it is the P-256 key beside it, which signs `model.sig`.

    Raises:
        ConfigError: Not `public`: a private key never leaves the project. Or `out` exists. Or the key has no
            P-256 key beside it that is known.
    """
    if not public:
        raise ConfigError("a private key is never exported; say --public for the public one")
    with _project(project) as found:
        result = keys.named(found.ledger, name).public()
        if model:
            beside = _model_key(keys.model_keys(found.ledger).get(result["key"]), result["key"])
            result["pem"], result["p256"] = p256.to_pem(beside), p256.hint(beside)
    if out is not None:
        write_new(Path(out), result["pem"].encode(), outside=STORE)
    return result


def _model_key(public: bytes | None, name: str) -> bytes:
    if public is None:
        raise ConfigError(f"key {name}: no P-256 key is known beside it: it has signed no model so far")
    return public


def _published(project: AnyPath | None) -> Path | None:
    """The released receipt, beside the files it speaks of; a writer may be about to release the next ones.

    The link is followed once: what is found is of one release.
    """
    place = (find(project) / "release").resolve() / "receipt.json"
    return place if place.is_file() else None


def _receipt_bytes(path: AnyPath | None, project: AnyPath | None) -> bytes:
    if path is not None:
        return read_regular(Path(path), limit=MAX_BYTES, error=LedgerError)
    with _project(project) as found:
        digest = found.ledger.current(Pointer.RECEIPT)
        if digest is None:
            raise ConfigError(f"{found.root}: no receipt yet")
        return found.store.get_bytes(digest)


def _project(folder: AnyPath | None) -> AbstractContextManager[Project]:
    return opened(find(folder), Progress())
