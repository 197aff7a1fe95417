"""Versions of everything that a result may depend on."""

import platform
from importlib import metadata
from typing import Final

from qmu_edge import __version__

LIBRARIES: Final = (
    "torch", "torchvision", "brevitas", "onnx", "onnxruntime", "qonnx", "numpy", "scikit-learn",
)  # fmt: skip
METHODS_GROUP: Final = "qmu_edge.methods"
"""Entry points by which other packages bring unlearning methods."""


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python and of the libraries; None for one that is not installed.

    Packages that bring methods are among them.
    """
    found: dict[str, str | None] = {"qmu-edge": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    for point in metadata.entry_points(group=METHODS_GROUP):
        if point.dist is not None:
            found[point.dist.name] = point.dist.version
    return found
