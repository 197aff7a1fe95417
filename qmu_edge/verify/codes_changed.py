"""How many integer weight codes of one exported file differ from those of another of the same network.

An update that is smaller than a quantization step vanishes on export. A file in which no code differs from
the original's knows whatever the original knows, whatever was done to the latent weights.
"""

import numpy as np
from numpy.typing import NDArray

from qmu_edge.errors import ExportError
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.latent_weights import Form, inspect_weights
from qmu_edge.verify.onnx.graph import OnnxFile


def codes_changed(before: OnnxFile, after: OnnxFile) -> CodesChanged:
    """Compare the integer weights of two files.

    Raises:
        ExportError: They have no integer weights, or others by name or shape.
    """
    old, new = _codes(before), _codes(after)
    if not old or {n: c.shape for n, c in old.items()} != {n: c.shape for n, c in new.items()}:
        raise ExportError("the exported file and the original do not have the same integer weights")
    differing = {name: int((codes != new[name]).sum()) for name, codes in old.items()}
    return CodesChanged(
        weights=sum(codes.size for codes in old.values()),
        changed=sum(differing.values()),
        layers={name: differing[name] / codes.size for name, codes in old.items()},
    )


def _codes(file: OnnxFile) -> dict[str, NDArray[np.generic]]:
    tensors = {tensor.name: tensor for tensor in file.tensors()}
    found = inspect_weights(file).weights
    return {w.name: tensors[w.name].array() for w in found if w.form is Form.CODES}
