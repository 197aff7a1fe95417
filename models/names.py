"""Weights that were trained elsewhere, matched with a network by name and shape.

A tensor of the network is looked for under the name that a file of names gives it, else under its own name,
the one that torchvision has for it, and the one it has in the body that the user's own file builds. The
classifier may be called anything: it is the layer that alone is left over on both sides. Nothing else is
guessed: a tensor that is left over on either side is an error that names it.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from qmu_edge.errors import FEW, ConfigError, few, meant
from qmu_edge.io.json import shown
from qmu_edge.io.toml import parse_toml
from qmu_edge.models.layers import Classifier
from qmu_edge.models.transposed import as_kept

MAX_BYTES: Final = 1 << 20
BODY: Final = "body."  # of a network of the user's own
QUANTIZER: Final = "tensor_quant"  # in the name of every tensor of one, as Brevitas has it
COUNTS: Final = "num_batches_tracked"


def trained_tensors(model: Classifier, *, quantizers: bool = False) -> dict[str, Tensor]:
    """What training makes, by name: weights, biases, batch-norm, perhaps quantizers. Shares the storage."""
    state = model.state_dict()
    return {n: t for n, t in state.items() if (quantizers or QUANTIZER not in n) and not n.endswith(COUNTS)}


def names_in(data: bytes, source: object) -> dict[str, str]:
    """What a TOML file `our name = "their name"` says, of tensors or of modules.

    Args:
        data: Its content, at most 1 MiB.
        source: What it is called in messages.

    Raises:
        ConfigError: It is too large, not TOML, or a name is not a text.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{source}: {len(data)} bytes, allowed are {MAX_BYTES}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 at byte {error.start}") from None
    return dict(_flat(parse_toml(text, source), "", source))


def _flat(table: Mapping[str, Any], before: str, source: object) -> Iterator[tuple[str, str]]:
    """Names without quotes are tables to TOML: `head.weight = "fc.weight"` is the same as with them."""
    for key, value in table.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.", source)
        elif isinstance(value, str):
            yield name, value
        else:
            raise ConfigError(f"{source}: {shown(name)} is {value!r}, allowed is a name as text")


