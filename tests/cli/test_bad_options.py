"""Options, projects and recipes that cannot be met: a usage error before anything is written."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.refusals import refused

OPTIONS: dict[str, tuple[list[str], str]] = {
    "no such method": (["--method", "magic"], "qmul, random_label"),
    "no such device": (["--device", "tpu"], "auto, cpu, cuda"),
    "CUDA without a GPU": (["--device", "cuda"], "GPU"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_cannot_be_met_is_a_usage_error(
    made: Any, run: Any, trained: Path, digest: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options, fragment = OPTIONS[name]
    before = digest(trained)
    ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet", *options)
    refused(ended, 2, fragment)
    assert digest(trained) == before


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_training_on_a_device_that_is_not_there_is_a_usage_error(
    run: Any, trained: Path, digest: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = digest(trained)
    refused(run("train", "--project", trained, "--device", device, "--quiet"), 2, device)
    assert digest(trained) == before


def test_an_unknown_format_is_a_usage_error(run: Any, trained: Path, digest: Any) -> None:
    before = digest(trained)
    refused(run("export", "--project", trained, "--format", "qcdq,tflite", "--quiet"), 2, "tflite")
    assert digest(trained) == before


@pytest.mark.parametrize("command", [["unlearn"], ["export"], ["receipt", "show"], ["receipt", "verify"]])
def test_before_training_there_is_nothing_to_work_on(
    made: Any, run: Any, untrained: Path, digest: Any, command: list[str]
) -> None:
    more = ["--request", made.request, "--quiet"] if command == ["unlearn"] else []
    before = digest(untrained)
    refused(run(*command, "--project", untrained, *more), 2)
    assert digest(untrained).items() - before.items() <= {(".qmu/lock", _EMPTY)}


_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


PROJECT_COMMANDS: list[list[str]] = [
    ["train", "--quiet"],
    ["unlearn", "--request", "r.json", "--quiet"],
    ["export", "--quiet"],
    ["status"],
    ["receipt", "show"],
    ["receipt", "verify"],
]


@pytest.mark.parametrize("command", PROJECT_COMMANDS, ids=" ".join)
def test_without_a_project_commands_say_so(run: Any, tmp_path: Path, command: list[str]) -> None:
    refused(run(*command, "--project", tmp_path), 2, "no project")
    assert list(tmp_path.iterdir()) == []


def test_init_does_not_touch_an_existing_project(run: Any, trained: Path, digest: Any) -> None:
    before = digest(trained)
    refused(run("init", trained, "--quiet"), 2, "already")
    assert digest(trained) == before


RECIPES: dict[str, tuple[str, str]] = {
    "not TOML": ("= 1", "TOML"),
    "unknown key": ("[model]\nwidht = 1.0", "widht"),
    "unknown table": ("[polcy]\nmax_ta_drop = 0.1", "polcy"),
    "9 bits": ("[model]\nweight_bits = 9", "weight_bits"),
    "1 bit": ("[model]\nactivation_bits = 1", "activation_bits"),
    "text for a number": ('[train]\nepochs = "2"', "epochs"),
    "no epochs": ("[train]\nepochs = 0", "epochs"),
    "negative rate": ("[train]\nlr = -0.1", "lr"),
    "infinite rate": ("[train]\nlr = inf", "lr"),
    "NaN limit": ("[policy]\nmax_residual = nan", "max_residual"),
    "a limit above 1": ("[policy]\nmax_ta_drop = 2.0", "max_ta_drop"),
    "few parity inputs": ("[policy]\nparity_inputs = 10", "parity_inputs"),
    "unknown network": ('[model]\narchitecture = "vgg"', "architecture"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_makes_no_project(run: Any, tmp_path: Path, name: str) -> None:
    text, fragment = RECIPES[name]
    (tmp_path / "r.toml").write_text(text)
    refused(run("init", tmp_path / "p", "--recipe", tmp_path / "r.toml", "--quiet"), 2, fragment)
    assert not (tmp_path / "p").exists()


def test_an_unknown_recipe_names_those_there_are(run: Any, tmp_path: Path) -> None:
    refused(run("init", tmp_path / "p", "--recipe", "nothing", "--quiet"), 2, "digits-resnet18-w4a4")


def test_request_new_does_not_overwrite(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "req.json"
    path.write_text("mine")
    refused(run("request", "new", "--subject", "ana", "--out", path), 2, "exists")
    assert path.read_text() == "mine"
    refused(run("request", "new"), 3, "names no subject")
    refused(run("request", "new", "--subject", "ana", "--regulation", "hipaa"), 3, "hipaa")
