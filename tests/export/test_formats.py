"""Every format of every network: exact, nothing latent inside, integer kernels, the right size."""

import getpass
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from qmu_edge.export.exporter import FORMATS
from qmu_edge.export.gates import require_valid
from qmu_edge.export.graph import initializers
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.models.resnet import BasicBlock
from qmu_edge.recipe import ModelRecipe
from tests.export.case import NAMES, Case

pytestmark = pytest.mark.filterwarnings("default")  # brevitas and onnx warn about themselves

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
        for preset in PRESETS
        for edge in (8, "float")
    )
]


@pytest.fixture(scope="module", params=ROWS)
def case(request: pytest.FixtureRequest, one: Case, make_case: Callable[..., Case]) -> Case:
    """One row of the table."""
    architecture, bits, preset, edge = request.param
    recipe = ModelRecipe.model_validate(
        {"architecture": architecture, "quantizer": preset, "edge_bits": edge, "width": 0.125, **BITS[bits]}
    )
    return one if one.model.recipe == recipe else make_case(**recipe.model_dump())


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
        assert file.parity.n == 32 or not exact
        assert file.parity.agreement == 1.0
        assert file.gate["problems"] == ()
        assert require_valid(file.data) == file.gate
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
