"""Versions of everything that a result may depend on."""

import platform
from importlib import metadata
from typing import Final

from qmu_edge import __version__

LIBRARIES: Final = (
    "torch", "torchvision", "brevitas", "onnx", "onnxruntime", "qonnx", "numpy", "scikit-learn",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Versions of this package, of Python and of the libraries; None for one that is not installed."""
    found: dict[str, str | None] = {"qmu-edge": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
