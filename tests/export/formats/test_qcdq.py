"""QCDQ: codes as they are, and operators of old opsets only."""

import numpy as np
import onnx
import pytest

from qmu_edge.export.formats.qcdq import to_qcdq
from qmu_edge.export.formats.qonnx import quantizers
from qmu_edge.export.graph import initializers
from qmu_edge.export.targets import Format
from qmu_edge.export.trace import OPSET
from qmu_edge.models.calibration import weight_layers
from tests.export.case import Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


def test_weights_are_codes_with_the_scales_of_their_layers(case: Case) -> None:
    stored = initializers(onnx.load_from_string(case.files[Format.QCDQ].data))
    for name, layer in weight_layers(case.deployed):
        if layer.weight_quant.is_quant_enabled:
            quant = layer.quant_weight()
            assert stored[f"{name}.weight"].dtype == np.int8
            assert np.array_equal(stored[f"{name}.weight"], quant.int().numpy()), name
            scale = quant.scale.detach().numpy().reshape(-1)
            assert np.array_equal(stored[f"{name}.weight.scale"], scale), name
        else:
            assert np.array_equal(stored[f"{name}.weight"], layer.weight.detach().numpy()), name


def test_narrow_activations_are_clipped_as_codes(one: Case) -> None:
    graph = one.graph()
    converted = to_qcdq(graph)
    assert [(entry.domain, entry.version) for entry in converted.opset_import] == [("", OPSET)]
    values = initializers(converted)
    bounds = {tuple(int(values[b]) for b in n.input[1:]) for n in converted.graph.node if n.op_type == "Clip"}
    activations = [q for q in quantizers(graph) if not q.weight]
    narrow = {(q.low, q.high) for q in activations if q.bits < 8 or q.low == -127}
    assert narrow and bounds == narrow
    assert graph == one.graph()  # left as it is
