"""A deployed file read back into a network that can be trained.

The network of the recipe is built and written as a graph; file and graph are followed side by side from the
output to the input (`steps`), and each layer and each grid takes codes and steps from its counterpart. What
is between them must be the same. Nothing is estimated but the statistics of batch-norms, which no file has:
they are measured, and gain and shift follow from them, so that the network computes what the file does.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import onnx
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from qmu_edge.errors import ConfigError, ExportError
from qmu_edge.export.brought import require_fitting
from qmu_edge.export.gates import BATCH, run_file, runnable
from qmu_edge.export.graph import attributes, constant, drop_unused, image_inputs, initializers, set_nodes
from qmu_edge.export.match import Match, Pair
from qmu_edge.export.qoperators import expanded
from qmu_edge.export.steps import Step, steps_of
from qmu_edge.export.trace import trace
from qmu_edge.models.calibration import weight_layers
from qmu_edge.models.deploy import deploy
from qmu_edge.models.deployed import Table
from qmu_edge.models.follow import follow
from qmu_edge.models.kinds import norms_behind, quantizes
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quant_layers import QuantReLU, quickly
from qmu_edge.models.quantizers.presets import LearnedStep
from qmu_edge.train.batches import Samples, on_device
from qmu_edge.train.fit import predict
from qmu_edge.train.requantize import STATISTICS_IMAGES
from qmu_edge.verify.codes import code_range
from qmu_edge.verify.parity import Parity, compare

_Norms = dict[Any, tuple[Tensor, Tensor]]  # gain and shift of batch-norms
MOST_STEPS: Final = 100  # powers of two that float32 has
BYTE: Final = 127  # largest code of symmetric weights
EQUAL: Final = 1e-6  # of scales that were one before they were stored in float32
GRID, SUM, WEIGHT = ".quant", ".sum", ".weight"  # how the trace names the nodes of a module


def read_back(data: bytes, model: Classifier, samples: Samples, source: object) -> None:
    """Let a freshly built network compute what a file computes, in place.

    Args:
        data: An ONNX file: integer, packed, QCDQ or QONNX.
        model: Of the recipe, on the CPU.
        samples: Images on which the statistics of batch-norms are measured.
        source: What the file is called in messages.

    Raises:
        ConfigError: The file is of a float network, or of images of another size, or the recipe's quantizers
            cannot hold a step of it.
        ExportError: The file is of another network, or cannot be trained; the node is named.
    """
    try:
        file = onnx.load_from_string(data)
        require_fitting(file, tuple(samples.pool.shape[1:]))
        theirs = steps_of(expanded(file))
        pairs, names = _pairs(model, theirs, samples.pool.shape[-1])
        norms: _Norms = {}
        behind = norms_behind(model, follow(model))
        with torch.no_grad():
            for pair in pairs:
                if pair.ours.kind == "grid":
                    _set_grid(model, names[_module(pair.ours)], pair)
                elif pair.ours.kind == "layer":
                    name = names[_module(pair.ours)]
                    norm = model.get_submodule(behind[name]) if name in behind else None
                    _set_layer(model.get_submodule(name), norm, pair, norms)
            _set_norms(model, norms, samples)
    except (ExportError, ConfigError) as error:
        raise type(error)(f"{source}: {error}") from None


def agreement(data: bytes, model: Classifier, images: UInt8[np.ndarray, "n c h w"]) -> Parity:
    """Compare what a network will be exported as with a file, which runs under onnxruntime.

    Args:
        data: The file.
        model: On the CPU.
        images: Square.
    """
    expected = predict(deploy(model, images.shape[-1]), _unlabelled(images), BATCH).numpy()
    return compare(run_file(runnable(_run_as(data)), images), expected)


def as_exported(model: Classifier, brought: nn.Module, images: UInt8[np.ndarray, "n c h w"]) -> Parity:
    """Compare what a network will be exported as with what was brought, in PyTorch, on the CPU."""
    samples = _unlabelled(images)
    exported = predict(deploy(model, images.shape[-1]), samples, BATCH)
    return compare(predict(brought, samples, BATCH).numpy(), exported.numpy())


def _unlabelled(images: UInt8[np.ndarray, "n c h w"]) -> Samples:
    return on_device(images, np.zeros(len(images), np.int64), torch.device("cpu"), limit_bytes=0)


def _run_as(data: bytes) -> bytes:
    """The file as the verifier runs it: batch-norms are a product and a sum, the image is the only input."""
    given = onnx.load_from_string(data)
    model = expanded(given)
    values, nodes, inputs = initializers(model), [], image_inputs(model)
    norms = any(n.op_type == "BatchNormalization" for n in model.graph.node)
    if model is given and not norms and len(inputs) == len(model.graph.input):
        return data
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        weight, bias, mean, variance = (values[x].astype(np.float64) for x in node.input[1:5])
        epsilon: Any = attributes(node).get("epsilon", 1e-5)
        gain = weight / np.sqrt(variance + epsilon)
        x, y = node.input[0], node.output[0]
        for name, value in (("gain", gain), ("shift", bias - mean * gain)):
            constant(model, f"{y}.{name}", value.astype(np.float32).reshape(1, -1, 1, 1))
        nodes.append(onnx.helper.make_node("Mul", [x, f"{y}.gain"], [f"{y}.scaled"], f"{y}.scaled"))
        nodes.append(onnx.helper.make_node("Add", [f"{y}.scaled", f"{y}.shift"], [y], f"{y}.shifted"))
    set_nodes(model, nodes)
    drop_unused(model)
    standard: bytes = model.SerializeToString()
    return standard


def _pairs(model: Classifier, theirs: Step, size: int) -> tuple[list[Pair], dict[str, str]]:
    """Steps side by side, and the names of the network's modules by those in its own graph."""
    template = _with_any_steps(model)
    deployed = deploy(template, size)
    _require_no_surplus(model, deployed)
    ours = steps_of(trace(deployed, size))
    names = dict(zip(_quantized(deployed), _quantized(model), strict=True))
    return list(Match().match(ours, theirs).values()), names


