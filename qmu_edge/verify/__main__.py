"""The verifier as a command: `python -m qmu_edge.verify MODEL.onnx|BUNDLE [--data SETS.npz] ...`.

Structural checks and the latent-weight gate always run. A bundle brings golden inputs and thresholds; its
digests and signature are checked first, latency and memory reported. For a single file `--golden`
compares with recorded logits. With `--data` the file is evaluated and judged. The result goes to stdout,
messages go to stderr, and the exit status is that of `qmu_edge.errors`: 7 for a missed threshold.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from qmu_edge.errors import QmuEdgeError, VerificationFailed
from qmu_edge.verify import bundle
from qmu_edge.verify.gates import check_latent_weights
from qmu_edge.verify.onnx_file import OnnxFile, read
from qmu_edge.verify.parity import check_parity, compare
from qmu_edge.verify.report import (
    Evaluation,
    Thresholds,
    Verdict,
    evaluate,
    forgotten_class,
    from_retrained,
    held_out,
    judge,
    to_json,
)
from qmu_edge.verify.runner import OPTIMIZATION, OrtRunner
from qmu_edge.verify.sets import read_golden, read_sets


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        result = run_bundle(options) if bundle.is_bundle(options.model) else run(options)
    except QmuEdgeError as error:
        print(f"qmu_edge.verify: {error}", file=sys.stderr)
        if options.junit:
            options.junit.write_text(junit({}, str(error)), "utf-8")
        return error.exit_code
    if options.junit:
        options.junit.write_text(junit(result), "utf-8")
    print(json.dumps(result, indent=2, sort_keys=True) if options.json else _table(result))
    if result["passed"]:
        return 0
    print(f"qmu_edge.verify: {options.model}: a threshold is not met", file=sys.stderr)
    return VerificationFailed.exit_code


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the arguments ask for.

    Args:
        options: As parsed by the command.

    Returns:
        The result, ready for JSON; `passed` says whether every threshold is met.

    Raises:
        QmuEdgeError: Any deliberate error.
    """
    result = describe(read(options.model))
    if options.golden or options.data:
        runner = OrtRunner(options.model, threads=options.threads, optimization=options.optimization)
        if options.golden:
            images, logits = read_golden(options.golden)
            parity = compare(logits, runner.logits(images))
            check_parity(parity, min_inputs=options.min_golden)
            result["parity"] = to_json(parity)
        if options.data:
            evaluation, verdict = _judge(runner, options)
            result["evaluation"], result["verdict"] = to_json(evaluation), to_json(verdict)
            result["passed"] = verdict.passed
    return result


def run_bundle(options: argparse.Namespace) -> dict[str, Any]:
    """The same for a bundle, after its digests and its signature.

    Args:
        options: As parsed by the command; the bundle's thresholds take the place of the defaults.

    Returns:
        As `run`, and `bundle`: files, signature, receipt, latency in milliseconds, memory in megabytes.

    Raises:
        QmuEdgeError: Any deliberate error.
    """
    with bundle.opened(options.model, options.key) as found:
        limits = {k: v for k, v in found.thresholds.items() if hasattr(options, k)}
        inner = argparse.Namespace(**{**vars(options), **limits, "model": found.model})
        result = run(inner)
        runner = OrtRunner(found.model, threads=options.threads, optimization=options.optimization)
        images, logits = bundle.golden(found)
        parity = compare(logits, runner.logits(images))
        check_parity(parity, min_agreement=found.min_agreement, min_inputs=len(images))
        result["file"] = found.model.name
        result["parity"] = to_json(parity)
        result["bundle"] = {
            "path": str(options.model),
            "files": found.files,
            "signature": found.signature,
            "receipt": found.receipt,
            "latency_ms": {f"batch {n}": bundle.latency(runner, images, batch=n) for n in (1, 64)},
            "peak_mb": bundle.peak_megabytes(),
        }
    return result


def junit(result: dict[str, Any], error: str = "") -> str:
    """The result as JUnit XML, one case for each check."""
    cases = [("verify", error)] if error else [("model file policy", ""), ("latent weights", "")]
    if result.get("bundle"):
        cases += [("digests", ""), ("signature", "")]
        cases += [("receipt", "")] if result["bundle"]["receipt"] else []
    if result.get("parity"):
        cases.append(("parity", ""))
    for check in (result.get("verdict") or {}).get("checks", ()):
        missed = f"{check['value']}, allowed {check['allowed']}"
        cases.append((check["name"], "" if check["passed"] else missed))
    suite = ElementTree.Element(
        "testsuite",
        name="qmu_edge.verify",
        tests=str(len(cases)),
        failures=str(sum(bool(m) for _, m in cases)),
    )
    for name, message in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="qmu_edge.verify", name=name)
        if message:
            ElementTree.SubElement(case, "failure", message=message)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def describe(file: OnnxFile) -> dict[str, Any]:
    """Check the file alone: the latent-weight gate behind the model-file policy of `read`.

    Args:
        file: From `read`.

    Returns:
        What `--json` prints; `parity`, `evaluation` and `verdict` are None, `passed` is true.

    Raises:
        ExportError: See `check_latent_weights`.
    """
    return {
        "file": str(file.path),
        "sha256": file.sha256,
        "bytes": len(file.data),
        "format": "qonnx" if file.is_qonnx else "onnx",
        "opset_imports": to_json(file.opset_imports),
        "latent_weights": to_json(check_latent_weights(file)),
        "parity": None,
        "evaluation": None,
        "verdict": None,
        "passed": True,
    }


