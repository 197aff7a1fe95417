"""Logits of all files of a folder, at full optimization and at none: `logits.py FOLDER OUT`.

Runs on the emulated processor, with what a device has.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from qmu_edge.verify.session import OrtRunner

folder, out = map(Path, sys.argv[1:])
images = np.load(folder / "images.npy")
found: dict[str, Any] = {}
for path in sorted(folder.glob("*.onnx")):
    for level in ("all", "disabled"):
        found[f"{path.stem}|{level}"] = OrtRunner(path, optimization=level).logits(images, batch=len(images))
np.savez(out, **found)
