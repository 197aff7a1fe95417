"""Checkpoints: latent weights and quantizer state as safetensors, with what is needed to rebuild the network.

Beside the network stands how hard each image of the dataset was to learn, where training noted it.

A checkpoint is one file without pickle, with the same bytes for the same network. The header entry `qmu_edge`
is JSON in the encoding of stored objects: the model section of the recipe, channels and classes,
normalisation, class names, image size, and the origin of the network (its parent's digest and the method).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from qmu_edge.errors import ConfigError, IntegrityError, UnlearnError
from qmu_edge.io.json import compact, parse_object, shown
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier, Factory, Shape
from qmu_edge.recipe import ModelRecipe

FORMAT = 1
MAX_CHANNELS = 64
MAX_HEADER = 1 << 24  # bytes
DIFFICULTY = "difficulty"  # the tensor that is no part of the network


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Metadata of a checkpoint beside the network.

    Attributes:
        class_names: In label order.
        size: Image side in pixels.
        split: Digest of the sample index it was trained on.
        method: "train" or the unlearning method.
        parent: Digest of the checkpoint that was unlearned; "" after training.
    """

    class_names: tuple[str, ...]
    size: int
    split: str
    method: str = "train"
    parent: str = ""


def dumps(model: Classifier, origin: Origin) -> bytes:
    """Serialise a network to the bytes of a checkpoint.

    Raises:
        UnlearnError: A weight is NaN or infinite.
    """
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():  # a weight that two layers share is stored for each
        stored = value.detach().cpu().contiguous()
        tensors[name] = stored.clone() if value.data_ptr() in seen else stored
        seen.add(value.data_ptr())
    if model.difficulty is not None:
        tensors[DIFFICULTY] = model.difficulty
    _require_finite(tensors, UnlearnError("the network holds weights that are not finite"))
    header = {
        "format": FORMAT,
        "model": model.recipe.model_dump(mode="json"),
        "shape": {name: value for name, value in asdict(model.shape).items() if name != "size"},
        "origin": asdict(origin),
    }
    return save_tensors(tensors, metadata={"qmu_edge": compact(header).decode()})


def loads(
    data: bytes, source: str, expected: ModelRecipe | None = None, factory: Factory | None = None
) -> tuple[Classifier, Origin]:
    """Rebuild a network from a checkpoint, on the CPU.

    Args:
        data: Bytes of the checkpoint.
        source: Name of the checkpoint in error messages.
        expected: The model section of the project's recipe; None accepts any model.
        factory: Makes the body of a user-defined network. The checkpoint itself holds no code.

    Raises:
        ConfigError: The network is user-defined, and there is no factory.
        IntegrityError: The data are not a checkpoint or damaged, hold another model than expected, or weights
            that are not finite.
    """
    recipe, shape, origin = _described(data, source, expected)
    try:
        tensors = load_tensors(data)
        model = build(recipe, shape, seed=0, factory=factory)
        model.difficulty = _difficulty(tensors.pop(DIFFICULTY, None), source)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        first = str(error).partition("\n")[0][:200]
        raise IntegrityError(f"{source}: its tensors do not fit its header: {first}") from None
    _require_finite(tensors, IntegrityError(f"{source}: holds weights that are not finite"))
    return model.eval(), origin


def origin_in(data: bytes, source: str, expected: ModelRecipe | None = None) -> Origin:
    """What a checkpoint says about itself; no network is built.

    Args:
        data: Bytes of the checkpoint.
        source: Name of the checkpoint in error messages.
        expected: The model section of the project's recipe; None accepts any model.

    Raises:
        IntegrityError: The data are not a checkpoint, or hold another model than expected.
    """
    return _described(data, source, expected)[2]


def _described(data: bytes, source: str, expected: ModelRecipe | None) -> tuple[ModelRecipe, Shape, Origin]:
    """The header of a checkpoint, checked before a network of that size is built."""
    header = _header(data, source)
    try:
        recipe = ModelRecipe.model_validate(header["model"])
        shape = TypeAdapter(Shape).validate_json(compact(header["shape"]), strict=True, extra="forbid")
        origin = TypeAdapter(Origin).validate_json(compact(header["origin"]), strict=True, extra="forbid")
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = shown(".".join(map(str, problem["loc"])))
        raise IntegrityError(
            f"{source}: its header does not describe a network: {error.title} {where}: {problem['msg']}"
        ) from None
    except (KeyError, ConfigError) as error:
        raise IntegrityError(f"{source}: its header does not describe a network: {error}") from None
    shape = replace(shape, size=origin.size)
    if shape.classes != len(origin.class_names):
        raise IntegrityError(f"{source}: {shape.classes} classes with {len(origin.class_names)} names")
    if shape.channels > MAX_CHANNELS:
        raise IntegrityError(f"{source}: {shape.channels} image channels, allowed {MAX_CHANNELS}")
    if expected is not None and recipe != expected:
        raise IntegrityError(f"{source}: a checkpoint of another model: {_difference(recipe, expected)}")
    return recipe, shape, origin


def _difficulty(stored: torch.Tensor | None, source: str) -> torch.Tensor | None:
    """What is stored beside the network, where that is a byte for each image."""
    if stored is not None and (stored.dtype != torch.uint8 or stored.dim() != 1):
        what = f"{stored.dtype} {tuple(stored.shape)}"
        raise IntegrityError(f"{source}: {DIFFICULTY} is {what}, allowed is one uint8 for each image")
    return stored


def _header(data: bytes, source: str) -> dict[str, Any]:
    """The JSON entry of a safetensors header, read without touching the tensors."""
    what, length = f"{source}: not a checkpoint of qmu-edge", int.from_bytes(data[:8], "little")
    if len(data) < 8 + length:
        raise IntegrityError(f"{what}: {len(data)} bytes, header of {length}")
    whole = parse_object(data[8 : 8 + length], what, IntegrityError, limit=MAX_HEADER)
    try:
        text = whole["__metadata__"]["qmu_edge"].encode()
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{what}: {error}") from None
    header = parse_object(text, what, IntegrityError, limit=MAX_HEADER)
    if header.get("format") != FORMAT:
        raise IntegrityError(f"{what}: format {shown(header.get('format'))}, allowed is {FORMAT}")
    return header


def _require_finite(tensors: dict[str, torch.Tensor], error: Exception) -> None:
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise type(error)(f"{error}: {name}")


def _difference(found: ModelRecipe, expected: ModelRecipe) -> str:
    pairs = ((k, v, getattr(expected, k)) for k, v in found.model_dump().items())
    return ", ".join(f"{k} is {v}, the recipe says {e}" for k, v, e in pairs if v != e)
