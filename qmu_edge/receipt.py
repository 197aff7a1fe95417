"""Erasure receipts: what was done for a request, tied to the files that ship, checkable offline.

Contract. A receipt is an in-toto Statement v1 in RFC 8785 form, so one statement has one byte
string and one digest. `loads` accepts exactly what `dumps` writes. A receipt holds counts,
digests and fixed words; `personal_data` must find nothing before one is stored. No torch, no
network, no store: the bytes and the files they speak of are enough.

What it is worth: the receipt is not signed yet. It is evidence of a process run by an honest
operator, not proof against a dishonest one; `LIMITS` says so inside every receipt.
Times are RFC 3339 text; digests are 64 lower-case hex digits; accuracies are fractions.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import rfc8785

from qmu_edge.errors import LedgerError, RequestError
from qmu_edge.strict_json import parse_object, shown

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:qmu-edge:erasure-receipt:v1"
LIMITS: Final = (
    "This receipt records a process and assumes that the operator who ran it is honest. "
    "It is not proof against an operator who is not.",
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
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_URL: Final = re.compile(r"https?://\S+")
_PERSONAL: Final = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+"),
    "an absolute path": re.compile(r"(?<![\w.~])~?/[\w.~-]|\b[A-Za-z]:[\\/]|\\\\\w"),
}

# The shape of a receipt. A dictionary is an object with exactly these fields, a list is a list
# of one shape, and a pair is what to call the allowed values and how to tell them.
Leaf = tuple[str, Callable[[Any], bool]]
Shape = dict[str, Any] | list[Any] | Leaf


def _either(*words: str) -> Leaf:
    return " or ".join(map(repr, words)), lambda v: v in words


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


_TEXT: Final[Leaf] = ("text", lambda v: isinstance(v, str) and v != "")
_SHA: Final[Leaf] = ("a SHA-256", lambda v: isinstance(v, str) and bool(_DIGEST.fullmatch(v)))
_WHEN: Final[Leaf] = (
    "an RFC 3339 time",
    lambda v: isinstance(v, str) and bool(_TIME.fullmatch(v)),
)
_COUNT: Final[Leaf] = ("a whole number from 0", _is_count)
_OBJECT: Final[Leaf] = ("an object", lambda v: isinstance(v, dict))
_COUNTS: Final[Leaf] = (
    "an object of whole numbers from 0",
    lambda v: isinstance(v, dict) and all(map(_is_count, v.values())),
)


def _or_null(leaf: Leaf) -> Leaf:
    return f"{leaf[0]} or null", lambda v: v is None or leaf[1](v)


_SHAPE: Final[Shape] = {
    "_type": _either(STATEMENT_TYPE),
    "subject": [{"name": _TEXT, "digest": {"sha256": _SHA}}],
    "predicateType": _either(PREDICATE_TYPE),
    "predicate": {
        "request": {
            "digest": _SHA,
            "form": _TEXT,
            "regulation": _or_null(_TEXT),
            "received": _WHEN,
            "due": _or_null(_WHEN),
        },
        "completed": _WHEN,
        "issued": _WHEN,
        "outcome": _TEXT,
        "method": {
            "name": _TEXT,
            "category": _either("exact", "approximate"),
            "parameters": _OBJECT,
            "seed": _COUNT,
        },
        "checkpoints": {"before": _or_null(_SHA), "after": _or_null(_SHA)},
        "split": {"digest": _SHA, "counts": _COUNTS},
        "model": {"architecture": _TEXT, "bits": _OBJECT},
        "metrics": _OBJECT,
        "reference": _or_null(_OBJECT),
        "thresholds": _OBJECT,
        "verdict": {"passed": ("true or false", lambda v: isinstance(v, bool)), "reasons": [_TEXT]},
        "derived_artefacts": [
            {"kind": _TEXT, "count": _or_null(_COUNT), "bytes": _or_null(_COUNT), "state": _TEXT}
        ],
        "tool": {"name": _TEXT, "version": _TEXT, "dependencies": _OBJECT},
        "limits": [_TEXT],
        "previous": _or_null(_SHA),
    },
}


def build(
    *,
    subjects: Mapping[str, str],
    request: Mapping[str, Any],
    completed: str,
    issued: str,
    outcome: str,
    method: Mapping[str, Any],
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
    """Put a receipt together; `dumps` makes the bytes to store.

    Args:
        subjects: Name ("model.onnx") to digest of each exported file, at least one.
        request: digest, form, regulation (or None), received, due (or None).
        completed: When the exported files were verified.
        issued: When this receipt was written.
        outcome: What became of the request, as the ledger says it.
        method: name, category ("exact" or "approximate"), parameters, seed.
        checkpoints: Digests before and after; None where there is no such checkpoint.
        split: digest, and counts by part (forget, retain, ...).
        model: architecture, and bits by kind.
        metrics: The report of the exported file.
        reference: What the metrics are compared with, or None.
        thresholds: The policy's limits.
        verdict: passed (true or false), and reasons, a list of sentences, empty when passed.
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
            "request": dict(request),
            "completed": completed,
            "issued": issued,
            "outcome": outcome,
            "method": dict(method),
            "checkpoints": dict(checkpoints),
            "split": dict(split),
            "model": dict(model),
            "metrics": dict(metrics),
            "reference": None if reference is None else dict(reference),
            "thresholds": dict(thresholds),
            "verdict": dict(verdict),
            "derived_artefacts": [dict(artefact) for artefact in derived_artefacts],
            "tool": dict(tool),
            "previous": previous,
            "limits": list(limits),
        },
    }
    return loads(dumps(statement), "new receipt")  # what is written can be read


