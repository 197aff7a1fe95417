"""A verification as a table and as JUnit XML."""

from dataclasses import replace
from xml.etree import ElementTree

from qmu_edge.verify.render import junit, junit_error, table
from qmu_edge.verify.verdict import Check, Verdict
from tests.verify.results import JUDGED, PLAIN


def test_the_table_of_the_structure() -> None:
    assert table(PLAIN).splitlines() == [
        "file            model.onnx",
        f"sha256          {'0' * 64}",
        "bytes           1000",
        "latent weights  none in 1 weight tensors",
        "passed          yes",
    ]


def test_the_table_of_everything() -> None:
    assert table(JUDGED).splitlines()[4:] == [
        "parity          100.000% of 64 inputs",
        "FA              90.00% (85.00% to 95.00%, n = 100)",
        "RA              95.00% (90.00% to 100.00%, n = 100)",
        "TA              80.00% (75.00% to 85.00%, n = 100)",
        "MIA AUC         0.5000 (0.4000 to 0.6000)",
        "bundle          5 files as the manifest says",
        "signature       valid, key 12",
        "receipt         about model.onnx",
        "batch 1         p50 1.00 ms, p95 2.00 ms, p99 3.00 ms",
        "peak memory     12 MB",
        "fa_gap          0.1000, allowed 0.0500: FAILED",
        "ta_drop         not measured, allowed 0.0200: FAILED",
        "passed          no",
    ]


def test_junit_has_a_case_for_everything_and_a_failure_for_a_missed_threshold() -> None:
    suite = ElementTree.fromstring(junit(JUDGED))
    assert [case.get("name") for case in suite] == [
        "model file policy", "latent weights", "digests", "signature", "receipt", "parity", "fa_gap",
        "ta_drop",
    ]  # fmt: skip
    assert (suite.get("tests"), suite.get("failures")) == ("8", "2")
    messages = [failure.get("message") for failure in suite.iter("failure")]
    assert messages == ["0.1, allowed 0.05", "None, allowed 0.02"]


def test_junit_leaves_out_what_was_not_verified() -> None:
    passed = replace(PLAIN, verdict=Verdict(True, (Check("fa_gap", 0.01, 0.05, True),)))
    suite = ElementTree.fromstring(junit(passed))
    assert [case.get("name") for case in suite] == ["model file policy", "latent weights", "fa_gap"]
    assert suite.get("failures") == "0"
    assert JUDGED.bundle
    without = ElementTree.fromstring(junit(replace(JUDGED, bundle=replace(JUDGED.bundle, receipt=None))))
    assert "receipt" not in [case.get("name") for case in without]


def test_junit_of_an_error_is_one_failure() -> None:
    suite = ElementTree.fromstring(junit_error("model.onnx: <latent> & more"))
    (case,) = suite
    (failure,) = case
    assert (case.get("name"), failure.get("message")) == ("verify", "model.onnx: <latent> & more")
    assert suite.get("failures") == "1"
