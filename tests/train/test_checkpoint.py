"""Checkpoints: the same bytes twice, the same network back, and one error for every kind of damage."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from qmu_edge.errors import IntegrityError, UnlearnError
from qmu_edge.models.build import build
from qmu_edge.models.calibration import uncalibrated
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.quantizers.presets import PRESETS
from qmu_edge.recipe import ModelRecipe
from qmu_edge.train.checkpoint import FORMAT, Origin, dumps, loads
from tests.networks import EACH

pytestmark = pytest.mark.usefixtures("shallow")

Network = Callable[..., Classifier]
ORIGIN = Origin(class_names=("cat", "dog", "Zoë"), size=8, split="ab" * 32, method="qmul", parent="cd" * 32)


@pytest.fixture(scope="module")
def good(network: Network) -> bytes:
    """A checkpoint."""
    return dumps(network(), ORIGIN)


def _header(data: bytes) -> Any:
    """What a checkpoint says about its network."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["qmu_edge"])


def _with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The same tensors under another header."""
    header = _header(data)
    change(header)
    return save(load(data), metadata={"qmu_edge": json.dumps(header)})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("architecture", EACH)
def test_network_comes_back_bitwise(network: Network, architecture: str, preset: str) -> None:
    model = network(architecture=architecture, quantizer=preset)
    data = dumps(model, ORIGIN)
    again, origin = loads(data, "file", expected=model.recipe)
    assert origin == ORIGIN
    assert (again.recipe, again.shape) == (model.recipe, model.shape)
    assert uncalibrated(again) == []
    assert not again.training
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(again(images), model(images))
    assert dumps(again, origin) == data


def test_bytes_depend_on_the_network_and_its_origin_alone(network: Network, good: bytes) -> None:
    assert dumps(network(), ORIGIN) == good
    assert dumps(network(), Origin(class_names=("a",), size=8, split="")) != good
    other = network()
    with torch.no_grad():
        other.get_parameter("head.bias")[0] += 1
    assert dumps(other, ORIGIN) != good


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    network: Network, good: bytes, value: float
) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("head.bias")[1] = value
    with pytest.raises(UnlearnError, match=r"not finite: head\.bias"):
        dumps(model, ORIGIN)
    tensors = load(good)
    tensors["head.bias"][1] = value
    length = int.from_bytes(good[:8], "little")
    data = save(tensors, metadata=json.loads(good[8 : 8 + length])["__metadata__"])
    with pytest.raises(IntegrityError, match=r"mine: holds weights that are not finite: head\.bias"):
        loads(data, "mine")


def test_network_without_grids_is_not_written() -> None:
    model = build(ModelRecipe(width=0.125), Shape(channels=1, classes=3), seed=0)
    with pytest.raises(UnlearnError, match="not finite"):
        dumps(model, ORIGIN)


def test_truncated_file_is_refused(good: bytes) -> None:
    length = 8 + int.from_bytes(good[:8], "little")
    cuts = [*range(0, 20), *range(20, length + 8, 997), length, len(good) // 2, len(good) - 1]
    for cut in cuts:
        with pytest.raises(IntegrityError, match=r"^mine: "):
            loads(good[:cut], "mine")
    with pytest.raises(IntegrityError, match=r"^mine: "):
        loads(good + b"\0", "mine")


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**24 + 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_hostile_header_size_is_refused(good: bytes, size: int) -> None:
    with pytest.raises(IntegrityError, match=r"^mine: "):
        loads(size.to_bytes(8, "little") + good[8:], "mine")


def test_header_of_more_than_16_mib_is_refused_even_when_it_is_there(good: bytes) -> None:
    length = int.from_bytes(good[:8], "little")
    header = good[8 : 8 + length].ljust(2**24 + 8)
    with pytest.raises(IntegrityError, match=r"^mine: not a checkpoint of qmu-edge"):
        loads(len(header).to_bytes(8, "little") + header + good[8 + length :], "mine")


@settings(max_examples=40, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), inner=st.booleans())
@example(where=0.8, flip=1, inner=True)  # in a digest
def test_flipped_header_byte_is_refused_or_read_as_it_stands(
    good: bytes, where: float, flip: int, inner: bool
) -> None:
    """A file has no checksum of its own: who refers to it knows its digest. But no weight ever moves."""
    length = int.from_bytes(good[:8], "little")
    start, end = 8, 8 + length
    if inner:  # our own part of it
        start = good.index(b"qmu_edge")
        end = good.index(b"}}", start)
    data = bytearray(good)
    data[start + int(where * (end - start))] ^= flip
    try:
        model, origin = loads(bytes(data), "mine")
    except IntegrityError as error:
        assert str(error).startswith("mine: ")
        return
    again, expected = dumps(model, origin), load(good)
    assert _header(again) == _header(bytes(data))
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format=FORMAT + 1), f"format {FORMAT + 1}, allowed is {FORMAT}"),
        (lambda h: h.pop("format"), "not a checkpoint"),
        (lambda h: h.pop("model"), "does not describe a network"),
        (lambda h: h.pop("origin"), "does not describe a network"),
        (lambda h: h.update(shape=[]), "does not describe a network"),
        (lambda h: h["model"].update(weight_bits=99), "does not describe a network"),
        (lambda h: h["model"].update(surprise=1), "does not describe a network"),
        (lambda h: h["shape"].update(surprise=1), "does not describe a network"),
        (lambda h: h["shape"].update(channels="1"), "does not describe a network"),
        (lambda h: h["shape"].update(classes=None), "does not describe a network"),
        (lambda h: h["shape"].update(classes=3.5), "does not describe a network"),
        (lambda h: h["shape"].update(mean="x"), "does not describe a network"),
        (lambda h: h["shape"].update(mean=[math.nan]), r"shape\.mean\[0\]: NaN is not a JSON number"),
        (lambda h: h["shape"].update(std=[0.0]), "does not describe a network"),
        (lambda h: h["origin"].update(size="8"), "does not describe a network"),
        (lambda h: h["origin"].update(class_names=3), "does not describe a network"),
        (lambda h: h["origin"].update(surprise=3), "does not describe a network"),
        (lambda h: h["model"].update(width=0.5), "tensors do not fit"),
        (lambda h: h["model"].update(architecture="mobilenet_v2"), "tensors do not fit"),
        (lambda h: h["shape"].update(classes=10**13), "10{13} classes with 3 names"),
        (lambda h: h["shape"].update(channels=10**13), "10{13} image channels, allowed 64"),
        (lambda h: h["shape"].update(channels=10**30), r"shape\.channels: integer beyond"),
        (lambda h: h["shape"].update(classes=2) or h["origin"]["class_names"].pop(), "tensors do not fit"),
        (lambda h: h["shape"].update(classes=-1), ""),
        (lambda h: h["shape"].update(channels=0), ""),
        (lambda h: h["shape"].update(mean=[]), ""),
    ],
)
def test_header_that_says_something_else_is_refused(
    good: bytes, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(IntegrityError, match=f"(?s)^mine: .*{message}"):
        loads(_with_header(good, change), "mine")


def test_checkpoint_of_another_model_says_the_difference(network: Network, good: bytes) -> None:
    expected = network().recipe.model_copy(update={"weight_bits": 2, "stem": "imagenet"})
    with pytest.raises(IntegrityError, match="weight_bits is 4, the recipe says 2") as caught:
        loads(good, "mine", expected)
    assert "stem is cifar, the recipe says imagenet" in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_tensors_must_be_those_of_the_network(good: bytes, change: str) -> None:
    length = int.from_bytes(good[:8], "little")
    tensors = load(good)
    if change == "missing":
        del tensors["head.bias"]
    if change == "surplus":
        tensors["stowaway"] = torch.zeros(2)
    if change == "shape":
        tensors["head.bias"] = torch.zeros(2)
    data = save(tensors, metadata=json.loads(good[8 : 8 + length])["__metadata__"])
    with pytest.raises(IntegrityError, match="its tensors do not fit its header"):
        loads(data, "mine")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x04pickle", b"{}", (2).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"{}"],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^mine: not a checkpoint of qmu-edge"):
        loads(data, "mine")


def test_deeply_nested_header_is_refused() -> None:
    text = b"[" * 100_000
    with pytest.raises(IntegrityError, match=r"^mine: not a checkpoint of qmu-edge"):
        loads(len(text).to_bytes(8, "little") + text, "mine")