def dumps(statement: Statement) -> bytes:
    """The one byte string of a receipt: RFC 8785, no newline at the end.

    Raises:
        LedgerError: A value is not JSON: NaN, infinity, an integer beyond 2**53.
    """
    try:
        return rfc8785.dumps(statement)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"receipt: cannot be JSON: {error}") from error


def loads(data: bytes, source: object) -> Statement:
    """Read a receipt from bytes that nobody vouches for.

    Args:
        data: At most 1 MiB.
        source: Where they come from, for messages.

    Raises:
        LedgerError: It breaks a rule of `strict_json`, is not in RFC 8785 form, or a field is
            missing, unknown or of a wrong kind.
    """
    try:
        statement = parse_object(data)
    except RequestError as error:
        raise LedgerError(f"{source}: not a receipt: {error}") from error
    faults = list(_faults(statement, _SHAPE, "$"))
    if not faults:
        names = [file["name"] for file in statement["subject"]]
        if not names or len(set(names)) < len(names):
            faults.append(f"$.subject names {shown(names)}; allowed: at least one, each once")
        if not statement["predicate"]["limits"]:
            faults.append("$.predicate.limits is empty; allowed: one sentence or more")
    if dumps(statement) != data:
        faults.append("the JSON is not in RFC 8785 form: spaces, order or numbers differ")
    if faults:
        raise LedgerError(f"{source}: not a receipt: {'; '.join(faults[:10])}")
    return statement


def verify(
    data: bytes,
    *,
    files: Mapping[str, Path],
    previous: bytes | None = None,
    digest: str | None = None,
) -> list[str]:
    """Hold a receipt against the files it speaks of; needs nothing but these arguments.

    Args:
        data: The receipt.
        files: Subject name to file, as many as there are at hand.
        previous: The receipt before this one, to check the link.
        digest: What the SHA-256 of `data` must be, from a source you trust. Without it a
            receipt that was rewritten as a whole is not noticed.

    Returns:
        One line for each thing that was checked, and for each that was not.

    Raises:
        LedgerError: Something does not hold; every such thing is named.
    """
    statement = loads(data, "receipt")
    expected = {file["name"]: file["digest"]["sha256"] for file in statement["subject"]}
    checks = [_check_file(name, sha, files.get(name)) for name, sha in expected.items()]
    checks += [(False, f"{name}: not a subject") for name in sorted(files.keys() - expected.keys())]
    checks.append(_check_link(statement["predicate"]["previous"], previous))
    if digest is not None:
        checks.append(_check_digest("receipt", digest, hashlib.sha256(data).hexdigest()))
    if not all(holds for holds, _ in checks):
        raise LedgerError("receipt: " + "; ".join(line for holds, line in checks if not holds))
    return [line for _, line in checks]


