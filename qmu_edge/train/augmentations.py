"""Augmentations of a batch: what each image gets is drawn on its own, from the run's generator.

Only small tensors are drawn, on the CPU: a run that is repeated or resumed draws the same, on any device. How
pixels come of them is said in `colours`, and why that is not torchvision's code.

Source: random resized crops as in Szegedy et al., arXiv:1409.4842; RandAugment: Cubuk et al.,
    arXiv:1909.13719, with the operations and ranges of torchvision.transforms.v2.
Differs: a crop that does not fit ten times is the whole image, also where that is not square.
Shapes: n images of h x w pixels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from qmu_edge.runtime.device import sent
from qmu_edge.train import colours
from qmu_edge.train.colours import Images, Strengths

RATIO: Final = (
    4 / 3
)  # widest aspect of a crop, relative to the image's pixels; and the narrowest is 1 / RATIO
TRIES: Final = 10
LEVELS: Final = 30  # of RandAugment
SHEAR: Final = 0.3  # at the highest level: pixels along for one across
SHIFT: Final = 150 / 331  # parts of a side
TURN: Final = 30.0  # degrees
COLOUR: Final = 0.9  # away from 1
Operation = Callable[[Images, Strengths], Images]
Part = Strengths | float


def drawn_boxes(
    n: int, h: int, w: int, least: float, generator: torch.Generator
) -> tuple[Int64[Tensor, "4 n"], Bool[Tensor, " n"]]:
    """Top, left, height and width of a crop for each of n images, and whether one of the tries fitted.

    The area is uniform between `least` and 1, the logarithm of the aspect between those of 3/4 and 4/3.
    """
    area = h * w * (least + (1 - least) * torch.rand(n, TRIES, generator=generator, dtype=torch.float64))
    aspect = (
        math.log(RATIO) * (2 * torch.rand(n, TRIES, generator=generator, dtype=torch.float64) - 1)
    ).exp()
    places = torch.rand(2, n, generator=generator, dtype=torch.float64)
    heights, widths = ((area * by).sqrt().round().long().clamp(min=1) for by in (1 / aspect, aspect))
    fits = (heights <= h) & (widths <= w)
    first, fitted = fits.int().argmax(1, keepdim=True), fits.any(1)
    sides = [
        torch.where(fitted, found.gather(1, first)[:, 0], whole)
        for found, whole in ((heights, h), (widths, w))
    ]
    corners = [
        (place * (whole - side + 1)).long() for place, side, whole in zip(places, sides, (h, w), strict=True)
    ]
    return torch.stack([*corners, *sides]), fitted


def random_resized_crop(images: Images, least: float, generator: torch.Generator) -> Images:
    """A crop of each image, of at least the part `least` of its area, at the size of the image."""
    n, _, h, w = images.shape
    boxes, _ = drawn_boxes(n, h, w, least, generator)
    return resized_crop(images, sent(boxes, images.device))


def resized_crop(images: Images, boxes: Int64[Tensor, "4 n"]) -> Images:
    """The box (top, left, height, width) of each image, at the size of the image, by bilinear interpolation.

    Crops only grow, so that no filter against aliases is needed.
    """
    n, _, h, w = images.shape
    top, left, height, width = boxes
    above, below, down = _taps(h, top, height)
    before, behind, across = _taps(w, left, width)
    each = torch.arange(n, device=images.device)[:, None, None]

    def at(rows: Int64[Tensor, "n h"], columns: Int64[Tensor, "n w"]) -> Float[Tensor, "n h w c"]:
        return images[each, :, rows[:, :, None], columns[:, None, :]].float()

    across, down = across[:, None, :, None], down[:, :, None, None]
    upper, lower = (torch.lerp(at(rows, before), at(rows, behind), across) for rows in (above, below))
    return torch.lerp(upper, lower, down).round().to(torch.uint8).permute(0, 3, 1, 2)


def _taps(
    size: int, start: Int64[Tensor, " n"], length: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, "n s"], Int64[Tensor, "n s"], Float[Tensor, "n s"]]:
    """For each of `size` places, the two pixels of the box around it, and how far it is from the first."""
    place = (torch.arange(size, device=start.device) + 0.5) * (length[:, None] / size) - 0.5
    place = torch.minimum(place.clamp(min=0), length[:, None] - 1)
    first = place.long()
    second = torch.minimum(first + 1, length[:, None] - 1)
    return start[:, None] + first, start[:, None] + second, (place - first).float()


def moved(
    images: Images, *, shear: tuple[Part, Part] = (0.0, 0.0), shift: tuple[Part, Part] = (0.0, 0.0),
    turn: Part = 0.0,
) -> Images:  # fmt: skip
    """Sheared, shifted and turned; what comes from outside the image is black. Nearest pixels are taken.

    Args:
        images: The batch.
        shear: Pixels to the left for each one down, and up for each one to the right; the upper left corner
            stays.
        shift: Whole pixels to the right and down.
        turn: Degrees, against the clock, about the middle.
    """
    n, _, h, w = images.shape
    y = torch.arange(h, device=images.device).view(1, h, 1) + 0.5
    x = torch.arange(w, device=images.device).view(1, 1, w) + 0.5
    (along, up), (right, low) = (map(_wide, pair) for pair in (shear, shift))
    angle = torch.as_tensor(_wide(turn)).deg2rad()
    cosine, sine = angle.cos(), angle.sin()
    from_x = w / 2 + cosine * (x - w / 2) - sine * (y - h / 2) + along * y - right
    from_y = h / 2 + sine * (x - w / 2) + cosine * (y - h / 2) + up * x - low
    columns, rows = from_x.floor().long(), from_y.floor().long()
    inside = (columns >= 0) & (columns < w) & (rows >= 0) & (rows < h)
    each = torch.arange(n, device=images.device)[:, None, None]
    found = images[each, :, rows.clamp(0, h - 1), columns.clamp(0, w - 1)]
    return (found * inside[..., None]).permute(0, 3, 1, 2)


def _wide(part: Part) -> Float[Tensor, "n 1 1"] | float:
    return part[:, None, None] if isinstance(part, Tensor) else part


def shifted(images: Images, parts: Strengths, dim: int) -> Images:
    """By these parts of a side, to the right (`dim` 3) or down (2), in whole pixels."""
    by = (parts * images.shape[dim]).trunc()
    return moved(images, shift=(by, 0.0) if dim == 3 else (0.0, by))


# By the level as a part of the highest one, and the sign that is drawn for each image.
OPERATIONS: Final[Mapping[str, Callable[[Images, float, Strengths], Images]]] = {
    "nothing": lambda images, part, sign: images,
    "shear_x": lambda images, part, sign: moved(images, shear=(part * SHEAR * sign, 0.0)),
    "shear_y": lambda images, part, sign: moved(images, shear=(0.0, part * SHEAR * sign)),
    "shift_x": lambda images, part, sign: shifted(images, part * SHIFT * sign, 3),
    "shift_y": lambda images, part, sign: shifted(images, part * SHIFT * sign, 2),
    "turn": lambda images, part, sign: moved(images, turn=part * TURN * sign),
    "brightness": lambda images, part, sign: colours.brightness(images, 1 + part * COLOUR * sign),
    "saturation": lambda images, part, sign: colours.saturation(images, 1 + part * COLOUR * sign),
    "contrast": lambda images, part, sign: colours.contrast(images, 1 + part * COLOUR * sign),
    "sharpness": lambda images, part, sign: colours.sharpness(images, 1 + part * COLOUR * sign),
    "posterise": lambda images, part, sign: colours.posterised(images, 8 - round(4 * part)),
    "solarise": lambda images, part, sign: colours.solarised(images, 255 * (1 - part)),
    "stretch": lambda images, part, sign: colours.stretched(images),
    "equalise": lambda images, part, sign: colours.equalised(images),
}


def _at_level(
    operation: Callable[[Images, float, Strengths], Images], part: float, images: Images, signs: Strengths
) -> Images:
    return operation(images, part, signs)


def rand_augment(images: Images, count: int, level: int, generator: torch.Generator) -> Images:
    """`count` operations on each image, one after the other, each drawn of all; signs are drawn as well."""
    part = level / LEVELS
    operations = [partial(_at_level, operation, part) for operation in OPERATIONS.values()]
    for _ in range(count):
        chosen = torch.randint(len(operations), (len(images),), generator=generator)
        signs = 2.0 * torch.randint(2, (len(images),), generator=generator) - 1.0
        images = _apply(images, chosen, operations, signs.expand(len(operations), -1))
    return images


def colour_jitter(images: Images, by: float, hue: float, generator: torch.Generator) -> Images:
    """Brightness, contrast, saturation times 1 - `by` to 1 + `by`, and the hue turned by -`hue` to `hue`.

    In an order that is drawn for each image.
    """
    n = len(images)
    orders = torch.rand(n, 4, generator=generator).argsort(1)
    spread = 2 * torch.rand(4, n, generator=generator) - 1
    strengths = torch.cat([(1 + by * spread[:3]).clamp(min=0), hue * spread[3:]])
    operations = (colours.brightness, colours.contrast, colours.saturation, colours.hue)
    for place in range(4):
        images = _apply(images, orders[:, place], operations, strengths)
    return images


def _apply(
    images: Images, chosen: Int64[Tensor, " n"], operations: Sequence[Operation],
    strengths: Float[Tensor, "k n"],
) -> Images:  # fmt: skip
    """To each image the operation that was chosen for it, with its strength for that one; on the CPU both."""
    made = images.clone()
    for number, operation in enumerate(operations):
        at = (chosen == number).nonzero()[:, 0]
        if len(at):
            places = sent(at, images.device)
            made[places] = operation(images[places], sent(strengths[number, at], images.device))
    return made