def _require_no_surplus(model: Classifier, deployed: Classifier) -> None:
    """Refuse a network whose file has other layers than it, or tables, see `qmu_edge.models.integers`."""
    own = {name for name, _ in weight_layers(model)}
    layers = [name for name, _ in weight_layers(deployed) if name not in own]
    surplus = [name for layer in layers if (name := layer.removesuffix(".0")) not in own]
    surplus += [name for name, module in deployed.named_modules() if isinstance(module, Table)]
    if surplus:
        raise ExportError(
            f"{', '.join(surplus)}: in their place the file of such a network has layers whose codes are all "
            "one, or tables of codes, and it cannot be read back"
        )


def _quantized(model: Classifier) -> list[str]:
    """Names of all layers and all grids, in the same order in a network and in its deploy form."""
    return [n for n, _ in weight_layers(model)] + [n for n, m in model.named_modules() if quantizes(m)]


def _with_any_steps(model: Classifier) -> Classifier:
    """A copy whose grids have a step: its graph is looked at, and not run.

    No two are the same: of a grid that is quantized once more on the same step, nothing is seen.
    """
    template = copy.deepcopy(model).eval()
    steps = (m for m in template.modules() if isinstance(m, LearnedStep))
    with torch.no_grad():
        for number, module in enumerate(m for m in steps if not bool(m.step.isfinite().all())):
            module.step.fill_(2.0 ** (number % MOST_STEPS))
    return template


def _module(step: Step) -> str:
    """The module of a step of the network's own graph."""
    name = step.label.partition(" ")[2].strip("'")
    return name.removesuffix(GRID if step.kind == "grid" else SUM)


def _set_grid(model: Classifier, name: str, pair: Pair) -> None:
    ours, theirs = pair.ours, pair.theirs
    grid: Any = model.get_submodule(name)
    rule = grid.act_quant.fused_activation_quant_proxy.tensor_quant
    as_many = theirs.high - theirs.low == ours.high - ours.low and theirs.low <= 0 <= theirs.high
    aside = as_many and not isinstance(grid, QuantReLU)
    if (ours.low, ours.high) != (theirs.low, theirs.high) and not aside:
        raise ExportError(
            f"{theirs.label}: codes {theirs.low} to {theirs.high}, the recipe's grid {name} has "
            f"{ours.low} to {ours.high}: bits differ, or there is a zero point behind a rectifier"
        )
    step = np.float32(theirs.scale)
    if theirs.ceiling < float(step) * theirs.high or theirs.floor > float(step) * theirs.low:
        raise ExportError(f"{theirs.label}: values are cut off within the grid, between two codes")
    scaling = rule.scaling_impl
    if not isinstance(scaling, LearnedStep):
        raise ConfigError('[model] quantizer: allowed for a file that is read back is "learned_step"')
    if ours.low != theirs.low:
        rule.int_quant.shift(theirs.low)
    scaling.step.fill_(float(step))
    if float(scaling.value()) != float(step):
        if not scaling.power_of_two:
            raise ConfigError(f"{theirs.label}: its step {step:g} is smaller than any that is learned")
        raise ConfigError(
            f"{theirs.label}: its step {step:g} is no power of two, as [model] activation_steps says; "
            'allowed with "free"'
        )