def personal_data(statement: Statement, *, forbidden: Iterable[str]) -> list[str]:
    """Where a receipt says too much: one line "JSON path: why" for each find; any is an error.

    A forbidden text is found anywhere inside a text or a field's name, in either case. One of
    fewer than 4 characters or of digits only must stand alone, or the sample "7" would be found
    in every time and version. Numbers and the sentences of LIMITS are not looked at.

    >>> personal_data({"a": {"b": ["by c-10492", "x@example.org"]}}, forbidden=["C-10492"])
    ['$.a.b[0]: a forbidden text', '$.a.b[1]: an e-mail address']

    Args:
        statement: As from `build`.
        forbidden: Sample ids, subject ids, pseudonyms.
    """
    texts = [(where, text) for where, text in _texts(statement, "$") if text not in LIMITS]
    everything = "\n".join(text for _, text in texts).casefold()
    suspects = {f.casefold() for f in forbidden if f.strip()}
    suspects = {f for f in suspects if f in everything}
    finds = []
    for where, text in texts:
        if any(_mentions(text.casefold(), suspect) for suspect in suspects):
            finds.append(f"{where}: a forbidden text")
        plain = _URL.sub("", text)
        finds += [f"{where}: {what}" for what, pattern in _PERSONAL.items() if pattern.search(plain)]
    return finds


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


def _faults(value: object, shape: Shape, where: str) -> Iterator[str]:
    """What keeps a JSON value from having a shape."""
    if isinstance(shape, tuple):
        words, test = shape
        if not test(value):
            yield f"{where} is {shown(value)}; allowed: {words}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} is {shown(value)}; allowed: a list"
        else:
            for number, item in enumerate(value):
                yield from _faults(item, shape[0], f"{where}[{number}]")
    elif not isinstance(value, dict):
        yield f"{where} is {shown(value)}; allowed: an object"
    else:
        for name in sorted(shape.keys() | value.keys()):
            if name not in value:
                yield f"{where}.{name} is missing"
            elif name not in shape:
                yield f"{where}.{shown(name)} is not a field"
            else:
                yield from _faults(value[name], shape[name], f"{where}.{name}")


def _check_digest(name: str, expected: str, found: str) -> tuple[bool, str]:
    if found == expected:
        return True, f"{name}: SHA-256 {found}, as stated"
    return False, f"{name}: SHA-256 is {found}; stated: {expected}"


def _check_file(name: str, expected: str, path: Path | None) -> tuple[bool, str]:
    if path is None:
        return True, f"{name}: not checked, no file given"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return False, f"{name}: cannot read {path}: {error.strerror}"
    return _check_digest(f"{name} ({path})", expected, found)


def _check_link(expected: str | None, previous: bytes | None) -> tuple[bool, str]:
    if previous is None:
        return True, f"previous receipt: not checked, stated: {expected or 'none'}"
    if expected is None:
        return False, "previous receipt: stated: none, but one was given"
    loads(previous, "previous receipt")
    return _check_digest("previous receipt", expected, hashlib.sha256(previous).hexdigest())


def _texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value with its path; a field's name counts as a text of its object."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield where, name
            yield from _texts(item, f"{where}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}[{number}]")


def _mentions(text: str, forbidden: str) -> bool:
    """Both in lower case; see `personal_data` for what counts.

    >>> _mentions("seen c-10492.png", "c-10492"), _mentions("torch 2.7.0", "7")
    (True, False)
    >>> _mentions("sample 7 is out", "7"), _mentions("7", "7")
    (True, True)
    """
    if len(forbidden) >= 4 and not forbidden.isdigit():
        return forbidden in text
    return re.search(rf"(?<![\w.:-]){re.escape(forbidden)}(?![\w:-]|\.\w)", text) is not None


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
