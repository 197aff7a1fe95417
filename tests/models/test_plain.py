"""Plain networks with quantizers: where they are put, that they train, and that files are exact."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brevitas.nn.mixin import QuantWeightMixin
from torch import nn

from qmu_edge.export.exporter import Exported, ExportPlan, export
from qmu_edge.export.targets import Format
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.deploy import deploy, settle
from qmu_edge.models.follow import follow, module_of
from qmu_edge.models.kinds import TOGETHER, averages, grids, quantizer_grids
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe, TrainRecipe
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.train.checkpoint import Origin, dumps, loads
from qmu_edge.train.fit import fit
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.integer_reference import run_integers
from qmu_edge.verify.known import ROOT
from qmu_edge.verify.onnx.reader import read
from tests.networks import FACTORIES

Toy = Callable[..., Samples]
TRAIN = TrainRecipe(epochs=1, batch=16, lr=0.02, warmup=0.0, precision="float32")
BITS: dict[str, dict[str, Any]] = {
    "W4A4": {},
    "W8A8": {"weight_bits": 8, "activation_bits": 8},
    "W2A2": {"weight_bits": 2, "activation_bits": 2},
    "W2AF": {"weight_bits": 2, "activation_bits": "float"},
    "float edges": {"edge_bits": "float"},
}
ALWAYS = {("Moved", "W4A4", "learned_step")}
ROWS = [
    pytest.param(*row, marks=[] if row in ALWAYS else pytest.mark.slow)
    for row in product(FACTORIES, BITS, PRESETS)
]
pytestmark = pytest.mark.filterwarnings("default")  # torch and brevitas warn while they trace


def made(name: str, **fields: Any) -> Classifier:
    """One of the plain networks, untrained."""
    recipe = ModelRecipe(**{"architecture": "file", "path": "mine.py", "reduce_range": True, **fields})
    return build(recipe, Shape(channels=1, classes=3, size=8), 0, FACTORIES[name])


def trained(name: str, toy: Toy, **fields: Any) -> Classifier:
    """The same after a few steps on codes."""
    model = made(name, **fields)
    fit(model, toy(32), TRAIN, Augment(), progress=Progress())
    return requantize(model, toy(32), batch=16, seed=0, progress=Progress())


def exported(model: Classifier, toy: Toy) -> list[Exported]:
    """Its files, through all gates."""
    return export(
        model, ExportPlan(formats=tuple(Format), class_names=("a", "b", "c")),
        images=toy(64, seed=2).images().numpy(), min_agreement=0.98, min_inputs=64,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "bits", "preset"), ROWS)
def test_files_of_plain_networks_are_exact_and_proven(
    name: str, bits: str, preset: str, toy: Toy, tmp_path: Path
) -> None:
    model = trained(name, toy, quantizer=preset, **BITS[bits])
    assert all(v.isfinite().all() for v in model.state_dict().values())
    for file in exported(model, toy):
        if bits in ("W2AF", "float edges"):
            assert file.parity.agreement >= 0.98
            continue
        assert file.parity.max_abs_difference == 0.0
        assert not any(level.max_abs_difference for level in file.levels.values())
        if file.format in (Format.INTEGER, Format.PACKED):
            assert {o.why for o in file.obstacles} == ({ROOT} if name == "Tokens" else set())
            images = toy(4, seed=5).images() / 255.0
            (tmp_path / "model.onnx").write_bytes(file.data)
            found = run_integers(read(tmp_path / "model.onnx"), images.numpy())["logits"]
            np.testing.assert_allclose(found, deploy(model, 8)(images).detach().numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["Dense", "Repeated"])
def test_float_layers_between_codes_stay_float_in_every_runtime(name: str, toy: Toy) -> None:
    """Newer onnxruntimes quantize a float weight to 8 bits where it stands beside DequantizeLinear."""
    for file in exported(trained(name, toy, edge_bits="float"), toy):
        assert file.parity.mean_abs_difference < 1e-6, file.format


@pytest.mark.parametrize(
    "name", [n if n == "Squeezed" else pytest.param(n, marks=pytest.mark.slow) for n in FACTORIES]
)
def test_what_integer_kernels_read_is_on_a_grid(name: str, toy: Toy) -> None:
    model = trained(name, toy)
    deployed = deploy(model, 8)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.AvgPool2d) for m in deployed.modules())
    graph = follow(deployed)
    known = grids(deployed, graph, quantizer_grids(deployed))
    readers = [
        node for node in graph.nodes
        if isinstance(module_of(deployed, node), QuantWeightMixin) or node.target in TOGETHER
        or averages(deployed, node)
    ]  # fmt: skip
    assert len(readers) > 2
    for node in readers:
        assert all(known[x] is not None for x in node.all_input_nodes), node


def test_first_and_last_layer_have_the_bits_of_the_edge() -> None:
    widths = [int(layer.weight_quant.bit_width()) for _, layer in weight_layers(made("Squeezed"))]
    assert widths == [7, 4, 4, 4, 4, 7]  # 7 of 8, with reduced range


def test_a_body_of_plain_layers_ends_on_a_grid_and_gets_a_classifier() -> None:
    model = made("features")
    assert [int(layer.weight_quant.bit_width()) for _, layer in weight_layers(model)] == [7, 4, 4, 7]
    assert dict(model.named_modules())["body.6_grid"].act_quant.is_quant_enabled


def test_weights_are_those_that_the_file_gave() -> None:
    given: list[nn.Module] = []

    def factory(layers: Any, shape: Any) -> nn.Module:
        given.append(FACTORIES["Moved"](layers, shape))
        return given[0]

    recipe = ModelRecipe(architecture="file", path="mine.py")
    model = build(recipe, Shape(channels=1, classes=3, size=8), 0, factory)
    for name in ("c1", "c3", "fc1"):
        assert torch.equal(
            model.get_parameter(f"body.{name}.weight"), given[0].get_parameter(f"{name}.weight")
        )
    assert torch.equal(model.get_parameter("head.bias"), given[0].get_parameter("fc2.bias"))


@pytest.mark.parametrize("name", ["PreActivation", pytest.param("Squeezed", marks=pytest.mark.slow)])
def test_settling_is_done_once_also_with_biases_before_batch_norms(name: str, toy: Toy) -> None:
    model = trained(name, toy)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settle(model, 8)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("preset", ["learned_step", pytest.param("statistics", marks=pytest.mark.slow)])
def test_shared_weights_stay_shared_through_training_and_checkpoints(preset: str, toy: Toy) -> None:
    model = trained("Repeated", toy, quantizer=preset)
    one, two = model.get_parameter("body.conv.weight"), model.get_submodule("body.conv_2").weight
    assert one is two
    origin = Origin(class_names=("a", "b", "c"), size=8, split="")
    again, _ = loads(dumps(model, origin), "mine", model.recipe, model.factory)
    assert again.get_submodule("body.conv_2").weight is again.get_parameter("body.conv.weight")
    images = toy(6).images() / 255.0
    assert torch.equal(again(images), model.eval()(images))
