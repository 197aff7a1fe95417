"""`test-result.json`: which checks the released files have passed, in a form that policy engines know.

An in-toto statement of the type test-result v0.1 about the same files as the receipt, in the same envelope
with the same signature. Tests are called what the receipt calls them. It follows from the receipt alone, so
whoever has the receipt can hold the two against each other.

Source: https://github.com/in-toto/attestation, spec/predicates/test-result.md (v0.1).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypedDict

from qmu_edge.io.digest import Sha256
from qmu_edge.receipt.statement import STATEMENT_TYPE, PredicateV1, PredicateV2, Statement

TEST_RESULT: Final = "test-result.json"
PREDICATE_TYPE: Final = "https://in-toto.io/attestation/test-result/v0.1"
PASSED: Final = "PASSED"
WARNED: Final = "WARNED"
FAILED: Final = "FAILED"
_ABOUT: Final = ("_type", "subject", "predicateType")
_LISTS: Final = {PASSED: "passedTests", WARNED: "warnedTests", FAILED: "failedTests"}


class Digest(TypedDict):
    """A digest as in-toto writes it."""

    sha256: str


class Resource(TypedDict):
    """Something with a name, and its digest."""

    name: str
    digest: Digest


class Result(TypedDict):
    """The worst result, what was tested, and the names of all tests by what they came to."""

    result: str
    configuration: list[Resource]
    passedTests: list[str]
    warnedTests: list[str]
    failedTests: list[str]


class ResultStatement(TypedDict):
    """An in-toto statement whose predicate is a test result."""

    _type: str
    subject: list[Resource]
    predicateType: str
    predicate: Result


def result_of(statement: Statement, receipt: Sha256) -> ResultStatement:
    """The statement, ready for JSON.

    Args:
        statement: Of a receipt.
        receipt: Its digest.
    """
    said, tests = statement.predicate, sorted(_tests(statement.predicate))
    digests = {"receipt": receipt, "recipe": said.recipe, "split": said.split.digest}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": n, "digest": {"sha256": sha}} for n, sha in statement.files.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": _worst({outcome for _, outcome in tests}),
            "configuration": [{"name": n, "digest": {"sha256": sha}} for n, sha in digests.items()],
            "passedTests": [name for name, outcome in tests if outcome == PASSED],
            "warnedTests": [name for name, outcome in tests if outcome == WARNED],
            "failedTests": [name for name, outcome in tests if outcome == FAILED],
        },
    }


def contradicts(said: Mapping[str, Any], statement: Statement, receipt: Sha256) -> bool:
    """Whether a test result is about something else than a receipt, or says otherwise.

    Tests that only one of the two knows are passed over: other versions may name more.

    Args:
        said: The statement of the test result, from whoever signed it.
        statement: Of the receipt.
        receipt: Its digest.
    """
    ours = result_of(statement, receipt)
    try:
        about = [{**part} for part in said["predicate"]["configuration"] if part["name"] == "receipt"]
        same = [said[name] for name in _ABOUT] == [ours[name] for name in _ABOUT]
        theirs, mine = (_outcomes(document["predicate"]) for document in (said, ours))
        same &= said["predicate"]["result"] == _worst({*theirs.values()})
    except (KeyError, TypeError):
        return True
    told = theirs.keys() & mine.keys()
    same &= about == ours["predicate"]["configuration"][:1] and bool(told)
    return not same or any(theirs[name] != mine[name] for name in told)


def _outcomes(predicate: Mapping[str, Any]) -> dict[str, str]:
    return {test: outcome for outcome, name in _LISTS.items() for test in predicate[name]}


def _worst(outcomes: set[str]) -> str:
    return next((outcome for outcome in (FAILED, WARNED) if outcome in outcomes), PASSED)


def _tests(said: PredicateV2 | PredicateV1) -> Iterator[tuple[str, str]]:
    """Every check with what it came to.

    A warning is what a policy lets pass: nothing could be said of what is left, a part of the samples was not
    found, a deadline was missed.
    """
    yield from ((f"parity.{form}", PASSED) for form in said.metrics.parity)
    yield from ((f"latent_weights.{form}", PASSED) for form in said.metrics.latent_weights)
    if said.request.deadline_met is not None:
        yield "deadline", PASSED if said.request.deadline_met else WARNED
    yield "all_samples_found", WARNED if said.outcome == "partial" else PASSED
    if isinstance(said, PredicateV1):
        yield "verdict", PASSED if said.verdict.passed else FAILED
        return
    unmeasured = said.verdict.answer == "not_measurable" and said.verdict.passed
    results = {result.metric: PASSED if result.passed else FAILED for result in said.verdict.results}
    if unmeasured:
        results["residual"] = WARNED
    yield from results.items()
