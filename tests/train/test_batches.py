"""Batches, subsets and augmentation against the slow and obvious versions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from qmu_edge.errors import UnlearnError
from qmu_edge.train.batches import Augment, Pair, Samples, on_device, steps_per_epoch

# Not equal to device("cpu"), and yet the same memory: makes a pool on "the host" that has to be streamed.
ELSEWHERE = torch.device("cpu:0")


def _pool(n: int, limit_bytes: float = 1e9, device: torch.device = ELSEWHERE) -> Samples:
    images = np.random.default_rng(0).integers(0, 256, (n, 2, 5, 4), np.uint8)
    return on_device(images, np.arange(n) % 3, device, limit_bytes=limit_bytes)


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(pad=2), Augment(flip=True), Augment(pad=1, flip=True)]
)
def test_augmentation_is_pad_crop_and_flip_of_each_image(augment: Augment) -> None:
    images = _pool(20).images()
    found = augment(images, torch.Generator().manual_seed(3))

    draws = torch.Generator().manual_seed(3)
    n, c, h, w = images.shape
    flips = torch.rand(n, 1, generator=draws) < 0.5 if augment.flip else torch.zeros(n, 1, dtype=torch.bool)
    corners = torch.randint(2 * augment.pad + 1, (2, n, 1), generator=draws) if augment.pad else None
    for i, image in enumerate(images):
        padded = torch.zeros(c, h + 2 * augment.pad, w + 2 * augment.pad, dtype=torch.uint8)
        padded[:, augment.pad : augment.pad + h, augment.pad : augment.pad + w] = image
        top, left = (0, 0) if corners is None else corners[:, i, 0].tolist()
        expected = padded[:, top : top + h, left : left + w]
        assert torch.equal(found[i], expected.flip(-1) if flips[i] else expected)
    assert augment == Augment() or not torch.equal(found, images)


@pytest.mark.parametrize("limit_bytes", [1e9, 0], ids=["resident", "streamed"])
@pytest.mark.parametrize("n", [1, 8, 9, 21])
def test_batches_cover_each_image_once(n: int, limit_bytes: float) -> None:
    everything = _pool(40, limit_bytes)
    samples = everything.take(torch.arange(n) * 37 % 40)
    for generator in (None, torch.Generator().manual_seed(0)):
        batches = list(samples.batches(8, generator))
        sizes = [len(b) for b in batches]
        if generator is None:
            assert sizes == [8] * (n // 8) + [n % 8] * (n % 8 > 0)
        else:  # no small batch at the end
            assert len(sizes) == -(-n // 8) and max(sizes) - min(sizes) <= 1
        positions = torch.cat([b.positions for b in batches])
        assert positions.sort().values.tolist() == list(range(n))
        assert (generator is None or n == 1) == (positions.tolist() == list(range(n)))
        images, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
        assert torch.equal(images, samples.images()[positions].float() / 255)
        assert torch.equal(labels, samples.labels[positions])


def test_streamed_batches_equal_resident_ones() -> None:
    resident, streamed = _pool(20, device=torch.device("cpu")), _pool(20, limit_bytes=0)
    assert resident.pool.device == resident.device
    assert streamed.pool.device != streamed.device
    runs = [
        list(s.batches(6, torch.Generator().manual_seed(1), Augment(pad=1, flip=True)))
        for s in (resident, streamed)
    ]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels) and torch.equal(a.positions, b.positions)


def test_a_pair_is_both_batches_one_behind_the_other() -> None:
    first, second = _pool(20).batches(12)
    pair = Pair(first, second)
    assert (len(first), len(second), len(pair)) == (12, 8, 20)
    assert torch.equal(pair.images[12:], second.images) and torch.equal(pair.images[:12], first.images)
    assert torch.equal(pair.labels, torch.cat([first.labels, second.labels]))


def test_streaming_reads_one_batch_ahead_and_may_be_left_early(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    original = Samples._read

    def spy(self: Samples, positions: torch.Tensor) -> torch.Tensor:
        read.append(positions.tolist())
        return original(self, positions)

    monkeypatch.setattr(Samples, "_read", spy)
    batches = _pool(20, limit_bytes=0).batches(4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_images_on_the_device_are_not_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*args: object) -> torch.Tensor:
        raise AssertionError("streamed")

    monkeypatch.setattr(Samples, "_read", read)
    assert len(list(_pool(4, device=ELSEWHERE).batches(4))) == 1


def test_error_while_streaming_reaches_the_caller() -> None:
    samples = _pool(4, limit_bytes=0)
    samples.index[2] = 99
    with pytest.raises(IndexError):
        list(samples.batches(4))


def test_same_seed_gives_the_same_batches() -> None:
    def images(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([b.images for b in _pool(12).batches(5, generator, Augment(pad=1, flip=True))])

    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(1))


def test_memory_map_is_read_as_it_stands(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="c")
    samples = on_device(mapped, np.arange(6), ELSEWHERE, limit_bytes=0)
    assert np.array_equal(samples.images().numpy(), images)


def test_subsets_keep_their_images_and_labels(toy: Callable[..., Samples]) -> None:
    samples = toy(9)
    some = samples.take(torch.tensor([4, 0, 8]))
    assert torch.equal(some.images(), samples.images()[[4, 0, 8]])
    assert some.labels.tolist() == [1, 0, 2]
    assert some.take(torch.tensor([2])).labels.tolist() == [2]
    assert some.relabelled(torch.tensor([2, 2, 0])).labels.tolist() == [2, 2, 0]
    assert some.labels.tolist() == [1, 0, 2]
    both = some + samples.take(torch.tensor([1]))
    assert torch.equal(both.images(), samples.images()[[4, 0, 8, 1]])
    assert both.labels.tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize("limit_bytes", [1e9, 0])
def test_empty_set_has_no_batches_and_is_refused_by_name(limit_bytes: float) -> None:
    empty = _pool(3, limit_bytes).take(torch.arange(0))
    assert list(empty.batches(4)) == []
    assert len(empty) == 0
    with pytest.raises(UnlearnError, match="the forget set is empty"):
        empty.require_some("forget")
    empty.relabelled(torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("size", range(1, 6))
@pytest.mark.parametrize("images", range(1, 14))
def test_no_image_is_alone_in_a_batch_of_several(toy: Callable[..., Samples], images: int, size: int) -> None:
    """A single one has no batch statistics; where there is no other, or one is asked for, it is."""
    sizes = [len(b) for b in toy(images).batches(size, torch.Generator().manual_seed(0))]
    assert len(sizes) == steps_per_epoch(images, size) and sum(sizes) == images
    assert min(sizes) >= min(2, size, images) and max(sizes) <= max(size, 3 if size == 2 else 1)
    if size > 2:
        assert len(sizes) == -(-images // size)
