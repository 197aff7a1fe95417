"""The model file of a project: who may bring it, what it may be called, and that only those bytes run."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from qmu_edge import api
from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import sha256_of
from qmu_edge.project.model_file import brought, chosen_model, confirm, confirmed_source, source_of
from qmu_edge.recipe import ModelRecipe, parse_recipe

SOURCE = b"""
from torch import nn

def build(layers, shape):
    return nn.Sequential(
        layers.conv_bn(shape.channels, 8, 3, edge=True), layers.relu(), nn.MaxPool2d(2, stride=2),
        layers.conv_bn(8, 12, 3), layers.relu(),
    )
"""
RECIPE = """

[data]
source = "digits"
size = 8
[model]
architecture = "file"
path = "mine.py"
[train]
epochs = 1
batch = 128
[unlearn.finetune]
epochs = 1
batch = 128
[references]
trained = "never"
[policy]
when_not_measurable = "release"
max_ta_drop = 1.0
max_ra_drop = "off"
"""
DIGEST = sha256_of(SOURCE)
NAMED = ModelRecipe(architecture="file", path="mine.py")
PINNED = ModelRecipe(architecture="file", path="mine.py", sha256=DIGEST)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """The file as a person gives it, and a recipe that names it."""
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    (tmp_path / "mine.py").write_bytes(SOURCE)
    return tmp_path / "mine.py"


@pytest.mark.parametrize("recipe", [ModelRecipe(), NAMED, PINNED])
def test_file_that_a_person_gives_is_named_with_its_digest(recipe: ModelRecipe, given: Path) -> None:
    assert brought(recipe, given) == (PINNED, SOURCE)
    assert brought(ModelRecipe(), None) == (ModelRecipe(), b"")


@pytest.mark.parametrize(
    ("recipe", "name", "message"),
    [
        (NAMED, None, r"the Python file mine\.py: .*give it with --model"),
        (PINNED, None, "give it with --model"),
        (NAMED, "other.py", r"path is other\.py, the recipe says mine\.py"),
        (
            PINNED.model_copy(update={"sha256": "0" * 64}),
            "mine.py",
            f"sha256 is {DIGEST}, the recipe says 000",
        ),
        (ModelRecipe(), "no.py", "no such file"),
        (ModelRecipe(), ".", "not a regular file"),
        (ModelRecipe(), "my model.py", "allowed are names of letters"),
        (ModelRecipe(), "mine.txt", "allowed are names of letters"),
        (ModelRecipe(), "big.py", "larger than the allowed"),
    ],
)
def test_other_files_are_refused(recipe: ModelRecipe, name: str | None, message: str, given: Path) -> None:
    for other in ("other.py", "my model.py", "mine.txt"):
        (given.parent / other).write_bytes(SOURCE)
    (given.parent / "big.py").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match=message):
        brought(recipe, None if name is None else given.parent / name)


@pytest.mark.parametrize(
    "path",
    ["../mine.py", "/tmp/mine.py", "a/mine.py", "a\\mine.py", ".py", "mine.pyc", "mine.py\n", "..", ""],
)
def test_recipe_names_a_file_of_the_project_folder_and_nothing_else(path: str) -> None:
    with pytest.raises(ValidationError):
        ModelRecipe(architecture="file", path=path)


@pytest.mark.parametrize(
    "fields", ['architecture = "file"', 'path = "a.py"', f'sha256 = "{DIGEST}"', 'quantizer = "file"']
)
def test_recipe_is_whole(fields: str) -> None:
    with pytest.raises(ConfigError, match=r"^mine: model"):
        parse_recipe(f"[model]\n{fields}", "mine")


def test_changed_or_missing_file_of_a_project_is_refused(tmp_path: Path) -> None:
    assert source_of(ModelRecipe(), tmp_path) == b""
    with pytest.raises(IntegrityError, match=r"mine\.py: no such file"):
        source_of(PINNED, tmp_path)
    (tmp_path / "mine.py").write_bytes(SOURCE)
    assert source_of(PINNED, tmp_path) == SOURCE
    (tmp_path / "mine.py").write_bytes(SOURCE + b"\n")
    for recipe in (PINNED, NAMED):  # a recipe without a digest vouches for nothing
        with pytest.raises(IntegrityError, match=r"SHA-256 is .*; it was not run"):
            source_of(recipe, tmp_path)


@pytest.fixture
def project(given: Path, tmp_path: Path) -> Path:
    """A project with the file, not trained yet."""
    recipe, folder = str(given.parent / "recipe.toml"), tmp_path / "project"
    with pytest.raises(ConfigError, match="give it with --model"):
        api.init(folder, recipe=recipe)
    assert not folder.exists()
    api.init(folder, recipe=recipe, model=given)
    return folder


def test_project_keeps_the_file_and_runs_no_other(project: Path, tmp_path: Path) -> None:
    assert (project / "mine.py").read_bytes() == SOURCE
    assert f'sha256 = "{DIGEST}"' in (project / "qmu.toml").read_text("utf-8")
    assert api.doctor(project)["problems"] == []
    ran = tmp_path / "ran"
    (project / "mine.py").write_bytes(f"open({str(ran)!r}, 'w')\n".encode() + SOURCE)
    with pytest.raises(IntegrityError, match="it was not run"):
        api.train(project, device="cpu")
    assert not ran.exists()
    (problem,) = api.doctor(project)["problems"]
    assert "mine.py: SHA-256 is" in problem


def test_what_this_user_has_not_confirmed_on_this_machine_is_not_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is for whoever was sent the folder, whatever its recipe says of the digest."""
    ran = tmp_path / "ran"
    source = f"open({str(ran)!r}, 'w')\n".encode() + SOURCE
    (project / "mine.py").write_bytes(source)
    text = (project / "qmu.toml").read_text("utf-8")
    (project / "qmu.toml").write_text(text.replace(DIGEST, sha256_of(source)), "utf-8")
    with pytest.raises(ConfigError, match="not confirmed it on this machine: read it, then run qmu-edge co"):
        api.train(project, device="cpu")
    assert not ran.exists() and api.doctor(project)["problems"] == []
    assert api.status(project)["open"] == 0
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    confirm(project / "mine.py")  # whoever is root in another's home does not run what that other confirmed
    with pytest.raises(ConfigError, match="not confirmed"):
        confirmed_source(parse_recipe((project / "qmu.toml").read_text(), "mine").model, project)
    monkeypatch.undo()
    assert api.confirm(project / "mine.py")["sha256"] == sha256_of(source)
    assert confirmed_source(parse_recipe((project / "qmu.toml").read_text(), "mine").model, project) == source


