"""What the commands have in common: options, progress on stderr, one result on stdout."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.models import CommandFunctionType


class Once(TyperCommand):
    """A command of which an option with one value may be given once: of two, one would be dropped unseen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line.

        Raises:
            ConfigError: An option that takes one value is given twice.
        """
        from qmu_edge.errors import ConfigError

        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for option, times in Counter(order).items():
            if times > 1 and not option.multiple and not getattr(option, "is_flag", False):
                raise ConfigError(f"{option.opts[0]} is given {times} times, allowed is once")
        return super().parse_args(ctx, args)


class Commands(typer.Typer):
    """A group of such commands."""

    def command(
        self, name: str | None = None, **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Register a command."""
        return super().command(name, cls=Once, **options)


def seconds(text: str) -> float:
    """A duration in seconds.

    >>> seconds("90s"), seconds("1.5min"), seconds("2h")
    (90.0, 90.0, 7200.0)

    Raises:
        ConfigError: It is not written like these.
    """
    from qmu_edge.errors import ConfigError

    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    if not (found := re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|min|h)", text)):
        raise ConfigError(f"--budget {text!r}: allowed is a number with s, min or h, such as 10min")
    return float(found[1]) * units[found[2]]


ProjectOption = Annotated[
    Path | None, typer.Option("--project", help="Folder of the project; found upwards from here.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DeterministicOption = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="The same bits from the same seed, on the same machine; 4% slower on a CPU."
    ),
]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait for another process that holds the project.")
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget",
        parser=seconds,
        metavar="TIME",
        help="No further rung begins that is expected to end after so long: 90s, 10min, 2h.",
    ),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option("--profile", help="Record ten steps as a trace, for chrome://tracing or Perfetto."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress on stderr; warnings all the same.")]


def progress(quiet: bool) -> Any:
    """Where long work shows itself."""
    from qmu_edge.io.progress import Progress

    return Progress(warnings=sys.stderr) if quiet else Progress.stderr()


def profiled(quiet: bool, path: Path | None) -> Any:
    """The same, as a context that records ten steps of the work to `path`."""
    from qmu_edge.runtime.profiling import profiled as recording

    return recording(None if quiet else sys.stderr, path, sys.stderr)


def show(result: Any, as_json: bool, text: Callable[[Any], str] | None = None) -> None:
    """Print a result as JSON or as text for people; the one place where a command does."""
    from qmu_edge.cli import render

    typer.echo(render.as_json(result) if as_json else (text or render.plain)(render.legible(result)))
