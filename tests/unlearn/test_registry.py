"""Methods of other packages: found where they are installed, and never taken for exact."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qmu_edge.errors import ConfigError, UnlearnError
from qmu_edge.models.layers import Classifier
from qmu_edge.plugins.registry import confirm
from qmu_edge.recipe import TrainRecipe
from qmu_edge.runtime.memory import within_memory
from qmu_edge.train.batches import Samples
from qmu_edge.unlearn.registry import apply, parameters
from tests.unlearn.toys import split

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "qmu_edge/unlearn/README.md").read_text("utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE.partition("## A method of another package")[2], re.DOTALL)


def installed(folder: Path, code: str = CODE, name: str = "small_steps") -> Path:
    """A folder as pip leaves it."""
    (folder / "small_steps.py").write_text(code, "utf-8")
    about = folder / "small_steps-0.7.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: small-steps\nVersion: 0.7\n")
    (about / "entry_points.txt").write_text(f"[qmu_edge.methods]\n{name} = small_steps:METHOD\n")
    return folder


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command line in a process that has the package."""
    paths = [str(ROOT), str(folder)]
    start = f"import sys; sys.path[:0] = {paths}; from qmu_edge.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", start, *words], capture_output=True, text=True)


@pytest.mark.slow
def test_the_method_of_the_page_is_known_where_its_package_is_installed(tmp_path: Path) -> None:
    listed = json.loads(run(installed(tmp_path), "methods", "--json").stdout)["small_steps"]
    assert listed == {"category": "approximate", "summary": "of the package small-steps 0.7"}
    unconfirmed = run(tmp_path, "methods", "small_steps", "--json")
    assert unconfirmed.returncode == 2 and "qmu-edge confirm method:small_steps" in unconfirmed.stderr
    assert run(tmp_path, "confirm", "method:small_steps").returncode == 0
    about = json.loads(run(tmp_path, "methods", "small_steps", "--json").stdout)["small_steps"]
    assert about["category"] == "approximate" and about["parameters"] == {
        "epochs": 1,
        "lr": 0.001,
        "batch": 64,
    }
    versions = json.loads(run(tmp_path, "doctor", "--json").stdout)["versions"]
    assert versions["small-steps"] == "0.7"


@pytest.mark.slow
def test_it_serves_a_request_and_the_receipt_names_its_package(tmp_path: Path) -> None:
    package, project = tmp_path / "package", tmp_path / "project"
    package.mkdir()
    installed(package)
    recipe = run(package, "recipes", "digits-resnet18-w4a4").stdout.replace("epochs = 30", "epochs = 2")
    recipe = recipe.replace("max_residual = 0.25", "max_residual = 1.0")
    (tmp_path / "recipe.toml").write_text(recipe + "\n[unlearn.small_steps]\nlr = 0.002\n", "utf-8")
    (tmp_path / "req.json").write_text('{"class_ids": [3]}')
    assert run(package, "confirm", "method:small_steps").returncode == 0
    for words in (["init", str(project), "--recipe", str(tmp_path / "recipe.toml")], ["train"]):
        done = run(package, *words, *(["--project", str(project)] if words == ["train"] else []))
        assert done.returncode == 0, done.stderr
    asked = ["unlearn", "--request", str(tmp_path / "req.json"), "--project", str(project)]
    done = run(package, *asked, "--method", "small_steps")
    assert done.returncode in (0, 7), done.stderr
    if done.returncode == 0:
        shown = run(package, "receipt", "show", "--project", str(project), "--json").stdout
        assert '"small-steps": "0.7"' in shown or '"small-steps":"0.7"' in shown


BAD = {
    "exact": (
        CODE.replace("work=on_retain", 'work=on_retain, category="exact"'),
        "small_steps",
        "allowed is an approximate Method",
    ),
    "no method": ("METHOD = 3", "small_steps", "allowed is an approximate Method"),
    "no name": (CODE, "small.steps", "allowed is a name of its own"),
    "an error": ("1 / 0", "small_steps", "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_method_ends_the_command_in_one_line(tmp_path: Path, name: str) -> None:
    code, point, said = BAD[name]
    installed(tmp_path, code, point)
    run(tmp_path, "confirm", "method:small_steps")
    done = run(tmp_path, "methods", "small_steps")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_name_of_ours_stays_ours(tmp_path: Path) -> None:
    installed(tmp_path, "raise SystemExit(3)", "retrain")
    about = json.loads(run(tmp_path, "methods", "--json").stdout)
    assert about["retrain"]["category"] == "exact" and about["retrain"]["reads"] == ["retain"]


@pytest.mark.slow
def test_what_is_installed_and_not_named_is_not_imported(tmp_path: Path) -> None:
    installed(tmp_path, "raise SystemExit(3)")
    for words in (["methods"], ["doctor"], ["methods", "qmul"], ["confirm", "method:small_steps"]):
        assert run(tmp_path, *words).returncode == 0, words


FAULTS = {
    "raises": ("return model", "return data.nothing"),
    "returns nothing": ("return model", "return None"),
    "ends": ("return model", "raise SystemExit(0)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_method_that_raises_is_one_error_of_its_own(
    name: str, toy: Callable[..., Samples], network: Callable[..., Classifier], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    installed(tmp_path, CODE.replace(*FAULTS[name]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "small_steps", raising=False)
    confirm("method", "small_steps")
    data = split(toy)
    params = parameters("small_steps", {}, TrainRecipe())
    with pytest.raises(UnlearnError, match="method small_steps"):
        apply("small_steps", network(), data, params, torch.Generator().manual_seed(0))


def test_memory_that_runs_out_is_said_as_of_every_method(
    toy: Callable[..., Samples], network: Callable[..., Classifier], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    installed(tmp_path, CODE.replace("return model", 'raise RuntimeError("CUDA out of memory")'))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "small_steps", raising=False)
    confirm("method", "small_steps")
    params = parameters("small_steps", {}, TrainRecipe())
    with pytest.raises(ConfigError, match="takes more memory"), within_memory("[unlearn] batch", 64):
        apply("small_steps", network(), split(toy), params, torch.Generator().manual_seed(0))
