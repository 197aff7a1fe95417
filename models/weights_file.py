"""Files of weights that were trained elsewhere: read as numbers, never run.

safetensors is the form to give: a header in JSON, and numbers. What `torch.save` writes is a pickle in a
zip. Its steps are listed first, which runs none of them: whatever names more than the parts of a tensor is
refused. Then PyTorch's reader of weights (`weights_only`) follows them. Its own list of names is not enough:
any library of the process can make it longer, and PyTorch's distributed tensors do. Such a file is read only
here, where somebody has given it by hand; what this project writes is never a pickle.
"""

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from qmu_edge.errors import ConfigError
from qmu_edge.io.json import shown
from qmu_edge.models.names import QUANTIZER

MAX_BYTES: Final = 4 << 30
MAX_HEADER: Final = 1 << 24  # bytes of the part that says what there is
MAX_TENSORS: Final = 10_000
WRAPPERS: Final = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights
_ZIP: Final = b"PK\x03\x04"
# All that a state_dict names: how a tensor is put together, and the kinds of numbers.
_PARTS: Final = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage"
)


def weights_in(data: bytes, source: object) -> dict[str, Tensor]:
    """The tensors of a file by their names, on the CPU; float ones as float32.

    Args:
        data: safetensors, or what `torch.save` makes of a state_dict, perhaps beside other things.
        source: What the file is called in messages.

    Raises:
        ConfigError: It is neither, is damaged, would run code, or a tensor is not finite or shared by two
            names.
    """
    given = _from_torch(data, source) if data.startswith(_ZIP) else _from_safetensors(data, source)
    tensors = _state(given, source)
    _require_sound(tensors, source)
    kinds = {name: torch.float32 if t.is_floating_point() else t.dtype for name, t in tensors.items()}
    found = {
        name: t.to(kinds[name], copy=True, memory_format=torch.contiguous_format)
        for name, t in tensors.items()
    }
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise ConfigError(f"{source}: {shown(name)} holds a value that is not finite")
    return found


def _from_safetensors(data: bytes, source: object) -> dict[str, Tensor]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not data[8:9] == b"{":
        raise ConfigError(
            f"{source}: neither safetensors nor weights of torch.save (PyTorch 1.6 or later); "
            "safetensors.torch.save_file(model.state_dict(), path) writes the first"
        )
    if length > min(MAX_HEADER, len(data) - 8):
        raise ConfigError(
            f"{source}: a header of {length} bytes in a file of {len(data)}, allowed are {MAX_HEADER} and "
            "no more than there are: the file is damaged or cut off"
        )
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(f"{source}: damaged safetensors: {_first_line(error)}") from None


def _from_torch(data: bytes, source: object) -> Any:
    _require_plain_zip(data, source)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a crafted file makes of the reader
        raise ConfigError(
            f"{source}: not weights alone: {_refusal(error)}; nothing of it was run: save the state_dict, "
            "best as safetensors"
        ) from None


def _require_plain_zip(data: bytes, source: object) -> None:
    """The zip is one of torch.save: nothing in it is compressed, and what makes the tensors is small."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _require_small(archive.infolist(), source)  # before any of it is read
            steps = [archive.read(entry) for entry in archive.infolist() if _describes(entry)]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        raise ConfigError(f"{source}: damaged or cut off: {_first_line(error)}") from None
    for listed in steps:
        _require_parts_only(listed, source)


def _require_small(entries: Sequence[zipfile.ZipInfo], source: object) -> None:
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise ConfigError(f"{source}: a compressed zip, which torch.save does not write")
    described, most = sum(e.file_size for e in entries if _describes(e)), 2 * MAX_TENSORS
    if len(entries) > most or described > MAX_HEADER or sum(e.file_size for e in entries) > MAX_BYTES:
        raise ConfigError(
            f"{source}: {len(entries)} parts, {described} bytes that describe them; allowed are "
            f"{most} parts and {MAX_HEADER} bytes"
        )


def _describes(entry: zipfile.ZipInfo) -> bool:
    """Whether it says how the tensors are put together."""
    return entry.filename.endswith(".pkl")


def _require_parts_only(steps: bytes, source: object) -> None:
    """A pickle that names nothing but parts of tensors; its steps are listed, not followed."""
    try:
        names = [(step.name, argument) for step, argument, _ in pickletools.genops(steps)]
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: damaged or cut off: {_first_line(error)}") from None
    for step, argument in names:
        if step in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            raise ConfigError(f"{source}: not weights alone: a step {step}, which torch.save does not write")
        if step == "GLOBAL" and not _PARTS.fullmatch(str(argument)):
            raise ConfigError(
                f"{source}: not weights alone: it names {shown(str(argument))}; nothing of it was run: save "
                "the state_dict, best as safetensors"
            )


def _state(given: Any, source: object) -> dict[str, Tensor]:
    """The tensors by name, of a state_dict or of something that holds one."""
    for key in WRAPPERS:
        if isinstance(given, Mapping) and isinstance(given.get(key), Mapping):
            given = given[key]
            break
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{source}: holds {type(given).__name__}, allowed is a state_dict: tensors by name")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConfigError(
                f"{source}: {shown(str(name))} is {type(value).__name__}; allowed are tensors, or a "
                f"state_dict under one of {', '.join(WRAPPERS)}"
            )
    return dict(given)


def _require_sound(tensors: Mapping[str, Tensor], source: object) -> None:
    """Before anything is copied: real numbers, no more of them than a file can hold, each of one name."""
    if len(tensors) > MAX_TENSORS:
        raise ConfigError(f"{source}: {len(tensors)} tensors, allowed {MAX_TENSORS}")
    seen: dict[tuple[int, int], str] = {}
    left = MAX_BYTES
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise ConfigError(f"{source}: {shown(name)} is {tensor.dtype}; allowed are real numbers")
        left -= math.prod(tensor.shape) * 4
        if left < 0:
            raise ConfigError(f"{source}: its tensors are larger than the allowed {MAX_BYTES} bytes together")
        place = (tensor.data_ptr(), tensor.numel())
        if QUANTIZER in name:  # quantizers may be shared: each takes its own step
            continue
        if tensor.numel() > 1 and seen.setdefault(place, name) != name:
            raise ConfigError(
                f"{source}: {shown(seen[place])} and {shown(name)} are one tensor (tied weights); "
                "allowed is one name for each: training would part them"
            )


def _refusal(error: Exception) -> str:
    """What the reader objects to, without its advice to trust the file."""
    for line in str(error).splitlines():
        if "Unsupported" in line or "GLOBAL" in line or "WeightsUnpickler error" in line:
            return line.partition("WeightsUnpickler error: ")[2][:160] or line[:160]
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
