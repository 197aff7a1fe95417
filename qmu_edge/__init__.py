"""Unlearning for quantized image classifiers that run on devices.

Nothing is imported here: `qmu_edge.verify` must start with numpy and onnxruntime alone, and
`qmu-edge --help` without torch. The commands as Python functions are in `qmu_edge.api.project`.

Nothing phones home: onnxruntime's telemetry is switched off, before anything can import it.
"""

import os

os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}  # from 1.30 on, and in 1.29

__version__ = "0.1.0"
