"""The whole verification of one file or one bundle, as the command runs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.plain import to_json
from qmu_edge.verify import newest
from qmu_edge.verify.arrays import MeasuredSets, read_golden, read_sets
from qmu_edge.verify.bundle import Bundle, golden
from qmu_edge.verify.codes_changed import codes_changed
from qmu_edge.verify.evaluation import Evaluation, SetName, evaluate, seen
from qmu_edge.verify.exactness import obstacles
from qmu_edge.verify.latent_weights import LatentReport, latent_weight_gate
from qmu_edge.verify.manifest import Manifest
from qmu_edge.verify.onnx.graph import Dialect, OnnxFile
from qmu_edge.verify.onnx.operators import require_bounded
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.outputs import require_same_outputs
from qmu_edge.verify.parity import Parity, compare, require_parity
from qmu_edge.verify.performance import Latency, latency, peak_mebibytes
from qmu_edge.verify.plain import VerificationJson
from qmu_edge.verify.residual import Compared
from qmu_edge.verify.rounding import Obstacle
from qmu_edge.verify.session import OrtRunner, clips_pairs, lacking
from qmu_edge.verify.verdict import Terms, Thresholds, Verdict, judge

Golden = tuple[NDArray[np.uint8], NDArray[np.float32]]  # inputs (n, c, h, w) of a bundle, and logits (n, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to do with a file beyond its structure.

    Attributes:
        data: An `.npz` file with the sets to measure it on, see `read_sets`; None for no evaluation.
        golden: An `.npz` file with inputs and the logits to expect, see `read_golden`.
        min_golden: Fewest golden inputs that say anything.
        before: The file before unlearning: what it knew, and its TA and RA, are compared with.
        whole: The file with all outputs, where outputs of deleted classes were taken out: it is judged, and
            the file must give the same.
        forgotten_class: The forget set is whole classes.
        threads: Of onnxruntime.
        optimization: Of onnxruntime, see `OrtRunner`.
        limits: Thresholds that were asked for, by their names in `Thresholds`; None for no limit.
        state: Where a device keeps the highest number of a bundle that it accepted, see `newest`.
        not_older_than: The lowest number of a bundle that is accepted.
    """

    data: Path | None = None
    golden: Path | None = None
    min_golden: int = 1000
    before: Path | None = None
    whole: Path | None = None
    forgotten_class: bool = False
    threads: int = 1
    optimization: str = "all"
    limits: Mapping[str, float | None] = field(default_factory=dict)
    state: Path | None = None
    not_older_than: int | None = None

    @property
    def thresholds(self) -> Thresholds:
        """Those that were asked for, and the defaults."""
        return Thresholds(**self.limits)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """What is known about a bundle beyond its model.

    Attributes:
        path: The bundle.
        files: How many files are as the manifest says.
        signature, receipt, number: What is known about them, for people.
        vouched_by: Name of the trusted key that has signed it; None where nobody vouches for it.
        covered: Whether a receipt covers all its model files; before the first deletion none has to.
        others: Of every other model file, its agreement with the golden logits, or why it was not run.
        latency_ms: By "batch 1" and "batch 64".
        peak_mb: Largest resident memory in MiB; None where the system does not tell.
    """

    path: str
    files: int
    signature: str
    vouched_by: str | None
    receipt: str
    covered: bool
    number: str
    others: Mapping[str, Parity | str]
    latency_ms: Mapping[str, Latency]
    peak_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found about one file; a field is None where it was not asked for.

    Attributes:
        file: Its path, or its name in a bundle.
        sha256, bytes: Its digest and size.
        format: Whose operators it holds.
        opset_imports: Version by domain.
        latent_weights: Report of the latent-weight gate.
        obstacles: What keeps it from being proven to compute the same bits on every processor.
        parity: Agreement with the golden logits.
        whole: Digest of the file with all outputs that was measured in its place; left out without one.
        evaluation, verdict: What it does on the data, and whether the thresholds are met.
        bundle: Of a bundle only.
    """

    file: str
    sha256: Sha256
    bytes: int
    format: Dialect
    opset_imports: Mapping[str, int]
    latent_weights: LatentReport
    obstacles: tuple[Obstacle, ...]
    parity: Parity | None = None
    whole: Sha256 | None = None
    evaluation: Evaluation | None = None
    verdict: Verdict | None = None
    bundle: BundleReport | None = None

    @property
    def passed(self) -> bool:
        """Whether every threshold is met, and a bundle is covered; a file that was not judged passes."""
        covered = self.bundle is None or self.bundle.covered
        return covered and (self.verdict is None or self.verdict.passed)

    def to_json(self) -> VerificationJson:
        """What `--json` prints; `bundle` and `whole` come last, and are left out where there is none."""
        found: VerificationJson = to_json(self)
        found["passed"] = self.passed
        if (bundle := found.pop("bundle", None)) is not None:
            found["bundle"] = bundle
        if (whole := found.pop("whole", None)) is not None:
            found["whole"] = whole
        return found


def verify_structure(file: OnnxFile) -> Verification:
    """Verify a file by itself: the latent-weight gate, then operators and their bounds.

    Args:
        file: From `read`, which has applied the model-file policy.

    Raises:
        ExportError: See `latent_weight_gate` and `require_bounded`.
    """
    latent_weights = latent_weight_gate(file)
    require_bounded(file)
    return Verification(
        file=str(file.path),
        sha256=file.sha256,
        bytes=len(file.data),
        format=file.dialect,
        opset_imports=file.opset_imports,
        latent_weights=latent_weights,
        obstacles=obstacles(file),
    )


def verify_file(path: Path, options: Options) -> Verification:
    """Verify a file: its structure, then what the options ask for.

    Raises:
        QmuEdgeError: Any deliberate error but a threshold that is missed.
    """
    return _verified(read(path), options)


def _verified(file: OnnxFile, options: Options) -> Verification:
    found = verify_structure(file)
    _require_wide_sums(found)
    if options.golden or options.data:
        runner = _runner(file, options)
        if options.golden:
            images, logits = read_golden(options.golden)
            parity = compare(logits, runner.logits(images))
            require_parity(parity, min_inputs=options.min_golden)
            found = replace(found, parity=parity)
        if options.data:
            sets = read_sets(options.data)
            measured = _measured(runner, sets, options)
            evaluation, verdict = _judge(measured, runner, sets, options)
            whole = None if measured is runner else measured.sha256
            found = replace(found, whole=whole, evaluation=evaluation, verdict=verdict)
    return found


def verify_bundle(opened: Bundle, options: Options) -> Verification:
    """Verify a bundle: its number and receipt, then its model as `verify_file` does.

    The golden inputs must agree as the manifest says. Of its thresholds and those asked for, the stricter
    count.

    Args:
        opened: From `read_bundle`, which has verified files and signature.
        options: See `Options`.

    Raises:
        QmuEdgeError: Any deliberate error but a threshold that is missed.
    """
    path, manifest, state = opened.path, opened.manifest, options.state
    if state is not None and opened.vouched_by is None:
        raise ConfigError("--state needs --key: anybody's bundle could raise the number for ever")
    known = None if state is None else newest.accepted(state)
    least = _least(options, known)
    newest.require_newest(manifest, least or 0, path)
    if known is not None:
        newest.require_one_history(manifest, known, path)
    limits = stricter(options.limits, manifest.limits)
    model = opened.model
    found = _verified(model, replace(options, limits=limits))
    runner, inputs = _runner(model, options), golden(opened)
    parity = _agreement(runner, inputs, manifest)
    others = sorted({n for n in manifest.files if n.endswith(".onnx")} - {manifest.model})
    about = BundleReport(
        path=str(path),
        files=len(manifest.files),
        signature=opened.signature,
        vouched_by=opened.vouched_by,
        receipt=opened.receipt.text,
        covered=opened.receipt.covered,
        number=newest.told(manifest, least),
        others={n: _other(opened.network(n), inputs, manifest, options) for n in others},
        latency_ms={f"batch {n}": latency(runner, inputs[0], batch=n) for n in (1, 64)},
        peak_mb=peak_mebibytes(),
    )
    whole = replace(found, file=manifest.model, parity=parity, bundle=about)
    if whole.passed and state is not None:
        newest.require_newest(manifest, newest.accepted(state).number, path)  # another may be newer by now
        newest.accept(state, manifest)
    return whole


def _other(file: OnnxFile, inputs: Golden, manifest: Manifest, options: Options) -> Parity | str:
    """Run another model file of a bundle on the golden inputs; or why it is not run.

    Raises:
        QmuEdgeError: It is no file that may run, or it does not agree.
    """
    _require_wide_sums(verify_structure(file))
    if file.is_qonnx:
        return "not run: onnxruntime has no operators of QONNX"
    if lacks := lacking(file):
        return f"not run: {lacks}"
    return _agreement(_runner(file, options), inputs, manifest)


def _agreement(runner: OrtRunner, inputs: Golden, manifest: Manifest) -> Parity:
    """How a file answers the golden inputs of a bundle.

    Raises:
        ExportError: It agrees on fewer than the manifest says.
    """
    images, logits = inputs
    parity = compare(logits, runner.logits(images))
    require_parity(parity, min_agreement=manifest.min_agreement, min_inputs=len(images))
    return parity


def _least(options: Options, known: newest.Accepted | None) -> int | None:
    """The lowest number of a bundle that is accepted; None where there is nothing to hold it against."""
    asked = [] if options.not_older_than is None else [options.not_older_than]
    return max([*asked, *([] if known is None else [known.number])], default=None)


def stricter(asked: Mapping[str, float | None], own: Mapping[str, float | None]) -> dict[str, float | None]:
    """Of two limits the lower, and any limit rather than none.

    >>> stricter({"max_ta_drop": 0.01, "max_ra_drop": None}, {"max_ta_drop": 0.02, "max_ra_drop": 0.05})
    {'max_ta_drop': 0.01, 'max_ra_drop': 0.05}
    """
    found = {name: [m[name] for m in (asked, own) if name in m] for name in {**asked, **own}}
    return {name: min((v for v in both if v is not None), default=None) for name, both in found.items()}


def _require_wide_sums(found: Verification) -> None:
    """Refuse a file that computes something else on this processor.

    Raises:
        ExportError: Products do not fit where this processor adds them.
    """
    clipped = [obstacle for obstacle in found.obstacles if obstacle.clips]
    if clipped and clips_pairs():
        more = f", and {len(clipped) - 1} more" if len(clipped) > 1 else ""
        raise ExportError(
            f"{found.file}: {clipped[0]}{more}; this processor is one of them: "
            "train with model.reduce_range = true, or use ARM or x86 with VNNI"
        )


def _measured(file: OrtRunner, data: MeasuredSets, options: Options) -> OrtRunner:
    """The file that is measured: of one from which outputs were taken out, the one with all of them.

    Raises:
        ConfigError: It is missing, or the data do not say which outputs there are.
    """
    if data.outputs and options.whole is None:
        raise ConfigError(
            f"{file.path}: outputs of deleted classes were taken out, as {options.data} says; allowed is "
            "--whole with the file that has all of them, which lies beside those data and is what is judged"
        )
    if options.whole is None:
        return file
    if not data.outputs:
        raise ConfigError(f"--whole: {options.data} does not say which outputs were taken out")
    return _runner(options.whole, options)


def _judge(
    runner: OrtRunner, file: OrtRunner, data: MeasuredSets, options: Options
) -> tuple[Evaluation, Verdict | None]:
    """The evaluation, and the verdict as far as the data allow one; None where nothing can be compared."""
    evaluation, logits = evaluate(runner, data.sets)
    if file is not runner:
        require_same_outputs(file, data.outputs, {n: s.images for n, s in data.sets.items()}, logits)
    if options.before is None:
        return evaluation, None
    original = _runner(options.before, options)
    _, before = evaluate(original, data.sets)
    codes = codes_changed(original.file, runner.file)
    sets = {}
    for name, (images, labels) in data.sets.items():
        right, score = seen(runner, images, logits[name], labels, flip=data.flip)
        right_before, score_before = seen(original, images, before[name], labels, flip=data.flip)
        sets[name] = Compared(
            labels=labels, classes=logits[name].shape[1], right=right, score=score,
            right_before=right_before, score_before=score_before,
            references=data.references.get(name), people=data.people.get(name),
        )  # fmt: skip
    forget = data.sets.get(SetName.FORGET)
    classes = np.unique(forget.labels) if forget is not None and options.forgotten_class else data.classes
    terms = Terms(
        thresholds=options.thresholds, exact=data.exact, classes=tuple(int(k) for k in classes),
        references=data.networks, intraclass=data.intraclass,
        release_unmeasurable=data.release_unmeasurable,
    )  # fmt: skip
    return evaluation, judge(sets, terms, codes=codes)


def _runner(model: Path | OnnxFile, options: Options) -> OrtRunner:
    return OrtRunner(model, threads=options.threads, optimization=options.optimization)
