"""Runs the real command line again and again, each time in a fork of one process that is warm already.

Orders are lines of JSON on stdin, answers lines of JSON on stdout:

    {"warm": [[argument, ...], ...]}   run commands here, so that their numeric work is remembered
    {"start": [argument, ...], "root": folder, "what": action, "at": n, "errno": e, "record": file}
                                       -> {"pid": p}; the action happens at the n-th call below root
    {"wait": p}                        -> {"state": "ended" or "stopped", "code": c, "out": s, "err": s}

A code below 0 is the signal that ended the process. Must be started with `shim.c` as LD_PRELOAD.
"""

import copy
import ctypes
import hashlib
import json
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.cli.conftest import remember, run_command

SHIM = ctypes.CDLL(None)  # what was preloaded


def start(order: dict[str, Any], folder: Path) -> int:
    """Fork, and run the command in the child."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{os.getpid()}.{name}", os.O_CREAT | os.O_RDWR | os.O_TRUNC), number)
        record = order.get("record")
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        handle = os.open(record, flags) if record else -1
        which = ctypes.c_long(order.get("at", 0))
        SHIM.shim_arm(os.fsencode(order["root"]), order.get("what", 0), which, order.get("errno", 0), handle)
        os._exit(_main(order["start"]))
    finally:
        os._exit(98)


def _main(arguments: list[str]) -> int:
    from qmu_edge.cli.main import main

    sys.argv = ["qmu-edge", *arguments]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


def wait(pid: int, folder: Path) -> dict[str, Any]:
    """How a started command ended, or that it stopped."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return {"state": "stopped"}
    files = {name: folder / f"{pid}.{name}" for name in ("out", "err")}
    texts = {name: path.read_text() if path.exists() else "" for name, path in files.items()}
    return {"state": "ended", "code": os.waitstatus_to_exitcode(status), **texts}


def warm(commands: list[list[str]]) -> dict[str, Any]:
    """Run commands here."""
    for command in commands:
        ended = run_command(*command)
        if ended.code:
            raise RuntimeError(ended.err)
    return {}


def remember_more(patch: Any) -> None:
    """Do the same loading, training, requantization and evaluation once; the rest is remembered already."""
    from qmu_edge.pipeline.release import evaluate_release
    from qmu_edge.train import checkpoint
    from qmu_edge.train.fit import fit
    from qmu_edge.train.requantize import requantize

    patch.setattr(checkpoint, "loads", _once(checkpoint.loads, lambda data, *_: str(hash(data))))
    patch.setattr("qmu_edge.pipeline.unlearn_run.evaluate_release", _once(evaluate_release, _evaluation))
    patch.setattr("qmu_edge.pipeline.unlearn_run.requantize", _once_in_place(requantize))
    patch.setattr("qmu_edge.pipeline.train_run.requantize", _once_in_place(requantize))
    patch.setattr("qmu_edge.pipeline.distributed.fit", _once_in_place(fit))


def _evaluation(store: Any, release: Any, samples: Any, positions: Any, **_: Any) -> str:
    return f"{release.to_bytes()!r} {[(name, at.tolist()) for name, at in positions.items()]}"


def _once(work: Any, key: Any) -> Any:
    known: dict[str, Any] = {}

    def once(*args: Any, **kwargs: Any) -> Any:
        name = key(*args, **kwargs)
        if name not in known:
            known[name] = work(*args, **kwargs)
        return copy.deepcopy(known[name])

    return once


def _once_in_place(work: Any) -> Any:
    """The same for what changes its first argument, a network, by the samples given next."""
    known: dict[str, Any] = {}

    def once(model: Any, samples: Any, *args: Any, **kwargs: Any) -> None:
        weights = [(n, v.numpy().tobytes()) for n, v in model.state_dict().items()]
        name = hashlib.sha256(repr((weights, samples.index.tolist())).encode()).hexdigest()
        if name not in known:
            work(model, samples, *args, **kwargs)
            known[name] = copy.deepcopy(model)
        model.__dict__ = copy.deepcopy(known[name]).__dict__

    return once


def serve() -> None:
    """Answer orders until stdin ends."""
    import pytest

    import qmu_edge.api.project
    import qmu_edge.pipeline.train_run  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        remember(patch)
        remember_more(patch)
        folder, answer = Path(name), os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever a library prints is no answer
        running: set[int] = set()
        for line in sys.stdin:
            order = json.loads(line)
            if "warm" in order:
                found = warm(order["warm"])
            elif "wait" in order:
                found = wait(order["wait"], folder)
                running -= {order["wait"]} if found["state"] == "ended" else set()
            else:
                found = {"pid": start(order, folder)}
                running.add(found["pid"])
            print(json.dumps(found), file=answer, flush=True)
        for pid in running:  # of a test that failed while they stood still
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
