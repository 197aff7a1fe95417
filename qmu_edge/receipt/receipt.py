"""Erasure receipts: what was done for a request, tied to the files that ship, checkable offline.

Contract. A receipt is a DSSE envelope (`qmu_edge.receipt.envelope`) around an in-toto Statement v1
(`qmu_edge.receipt.statement`) in RFC 8785 form, signed with Ed25519. One statement and one key have one byte
string, whose SHA-256 is what the next receipt calls `previous`. `loads` accepts exactly what `seal` writes.
Receipts hold counts, digests and fixed words. No torch, no network, no store: the bytes and the files they
speak of are enough.

What it is worth: the signature shows that the holder of a key said this and that nothing was changed since.
It is evidence of a process run by an honest operator, not proof against a dishonest one; `LIMITS` says so
inside every receipt. Times are RFC 3339 text; digests are 64 lower-case hex digits; accuracies are fractions.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import rfc8785

from qmu_edge.errors import LedgerError, RequestError
from qmu_edge.io.json import parse_object, shown
from qmu_edge.receipt import envelope
from qmu_edge.receipt.statement import PREDICATE_TYPE, STATEMENT_TYPE, faults

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIMITS: Final = (
    "This receipt records a process and assumes that the operator who ran it is honest. "
    "It is not proof against an operator who is not.",
    "The signature shows which key made this receipt and that nothing was changed since. "
    "Whose key it is must be known from elsewhere, and all times are those of the operator's clock.",
    "Approximate unlearning is not proof that nothing of the data is left in the model. "
    "Only exact retraining leaves the data out by construction.",
    "The metrics are tests on populations of samples. They bound an average, "
    "not what an attacker can learn about one person.",
    "The metrics hold for the files named here, run as the report says, and for no other file.",
    "Superseded checkpoints, backups and devices that still run an older model are not covered "
    "until they are purged or updated.",
    "Samples that were not found in the sample index were not removed.",
    "This receipt is not legal advice and does not say that any law was complied with.",
)

Statement = dict[str, Any]


def build(
    *,
    subjects: Mapping[str, str],
    request: Mapping[str, Any],
    batch: Mapping[str, int],
    completed: str,
    issued: str,
    outcome: str,
    method: Mapping[str, Any],
    rungs: Sequence[Mapping[str, str]],
    recipe: str,
    checkpoints: Mapping[str, str | None],
    split: Mapping[str, Any],
    model: Mapping[str, Any],
    metrics: Mapping[str, Any],
    reference: Mapping[str, Any] | None,
    thresholds: Mapping[str, Any],
    verdict: Mapping[str, Any],
    derived_artefacts: Sequence[Mapping[str, Any]],
    tool: Mapping[str, Any],
    previous: str | None,
    limits: Sequence[str] = LIMITS,
) -> Statement:
    """Put the statement of a receipt together; `seal` makes the receipt.

    Args:
        subjects: Name ("model.onnx") to digest of each exported file, at least one.
        request: digest, form, regulation (or None), received, due (or None), deadline_met (or None).
        batch: requests served by the same run, this one included, and their forget samples together.
        completed: When the exported files were verified.
        issued: When this receipt was written.
        outcome: What became of the request, as the ledger says it.
        method: name, category ("exact" or "approximate"), parameters, seed.
        rungs: Every method that was tried for the request, in order: method, category, result.
        recipe: Digest of the recipe.
        checkpoints: Digests before and after; None where there is no such checkpoint.
        split: digest, and counts by part (forget, retain, ...).
        model: architecture, and bits by kind.
        metrics: evaluation of the exported file, mia_efficacy, parity, bytes, latent_weights.
        reference: What the metrics are compared with, or None.
        thresholds: The policy's limits.
        verdict: passed (true or false), and checks, one for each threshold.
        derived_artefacts: What else was made of the data, each as kind, count, bytes and state.
        tool: name, version, and dependencies by name.
        previous: Digest of the receipt before this one; None for the first.
        limits: What this receipt does not prove; never empty.

    Raises:
        LedgerError: A field is missing, unknown or of a wrong kind, or a value is not JSON.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": n, "digest": {"sha256": d}} for n, d in sorted(subjects.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "request": request,
            "batch": batch,
            "completed": completed,
            "issued": issued,
            "outcome": outcome,
            "method": method,
            "rungs": list(rungs),
            "recipe": recipe,
            "checkpoints": checkpoints,
            "split": split,
            "model": model,
            "metrics": metrics,
            "reference": reference,
            "thresholds": thresholds,
            "verdict": verdict,
            "derived_artefacts": derived_artefacts,
            "tool": tool,
            "previous": previous,
            "limits": limits,
        },
    }
    return _statement(_canonical(statement), "new receipt")  # what is written can be read


