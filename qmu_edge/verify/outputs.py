"""Files from which outputs were taken out: the others must be those of the file with all of them.

That file is the one that is measured and judged: a class that has no output is never answered, which would
look like the best of verdicts and say nothing. What a file without the output gives is a part of what was
measured, so no more can be seen in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.verify.exactness import obstacles
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.parity import ROUNDING
from qmu_edge.verify.session import OrtRunner


def require_same_outputs(
    file: OrtRunner,
    outputs: Sequence[int],
    images: Mapping[Any, NDArray[np.uint8]],
    logits: Mapping[Any, NDArray[np.float32]],
) -> None:
    """Compare a file with the one that has all outputs: to the bit, where it is proven to compute the same.

    Args:
        file: With some of the outputs.
        outputs: Which they are, in ascending order.
        images: uint8 (n, c, h, w), by set.
        logits: What the file with all outputs makes of them, float32 (n, k), by set.

    Raises:
        ConfigError: The numbers are not those of outputs.
        ExportError: The file has other outputs, or gives something else.
    """
    off = ROUNDING if obstacles(read(file.path)) else 0.0
    for name, expected in logits.items():
        if list(outputs) != sorted({k for k in outputs if 0 <= k < expected.shape[1]}):
            raise ConfigError(f"outputs {list(outputs)}; allowed ascending numbers below {expected.shape[1]}")
        found, wanted = file.logits(images[name]), expected[:, list(outputs)]
        if found.shape != wanted.shape:
            raise ExportError(f"{file.path}: {found.shape[1]} outputs, allowed {len(outputs)}")
        difference = float(np.abs(found - wanted).max())
        if not difference <= off * float(np.abs(wanted).max()):  # nor a NaN
            raise ExportError(
                f"{file.path}: an output is not that of the file with all outputs: on the {name} images they "
                f"differ by up to {difference:.3g}"
            )
