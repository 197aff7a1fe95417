"""What a killed process has decoded is taken where it is whole and still the same, and nowhere else."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from qmu_edge.data import pictures
from qmu_edge.data.cache import Cache, Line, journal_of
from qmu_edge.data.decoding import Decoded, Encoded
from qmu_edge.data.pictures import Decoder, Picture, Source
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import sha256_of
from tests.data.photos import LABELS, png
from tests.plugins.package import Notes

SHAPE = (5, 1, 2, 3)
IMAGES = [Decoded(np.full((1, 2, 3), i, np.uint8), ("turned upright",) * (i % 2)) for i in range(5)]
SOURCES = [sha256_of(bytes([i])) for i in range(5)]


class KilledError(BaseException):
    """Stands for the end of the process: nothing that catches an Exception sees it."""


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A file in which three images of five stand."""
    path = tmp_path / "images.npy"
    with pytest.raises(KilledError), Cache(path, SHAPE) as cache:
        for i in range(3):
            cache.put(i, IMAGES[i], Line.of(SOURCES[i], IMAGES[i]))
        raise KilledError
    return path


def found(path: Path) -> list[bool]:
    """Which images are taken from the file; each of them must be right."""
    with pytest.raises(KilledError), Cache(path, SHAPE) as cache:
        taken = [cache.find(i, SOURCES[i]) for i in range(5)]
        raise KilledError
    for image, right in zip(taken, IMAGES, strict=True):
        assert image is None or (np.array_equal(image.pixels, right.pixels) and image.notes == right.notes)
    return [image is not None for image in taken]


def test_what_is_written_is_found_by_the_bytes_that_it_was_decoded_of(begun: Path) -> None:
    assert found(begun) == [True, True, True, False, False]
    with pytest.raises(KilledError), Cache(begun, SHAPE) as cache:
        assert cache.find(0, SOURCES[1]) is None
        raise KilledError
    assert begun.stat().st_mode & 0o777 == journal_of(begun).stat().st_mode & 0o777 == 0o600


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], list[bool]]] = {
    "a pixel": (lambda path: _flip(path, -1), [True, True, False]),
    "pixels that never came": (lambda path: path.write_bytes(path.read_bytes()[:-4]), [True, True, False]),
    "the last line": (
        lambda path: journal_of(path).write_bytes(journal_of(path).read_bytes()[:-1]),
        [True, True, False],
    ),
    "no journal": (lambda path: journal_of(path).unlink(), [False] * 3),
    "no file": (lambda path: path.unlink(), [False] * 3),
    "an empty file": (lambda path: path.write_bytes(b""), [False] * 3),
    "another header": (lambda path: _flip(path, 20), [False] * 3),
    "lines of something else": (
        lambda path: journal_of(path).write_bytes(
            b'3\n[]\n{"a":1}\n[0,1,2,3]\n[9,"a","b",[]]\n[-1,"a","b",[]]\n\xff\n' + b"[" * 100_000 + b"\n"
            + journal_of(path).read_bytes()
        ),
        [True] * 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_nothing_is_believed_that_is_not_whole(begun: Path, name: str) -> None:
    damage, left = DAMAGES[name]
    damage(begun)
    assert found(begun) == [*left, False, False]


def test_images_of_another_shape_begin_anew(begun: Path) -> None:
    with pytest.raises(KilledError), Cache(begun, (5, 1, 2, 4)) as cache:
        assert cache.known == {}
        raise KilledError
    assert found(begun) == [False] * 5


def test_after_an_error_nothing_is_left(begun: Path) -> None:
    with pytest.raises(ConfigError), Cache(begun, SHAPE):
        raise ConfigError("bad image")
    assert not list(begun.parent.iterdir())


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"keep me")
    (tmp_path / "images.npy").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot write"):
        Cache(tmp_path / "images.npy", SHAPE)
    assert (tmp_path / "other").read_bytes() == b"keep me"


def many(count: int = 200) -> list[Picture]:
    """Pictures in two batches and more."""
    return [Picture(f"p{i}", "", LABELS[i % 8], Encoded(f"p{i}", partial(png, i % 8))) for i in range(count)]


@pytest.fixture
def decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Source, int, list[str]]]:
    """Decode into the same file, or be killed after so many images; how many were decoded, what was said."""
    plain, count = pictures._one, [0]

    def decode(some: list[Picture], kill: int | None = None) -> tuple[Source, int, list[str]]:
        count[0] = 0

        def one(*of: object) -> Decoded:
            count[0] += 1
            if count[0] == kill:
                raise KilledError
            return plain(*of)  # type: ignore[arg-type]

        monkeypatch.setattr(pictures, "_one", one)
        progress = Notes()
        return Decoder(0, progress, cache=tmp_path / "images.npy").source(some), count[0], progress.notes

    return decode


def test_a_killed_decoding_goes_on_and_ends_as_an_undisturbed_one(
    decoding: Callable[..., tuple[Source, int, list[str]]], tmp_path: Path
) -> None:
    for kill in (150, 40):  # the second one is killed in what the first has left
        with pytest.raises(KilledError):
            decoding(many(), kill)
    whole, decoded, notes = decoding(many())
    assert decoded < 150 and notes[-1] == f"{200 - decoded} images had been decoded before"
    right = Decoder(0, Notes()).source(many())
    assert np.array_equal(whole.images, right.images) and whole.read == right.read
    assert (tmp_path / "images.npy").stat().st_size == 128 + right.images.nbytes


def test_what_has_changed_in_between_is_decoded_again_and_told(
    decoding: Callable[..., tuple[Source, int, list[str]]],
) -> None:
    with pytest.raises(KilledError):
        decoding(many(), 150)
    changed = many()
    changed[5] = Picture("p5", "", "cat", Encoded("p5", partial(png, 4)))
    changed[7] = Picture("another", "", "cat", changed[7].file)
    whole, _, notes = decoding(changed)
    assert notes[-1] == "2 had been, and are others now or not whole: decoded again"
    right = Decoder(0, Notes()).source(changed)
    assert np.array_equal(whole.images, right.images) and whole.ids == right.ids


def test_what_an_object_gives_is_asked_for_again(
    decoding: Callable[..., tuple[Source, int, list[str]]],
) -> None:
    from PIL import Image

    from tests.data.photos import PIXELS

    some = [
        Picture(f"p{i}", "", "cat", Encoded(f"p{i}", partial(Image.fromarray, PIXELS[i % 8])))
        for i in range(150)
    ]
    with pytest.raises(KilledError):
        decoding(some, 140)
    _, decoded, notes = decoding(some)
    assert decoded == 150 and not any("before" in note for note in notes)