def seal(statement: Statement, key: "Ed25519PrivateKey") -> bytes:
    """The one byte string of a receipt signed with a key.

    Raises:
        LedgerError: The statement is not one that `build` makes.
    """
    payload = _canonical(statement)
    _statement(payload, "new receipt")
    return envelope.seal(payload, key)


def loads(data: bytes, source: object) -> Statement:
    """Read a receipt from bytes that nobody vouches for; its signature holds, whosever it is.

    Args:
        data: At most 1 MiB.
        source: Where they come from, for messages.

    Raises:
        LedgerError: The signature does not hold, or it is not a receipt in its one form.
    """
    sealed = envelope.read(data, source)
    envelope.check(sealed, source)
    return _statement(sealed.payload, source)


def signer(data: bytes) -> bytes:
    """The public key that a receipt is signed with.

    Raises:
        LedgerError: It is not an envelope.
    """
    return envelope.read(data, "receipt").public_key


def render(statement: Statement) -> str:
    """A receipt as text for people; characters that could steer a terminal are shown as codes."""
    predicate = dict(statement["predicate"])
    limits = predicate.pop("limits")
    lines = ["Erasure receipt", "", "Files"]
    lines += [f"  {s['name']}  sha256 {s['digest']['sha256']}" for s in statement["subject"]]
    for name, value in predicate.items():
        lines += ["", name.replace("_", " ").capitalize(), *_lines(value, "  ")]
    lines += ["", "What this does not prove", *(f"  - {limit}" for limit in limits)]
    return "\n".join(_harmless(line) for line in lines) + "\n"


def _canonical(statement: Any) -> bytes:
    try:
        return rfc8785.dumps(statement)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"receipt: cannot be JSON: {error}") from error


def _statement(payload: bytes, source: object) -> Statement:
    try:
        statement = parse_object(payload)
    except RequestError as error:
        raise LedgerError(f"{source}: not a receipt: {error}") from error
    wrong = faults(statement)
    if not wrong:
        names = [file["name"] for file in statement["subject"]]
        if len(set(names)) < len(names):
            wrong.append(f"$.subject names {shown(names)}; allowed: each once")
    if _canonical(statement) != payload:
        wrong.append("the JSON is not in RFC 8785 form: spaces, order or numbers differ")
    if wrong:
        raise LedgerError(f"{source}: not a receipt: {'; '.join(wrong)}")
    return statement


def _lines(value: object, indent: str) -> Iterator[str]:
    if not isinstance(value, dict | list) or not value:
        yield indent + (value if isinstance(value, str) else json.dumps(value))
        return
    items = value.items() if isinstance(value, dict) else (("", item) for item in value)
    for name, item in items:
        first, *rest = _lines(item, "")
        label = f"{indent}{name}:" if name else f"{indent}-"
        yield f"{label} {first}" if not rest else label
        yield from (f"{indent}  {line}" for line in (first, *rest) if rest)


def _harmless(line: str) -> str:
    r"""The line with every character that is not printable as its code.

    >>> _harmless("bad" + chr(27) + "[2J")
    'bad\\x1b[2J'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
