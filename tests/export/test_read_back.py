"""A deployed file becomes a network that can be trained, and is exported as the same file again."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.input import InputSpec
from qmu_edge.export.read_back import agreement, read_back
from qmu_edge.export.targets import Format
from qmu_edge.export.trace import trace
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches, weight_layers
from qmu_edge.models.deploy import deploy, require_equivalent
from qmu_edge.models.kinds import quantizer_grids
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.batches import Samples
from qmu_edge.train.checkpoint import Origin, dumps, loads
from qmu_edge.train.fit import predict
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.metadata import Dtype, Layout
from tests.export.case import Case, export_small
from tests.networks import FACTORIES, TWO_BLOCKS


@pytest.fixture(scope="session")
def small(make_case: Callable[..., Case]) -> Case:
    return make_case(**TWO_BLOCKS)


def again(case: Case, data: bytes, samples: Samples, **recipe: Any) -> Classifier:
    """A network of other weights that has read a file."""
    kind = case.model.recipe.model_copy(update=recipe)
    model = build(kind, case.model.shape, 7, case.model.factory)
    read_back(data, model, samples, "file")
    return model


FAST = (Format.INTEGER, Format.QCDQ)


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=[] if f in FAST else pytest.mark.slow) for f in Format]
)
def test_the_same_file_is_exported_again(small: Case, toy: Callable[..., Samples], form: Format) -> None:
    samples = toy(64, seed=3)
    model = again(small, small.files[form].data, samples)
    made, was = to_integer(trace(deploy(model, 8), 8)), to_integer(small.graph())
    assert made.SerializeToString(deterministic=True) == was.SerializeToString(deterministic=True)
    found = agreement(small.files[form].data, model, small.images)
    assert (found.agreement, found.max_abs_difference) == (1.0, 0.0)
    # The statistics of batch-norms are those of the images, as after training.
    norms = [
        (m, model.get_submodule(n)) for n, m in small.model.named_modules() if hasattr(m, "running_mean")
    ]
    assert norms and all(isinstance(m, torch.nn.BatchNorm2d) for _, m in norms)
    for _, norm in norms:
        seen: list[torch.Tensor] = []
        handle = norm.register_forward_pre_hook(lambda m, x, seen=seen: seen.append(x[0].double()))
        predict(model, samples)
        handle.remove()
        mean = torch.cat(seen).mean((0, 2, 3))
        assert torch.allclose(norm.get_buffer("running_mean").double(), mean, atol=1e-3)


def test_whatever_the_input_of_the_file_is(small: Case, toy: Callable[..., Samples]) -> None:
    spec = InputSpec(Dtype.UINT8, Layout.NHWC)
    (file,) = small.export(formats=(Format.INTEGER,), input=spec, batch=2)
    model = again(small, file.data, toy(64, seed=3))
    assert agreement(file.data, model, small.images).max_abs_difference == 0.0


def test_values_that_are_clipped_before_they_become_codes(small: Case, toy: Callable[..., Samples]) -> None:
    data = to_integer(small.graph(), clip_values=True).SerializeToString()
    model = again(small, data, toy(64, seed=3))
    assert np.array_equal(predict(deploy(model, 8), toy(64, seed=3)).numpy(), small.logits)


def _quantized_again(model: onnx.ModelProto) -> None:
    """Quantize the result of the max pool as its input was, for all who read it, as onnxruntime does."""
    nodes = list(model.graph.node)
    made = {out: node for node in nodes for out in node.output}
    pool = next(node for node in nodes if node.op_type == "MaxPool")
    before = made[pool.input[0]]
    pool.output[0], kept = "largest", pool.output[0]
    pair = [
        helper.make_node("QuantizeLinear", ["largest", *before.input[1:]], ["again"], "again"),
        helper.make_node("DequantizeLinear", ["again", *before.input[1:]], [kept], "back"),
    ]
    assert before.op_type == "DequantizeLinear" and sum(kept in node.input for node in nodes) == 2
    del model.graph.node[:]
    model.graph.node.extend([n for node in nodes for n in ([node, *pair] if node is pool else [node])])


def test_the_result_of_a_max_pool_may_be_quantized_once_more(
    make_case: Callable[..., Case], toy: Callable[..., Samples], shallow: None
) -> None:
    case = make_case(stem="imagenet")
    data = case.files[Format.QCDQ].data
    model = onnx.load_from_string(data)
    _quantized_again(model)
    networks = [again(case, d, toy(64, seed=3)).state_dict() for d in (data, model.SerializeToString())]
    assert all(torch.equal(tensor, networks[1][name]) for name, tensor in networks[0].items())


def test_it_can_be_trained_on(small: Case, toy: Callable[..., Samples]) -> None:
    model = again(small, small.files[Format.INTEGER].data, toy(64, seed=3)).train()
    batch = next(iter(toy(12, seed=1).batches(12)))
    loss = torch.nn.functional.cross_entropy(model(batch.images), batch.labels)
    gradients = torch.autograd.grad(loss, [*model.parameters()])
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > len(gradients) // 2


@pytest.mark.slow
@pytest.mark.parametrize("form", [Format.PACKED, Format.QCDQ])
def test_networks_of_all_kinds_are_read_back(case: Case, toy: Callable[..., Samples], form: Format) -> None:
    if case.model.recipe.quantizer == "statistics":
        with pytest.raises(ConfigError, match="learned_step"):
            again(case, case.files[form].data, toy(64, seed=3))
        return
    model = again(case, case.files[form].data, toy(64, seed=3))
    found = agreement(case.files[form].data, model, case.images)
    exact = case.model.recipe.edge_bits != "float" and case.model.recipe.activation_bits != "float"
    assert found.max_abs_difference <= (0.0 if exact else 1e-3 * np.abs(case.logits).max())


def changed(case: Case, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(case.files[Format.INTEGER].data)
    change(model)
    data: bytes = model.SerializeToString()
    return data


def _set(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
            return
    raise KeyError(name)


def _softplus(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    node.output[0], kept = "before", node.output[0]
    model.graph.node.insert(
        list(model.graph.node).index(node) + 1, helper.make_node("Softplus", ["before"], [kept])
    )


def _strides(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    next(a for a in node.attribute if a.name == "strides").ints[:] = [2, 2]


def _rectified(model: onnx.ModelProto) -> None:
    """As a tool writes a rectifier at the end, where the output is quantized too."""
    out = model.graph.output[0].name
    node = next(n for n in model.graph.node if out in n.output)
    node.output[0] = "before"
    for name, value in (("end.scale", np.float32(0.05)), ("end.zero", np.uint8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    grid = ["end.scale", "end.zero"]
    model.graph.node.extend([
        helper.make_node("Relu", ["before"], ["rectified"]),
        helper.make_node("QuantizeLinear", ["rectified", *grid], ["end.codes"], "end"),
        helper.make_node("DequantizeLinear", ["end.codes", *grid], [out]),
    ])  # fmt: skip


WRONG: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "more bits": (
        lambda m: _set(m, "body.1.0.first.0.weight", lambda x: (x * 0 + 100).astype(np.int8)),
        "Conv 'body.1.0.first.0.sum': codes 100 to 100, the recipe's 4 bits have -7 to 7",
    ),
    "a zero point": (
        lambda m: _set(m, "zero_0", lambda x: np.array(3, np.uint8)),
        "QuantizeLinear .* codes 0 to 12, the recipe's grid .* or there is a zero point behind a rectifier",
    ),
    "a free step": (
        lambda m: _set(m, "body.1.1.out.1.quant.scale", lambda x: x * 1.1),
        "its step .* is no power of two",
    ),
    "no number": (
        lambda m: _set(m, "body.1.1.out.1.quant.scale", lambda x: x * np.float32(np.nan)),
        "'body.1.1.out.1.quant.scale' holds NaN",
    ),
    "an unknown node": (_softplus, "Softplus .*: a Softplus .* stands where the network of the recipe"),
    "a rectifier at its end": (_rectified, "end.* codes 0 to 255 cut off what Gemm .* computes"),
    "another window": (_strides, "Conv 'body.0.0.0.sum': a layer Conv .*2, 2.* stands where"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("zero", [100, 0], ids=["zero points", "codes without a sign"])
def test_grids_that_lie_aside_are_read_back(small: Case, toy: Callable[..., Samples], zero: int) -> None:
    """As those of onnxruntime and NNCF, whose zero points lie anywhere; there are as many codes."""
    data = changed(small, lambda m: _set(m, "zero_128", lambda x: np.array(zero, np.uint8)))
    samples = toy(64, seed=3)
    model = again(small, data, samples)
    found = agreement(data, model, small.images)
    assert (found.agreement, found.max_abs_difference) == (1.0, 0.0)
    assert not np.array_equal(predict(deploy(model, 8), samples).numpy(), small.logits)  # it is another file
    for file in export_small(model.eval(), small.images, 64):  # the gates compare each with the network
        assert file.parity.max_abs_difference == 0.0
        once_more = again(small, file.data, samples)
        assert agreement(data, once_more, small.images).max_abs_difference == 0.0
    stored = dumps(model, Origin(class_names=("a", "b", "c"), size=8, split=""))
    loaded, _ = loads(stored, "it", model.recipe, model.factory)
    assert torch.equal(predict(loaded, samples), predict(model, samples))
    images = samples.images()[:6] / 255.0
    assert torch.allclose(model.train()(images), loaded.train()(images))
    requantize(model, samples, batch=16, seed=0, progress=Progress())
    assert quantizer_grids(model)["input"].low == -zero


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_cannot_be_trained_says_which_node_is_why(
    small: Case, toy: Callable[..., Samples], name: str
) -> None:
    change, message = WRONG[name]
    with pytest.raises((ExportError, ConfigError), match=f"^file: .*{message}"):
        again(small, changed(small, change), toy(64, seed=3))


def test_an_output_that_is_described_twice_is_run(small: Case, toy: Callable[..., Samples]) -> None:
    """As onnxruntime's preparation for quantization leaves it."""
    model = onnx.load_from_string(small.files[Format.INTEGER].data)
    model.graph.value_info.append(model.graph.output[0])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = agreement(model.SerializeToString(), small.model, small.images)
    assert (found.agreement, found.max_abs_difference) == (1.0, 0.0)


