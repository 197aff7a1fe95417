"""What one image file shows: deep, transparent, turned and animated ones, each compared with the obvious."""

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmu_edge.data.decoding import GREY, Encoded, decoded, decoded_first, fitted, mode_and_size
from qmu_edge.errors import ConfigError

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4)


def kept(tmp_path: Path, image: Image.Image, name: str = "x.png", **options: Any) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_of_sixteen_bits_the_upper_eight_are_taken(tmp_path: Path, name: str) -> None:
    values = RAMP * 5957  # up to 65527
    found = decoded(kept(tmp_path, Image.fromarray(values), name))
    assert np.array_equal(found.pixels, (values // 256).astype(np.uint8)[None])
    assert found.notes == ("16 bits, the upper 8 taken",)


def test_sixteen_bits_in_the_other_order_are_the_same(tmp_path: Path) -> None:
    values = RAMP * 5957
    path = tmp_path / "x.tif"
    Image.frombytes("I;16B", (4, 3), values.astype(">u2").tobytes()).save(path)
    assert np.array_equal(decoded(path).pixels[0], values // 256)


def test_dark_files_of_sixteen_bits_are_told_and_those_that_would_be_black_refused(tmp_path: Path) -> None:
    (note,) = decoded(kept(tmp_path, Image.fromarray(RAMP * 300))).notes
    assert "12 bits at most are used" in note
    assert not decoded(kept(tmp_path, Image.fromarray(RAMP * 0))).pixels.any()
    with pytest.raises(ConfigError, match=r"x\.png: not a readable image: 16 bits that reach 11 only"):
        decoded(kept(tmp_path, Image.fromarray(RAMP)))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.0, 0.5, 1.0), (0, 128, 255)),
        ((0.0, 0.5, 1.01), None),
        ((-0.1, 0.5, 1.0), None),
        ((0.0, np.nan, 1.0), None),
    ],
)
def test_floats_from_0_to_1_are_scaled_and_others_refused(
    tmp_path: Path, values: tuple[float, ...], shown: tuple[int, ...] | None
) -> None:
    path = kept(tmp_path, Image.fromarray(np.array([values], np.float32)), "x.tif")
    if shown is not None:
        assert decoded(path).pixels.tolist() == [[list(shown)]]
    else:
        with pytest.raises(ConfigError, match=r"x\.tif: .*values from .* to .*, allowed 0 to 1 for floats"):
            decoded(path)


@pytest.mark.parametrize("value", [-1, 70_000])
def test_integers_beyond_sixteen_bits_are_refused(tmp_path: Path, value: int) -> None:
    path = kept(tmp_path, Image.fromarray(np.array([[300, value]], np.int32)), "x.tif")
    with pytest.raises(ConfigError, match="allowed 0 to 65535"):
        decoded(path)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_transparent_parts_lie_on_white_and_hide_what_is_under_them(tmp_path: Path, mode: str) -> None:
    shown = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    shown.putpixel((1, 0), (0, 0, 200, 0))
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([200, 0, 0, 0, 0, 200])
        image.putpixel((1, 0), 1)
        path = kept(tmp_path, image, transparency=1)
    else:
        path = kept(
            tmp_path, shown if mode != "LA" else shown.convert("LA"), "x.tif" if mode == "PA" else "x.png"
        )
    found = decoded(path)
    assert (found.pixels[:, 0, 1] == 255).all()
    assert found.pixels[:, 0, 0].tolist() == ([60] if mode == "LA" else [200, 0, 0])
    assert found.notes == ("transparent, laid on white",)


def test_half_transparent_is_mixed_and_opaque_is_as_it_was(tmp_path: Path) -> None:
    half = decoded(kept(tmp_path, Image.new("RGBA", (1, 1), (100, 0, 200, 51))))
    assert np.abs(half.pixels[:, 0, 0].astype(int) - [224, 204, 244]).max() <= 1  # a fifth of it, and white
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    pixels[..., 3] = 255
    opaque = decoded(kept(tmp_path, Image.fromarray(pixels)))
    assert np.array_equal(opaque.pixels.transpose(1, 2, 0), pixels[..., :3]) and opaque.notes == ()


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_colour_that_is_declared_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    black: Any = (0, 0, 0) if mode == "RGB" else 0
    found = decoded(kept(tmp_path, Image.new(mode, (2, 2)), transparency=black))
    assert (found.pixels == 255).all() and found.notes == ("transparent, laid on white",)