def _set_layer(layer: Any, norm: Any, pair: Pair, norms: _Norms) -> None:
    """Codes and scale; what is left of gain and shift goes to the batch-norm, or the bias."""
    theirs = pair.theirs
    codes, scale = _required(theirs.codes), _required(theirs.scale)
    if codes.shape != tuple(layer.weight.shape):
        raise ExportError(
            f"{theirs.label}: weight {codes.shape}, the network's is {tuple(layer.weight.shape)}"
        )
    full = np.broadcast_to(scale * theirs.gain, (len(codes),)).copy()
    shift = np.broadcast_to(theirs.shift, (len(codes),)).copy()
    gain = np.ones(len(codes))
    if layer.weight_quant.is_quant_enabled:
        _require_codes(codes, layer, theirs)
    elif codes.dtype != np.float64:
        raise ExportError(f"{theirs.label}: integer codes, where the recipe's layer is float")
    if norm is not None:  # a weight that training is used to, by a power of two
        spread = np.sqrt(np.mean((codes.reshape(len(codes), -1) * full[:, None]) ** 2))
        usual = (2.0 / np.prod(codes.shape[1:])) ** 0.5
        gain = np.full(len(codes), 2.0 ** np.round(np.log2(spread / usual)) if spread > 0 else 1.0)
        if layer.weight_quant.is_quant_enabled:
            gain = np.where(full < 0, -gain, gain)
        if _has_one_step(layer):  # the batch-norm has what differs between channels
            gain = full / np.float32(np.mean(np.abs(full / gain)))
        norms[norm] = torch.from_numpy(gain), torch.from_numpy(shift)
        if layer.bias is not None:  # a part of the batch-norm's
            layer.bias.zero_()
    elif layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(shift))
    elif shift.any():
        raise ExportError(f"{theirs.label}: has a bias, and the network's layer has none")
    steps = torch.from_numpy(full / gain)
    over = steps.reshape(-1, *(1,) * (codes.ndim - 1))
    layer.weight.copy_((torch.from_numpy(codes.astype(np.float64)) * over).float())
    if layer.weight_quant.is_quant_enabled:
        _set_steps(layer, over.float(), theirs)


def _has_one_step(layer: Any) -> bool:
    """Whether a layer has one step for all of its channels."""
    scaling = layer.weight_quant.tensor_quant.scaling_impl if layer.weight_quant.is_quant_enabled else None
    return isinstance(scaling, LearnedStep) and scaling.step.numel() == 1


def _set_steps(layer: Any, steps: Tensor, theirs: Step) -> None:
    scaling = layer.weight_quant.tensor_quant.scaling_impl
    if not isinstance(scaling, LearnedStep):
        raise ConfigError('[model] quantizer: allowed for a file that is read back is "learned_step"')
    if bool((steps < 0).any()):  # no batch-norm takes the sign
        raise ExportError(f"{theirs.label}: a negative scale")
    if _has_one_step(layer):
        if not torch.allclose(steps, steps[:1], rtol=EQUAL):
            raise ExportError(f"{theirs.label}: a scale for each channel, and the network's layer has one")
        steps = steps[:1]
    scaling.step.copy_(steps.reshape(scaling.step.shape))
    if not torch.equal(scaling.value().reshape(-1), steps.reshape(-1)):
        raise ExportError(f"{theirs.label}: a scale of {float(steps.min()):g}, too small to be learned")


def _require_codes(codes: np.ndarray, layer: Any, theirs: Step) -> None:
    bits = int(layer.weight_quant.bit_width())
    low, high = code_range(bits, signed=True, narrow=bool(layer.weight_quant.is_narrow_range))
    if codes.dtype != np.int64:
        raise ExportError(f"{theirs.label}: a float weight, the recipe's has {bits} bits")
    if codes.min() < low or codes.max() > high:
        if max(-codes.min(), codes.max()) > BYTE:
            raise ExportError(
                f"{theirs.label}: codes {codes.min()} to {codes.max()}, allowed are -127 to 127: weights are "
                "to be quantized without a zero point (QInt8, symmetric)"
            )
        raise ExportError(
            f"{theirs.label}: codes {codes.min()} to {codes.max()}, the recipe's {bits} bits have {low} to "
            f"{high}; [model] weight_bits and reduce_range say how many"
        )


def _required(values: np.ndarray | None) -> np.ndarray:
    if values is None:
        raise ExportError("a layer without codes")
    return values


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set_norms(model: Classifier, norms: _Norms, samples: Samples) -> None:
    """First gain and shift with statistics of 0 and 1, then the same with those that are measured so."""
    for norm, (gain, shift) in norms.items():
        _set_norm(norm, torch.zeros_like(shift), torch.ones_like(shift), gain, shift)
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def arrived(norm: Any, x: tuple[Any, ...]) -> None:
        value = (x[0] if isinstance(x[0], Tensor) else x[0].value).double()
        rows = value.transpose(0, 1).flatten(1)
        sums[norm] += torch.stack([rows.sum(1), rows.square().sum(1)])
        counts[norm] += rows.shape[1]

    model.eval()
    with _hooked([norm.register_forward_pre_hook(arrived) for norm in norms]), quickly(model):
        for batch in samples.take(torch.arange(min(STATISTICS_IMAGES, len(samples)))).batches(BATCH):
            model(batch.images)
    for norm, (gain, shift) in norms.items():
        mean, square = sums[norm] / counts[norm]
        _set_norm(norm, mean, (square - mean.square()).clamp_min(0.0), gain, shift)


def _set_norm(norm: Any, mean: Any, variance: Any, gain: Tensor, shift: Tensor) -> None:
    """A batch-norm of these statistics (c,) that computes x * gain + shift, as float32 allows."""
    kept: Any = (norm.running_mean, norm.running_var)
    kept[0].copy_(mean)
    kept[1].copy_(variance)
    norm.weight.copy_(gain * (kept[1].double() + norm.eps).sqrt())
    norm.bias.copy_(shift + kept[0].double() * gain)