def _judge(runner: OrtRunner, options: argparse.Namespace) -> tuple[Evaluation, Verdict]:
    sets = read_sets(options.data)
    evaluation, _ = evaluate(runner, sets)
    before = _other(options.before, sets, options)
    retrained = _other(options.retrained, sets, options)
    if retrained:
        reference = from_retrained(retrained)
    elif options.forgotten_class:
        reference = forgotten_class(before)
    else:
        reference = held_out(evaluation, before)
    limits = Thresholds(**{f.name: getattr(options, f.name) for f in fields(Thresholds)})
    return evaluation, judge(evaluation, reference, limits, before)


def _other(path: Path | None, sets: Any, options: argparse.Namespace) -> Evaluation | None:
    if path is None:
        return None
    runner = OrtRunner(path, threads=options.threads, optimization=options.optimization)
    return evaluate(runner, sets)[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qmu_edge.verify", description="Verify an exported model file."
    )
    parser.add_argument("model", type=Path, help="the ONNX file; or a bundle, folder or .tar")
    parser.add_argument("--key", type=Path, help="the public key that must have signed the bundle")
    parser.add_argument("--junit", type=Path, help="write the checks there as JUnit XML")
    parser.add_argument("--data", type=Path, help=".npz: forget_images, forget_labels, test_...")
    parser.add_argument("--golden", type=Path, help=".npz: images and the logits to expect")
    parser.add_argument("--min-golden", type=int, default=1000, help="fewest golden inputs")
    parser.add_argument("--before", type=Path, help="the file before unlearning: TA, RA to keep")
    expected = parser.add_mutually_exclusive_group()
    expected.add_argument("--retrained", type=Path, help="a file retrained without the data")
    expected.add_argument("--forgotten-class", action="store_true", help="expect FA 0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimization", choices=[*OPTIMIZATION], default="all")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    for limit in fields(Thresholds):
        flag = "--" + limit.name.replace("_", "-")
        parser.add_argument(
            flag, type=_limit, default=limit.default, help=f"fraction or 'none' ({limit.default})"
        )
    return parser


def _limit(text: str) -> float | None:
    value = None if text == "none" else float(text)
    if value is not None and not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no fraction; allowed 0 to 1, or none")
    return value


def _table(result: dict[str, Any]) -> str:
    weights = result["latent_weights"]["weights"]
    lines = [
        f"file            {result['file']}",
        f"sha256          {result['sha256']}",
        f"bytes           {result['bytes']}",
        f"latent weights  none in {len(weights)} weight tensors",
    ]
    if parity := result["parity"]:
        lines.append(f"parity          {parity['agreement']:.3%} of {parity['n']} inputs")
    for name in ("fa", "ra", "ta", "va"):
        if found := (result["evaluation"] or {}).get(name):
            interval = f"{found['low']:.2%} to {found['high']:.2%}, n = {found['n']}"
            lines.append(f"{name.upper():15} {found['value']:.2%} ({interval})")
    if found := (result["evaluation"] or {}).get("mia_auc"):
        interval = f"{found['low']:.4f} to {found['high']:.4f}"
        lines.append(f"MIA AUC         {found['value']:.4f} ({interval})")
    if about := result.get("bundle"):
        lines.append(f"bundle          {about['files']} files as the manifest says")
        lines.append(f"signature       {about['signature']}")
        lines.append(f"receipt         {about['receipt'] or 'none'}")
        for batch, ms in about["latency_ms"].items():
            lines.append(f"{batch:15} " + ", ".join(f"{p} {t:.2f} ms" for p, t in ms.items()))
        if about["peak_mb"] is not None:
            lines.append(f"peak memory     {about['peak_mb']:.0f} MB")
    for check in (result["verdict"] or {}).get("checks", ()):
        value = "not measured" if check["value"] is None else f"{check['value']:.4f}"
        word = "ok" if check["passed"] else "FAILED"
        lines.append(f"{check['name']:15} {value}, allowed {check['allowed']:.4f}: {word}")
    return "\n".join([*lines, f"passed          {'yes' if result['passed'] else 'no'}"])


if __name__ == "__main__":
    sys.exit(main())
