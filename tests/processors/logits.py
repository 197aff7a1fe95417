"""Logits of all files of a folder, at full optimization and at none: `logits.py FOLDER OUT`.

Runs on the emulated processor, with what a device has.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from qmu_edge.verify.session import OrtRunner


def write_logits(folder: Path, out: Path) -> None:
    """Arrays by name of the file and level of optimization."""
    images = np.load(folder / "images.npy")
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.onnx")):
        for level in ("all", "disabled"):
            runner = OrtRunner(path, optimization=level)
            found[f"{path.stem}|{level}"] = runner.logits(images, batch=len(images))
    np.savez(out, **found)


if __name__ == "__main__":
    write_logits(*map(Path, sys.argv[1:]))
