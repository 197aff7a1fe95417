"""A verification as a table, and as JUnit XML."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from xml.etree import ElementTree

from qmu_edge.errors import printable
from qmu_edge.verify.evaluation import Evaluation
from qmu_edge.verify.rounding import Obstacle
from qmu_edge.verify.verdict import Check, told_check
from qmu_edge.verify.verification import BundleReport, Verification


def table(found: Verification) -> str:
    """One line for each figure."""
    lines = [
        f"file            {found.file}",
        f"sha256          {found.sha256}",
        f"bytes           {found.bytes}",
        f"latent weights  none in {len(found.latent_weights.weights)} weight tensors",
        f"same bits       {same_bits(found.obstacles)}",
    ]
    if found.parity:
        lines.append(f"parity          {found.parity.agreement:.3%} of {found.parity.n} inputs")
    if found.whole:
        lines.append(f"measured        {found.whole}, the file with all outputs; this one gives the same")
    if found.evaluation:
        lines += _evaluation_lines(found.evaluation)
    if found.bundle:
        lines += _bundle_lines(found.bundle)
    if found.verdict:
        lines += map(_check_line, found.verdict.checks)
        lines.append(f"answer          {found.verdict.answer or 'none'}")
        lines += [f"                {found.verdict.why}"] if found.verdict.why else []
    # Line by line: the name of a tensor is anybody's, and "passed" is ours to say.
    return "\n".join(map(printable, [*lines, f"passed          {_outcome(found)}"]))


def _outcome(found: Verification) -> str:
    """The last line: also how much it is worth."""
    about = found.bundle
    if about is not None and not about.covered:
        return "no: not covered by a receipt"
    if about is not None and about.vouched_by is None and found.passed:
        return "yes, by its own account: nobody vouches for it, no trusted key was given (--key)"
    return "yes" if found.passed else "no"


def same_bits(obstacles: Sequence[Obstacle | str]) -> str:
    """Whether a file computes the same on every processor, for people, from its obstacles or their texts.

    >>> same_bits([])
    'on every processor: proven'
    >>> same_bits([Obstacle("x", "a bias in floats"), Obstacle("y", "a step")])
    'not proven for every processor: x: a bias in floats (and 1 more)'
    """
    if not obstacles:
        return "on every processor: proven"
    more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
    return f"not proven for every processor: {obstacles[0]}{more}"


def _evaluation_lines(evaluation: Evaluation) -> Iterator[str]:
    accuracies = {"FA": evaluation.fa, "RA": evaluation.ra, "TA": evaluation.ta, "VA": evaluation.va}
    for name, found in accuracies.items():
        if found:
            yield f"{name:15} {found.value:.2%} ({found.low:.2%} to {found.high:.2%}, n = {found.n})"
    if auc := evaluation.mia_auc:
        yield f"MIA AUC         {auc.value:.4f} ({auc.low:.4f} to {auc.high:.4f})"


def _bundle_lines(bundle: BundleReport) -> Iterator[str]:
    yield f"bundle          {bundle.files} files as the manifest says"
    yield f"signature       {bundle.signature}"
    yield f"number          {bundle.number}"
    yield f"receipt         {bundle.receipt}"
    for name, other in bundle.others.items():
        what = other if isinstance(other, str) else f"{other.agreement:.3%} of {other.n} inputs"
        yield f"{name:15} {what}"
    for batch, times in bundle.latency_ms.items():
        yield f"{batch:15} " + ", ".join(f"{p} {ms:.2f} ms" for p, ms in asdict(times).items())
    if bundle.peak_mb is not None:
        yield f"peak memory     {bundle.peak_mb:.0f} MB"


def _check_line(check: Check) -> str:
    failed = "FAILED" if check.measured else "not shown"
    word = "too few images to tell" if check.undecided else "ok" if check.passed else failed
    return f"{check.name:15} {told_check(check)}, allowed {check.allowed:.4f}: {word}"


def junit(found: Verification) -> str:
    """JUnit XML, one case for each thing that was verified; a missed threshold is a failure."""
    cases = {"model file policy": "", "latent weights": ""}
    if found.bundle:
        cases |= {"digests": ""} | ({"signature": ""} if found.bundle.vouched_by else {})
        cases["receipt"] = "" if found.bundle.covered else f"not covered: {found.bundle.receipt}"
    if found.parity:
        cases["parity"] = ""
    for check in found.verdict.checks if found.verdict else ():
        cases[check.name] = "" if check.passed else f"{told_check(check)}, allowed {check.allowed}"
    return _suite(cases)


def junit_error(message: str) -> str:
    """JUnit XML of a verification that ended in an error."""
    return _suite({"verify": message})


def _suite(cases: dict[str, str]) -> str:
    """JUnit XML from the message of each case, which is empty where it passed."""
    suite = ElementTree.Element(
        "testsuite",
        name="qmu_edge.verify",
        tests=str(len(cases)),
        failures=str(sum(map(bool, cases.values()))),
    )
    for name, message in cases.items():
        case = ElementTree.SubElement(suite, "testcase", classname="qmu_edge.verify", name=printable(name))
        if message:
            ElementTree.SubElement(case, "failure", message=printable(message))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
