"""What an earlier project of the same data has deleted stays deleted in a new one."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmu_edge import api
from qmu_edge.data.index import Form, content_digests
from qmu_edge.data.pictures import Decoder
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.project.samples import FORMS
from qmu_edge.queue import lifecycle
from qmu_edge.request.document import parse_request
from qmu_edge.request.resolve import tombstones_of
from qmu_edge.store.ledger.states import Step


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten pictures of each of two classes to train on, two to test."""
    random = np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}.png")
    return tmp_path / "data"


def init(folder: Path, dataset: Path, previous: Path | None = None) -> Path:
    api.init(folder, dataset=str(dataset), recipe="digits-resnet18-w4a4", previous=previous)
    return folder


def delete(root: Path, sample: str) -> None:
    """What the ledger holds once a request has been served."""
    with opened(root, Progress()) as project:
        document = f'{{"sample_ids": ["{sample}"]}}'.encode()
        row = lifecycle.register(project, parse_request(document, source="r", key=project.key))
        found = project.samples.claim(project.ledger.open_details(Step.RESOLVED)[row.request_id])
        ids, digests = zip(*tombstones_of(project.samples.index, found), strict=True)
        project.ledger.add_tombstones(row.request_id, ids, digests)


def with_one_deleted(root: Path, dataset: Path) -> tuple[Path, str]:
    """A project that has deleted its first training image, and the image's id."""
    first = init(root, dataset)
    with opened(first, Progress()) as project:
        sample = project.samples.index.ids[project.samples.trainable()[0]]
    delete(first, sample)
    return first, sample


def test_what_was_deleted_is_refused_under_any_name_and_in_any_later_project(
    dataset: Path, tmp_path: Path
) -> None:
    first, sample = with_one_deleted(tmp_path / "first", dataset)
    with pytest.raises(ConfigError, match=f"1 of 24 samples were deleted in .*first is {sample}"):
        init(tmp_path / "second", dataset, first)
    assert not (tmp_path / "second").exists()

    picture = Image.open(dataset / sample)
    picture.load()
    (dataset / sample).unlink()
    picture.save(dataset / "train/dog/renamed.bmp")  # re-encoded, renamed, and of another class
    with pytest.raises(ConfigError, match=r"1 of 24 .*renamed"):
        init(tmp_path / "second", dataset, first)
    (dataset / "train/dog/renamed.bmp").unlink()
    second = init(tmp_path / "second", dataset, first)
    with opened(second, Progress()) as project:
        assert project.ledger.tombstones() == {sample} and project.ledger.problems() == []
        assert not project.samples.barred().any() and len(project.samples.index.ids) == 23

    picture.save(dataset / "train/cat/back.png")
    for folder in (first, second):
        with pytest.raises(ConfigError, match=r"1 of 24 .*back"):
            init(tmp_path / "third", dataset, folder)
    init(tmp_path / "third", dataset)  # who names no earlier project is not held back: it is not known here


def saved_again(dataset: Path, sample: str) -> None:
    """Let the picture be there under another name, mirrored and brighter, in its own place no more."""
    with Image.open(dataset / sample) as picture:
        brighter = np.minimum(np.asarray(picture), 254) + np.uint8(1)
    Image.fromarray(brighter[:, ::-1]).save(dataset / "train/dog/again.png")
    (dataset / sample).unlink()


@pytest.mark.parametrize("policy", ["warn", "refuse", "off"])
def test_a_picture_that_looks_like_a_deleted_one_is_said_or_refused(
    dataset: Path, tmp_path: Path, policy: str
) -> None:
    first, sample = with_one_deleted(tmp_path / "first", dataset)
    saved_again(dataset, sample)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[data]\nsize = 16\n[policy]\nnear_duplicates = "{policy}"\n')
    found = "1 images look like ones that .*first has deleted, the first is train/dog/again.png"

    def second() -> list[str]:
        made = api.init(tmp_path / "second", dataset=str(dataset), previous=first, recipe=str(recipe))
        return [text for text in made["notices"] if "deleted" in text]

    if policy == "refuse":
        with pytest.raises(ConfigError, match=found + ": allowed are none"):
            second()
        assert not (tmp_path / "second").exists()
    else:
        said = second()
        assert not said if policy == "off" else re.fullmatch(found, "".join(said))


def test_a_project_whose_images_are_gone_still_says_what_was_deleted(dataset: Path, tmp_path: Path) -> None:
    first, sample = with_one_deleted(tmp_path / "first", dataset)
    with opened(first, Progress()) as project:
        project.samples.path.unlink()
    with pytest.raises(ConfigError, match=f"first is {sample}"):
        init(tmp_path / "second", dataset, first)
    saved_again(dataset, sample)
    made = api.init(tmp_path / "third", dataset=str(dataset), previous=first, recipe="digits-resnet18-w4a4")
    said = made["notices"]
    assert "1 pictures that" in said[-1] and "cannot be told" in said[-1]


