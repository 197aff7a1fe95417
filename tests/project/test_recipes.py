"""Where recipes come from."""

from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.project.recipes import recipe_file, recipe_text, shipped_recipes
from qmu_edge.recipe import parse_recipe


def test_recipe_comes_from_a_file_or_by_name(tmp_path: Path) -> None:
    path = tmp_path / "qmu.toml"
    path.write_text('[policy]\nrungs = ["retrain"]\n', "utf-8")
    assert parse_recipe(recipe_text(str(path)), "file").policy.rungs == ("retrain",)
    with pytest.raises(ConfigError, match="digits-resnet18-w4a4"):
        recipe_text("no-such-recipe")


def test_what_is_shipped_says_what_it_is_for() -> None:
    known = shipped_recipes()
    assert "digits-resnet18-w4a4" in known and "photos-resnet18-w4a4" in known
    assert all(recipe_text(name).startswith(f"# {told}") for name, told in known.items())


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "qmu.toml"
    for content, told in ((b"\xff", "not UTF-8 at byte 0"), (b" " * 70_000, "bytes")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=told):
            recipe_file(path)
