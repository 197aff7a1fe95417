"""The latent-weight gate: green on codes, red on every planted fault."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qmu_edge.errors import ExportError
from qmu_edge.verify.codes import code_range
from qmu_edge.verify.latent_weights import inspect_weights, latent_weight_gate
from qmu_edge.verify.onnx.reader import read


def _initializer(model: Any, name: str) -> Any:
    return next(t for t in model.graph.initializer if t.name == name)


def test_codes_pass(make: Any, save: Any) -> None:
    report = latent_weight_gate(read(save(make.qcdq())))
    conv, fc = report.weights
    assert (conv.name, conv.form, conv.bits, conv.declared) == ("conv.w", "codes", 4, True)
    assert 2 <= conv.distinct <= conv.allowed == 16 and fc.elements == 20
    assert {r.name: (r.elements, r.bits) for r in report.float_residue} == {
        "s1": (4, 32),
        "s2": (1, 32),
        "bias": (5, 32),
    }


@pytest.mark.parametrize("bits", range(2, 9))
def test_grid_passes(make: Any, save: Any, bits: int) -> None:
    report = latent_weight_gate(read(save(make.qonnx(bits))))
    assert [(w.form, w.bits) for w in report.weights] == [("grid", bits)] * 2
    assert "conv.w" not in {r.name for r in report.float_residue}


@pytest.mark.parametrize("bits", range(2, 9))
def test_one_code_too_many(make: Any, save: Any, bits: int) -> None:
    low, high = code_range(bits, signed=True)
    model = make.qcdq()
    codes = make.value_of(model, "conv.w").clip(low, high)
    make.replace(model, "conv.w", codes)
    make.replace(model, "fc.w", make.value_of(model, "fc.w").clip(low, high))
    del model.metadata_props[:]
    declared = {"weight_bits": {"conv.w": bits, "fc.w": bits}}
    helper.set_model_props(model, {"qmu_edge": json.dumps(declared)})
    latent_weight_gate(read(save(model)))
    if bits < 8:
        codes[3, 2, 1, 0] = high + 1
        make.replace(model, "conv.w", codes)
        with pytest.raises(ExportError, match=r"'conv\.w': codes from .* distinct values; allowed"):
            latent_weight_gate(read(save(model)))


def test_brevitas_codes_pass_and_latents_do_not(brevitas_exports: dict[str, Path]) -> None:
    report = latent_weight_gate(read(brevitas_exports["qcdq"]))
    assert [(w.form, w.bits, w.declared) for w in report.weights] == [("codes", 8, False)]
    with pytest.raises(ExportError, match="before QuantizeLinear: 108 distinct"):
        latent_weight_gate(read(brevitas_exports["qcdq_dynamo"]))
    with pytest.raises(ExportError, match=r"before Quant, off grid: \d+ distinct .* allowed 16"):
        latent_weight_gate(read(brevitas_exports["qonnx"]))
    for name in ("qcdq_dynamo", "qonnx"):
        (weight,) = inspect_weights(read(brevitas_exports[name])).weights
        assert weight.form == "latent"


def test_one_weight_off_grid(make: Any, save: Any) -> None:
    model = make.qonnx()
    w = make.value_of(model, "conv.w")
    w[0, 0, 0, 0] += np.float32(0.01)  # a tenth of the step
    make.replace(model, "conv.w", w)
    with pytest.raises(ExportError, match=r"conv\.w.*off grid"):
        latent_weight_gate(read(save(model)))


def test_less_than_the_tolerance_is_still_not_idempotent(make: Any, save: Any) -> None:
    model = make.qonnx()
    w = make.value_of(model, "conv.w")
    w[0, 0, 0, 0] = np.nextafter(w[0, 0, 0, 0], np.float32(9))
    make.replace(model, "conv.w", w)
    with pytest.raises(ExportError, match="quantizing again"):
        latent_weight_gate(read(save(model)))


def test_the_sign_of_zero_is_a_latent_bit(make: Any, save: Any) -> None:
    model = make.qonnx()
    w = make.value_of(model, "conv.w")
    w[0, 0, 0, 0] = -0.0
    make.replace(model, "conv.w", w)
    with pytest.raises(ExportError, match="negative zeros"):
        latent_weight_gate(read(save(model)))


def test_grid_beyond_its_bits(make: Any, save: Any) -> None:
    model = make.qonnx()
    w = make.value_of(model, "conv.w")
    w[0, 0, 0, 0] = np.float32(9) * np.float32(0.1)
    make.replace(model, "conv.w", w)
    with pytest.raises(ExportError, match=r"codes -7 to 9, allowed \(-7, 7\)"):
        latent_weight_gate(read(save(model)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -0.1])
@pytest.mark.parametrize("form", ["qcdq", "qonnx"])
@pytest.mark.parametrize("name", ["s1", "s2"])
def test_impossible_scales(make: Any, save: Any, form: str, name: str, bad: float) -> None:
    model = getattr(make, form)()
    scale = make.value_of(model, name)
    scale.reshape(-1)[-1] = bad
    make.replace(model, name, scale)
    if form == "qcdq" and bad == -0.1:  # batch-norm's sign
        assert latent_weight_gate(read(save(model))).problems == ()
        return
    with pytest.raises(ExportError, match="a scale of"):
        latent_weight_gate(read(save(model)))


def test_a_scale_per_weight_could_hold_the_weights(make: Any, save: Any) -> None:
    model = make.qonnx()
    w = np.random.default_rng(1).random((4, 3, 3, 3), dtype=np.float32)
    make.replace(model, "conv.w", w)
    make.replace(model, "s1", w)
    with pytest.raises(ExportError, match="one per channel"):
        latent_weight_gate(read(save(model)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(make: Any, save: Any, value: float) -> None:
    model = make.qonnx()
    w = make.value_of(model, "conv.w")
    w[1, 1, 1, 1] = value
    make.replace(model, "conv.w", w)
    with pytest.raises(ExportError, match="off grid"):
        latent_weight_gate(read(save(model)))


def test_double_precision_weights_hide_digits(make: Any, save: Any) -> None:
    model = make.qonnx()
    make.replace(model, "conv.w", make.value_of(model, "conv.w").astype(np.float64))
    with pytest.raises(ExportError, match="stored as DOUBLE"):
        latent_weight_gate(read(save(model)))


def test_float_weights_need_a_licence(make: Any, save: Any) -> None:
    model = make.qcdq()
    del model.graph.node[1]
    _initializer(model, "s2").name = "unused"
    model.graph.initializer.remove(_initializer(model, "unused"))
    make.replace(model, "fc.w", make.value_of(model, "fc.w").astype(np.float32))
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    gemm.input[1] = "fc.w"
    del model.metadata_props[:]
    with pytest.raises(ExportError, match=r"'fc\.w': float weights without quantizer"):
        latent_weight_gate(read(save(model)))
    helper.set_model_props(model, {"qmu_edge": json.dumps({"float_weights": ["fc.w"]})})
    report = latent_weight_gate(read(save(model)))
    assert "fc.w" in {r.name for r in report.float_residue}


def test_packed_codes_and_weight_only_forms(make: Any, save: Any) -> None:
    model = make.qcdq()
    codes = make.value_of(model, "conv.w")
    position = [t.name for t in model.graph.initializer].index("conv.w")
    packed = helper.make_tensor("conv.w", TensorProto.INT4, codes.shape, codes.reshape(-1))
    model.graph.initializer[position].CopyFrom(packed)
    # conv: INT4 -> Cast -> DequantizeLinear; fc: INT8 -> Cast -> Mul
    model.graph.node[0].input[0] = "wide"
    cast = helper.make_node("Cast", ["conv.w"], ["wide"], to=TensorProto.INT8)
    model.graph.node[1].CopyFrom(helper.make_node("Mul", ["s2", "fc.float"], ["w2"]))
    other = helper.make_node("Cast", ["fc.w"], ["fc.float"], to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    model.graph.node.insert(0, other)
    report = latent_weight_gate(read(save(model)))
    assert [(w.name, w.bits) for w in report.weights] == [("conv.w", 4), ("fc.w", 4)]
    make.replace(model, "s2", np.random.default_rng(0).random((5, 4), dtype=np.float32))
    with pytest.raises(ExportError, match="one per channel"):
        latent_weight_gate(read(save(model)))


def test_a_constant_node_is_no_hiding_place(make: Any, save: Any) -> None:
    model = make.qcdq()
    latent = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    model.graph.initializer.remove(_initializer(model, "fc.w"))
    model.graph.initializer.remove(_initializer(model, "s2"))
    constant = helper.make_node("Constant", [], ["w2"], value=numpy_helper.from_array(latent))
    model.graph.node[1].CopyFrom(constant)
    with pytest.raises(ExportError, match="'w2': float weights without quantizer"):
        latent_weight_gate(read(save(model)))


def test_what_cannot_be_traced_is_refused(make: Any, save: Any) -> None:
    model = make.qcdq()
    model.graph.node[1].op_type = "Add"
    with pytest.raises(ExportError, match="cannot be checked"):
        latent_weight_gate(read(save(model)))


def test_no_weights_is_no_pass(make: Any, save: Any) -> None:
    model = make.qcdq()
    for node in model.graph.node:
        node.op_type = "Sum"
    with pytest.raises(ExportError, match="no weight found"):
        latent_weight_gate(read(save(model)))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        "NaN",
        '{"weight_bits": 3}',
        '{"weight_bits": {"conv.w": 9}}',
        '{"weight_bits": {"conv.w": true}}',
        '{"weight_bits": {"nobody": 4}}',
        '{"float_weights": [1]}',
        '{"float_weights": [[]]}',
    ],
)
def test_metadata_that_is_wrong(make: Any, save: Any, text: str) -> None:
    model = make.qcdq()
    del model.metadata_props[:]
    helper.set_model_props(model, {"qmu_edge": text})
    with pytest.raises(ExportError, match="metadata"):
        latent_weight_gate(read(save(model)))
