"""Augmentations of a batch, against torchvision's functions on each image alone."""

import math
from typing import Final

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as one

from qmu_edge.recipe import DataRecipe
from qmu_edge.train import augmentations
from qmu_edge.train.augmentations import (
    OPERATIONS,
    colour_jitter,
    drawn_boxes,
    moved,
    rand_augment,
    random_resized_crop,
    resized_crop,
)
from qmu_edge.train.batches import Augment
from tests.train.test_colours import apart, pictures

ALL: Final = Augment(
    pad=2, flip=True, crop_area=0.3, jitter=0.4, hue=0.1, rand_ops=2, rand_level=9
)  # fmt: skip
NAMES: Final = {  # theirs
    "nothing": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "shift_x": "TranslateX",
    "shift_y": "TranslateY", "turn": "Rotate", "brightness": "Brightness", "saturation": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterise": "Posterize", "solarise": "Solarize",
    "stretch": "AutoContrast", "equalise": "Equalize",
}  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def test_a_resized_crop_is_theirs_of_each_image() -> None:
    images = pictures(40, side=32)
    boxes, fitted = drawn_boxes(40, 32, 36, 0.08, seeded())
    assert fitted.any()
    found = resized_crop(images, boxes)
    for image, box, ours in zip(images, boxes.T.tolist(), found, strict=True):
        expected = one.resized_crop(image.float(), *box, size=[32, 36], antialias=True)
        assert apart(ours[None], expected.round().to(torch.uint8)[None]) <= 1  # of a half
        whole = one.resized_crop(image, *box, size=[32, 36], antialias=True)  # in integers
        assert apart(ours[None], whole[None]) <= 1
    assert torch.equal(resized_crop(images, torch.tensor([[0], [0], [32], [36]]).expand(4, 40)), images)


def test_crops_are_distributed_as_theirs() -> None:
    n, side, least = 4000, 32, 0.25
    (top, left, h, w), fitted = drawn_boxes(n, side, side, least, seeded())
    theirs = v2.RandomResizedCrop(side, scale=(least, 1.0), ratio=(3 / 4, 4 / 3))
    torch.manual_seed(1)
    drawn = [theirs.make_params([torch.empty(3, side, side)]) for _ in range(n)]
    assert fitted.float().mean() > 0.99
    for ours, name in ((top, "top"), (left, "left"), (h, "height"), (w, "width")):
        other = torch.tensor([float(params[name]) for params in drawn])
        error = math.sqrt((ours.double().var() + other.double().var()) / n)
        assert abs(ours.double().mean() - other.double().mean()) < 4 * error
        assert abs(ours.double().std() / other.double().std() - 1) < 0.06
    inside = (top >= 0) & (left >= 0) & (top + h <= side) & (left + w <= side)
    assert inside.all() and (top + h == side).any() and (left + w == side).any()
    area = (h * w).double() / side**2
    assert least - 0.03 < area.min() and area.max() > 0.97


def test_a_crop_that_never_fits_is_the_whole_image() -> None:
    boxes, fitted = drawn_boxes(50, 4, 400, 0.9, seeded())
    assert not fitted.any() and (boxes == torch.tensor([[0], [0], [4], [400]])).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [0, 9, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_theirs_on_each_image(name: str, level: int, channels: int) -> None:
    theirs = v2.RandAugment()
    assert list(NAMES) == list(OPERATIONS) and set(NAMES.values()) == set(theirs._AUGMENTATION_SPACE)
    images, signs = pictures(channels=channels, side=40), torch.tensor([1.0, -1.0] * 3 + [1.0])
    found = OPERATIONS[name](images, level / 30, signs)
    values, signed = theirs._AUGMENTATION_SPACE[NAMES[name]]
    levels = values(31, 40, 44)
    strength = 0.0 if levels is None else float(levels[level])
    for image, sign, ours in zip(images, signs.tolist(), found, strict=True):
        by = strength * sign if signed else strength
        expected = theirs._apply_image_or_video_transform(
            image, NAMES[name], by, theirs.interpolation, theirs._fill
        )
        if name in ("shear_x", "shear_y", "turn"):  # between two pixels either is the nearest
            assert (ours != expected).float().mean() < 0.01
        else:
            assert apart(ours[None], expected[None]) <= 1
        bright = ours.float().mean() + expected.float().mean()
        assert bright > 0 or name == "solarise"


def test_pixels_move_to_where_they_are_told() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    assert moved(image, shift=(torch.tensor([1.0]), 0.0))[0, 0].tolist() == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
    assert moved(image, shift=(0.0, torch.tensor([-1.0])))[0, 0].tolist() == [[4, 5, 6], [7, 8, 9], [0] * 3]
    assert torch.equal(moved(image, turn=torch.tensor([90.0]))[0, 0], image[0, 0].rot90())


def test_every_image_draws_its_own_operations() -> None:
    images = pictures(side=40)[:1].expand(300, -1, -1, -1)
    found = rand_augment(images, 1, 9, seeded())
    kinds = {ours.numpy().tobytes() for ours in found}
    once = {
        OPERATIONS[name](images[:1], 0.3, torch.tensor([sign])).numpy().tobytes()
        for name in OPERATIONS for sign in (-1.0, 1.0)
    }  # fmt: skip
    assert kinds == once


def test_colour_jitter_is_four_changes_in_an_order_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(200)
    orders: list[list[int]] = []
    original = augmentations._apply

    def spy(given: Tensor, chosen: Tensor, operations: object, strengths: Tensor) -> Tensor:
        orders.append(chosen.tolist())
        assert strengths[:3].min() >= 0.6 and strengths[:3].max() <= 1.4 and strengths[3].abs().max() <= 0.1
        assert strengths[:3].std() > 0.1 and strengths[3].std() > 0.03
        return original(given, chosen, operations, strengths)  # type: ignore[arg-type]

    monkeypatch.setattr(augmentations, "_apply", spy)
    found = colour_jitter(images, 0.4, 0.1, seeded())
    each = list(zip(*orders, strict=True))
    assert all(sorted(order) == [0, 1, 2, 3] for order in each) and len(set(each)) == 24
    assert all(apart(a[None], b[None]) > 0 for a, b in zip(found, images, strict=True))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_each_is_the_same_again_and_different_for_another_seed(channels: int) -> None:
    images, kept = pictures(30, channels), pictures(30, channels)
    changes = [ALL, *(Augment(**{name: getattr(ALL, name)}) for name in ("crop_area", "jitter", "rand_ops"))]
    for augment in changes:
        found = augment(images, seeded(3))
        assert torch.equal(found, augment(images, seeded(3)))
        assert not torch.equal(found, augment(images, seeded(4))) and not torch.equal(found, images)
        assert found.shape == images.shape and found.dtype == torch.uint8
    assert torch.equal(images, kept)


def test_what_an_image_becomes_depends_on_no_other_one() -> None:
    images = pictures(20)
    other = images.clone()
    other[1:] = 0
    assert torch.equal(ALL(images, seeded())[0], ALL(other, seeded())[0])


def test_what_a_recipe_asks_for_is_done() -> None:
    assert Augment.of(DataRecipe()) == Augment()
    recipe = DataRecipe(
        pad=2, flip=True, crop_area=0.3, jitter=0.4, hue=0.1, rand_ops=2, rand_level=9
    )  # fmt: skip
    assert Augment.of(recipe) == ALL
    assert random_resized_crop(pictures(), 0.5, seeded()).shape == pictures().shape
