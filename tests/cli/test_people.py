"""Lists of subjects as people write them, from `init` to what a request would delete."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

LISTS = {
    "blanks": "sample,subject\n{0},ana\n{1},ana \n{2},\u00a0ana\n{3},bo\n",
    "a spreadsheet": "Sample;Subject;Age\r\n{0};ana;7\r\n{1};ana;7\r\n{2};ana;7\r\n{3};bo;8\r\n",
    "two in one picture": "sample,subject\n{0},ana\n{1},ana\n{2},ana\n{2},bo\n{3},bo\n",
}


@pytest.fixture
def project(run: Any, tmp_path: Path) -> Any:
    """A project of small pictures of two classes, with a list of subjects; and what `init` has said."""
    names = [
        f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in range(4)
    ]
    for number, name in enumerate(names):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    (tmp_path / "r.toml").write_text("[data]\nsize = 0\n")

    def make(content: str, encoding: str = "utf-8") -> Any:
        (tmp_path / "s.csv").write_bytes(content.format(*names).encode(encoding))
        words = [
            "--dataset",
            tmp_path / "photos",
            "--recipe",
            tmp_path / "r.toml",
            "--subjects",
            tmp_path / "s.csv",
        ]
        return run("init", tmp_path / "p", *words, "--json")

    return make


@pytest.mark.parametrize("name", LISTS)
def test_a_request_finds_every_picture_of_a_person(run: Any, project: Any, tmp_path: Path, name: str) -> None:
    made = project(LISTS[name], "utf-16" if name == "a spreadsheet" else "utf-8").json
    assert made["subjects"] == 2
    told = made["subject_list"]
    assert told["pictures_of_several_people"] == (name == "two in one picture")
    assert told["unused_columns"] == (["age"] if name == "a spreadsheet" else [])
    run("request", "new", "--subject", " ana", "--out", tmp_path / "req.json")
    shown = run(
        "unlearn", "--request", tmp_path / "req.json", "--project", tmp_path / "p", "--dry-run", "--json"
    )
    counts = shown.json["counts"]
    assert counts["forget"] + counts["also_erased"] == 3  # one cat of four is for validation
    assert shown.json["classes"] == {"cat": counts["forget"]}
    assert shown.json["shared_with_others"] == (name == "two in one picture")
