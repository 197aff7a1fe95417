"""Images from every source, and hostile or broken ones refused by name."""

import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from qmu_edge.data import decoding
from qmu_edge.data.pictures import Source
from qmu_edge.data.sources import load, source_of
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import DataRecipe

Save = Callable[..., np.ndarray]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write an image of noise below the data folder, and give its pixels."""

    def write(name: str, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> np.ndarray:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = size if mode == "L" else (*size, 3)
        pixels = np.random.default_rng(len(name)).integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(path)
        return pixels

    return write


def _folder(path: Path, size: int = 0) -> Source:
    return load(DataRecipe(source="folder", path=str(path), size=size), Progress())


def test_digits_belong_to_ten_writers() -> None:
    source = load(DataRecipe(), Progress())
    assert source.images.shape == (1797, 1, 8, 8)
    assert source.images.dtype == np.uint8
    assert source.labels.dtype == np.int64
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert source.class_names == tuple("0123456789")
    assert sorted(set(source.labels.tolist())) == list(range(10))
    assert len(set(source.ids)) == 1797
    writers = [name for (name,) in source.subjects]
    assert set(writers) == {f"writer-{i}" for i in range(10)}
    assert writers[0] == "writer-0"
    assert writers[-1] == "writer-9"
    assert writers == sorted(writers)
    assert {writers.count(w) for w in set(writers)} == {179, 180}
    assert set(source.given) == {""}


def test_digits_are_resized() -> None:
    source = load(DataRecipe(size=16), Progress())
    assert source.images.shape == (1797, 1, 16, 16)
    small = load(DataRecipe(), Progress()).images[3, 0]
    expected = Image.fromarray(small).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(source.images[3, 0], np.asarray(expected))


def test_folder_is_read_in_order_with_its_split(save: Save, tmp_path: Path) -> None:
    names = ["train/cat/b.png", "train/cat/a.png", "train/dog/x.BMP", "test/cat/1.png", "test/owl/2.png"]
    pixels = {name: save(name) for name in names}
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/readme.png").write_text("not in a class")
    source = _folder(tmp_path)
    assert source.ids == (
        "train/cat/a.png", "train/cat/b.png", "train/dog/x.BMP", "test/cat/1.png", "test/owl/2.png"
    )  # fmt: skip
    assert source.class_names == ("cat", "dog", "owl")
    assert source.labels.tolist() == [0, 0, 1, 0, 2]
    assert source.given.tolist() == ["train"] * 3 + ["test"] * 2
    assert source.subjects == ()
    for name, image in zip(source.ids, source.images, strict=True):
        assert np.array_equal(image, pixels[name].transpose(2, 0, 1))


@pytest.mark.parametrize("order", [("L", "RGB"), ("RGB", "L"), ("L", "L")])
def test_a_set_is_colour_if_any_file_is(save: Save, tmp_path: Path, order: tuple[str, str]) -> None:
    first, second = (save(f"train/a/{i}.png", mode=mode) for i, mode in enumerate(order))
    images = _folder(tmp_path).images
    assert images.shape == (2, 3 if "RGB" in order else 1, 6, 6)
    for image, pixels in zip(images, (first, second), strict=True):
        assert np.array_equal(
            image.transpose(1, 2, 0), np.broadcast_to(np.atleast_3d(pixels), (6, 6, len(image)))
        )


def test_a_folder_of_classes_is_one_whatever_else_lies_in_it(save: Save, tmp_path: Path) -> None:
    save("set/train/cat/1.png")
    for name in ("meta.parquet", "train/extra.arrow", "backup.tar"):
        (tmp_path / "set" / name).write_bytes(b"")
    assert source_of(str(tmp_path / "set"))[0] == "folder"
    assert source_of(str(tmp_path / "set/train"))[0] == "parquet"
    (tmp_path / "shards/train").mkdir(parents=True)
    (tmp_path / "shards/train/000.tar").write_bytes(b"")
    assert source_of(str(tmp_path / "shards"))[0] == "tar"
    with pytest.raises(ConfigError, match=r"no such folder, no file of \.csv, \.tsv"):
        source_of(str(tmp_path / "none.zip"))


def test_size_is_that_of_the_first_image_or_the_one_asked_for(save: Save, tmp_path: Path) -> None:
    pixels = save("train/a/1.png", (6, 6))
    save("train/a/2.png", (5, 7))
    with pytest.raises(ConfigError, match=r"2\.png: 5x7 pixels, the first image has 6x6; set data\.size"):
        _folder(tmp_path)
    source = _folder(tmp_path, size=4)
    assert source.images.shape == (2, 3, 4, 4)
    expected = Image.fromarray(pixels).resize((4, 4), Image.Resampling.BILINEAR)
    assert np.array_equal(source.images[0], np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("position", [1, 5])
def test_broken_image_is_named(save: Save, tmp_path: Path, position: int) -> None:
    for i in range(1, 6):
        save(f"train/a/{i}.png")
    broken = tmp_path / f"train/a/{position}.png"
    for data in (b"", b"not an image", broken.read_bytes()[:60]):
        broken.write_bytes(data)
        with pytest.raises(ConfigError, match=rf"a/{position}\.png: not a readable image"):
            _folder(tmp_path)
    broken.unlink()
    broken.mkdir()
    with pytest.raises(ConfigError, match=rf"a/{position}\.png: not a readable image"):
        _folder(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["png", "jpeg", "bmp", "gif", "ppm", "webp", "tiff"]),
    damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    cut=st.integers(1, 400),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_image_decodes_or_is_refused(
    tmp_path: Path, kind: str, damage: list[tuple[int, int]], cut: int
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(75, dtype=np.uint8).reshape(5, 5, 3)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for position, value in damage:
        data[position % len(data)] = value
    path = tmp_path / f"image.{kind}"
    path.write_bytes(bytes(data[:cut]))
    try:
        found = decoding.decoded(path).pixels
    except ConfigError as error:
        assert str(path) in str(error)
        return
    assert found.dtype == np.uint8 and found.shape[0] in (1, 3)
    assert np.array_equal(decoding.decoded(path).pixels, found)


def test_no_program_is_started_for_a_format_that_is_not_ours(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("train/a/1.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "train/a/2.eps")
    (tmp_path / "train/a/2.eps").rename(tmp_path / "train/a/2.png")
    started: list[Any] = []
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: started.append(args))
    monkeypatch.setattr("subprocess.check_call", lambda *args, **kwargs: started.append(args))
    with pytest.raises(ConfigError, match=r"a/2\.png: not a readable image: cannot identify"):
        _folder(tmp_path)
    assert started == []


@pytest.mark.parametrize("linked", ["train/a/2.png", "train/b", "test"])
def test_links_may_not_lead_out_of_the_dataset(save: Save, tmp_path: Path, linked: str) -> None:
    save("set/train/a/1.png")
    save("elsewhere/2.png")
    save("elsewhere/a/2.png")
    link = tmp_path / "set" / linked
    target = "2.png" if link.suffix else "."
    link.symlink_to(tmp_path / "elsewhere" / target)
    with pytest.raises(ConfigError, match="a link that leads out of"):
        _folder(tmp_path / "set")
    link.unlink()
    (tmp_path / "set/train/a/3.png").symlink_to("1.png")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(_folder(tmp_path / "link").ids) == 2


def test_a_pipe_among_images_is_not_waited_for(save: Save, tmp_path: Path) -> None:
    save("train/a/1.png")
    os.mkfifo(tmp_path / "train/a/2.png")
    with pytest.raises(ConfigError, match=r"a/2\.png: not a readable image"):
        _folder(tmp_path)


def test_image_of_too_many_pixels_is_refused(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("train/a/1.png", (6, 7))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 42)
    _folder(tmp_path)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 41)
    with pytest.raises(ConfigError, match=r"1\.png: 7x6 pixels, at most 41"):
        _folder(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "train/a/bomb.ppm"
    path.parent.mkdir(parents=True)
    for side in (8001, 9500, 60_000):
        path.write_bytes(b"P6 %d %d 255\n" % (side, side))
        with pytest.raises(ConfigError, match=r"bomb\.ppm: "):
            _folder(tmp_path)


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no images in train/<class>/ and test/<class>/"):
        _folder(tmp_path / "missing")
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no images in train/<class>/ and test/<class>/"):
        _folder(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.path is missing: folder needs a folder"):
        load(DataRecipe(source="folder"), Progress())


def test_names_are_in_one_unicode_form(save: Save, tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "Zoë")
    save(f"train/{nfd}/{nfd}.png")
    save("test/Zoë/2.png")
    source = _folder(tmp_path)
    assert source.class_names == ("Zoë",)
    assert source.labels.tolist() == [0, 0]
    assert source.ids == ("train/Zoë/Zoë.png", "test/Zoë/2.png")


def _cifar(root: str, train: bool, download: bool) -> Any:
    assert download
    n = 3 if train else 2
    part = type("Part", (), {})()
    part.data = np.arange(n * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(n, 32, 32, 3)
    part.targets = list(range(n))
    part.classes = ["plane", "car", "bird"]
    return part


def _svhn(root: str, split: str, download: bool) -> Any:
    part = type("Part", (), {})()
    n = 3 if split == "train" else 2
    part.data = np.arange(n * 3 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(n, 3, 32, 32)
    part.labels = np.arange(n)
    return part


def _fashion(root: str, train: bool, download: bool) -> Any:
    part = _cifar(root, train, download)
    n = len(part.targets)
    part.data = torch.arange(n * 28 * 28).to(torch.uint8).reshape(n, 28, 28)
    part.targets = torch.tensor(part.targets)
    return part


@pytest.mark.parametrize(
    ("source", "name", "made", "layout", "classes"),
    [
        ("cifar10", "CIFAR10", _cifar, (0, 3, 1, 2), ("plane", "car", "bird")),
        ("cifar100", "CIFAR100", _cifar, (0, 3, 1, 2), ("plane", "car", "bird")),
        ("svhn", "SVHN", _svhn, (0, 1, 2, 3), tuple("0123456789")),
        ("fashion_mnist", "FashionMNIST", _fashion, None, ("plane", "car", "bird")),
    ],
)
def test_torchvision_set_is_joined_in_one_layout(
    monkeypatch: pytest.MonkeyPatch, source: Any, name: str, made: Any, layout: Any, classes: tuple[str, ...]
) -> None:
    monkeypatch.setattr(f"torchvision.datasets.{name}", made)
    found = load(DataRecipe(source=source, path="x"), Progress())
    parts = [made("x", "train", True), made("x", "test", True)] if source == "svhn" else [
        made("x", True, True), made("x", False, True)
    ]  # fmt: skip
    for part, rows in zip(parts, (slice(0, 3), slice(3, 5)), strict=True):
        data = np.asarray(part.data)
        expected = data[:, None] if layout is None else data.transpose(layout)
        assert np.array_equal(found.images[rows], expected)
    assert found.images.dtype == np.uint8
    assert found.images.flags.c_contiguous
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    assert found.ids == ("train/00000", "train/00001", "train/00002", "test/00000", "test/00001")
    assert found.given.tolist() == ["train"] * 3 + ["test"] * 2
    assert found.class_names == classes
    resized = load(DataRecipe(source=source, path="x", size=8), Progress())
    assert resized.images.shape == (5, found.images.shape[1], 8, 8)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("Dataset not found")])
def test_download_that_fails_is_a_config_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("torchvision.datasets.CIFAR10", fail)
    with pytest.raises(ConfigError, match=f"cifar10: cannot be read from here or downloaded: {error}"):
        load(DataRecipe(source="cifar10", path="here"), Progress())
    with pytest.raises(ConfigError, match=r"data\.path is missing: cifar10"):
        load(DataRecipe(source="cifar10"), Progress())


def test_decoding_is_counted(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save("train/a/1.png")
    save("train/a/2.png")
    counted: list[int] = []

    class Counting(Progress):
        def start(self, label: str, total_images: int) -> None:
            counted.append(total_images)

        def advance(self, images: int) -> None:
            counted.append(images)

    load(DataRecipe(source="folder", path=str(tmp_path)), Counting())
    assert counted == [2, 1, 1]
