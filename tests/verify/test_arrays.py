"""Readers of `.npz` and `.npy` files: honest files come as they are, others raise our errors."""

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.verify.arrays import read_golden, read_npy, read_npz, read_sets
from qmu_edge.verify.evaluation import Labelled, SetName
from tests.verify.files import write_sets


@pytest.fixture
def sets() -> dict[SetName, Labelled]:
    """Two images in every set."""
    return {n: Labelled(np.zeros((2, 1, 2, 2), np.uint8), np.arange(2)) for n in SetName}


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "sets.npz"
    np.savez_compressed(path, forget_images=np.zeros((100, 1, 1000, 1000), np.uint8))
    assert path.stat().st_size < 2**18
    with pytest.raises(IntegrityError, match="arrays of 100000128 bytes, allowed 64 of 67108864"):
        read_sets(path)


def test_sets_are_read_by_name(tmp_path: Path, sets: dict[SetName, Labelled]) -> None:
    path = write_sets(tmp_path / "sets.npz", sets)
    found = read_sets(path).sets
    assert set(found) == set(sets)
    for name, (images, labels) in found.items():
        assert np.array_equal(images, sets[name].images) and np.array_equal(labels, sets[name].labels)
    with pytest.raises(IntegrityError, match="allowed 64 of 100"):
        read_npz(path, max_bytes=100)
    with pytest.raises(ConfigError, match="no such file"):
        read_sets(tmp_path / "absent.npz")
    np.savez(path, forget_images=np.zeros((2, 1, 2, 2), np.uint8))
    with pytest.raises(ConfigError, match="allowed pairs"):
        read_sets(path)


def test_what_references_think_comes_with_the_sets(tmp_path: Path, sets: dict[SetName, Labelled]) -> None:
    path, plain = tmp_path / "sets.npz", write_sets(tmp_path / "plain.npz", sets)
    with np.load(plain) as arrays:
        given: dict[str, Any] = dict(arrays)
    bare = read_sets(plain)
    assert (bare.networks, bare.intraclass, bare.flip) == (0, 0.0, False) and not bare.references
    assert (bare.exact, bare.classes) == (False, ())
    more: dict[str, Any] = {
        "forget_references": np.array([0.5, 1.5], np.float32), "test_people": np.array([7, 9]),
        "networks": np.array(4), "intraclass": np.array(1.5), "flip": np.array(1),
        "exact": np.array(1), "classes": np.array([3, 1]),
    }  # fmt: skip
    np.savez(path, **given, **more)
    found = read_sets(path)
    assert found.references[SetName.FORGET].tolist() == [0.5, 1.5] and len(found.references) == 1
    assert found.people[SetName.TEST].tolist() == [7, 9] and len(found.people) == 1
    assert (found.networks, found.intraclass, found.flip) == (4, 1.0, True)
    assert (found.exact, found.release_unmeasurable, found.classes) == (True, False, (3, 1))
    for name, value, message in (
        ("forget_references", np.array([1, 2]), "allowed one per image"),
        ("forget_references", np.ones(3), "allowed one per image"),
        ("test_people", np.ones(2), "allowed one per image"),
        ("networks", np.array([4]), "allowed one number"),
        ("classes", np.array(4), "allowed whole numbers"),
        ("classes", np.array([0.5]), "allowed whole numbers"),
        ("intraclass", np.array(np.nan), "allowed one number"),
        ("forget_scores", np.ones(2), "allowed pairs"),
    ):
        np.savez(path, **given, **{**more, name: value})
        with pytest.raises(ConfigError, match=message):
            read_sets(path)


def test_golden_inputs_come_with_float_logits(tmp_path: Path, sets: dict[SetName, Labelled]) -> None:
    with pytest.raises(ConfigError, match="allowed images and float logits"):
        read_golden(write_sets(tmp_path / "sets.npz", sets))
    path = tmp_path / "golden.npz"
    np.savez(path, images=np.zeros((2, 1, 2, 2), np.uint8), logits=np.ones((2, 3), np.float32))
    images, logits = read_golden(path)
    assert images.shape == (2, 1, 2, 2) and logits.tolist() == [[1, 1, 1]] * 2


def test_objects_and_headers_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(IntegrityError):
        read_npz(path)
    huge = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    for header, found in ((huge, "1099511627776"), (b"(", "readable"), (b"{'descr': 'x'}", "format 1.0")):
        array = b"\x93NUMPY\x01\x00" + bytes([len(header), 0]) + header
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", array)
        with pytest.raises(IntegrityError, match=found):
            read_npz(path)
        with pytest.raises(IntegrityError, match=found):
            read_npy(array, path)


def test_a_single_array_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert read_npy(buffer.getvalue(), tmp_path).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(IntegrityError, match=r"not a readable \.npy"):
        read_npy(buffer.getvalue()[:-1], tmp_path)


def test_damaged_npz_is_refused_or_read_as_numpy_reads_it(tmp_path: Path) -> None:
    path, chance = tmp_path / "sets.npz", random.Random(0)
    np.savez_compressed(path, test_images=np.arange(60), test_labels=np.arange(3))
    honest = path.read_bytes()
    refused = 0
    for _ in range(600):
        data = bytearray(honest[: chance.choice([len(honest), chance.randrange(len(honest))])])
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            found = read_sets(path)
        except (ConfigError, IntegrityError) as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
        else:  # a byte that means nothing, like a time
            assert found.sets[SetName.TEST].images.tolist() == [*range(60)]
            assert found.sets[SetName.TEST].labels.tolist() == [0, 1, 2]
    assert 300 < refused < 600
