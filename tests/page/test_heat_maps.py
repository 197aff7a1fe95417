"""The page of heat maps: what it shows, whose pictures it says they are, and that it loads nothing."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from qmu_edge.page.heat_maps import SIDE, Shown, heat_map_page, heated
from qmu_edge.page.language import known, language

MAP = np.array([[0.0, 0.0], [0.0, 2.0]], np.float32)


def shown(channels: int = 3, side: int = 8) -> Shown:
    image = np.random.default_rng(0).integers(0, 256, (channels, side, side), np.uint8)
    return Shown(image=image, before=MAP, after=-MAP)


def pictures(page: bytes) -> list[np.ndarray]:
    found = re.findall(rb'src="data:image/png;base64,([A-Za-z0-9+/=]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


@pytest.mark.parametrize("code", known())
def test_the_first_line_says_whose_pictures_it_shows(code: str) -> None:
    say = language(code)
    stay = heat_map_page({"retained": [shown()]}, say).decode()
    both = heat_map_page({"forgotten": [shown()], "retained": [shown()]}, say).decode()
    assert say("heat.of_retained") in stay and say("heat.of_forgotten") not in stay
    assert say("heat.of_forgotten") in both and both.index(say("heat.of_forgotten")) < both.index("<img")
    assert all(say("heat.private") in page for page in (stay, both))


def test_it_may_load_nothing_and_every_picture_has_a_text() -> None:
    page = heat_map_page({"retained": [shown()] * 2}, language("en")).decode()
    assert "default-src 'none'" in page and "<script" not in page and "http:" not in page
    assert len(re.findall(r'<img src="data:[^"]+" alt="[^"]+">', page)) == page.count("<img") == 6


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_shown_as_it_is_and_heat_where_the_map_is_positive(channels: int) -> None:
    one = shown(channels)
    picture, before, after = pictures(heat_map_page({"retained": [one]}, language("en")))
    expected = one.image[:3] if channels >= 3 else one.image[:1].repeat(3, axis=0)
    assert np.array_equal(picture, expected.transpose(1, 2, 0))
    assert len(np.unique(after - after[:, :, :1])) == 1  # grey: nothing speaks for the class
    warm = before[:, :, 0].astype(int) - before[:, :, 2]
    assert warm[-1, -1] > 100 and warm[0, 0] == 0


def test_large_pictures_become_small() -> None:
    sizes = {p.shape for p in pictures(heat_map_page({"retained": [shown(side=500)]}, language("en")))}
    assert sizes == {(SIDE, SIDE, 3)}


def test_a_map_without_heat_leaves_grey() -> None:
    grey = np.full((4, 4, 3), 7.0, np.float32)
    assert np.array_equal(heated(grey, np.zeros((2, 2), np.float32)), grey)
