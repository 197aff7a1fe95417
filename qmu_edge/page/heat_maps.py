"""A page of heat maps: where the original looked, and where the file looks, on a few pictures.

It is made like the page about a release, without a script and with nothing from elsewhere, and differs in one
thing: it shows pictures of people. So it is never stored and no part of a report, it is written only where
somebody names a file for it, and its first line says whose pictures it shows.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qmu_edge.page.language import Language
from qmu_edge.page.page import environment

Set = Literal["forgotten", "retained"]
SIDE: Final = 128  # pixels at most; smaller images are drawn as they are
_HEAT: Final = np.array([214, 94, 0], np.float32)
_STRONGEST: Final = 0.75  # of the heat's colour at the strongest place


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Shown:
    """A picture with its heat maps.

    Attributes:
        image: uint8 (c, h, w).
        before, after: Heat maps of the original and of the file (i, j); below 0 nothing is drawn.
    """

    image: NDArray[np.uint8]
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def heat_map_page(shown: Mapping[Set, Sequence[Shown]], say: Language) -> bytes:
    """The page as UTF-8."""
    rows = {name: [_row(picture) for picture in pictures] for name, pictures in shown.items() if pictures}
    page = environment().get_template("heat_maps.html").render(say=say, sets=rows)
    return page.encode()


def _row(shown: Shown) -> tuple[str, str, str]:
    """The picture, and the same under either map, as `data:` addresses."""
    colours = _colours(shown.image)
    grey = colours.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return _png(colours), _png(heated(grey, shown.before)), _png(heated(grey, shown.after))


def _colours(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (h, w, 3), sides of `SIDE` at most; one channel is grey, of more than three the first count."""
    channels = image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0)
    picture = Image.fromarray(np.ascontiguousarray(channels.transpose(1, 2, 0)))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture, np.float32)


def heated(grey: NDArray[np.float32], heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """A grey picture (h, w, 3) under the positive part of a map (i, j), as strong as its strongest place.

    >>> heated(np.zeros((2, 2, 3), np.float32), np.array([[1.0, -5.0], [0.0, 0.0]], np.float32))[0, :, 0]
    array([160.5,   0. ], dtype=float32)
    """
    positive = np.maximum(heat, 0.0).astype(np.float32)
    share = positive / max(float(positive.max()), 1e-30)
    size = (grey.shape[1], grey.shape[0])
    spread = np.asarray(Image.fromarray(share).resize(size, Image.Resampling.BILINEAR))[:, :, None]
    mixed: NDArray[np.float32] = grey + _STRONGEST * spread * (_HEAT - grey)
    return mixed


def _png(picture: NDArray[np.float32]) -> str:
    written = io.BytesIO()
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
