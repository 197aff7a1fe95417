"""Every path of the API may be text: whoever calls it has read it from a setting, or typed it."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmu_edge import api
from qmu_edge.errors import ConfigError
from tests.data.photos import LABELS, PIXELS, SUBJECTS

FUNCTIONS = [name for name in api.__all__ if name != "SOURCES"]
PICTURES = [(PIXELS[i % 8], LABELS[i % 8], SUBJECTS[i % 8]) for i in range(24)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_asks_for_a_path_that_must_not_be_text(name: str) -> None:
    for argument in inspect.signature(getattr(api, name)).parameters.values():
        said = str(argument.annotation)
        if re.search(r"\bPath\b", said):
            assert re.search(r"\bstr\b", said), f"{name}: {argument}"


def test_a_project_is_made_and_asked_by_text(tmp_path: Path) -> None:
    shop, request, key = (str(tmp_path / name) for name in ("shop", "req.json", "key.pem"))
    api.init(shop, dataset={"train": PICTURES, "test": PICTURES[:8]})
    api.request_new(subject_ids=["ana"], out=request)
    assert api.request_add(request, shop)["images"] == 6
    assert api.request_list(shop)["requests"][0]["state"] == "received"
    assert api.status(shop)["samples"] == 32 and api.doctor(shop)["problems"] == []
    api.keys_export(None, shop, public=True, out=key)
    assert Path(key).read_text("utf-8").startswith("-----BEGIN")
    assert api.receipt_keep(str(tmp_path / "kept"), shop)["folder"]


def test_the_lists_of_an_init_are_paths_or_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", images=PIXELS, labels=np.array(LABELS))
    (tmp_path / "whose.csv").write_text("sample,subject\nimages/000000,ana\n", "utf-8")
    (tmp_path / "r.toml").write_text(api.recipes("digits-resnet18-w4a4")["toml"], "utf-8")
    kinds: list[Any] = [str, Path]
    for kind in kinds:
        made = api.init(
            kind(tmp_path / kind.__name__), dataset=kind(tmp_path / "digits.npz"),
            recipe=kind(tmp_path / "r.toml"), subjects=kind(tmp_path / "whose.csv"),
        )  # fmt: skip
        assert (made["subjects"], made["recipe"]) == (1, str(tmp_path / "r.toml"))
    again = api.init(str(tmp_path / "again"), dataset=tmp_path / "digits.npz", previous=str(tmp_path / "str"))
    assert again["samples"] == 8 and api.recipes(tmp_path / "r.toml")["recipe"] == str(tmp_path / "r.toml")


def test_a_path_is_a_folder_though_it_be_called_as_a_set_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for label in LABELS[:2]:
        Path("digits/train", label).mkdir(parents=True)
    np.savez("digits/set.npz", images=PIXELS)
    with pytest.raises(ConfigError, match=r"digits: no images in train/<class>/"):
        api.init("shop", dataset=Path("digits"))
