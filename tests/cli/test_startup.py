"""What answers without torch, and the same commands as functions: fresh interpreters, nothing timed."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qmu_edge import api
from qmu_edge.api import demo
from qmu_edge.cli import audit, hub, keys, main, project, receipts, references, requests, run
from qmu_edge.project.recipes import recipe_text
from qmu_edge.recipe import parse_recipe

HEAVY = ("torch", "torchvision", "brevitas", "onnx", "qonnx", "sklearn", "onnxscript")
FOREIGN = (*HEAVY, "pydantic", "typer", "safetensors", "jaxtyping", "filelock", "rfc8785", "PIL")
COMMANDS: dict[str, Any] = {
    "init": project.init, "train": run.train, "adopt": run.adopt, "unlearn": run.unlearn,
    "export": run.export, "verify": run.verify, "audit": audit.audit,
    "status": project.status, "purge": project.purge, "push": hub.push, "recipients": hub.recipients,
    "confirm": project.confirm, "methods": project.methods, "report": receipts.report,
    "recipes": project.recipes, "doctor": project.doctor, "demo": project.demo,
    "request new": requests.request_new, "request add": requests.request_add,
    "request list": requests.request_list, "request approve": requests.request_approve,
    "request withdraw": requests.request_withdraw, "request deny": requests.request_deny,
    "request extend": requests.request_extend,
    "references build": references.references_build,
    "receipt recompute": receipts.receipt_recompute, "receipt keep": receipts.receipt_keep,
    "receipt show": receipts.receipt_show, "receipt verify": receipts.receipt_verify,
    "receipt schema": receipts.receipt_schema,
    "keys list": keys.keys_list, "keys rotate": keys.keys_rotate, "keys revoke": keys.keys_revoke,
    "keys export": keys.keys_export,
}  # fmt: skip


def without(blocked: tuple[str, ...], code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run `code` in a new interpreter in which the blocked packages cannot be imported."""
    block = f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n"
    words = [sys.executable, "-W", "ignore", "-c", block + code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


CLI = "from qmu_edge.cli.main import main\nsys.argv[0] = 'qmu-edge'\nmain()\n"
HELPS = """
from typer.testing import CliRunner
from qmu_edge.cli.main import app
for words in [[], *(name.split() for name in sys.argv[1:])]:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output, (words, result.output, result.exception)
    assert "Traceback" not in result.output
loaded = {"torch", "numpy", "onnxruntime"} & {n for n, m in sys.modules.items() if m}
assert not loaded, loaded
print("ok")
"""


def test_every_help_page_answers_without_torch_or_numpy() -> None:
    done = without(
        (*HEAVY, "numpy", "onnxruntime"), HELPS, "request", "references", "receipt", "keys", *COMMANDS
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_the_list_of_commands_here_is_whole() -> None:
    found = {
        c.name or c.callback.__name__.replace("_", "-") for c in main.app.registered_commands if c.callback
    }
    for group in main.app.registered_groups:
        assert group.typer_instance is not None
        found |= {f"{group.name} {c.name}" for c in group.typer_instance.registered_commands}
    assert found == set(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--json"],
        ["purge", "--dry-run"],
        ["receipt", "verify"],
        ["receipt", "show"],
        ["report"],
        ["report", "--letter"],
        ["receipt", "schema"],
        ["keys", "list"],
        ["keys", "export", "--public"],
        ["request", "new", "--subject", "ana"],
        ["request", "list"],
        ["unlearn", "--pending", "--dry-run"],
        ["recipes"],
    ],
    ids=" ".join,
)
def test_questions_about_requests_and_receipts_need_no_torch(made: Any, words: list[str]) -> None:
    more = (
        ["--project", made.served]
        if {"status", "show", "verify", "keys", "purge", "list", "unlearn", "report"} & {*words}
        else []
    )
    done = without(HEAVY, CLI, *words, *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and done.stderr == ""


# At the end, on stderr: the rooms that were imported, and which of the packages that take long.
TOLD = """
import atexit, json
def told():
    rooms = [name.partition(".")[2] for name in sys.modules if name.startswith("qmu_edge.")]
    slow = [name for name in SLOW if sys.modules.get(name)]
    print(json.dumps([sorted({room for room in rooms if "." not in room}), slow]), file=sys.stderr)
atexit.register(told)
"""
SLOW = [*HEAVY, "onnxruntime", "scipy", "cryptography", "safetensors", "jaxtyping", "PIL"]
FEW = {
    "api", "cli", "data", "errors", "io", "machine", "project", "queue", "receipt", "recipe",
    "request", "runtime", "store", "verify",
}  # fmt: skip


@pytest.mark.parametrize("words", ["status", "request list", "unlearn --pending --dry-run"])
def test_questions_import_few_rooms_and_nothing_that_takes_long(made: Any, words: str) -> None:
    code = f"import sys\nSLOW = {SLOW!r}\n{TOLD}{CLI}"
    line = [sys.executable, "-W", "ignore", "-c", code, *words.split(), "--project", str(made.served)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rooms, slow = json.loads(done.stderr)
    assert slow == []
    assert {*rooms} <= FEW | ({"pipeline"} if "--dry-run" in words else set())


def test_the_device_verifier_needs_numpy_and_onnxruntime_only(made: Any) -> None:
    code = "import runpy\nrunpy.run_module('qmu_edge.verify', run_name='__main__', alter_sys=True)"
    done = without(FOREIGN, code, made.served / "release/model.onnx")
    assert done.returncode == 0, done.stderr
    assert "latent weights  none" in done.stdout


def test_a_blocked_package_really_is_blocked(made: Any) -> None:
    """The tests above could pass with everything importable; this one could not."""
    done = without(HEAVY, CLI, "train", "--project", made.untrained)
    assert done.returncode != 0 and "torch" in done.stderr


def test_without_the_extras_the_command_line_says_what_to_install() -> None:
    done = without(FOREIGN, CLI, "--help")
    assert done.returncode != 0 and 'the extra "cli" of qmu-edge' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_is_python_m_as_well_as_a_script(made: Any) -> None:
    """One real process from its arguments to its exit code."""
    script = Path(sys.executable).with_name("qmu-edge")
    if not script.exists():
        pytest.skip("the package is not installed here")
    words = [script, "status", "--project", made.served]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "checkpoint" in done.stdout and done.stderr == ""
    done = subprocess.run([script, "status", "--project", "/"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "qmu-edge: no project at / or above; run qmu-edge init first\n"


# The functions behind the commands.


def _functions() -> set[str]:
    found = inspect.getmembers(api, inspect.isfunction)
    return {n for n, f in found if f.__module__.startswith("qmu_edge.api.") and not n.startswith("_")}


def test_every_command_is_a_function_of_the_same_name() -> None:
    names = {name.replace(" ", "_") for name in COMMANDS}
    assert _functions() == names - {"demo"}
    assert inspect.isfunction(demo.demo)


# Of the command line only: how the result is printed, and what a function gets as `progress`.
NOT_ARGUMENTS = {"json", "quiet", "profile", "full"}
RENAMED = {
    "attack": "attacks", "class_": "class_ids", "sample": "sample_ids", "subject": "subject_ids",
    "format": "formats", "file": "files", "input": "dtype", "sha256": "digests", "key": "trusted_keys",
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_takes_what_its_command_takes(name: str) -> None:
    function = demo.demo if name == "demo" else getattr(api, name.replace(" ", "_"))
    given = set(inspect.signature(COMMANDS[name]).parameters) - NOT_ARGUMENTS
    taken = set(inspect.signature(function).parameters) - {"progress"}
    assert {
        RENAMED.get(p, p) if name in ("request new", "export", "receipt verify", "audit") else p
        for p in given
    } == taken


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_print_json(name: str) -> None:
    assert "json" in inspect.signature(COMMANDS[name]).parameters


def test_the_functions_return_what_the_commands_print(made: Any, run: Any) -> None:
    assert run("status", "--project", made.served, "--json").json == api.status(made.served)
    assert run("methods", "--json").json == api.methods()
    assert run("recipes", "--json").json == api.recipes()
    shown = run("recipes", "cifar10-resnet18-w4a4")
    assert parse_recipe(shown.out, "printed") == parse_recipe(recipe_text("cifar10-resnet18-w4a4"), "shipped")
    assert "retention_days = 30" in shown.out  # what the shipped file leaves to its default
    assert "not one of" in run("recipes", "none").err
