"""How a command ends that the machine or its user stops: one line, and the exit code of its class."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

INTERRUPTED: Final = 130
_AGAIN_S: Final = 2.0
# Of libraries that have no class for it: PyTorch, Python's threads, the dynamic loader.
_NO_MEMORY: Final = (
    "failed to map segment", "cannot allocate memory", "can't allocate memory", "can't start new thread",
    "not enough memory", "unable to allocate",
)  # fmt: skip
_LOOP: Final = "Symlink loop"  # of pathlib, before Python 3.13


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the work inside, and say so again until it has ended.

    An interrupt that arrives in a callback or a finaliser of a library is swallowed there; the next is not.
    One that arrives while a library is imported may come out as an error of that library.

    Raises:
        KeyboardInterrupt: The work was interrupted, whatever has come of that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        asked.append(number)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        raise KeyboardInterrupt

    wanted = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    for one, before in wanted.items():
        if before is not signal.SIG_IGN:  # as nohup and shells have it for what runs in the background
            signal.signal(one, interrupt)
    try:
        yield
    except BaseException as error:
        done = isinstance(error, SystemExit) and not error.code
        if asked and not done:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for one, before in wanted.items():
            signal.signal(one, before)


def deliberate(error: BaseException) -> Any:
    """The error of ours that says what the machine lacks; None where it is a bug."""
    from qmu_edge.errors import ConfigError, QmuEdgeError

    if isinstance(error, QmuEdgeError):
        return error
    text = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _NO_MEMORY):
        return ConfigError(f"not enough memory or address space (ulimit -v): {text or 'none is left'}")
    if isinstance(error, OSError):  # a full disk or a read-only folder, outside the store's own writes
        return ConfigError(f"{error.filename or 'the system'}: {error.strerror or error}")
    return ConfigError(f"links in a loop: {text}") if _LOOP in text else None


def several_processes(environment: Any) -> bool:
    """Whether torchrun has started this process as one of several.

    Raises:
        ConfigError: WORLD_SIZE is no number, or something that torchrun sets beside it is missing.

    >>> several_processes({}), several_processes({"WORLD_SIZE": "1"})
    (False, False)
    """
    from qmu_edge.errors import ConfigError

    size = environment.get("WORLD_SIZE", "1")
    if not (size.isascii() and size.isdigit() and int(size)):
        raise ConfigError(f"WORLD_SIZE: found {size[:80]!r}, allowed the number of processes of torchrun")
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment
    ]
    if int(size) > 1 and missing:
        raise ConfigError(
            f"WORLD_SIZE is {size} and {missing[0]} is not set: start with torchrun, or unset WORLD_SIZE"
        )
    return int(size) > 1
