"""The test result says what the receipt says, by the same names."""

import copy
from typing import Any

import pytest

from qmu_edge.attestation.results import contradicts, result_of
from qmu_edge.io.digest import Sha256
from qmu_edge.receipt.receipt import loads
from tests.receipt.test_receipt import DROP, LEFT, VERDICT, made, made_old, make, sha

DIGEST = Sha256("d1" * 32)
GATES = ["latent_weights.integer", "parity.integer"]


def predicate(data: bytes) -> Any:
    return result_of(loads(data, "receipt"), DIGEST)["predicate"]


def test_it_is_about_the_same_files_and_names_what_it_was_judged_by() -> None:
    found = result_of(loads(made(), "receipt"), DIGEST)
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert found["subject"] == make()["subject"]
    assert found["predicate"]["configuration"] == [
        {"name": "receipt", "digest": {"sha256": DIGEST}},
        {"name": "recipe", "digest": {"sha256": sha(b"recipe")}},
        {"name": "split", "digest": {"sha256": sha(b"split")}},
    ]  # fmt: skip


def test_every_check_that_was_met_has_passed() -> None:
    found = predicate(made())
    assert found["result"] == "PASSED" and found["warnedTests"] == found["failedTests"] == []
    assert found["passedTests"] == sorted([*GATES, "all_samples_found", "deadline", "residual", "ta_drop"])


REQUEST = make()["predicate"]["request"]
UNMEASURED = {**VERDICT, "answer": "not_measurable", "residuals": [], "results": [DROP]}


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"verdict": UNMEASURED}, "residual"),
        ({"verdict": {**UNMEASURED, "results": [DROP, {**LEFT, "passed": False}]}}, "residual"),
        ({"outcome": "partial"}, "all_samples_found"),
        ({"request": {**REQUEST, "deadline_met": False}}, "deadline"),
    ],
)
def test_what_the_policy_lets_pass_is_a_warning(changes: Any, warned: str) -> None:
    found = predicate(made(**changes))
    assert (found["result"], found["warnedTests"], found["failedTests"]) == ("WARNED", [warned], [])


def test_a_missed_limit_has_failed_whatever_else_is_warned_of() -> None:
    missed = {**VERDICT, "passed": False, "results": [{**DROP, "passed": False}, LEFT]}
    found = predicate(made(verdict=missed, outcome="partial"))
    assert (found["result"], found["failedTests"]) == ("FAILED", ["ta_drop"])


def test_without_a_deadline_there_is_no_check_of_it() -> None:
    found = predicate(made(request={**REQUEST, "due": None, "deadline_met": None}))
    assert "deadline" not in str(found)


def test_a_receipt_of_version_1_has_one_verdict() -> None:
    assert predicate(made_old())["passedTests"] == sorted(
        [*GATES, "all_samples_found", "deadline", "verdict"]
    )


def test_what_the_receipt_says_contradicts_it_nowhere_and_other_versions_may_say_more() -> None:
    statement = loads(made(), "receipt")
    said = result_of(statement, DIGEST)
    assert not contradicts(said, statement, DIGEST)
    more: Any = copy.deepcopy(said)
    more["predicate"]["passedTests"].append("a later check")
    more["predicate"]["passedTests"].remove("deadline")
    more["predicate"]["note"] = "a later field"
    assert not contradicts(more, statement, DIGEST)


CHANGES: dict[str, tuple[tuple[str, ...], Any]] = {
    "another file": (("subject",), []),
    "another type": (("predicateType",), "https://in-toto.io/attestation/vulns/v0.1"),
    "another receipt": (
        ("predicate", "configuration"),
        [{"name": "receipt", "digest": {"sha256": "00" * 32}}],
    ),
    "no receipt": (("predicate", "configuration"), []),
    "another outcome": (("predicate", "warnedTests"), ["ta_drop"]),
    "a better result": (("predicate", "failedTests"), ["a later check"]),
    "nothing in common": (("predicate", "passedTests"), []),
    "no lists": (("predicate",), {}),
    "no list": (("predicate", "passedTests"), None),
    "a text": (("predicate", "configuration"), "receipt"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_says_otherwise_contradicts_it(name: str) -> None:
    statement = loads(made(), "receipt")
    said: Any = copy.deepcopy(result_of(statement, DIGEST))
    (*path, last), value = CHANGES[name]
    part = said
    for step in path:
        part = part[step]
    part[last] = value
    assert contradicts(said, statement, DIGEST)
