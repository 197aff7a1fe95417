"""Files of weights from elsewhere: two forms are read, and whatever else is given is refused in one line."""

import io
import json
import os
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors

from qmu_edge.errors import ConfigError
from qmu_edge.models import weights_file
from qmu_edge.models.weights_file import weights_in

STATE = {"conv.weight": torch.arange(4.0), "bn.num_batches_tracked": torch.tensor(3)}


def saved(thing: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        safetensors(STATE),
        saved(STATE),
        saved(OrderedDict(STATE)),
        saved({"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}}),
        saved({"model": STATE}),
    ],
    ids=["safetensors", "torch", "ordered", "beside other things", "of DataParallel"],
)
def test_the_tensors_are_read_by_their_names(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights"
    path.write_bytes(data)
    found = weights_in(path.read_bytes(), path)
    assert {*found} == {*STATE}
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_half_precision_becomes_float32() -> None:
    found = weights_in(safetensors({"a": torch.ones(2, dtype=torch.bfloat16)}), "w")["a"]
    assert found.dtype == torch.float32


class Malice:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        """Say which."""
        self.folder = folder

    def __reduce__(self) -> Any:
        """What pickle would do."""
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "beside tensors"])
def test_a_pickle_that_runs_code_does_not(
    tmp_path: Path, old: bool, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # somebody else's convenience
    thing = Malice(tmp_path / "run")
    path = tmp_path / "w.pt"
    path.write_bytes(
        saved({**STATE, "x": thing} if inside else thing, _use_new_zipfile_serialization=not old)
    )
    with pytest.raises(ConfigError) as caught:
        weights_in(path.read_bytes(), path)
    assert not (tmp_path / "run").exists()
    assert str(caught.value).startswith(f"{path}: ") and "weights_only=False" not in str(caught.value)
    assert b"mkdir" in path.read_bytes()  # it is named there


def test_what_other_libraries_allow_is_refused_all_the_same(tmp_path: Path) -> None:
    """PyTorch's list of what may be named is of the whole process."""
    path, thing = tmp_path / "w.pt", Malice(tmp_path / "run")
    path.write_bytes(saved({**STATE, "x": thing}))
    with torch.serialization.safe_globals([os.mkdir]), pytest.raises(ConfigError, match="posix mkdir"):
        weights_in(path.read_bytes(), path)
    assert not (tmp_path / "run").exists()


def zipped(parts: dict[str, bytes], how: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def header(entry: dict[str, Any], length: int | None = None, body: bytes = b"") -> bytes:
    text = json.dumps(entry).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def _longer(archive: bytes) -> bytes:
    """The list at the end says that what makes the tensors has a million bytes more."""
    data = bytearray(archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        (entry,) = (e for e in found.infolist() if e.filename.endswith("data.pkl"))
    sizes = struct.pack("<II", entry.compress_size, entry.file_size)
    at = archive.index(sizes, archive.index(b"PK\x01\x02"))
    data[at : at + 8] = struct.pack("<II", entry.compress_size + 10**6, entry.file_size + 10**6)
    return bytes(data)


NAN = torch.tensor([1.0, float("nan")])
TIED = torch.ones(3)
HUGE = torch.ones(1).expand(1 << 20, 1 << 20)
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "neither safetensors nor weights"),
    "text": (lambda: b"not a file of weights", "neither safetensors nor weights"),
    "a truncated safetensors": (lambda: safetensors(STATE)[:-3], "damaged safetensors|cut off"),
    "a truncated header": (lambda: safetensors(STATE)[:20], "a header of .* cut off"),
    "a huge header": (lambda: header({}, 1 << 62), f"a header of {1 << 62} bytes"),
    "overlapping tensors": (
        lambda: header(
            {n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"}, body=bytes(4)
        ),
        "damaged safetensors",
    ),
    "a truncated zip": (lambda: saved(STATE)[:-30], "damaged or cut off"),
    "a zip that says more than it holds": (lambda: _longer(saved(STATE)), "damaged or cut off"),
    "a zip of something else": (lambda: zipped({"a.txt": b"x"}, zipfile.ZIP_STORED), "not weights alone"),
    "a zip bomb": (lambda: zipped({"a/data.pkl": bytes(1 << 20)}, zipfile.ZIP_DEFLATED), "a compressed zip"),
    "a huge pickle": (
        lambda: zipped({"a/data.pkl": bytes(weights_file.MAX_HEADER + 1)}, zipfile.ZIP_STORED),
        "bytes that describe them",
    ),
    "a whole network": (lambda: saved(torch.nn.Linear(1, 1)), "not weights alone"),
    "a list": (lambda: saved([TIED]), "holds list, allowed is a state_dict"),
    "nothing": (lambda: saved({}), "allowed is a state_dict"),
    "a number": (lambda: saved({"lr": 0.1}), "'lr' is float; allowed are tensors"),
    "not a name": (lambda: saved({3: TIED}), "allowed are tensors"),
    "nan": (lambda: safetensors({"a": NAN}), "'a' holds a value that is not finite"),
    "infinity": (lambda: saved({"a": 1 / torch.zeros(1)}), "'a' holds a value that is not finite"),
    "tied weights": (lambda: saved({"a": TIED, "b": TIED}), r"'a' and 'b' are one tensor \(tied weights\)"),
    "a stretched tensor": (lambda: saved({"a": HUGE}), "larger than the allowed"),
    "a sparse tensor": (lambda: saved({"a": torch.eye(3).to_sparse()}), "it names .*_rebuild_sparse"),
    "a complex tensor": (lambda: saved({"a": torch.ones(1) * 1j}), "allowed are real numbers"),
    "a tensor without values": (lambda: saved({"a": torch.ones(2, device="meta")}), "it names .*meta_ten"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    path = tmp_path / "w"
    path.write_bytes(make())
    with pytest.raises(ConfigError, match=message) as caught:
        weights_in(path.read_bytes(), path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 500


def test_what_is_compressed_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A megabyte of zip unpacked to a gigabyte, before it was refused."""

    def read(*_: object) -> bytes:
        raise AssertionError("unpacked")

    bomb = zipped({f"a/{i}.pkl": bytes(1 << 20) for i in range(3)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    with pytest.raises(ConfigError, match="a compressed zip"):
        weights_in(bomb, tmp_path)


def test_too_many_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_file, "MAX_TENSORS", 1)
    with pytest.raises(ConfigError, match="2 tensors, allowed 1"):
        weights_in(safetensors(STATE), "w")
