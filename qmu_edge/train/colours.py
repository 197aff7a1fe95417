"""What augmentations do to the colours of a batch, each image by a strength of its own.

They are tensors' arithmetic on the whole batch and not torchvision's transforms, which draw once for a batch
and from the global generator: all its images would get the same crop, and no run could be repeated. Nor is
torchvision needed to train otherwise. What each image gets is what torchvision's function gives it, which
the tests compare.

Source: Pillow's ImageEnhance and ImageOps, as in torchvision.transforms.v2.functional.
Differs: images of other than one or three channels are allowed; their grey is the mean of the channels, and
    what is about colour leaves them as they are.
Shapes: n images of c channels; strengths are float32 (n,), on the device of the images.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

Images = UInt8[Tensor, "n c h w"]
Strengths = Float[Tensor, " n"]


def _each(strengths: Strengths) -> Float[Tensor, "n 1 1 1"]:
    return strengths[:, None, None, None]


def blended(
    images: Float[Tensor, "n c h w"], others: Float[Tensor, "n _ _ _"], share: Strengths
) -> UInt8[Tensor, "n c h w"]:
    """Share x images + (1 - share) x others, cut to 0..255 and rounded down; beyond 1 away from the others.

    >>> images, others = torch.full((1, 1, 1, 1), 100.0), torch.full((1, 1, 1, 1), 50.0)
    >>> [int(blended(images, others, torch.tensor([s]))) for s in (0.5, 2.0, 9.0)]
    [75, 150, 255]
    """
    return (images * _each(share) + others * (1 - _each(share))).clamp(0, 255).to(torch.uint8)


def grey(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """Brightness in 0..255: of three channels the luma of ITU-R BT.601, rounded down; else their mean.

    >>> grey(torch.tensor([255.0, 0.0, 0.0]).view(1, 3, 1, 1)).item()
    76.0
    """
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()[:, None]


def brightness(images: Images, strengths: Strengths) -> Images:
    """Times the strength."""
    found = images.float()
    return blended(found, torch.zeros_like(found), strengths)


def saturation(images: Images, strengths: Strengths) -> Images:
    """Away from the grey of each pixel; what has no colour stays."""
    found = images.float()
    return blended(found, grey(found), strengths) if images.shape[1] == 3 else images


def contrast(images: Images, strengths: Strengths) -> Images:
    """Away from the mean grey of the image."""
    found = images.float()
    return blended(found, grey(found).mean((1, 2, 3), keepdim=True), strengths)


def sharpness(images: Images, strengths: Strengths) -> Images:
    """Away from the image as it is smoothed: the mean of 3x3 pixels, where the middle counts five times.

    The pixels of the border stay.
    """
    found, channels = images.float(), images.shape[1]
    if min(images.shape[2:]) < 3:
        return images
    kernel = torch.ones(channels, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5.0
    smooth = found.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(found, kernel / 13, groups=channels).round()
    return blended(found, smooth, strengths)


def hue(images: Images, strengths: Strengths) -> Images:
    """Turn the colour circle, by parts of a whole turn; what has no colour stays.

    >>> red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    >>> hue(red, torch.tensor([1 / 3])).flatten().tolist()
    [0, 200, 0]
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = found = images.float().unbind(1)
    value, low = torch.stack(found).amax(0), torch.stack(found).amin(0)
    chroma = value - low
    of = chroma.clamp(min=1)
    sixths = torch.where(
        value == red, (green - blue) / of,
        torch.where(value == green, 2 + (blue - red) / of, 4 + (red - green) / of),
    ) + 6 * strengths[:, None, None]  # fmt: skip
    # Of HSV: a channel loses the chroma as far as its own hue is away, over two sixths of the circle.
    near = torch.stack([(sixths + channel).remainder(6) for channel in (5, 3, 1)], dim=1)
    lost = torch.minimum(near, 4 - near).clamp(0, 1)
    return (value[:, None] - chroma[:, None] * lost).round().to(torch.uint8)


def posterised(images: Images, bits: int) -> Images:
    """With the `bits` highest bits of each value."""
    return images & (256 - (1 << (8 - bits)))


def solarised(images: Images, threshold: float) -> Images:
    """With all values from the threshold on inverted."""
    return torch.where(images >= threshold, 255 - images, images)


def stretched(images: Images) -> Images:
    """With each channel's values stretched to 0..255 (autocontrast); a channel of one value stays."""
    found = images.float()
    low, high = found.amin((2, 3), keepdim=True), found.amax((2, 3), keepdim=True)
    scaled = (found - low) / ((high - low) * (1 / 255))
    return torch.where(high > low, scaled.clamp(0, 255), found).to(torch.uint8)


def equalised(images: Images) -> Images:
    """With the values of each channel as often as each other, as far as that goes; Pillow's rule.

    By ranks in the sorted pixels, which has a deterministic kernel on every device; a histogram has none.
    """
    flat = images.flatten(2).int().contiguous()
    ordered = flat.sort(2).values.contiguous()
    darker = torch.searchsorted(ordered, flat)
    step = torch.searchsorted(ordered, ordered[..., -1:].contiguous()) // 255
    made = (darker + step // 2) // step.clamp(min=1)
    return torch.where(step > 0, made.clamp(max=255), flat).to(torch.uint8).view(images.shape)
