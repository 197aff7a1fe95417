"""`qmu-edge`: arguments in, one call, one result out.

Imports of the project stand inside the commands, so that `--help` answers without torch or pydantic.
The one place that turns errors into exit codes is `main`.
"""

import logging
import os
import sys
import warnings
from typing import Any

try:
    import typer
except ModuleNotFoundError:  # a device has the verifier only
    sys.exit('the command line needs: pip install "qmu-edge[cli]"; a device runs python -m qmu_edge.verify')

from qmu_edge.cli import keys, project, receipts, references, requests, run

app = typer.Typer(
    name="qmu-edge", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Remove a person's data from a quantized image classifier, and show it on the exported file.",
)  # fmt: skip
for command in (
    project.init, run.train, run.unlearn, run.export, run.verify, project.status, project.purge,
    project.methods, project.recipes, project.doctor, project.demo,
):  # fmt: skip
    app.command()(command)
app.add_typer(requests.app, name="request")
app.add_typer(receipts.app, name="receipt")
app.add_typer(keys.app, name="keys")
app.add_typer(references.app, name="references")

INTERRUPTED = 130


def main() -> None:
    """Run the command line; deliberate errors become one line and their exit code."""
    from qmu_edge.errors import ConfigError, QmuEdgeError
    from qmu_edge.machine.processors import settle

    settle()  # before anything that computes is imported

    if not sys.warnoptions:  # warnings of libraries are for developers, who pass -W
        warnings.simplefilter("ignore")
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        _run()
    except QmuEdgeError as error:
        _fail(error)
    except OSError as error:  # a full disk or a read-only folder, outside the store's own writes
        _fail(ConfigError(f"{error.filename or 'the system'}: {error.strerror or error}"))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has turned Ctrl-C into this
            print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise


def _run() -> None:
    """One process; of those that torchrun has started, the first."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        app()
        return
    from qmu_edge.pipeline import distributed

    with distributed.group() as first:
        (app if first else distributed.follow)()


def _fail(error: Any) -> None:
    print(f"qmu-edge: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