def test_a_file_of_other_classes_is_refused(small: Case, toy: Callable[..., Samples]) -> None:
    shape = copy.copy(small.model.shape)
    object.__setattr__(shape, "classes", 4)
    model = build(small.model.recipe, shape, 7, small.model.factory)
    with pytest.raises(ExportError, match=r"Gemm .*weight \(3, 16\), the network's is \(4, 16\)"):
        read_back(small.files[Format.INTEGER].data, model, toy(64, seed=3), "file")


SURPLUS = {
    "squeezenet1_1": r"tail\.16",
    "mobilenet_v3_small": r"body\.",
    "features": r"body\.3, body\.5",
    "PreActivation": r"body\.a\.bn1, body\.b\.bn1, body\.bn",
    "Squeezed": r"body\.",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n.startswith("mobile") else []) for n in SURPLUS]
)
def test_a_network_whose_file_has_more_than_its_layers_is_refused_by_name(
    small: Case, toy: Callable[..., Samples], name: str
) -> None:
    given = {"architecture": "file", "path": "mine.py"} if name in FACTORIES else {"architecture": name}
    recipe = ModelRecipe.model_validate({"width": 0.125, **given})
    model = build(recipe, Shape(channels=1, classes=3, size=8), 7, FACTORIES.get(name))
    message = (
        f"^file: {SURPLUS[name]}.*: in their place the file of such a network has .* cannot be read back"
    )
    with pytest.raises(ExportError, match=message):
        read_back(small.files[Format.INTEGER].data, model, toy(64, seed=3), "file")


