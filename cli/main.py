"""`qmu-edge`: arguments in, one call, one result out.

Imports of the project stand inside the commands, so that `--help` answers without torch or pydantic.
The one place that turns errors into exit codes is `main`.
"""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from types import TracebackType
from typing import Annotated, Final, NoReturn

try:
    import typer
except ModuleNotFoundError:  # a device has the verifier only
    sys.exit('the command line needs the extra "cli" of qmu-edge; a device runs python -m qmu_edge.verify')

from qmu_edge.cli import audit, hub, keys, project, receipts, references, requests, run
from qmu_edge.cli.ending import INTERRUPTED, deliberate, interruptible, several_processes
from qmu_edge.cli.options import Commands

CLOSED: Final = 1  # how typer ends where a pipe was closed, and nowhere else

app = Commands(
    name="qmu-edge", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Remove a person's data from a quantized image classifier, and show it on the exported file.",
)  # fmt: skip
for command in (
    project.init, run.train, run.adopt, run.unlearn, run.export, run.verify, audit.audit, project.status,
    project.purge, project.confirm, receipts.report, hub.push, hub.recipients, project.methods,
    project.recipes, project.doctor, project.demo,
):  # fmt: skip
    app.command()(command)
app.add_typer(requests.app, name="request")
app.add_typer(receipts.app, name="receipt")
app.add_typer(keys.app, name="keys")
app.add_typer(references.app, name="references")


def _told(wanted: bool) -> bool:
    if wanted:
        from qmu_edge import __version__

        typer.echo(f"qmu-edge {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_told, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command line as a whole."""


def main() -> None:
    """Run the command line; deliberate errors become one line and their exit code."""
    try:
        with interruptible():
            _quiet()
            _run()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has turned Ctrl-C into this
            _end("interrupted; the same command goes on where it stopped", INTERRUPTED)
        if end.code == CLOSED:  # so does it a pipe that nobody reads any more
            _end("qmu-edge: stdout or stderr was closed before all was written", 2)
        raise
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on where it stopped", INTERRUPTED)
    except Exception as error:
        if (found := deliberate(error)) is None:
            raise
        _end(f"qmu-edge: {found}", found.exit_code)


def _quiet() -> None:
    """Settle threads and warnings before anything that computes is imported."""
    from qmu_edge.machine.processors import settle

    settle()
    sys.excepthook = _bug
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # they are looked for in every package
    if not sys.warnoptions:  # warnings of libraries are for developers, who pass -W
        warnings.simplefilter("ignore")
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _run() -> None:
    """One process; of those that torchrun has started, the first."""
    if not several_processes(os.environ):
        app()
        return
    from qmu_edge.pipeline import distributed

    with distributed.group() as first:
        (app if first else distributed.follow)()


def _bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show the traceback of a bug: it may quote what somebody else's file says."""
    from qmu_edge.errors import printable

    lines = "".join(traceback.format_exception(kind, error, trace)).split("\n")
    print("\n".join(map(printable, lines)), file=sys.stderr, end="")


def _end(line: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # stderr may be the pipe that was closed
        print(line, file=sys.stderr, flush=True)
    sys.exit(code)
