"""One image file as pixels: hostile bytes in, the file's own 8-bit pixels out.

What a file shows depends on that file alone: it is turned upright as its EXIF says, of 16 bits the upper 8
count, floats from 0 to 1 become 0 to 255, and what is transparent lies on white. Only then is it made to
fit the other files of a set, in channels and size: grey becomes colour where any of them has colour.

That is decoding 2. Decoding 1 cut 16 bits and floats off at 255, showed the colours that transparency hides,
passed over EXIF, and made a whole set grey when its first file was. It is kept to recognise again what was
deleted in a project that was made with it.

Shapes: c is 1 (grey) or 3 (colour).
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from qmu_edge.errors import ConfigError, QmuEdgeError

DECODING: Final = 2
MAX_PIXELS: Final = 40_000_000
# Never "all that Pillow knows": an EPS file under the name of a PNG would run Ghostscript.
FORMATS: Final = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
_DEEP: Final = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
GREY: Final = _DEEP | {"1", "L", "LA", "La"}
_OBJECT: Final = re.compile(r"\s*<[\w.]+ (object at|name=)[^<>]*>")
_ALPHA: Final = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image as it lies within something larger: a row of a table, a member of an archive, an object.

    Attributes:
        name: What messages call it.
        data: Gives its bytes, or the image where somebody else has opened it.
    """

    name: str
    data: Callable[[], bytes | Image.Image]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The pixels of one file.

    Attributes:
        pixels: uint8 (c, h, w).
        notes: What was done beyond reading them, in fixed words.
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def mode_and_size(file: Path | Encoded) -> tuple[str, int, int]:
    """Pillow's mode, width and height, from the header.

    Raises:
        ConfigError: It is no image of our formats, or one of more than 40 megapixels.
    """
    with _opened(file) as image:
        return image.mode, image.width, image.height


def decoded(file: Path | Encoded) -> Decoded:
    """A file's own pixels: (1, h, w) where it is grey, else (3, h, w); nothing beside the file counts.

    Raises:
        ConfigError: It does not decode, has more than 40 megapixels, or values that no rule scales.
    """
    with _opened(file) as image:
        notes = ["the first picture of several"] if getattr(image, "is_animated", False) else []
        image.load()
        grey, shown = image.mode in GREY, _upright(image)
        if shown is not image:
            notes.append("turned upright")
        if shown.mode in _DEEP:
            shown = _eight_bits(shown, notes)
        if shown.mode in _ALPHA or "transparency" in shown.info:
            shown = _on_white(shown, notes)
        array = np.asarray(shown.convert("L" if grey else "RGB"), np.uint8)
    return Decoded(array[None] if grey else array.transpose(2, 0, 1), tuple(notes))


def decoded_first(file: Path | Encoded, *, grey: bool) -> Decoded:
    """A file's pixels as decoding 1 had them.

    Raises:
        ConfigError: It does not decode, or has more than 40 megapixels.
    """
    with _opened(file, mapped=True) as image:
        array = np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
    return Decoded(array[None] if grey else array.transpose(2, 0, 1))


def fitted(pixels: np.ndarray, shape: tuple[int, int, int], fit: str = "stretch") -> np.ndarray:
    """Pixels (c, h, w) in another shape: resized, grey repeated as colour, or colour as grey.

    `fit` "crop" keeps the aspect, and of what does not fit in then only the middle.
    """
    if len(pixels) > shape[0]:
        pixels = np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L"))[None]
    if pixels.shape[1:] != shape[1:]:
        pixels = pixels[:, *_middle(pixels.shape[1:], shape[1:])] if fit == "crop" else pixels
        pixels = np.stack([_resized(channel, *shape[1:]) for channel in pixels])
    return np.broadcast_to(pixels, shape)


def _resized(channel: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR))


def _middle(size: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the largest middle part of `size` that has the aspect of `wanted`, to the pixel.

    >>> _middle((4, 12), (2, 2)), _middle((9, 6), (1, 2))
    ((slice(0, 4, None), slice(4, 8, None)), (slice(3, 6, None), slice(0, 6, None)))
    """
    height, width = size
    rows = max(1, min(height, round(width * wanted[0] / wanted[1])))
    columns = max(1, min(width, round(height * wanted[1] / wanted[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


@contextmanager
def _opened(file: Path | Encoded, *, mapped: bool = False) -> Iterator[Image.Image]:
    """An image; `mapped` lets Pillow map a file into memory, which garbles a TIFF that lies on its side."""
    name = file if isinstance(file, Path) else file.name
    if isinstance(file, Path) and not file.is_file():
        raise ConfigError(f"{name}: not a readable image: not a regular file")
    try:
        with ExitStack() as opened:
            whole: Any = file if isinstance(file, Path) else file.data()
            if isinstance(file, Path) and not mapped:
                whole = opened.enter_context(file.open("rb"))
            elif isinstance(whole, bytes):
                whole = io.BytesIO(whole)
            if not isinstance(whole, Image.Image):
                whole = opened.enter_context(Image.open(whole, formats=FORMATS))
            image: Image.Image = whole
            if image.width * image.height > MAX_PIXELS:
                raise ConfigError(f"{name}: {image.width}x{image.height} pixels, at most {MAX_PIXELS}")
            if not image.width * image.height:
                raise ConfigError(f"{name}: {image.width}x{image.height} pixels, at least 1")
            yield image
    except QmuEdgeError:
        raise
    except Exception as error:  # decoders of seven formats raise what they like on broken bytes
        raise ConfigError(f"{name}: not a readable image: {_said(error)}") from None


def _said(error: Exception) -> str:
    """What a decoder says, without the object that the bytes are to it: the message names the image."""
    if isinstance(error, UnidentifiedImageError):
        return f"cannot identify it as any of {', '.join(FORMATS)}"
    return _OBJECT.sub("", str(error))[:200]


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF says, or the same one; Pillow has turned a TIFF by itself."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # broken EXIF around good pixels: as they are stored, which is what viewers show
        return image


def _eight_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """Grey of 16 bits, or floats, as grey of 8 bits; values that would all become black are refused."""
    values: np.ndarray = np.asarray(image)
    low, high, floats = float(values.min()), float(values.max()), image.mode == "F"
    if not (0 <= low and high <= (1 if floats else 65535)):  # a NaN is neither
        allowed = "0 to 1 for floats" if floats else "0 to 65535"
        raise ValueError(f"values from {low:g} to {high:g}, allowed {allowed}")
    if floats:
        notes.append("floats from 0 to 1, scaled to 8 bits")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if 0 < high < 256:
        raise ValueError(
            f"16 bits that reach {high:g} only, all black with 8 bits: save it with 8 bits, or scale it"
        )
    notes.append(
        "16 bits, the upper 8 taken" + (", and those dark: 12 bits at most are used" if high < 4096 else "")
    )
    eight = (values >> 8).astype(np.uint8)
    if isinstance(hidden := image.info.get("transparency"), int):
        eight[values == hidden] = 255
    return Image.fromarray(eight)


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    """Its transparent parts laid on white."""
    picture = image.convert("RGBA")
    if picture.getchannel("A").getextrema() == (255, 255):
        return picture
    notes.append("transparent, laid on white")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture)