def test_batch_norms_of_rows_are_read_back(toy: Callable[..., Samples]) -> None:
    """Behind layers with a bias of their own, which the batch-norms take with them."""
    samples = toy(64, seed=3)
    shape, recipe = Shape(channels=1, classes=3, size=8), ModelRecipe(architecture="file", path="mine.py")
    model, other = (build(recipe, shape, seed, FACTORIES["Dense"]) for seed in (0, 7))
    calibrate(model, [samples.images() / 255.0] * calibration_batches(model))
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
            norm.weight.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(1))
    requantize(model, samples, batch=32, seed=0, progress=Progress())
    (file,) = export_small(model, samples.images().numpy(), 64, formats=(Format.INTEGER,))
    read_back(file.data, other, samples, "file")
    assert agreement(file.data, other, samples.images().numpy()).max_abs_difference == 0.0
    means = [m.running_mean for m in other.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert len(means) == 2 and all(mean is not None and bool(mean.any()) for mean in means)


def test_quantizers_that_follow_the_weights_are_refused(small: Case, toy: Callable[..., Samples]) -> None:
    with pytest.raises(ConfigError, match="learned_step"):
        again(small, small.files[Format.INTEGER].data, toy(64, seed=3), quantizer="statistics")


def test_what_brevitas_exports_is_read_back(small: Case, toy: Callable[..., Samples], tmp_path: Path) -> None:
    """Batch-norms stay nodes there, scales are floats, and all initializers are inputs too."""
    path, samples = tmp_path / "brevitas.onnx", toy(64, seed=3)
    with warnings.catch_warnings(action="ignore"):
        from brevitas.export import export_onnx_qcdq

        export_onnx_qcdq(
            copy.deepcopy(small.model).eval(), args=torch.rand(1, 1, 8, 8), export_path=str(path),
            opset_version=18, dynamo=False, dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}},
            input_names=["input"], output_names=["logits"],
        )  # fmt: skip
    model = again(small, path.read_bytes(), samples)
    found = agreement(path.read_bytes(), model, small.images)
    # Without the grids of activations, where a tie that is broken becomes another code, they are the same.
    require_equivalent(small.model, deploy(model, 8), torch.from_numpy(small.images[:2]) / 255.0)
    close = np.sort(small.logits, axis=1)
    assert found.agreement >= (close[:, -1] - close[:, -2] > 2 * found.max_abs_difference).mean()
    codes = [layer.quant_weight().int() for _, layer in weight_layers(small.model)]
    assert all(
        torch.equal(layer.quant_weight().int().abs(), was.abs())
        for (_, layer), was in zip(weight_layers(model), codes, strict=True)
    )


