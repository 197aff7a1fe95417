"""Versions of everything that a result may depend on."""

import platform
from importlib import metadata
from typing import Final

from qmu_edge import __version__

LIBRARIES: Final = (
    "torch", "torchvision", "brevitas", "onnx", "onnxruntime", "qonnx", "numpy", "scikit-learn",
)  # fmt: skip
GROUPS: Final = {
    "dataset": "qmu_edge.datasets", "network": "qmu_edge.networks", "method": "qmu_edge.methods",
    "metric": "qmu_edge.metrics", "observer": "qmu_edge.observers",
}  # fmt: skip
"""Entry points by which other packages plug something in, by kind."""


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python and of the libraries; None for one that is not installed.

    Packages that plug something in are among them; nothing of them is imported.
    """
    found: dict[str, str | None] = {"qmu-edge": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    for group in GROUPS.values():
        for point in metadata.entry_points(group=group):
            if point.dist is not None:
                found[point.dist.name] = point.dist.version
    return found
