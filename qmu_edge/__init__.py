"""Unlearning for quantized image classifiers that run on devices.

Nothing is imported here: `qmu_edge.verify` must start with numpy and onnxruntime alone, and
`qmu-edge --help` without torch. The commands as Python functions are in `qmu_edge.api.project`.
"""

__version__ = "0.1.0"