def test_only_a_project_can_be_the_previous_one(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no project at"):
        init(tmp_path / "second", dataset, tmp_path)


def made_before(folder: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, size: int = 8) -> Path:
    """A project as it was when only decoding 1 was known; its first file decides between grey and colour."""
    recipe = folder.parent / "old.toml"
    recipe.write_text(f"[data]\nsize = {size}\n")
    first = min((dataset / "train").glob("*/*"))
    with Image.open(first) as image, monkeypatch.context() as patch:
        form = Form(1, (1 if image.mode in ("1", "L", "I;16") else 3, size, size))
        patch.setattr(Decoder, "_form", lambda *_: form)
        api.init(folder, dataset=str(dataset), recipe=str(recipe))
    with opened(folder, Progress()) as project:
        project.ledger.set_meta(FORMS, None)
    return folder


def hidden(dataset: Path) -> dict[str, Image.Image]:
    """Pictures that the two decodings read in different ways."""
    noise = np.random.default_rng(1).integers(0, 256, (9, 8, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(noise[..., 0])
    turned.getexif()[0x0112] = 6
    return {
        "deep": Image.fromarray(noise[..., 0].astype(np.uint16) * 257 // 200 + 100),
        "transparent": Image.fromarray(noise),
        "colour": Image.fromarray(noise[..., :3]),
        "turned": turned,
    }


@pytest.mark.parametrize("kind", ["deep", "transparent", "colour", "turned"])
@pytest.mark.parametrize("size", [8, 4])
def test_what_was_deleted_is_known_again_whatever_it_was_decoded_as(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    picture = hidden(dataset)[kind]
    for i in range(3):  # one of them is trained on
        copy = picture.copy()
        copy.putpixel(
            (0, 0), (i * 50, 0, 0, 255)[: len(picture.getbands())] if picture.mode != "I;16" else i * 50
        )
        copy.save(dataset / f"train/dog/x{i}.png", exif=picture.getexif())
    first = made_before(tmp_path / "first", dataset, monkeypatch, size)
    with opened(first, Progress()) as project:
        assert project.samples.forms() == [Form(1, (1, size, size))]
        index = project.samples.index
        sample = next(index.ids[i] for i in project.samples.trainable() if "/x" in index.ids[i])
    delete(first, sample)
    for rest in dataset.glob("train/dog/x*"):
        if rest != dataset / sample:
            rest.unlink()
    (dataset / sample).rename(dataset / "train/cat/renamed.png")
    with pytest.raises(ConfigError, match=r"1 of 25 .*renamed"):
        init(tmp_path / "second", dataset, first)
    kept = (dataset / "train/cat/renamed.png").read_bytes()
    (dataset / "train/cat/renamed.png").unlink()
    second = init(tmp_path / "second", dataset, first)
    with opened(second, Progress()) as project:
        assert [form.decoding for form in project.samples.forms()] == [2, 1]
    (dataset / "train/cat/back.png").write_bytes(kept)
    with pytest.raises(ConfigError, match=r"1 of 25 .*back"):
        init(tmp_path / "third", dataset, second)  # the second carries it, and how it was decoded


def test_a_project_that_was_made_before_opens_as_it_was(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, picture in hidden(dataset).items():
        picture.save(dataset / f"train/dog/{name}.png", exif=picture.getexif())
    project = made_before(tmp_path / "old", dataset, monkeypatch)
    before = (project / ".qmu/cache/images.npy").read_bytes()
    with opened(project, Progress()) as found:
        assert found.samples.images.shape == (28, 1, 8, 8) and found.ledger.problems() == []
        assert list(content_digests(found.samples.images)) == list(found.samples.index.digests)
    assert (project / ".qmu/cache/images.npy").read_bytes() == before
    new = init(tmp_path / "new", dataset)
    with opened(new, Progress()) as found:
        assert found.samples.images.shape[:2] == (28, 3)


def test_what_was_deleted_is_known_again_in_another_size(dataset: Path, tmp_path: Path) -> None:
    first, sample = with_one_deleted(tmp_path / "first", dataset)
    (dataset / sample).rename(dataset / "train/dog/renamed.png")
    (tmp_path / "other.toml").write_text("[data]\nsize = 6\n")
    with pytest.raises(ConfigError, match=r"1 of 24 .*renamed"):
        api.init(
            tmp_path / "second", dataset=str(dataset), previous=first, recipe=str(tmp_path / "other.toml")
        )


def test_what_was_deleted_is_known_again_where_pictures_are_cut(dataset: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(5)
    for path in sorted((dataset / "train").glob("*/*")):
        Image.fromarray(noise.integers(0, 256, (8, 14), np.uint8)).save(path)
    recipes = [tmp_path / "stretch.toml", tmp_path / "crop.toml"]
    for recipe in recipes:
        recipe.write_text(f'[data]\nsize = 6\nfit = "{recipe.stem}"\n')
    api.init(tmp_path / "first", dataset=str(dataset), recipe=str(recipes[1]))
    with opened(tmp_path / "first", Progress()) as project:
        sample = project.samples.index.ids[project.samples.trainable()[0]]
    delete(tmp_path / "first", sample)
    (dataset / sample).rename(dataset / "train/dog/renamed.png")
    for recipe in recipes:
        with pytest.raises(ConfigError, match=r"1 of 24 .*renamed"):
            api.init(
                tmp_path / "second", dataset=str(dataset), previous=tmp_path / "first", recipe=str(recipe)
            )


def test_what_was_deleted_from_a_grey_set_is_known_again_in_a_colour_set(
    dataset: Path, tmp_path: Path
) -> None:
    first, sample = with_one_deleted(tmp_path / "first", dataset)
    with Image.open(dataset / sample) as picture:
        picture.convert("RGB").save(dataset / "train/dog/renamed.png")
    (dataset / sample).unlink()
    Image.new("RGB", (8, 8), "red").save(dataset / "train/dog/red.png")
    with pytest.raises(ConfigError, match=r"1 of 25 .*renamed"):
        init(tmp_path / "second", dataset, first)
