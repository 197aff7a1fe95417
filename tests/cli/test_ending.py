"""Commands that the machine or its user stops: one line, the code of its class, and no endless wait."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmu_edge import __version__
from qmu_edge.cli import main as command_line
from tests.cli.refusals import refused

COMMAND = [sys.executable, "-c", "from qmu_edge.cli.main import main; main()"]


@pytest.mark.parametrize(
    ("environment", "fragment"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4 and RANK is not set"),
        (
            {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"},
            "MASTER_ADDR is not set: start with torchrun, or unset",
        ),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE: found 'x'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: found '0'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE: found ''"),
    ],
)
def test_what_a_scheduler_leaves_in_the_environment_is_told(
    run: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], fragment: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused(run("recipes"), 2, fragment)


def test_a_world_of_one_needs_no_rank(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run("recipes").code == 0


LACKS: dict[str, tuple[BaseException, str]] = {
    "address space": (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "ulimit -v"),
    "memory": (MemoryError(), "not enough memory"),
    "memory in PyTorch": (
        RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: 64 bytes"),
        "64 bytes",
    ),
    "threads": (RuntimeError("can't start new thread"), "not enough memory"),
    "a link that ends": (RuntimeError("Symlink loop from '/loop'"), "links in a loop"),
    "a disk": (OSError(28, "No space left on device", "/x"), "/x: No space left"),
}


@pytest.mark.parametrize("name", LACKS)
def test_what_the_machine_lacks_is_one_line(run: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    error, fragment = LACKS[name]

    def fail() -> None:
        raise error

    monkeypatch.setattr(command_line, "app", fail)
    refused(run("status"), 2, fragment)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ImportError("no module named x"), KeyError("x")])
def test_a_bug_stays_one(run: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(command_line, "app", fail)
    with pytest.raises(type(error)):
        run("status")


@pytest.mark.parametrize("words", [["methods"], ["recipes", "--json"]])
def test_a_pipe_that_closes_is_one_line(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(write)
    assert done.returncode == 2
    assert done.stderr == "qmu-edge: stdout or stderr was closed before all was written\n"


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """Where the tests run in the background, Ctrl-C is ignored, and stays so in what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _heard() -> None:
    """As in a terminal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "wait_s", [1.0, 4.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (2.5, 6.0, 8.0))]
)
def test_an_interrupt_at_any_time_ends_the_command(
    untrained: Path, number: signal.Signals, wait_s: float
) -> None:
    recipe = untrained / "qmu.toml"
    recipe.write_text(recipe.read_text().replace("epochs = 2\n", "epochs = 2000\n"))
    words = [*COMMAND, "train", "--project", str(untrained), "--quiet"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes, preexec_fn=_heard) as process:
        try:
            time.sleep(wait_s)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted; the same command goes on where it stopped\n"


def test_an_interrupt_that_is_swallowed_comes_again(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    swallowed: list[int] = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(200):
            try:
                time.sleep(0.1)
            except KeyboardInterrupt:
                if swallowed:
                    raise
                swallowed.append(1)

    monkeypatch.setattr(command_line, "app", work)
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    try:
        ended = run("status")
    except KeyboardInterrupt:
        pytest.fail("it has left the command line")
    assert (ended.code, ended.err) == (130, "interrupted; the same command goes on where it stopped\n")
    assert before == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("error", [ImportError("half a library"), SystemExit(1)])
def test_an_interrupt_that_comes_out_as_something_else_is_one(
    run: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr(command_line, "app", work)
    assert run("status").code == 130


def test_the_version_is_told(run: Any) -> None:
    assert run("--version").out == f"qmu-edge {__version__}\n"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["export", "--target", "onnxruntime", "--target", "finn"], "--target"),
        (["export", "--batch=1", "--batch", "2"], "--batch"),
        (["status", "--project", "a", "--project", "b"], "--project"),
        (
            ["request", "new", "--subject", "a", "--regulation", "gdpr", "--regulation", "ccpa"],
            "--regulation",
        ),
        (["receipt", "verify", "--project", "a", "--project", "b"], "--project"),
        (["keys", "rotate", "--reason", "lost", "--reason", "rotated"], "--reason"),
        (["references", "build", "--device", "cpu", "--device", "cuda"], "--device"),
    ],
)
def test_an_option_that_takes_one_value_is_given_once(run: Any, words: list[str], option: str) -> None:
    refused(run(*words), 2, f"{option} is given 2 times")


def test_options_that_take_several_are_joined(run: Any) -> None:
    document = run("request", "new", "--class", "a", "--class", "b", "--json", "--json").json
    assert document["extensions"]["qmu-edge"]["scope"]["class_ids"] == ["a", "b"]


def test_formats_are_joined(run: Any, trained: Path) -> None:
    words = ["--format", "integer", "--format", "qcdq,packed", "--out", trained / "out", "--quiet", "--json"]
    found = run("export", "--project", trained, *words).json
    assert set(found["files"]) == {"model.onnx", "model.qcdq.onnx", "model.packed.onnx"}


NO_FILES = ["a pipe", "/dev/zero", "a link to itself", "a folder"]


@pytest.fixture
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "none"
    if request.param == "a pipe":
        os.mkfifo(path)
    elif request.param == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path if request.param == "a link to itself" else "/dev/zero")
    yield path


WHERE: dict[str, list[str]] = {
    "subjects": ["init", "new", "--subjects", "FILE"], "recipe": ["init", "new", "--recipe", "FILE"],
    "model": ["init", "new", "--model", "FILE"], "previous": ["init", "new", "--previous", "FILE"],
    "request": ["request", "add", "FILE", "--project", "PROJECT"],
    "verify": ["verify", "FILE", "--project", "PROJECT"],
    "receipt": ["receipt", "verify", "FILE"], "shown": ["receipt", "show", "FILE"],
    "key": ["receipt", "verify", "--project", "PROJECT", "--key", "FILE"],
    "file": ["receipt", "verify", "--project", "PROJECT", "--file", "FILE"],
    "earlier": ["receipt", "verify", "--project", "PROJECT", "--previous", "FILE"],
}  # fmt: skip


@pytest.mark.parametrize("no_file", NO_FILES, indirect=True)
@pytest.mark.parametrize("name", WHERE)
def test_what_is_no_file_is_refused_and_not_waited_for(made: Any, run: Any, no_file: Path, name: str) -> None:
    places = {"FILE": no_file, "PROJECT": made.served, "new": no_file.parent / "new"}
    ended = run(*(places.get(word, word) for word in WHERE[name]))
    assert ended.code in (2, 3, 4, 6, 8), ended.err
    refused(ended, ended.code)


@pytest.mark.parametrize("no_file", ["a pipe", "/dev/zero", "a link to itself"], indirect=True)
@pytest.mark.parametrize(
    "place", ["qmu.toml", ".qmu/keys/pseudonym.key", ".qmu/cache/images.npy", ".qmu/ledger.db"]
)
def test_a_project_in_which_a_file_is_none_is_refused(
    made: Any, run: Any, trained: Path, no_file: Path, place: str
) -> None:
    (trained / place).unlink()
    no_file.rename(trained / place) if place != "qmu.toml" else (trained / place).symlink_to(no_file)
    ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(ended, ended.code)
    assert ended.code in (2, 4, 8)