def test_what_onnxruntime_quantizes_is_read_back(
    network: Callable[..., Classifier], toy: Callable[..., Samples], tmp_path: Path
) -> None:
    """Symmetric codes of 8 bits, 7 after a rectifier; its grids on sums and logits only round."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            """Four batches."""
            self.left = iter([{"image": b.images.numpy()} for b in toy(64, seed=4).batches(16)])

        def get_next(self) -> Any:
            """The next one."""
            return next(self.left, None)

    kind = {**TWO_BLOCKS, "weight_bits": 8, "activation_bits": 7, "activation_steps": "free"}
    floats, samples = network(**TWO_BLOCKS, activation_bits="float", edge_bits="float"), toy(64, seed=3)
    for _, layer in weight_layers(floats):
        layer.weight_quant.disable_quant = True
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            floats.eval(), (torch.rand(2, 1, 8, 8),), str(tmp_path / "float.onnx"), dynamo=False,
            opset_version=17, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        )  # fmt: skip
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "w8a8.onnx", Reader(), quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "Add", "GlobalAveragePool"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )  # fmt: skip
    data = (tmp_path / "w8a8.onnx").read_bytes()
    model = build(network(**kind).recipe, floats.shape, 7, floats.factory)
    read_back(data, model, samples, "file")
    found = agreement(data, model, samples.images().numpy())
    logits = predict(floats, samples).numpy()
    assert found.agreement > 0.9 and found.max_abs_difference < np.ptp(logits) / 20
