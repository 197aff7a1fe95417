"""Parsers of what a network of elsewhere comes in: weights of two forms, and names."""

import io
from functools import cache

import torch
from safetensors.torch import save

from qmu_edge.models.names import names_in
from qmu_edge.models.weights_file import weights_in
from tests.fuzz.parser import JSON_WORDS, Parser, bytes_of

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.bias": torch.ones(2, dtype=torch.float16)}
NAMES = (b'head = "fc"\n"stem.0.0.weight" = "conv1.weight"\n', b'[head]\nweight = "fc.weight"\n')


@cache
def weights() -> list[bytes]:
    found = [save(STATE)]
    for thing in (STATE, {"state_dict": STATE, "epoch": 3}):
        buffer = io.BytesIO()
        torch.save(thing, buffer)
        found.append(buffer.getvalue())
    return found


WORDS = (
    *JSON_WORDS, b"PK\x03\x04", b"PK\x05\x06", b"data.pkl", b"cposix\nsystem\n", b"\x80\x02", b"\x93",
    b"R", b".", b"data_offsets", b'"F32"', b"\xff" * 8,
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x8a\x08" + b"\x7f" * 8,
)  # fmt: skip
ADOPTED_PARSERS: dict[str, Parser] = {
    "weights": Parser(
        lambda folder, path: weights_in(path.read_bytes(), path), bytes_of(weights, *WORDS), 10_000
    ),
    "names": Parser(
        lambda folder, path: names_in(path.read_bytes(), path),
        bytes_of(lambda: NAMES, b"[" * 3000, b"a." * 30_000 + b"a=1\n", b'"', b"\xff", b"= 1", b"9" * 5000),
        5_000,
    ),
}  # fmt: skip