def test_a_depth_that_is_declared_transparent_becomes_white(tmp_path: Path) -> None:
    values = np.array([[1000, 40_000]], np.uint16)
    found = decoded(kept(tmp_path, Image.fromarray(values), transparency=1000))
    assert found.pixels.tolist() == [[[255, 156]]]


TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("name", "deep"),
    [("x.png", False), ("x.png", True), ("x.tif", False), ("x.tif", True), ("x.webp", False)],
)
def test_a_picture_is_turned_as_its_exif_says(
    tmp_path: Path, orientation: int, name: str, deep: bool
) -> None:
    values = RAMP * 5957 if deep else (RAMP * 20).astype(np.uint8)
    image, exif = Image.fromarray(values), Image.Exif()
    exif[0x0112] = orientation
    found = decoded(kept(tmp_path, image, name, exif=exif, lossless=True))
    expected = TURNS[orientation](values // 256 if deep else values)
    assert np.array_equal(found.pixels[0], expected)
    if name != "x.tif":  # Pillow turns these, in decoding 1 as well
        assert ("turned upright" in found.notes) == (orientation != 1)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(kept(tmp_path, Image.fromarray((RAMP * 20).astype(np.uint8)), exif=exif))
    assert np.array_equal(found.pixels[0], RAMP * 20) and found.notes == ()


def test_broken_exif_around_good_pixels_turns_nothing(tmp_path: Path) -> None:
    image = Image.fromarray((RAMP * 20).astype(np.uint8))
    found = decoded(kept(tmp_path, image, "x.webp", exif=b"Exif\0\0no such thing", lossless=True))
    assert np.array_equal(found.pixels[0], RAMP * 20)


def test_the_first_of_several_pictures_is_taken_and_told(tmp_path: Path) -> None:
    frames = [Image.new("L", (2, 2), value) for value in (10, 20)]
    found = decoded(kept(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:]))
    assert (found.pixels == 10).all() and "the first picture of several" in found.notes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_the_number_of_channels_follows_from_the_header(tmp_path: Path, mode: str) -> None:
    path = kept(tmp_path, Image.new(mode, (3, 2)), "x.jpg" if mode in ("CMYK", "YCbCr") else "x.png")
    kind, width, height = mode_and_size(path)
    assert decoded(path).pixels.shape == (1 if kind in GREY else 3, height, width)


def test_ordinary_files_are_as_decoding_1_had_them(tmp_path: Path) -> None:
    for mode, shape in (("L", (5, 6)), ("RGB", (5, 6, 3))):
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        for name in ("x.png", "x.jpg", "x.bmp"):
            path = kept(tmp_path, Image.fromarray(pixels), name)
            found, before = decoded(path), decoded_first(path, grey=mode == "L")
            assert np.array_equal(found.pixels, before.pixels) and found.notes == ()
            grey = Image.fromarray(pixels).convert("RGB").resize((4, 4), Image.Resampling.BILINEAR)
            if name == "x.png":
                assert np.array_equal(fitted(found.pixels, (3, 4, 4)).transpose(1, 2, 0), np.asarray(grey))


@pytest.mark.parametrize("upright", [False, True])
def test_cutting_keeps_the_aspect_and_the_middle(upright: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 20), np.uint8)
    middle = pixels[:, :, 6:14]
    if upright:
        pixels, middle = pixels.swapaxes(1, 2), middle.swapaxes(1, 2)
    cut = fitted(pixels, (3, 4, 4), "crop")
    assert np.array_equal(cut, fitted(middle, (3, 4, 4)))
    assert not np.array_equal(cut, fitted(pixels, (3, 4, 4)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_an_error_names_the_image_and_no_object_that_its_bytes_are_in(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 40), 90).convert("RGB").save(file, kind)
    data, said = file.getvalue(), []
    for broken in (b"", b"no image", *(data[:cut] for cut in range(1, len(data), 29))):
        (tmp_path / "x.png").write_bytes(broken)
        for image in (tmp_path / "x.png", Encoded("row 7", partial(bytes, broken))):
            try:
                decoded(image)
            except ConfigError as error:
                said.append(str(error))
    assert len(said) > 8 and not [text for text in said if "<" in text or "object at" in text]
    assert all(re.match(r"(\S*/x\.png|row 7): not a readable image: \w", text) for text in said)
