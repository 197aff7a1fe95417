"""One tiny project, made once with the real commands, and copies of it for the tests that change theirs.

Training, unlearning, export and verification are the real ones. Export and the run of an unlearning
method are remembered by everything that goes into them, so that they are not done for every test.
"""

import contextlib
import copy
import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from qmu_edge.cli.main import main
from qmu_edge.export.exporter import export
from qmu_edge.export.trace import trace
from qmu_edge.unlearn.registry import apply
from tests.networks import make_shallow

SUBJECT = "writer-3"
RECIPE = """
[data]
source = "digits"
size = 8
[model]
width = 0.125
[train]
epochs = 2
batch = 128
[unlearn.qmul]
epochs = 1
batch = 128
[references]
trained = "never"
[policy]
rungs = ["qmul", "retrain"]
when_not_measurable = "release"
max_ta_drop = 1.0
max_ra_drop = "off"
"""
# The same with references, and a policy that never releases what cannot be measured.
ONCE = RECIPE.replace('trained = "never"', 'trained = "once"\ncount = 3').replace('"release"', '"retrain"')


class Ended(NamedTuple):
    """How a command ended: exit code, and all of stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout, which must be one JSON value and nothing else."""
        return json.loads(self.out)


Run = Callable[..., Ended]


def run_command(*arguments: object) -> Ended:
    """Call `main` as the console script does, in this process."""
    code: Any = 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", ["qmu-edge", *map(str, arguments)])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as end:
                    code = end.code
        out.seek(0), err.seek(0)
        return Ended(int(code or 0), out.read(), err.read())


def copied(project: Path, to: Path) -> Path:
    """A copy of a project, links kept."""
    return Path(shutil.copytree(project, to, symlinks=True))


def files_of(project: Path) -> dict[str, str]:
    """Digest of every file and target of every link; what SQLite keeps only while it is open is left out."""
    found = {}
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and not name.endswith(("-wal", "-shm")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture
def run() -> Run:
    """Run a command in this process."""
    return run_command


@pytest.fixture
def digest() -> Callable[[Path], dict[str, str]]:
    """What tells whether a store has changed."""
    return files_of


@pytest.fixture(scope="module", autouse=True)
def few_blocks(shallow: None) -> None:
    """What is tested is not the depth of networks."""


@pytest.fixture(scope="session", autouse=True)
def work_is_remembered() -> Iterator[None]:
    """Do the same export and the same unlearning once."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        remember(patch)
        yield


def remember(patch: pytest.MonkeyPatch) -> None:
    """Do the same export and the same unlearning once, as long as the patch lasts."""
    patch.setattr("qmu_edge.export.exporter.trace", _remembered(trace, _trace_key))
    patch.setattr("qmu_edge.pipeline.release.export", _remembered(export, _export_key))
    patch.setattr("qmu_edge.pipeline.distributed.apply", _remembered(apply, _apply_key))


def _remembered(work: Callable[..., Any], key: Callable[..., str]) -> Callable[..., Any]:
    known: dict[str, Any] = {}

    def once(*args: Any, **kwargs: Any) -> Any:
        name = key(*args, **kwargs)
        if name not in known:
            known[name] = work(*args, **kwargs)
        return copy.deepcopy(known[name])

    return once


def _trace_key(model: Any, size: int) -> str:
    return _sha(_weights(model), str(model.recipe), str(size))


def _export_key(model: Any, plan: Any, **kwargs: Any) -> str:
    rest = sorted((k, v.tobytes() if hasattr(v, "tobytes") else v) for k, v in kwargs.items())
    return _sha(_weights(model), str(model.recipe), repr(plan), repr(rest))


def _apply_key(name: str, model: Any, data: Any, params: Any, generator: Any) -> str:
    sets = [part.index.tolist() for part in (data.forget, data.retain, data.validation)]
    return _sha(_weights(model), repr((name, sets, params, generator.get_state().tolist())))


def _weights(model: Any) -> str:
    state = model.state_dict().items()
    return _sha(*(f"{name}{value.cpu().numpy().tobytes().hex()}" for name, value in state))


def _sha(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


class Made(NamedTuple):
    """The projects that are made once; only their copies may be changed."""

    recipe: Path
    untrained: Path
    trained: Path
    served: Path
    request: Path
    commands: dict[str, Ended]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """From `init` to a receipt, by the commands."""
    folder = tmp_path_factory.mktemp("made")
    recipe, request = folder / "tiny.toml", folder / "req.json"
    recipe.write_text(RECIPE, "utf-8")
    untrained, trained, served = folder / "untrained", folder / "trained", folder / "served"
    with pytest.MonkeyPatch.context() as patch:
        make_shallow(patch)
        commands = {"init": run_command("init", untrained, "--recipe", recipe, "--json")}
        copied(untrained, trained)
        commands["train"] = run_command("train", "--project", trained, "--json")
        commands["request new"] = run_command("request", "new", "--subject", SUBJECT, "--out", request)
        copied(trained, served)
        commands["unlearn"] = run_command("unlearn", "--request", request, "--project", served, "--json")
    for name, ended in commands.items():
        assert ended.code == 0, f"{name}: {ended.err}"
    return Made(recipe, untrained, trained, served, request, commands)


@pytest.fixture
def untrained(made: Made, tmp_path: Path) -> Path:
    """A project of one's own, not trained yet."""
    return copied(made.untrained, tmp_path / "project")


@pytest.fixture
def trained(made: Made, tmp_path: Path) -> Path:
    """A trained project of one's own."""
    return copied(made.trained, tmp_path / "project")


@pytest.fixture(scope="module")
def trained_once(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained project for tests that show that they leave it as it was."""
    return copied(made.trained, tmp_path_factory.mktemp("once") / "project")


@pytest.fixture
def served(made: Made, tmp_path: Path) -> Path:
    """A project of one's own in which one request was served."""
    return copied(made.served, tmp_path / "project")
