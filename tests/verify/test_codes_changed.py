"""How many integer weights of two files differ, counted again with numpy."""

from typing import Any

import numpy as np
import pytest

from qmu_edge.errors import ExportError
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.codes_changed import codes_changed
from qmu_edge.verify.onnx.reader import read


def test_equal_weights_are_no_change_whatever_scales_and_biases_do(make: Any, save: Any) -> None:
    before, after = make.qcdq(), make.qcdq()
    make.replace(after, "bias", make.value_of(after, "bias") + 1)
    make.replace(after, "s1", make.value_of(after, "s1") * 2)
    found = codes_changed(read(save(before)), read(save(after)))
    assert (found.changed, found.unchanged) == (0, 1.0) and set(found.layers.values()) == {0.0}
    assert found.unchanged > found.most_unchanged


def test_changed_codes_are_counted_by_layer(make: Any, save: Any) -> None:
    before, after = make.qcdq(), make.qcdq()
    codes = make.value_of(after, "conv.w")
    codes.flat[:3] = np.where(codes.flat[:3] == 1, 2, 1)
    make.replace(after, "conv.w", codes)
    differ = int((codes != make.value_of(before, "conv.w")).sum())
    found = codes_changed(read(save(before)), read(save(after)))
    assert found.changed == differ == 3
    assert found.layers == {"conv.w": 3 / codes.size, "fc.w": 0.0}
    assert found.weights == codes.size + make.value_of(before, "fc.w").size


def test_one_code_is_a_change() -> None:
    found = CodesChanged(weights=698_768, changed=1)
    assert found.unchanged <= found.most_unchanged


def test_other_networks_are_not_compared(make: Any, save: Any) -> None:
    other = read(save(make.qonnx()))  # its weights are code times scale
    for pair in ((other, read(save(make.qcdq()))), (other, other)):
        with pytest.raises(ExportError, match="do not have the same integer weights"):
            codes_changed(*pair)
