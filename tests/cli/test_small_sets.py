"""Data sets with next to nothing in them: said at `init`, and trained and served nevertheless, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.refusals import refused, set_policy

RECIPE = """
[data]
size = 8
[model]
width = 0.125
[train]
epochs = 1
batch = 8
[references]
count = 3
"""


def project(run: Any, folder: Path, *, people: bool = False, **images: int) -> Any:
    """What `init` says of so many images of each class, named like `train_cat`; of one person, or nobody."""
    for name, count in images.items():
        for i in range(count):
            path = folder / "data" / name.replace("_", "/") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([i, *name.encode()]).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(noise).save(path)
    (folder / "r.toml").write_text(RECIPE)
    words = ["--dataset", folder / "data", "--recipe", folder / "r.toml", "--json", "--quiet"]
    if people:
        names = sorted(path.relative_to(folder / "data") for path in folder.rglob("*.png"))
        (folder / "s.csv").write_text("\n".join(["sample,subject", *(f"{name},ana" for name in names)]))
        words += ["--subjects", folder / "s.csv"]
    return run("init", folder / "p", *words)


def notices(made: Any) -> str:
    return " | ".join(made.json["notices"])


@pytest.mark.slow
def test_a_project_without_any_unseen_image_is_trained_and_a_request_served(run: Any, tmp_path: Path) -> None:
    made = project(run, tmp_path, train_cat=2, train_dog=2, train_owl=2)
    assert (made.json["validation"], made.json["test"]) == (0, 0)
    for told in ("no test images", "no validation images", "0 unseen images"):
        assert told in notices(made)
    words = ["--project", tmp_path / "p", "--json", "--quiet"]
    trained = run("train", *words)
    assert trained.code == 0 and trained.json["accuracy"] == {}
    run("request", "new", "--sample", "train/cat/0.png", "--out", tmp_path / "req.json")
    served = run("unlearn", "--request", tmp_path / "req.json", *words)
    assert served.code == 0, served.err
    assert served.json["requests"][0]["outcome"] == "retrained"
    doctor = run("doctor", "--project", tmp_path / "p", "--json")
    assert doctor.code == 0 and "NaN" not in doctor.out + trained.out


def test_classes_of_a_few_images_have_one_for_validation(run: Any, tmp_path: Path) -> None:
    made = project(run, tmp_path, train_cat=5, train_dog=3, train_owl=1, test_cat=2, test_dog=2, test_owl=2)
    assert (made.json["train"], made.json["validation"]) == (7, 2)
    assert "no validation" not in notices(made) and "no test" not in notices(made)
    trained = run("train", "--project", tmp_path / "p", "--json", "--quiet")
    assert trained.code == 0 and set(trained.json["accuracy"]) == {"validation", "test"}


def test_classes_in_train_only_or_test_only_are_said(run: Any, tmp_path: Path) -> None:
    made = project(
        run, tmp_path, train_cat=20, train_dog=20, train_new=20, test_cat=20, test_dog=20, test_old=9
    )
    assert notices(made) == (
        "classes trained on and never tested: new | classes tested and never trained on: old | whose the "
        "images are is not known: requests can name samples and classes, and no person; init --subjects "
        "takes a list"
    )


def test_a_data_set_with_nothing_to_say_is_not_talked_about(run: Any, tmp_path: Path) -> None:
    made = project(run, tmp_path, people=True, train_cat=20, train_dog=20, test_cat=20, test_dog=20)
    assert made.json["notices"] == []


@pytest.mark.parametrize(
    ("images", "classes"),
    [({"train_cat": 9, "test_cat": 9, "test_dog": 9}, 1), ({"test_cat": 9, "test_dog": 9}, 0)],
)
def test_fewer_than_two_trained_classes_make_no_project(
    run: Any, tmp_path: Path, images: dict[str, int], classes: int
) -> None:
    refused(
        project(run, tmp_path, people=False, **images),
        2,
        f"training images of {classes} classes, allowed at least 2",
    )
    assert not (tmp_path / "p").exists()


def test_a_request_that_would_leave_too_little_to_train_on_is_refused_before_anything_is_barred(
    run: Any, tmp_path: Path
) -> None:
    """On a single image nothing can be trained, so the request could never be finished."""
    project(run, tmp_path, train_cat=2, train_dog=1)
    words = ["--project", tmp_path / "p", "--quiet"]
    assert run("train", *words).code == 0
    set_policy(tmp_path / "p", approval_above='"off"', approval_above_total='"off"')
    run("request", "new", "--class", "cat", "--out", tmp_path / "req.json")
    refused(run("unlearn", "--request", tmp_path / "req.json", *words), 3, "left but 1; allowed all but 2")
    (row,) = run("request", "list", "--project", tmp_path / "p", "--json").json["requests"]
    assert (row["state"], row["reason"]) == ("received", "nothing_left")
    closed = run(
        "request", "deny", row["request"], "--reason", "other", "--project", tmp_path / "p", "--json"
    )
    assert closed.json["outcome"] == "denied"
