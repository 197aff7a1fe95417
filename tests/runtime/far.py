"""A device that is not the processor, for machines that have no other: far tensors.

They compute on the processor, but refuse what a GPU would: to meet a tensor of the processor, to be drawn by
a generator of the processor, to be read as an array. Their device is "meta", which is what PyTorch's own
machinery takes without a driver.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FAR: Final = torch.device("meta")
ATEN: Any = torch.ops.aten
# These carry tensors from one device to another.
CARRIERS: Final = {ATEN._to_copy.default, ATEN.copy_.default, ATEN._foreach_copy_.default}
# Indices may be near where the indexed tensor is far.
INDEXING: Final = {ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default}


class Far(Tensor):
    """A tensor on the device; `near_by` is where it really is."""

    near_by: Tensor

    @staticmethod
    def __new__(cls, near_by: Tensor) -> "Far":
        """Around a tensor of the processor."""
        made: Far = Tensor._make_wrapper_subclass(
            cls, near_by.size(), strides=near_by.stride(), storage_offset=near_by.storage_offset(),
            dtype=near_by.dtype, device=FAR,
        )  # fmt: skip
        made.near_by = near_by
        return made

    def __format__(self, how: str) -> str:
        """As a number, for messages."""
        return format(self.near_by.item(), how)

    def __repr__(self) -> str:  # type: ignore[override]
        """For failing tests."""
        return f"Far({self.near_by!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """As in the mode, which is there whenever far tensors are."""
        return _call(func, args, kwargs or {})


class _Device(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes far what is asked to be on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


@contextmanager
def far_device() -> Iterator[torch.device]:
    """The device, as long as it lasts, without what PyTorch does for no unknown device."""
    with pytest.MonkeyPatch.context() as patch, _Device():  # type: ignore[no-untyped-call]
        patch.setattr("torch.is_autocast_enabled", lambda device: False)
        tensor = torch.tensor
        patch.setattr("torch.tensor", lambda data, device=None, **how: tensor(data, **how).to(device))
        patch.setattr("torch.inference_mode", torch.no_grad)
        patch.setattr(torch.Tensor, "rename", lambda self, *names: self, raising=False)  # gone in newer ones
        patch.setattr("torch.autocast", lambda *args, **kwargs: nullcontext())
        optimizers: Any = sys.modules["torch.optim.optimizer"]
        patch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
        yield FAR


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_flatten((args, kwargs))[0]
    far = any(isinstance(leaf, Far) for leaf in leaves)
    near = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Far) and leaf.dim()]
    wanted = kwargs.get("device")
    if far and near and func not in CARRIERS and not (func in INDEXING and isinstance(args[0], Far)):
        raise RuntimeError(f"{func}: tensors of two devices")
    if any(isinstance(leaf, torch.Generator) for leaf in leaves) and (far or wanted == FAR):
        raise RuntimeError(f"{func}: a generator of the processor")
    stays = far if wanted is None else torch.device(wanted) == FAR
    if func is ATEN._local_scalar_dense.default:
        stays = False
    inside, named = tree_map(lambda x: x.near_by if isinstance(x, Far) else x, (args, kwargs))
    if wanted is not None:
        named["device"] = torch.device("cpu")
    found = func(*inside, **named)
    if func is ATEN.copy_.default:
        return args[0]
    known = {id(x.near_by): x for x in leaves if isinstance(x, Far)}

    def outer(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else Far(x) if stays else x

    return tree_map(outer, found)
