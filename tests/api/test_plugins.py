"""The plug-ins of the examples, as an installed package: from `init` to the receipt, and what fails."""

import base64
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from qmu_edge.api.examples.plugins import dashboards, stripes
from qmu_edge.api.examples.plugins.surprise import gap, surprise
from qmu_edge.data.objects import Maker
from qmu_edge.models.layers import Factory
from qmu_edge.plugins.metrics import Metric, Outputs
from qmu_edge.plugins.observers import Observer
from qmu_edge.unlearn.method import Method, Run
from tests.cli.conftest import run_command as run
from tests.plugins.package import package
from tests.test_documentation import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "qmu_edge/unlearn/README.md").read_text("utf-8")
(METHOD,) = re.findall(r"```python\n(.*?)```", PAGE.partition("## A method of another package")[2], re.DOTALL)
EXAMPLES = "qmu_edge.api.examples.plugins"
POINTS = {
    "dataset:stripes": f"{EXAMPLES}.stripes:make",
    "network:two_blocks": f"{EXAMPLES}.two_blocks:build",
    "metric:surprise": f"{EXAMPLES}.surprise:gap",
    "metric:raises": "my_plugins:raises",
    "observer:tensorboard": f"{EXAMPLES}.dashboards:TensorBoard",
    "observer:trackio": f"{EXAMPLES}.dashboards:Trackio",
    "method:small_steps": "my_plugins:METHOD",
    "method:raises": "my_plugins:RAISES",
}
CODE = (
    METHOD
    + """
import dataclasses

def raises(*of):
    raise OSError("no such thing")

RAISES = dataclasses.replace(METHOD, run=raises)
"""
)
RECIPE = """
[data]
size = 8
[train]
epochs = 2
batch = 50
[references]
trained = "never"
[policy]
when_not_measurable = "release"
max_ta_drop = 1.0
max_ra_drop = "off"
max_residual = 1.0
approval_above = "off"
rungs = ["RUNGS", "retrain"]
[plugins]
metrics = ["surprise", "raises"]
observers = ["tensorboard", "trackio"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where the package is installed, and a user who has confirmed nothing."""
    package(tmp_path / "site", POINTS, CODE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delitem(sys.modules, "my_plugins", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_plugins", None)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Stand-ins for TensorBoard and trackio, and what they are told."""
    told: list[tuple[object, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            told.append(("folder", Path(folder).name))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def close(self) -> None:
            told.append(("close",))

    board: Any = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter
    trackio: Any = ModuleType("trackio")
    trackio.init = lambda project, name: told.append(("init", project, name))
    trackio.log = lambda values, step: told.append((*values, step))
    trackio.finish = lambda: told.append(("finish",))
    monkeypatch.setitem(sys.modules, board.__name__, board)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    return told


def made(here: Path, rungs: str = "small_steps", recipe: str = RECIPE) -> Path:
    """A project of the plug-ins, all of them confirmed."""
    (here / "recipe.toml").write_text(recipe.replace("RUNGS", rungs), "utf-8")
    (here / "req.json").write_text('{"subject_ids": ["person-0"]}', "utf-8")
    ended = run(
        "init", here / "shop", "--recipe", here / "recipe.toml", "--dataset", "plugin:stripes",
        "--model", "plugin:two_blocks", "--json",
    )  # fmt: skip
    assert ended.code == 0 and ended.json["subjects"] == 10, ended.err
    for word in ("metric:surprise", "metric:raises", "observer:tensorboard", "observer:trackio"):
        assert run("confirm", word).code == 0
    return here / "shop"


@pytest.mark.slow
def test_from_a_plugged_dataset_to_a_receipt(here: Path, drawn: list[tuple[object, ...]]) -> None:
    shop = made(here)
    assert run("confirm", "method:small_steps", "--json").json == {
        "plugin": "method:small_steps", "package": "my-plugins", "version": "0.7",
    }  # fmt: skip
    assert run("train", "--project", shop).code == 0
    assert [one for one in drawn if one[0] in ("folder", "init")] == [
        ("folder", "training-1"),
        ("init", "shop", "training-1"),
    ]
    assert [one[2] for one in drawn if one[0] == "loss" and isinstance(one[1], float)] == [1, 2]
    ended = run("unlearn", "--request", here / "req.json", "--project", shop, "--json", "--quiet")
    assert ended.code == 0, ended.err
    assert (
        ended.err.count("metric raises of my-plugins 0.7: OSError: no such thing; it has no value") == 2
    )  # of both files
    predicate = receipt_of(shop)
    text = json.dumps(predicate)
    assert predicate["metrics"]["others"]["raises"] is None
    assert isinstance(predicate["metrics"]["others"]["surprise"], float)
    assert predicate["tool"]["dependencies"]["my-plugins"] == "0.7"
    assert predicate["model"]["architecture"] == "plugin.two_blocks"
    assert predicate["method"]["name"] == "small_steps" and predicate["method"]["category"] == "approximate"
    outside = [one["kind"] for one in predicate["derived_artefacts"] if one["state"] == "outside"]
    assert outside[-1] == "logs of observers" and "person-0" not in text
    assert run("receipt", "verify", "--project", shop).code == 0
    assert run("doctor", "--project", shop).code == 0
    assert "Protokolle von Beobachtern" in run_page(shop, "de")
    page = run_page(shop, "en")
    assert ">surprise<" in page and "no value" in page


def receipt_of(shop: Path) -> Any:
    """The predicate of the current receipt."""
    envelope = json.loads((shop / "release/receipt.json").read_bytes())
    return json.loads(base64.b64decode(envelope["payload"]))["predicate"]


def run_page(shop: Path, language: str) -> str:
    ended = run("report", "--project", shop, "--lang", language, "--out", shop.parent / f"{language}.html")
    assert ended.code == 0, ended.err
    return (shop.parent / f"{language}.html").read_text("utf-8")


@pytest.mark.slow
def test_a_method_that_raises_is_a_rung_that_failed_and_nothing_is_lost(
    here: Path, drawn: list[tuple[object, ...]]
) -> None:
    shop = made(here, "raises")
    assert "qmu-edge confirm method:raises" in run("train", "--project", shop).err
    run("confirm", "method:raises")
    assert run("train", "--project", shop).code == 0
    alone = run("unlearn", "--request", here / "req.json", "--project", shop, "--method", "raises")
    assert alone.code == 5 and "Traceback" not in alone.err
    assert "method raises of my-plugins 0.7: OSError: no such thing" in alone.err
    ended = run("unlearn", "--request", here / "req.json", "--project", shop, "--json")
    assert ended.code == 0, ended.err
    predicate = receipt_of(shop)
    assert [(one["method"], one["result"]) for one in predicate["rungs"]] == [
        ("raises", "method_failed"),
        ("retrain", "passed"),
    ]


@pytest.mark.slow
def test_a_project_of_somebody_else_runs_none_of_its_plug_ins(
    here: Path, drawn: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = made(here)
    run("confirm", "method:small_steps")
    assert run("train", "--project", shop).code == 0
    (here / "site/imported").unlink(missing_ok=True)
    sys.modules.pop("my_plugins", None)
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "another user"))
    for word in ("network:two_blocks", "metric:surprise", "metric:raises", "observer:tensorboard",
                 "observer:trackio", "method:small_steps"):  # fmt: skip
        ended = run("unlearn", "--request", here / "req.json", "--project", shop)
        assert ended.code == 2 and f"qmu-edge confirm {word}" in ended.err, ended.err
        assert not (here / "site/imported").exists()
        assert run("confirm", word).code == 0
    assert run("status", "--project", shop, "--json").json["deleted"] == 0
    assert run("unlearn", "--request", here / "req.json", "--project", shop).code == 0
    assert (here / "site/imported").exists()


def test_a_recipe_that_names_a_plug_in_is_no_confirmation(here: Path) -> None:
    named = RECIPE.replace("[train]", '[model]\narchitecture = "plugin:two_blocks"\n[train]')
    (here / "recipe.toml").write_text(named.replace("RUNGS", "small_steps"), "utf-8")
    ended = run("init", here / "shop", "--recipe", here / "recipe.toml", "--dataset", "plugin:stripes")
    assert ended.code == 2 and "qmu-edge confirm network:two_blocks" in ended.err
    assert not (here / "shop").exists()


def test_init_names_all_that_is_not_installed_and_train_all_that_is_not_confirmed(here: Path) -> None:
    text = RECIPE.replace("RUNGS", "small_steps")
    (here / "recipe.toml").write_text(text.replace('"surprise"', '"suprise"').replace('"trackio"', '"wandb"'))
    words = ("init", here / "shop", "--recipe", here / "recipe.toml", "--dataset", "plugin:stripes")
    ended = run(*words)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1 and not (here / "shop").exists()
    assert "metric 'suprise': no installed package brings it; installed: surprise, raises" in ended.err
    assert "observer 'wandb': no installed package brings it; installed: tensorboard, trackio" in ended.err
    (here / "recipe.toml").write_text(text)
    assert run(*words).code == 0
    ended = run("train", "--project", here / "shop")
    assert ended.code == 2 and len(ended.err.splitlines()) == 1
    left = [
        "method:small_steps",
        "metric:surprise",
        "metric:raises",
        "observer:tensorboard",
        "observer:trackio",
    ]
    assert re.findall(r"qmu-edge confirm (\S+)", ended.err) == left
    assert not (here / "site/imported").exists()
    for word in left:
        assert run("confirm", word).code == 0


BAD = {
    "a dataset raises": (
        "dataset", 'def made(path): raise KeyError("x")', "dataset mine of my-plugins 0.7: KeyError: 'x'",
    ),
    "a dataset is none": (
        "dataset", "def made(path): return 3", "made int, allowed is an object with a length and items",
    ),
    "an item raises": (
        "dataset",
        "class Set:\n    def __len__(self): return 3\n    def __getitem__(self, i): return 1 // (i - 2)\n"
        "def made(path): return Set()",
        "dataset, item 0: int",
    ),
    "says where": ("dataset", "def made(path): raise ValueError(path.name)", "ValueError: downloads"),
    "a network raises": (
        "network", "def made(layers, shape): return 1 / 0", "plugin:mine: ZeroDivisionError",
    ),
    "a network ends": ("network", "import os\ndef made(layers, shape): os._exit(0)", "ends the process"),
    "a network is none": ("network", "def made(layers, shape): return 3", "build returned int"),
}  # fmt: skip
OPTIONS = {
    "dataset": ("--dataset", "plugin:mine", "--data-path", "downloads"),
    "network": ("--model", "plugin:mine"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_raises_ends_init_in_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, code, said = BAD[name]
    package(tmp_path / "site", {f"{kind}:mine": "my_plugins:made"}, code + "\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "my_plugins", raising=False)
    ended = run("init", tmp_path / "shop", *OPTIONS[kind])
    assert ended.code == 2 and said in ended.err and "Traceback" not in ended.err, ended.err
    assert not (tmp_path / "shop").exists()


def test_the_page_shows_the_signatures_that_are_called() -> None:
    """Each stub against the type of what is called in its place."""
    page: dict[str, Any] = {}
    (code,) = [text for text in blocks(ROOT / "qmu_edge/api/README.md", "python") if "class Observer" in text]
    exec(compile(code, "page", "exec"), page)
    for name, kind in {"dataset": Maker, "network": Factory, "run": Run, "metric": Metric}.items():
        *taken, given = get_type_hints(page[name]).values()
        assert get_args(kind) == (taken, given), name
    for name in ("start", "log", "finish"):
        shown, called = (inspect.signature(getattr(of, name)) for of in (page["Observer"], Observer))
        assert shown == called and getattr(page["Observer"], name).__doc__ == getattr(Observer, name).__doc__
    assert {name for name in vars(Observer) if not name.startswith("_")} == {"start", "log", "finish"}
    assert set(inspect.signature(Method).parameters) > {"run", "params", "work", "summary"}


def test_the_example_dataset_gives_the_same_items_again() -> None:
    sets = stripes.make(None)
    assert {name: len(one) for name, one in sets.items()} == {"train": 200, "test": 60}
    for one in sets.values():
        assert all(np.array_equal(one[i][0], one[i][0]) for i in range(len(one)))
        assert {one[i][1] for i in range(len(one))} == {0, 1}


def test_the_example_metric_is_the_formula_in_a_loop() -> None:
    rng = np.random.default_rng(0)
    sets = {
        name: Outputs(rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 4, n))
        for name, n in (("forget", 7), ("retain", 11))
    }

    def slow(of: Outputs) -> float:
        return float(
            np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(*of, strict=True)])
        )

    assert gap(sets) == pytest.approx(slow(sets["forget"]) - slow(sets["retain"]), abs=1e-6)
    assert surprise(np.array([[1e4, 0.0]]), np.array([1])) == 1e4


def test_the_example_observers_close_what_they_open(drawn: list[tuple[object, ...]], tmp_path: Path) -> None:
    for kind in (dashboards.TensorBoard, dashboards.Trackio):
        one = kind()
        one.start(tmp_path, "training-1")
        one.log(1, {"loss": 0.5})
        one.finish()
    assert drawn == [
        ("folder", "training-1"), ("loss", 0.5, 1), ("close",),
        ("init", tmp_path.name, "training-1"), ("loss", 1), ("finish",),
    ]  # fmt: skip