def matched(
    model: Classifier, given: Mapping[str, Tensor], names: Mapping[str, str], source: object,
    *, any_head: bool = False, quantizers: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """The tensors of a file under the names that the network has for them.

    Args:
        model: Any network.
        given: Tensors by their names.
        names: See `names_in`.
        source: What the file is called in messages.
        any_head: Leave a classifier of another number of classes out, on both sides.
        quantizers: Whether the file holds steps and scales as well.

    Raises:
        ConfigError: A tensor is left over on either side, or two want the same; all are named. Shapes differ,
            or `names` has what the network or the file has not; the first are named.
    """
    considered = {own: their for own, their in names.items() if quantizers or "_quant" not in own}
    _require_there(considered, model.state_dict(), "network", source)
    ours = trained_tensors(model, quantizers=quantizers)
    wanted = {name: _candidates(name, model.recipe.architecture, names) for name in ours}
    theirs = {name: t for name, t in given.items() if not name.endswith(COUNTS)}
    theirs = unwrapped(theirs, {name for candidates in wanted.values() for name in candidates}.__contains__)
    _require_there(considered.values(), theirs, "file", source)
    pairs = {own: their for own in ours if (their := next((c for c in wanted[own] if c in theirs), ""))}
    if not any(_within(known, "head") for known in names):
        pairs |= _classifier(ours.keys() - pairs.keys(), theirs.keys() - set(pairs.values()))
    if any_head:
        heads = [n for n in pairs if n.startswith("head.") and theirs[pairs[n]].shape != ours[n].shape]
        for name in heads:
            del ours[name]
            theirs.pop(pairs.pop(name), None)
    require_whole(ours.keys() - pairs.keys(), theirs.keys() - set(pairs.values()), source)
    _require_once(pairs, source)
    for own, their in pairs.items():
        module, _, kind = own.rpartition(".")
        if kind == "weight":
            theirs[their] = as_kept(theirs[their], model.get_submodule(module))
    require_shapes(ours, theirs, pairs, source, model.recipe.width)
    for own, their in pairs.items():
        if their.endswith("running_var") and bool((theirs[their] < 0).any()):
            raise ConfigError(f"{source}: {shown(their)} is negative, and a variance cannot be ({own})")
    return {name: theirs[their] for name, their in pairs.items()}


def _require_there(wanted: Iterable[str], there: Collection[str], where: str, source: object) -> None:
    """What a file of names has on one side is in the network, or in the file of weights."""
    if unknown := [name for name in wanted if not any(_within(tensor, name) for tensor in there)]:
        modules = {tensor.rpartition(".")[0] for tensor in there}
        raise ConfigError(
            f"{source}: --names: {few(map(shown, unknown))}: the {where} has no tensor and no module of this "
            f"name{meant(unknown[0], {*there, *modules})}"
        )


def unwrapped(given: Mapping[str, Tensor], known: Callable[[str], bool]) -> dict[str, Tensor]:
    """Tensors without what a wrapper has put before the name of each, as DistributedDataParallel does.

    Args:
        given: By name. Where one is known as it is, or none is without, nothing is taken off.
        known: Whether the network has a tensor of this name.

    >>> x = Tensor()
    >>> [*unwrapped({"module.fc.weight": x, "module.fc.bias": x}, {"fc.weight"}.__contains__)]
    ['fc.weight', 'fc.bias']
    >>> [*unwrapped({"a.b": x, "c.d": x}, {"b"}.__contains__)]
    ['a.b', 'c.d']
    """
    bare = dict(given)
    while not any(map(known, bare)):
        if len({name.partition(".")[0] for name in bare}) != 1 or any("." not in name for name in bare):
            return dict(given)
        bare = {name.partition(".")[2]: tensor for name, tensor in bare.items()}
    return bare


def _within(name: str, known: str) -> bool:
    """Whether a tensor is the one of this name, or of the module of this name."""
    return name == known or name.startswith(f"{known}.")


def _candidates(name: str, architecture: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """The names that a file may have for a tensor of ours, first that which is looked for first."""
    for known in sorted(names, key=len, reverse=True):
        if _within(name, known):
            return (names[known] + name[len(known) :],)
    return name, PUBLISHED[architecture](name) if architecture in PUBLISHED else name.removeprefix(BODY)


def _classifier(missing: set[str], unused: set[str]) -> dict[str, str]:
    """The classifier's tensors with the names that they have elsewhere, where one layer has all that is left.

    >>> pairs = _classifier({"head.weight", "head.bias"}, {"classifier.3.weight", "classifier.3.bias"})
    >>> sorted(pairs.items())
    [('head.bias', 'classifier.3.bias'), ('head.weight', 'classifier.3.weight')]
    >>> _classifier({"head.weight", "head.bias"}, {"fc.weight", "aux.bias"})
    {}
    """
    layers = {name.rpartition(".")[0] for name in unused}
    if len(layers) != 1 or any(name.rpartition(".")[0] != "head" for name in missing):
        return {}
    pairs = {name: f"{min(layers)}.{name.rpartition('.')[2]}" for name in missing}
    return pairs if {*pairs.values()} == unused else {}


def require_whole(missing: set[str], unused: set[str], source: object) -> None:
    """Refuse a file that has not all tensors of a network, or others too.

    Raises:
        ConfigError: There is one; all are named.
    """
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors of the network are not in it: {', '.join(sorted(missing))}")
    if unused:
        parts.append(
            f"{len(unused)} of its tensors have no place in the network: {', '.join(sorted(unused))}"
        )
    if parts:
        near = meant(min(missing), unused) if missing else ""
        why = "most names differ: is [model] architecture that of the file? "
        most = why if min(len(missing), len(unused)) > FEW else ""
        raise ConfigError(f"{source}: {most}{'; '.join(parts)}; --names pairs names that differ{near}")


def _require_once(pairs: Mapping[str, str], source: object) -> None:
    taken: dict[str, str] = {}
    for name, their in pairs.items():
        if taken.setdefault(their, name) != name:
            raise ConfigError(f"{source}: {shown(their)} is wanted twice: for {taken[their]} and for {name}")


def require_shapes(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], pairs: Mapping[str, str], source: object,
    width: float | None = None,
) -> None:  # fmt: skip
    """Refuse tensors of other shapes than those of the network.

    Args:
        ours: The network's.
        theirs: The file's.
        pairs: Their names, by ours.
        source: What the file is called in messages.
        width: Of the recipe's network, where that is what multiplies its channels.

    Raises:
        ConfigError: There is one; the first are named.
    """
    wrong = [n for n in pairs if ours[n].shape != theirs[pairs[n]].shape]
    heads = [n for n in wrong if n.startswith("head.") and ours[n].shape[1:] == theirs[pairs[n]].shape[1:]]
    if heads and heads == wrong:
        found, wanted = len(theirs[pairs[heads[0]]]), len(ours[heads[0]])
        raise ConfigError(f"{source}: its classifier has {found} classes, the dataset has {wanted}")
    if wrong:
        said = (f"{pairs[n]} {tuple(theirs[pairs[n]].shape)} for {n} {tuple(ours[n].shape)}" for n in wrong)
        raise ConfigError(
            f"{source}: {len(wrong)} shapes differ: {few(said)}; [model] says which network it is"
            + _other_width([(ours[n], theirs[pairs[n]]) for n in wrong], width)
        )


def _other_width(pairs: Sequence[tuple[Tensor, Tensor]], width: float | None) -> str:
    """What to say of tensors, ours and theirs, of which most have the same multiple of channels.

    >>> import torch
    >>> _other_width([(torch.ones(8, 1), torch.ones(64, 3)), (torch.ones(8), torch.ones(64))], 0.125)
    ': most of its tensors have 8 times the channels, as width = 1 has'
    >>> _other_width([(torch.ones(8), torch.ones(64)), (torch.ones(8), torch.ones(24))], 0.125)
    ''
    """
    ratios = Counter(len(b) / len(a) for a, b in pairs if a.ndim and b.ndim and len(a))
    ((ratio, count),) = ratios.most_common(1) or [(1.0, 0)]
    if width is None or ratio == 1.0 or 2 * count <= len(pairs):
        return ""
    return f": most of its tensors have {ratio:g} times the channels, as width = {ratio * width:g} has"


def _resnet18(name: str) -> str:
    """The name that torchvision has for a tensor of ResNet18.

    >>> _resnet18("stem.0.1.running_mean"), _resnet18("blocks.5.second.0.weight"), _resnet18("head.bias")
    ('bn1.running_mean', 'layer3.1.conv2.weight', 'fc.bias')
    """
    name = re.sub(r"^stem\.0\.0\.", "conv1.", re.sub(r"^stem\.0\.1\.", "bn1.", name))
    name = re.sub(r"^head\.", "fc.", name)
    found = re.fullmatch(r"blocks\.(\d+)\.(first|second|shortcut\.0)\.([01])\.(\w+)", name)
    if not found:
        return name
    block, part, norm, rest = int(found[1]), found[2], int(found[3]), found[4]
    inner = f"{('conv', 'bn')[norm]}{2 if part == 'second' else 1}"
    if part == "shortcut.0":
        inner = f"downsample.{norm}"
    return f"layer{block // 2 + 1}.{block % 2}.{inner}.{rest}"


def _mobilenet_v2(name: str) -> str:
    """The name that torchvision has for a tensor of MobileNetV2.

    >>> _mobilenet_v2("blocks.0.branch.2.1.bias"), _mobilenet_v2("blocks.3.branch.2.0.weight")
    ('features.1.conv.2.bias', 'features.4.conv.1.0.weight')
    >>> _mobilenet_v2("blocks.3.branch.4.1.bias"), _mobilenet_v2("last.0.0.weight")
    ('features.4.conv.3.bias', 'features.18.0.weight')
    """
    name = re.sub(r"^head\.", "classifier.1.", name)
    name = re.sub(r"^last\.0\.", "features.18.", re.sub(r"^stem\.0\.", "features.0.", name))
    found = re.fullmatch(r"blocks\.(\d+)\.branch\.(\d+)\.([01])\.(\w+)", name)
    if not found:
        return name
    block, place, norm, rest = int(found[1]), int(found[2]) // 2, int(found[3]), found[4]
    projection = 1 if block == 0 else 2  # after a rectified layer or two
    inner = f"{place + norm}" if place == projection else f"{place}.{norm}"
    return f"features.{block + 1}.conv.{inner}.{rest}"


PUBLISHED: Final[Mapping[str, Callable[[str], str]]] = {"resnet18": _resnet18, "mobilenet_v2": _mobilenet_v2}
