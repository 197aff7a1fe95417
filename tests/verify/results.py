"""An evaluation and a verification with given figures, as no file has made them."""

from dataclasses import replace

from qmu_edge.io.digest import Sha256
from qmu_edge.verify.evaluation import Accuracy, Evaluation, SetName
from qmu_edge.verify.latent_weights import Form, LatentReport, WeightFinding
from qmu_edge.verify.mia import Auc
from qmu_edge.verify.onnx.graph import Dialect
from qmu_edge.verify.parity import Parity
from qmu_edge.verify.performance import Latency
from qmu_edge.verify.verdict import Answer, Bound, Check, Verdict
from qmu_edge.verify.verification import BundleReport, Verification

DIGEST = Sha256("0" * 64)


def evaluation(fa: float, ta: float, ra: float = 0.95, auc: float = 0.5) -> Evaluation:
    """An evaluation with these accuracies, each of 100 samples."""
    return Evaluation(
        sha256=DIGEST,
        bytes=1000,
        seconds=0.5,
        fa=Accuracy(fa, 100, fa - 0.05, fa + 0.05),
        ta=Accuracy(ta, 100, ta - 0.05, ta + 0.05),
        ra=Accuracy(ra, 100, ra - 0.05, ra + 0.05),
        mia_auc=Auc(auc, auc - 0.1, auc + 0.1),
        forget_predictions=(60, 40),
        mean_confidence={SetName.FORGET: 0.7},
    )


PLAIN = Verification(
    file="model.onnx",
    sha256=DIGEST,
    bytes=1000,
    format=Dialect.ONNX,
    opset_imports={"": 21},
    latent_weights=LatentReport((WeightFinding("w", "Conv 'c'", Form.CODES),), (), 10, ()),
    obstacles=(),
)
"""Nothing but the structure."""

JUDGED = replace(
    PLAIN,
    parity=Parity(64, 1.0, 0.0, 0.0),
    evaluation=evaluation(0.9, 0.8),
    verdict=Verdict(
        passed=False,
        checks=(
            Check("ta_drop", 0.1, 0.02, False, 0.06, 0.14, Bound.LOW, 100),
            Check("residual", None, 0.25, False, None, None, Bound.HIGH, 12),
        ),
        answer=Answer.INCONCLUSIVE,
        why="too few",
    ),
    bundle=BundleReport(
        path="device.tar",
        files=5,
        signature="valid, key 12",
        vouched_by="12",
        receipt="about model.onnx",
        covered=True,
        number="3",
        others={"b.onnx": Parity(64, 1.0, 0.0, 0.0), "c.onnx": "not run: too new"},
        latency_ms={"batch 1": Latency(1.0, 2.0, 3.0)},
        peak_mb=12.3,
    ),
)
"""Everything, and two checks that do not pass."""
