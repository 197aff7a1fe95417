"""Everything that the verifier does with one file or one bundle."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from qmu_edge.verify import bundle
from qmu_edge.verify.arrays import read_golden, read_sets
from qmu_edge.verify.evaluation import Evaluation, evaluate, to_json
from qmu_edge.verify.latent_weights import latent_weight_gate
from qmu_edge.verify.onnx.reader import OnnxFile, read
from qmu_edge.verify.parity import compare, require_parity
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verdict import Thresholds, Verdict, forgotten_class, from_retrained, held_out, judge


def verify_file(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the arguments ask for.

    Args:
        options: As parsed by the command.

    Returns:
        The result, ready for JSON; `passed` says whether every threshold is met.

    Raises:
        QmuEdgeError: Any deliberate error.
    """
    result = verify_structure(read(options.model))
    if options.golden or options.data:
        runner = OrtRunner(options.model, threads=options.threads, optimization=options.optimization)
        if options.golden:
            images, logits = read_golden(options.golden)
            parity = compare(logits, runner.logits(images))
            require_parity(parity, min_inputs=options.min_golden)
            result["parity"] = to_json(parity)
        if options.data:
            evaluation, verdict = _judge(runner, options)
            result["evaluation"], result["verdict"] = to_json(evaluation), to_json(verdict)
            result["passed"] = verdict.passed
    return result


def verify_bundle(options: argparse.Namespace) -> dict[str, Any]:
    """The same for a bundle, after its digests and its signature.

    Args:
        options: As parsed by the command; the bundle's thresholds take the place of the defaults.

    Returns:
        As `verify_file`, and `bundle`: files, signature, receipt, latency in milliseconds, peak memory in
            mebibytes.

    Raises:
        QmuEdgeError: Any deliberate error.
    """
    with bundle.opened(options.model, options.key) as found:
        limits = {k: v for k, v in found.thresholds.items() if hasattr(options, k)}
        inner = argparse.Namespace(**{**vars(options), **limits, "model": found.model})
        result = verify_file(inner)
        runner = OrtRunner(found.model, threads=options.threads, optimization=options.optimization)
        images, logits = bundle.golden(found)
        parity = compare(logits, runner.logits(images))
        require_parity(parity, min_agreement=found.min_agreement, min_inputs=len(images))
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


def verify_structure(file: OnnxFile) -> dict[str, Any]:
    """Check the file alone: the latent-weight gate behind the model-file policy of `read`.

    Args:
        file: From `read`.

    Returns:
        What `--json` prints; `parity`, `evaluation` and `verdict` are None, `passed` is true.

    Raises:
        ExportError: See `latent_weight_gate`.
    """
    return {
        "file": str(file.path),
        "sha256": file.sha256,
        "bytes": len(file.data),
        "format": "qonnx" if file.is_qonnx else "onnx",
        "opset_imports": to_json(file.opset_imports),
        "latent_weights": to_json(latent_weight_gate(file)),
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