@pytest.mark.parametrize("home", ["a file", "none"])
def test_what_cannot_be_confirmed_is_said(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "state").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state") if home == "a file" else "")

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(ConfigError, match="XDG_STATE_HOME"):
        confirm(given)


def test_from_training_to_a_verified_release(project: Path, tmp_path: Path) -> None:
    request = tmp_path / "req.json"
    request.write_text('{"class_ids": [3]}', "utf-8")
    api.train(project, device="cpu")
    api.unlearn(request, project, device="cpu")
    assert (project / "release/model.onnx").is_file()
    (project / "mine.py").write_bytes(SOURCE.replace(b"8, 12", b"8, 16"))
    assert api.export(project)["files"]  # what is exported already needs no network
    with pytest.raises(IntegrityError, match="it was not run"):
        api.export(project, dtype="uint8", out=tmp_path / "other")


def test_networks_of_torchvision_have_their_own_width() -> None:
    narrow = ModelRecipe(width=0.5)
    named, source = chosen_model(narrow, "torchvision:shufflenet_v2_x0_5")
    assert (named.architecture, named.width, source) == ("torchvision:shufflenet_v2_x0_5", 1.0, b"")
    assert chosen_model(narrow, "mobilenet_v2")[0].width == 0.5
    with pytest.raises(ConfigError, match="; did you mean 'mobilenet_v2'"):
        chosen_model(narrow, "mobilenetv2")
