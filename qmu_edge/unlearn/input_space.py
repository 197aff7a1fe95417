"""The subspace spanned by the inputs of a layer, from their covariance.

A change of the weights orthogonal to that subspace does not change the layer's outputs, and the gradient of
the weights lies in it. Covariances are sums over images: that of the retain set is the difference between
those of all images and of the forget set.

Source: Saha, Garg and Roy, "Gradient Projection Memory for Continual Learning", ICLR 2021, arXiv:2103.09762;
    the threshold is that of Hoang, Rana, Gupta and Venkatesh, WACV 2024, arXiv:2312.04095.
Differs: patches are taken at the layer's own stride and in its own groups (a depthwise layer has one small
    space for each channel); inputs are the quantized ones of evaluation mode, of images not augmented.
Shapes: g groups of a layer (1 for most), d inputs of one output (channels of a group x kernel), o outputs.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from qmu_edge.errors import UnlearnError
from qmu_edge.io.files import write_atomic
from qmu_edge.io.progress import Progress
from qmu_edge.models.calibration import weight_layers
from qmu_edge.train.batches import Samples
from qmu_edge.unlearn.eigen import eigen

BATCH: Final = 64  # patches in float64 are large: 18 times the input of a 3x3 convolution
ROUNDING: Final = 1e-9  # largest magnitude of a negative eigenvalue by rounding, relative to the largest one
_NETWORK: Final = "of"  # the entry of a file with the fingerprint of the network it belongs to


def patches(layer: Any, x: Tensor) -> Float64[Tensor, "g d m"]:
    """The m input vectors that the layer multiplies by its weights, one for each image and position."""
    if isinstance(layer, nn.Linear):
        return x.double().T[None]
    windows = F.unfold(
        x, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    grouped = windows.reshape(len(x), layer.groups, -1, windows.shape[2])
    return grouped.permute(1, 2, 0, 3).flatten(2).double()


def covariances(model: nn.Module, samples: Samples, progress: Progress) -> dict[str, Tensor]:
    """Sum of r r^T over all input vectors r, float64 (g, d, d), for every layer with weights, by its name.

    The network runs in evaluation mode and float32; its mode is restored.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def add(layer: nn.Module, inputs: tuple[Tensor]) -> None:
            r = patches(layer, inputs[0])
            found[name] = found[name].baddbmm_(r, r.mT) if name in found else r @ r.mT

        return add

    progress.start("covariances of layer inputs", len(samples))
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in weight_layers(model)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for b in samples.batches(BATCH):
                model(b.images)
                progress.advance(len(b))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    progress.finish()
    return found


def basis(covariance: Float64[Tensor, "g d d"], gamma: float) -> Float[Tensor, "g d k"]:
    """Orthonormal basis of the principal directions of the inputs.

    They are the leading ones whose singular values sum to at most `gamma` of the total. Groups with fewer
    than k directions have columns of zeros; a group without inputs has no directions.

    Raises:
        UnlearnError: The matrix is not a covariance (an entry is not finite, or an eigenvalue is negative),
            or no solver finds its eigenvalues.

    >>> covariance = torch.diag(torch.tensor([1.0, 16.0, 0.0, 4.0], dtype=torch.float64))[None]
    >>> basis(covariance, 0.9).abs()[0].T  # singular values 4, 2, 1: of these (4 + 2) / 7
    tensor([[0., 1., 0., 0.],
            [0., 0., 0., 1.]])
    """
    values, vectors = eigen(covariance, "the covariance of a layer's inputs")
    if bool(values.min() < -ROUNDING * values.max()):
        raise UnlearnError("the stored covariances do not cover the forget set: some directions are negative")
    singular = values.clamp_min(0.0).sqrt().flip(-1)
    enough = singular.cumsum(-1) <= gamma * singular.sum(-1, keepdim=True)
    chosen = enough & (singular > 0)
    most = int(chosen.sum(-1).max())
    directions: Tensor = vectors.flip(-1) * chosen[:, None]
    return directions[..., :most].float()


def inside(change: Float[Tensor, "o ..."], basis: Float[Tensor, "g d k"]) -> Float[Tensor, "g _ k"]:
    """Coordinates of a change of a layer's weights in the basis, for each group and output."""
    groups, d, _ = basis.shape
    return change.reshape(groups, -1, d) @ basis


def outside(change: Float[Tensor, "*w"], basis: Float[Tensor, "g d k"]) -> Float[Tensor, "*w"]:
    """The component of a change of weights that is orthogonal to the subspace.

    >>> outside(torch.tensor([[3.0, 4.0]]), torch.tensor([[[0.6], [0.8]]]))
    tensor([[0., 0.]])
    """
    return change - (inside(change, basis) @ basis.mT).reshape(change.shape)


def save(path: Path, model: nn.Module, found: dict[str, Tensor]) -> None:
    """Store covariances for later requests; they are valid for this network only.

    Raises:
        ConfigError: The disk is full or failing.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
    data = save_tensors({**tensors, _NETWORK: _fingerprint(model)})
    write_atomic(path, hashlib.sha256(data).digest() + data, mode=0o600)


def load(path: Path | None, model: nn.Module) -> dict[str, Tensor] | None:
    """Stored covariances, on the device of `model`; None without a valid file of this network."""
    if path is None or not path.is_file():
        return None
    stored = path.read_bytes()
    if hashlib.sha256(stored[32:]).digest() != stored[:32]:
        return None
    try:
        tensors = load_tensors(stored[32:])
    except SafetensorError:
        return None
    if not torch.equal(tensors.pop(_NETWORK, torch.empty(0)), _fingerprint(model)):
        return None
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _fingerprint(model: nn.Module) -> UInt8[Tensor, "32"]:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
