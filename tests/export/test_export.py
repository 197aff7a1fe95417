"""The exported file: gates, exact integer codes, nothing latent, and planted faults that must be found."""

import getpass
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

import qmu_edge.export
from qmu_edge.data import Samples
from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export import FORMATS, Camera, Exported, ExportPlan, export
from qmu_edge.export.gates import check_file, run_file
from qmu_edge.export.integer import to_integer
from qmu_edge.export.qcdq import to_qcdq
from qmu_edge.export.qonnx import inference_cost, integer_weights, quantizers
from qmu_edge.export.trace import initializers, rename, set_initializer, trace
from qmu_edge.models.deploy import deploy
from qmu_edge.models.layers import Classifier
from qmu_edge.models.resnet import BasicBlock
from qmu_edge.models.scales import weight_layers
from qmu_edge.progress import Progress
from qmu_edge.recipe import ModelRecipe
from qmu_edge.requantize import requantize
from qmu_edge.train import predict

# torch, brevitas and onnx warn about themselves while they trace.
pytestmark = pytest.mark.filterwarnings("default")

NAMES = ("cat", "dog", "owl")
BITS: dict[str, dict[str, Any]] = {
    "W8A8": {"weight_bits": 8, "activation_bits": 8},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "W2A4": {"weight_bits": 2, "activation_bits": 4},
    "W2AF": {"weight_bits": 2, "activation_bits": "float"},
}
ALWAYS = {("resnet18", "W4A4", "learned_step", 8)}
ROWS = [
    pytest.param(row, id="-".join(map(str, row)), marks=[] if row in ALWAYS else pytest.mark.slow)
    for row in (
        (architecture, bits, preset, edge)
        for architecture in ("resnet18", "mobilenet_v2")
        for bits in BITS
        for preset in ("learned_step", "statistics")
        for edge in (8, "float")
    )
]


@dataclass(frozen=True)
class Case:
    """A network, its deploy form, the trace (which is slow, and made once), and what was exported from it."""

    model: Classifier
    deployed: Classifier
    trace: bytes
    images: np.ndarray
    logits: np.ndarray
    files: dict[str, Exported]

    def graph(self) -> onnx.ModelProto:
        """A copy of the trace."""
        return onnx.load_from_string(self.trace)


def _case(network: Callable[..., Classifier], toy: Callable[..., Samples], **recipe: Any) -> Case:
    model, samples = network(**recipe), toy(64, seed=3)
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(20)  # untrained logits differ too little to rank
        for _, layer in weight_layers(model):
            if layer.weight_quant.is_quant_enabled:
                layer.weight.view(-1)[0] = -1e-9  # rounds to minus zero, which must not be told from zero
    requantize(model, samples, batch=32, seed=0, progress=Progress())
    deployed = deploy(model, 8)
    images, logits = samples.images().numpy(), predict(deployed, samples).numpy()
    graph = trace(deployed, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qmu_edge.export, "trace", lambda *_: _copy(graph))
        files = _export(model, images)
    return Case(model, deployed, graph.SerializeToString(), images, logits, {f.format: f for f in files})


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.load_from_string(graph.SerializeToString())


def _export(model: Classifier, images: np.ndarray, min_inputs: int = 64, **plan: Any) -> list[Exported]:
    whole = ExportPlan(**{"formats": FORMATS, "class_names": NAMES, "recipe": "ab" * 32, **plan})
    return export(model, whole, images=images, min_agreement=0.99, min_inputs=min_inputs)


@pytest.fixture(scope="module")
def one(network: Callable[..., Classifier], toy: Callable[..., Samples]) -> Case:
    """ResNet18 W4A4, for what one network shows."""
    return _case(network, toy)


