"""Erasure receipts: what was done for a request, tied to the files that ship, verifiable offline.

Contract. A receipt is a DSSE envelope (`qmu_edge.receipt.envelope`) around an in-toto Statement v1
(`qmu_edge.receipt.statement`) in RFC 8785 form, signed with Ed25519. One statement and one key have one byte
string, whose SHA-256 is what the next receipt calls `previous`. `loads` accepts exactly what `sign` writes.
Receipts hold counts, digests and fixed words. No torch, no network, no store: the bytes and the files they
speak of are enough.

What it is worth: the signature shows that the holder of a key said this and that nothing was changed since.
It is evidence of a process run by an honest operator, not proof against a dishonest one; `LIMITS` says so
inside every receipt. Times are RFC 3339 text; digests are 64 lower-case hex digits; accuracies are fractions.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from qmu_edge.errors import printable
from qmu_edge.receipt import envelope
from qmu_edge.receipt.share import tellable, told
from qmu_edge.receipt.statement import Statement

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIMITS: Final = (
    "This receipt records a process and assumes that the operator who ran it is honest. "
    "It is not proof against an operator who is not.",
    "The signature shows which key made this receipt and that nothing was changed since. "
    "Whose key it is must be known from elsewhere, and all times are those of the operator's clock.",
    "Approximate unlearning is not proof that nothing of the data is left in the model. "
    "Only exact retraining leaves the data out by construction.",
    "The residual is the share that one test still sees of what the same test saw before. "
    "It is a mean over images, and a stronger attack may see more.",
    "Where a network before deletion could not be told from one without the data, "
    "nothing can be said about what is left.",
    "The metrics hold for the files named here, run as the report says, and for no other file.",
    "Superseded checkpoints, backups and devices that still run an older model are not covered "
    "until they are purged or updated.",
    "Samples that were not found in the sample index were not removed.",
    "This receipt is not legal advice and does not say that any law was complied with.",
)

# One more for networks that were not trained here.
ADOPTED: Final = (
    "The network that this deletion began with was adopted, its training not witnessed. "
    "What it was trained on is what the operator declared, and the file that it came in is not covered."
)
PRETRAINED: Final = (
    "Retraining here starts from pretrained weights, their training not witnessed. "
    "That they hold nothing of the data is what the operator declared."
)
# One more where the policy takes the outputs of deleted classes out.
TAKEN_OUT: Final = (
    "The outputs of deleted classes were taken out of the files named here after the file with all outputs "
    "was measured. On the images that it was measured with, the other outputs are the same."
)


def sign(statement: Statement, key: "Ed25519PrivateKey") -> bytes:
    """The one byte string of a receipt signed with a key.

    Raises:
        LedgerError: `loads` would not accept it.
    """
    data = envelope.sign(statement.to_bytes(), key)
    loads(data, "new receipt")
    return data


def loads(data: bytes, source: object) -> Statement:
    """Read a receipt from bytes that nobody vouches for, and verify its signature, whosever it is.

    Args:
        data: At most 1 MiB.
        source: Where they come from, for messages.

    Raises:
        LedgerError: The signature does not hold, or it is not a receipt in its one form.
    """
    signed = envelope.read(data, source)
    envelope.verify(signed, source)
    return Statement.parse(signed.payload, source)


def signer(data: bytes) -> bytes:
    """The public key that a receipt is signed with.

    Raises:
        LedgerError: It is not an envelope.
    """
    return envelope.read(data, "receipt").public_key


def render(document: Mapping[str, Any]) -> str:
    """A receipt as text for people; characters that could steer a terminal are shown as codes.

    Args:
        document: See `Statement.document`.
    """
    predicate = dict(document["predicate"])
    limits = predicate.pop("limits")
    lines = ["Erasure receipt", "", "Files"]
    lines += [f"  {s['name']}  sha256 {s['digest']['sha256']}" for s in document["subject"]]
    for name, value in predicate.items():
        lines += ["", name.replace("_", " ").capitalize(), *_lines(value, "  ")]
    lines += ["", "What this does not prove", *(f"  - {limit}" for limit in limits)]
    return "\n".join(map(printable, lines)) + "\n"


def summary(document: Mapping[str, Any]) -> str:
    """What matters of a receipt on one screen, for people; takes what `render` takes."""
    predicate = document["predicate"]
    before, after = (predicate["checkpoints"][name] or "-" for name in ("before", "after"))
    rows = [
        *_done(predicate), *_measured(predicate),
        *(("file", f"{file['name']}  {file['digest']['sha256']}") for file in document["subject"]),
        ("network", f"{after[:16]}, before {before[:16]}"),
        ("previous", (predicate["previous"] or "none")[:16]),
    ]  # fmt: skip
    limits = (
        f"{len(predicate['limits'])} sentences say what this does not prove: qmu-edge receipt show --full"
    )
    lines = ["Erasure receipt", *(f"  {name:9} {text}" for name, text in rows), limits]
    return "\n".join(map(printable, lines)) + "\n"


def _done(predicate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was asked and done."""
    request, method, batch = predicate["request"], predicate["method"], predicate["batch"]
    met = {True: ", met", False: ", MISSED", None: ""}[request["deadline_met"]]
    due = f"due {request['due'][:10]}{met}" if request["due"] else "no deadline"
    together = f" of {batch['requests']} requests" if batch["requests"] > 1 else ""
    yield "issued", predicate["issued"]
    yield "request", f"{request['regulation'] or request['form']}, received {request['received'][:10]}, {due}"
    yield "outcome", f"{predicate['outcome']}, {batch['forget']} images{together} forgotten"
    yield "method", f"{method['name']}, {method['category']}"
    if rungs := predicate.get("rungs"):
        yield "tried", "; ".join(f"{rung['method']}: {rung['result']}" for rung in rungs)


def _measured(predicate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The verdict, of receipts of every version, and the accuracies."""
    verdict, found = predicate["verdict"], predicate["metrics"]["evaluation"]
    yield "answer", f"{verdict.get('answer', '-')}, {'passed' if verdict['passed'] else 'NOT passed'}"
    for left in verdict.get("residuals", ()):
        yield "left", f"{left['scope']}: {_told(left)}, {left['references']} references"
    for check in verdict.get("results", verdict.get("checks", ())):
        yield "check", _checked(check)
    sets = (("fa", "forgotten"), ("ra", "retained"), ("ta", "test"))
    yield "accuracy", ", ".join(f"{name} {_told(found[key])}" for key, name in sets if found[key])


def _told(share: Mapping[str, Any]) -> str:
    return told(share["value"], share["low"], share["high"])


def _checked(check: Mapping[str, Any]) -> str:
    """A check of a receipt of any version."""
    name, most = check.get("metric", check.get("name")), check.get("threshold", check.get("allowed"))
    value, low, high = (check[end] for end in ("value", "low", "high"))
    bound = check.get("bound", "value")
    missed = "not shown" if tellable(value, low, high, bound) is None else "MISSED"
    text = told(value, low, high, "{:.4f}".format, bound)
    return f"{name} {text}, allowed {most:.4f}: {'met' if check['passed'] else missed}"


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
