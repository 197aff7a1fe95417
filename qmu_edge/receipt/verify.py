"""Verify a receipt: its signature, the files that it names, its verdict, and the receipts before it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from qmu_edge.errors import IntegrityError, LedgerError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import file_digest
from qmu_edge.receipt.envelope import key_name
from qmu_edge.receipt.receipt import loads, signer
from qmu_edge.receipt.statement import EvaluationResult, PredicateV1, PredicateV2, Verdict

_LIMITED: Final = ("residual", "ta_drop", "ra_drop")  # results that the policy sets a limit for
Finding = tuple[bool, str]  # whether it holds, and the line that says so


def verify(
    data: bytes,
    *,
    files: Mapping[str, Path],
    digests: Sequence[str] = (),
    previous: Sequence[bytes] = (),
    keys: Sequence[bytes] = (),
) -> list[str]:
    """Verify a receipt with nothing but these arguments.

    Args:
        data: The receipt.
        files: Subject name to file, as many as there are at hand.
        digests: SHA-256 of files that are elsewhere, as a device reports them.
        previous: The receipts before this one, newest first, to check the links. The newest vouches for
            the older ones, so theirs may be signed by a key that is trusted no longer.
        keys: Public keys that you trust. Without one, a receipt that somebody wrote anew with a key
            of his own is not noticed.

    Returns:
        One line for each thing that was verified, and for each that was not.

    Raises:
        LedgerError: Something does not hold; every such thing is named.
    """
    statement = loads(data, "receipt")
    stated = statement.files
    found = [_verify_signer(signer(data), keys)]
    for name, sha in stated.items():
        if name in files or sha not in digests:
            found.append(_verify_file(name, sha, files.get(name)))
    found += [(False, f"{name}: not a subject") for name in sorted(files.keys() - stated.keys())]
    found += [_verify_reported(digest, stated) for digest in digests]
    found.append(_verify_verdict(statement.predicate))
    found += _verify_links(statement.predicate.previous, previous)
    if not all(holds for holds, _ in found):
        raise LedgerError("receipt: " + "; ".join(line for holds, line in found if not holds))
    return [line for _, line in found]


def _verify_signer(public_key: bytes, keys: Sequence[bytes]) -> Finding:
    name = key_name(public_key)
    if not keys:
        return True, f"signature: holds, key {name}; compared with no key, so it does not tell who signed"
    if public_key in keys:
        return True, f"signature: holds, key {name}, which is trusted"
    return False, f"signature: by key {name}; trusted: {', '.join(map(key_name, keys))}"


def _compare(name: str, expected: Sha256, found: Sha256) -> Finding:
    if found == expected:
        return True, f"{name}: SHA-256 {found}, as stated"
    return False, f"{name}: SHA-256 is {found}; stated: {expected}"


def _verify_file(name: str, expected: Sha256, path: Path | None) -> Finding:
    if path is None:
        return True, f"{name}: not checked, no file given"
    if not path.is_file():  # a pipe would be waited for
        return False, f"{name}: cannot read {path}: no such file, or not a regular one"
    try:
        found = file_digest(path)
    except IntegrityError as error:
        return False, f"{name}: {error}"
    return _compare(f"{name} ({path})", expected, found)


def _verify_reported(digest: str, stated: Mapping[str, Sha256]) -> Finding:
    names = [name for name, sha in stated.items() if sha == digest]
    if names:
        return True, f"{names[0]}: SHA-256 {digest}, as stated"
    return False, f"SHA-256 {digest} is none of {', '.join(f'{n} {s}' for n, s in stated.items())}"


def _verify_verdict(predicate: PredicateV2 | PredicateV1) -> Finding:
    """Whether the verdict is what its own numbers say, and the policy's limits."""
    if isinstance(predicate, PredicateV1):
        old = predicate.verdict
        met = [c.value is not None and c.value <= c.allowed + 1e-12 for c in old.checks]
        right = [c.passed for c in old.checks] == met and old.passed == (bool(met) and all(met))
        word = _word(old.passed)
    else:
        verdict, exact = predicate.verdict, predicate.method.category == "exact"
        met = [_is_met(result) for result in verdict.results]
        right = [r.passed for r in verdict.results] == met and verdict.passed == _passes(verdict, met)
        limits = {r.metric: r.threshold for r in verdict.results if r.metric in _LIMITED}
        right &= all(
            predicate.thresholds.get(f"max_{name}", limit) == limit for name, limit in limits.items()
        )
        right &= exact == (verdict.answer == "retrained")
        word = f"{verdict.answer.replace('_', ' ')}, {_word(verdict.passed)}"
    if not right:
        return False, "verdict: not what its values and limits say"
    return True, f"verdict: {word}, as its {len(met)} values and limits say"


def _word(passed: bool) -> str:
    return "passed" if passed else "not passed"


def _is_met(result: EvaluationResult) -> bool:
    found = getattr(result, result.bound)
    return found is not None and found <= result.threshold + 1e-12


def _passes(verdict: Verdict, met: Sequence[bool]) -> bool:
    """Where nothing could be measured, the policy may release all the same: then accuracy alone counts."""
    judged = [m for r, m in zip(verdict.results, met, strict=True) if r.metric != "residual"]
    changed = verdict.codes.changed > 0 or verdict.answer == "retrained"
    if verdict.answer == "not_measurable":
        return verdict.passed and all(judged) and changed
    known = bool(verdict.residuals) and all(r.detected for r in verdict.residuals)
    shown = verdict.answer == "forgotten" and known and len(judged) < len(met)
    return (shown or verdict.answer == "retrained") and all(met) and changed


def _verify_links(expected: Sha256 | None, previous: Sequence[bytes]) -> Iterator[Finding]:
    for data in previous:
        if expected is None:
            yield False, "previous receipt: stated: none, but one was given"
            return
        statement = loads(data, "previous receipt")
        yield _compare("previous receipt", expected, sha256_of(data))
        expected = statement.predicate.previous
    if not previous:
        yield True, f"previous receipt: not checked, stated: {expected or 'none'}"
