"""Colours of a batch, against torchvision's functions on each image alone."""

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as one

from qmu_edge.train import colours

STRENGTHS: Final = (0.0, 0.1, 0.5, 0.99, 1.0, 1.3, 1.9)
HUES: Final = (-0.5, -0.2, -0.01, 0.0, 0.1, 0.33, 0.5)


def pictures(n: int = 7, channels: int = 3, side: int = 19) -> Tensor:
    """Noise, a smooth picture, few values, greys, one value, black and white."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (n, channels, side, side + 4), generator=generator, dtype=torch.uint8)
    noise[1] = torch.arange(side * (side + 4)).view(side, -1).div(2).to(torch.uint8)
    noise[2] = noise[2] // 64 * 20 + 50
    noise[3] = noise[3, :1]
    noise[4] = 77
    noise[5] = (noise[5] > 127) * 255
    return noise


def apart(found: Tensor, expected: Tensor) -> int:
    """The largest difference of two batches of bytes."""
    assert found.shape == expected.shape and found.dtype == expected.dtype == torch.uint8
    return int((found.int() - expected.int()).abs().max())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "strengths"),
    [
        (colours.brightness, one.adjust_brightness, STRENGTHS),
        (colours.contrast, one.adjust_contrast, STRENGTHS),
        (colours.saturation, one.adjust_saturation, STRENGTHS),
        (colours.sharpness, one.adjust_sharpness, STRENGTHS),
        (colours.hue, one.adjust_hue, HUES),
    ],
    ids=["brightness", "contrast", "saturation", "sharpness", "hue"],
)
def test_each_image_has_its_own_strength(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], strengths: tuple[float, ...], channels: int
) -> None:
    """Both round: a value may come out one away."""
    images = pictures(channels=channels)
    expected = torch.stack([theirs(i, s) for i, s in zip(images, strengths, strict=True)])
    found = ours(images, torch.tensor(strengths))
    assert apart(found, expected) <= 1
    if channels == 3 or ours not in (colours.saturation, colours.hue):
        assert apart(found, images) > 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (colours.posterised, one.posterize, (1, 4, 7, 8)),
        (colours.solarised, one.solarize, (0.0, 100.0, 178.5, 255.0)),
        (lambda images, _: colours.stretched(images), lambda image, _: one.autocontrast(image), (0,)),
        (lambda images, _: colours.equalised(images), lambda image, _: one.equalize(image), (0,)),
    ],
    ids=["posterise", "solarise", "stretch", "equalise"],
)
def test_what_has_no_strength_is_as_theirs(ours: Any, theirs: Any, settings: Any, channels: int) -> None:
    images = pictures(channels=channels, side=40)
    for setting in settings:
        expected = torch.stack([theirs(image, setting) for image in images])
        assert torch.equal(ours(images, setting), expected)


def test_other_numbers_of_channels_and_tiny_images_are_allowed() -> None:
    strengths = torch.full((3,), 1.5)
    for channels, side in ((2, 6), (4, 6), (3, 2), (1, 1)):
        images = torch.randint(256, (3, channels, side, side), dtype=torch.uint8)
        for change in (colours.brightness, colours.contrast, colours.saturation, colours.sharpness):
            assert change(images, strengths).shape == images.shape
        if channels != 3:
            assert torch.equal(colours.saturation(images, strengths), images)
            assert torch.equal(colours.hue(images, strengths), images)
        assert torch.equal(colours.equalised(images), images)  # fewer than 255 pixels: nothing to even out
