"""The deploy form against the network it was made of, and against itself in another order of additions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qmu_edge.errors import ExportError
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.calibration import calibrate, calibration_batches, weight_layers
from qmu_edge.models.deploy import deploy, input_grids, require_equivalent, settle, weight_scale
from qmu_edge.models.deployed import Affine, BreakTies
from qmu_edge.models.follow import follow
from qmu_edge.models.kinds import grids, quantizer_grids
from qmu_edge.models.layers import Classifier, Layers, Shape
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.batches import Samples
from qmu_edge.train.fit import predict
from qmu_edge.train.requantize import requantize

Network = Callable[..., Classifier]
Toy = Callable[..., Samples]


@pytest.fixture(autouse=True, params=["shallow", pytest.param("whole", marks=pytest.mark.slow)])
def depth(request: pytest.FixtureRequest) -> None:
    """Each test on a few blocks, and once in a while on all of them."""
    if request.param == "shallow":
        request.getfixturevalue("shallow")


@pytest.fixture
def settled(network: Network, toy: Toy) -> Callable[..., Classifier]:
    """A re-quantized network with batch-norms that have lived."""

    def make(**recipe: Any) -> Classifier:
        model = network(**recipe)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) * 2 - 0.3)
                norm.bias.copy_(torch.rand(norm.bias.shape, generator=generator) - 0.5)
        return requantize(model, toy(24), batch=8, seed=0, progress=Progress())

    return make


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 4), (2, "float")])
def test_deploy_form_answers_as_the_network_and_exactly_in_any_order(
    settled: Callable[..., Classifier], toy: Toy, architecture: str, bits: tuple[int, Any]
) -> None:
    model = settled(architecture=architecture, weight_bits=bits[0], activation_bits=bits[1])
    samples = toy(48, seed=4)
    deployed = deploy(model, 8)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed.modules())
    require_equivalent(model, deployed, samples.images() / 255.0)
    found = predict(deployed, samples)
    exact = predict(deployed.double(), samples)
    if bits[1] == "float":
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))
    else:
        assert torch.equal(found, exact)  # no sum was ever rounded


def test_a_deploy_form_that_computes_something_else_is_refused(
    settled: Callable[..., Classifier], toy: Toy
) -> None:
    model = settled()
    deployed = deploy(model, 8)
    deployed.get_buffer("blocks.2.first.1.gain").mul_(1.01)
    with pytest.raises(ExportError, match="computes something else"):
        require_equivalent(model, deployed, toy(8).images() / 255.0)


def test_settling_is_done_once(settled: Callable[..., Classifier]) -> None:
    model = settled()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settle(model, 8)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-5, atol=1e-6, msg=name)


def test_codes_stay_but_for_mirrored_channels(settled: Callable[..., Classifier]) -> None:
    model = settled()
    deployed = deploy(model, 8)
    mirrored = 0
    before, after = weight_layers(model), weight_layers(deployed)
    for (name, a), (_, b) in zip(before, after, strict=True):
        old, new = a.quant_weight().int().flatten(1), b.quant_weight().int().flatten(1)
        same, turned = (old == new).all(1), (old == -new).all(1)
        assert bool((same | turned).all()), name
        mirrored += int((~same).sum())
        step = b.quant_weight().scale
        assert torch.equal(torch.frexp(step)[0], torch.full_like(step, 0.5)), name
    assert mirrored > 10
    assert all(bool((m.gain > 0).all()) for m in deployed.modules() if isinstance(m, Affine))


@pytest.mark.parametrize("quantizer", ["learned_step", "statistics"])
def test_weights_in_the_middle_between_two_codes_stay_on_their_side(
    network: Network, toy: Toy, quantizer: str
) -> None:
    model = network(quantizer=quantizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, layer in weight_layers(model):
            w, step = layer.weight, weight_scale(layer)
            step = step.view(-1, *(1,) * (w.dim() - 1))
            middle = (torch.randint(-6, 6, w.shape, generator=generator) + 0.5) * step
            beside = torch.nextafter(middle, torch.randn(w.shape, generator=generator))
            largest = w.abs() == w.abs().amax(dim=tuple(range(1, w.dim())), keepdim=True)
            w.copy_(torch.where(largest, w, beside))
    requantize(model, toy(24), batch=8, seed=0, progress=Progress())
    deployed = deploy(model, 8)
    before, after = weight_layers(model), weight_layers(deployed)
    for (name, a), (_, b) in zip(before, after, strict=True):
        assert torch.equal(a.quant_weight().int().abs(), b.quant_weight().int().abs()), name
    require_equivalent(model, deployed, toy(8).images() / 255.0)


def test_a_channel_that_is_off_gives_its_bias(settled: Callable[..., Classifier], toy: Toy) -> None:
    model = settled()
    with torch.no_grad():
        model.get_parameter("stem.0.1.weight")[2] = 0.0
        model.get_parameter("stem.0.1.bias")[2] = 0.3
        model.get_parameter("blocks.0.first.1.weight")[1] = 0.0
        model.get_parameter("blocks.0.first.1.bias")[1] = 0.0
    deployed = deploy(model, 8)
    seen: list[torch.Tensor] = []
    deployed.get_submodule("stem.0.1").register_forward_hook(lambda _, __, y: seen.append(y[:, 2]))
    deployed.get_submodule("blocks.0.first.1").register_forward_hook(lambda _, __, y: seen.append(y[:, 1]))
    predict(deployed, toy(3))
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 0.3), atol=1e-6, rtol=0)
    assert not seen[1].any()


def _input_grids(model: Classifier) -> dict[str, Any]:
    graph = follow(model)
    found = input_grids(model, graph, grids(model, graph, quantizer_grids(model)))
    return {str(node.target): grid for node, grid in found.items()}


def test_every_layer_behind_a_quantizer_knows_its_input_grid(settled: Callable[..., Classifier]) -> None:
    model = settled(architecture="mobilenet_v2")
    found = _input_grids(model)
    assert set(found) == {name for name, _ in weight_layers(model)}
    assert (found["stem.0.0"].bits, found["blocks.1.branch.2.0"].bits) == (8, 4)
    assert {*_input_grids(settled(activation_bits="float")).values()} == {None}


def test_a_value_that_is_not_finite_is_refused(settled: Callable[..., Classifier]) -> None:
    model = settled()
    with torch.no_grad():
        model.get_buffer("blocks.1.second.1.running_var")[0] = float("nan")
    with pytest.raises(ExportError, match=r"blocks\.1\.second\.0: .*not finite"):
        deploy(model, 8)


class _Viewed(nn.Module):
    """A sum that is looked at in another form before it is quantized; the form is worked out from sizes."""

    def __init__(self, layers: Layers, shape: Shape) -> None:
        """Build the body."""
        super().__init__()
        self.conv, self.relu = layers.conv_bn(shape.channels, 8, 3, edge=True), layers.relu()
        self.grid = layers.signed()

    def forward(self, x: Tensor) -> Tensor:
        """Features."""
        x = self.relu(self.conv(x))
        rows = (x + x).reshape(x.size(0), x.size(1), -1)
        return self.grid(rows).reshape(x.size(0), 4, -1, x.size(3))  # type: ignore[no-any-return]


def test_a_sum_is_known_behind_what_only_moves_it(toy: Toy) -> None:
    model = build(
        ModelRecipe(architecture="file", path="v.py"), Shape(channels=1, classes=3, size=8), 0, _Viewed
    )
    calibrate(model, [toy(6).images() / 255.0] * calibration_batches(model))
    deployed = deploy(requantize(model, toy(24), batch=8, seed=0, progress=Progress()), 8)
    assert isinstance(deployed.get_submodule("body.grid.0"), BreakTies)
