"""Machine code against the plain passes, and the short way through training against Brevitas' own."""

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmu_edge.io.progress import Progress
from qmu_edge.models import quant_layers
from qmu_edge.models.kernels import choice
from qmu_edge.models.kernels.choice import NATIVE_FROM_STEPS
from qmu_edge.models.kernels.fused import PLAIN, Grid, Passes, fake_quantize, using
from qmu_edge.models.kernels.native import TYPES, native
from qmu_edge.models.layers import Classifier
from qmu_edge.train.batches import Batch, Samples
from qmu_edge.train.loop import Descent, Optimization, cross_entropy

GRIDS = (
    Grid(0, 15, floor=0), Grid(-7, 7), Grid(-127, 127), Grid(-2, 1),
    Grid(-7, 7, smallest=0.5), Grid(0, 15, floor=0, smallest=0.1, power_of_two=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def compiled() -> Passes:
    passes = native()
    if passes is None:
        pytest.skip("no C++ compiler")
    return passes._replace(codes=None)  # test_integer.py compares what is only nearly the same


def _example(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Ties, both ends of every grid, far outside, negative zero, NaN and infinity."""
    generator = torch.Generator().manual_seed(0)
    x = 40 * torch.randn(shape, generator=generator)
    flat = x.view(-1)
    flat[::3] = (2 * flat[::3]).round() / 2
    flat[:5] = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.5])
    return x.to(dtype)


def _passed(passes: Passes, x: Tensor, step: Tensor, grid: Grid, dtype: torch.dtype) -> list[Tensor]:
    x, step = x.clone().requires_grad_(), step.clone().requires_grad_()
    with using(passes):
        y = fake_quantize(x, step, grid, dtype, factor=0.3)
    y.backward(torch.linspace(-1, 2, x.numel()).view_as(x).to(dtype))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert step.grad is not None
    return [y.detach(), x.grad, step.grad]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("types", TYPES, ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_machine_code_computes_what_the_plain_passes_do(
    compiled: Passes, types: tuple[torch.dtype, torch.dtype], grid: Grid, channels: bool
) -> None:
    x = _example(types[0], (6, 5, 37, 83)).to(memory_format=torch.channels_last)
    step = torch.linspace(-0.4, 2.0, 6).view(6, 1, 1, 1) if channels else torch.tensor(0.3)
    ours, plain = (_passed(p, x, step, grid, types[1]) for p in (compiled, PLAIN))
    for mine, theirs in zip(ours[:2], plain[:2], strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.stride() == theirs.stride()
        assert torch.equal(mine.nan_to_num(1e6), theirs.nan_to_num(1e6))
    assert ours[0].isnan().sum() == 1
    finite = x.masked_fill(~x.isfinite(), 0.0)
    ours, plain = (_passed(p, finite, step, grid, types[1]) for p in (compiled, PLAIN))
    torch.testing.assert_close(ours[2], plain[2], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("passes", ["plain", "compiled"])
def test_memory_layout_does_not_matter(compiled: Passes, passes: str) -> None:
    chosen = PLAIN if passes == "plain" else compiled
    step = torch.linspace(0.3, 2.0, 6).view(6, 1, 1, 1)
    x = torch.randn(6, 10, 4, 4, generator=torch.Generator().manual_seed(0))
    reference = _passed(PLAIN, x, step, GRIDS[1], torch.float32)
    last, sliced = x.to(memory_format=torch.channels_last), torch.cat([x, x], 1)[:, :10]
    inside_out = x.transpose(0, 2).contiguous().transpose(0, 2)
    for same in (last, sliced, inside_out):
        found = _passed(chosen, same, step, GRIDS[1], torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(found[:2], reference[:2], strict=True))
        torch.testing.assert_close(found[2], reference[2])


def test_a_step_that_was_never_set_makes_nan(compiled: Passes) -> None:
    step = torch.tensor(math.nan)
    for passes in (PLAIN, compiled):
        for grid in GRIDS:
            assert passes.values(torch.ones(9), step, grid, torch.float32).isnan().all()


def test_rows_that_do_not_tile_the_tensor_are_refused(compiled: Passes) -> None:
    x, step = torch.ones(5, 3, 3, 3), torch.full((4, 1, 1, 1), 0.5)
    for passes in (PLAIN, compiled):
        with using(passes), pytest.raises(RuntimeError, match="must match the size"):
            fake_quantize(x, step, GRIDS[1], x.dtype)


def test_another_default_type_changes_nothing(compiled: Passes) -> None:
    x, step = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)), torch.full((6, 1), 0.3)
    expected = _passed(compiled, x, step, GRIDS[1], x.dtype)[2]
    torch.set_default_dtype(torch.float64)
    try:
        passes, x, step = compiled, x.requires_grad_(), step.requires_grad_()
        found = passes.gradients(
            x, torch.linspace(-1, 2, 300, dtype=x.dtype).view_as(x), step, GRIDS[1], factor=0.3
        )
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found[1], expected)


def test_a_frozen_step_takes_an_empty_batch(network: Callable[..., Classifier]) -> None:
    model = network().train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    quantizer = next(m for m in model.modules() if isinstance(m, quant_layers.QuantReLU))
    assert quantizer(torch.empty(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_the_number_of_threads_changes_nothing(compiled: Passes) -> None:
    x, step = torch.randn(3, 50_000, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(_passed(compiled, x, step, GRIDS[0], torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _gradients(model: Classifier, samples: Samples, passes: Passes, *, mixed: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)  # dropout
    (batch,) = samples.batches(6)
    with using(passes), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = F.cross_entropy(model.train()(batch.images), batch.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("recipe", [{}, {"architecture": "mobilenet_v2"}, {"weight_bits": 2}], ids=str)
def test_a_step_has_the_gradients_that_brevitas_has(
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    compiled: Passes,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, Any],
    mixed: bool,
) -> None:
    ours, plain = (_gradients(network(**recipe), toy(6), p, mixed=mixed) for p in (compiled, PLAIN))
    monkeypatch.setattr(quant_layers, "_trains", lambda proxy, quantizer: False)
    brevitas = _gradients(network(**recipe), toy(6), PLAIN, mixed=mixed)
    assert ours.keys() == plain.keys() == brevitas.keys()
    for name, theirs in brevitas.items():
        assert torch.equal(plain[name], theirs), name
        if "scaling" in name:
            torch.testing.assert_close(ours[name], theirs, rtol=1e-2, atol=1e-4 * float(theirs.abs().max()))
        else:
            assert torch.equal(ours[name], theirs), name


def _losses(model: Classifier, samples: Samples, passes: Passes) -> list[float]:
    torch.manual_seed(0)  # for dropout
    for module in model.modules():
        if isinstance(
            module, nn.BatchNorm2d
        ):  # a dead channel at 0, where a rectifier begins, falls either way
            nn.init.normal_(module.bias, 0.5, 0.5)
    settings = Optimization(lr=0.005, momentum=0.9, weight_decay=5e-4, scale_lr=0.1)
    descent = Descent(model.train(), settings, 50, Progress())
    descent.passes = passes
    found: list[Tensor] = []

    def loss(batch: Batch) -> Tensor:
        found.append(F.cross_entropy(model(batch.images), batch.labels))
        return found[-1]

    for b in islice(samples.forever(30, torch.Generator().manual_seed(0)), 50):
        descent.step(loss, b)
    return torch.stack(found).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "steps"), [("resnet18", 50), ("mobilenet_v2", 10)])
def test_fifty_steps_lose_the_same(
    architecture: str,
    steps: int,
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    compiled: Passes,
) -> None:
    ours, plain = (_losses(network(architecture=architecture), toy(60), p) for p in (compiled, PLAIN))
    assert ours[0] == plain[0]
    assert min(plain) < plain[0] - 0.1  # it learned something
    # Steps are learned, their gradients add up in another order, and a code flips now and then. A deep
    # network on few images then goes its own way, to as good an end; with frozen steps it never does.
    assert ours[:steps] == pytest.approx(plain[:steps], abs=0.05)
    assert min(ours) < ours[0] - 0.1


@pytest.mark.parametrize(
    ("architecture", "steps"),
    [("resnet18", 5), *(pytest.param(a, 50, marks=pytest.mark.slow) for a in ("resnet18", "mobilenet_v2"))],
)
def test_frozen_steps_lose_the_same_to_the_bit(
    architecture: str,
    steps: int,
    network: Callable[..., Classifier],
    toy: Callable[..., Samples],
    compiled: Passes,
) -> None:
    found = []
    for passes in (compiled, PLAIN):
        torch.manual_seed(0)  # for dropout
        model, (batch,) = network(architecture=architecture).train(), toy(12).batches(12)
        settings = Optimization(lr=0.02, momentum=0.9, weight_decay=5e-4, precision="bfloat16")
        descent = Descent(model, settings, steps, Progress())
        descent.passes = passes
        for _ in range(steps):
            descent.step(cross_entropy(model), batch)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_evaluation_never_runs_machine_code(
    network: Callable[..., Classifier], toy: Callable[..., Samples]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    (batch,) = toy(6).batches(6)
    with using(Passes(refuse, refuse)):
        network().eval()(batch.images)
        with pytest.raises(AssertionError):
            network().train()(batch.images)


def test_without_a_compiler_one_line_says_so(
    network: Callable[..., Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(choice, "native", native.__wrapped__)
    told: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda self, text: told.append(text))
    for steps, lines in ((NATIVE_FROM_STEPS - 1, 0), (NATIVE_FROM_STEPS, 1)):
        assert Descent(network(), Optimization(), steps, Progress()).passes is PLAIN
        assert len(told) == lines


def test_a_compiler_that_fails_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert native.__wrapped__() is None