@pytest.fixture(scope="module", params=ROWS)
def case(
    request: pytest.FixtureRequest, one: Case, network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> Case:
    """One row of the table."""
    architecture, bits, preset, edge = request.param
    recipe = ModelRecipe.model_validate(
        {"architecture": architecture, "quantizer": preset, "edge_bits": edge, "width": 0.125, **BITS[bits]}
    )
    return one if one.model.recipe == recipe else _case(network, toy, **recipe.model_dump())


def test_files_pass_their_gates_and_agree_with_torch(case: Case) -> None:
    assert set(case.files) == set(FORMATS)
    assert len(set(case.logits.argmax(1))) > 1
    recipe, scale = case.model.recipe, np.abs(case.logits).max()
    # Integers all the way agree to the bit. Float sums are rounded in another order elsewhere, and behind a
    # float first layer a value near the middle between two codes may fall either way.
    exact = "float" not in (recipe.edge_bits, recipe.activation_bits)
    allowed = 0.0 if exact else 1e-4 * scale if recipe.activation_bits == "float" else 0.05 * scale
    for name, file in case.files.items():
        onnx.checker.check_model(file.data, full_check=True)
        assert file.parity.n == 64
        assert file.parity.agreement == 1.0
        assert file.gate["problems"] == ()
        assert check_file(file.data) == file.gate
        assert len(file.levels) == 6
        for level in (file.parity, *file.levels.values()):
            assert level.max_abs_difference <= allowed, name


def test_files_hold_exactly_the_integer_codes_of_each_layer(case: Case) -> None:
    graphs = {name: onnx.load_from_string(file.data) for name, file in case.files.items()}
    stored = {name: initializers(graph) for name, graph in graphs.items()}
    integer = [(n, m) for n, m in weight_layers(case.deployed) if m.weight_quant.is_quant_enabled]
    assert len(integer) >= 19
    for name, layer in integer:
        quant = layer.quant_weight()
        codes = quant.int().numpy()
        for form in ("qcdq", "integer", "packed"):
            assert np.array_equal(stored[form][f"{name}.weight"].astype(np.int8), codes), (form, name)
        assert stored["qcdq"][f"{name}.weight"].dtype == np.int8
        assert np.array_equal(
            stored["qcdq"][f"{name}.weight.scale"], quant.scale.detach().numpy().reshape(-1)
        ), name
        grid = stored["qonnx"][f"{name}.weight"]
        assert np.array_equal(grid, quant.value.detach().numpy()), name
        assert not np.signbit(grid[grid == 0]).any(), name


def test_integer_layers_become_integer_kernels(case: Case, tmp_path: Path) -> None:
    recipe = case.model.recipe
    for name in ("integer", "packed"):
        ran = _optimized(case.files[name].data, tmp_path / "optimized.onnx")
        layers = sum(isinstance(m, torch.nn.Conv2d) for m in case.model.modules())
        if recipe.activation_bits == "float":
            assert ran["DequantizeLinear"] == 0  # weights were widened at load, not at every run
        else:
            floats = 0 if recipe.edge_bits == 8 else 1
            assert ran["QLinearConv"] == layers - floats
            added = [m for m in case.model.modules() if getattr(m, "adds", isinstance(m, BasicBlock))]
            assert ran["QLinearAdd"] == len(added) >= 8
            assert ran["QGemm"] == 1 - floats


def _optimized(data: bytes, path: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_packed_weights_take_their_bits(case: Case) -> None:
    file = onnx.load_from_string(case.files["packed"].data)
    about = json.loads(file.metadata_props[0].value)
    taken = {t.name: len(t.raw_data) for t in file.graph.initializer}
    sizes = {t.name: int(np.prod(t.dims)) for t in file.graph.initializer}
    for name, bits in about["weight_bits"].items():
        assert taken[name] == -(-sizes[name] * {2: 2, 4: 4, 8: 8}[bits] // 8), name


def test_nothing_latent_and_nothing_of_this_machine_is_in_the_files(case: Case) -> None:
    secrets = {str(Path.cwd()), str(Path.home()), "/tmp", ".py", "site-packages", "torch", "brevitas"}
    if getpass.getuser() not in ("root", "user"):
        secrets.add(getpass.getuser())
    for file in case.files.values():
        for text in secrets:
            assert text.encode() not in file.data, text
        for name, layer in weight_layers(case.model):
            if layer.weight_quant.is_quant_enabled:
                for channel in layer.weight.detach().numpy():
                    assert channel.reshape(-1)[-4:].tobytes() not in file.data, name


def test_file_says_what_it_is(case: Case) -> None:
    recipe = case.model.recipe
    for file in case.files.values():
        (entry,) = onnx.load_from_string(file.data).metadata_props
        about = json.loads(entry.value)
        assert about["architecture"] == recipe.architecture
        assert about["classes"] == list(NAMES)
        assert about["recipe"] == "ab" * 32
        assert about["activation_bits"] == recipe.activation_bits
        assert len(about["float_weights"]) == (2 if recipe.edge_bits == "float" else 0)
        inner = {bits for name, bits in about["weight_bits"].items() if name.startswith("blocks.")}
        assert inner == {recipe.weight_bits}
        assert len(about["weight_bits"]) + len(about["float_weights"]) == len([*weight_layers(case.model)])


@pytest.mark.parametrize(("name", "batch"), [("qcdq", 1), ("integer", 7), ("packed", 1), ("qonnx", 7)])
def test_any_batch_gives_the_same_logits(one: Case, name: str, batch: int) -> None:
    assert np.array_equal(run_file(one.files[name].data, one.images[:batch]), one.logits[:batch])


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        ("uint8", "NHWC"),
        pytest.param("uint8", "NCHW", marks=pytest.mark.slow),
        pytest.param("float32", "NHWC", marks=pytest.mark.slow),
    ],
)
def test_any_camera_gives_the_same_logits(
    one: Case, monkeypatch: pytest.MonkeyPatch, dtype: str, layout: str
) -> None:
    monkeypatch.setattr(qmu_edge.export, "trace", lambda *_: one.graph())
    for file in _export(one.model, one.images, camera=Camera.of(dtype, layout), batch=3):
        graph = onnx.load_from_string(file.data).graph
        dims = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
        assert dims == ([3, 1, 8, 8] if layout == "NCHW" else [3, 8, 8, 1])
        assert file.parity.max_abs_difference == 0.0
    with pytest.raises(ConfigError, match="allowed float32 or uint8"):
        Camera.of("int8", layout)


@pytest.mark.parametrize(
    "target",
    ["tensorrt", "hls4ml", *(pytest.param(t, marks=pytest.mark.slow) for t in ("openvino", "finn"))],
)
def test_targets(one: Case, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setattr(qmu_edge.export, "trace", lambda *_: one.graph())
    formats = qmu_edge.export.TARGETS[target].formats
    for file in _export(one.model, one.images, target=target, formats=formats):
        graph = onnx.load_from_string(file.data)
        operators = {node.op_type for node in graph.graph.node}
        assert file.parity.max_abs_difference == 0.0
        if target in ("finn", "hls4ml"):
            assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
            assert ("Gemm" in operators) == (target == "finn")
        if target == "tensorrt":
            assert not any(v.dtype in (np.uint8, np.int32) for v in initializers(graph).values())
    with pytest.raises(ConfigError, match="does not take format"):
        _export(one.model, one.images, target="finn", formats=("integer",))


def test_what_a_target_cannot_hold_is_refused(one: Case) -> None:
    graph = one.graph()
    integer_weights(graph)
    (eight,) = [q.node for q in quantizers(graph) if q.node.output[0] == "_symbolic_2"]
    for node in graph.graph.node:  # four unsigned bits become eight
        if (
            node.op_type == "Quant"
            and node.input[3] == eight.input[3]
            and not node.input[0].endswith("weight")
        ):
            node.input[3] = "eight"
    set_initializer(graph, "eight", np.array(8, np.float32))
    with pytest.raises(ExportError, match="unsigned activations of 8 bits"):
        to_integer(graph, zero_points=False)


def test_same_network_gives_the_same_bytes(one: Case) -> None:
    again = _export(one.model, one.images, formats=("integer", "qonnx"))  # traces anew
    assert {f.format: f.data for f in again} == {f.format: one.files[f.format].data for f in again}


def test_qonnx_executes_the_file_as_torch_does(one: Case) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    wrapped = ModelWrapper(onnx.load_from_string(one.files["qonnx"].data))
    wrapped.set_tensor_shape("image", [2, 1, 8, 8])
    wrapped.set_tensor_shape("logits", [2, 3])
    wrapped = wrapped.transform(InferShapes())
    images = one.images[:2].astype(np.float32) / np.float32(255)
    found = execute_onnx(wrapped, {"image": images})["logits"]
    assert np.array_equal(found, one.logits[:2])


def test_cost_counts_bits(one: Case) -> None:
    cost = inference_cost(one.files["qonnx"].data)
    layers = [m for _, m in weight_layers(one.model)]
    bits = sum(m.weight.numel() * int(m.weight_quant.bit_width()) for m in layers)
    assert cost["weight_bits"] == bits
    assert cost["bit_operations"] > 16 * sum(m.weight.numel() for m in layers)


Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(params=["qcdq", "integer"])
def faulty(
    request: pytest.FixtureRequest, one: Case, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Change], None]:
    """Export with a fault planted after the trace ("trace") or in the finished graph ("file")."""
    form = request.param

    def run(place: str, change: Change) -> None:
        def traced(*_: Any) -> onnx.ModelProto:
            graph = one.graph()
            if place == "trace":
                change(graph)
            return graph

        def converted(convert: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
            def run(graph: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
                made = convert(graph, **options)
                if place == "file":
                    change(made)
                return made

            return run

        monkeypatch.setattr(qmu_edge.export, "trace", traced)
        monkeypatch.setattr(qmu_edge.export, "to_qcdq", converted(to_qcdq))
        monkeypatch.setattr(qmu_edge.export, "to_integer", converted(to_integer))
        _export(one.model, one.images, formats=(form,))

    return run


def _edit(graph: onnx.ModelProto, name: str, change: Callable[[np.ndarray], object]) -> None:
    values = initializers(graph)[name].copy()
    change(values)
    set_initializer(graph, name, values)


def test_without_a_fault_the_faulty_path_passes(faulty: Callable[[str, Change], None]) -> None:
    faulty("file", lambda graph: None)


def test_latent_weights_left_in_place_are_found(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmu_edge.export, "trace", lambda *_: one.graph())
    monkeypatch.setattr(qmu_edge.export, "integer_weights", lambda graph: None)
    with pytest.raises(ExportError, match="latent-weight gate"):
        _export(one.model, one.images, formats=("qonnx",))


@pytest.mark.parametrize("place", ["trace", "file"])
def test_one_flipped_code_is_found(one: Case, faulty: Callable[[str, Change], None], place: str) -> None:
    features: list[torch.Tensor] = []
    head: Any = one.deployed.get_submodule("head.0")
    with torch.no_grad(), head.register_forward_pre_hook(lambda _, x: features.append(x[0])):
        one.deployed(torch.from_numpy(one.images) / 255.0)
    weight = head.quant_weight().value.detach()
    affine: Any = one.deployed.get_submodule("head.1")
    weight, bias = weight * affine.gain.view(-1, 1), (affine.bias * affine.gain).view(-1)
    before = features[0] @ weight.T + bias
    lost = {}
    for k, j in np.ndindex(*weight.shape):
        after = before.clone()
        after[:, k] -= 2 * weight[k, j] * features[0][:, j]
        lost[k, j] = int((after.argmax(1) != before.argmax(1)).sum())
    position = max(lost, key=lambda p: lost[p])
    assert lost[position] > 1  # more than the gate lets pass

    def flip(values: np.ndarray) -> None:
        values[position] = -values[position]

    with pytest.raises(ExportError, match="parity"):
        faulty(place, lambda graph: _edit(graph, "head.0.weight", flip))


def test_wrong_scale_is_found(faulty: Callable[[str, Change], None]) -> None:
    def halve(values: np.ndarray) -> None:
        values[0] /= 2

    with pytest.raises(ExportError, match="parity"):
        faulty("file", lambda graph: _edit(graph, "head.0.weight.scale", halve))


def test_code_out_of_range_is_found(faulty: Callable[[str, Change], None]) -> None:
    def widen(values: np.ndarray) -> None:
        values.reshape(-1)[0] = 8

    with pytest.raises(ExportError, match=r"latent-weight gate: .*codes from -\d to 8"):
        faulty("file", lambda graph: _edit(graph, "blocks.0.first.0.weight", widen))


def test_stowaway_tensor_is_found(faulty: Callable[[str, Change], None]) -> None:
    def stow(graph: onnx.ModelProto) -> None:
        graph.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "stowaway"))

    with pytest.raises(ExportError, match="stowaway"):
        faulty("file", stow)


def test_weight_without_quantizer_is_found(faulty: Callable[[str, Change], None]) -> None:
    def bare(graph: onnx.ModelProto) -> None:
        (quant,) = [q.node for q in quantizers(graph) if q.weight == "blocks.0.first.0.weight"]
        for node in graph.graph.node:
            for place, name in enumerate(node.input):
                if name == quant.output[0]:
                    node.input[place] = "blocks.0.first.0.weight"
        graph.graph.node.remove(quant)

    with pytest.raises(ExportError, match=r"float weights in the graph: blocks\.0\.first\.0\.weight"):
        faulty("trace", bare)


def test_graph_that_is_not_valid_is_found(faulty: Callable[[str, Change], None]) -> None:
    def shuffle(graph: onnx.ModelProto) -> None:
        node = graph.graph.node.pop()
        graph.graph.node.insert(0, node)

    with pytest.raises(ExportError, match=r"onnx\.checker: "):
        faulty("file", shuffle)


def test_too_few_inputs_and_unknown_formats_are_refused(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmu_edge.export, "trace", lambda *_: one.graph())
    with pytest.raises(ExportError, match="measured on 64 inputs, allowed at least 65"):
        _export(one.model, one.images, min_inputs=65)
    with pytest.raises(ConfigError, match="format 'tflite' is not one of integer, packed"):
        _export(one.model, one.images, formats=("qcdq", "tflite"))


def test_layer_that_cannot_be_traced_is_an_export_error(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("no symbolic\nand a long story")

    monkeypatch.setattr("brevitas.export.export_qonnx", fail)
    with pytest.raises(ExportError, match="the network cannot be exported: KeyError: 'no symbolic") as caught:
        trace(one.deployed, 8)
    assert "\n" not in str(caught.value)


def test_integer_weights_and_conversion_change_nothing_the_second_time(one: Case) -> None:
    once = one.graph()
    integer_weights(once)
    twice = _copy(once)
    integer_weights(twice)
    assert once.SerializeToString(deterministic=True) == twice.SerializeToString(deterministic=True)
    to_qcdq(once)
    assert once.SerializeToString(deterministic=True) == twice.SerializeToString(deterministic=True)


def test_renaming_reaches_every_use(one: Case) -> None:
    graph = one.graph()
    rename(graph, "head.0.weight", "other")
    read = [name for node in graph.graph.node for name in node.input]
    assert "head.0.weight" not in {*read, *initializers(graph)}
    assert read.count("other") == 1
    assert "other" in initializers(graph)
