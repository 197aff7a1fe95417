"""What `to_json` makes of this room's dataclasses: the same fields, tuples as lists, enumerations as values.

Results, reports and what `--json` prints are made of these. `tests/verify/test_plain.py` holds each against
its dataclass, which says what the fields mean.
"""

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from qmu_edge.io.digest import Sha256


class AccuracyJson(TypedDict):
    """An `Accuracy`."""

    value: float
    n: int
    low: float
    high: float


class AucJson(TypedDict):
    """An `Auc`."""

    value: float
    low: float
    high: float


class EvaluationJson(TypedDict):
    """An `Evaluation`."""

    sha256: Sha256
    bytes: int
    seconds: float
    fa: AccuracyJson | None
    ra: AccuracyJson | None
    ta: AccuracyJson | None
    va: AccuracyJson | None
    mia_auc: AucJson | None
    forget_predictions: list[int] | None
    mean_confidence: Mapping[Literal["forget", "retain", "test", "validation"], float]


class CheckJson(TypedDict):
    """A `Check`."""

    name: str
    value: float | None
    allowed: float
    passed: bool
    low: float | None
    high: float | None
    bound: Literal["value", "low", "high"]
    n: int | None


class ResidualJson(TypedDict):
    """A `Residual`."""

    scope: Literal["samples", "classes"]
    value: float | None
    low: float | None
    high: float | None
    n: int
    effective: float
    references: int
    excess_before: float
    excess: float
    detected: bool
    present: bool
    power: float


class VerdictJson(TypedDict):
    """A `Verdict`."""

    passed: bool
    checks: list[CheckJson]
    answer: (
        Literal[
            "still_present", "over_forgotten", "inconclusive", "not_measurable", "forgotten", "retrained",
        ]
        | None
    )  # fmt: skip
    why: str
    residuals: list[ResidualJson]


class ThresholdsJson(TypedDict):
    """`Thresholds`."""

    max_residual: float
    max_ta_drop: float | None
    max_ra_drop: float | None


class TermsJson(TypedDict):
    """`Terms`."""

    thresholds: ThresholdsJson
    exact: bool
    classes: list[int]
    references: int
    intraclass: float
    release_unmeasurable: bool


class CodesChangedJson(TypedDict):
    """`CodesChanged`."""

    weights: int
    changed: int
    layers: Mapping[str, float]


class SpreadJson(TypedDict):
    """A `Spread`."""

    forgotten: list[int]
    unseen: list[int]
    found: list[float]


class ClassAccuracyJson(TypedDict):
    """A `ClassAccuracy`."""

    label: int
    images: int
    before: float
    after: float
    forgotten: int | None


class FiguresJson(TypedDict):
    """`Figures`."""

    forgotten: int
    unseen: int
    people: int | None
    edges: list[float]
    original: SpreadJson | None
    file: SpreadJson | None
    classes: list[ClassAccuracyJson]
    other_classes: int


class ParityJson(TypedDict):
    """A `Parity`."""

    n: int
    agreement: float
    max_abs_difference: float
    mean_abs_difference: float


class WeightFindingJson(TypedDict):
    """A `WeightFinding`."""

    name: str
    layer: str
    form: Literal["codes", "grid", "latent", "float", "unknown"]
    elements: int
    bits: int
    declared: bool
    distinct: int
    allowed: int
    problem: str


class ResidueJson(TypedDict):
    """A `Residue`."""

    name: str
    elements: int
    bits: int


class LatentReportJson(TypedDict):
    """A `LatentReport`."""

    weights: list[WeightFindingJson]
    float_residue: list[ResidueJson]
    other_bytes: int
    problems: list[str]


class ObstacleJson(TypedDict):
    """An `Obstacle`."""

    tensor: str
    why: str
    clips: bool


class LatencyJson(TypedDict):
    """A `Latency`."""

    p50: float
    p95: float
    p99: float


class BundleReportJson(TypedDict):
    """A `BundleReport`."""

    path: str
    files: int
    signature: str
    vouched_by: str | None
    receipt: str
    covered: bool
    number: str
    others: Mapping[str, ParityJson | str]
    latency_ms: Mapping[str, LatencyJson]
    peak_mb: float | None


class EfficacyJson(TypedDict):
    """The `Efficacy` of `qmu_edge.audit.svm`, the attack of the papers."""

    mean: float
    std: float
    draws: int
    size: int


class VerificationJson(TypedDict):
    """A `Verification`, and whether it passed.

    Attributes:
        bundle: Of a bundle only.
        whole: Of a file without all outputs only: digest of the one that was measured in its place.
        note: Of a file that is held against a project, where something is to be said of how.
        mia_efficacy: Of such a file that can be run; None without the sets.
        request: Likewise whose receipt names the file or its network; None where none does.
    """

    file: str
    sha256: Sha256
    bytes: int
    format: Literal["onnx", "qonnx"]
    opset_imports: Mapping[str, int]
    latent_weights: LatentReportJson
    obstacles: list[ObstacleJson]
    parity: ParityJson | None
    evaluation: EvaluationJson | None
    verdict: VerdictJson | None
    passed: bool
    bundle: NotRequired[BundleReportJson]
    whole: NotRequired[Sha256]
    note: NotRequired[str]
    mia_efficacy: NotRequired[EfficacyJson | None]
    request: NotRequired[str | None]
