"""Every format of every network: exact, nothing latent inside, and the file says what it is."""

import getpass
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import qmu_edge.export.exporter
from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export.exporter import ExportPlan
from qmu_edge.export.formats.integer import to_integer
from qmu_edge.export.gates import require_valid, run_file, runnable, unproven
from qmu_edge.export.graph import initializers, set_initializer
from qmu_edge.export.input import InputSpec
from qmu_edge.export.targets import FINN, TARGETS, TENSORRT, Format
from qmu_edge.models.calibration import weight_layers
from qmu_edge.verify.metadata import METADATA_KEY, PROCESSORS_KEY, Dtype, Layout
from tests.export.case import NAMES, Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves


def test_files_pass_their_gates_and_agree_with_torch(case: Case) -> None:
    assert set(case.files) == set(Format)
    assert len(set(case.logits.argmax(1))) > 1
    recipe, scale = case.model.recipe, np.abs(case.logits).max()
    # Integers all the way agree to the bit. Float sums are rounded in another order elsewhere, and behind a
    # float first layer a value near the middle between two codes may fall either way.
    exact = "float" not in (recipe.edge_bits, recipe.activation_bits)
    allowed = 0.0 if exact else 1e-4 * scale if recipe.activation_bits == "float" else 0.05 * scale
    for name, file in case.files.items():
        onnx.checker.check_model(file.data, full_check=True)
        assert file.parity.n == 32 or not exact
        assert file.parity.agreement == 1.0
        assert file.latent_weights.problems == ()
        assert require_valid(file.data) == file.latent_weights
        assert len(file.levels) == 6
        for level in (file.parity, *file.levels.values()):
            assert level.max_abs_difference <= allowed, name


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
        said = {p.key: p.value for p in onnx.load_from_string(file.data).metadata_props}
        assert said.keys() == {METADATA_KEY, PROCESSORS_KEY}
        about = json.loads(said[METADATA_KEY])
        assert about["architecture"] == recipe.architecture
        assert about["classes"] == list(NAMES)
        assert about["recipe"] == "ab" * 32
        assert about["activation_bits"] == recipe.activation_bits
        assert len(about["float_weights"]) == (2 if recipe.edge_bits == "float" else 0)
        inner = {bits for name, bits in about["weight_bits"].items() if name.startswith("blocks.")}
        assert inner == {recipe.weight_bits}
        assert len(about["weight_bits"]) + len(about["float_weights"]) == len([*weight_layers(case.model)])


@pytest.mark.parametrize(
    ("form", "batch"), [(Format.QCDQ, 1), (Format.INTEGER, 7), (Format.PACKED, 1), (Format.QONNX, 7)]
)
def test_any_batch_gives_the_same_logits(one: Case, form: Format, batch: int) -> None:
    assert np.array_equal(run_file(runnable(one.files[form].data), one.images[:batch]), one.logits[:batch])


@pytest.mark.parametrize(
    "target",
    ["tensorrt", "hls4ml", *(pytest.param(t, marks=pytest.mark.slow) for t in ("openvino", "finn"))],
)
def test_files_are_as_their_target_wants_them(one: Case, target: str) -> None:
    consumer = TARGETS[target]
    for file in one.export(target=consumer, formats=consumer.formats):
        graph = onnx.load_from_string(file.data)
        operators = {node.op_type for node in graph.graph.node}
        assert file.parity.max_abs_difference == 0.0
        if target in ("finn", "hls4ml"):
            assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
            assert ("Gemm" in operators) == (target == "finn")
        if target == "openvino":
            values = initializers(graph)
            kinds = {values[n.input[1]].dtype.kind for n in graph.graph.node if n.op_type == "Clip"}
            assert kinds == ({"i", "u"} & kinds if file.format is Format.QCDQ else {"f"})
        if target == "tensorrt":
            assert not any(v.dtype in (np.uint8, np.int32) for v in initializers(graph).values())


@pytest.mark.parametrize("architecture", ["resnet18", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_integer_files_are_proven_to_be_the_same_on_every_processor(
    make_case: Callable[..., Case], architecture: str
) -> None:
    files = make_case(architecture=architecture, reduce_range=True, weight_bits=8, activation_bits=8).files
    assert files[Format.INTEGER].obstacles == files[Format.PACKED].obstacles == ()
    assert _processors(files[Format.PACKED].data) == "every processor"
    assert files[Format.QCDQ].obstacles  # whose kernels are others


def test_weights_of_eight_bits_are_named_where_processors_differ(one: Case) -> None:
    for form in (Format.INTEGER, Format.PACKED):
        found = one.files[form].obstacles
        assert len(found) == 2 and all(obstacle.clips for obstacle in found)  # the first and the last layer
        assert _processors(one.files[form].data).endswith("ARM, and x86 with VNNI")


def _processors(data: bytes) -> str:
    (found,) = [str(p.value) for p in onnx.load_from_string(data).metadata_props if p.key == PROCESSORS_KEY]
    return found


def test_ties_are_named_where_nothing_breaks_them(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmu_edge.models.deployed.BreakTies.factor", 1.0)
    found = unproven(to_integer(one.graph()).SerializeToString())
    assert sum("0.0e+00 steps from a half" in obstacle.why for obstacle in found) >= 2


def test_same_network_gives_the_same_bytes(one: Case) -> None:
    again = one.export(formats=(Format.INTEGER, Format.QONNX))
    assert {f.format: f.data for f in again} == {f.format: one.files[f.format].data for f in again}


def test_what_cannot_be_exported_is_refused(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="parity: 64 inputs, allowed at least 65"):
        one.export(min_inputs=65)
    with pytest.raises(ConfigError, match="target finn does not take format 'integer'"):
        one.export(target=FINN, formats=(Format.INTEGER,))


def test_two_bits_are_refused_for_a_target_without_them(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = one.graph()
    values = initializers(graph)
    widths = {
        node.input[3] for node in graph.graph.node if node.op_type == "Quant" and node.input[0] in values
    }
    for name in widths:
        if values[name] == 4:  # codes of 4 bits are declared to have 2
            set_initializer(graph, name, np.array(2, np.float32))
    monkeypatch.setattr(qmu_edge.export.exporter, "trace", lambda *_: graph)
    with pytest.raises(ExportError, match="target openvino has no 2-bit tensors; export --format integer"):
        one.export(target=TARGETS["openvino"], formats=(Format.PACKED,))


def test_the_digest_of_a_plan_finds_what_older_versions_exported() -> None:
    plan = ExportPlan(
        formats=(Format.INTEGER,), target=TENSORRT, input=InputSpec(Dtype.UINT8, Layout.NHWC), batch=3,
        class_names=("a", "b"), recipe="ab",
    )  # fmt: skip
    stored = (
        "ExportPlan(formats=('integer',), target='tensorrt', camera=Camera(dtype='uint8', layout='NHWC'), "
        "batch=3, class_names=('a', 'b'), recipe='ab')"
    )
    assert plan.digest() == hashlib.sha256(stored.encode()).hexdigest()
