"""A verification as a table and as JUnit XML."""

from dataclasses import replace
from xml.etree import ElementTree

from qmu_edge.verify.render import junit, junit_error, table
from qmu_edge.verify.rounding import Obstacle
from qmu_edge.verify.verdict import Answer, Bound, Check, Verdict
from tests.verify.results import JUDGED, PLAIN


def test_the_table_of_the_structure() -> None:
    assert table(PLAIN).splitlines() == [
        "file            model.onnx",
        f"sha256          {'0' * 64}",
        "bytes           1000",
        "latent weights  none in 1 weight tensors",
        "same bits       on every processor: proven",
        "passed          yes",
    ]


def test_the_table_of_everything() -> None:
    assert table(JUDGED).splitlines()[5:] == [
        "parity          100.000% of 64 inputs",
        "FA              90.00% (85.00% to 95.00%, n = 100)",
        "RA              95.00% (90.00% to 100.00%, n = 100)",
        "TA              80.00% (75.00% to 85.00%, n = 100)",
        "MIA AUC         0.5000 (0.4000 to 0.6000)",
        "bundle          5 files as the manifest says",
        "signature       valid, key 12",
        "number          3",
        "receipt         about model.onnx",
        "b.onnx          100.000% of 64 inputs",
        "c.onnx          not run: too new",
        "batch 1         p50 1.00 ms, p95 2.00 ms, p99 3.00 ms",
        "peak memory     12 MB",
        "ta_drop         0.1000 (0.0600 to 0.1400), allowed 0.0200: FAILED",
        "residual        not measured, allowed 0.2500: not shown",
        "answer          inconclusive",
        "                too few",
        "passed          no",
    ]


def test_a_check_that_too_few_images_have_passed_says_so() -> None:
    checks = (
        Check("ta_drop", 0.03, 0.02, True, -0.01, 0.07, Bound.LOW, 40),
        Check("unchanged_codes", 0.5, 0.9, True),
    )
    lines = table(replace(PLAIN, verdict=Verdict(passed=True, checks=checks, answer=Answer.FORGOTTEN)))
    assert lines.splitlines()[5:] == [
        "ta_drop         0.0300 (-0.0100 to 0.0700), allowed 0.0200: too few images to tell",
        "unchanged_codes 0.5000, allowed 0.9000: ok",
        "answer          forgotten",
        "passed          yes",
    ]


def test_junit_has_a_case_for_everything_and_a_failure_for_a_missed_threshold() -> None:
    suite = ElementTree.fromstring(junit(JUDGED))
    assert [case.get("name") for case in suite] == [
        "model file policy", "latent weights", "digests", "signature", "receipt", "parity", "ta_drop",
        "residual",
    ]  # fmt: skip
    assert (suite.get("tests"), suite.get("failures")) == ("8", "2")
    messages = [failure.get("message") for failure in suite.iter("failure")]
    assert messages == ["0.1000 (0.0600 to 0.1400), allowed 0.02", "not measured, allowed 0.25"]


def test_junit_leaves_out_what_was_not_verified() -> None:
    passed = replace(PLAIN, verdict=Verdict(passed=True, checks=(Check("ta_drop", 0.01, 0.02, True),)))
    suite = ElementTree.fromstring(junit(passed))
    assert [case.get("name") for case in suite] == ["model file policy", "latent weights", "ta_drop"]
    assert suite.get("failures") == "0"
    assert JUDGED.bundle
    unsigned = replace(JUDGED.bundle, vouched_by=None, covered=False, receipt="none")
    suite = ElementTree.fromstring(junit(replace(PLAIN, bundle=unsigned)))
    assert "signature" not in [case.get("name") for case in suite]
    assert [failure.get("message") for failure in suite.iter("failure")] == ["not covered: none"]


def test_the_last_line_says_how_much_it_is_worth() -> None:
    assert JUDGED.bundle
    own = replace(JUDGED.bundle, vouched_by=None)
    last = {
        "passed          yes": JUDGED.bundle,
        "passed          yes, by its own account: nobody vouches for it, no trusted key was given (--key)": (
            own
        ),
        "passed          no: not covered by a receipt": replace(JUDGED.bundle, covered=False),
    }
    for line, about in last.items():
        assert table(replace(PLAIN, bundle=about)).splitlines()[-1] == line
    assert not replace(PLAIN, bundle=replace(own, covered=False)).passed
    document = replace(PLAIN, bundle=own).to_json()
    assert document["bundle"]["vouched_by"] is None


def test_junit_of_an_error_is_one_failure() -> None:
    suite = ElementTree.fromstring(junit_error("model.onnx: <latent> & more"))
    (case,) = suite
    (failure,) = case
    assert (case.get("name"), failure.get("message")) == ("verify", "model.onnx: <latent> & more")
    assert suite.get("failures") == "1"


def test_a_name_out_of_a_file_or_a_bundle_forges_no_line_and_steers_no_terminal() -> None:
    assert JUDGED.bundle
    hostile = "x\x1b[2J\r\npassed          yes\x85\u202e\x07\x9b"
    about = replace(
        JUDGED.bundle, signature=hostile, receipt=hostile, others={hostile: hostile}, covered=False
    )
    found = replace(PLAIN, file=hostile, obstacles=(Obstacle(hostile, hostile),), bundle=about)
    lines = table(found).split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("passed")] == [
        "passed          no: not covered by a receipt"
    ]
    assert (
        ElementTree.fromstring(junit(found)) is not None
    )  # well-formed: XML has no place for such characters
