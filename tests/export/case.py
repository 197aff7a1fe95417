"""A small network with its exported files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from qmu_edge.export.exporter import Exported, ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.export.trace import trace
from qmu_edge.models.layers import Classifier

NAMES = ("cat", "dog", "owl")


@dataclass(frozen=True)
class Case:
    """A network, its deploy form, what that answers to some images, and what was exported from it."""

    model: Classifier
    deployed: Classifier
    images: np.ndarray
    logits: np.ndarray
    files: dict[Format, Exported]

    def graph(self) -> onnx.ModelProto:
        """The network's QONNX graph."""
        return trace(self.deployed, 8)

    def export(self, min_inputs: int = 64, **plan: Any) -> list[Exported]:
        """Export it again."""
        return export_small(self.model, self.images, min_inputs, **plan)


def export_small(model: Classifier, images: np.ndarray, min_inputs: int, **plan: Any) -> list[Exported]:
    """Export through all gates."""
    whole = ExportPlan(**{"formats": tuple(Format), "class_names": NAMES, "recipe": "ab" * 32, **plan})
    return export(model, whole, images=images, min_agreement=0.99, min_inputs=min_inputs)
