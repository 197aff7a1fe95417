"""A receipt held against its signature, the files that it names, its verdict and earlier receipts."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmu_edge.errors import LedgerError
from qmu_edge.receipt.envelope import key_name
from qmu_edge.receipt.receipt import loads, signer

if TYPE_CHECKING:
    pass


def verify(
    data: bytes,
    *,
    files: Mapping[str, Path],
    digests: Sequence[str] = (),
    previous: Sequence[bytes] = (),
    keys: Sequence[bytes] = (),
) -> list[str]:
    """Hold a receipt against the files it speaks of; needs nothing but these arguments.

    Args:
        data: The receipt.
        files: Subject name to file, as many as there are at hand.
        digests: SHA-256 of files that are elsewhere, as a device reports them.
        previous: The receipts before this one, newest first, to check the links. The newest vouches for
            the older ones, so theirs may be signed by a key that is trusted no longer.
        keys: Public keys that you trust. Without one, a receipt that somebody wrote anew with a key
            of his own is not noticed.

    Returns:
        One line for each thing that was checked, and for each that was not.

    Raises:
        LedgerError: Something does not hold; every such thing is named.
    """
    statement = loads(data, "receipt")
    expected = {file["name"]: file["digest"]["sha256"] for file in statement["subject"]}
    checks = [_check_signer(signer(data), keys)]
    for name, sha in expected.items():
        if name in files or sha not in digests:
            checks.append(_check_file(name, sha, files.get(name)))
    checks += [(False, f"{name}: not a subject") for name in sorted(files.keys() - expected.keys())]
    checks += [_check_reported(digest, expected) for digest in digests]
    checks.append(_check_verdict(statement["predicate"]["verdict"]))
    checks += _check_links(statement["predicate"]["previous"], previous)
    if not all(holds for holds, _ in checks):
        raise LedgerError("receipt: " + "; ".join(line for holds, line in checks if not holds))
    return [line for _, line in checks]


def _check_signer(public_key: bytes, keys: Sequence[bytes]) -> tuple[bool, str]:
    name = key_name(public_key)
    if not keys:
        return True, f"signature: holds, key {name}; compared with no key, so it does not tell who signed"
    if public_key in keys:
        return True, f"signature: holds, key {name}, which is trusted"
    return False, f"signature: by key {name}; trusted: {', '.join(map(key_name, keys))}"


def _check_digest(name: str, expected: str, found: str) -> tuple[bool, str]:
    if found == expected:
        return True, f"{name}: SHA-256 {found}, as stated"
    return False, f"{name}: SHA-256 is {found}; stated: {expected}"


def _check_file(name: str, expected: str, path: Path | None) -> tuple[bool, str]:
    if path is None:
        return True, f"{name}: not checked, no file given"
    if not path.is_file():  # a pipe would be waited for
        return False, f"{name}: cannot read {path}: no such file, or not a regular one"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return False, f"{name}: cannot read {path}: {error.strerror}"
    return _check_digest(f"{name} ({path})", expected, found)


def _check_reported(digest: str, expected: Mapping[str, str]) -> tuple[bool, str]:
    names = [name for name, sha in expected.items() if sha == digest]
    if names:
        return True, f"{names[0]}: SHA-256 {digest}, as stated"
    return False, f"SHA-256 {digest} is none of {', '.join(f'{n} {s}' for n, s in expected.items())}"


def _check_verdict(verdict: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the verdict is what its own numbers say."""
    checks = verdict["checks"]
    met = [c["value"] is not None and c["value"] <= c["allowed"] + 1e-12 for c in checks]
    if [c["passed"] for c in checks] != met or verdict["passed"] != (bool(met) and all(met)):
        return False, "verdict: not what its values and limits say"
    word = "passed" if verdict["passed"] else "not passed"
    return True, f"verdict: {word}, as its {len(checks)} values and limits say"


def _check_links(expected: str | None, previous: Sequence[bytes]) -> Iterator[tuple[bool, str]]:
    for data in previous:
        if expected is None:
            yield False, "previous receipt: stated: none, but one was given"
            return
        statement = loads(data, "previous receipt")
        yield _check_digest("previous receipt", expected, hashlib.sha256(data).hexdigest())
        expected = statement["predicate"]["previous"]
    if not previous:
        yield True, f"previous receipt: not checked, stated: {expected or 'none'}"
