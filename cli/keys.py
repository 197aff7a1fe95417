"""`qmu-edge keys`: what signs receipts and bundles."""

from pathlib import Path
from typing import Annotated

import typer

from qmu_edge.cli.options import Commands, JsonOption, ProjectOption, show

app = Commands(no_args_is_help=True, help="Keys that sign receipts.", rich_markup_mode=None)


@app.command("list")
def keys_list(project: ProjectOption = None, json: JsonOption = False) -> None:
    """The project's public keys and their time."""
    from qmu_edge import api

    show(api.keys_list(project), json)


@app.command("rotate")
def keys_rotate(
    reason: Annotated[str, typer.Option(help="rotated, lost or compromised.")] = "rotated",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Put a new key in use; the private half of the one before is deleted."""
    from qmu_edge import api

    show(api.keys_rotate(project, reason=reason), json)


@app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(help="Its name; see qmu-edge keys list.")],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Declare a key that is out of use compromised."""
    from qmu_edge import api

    show(api.keys_revoke(name, project), json)


@app.command("export")
def keys_export(
    name: Annotated[str | None, typer.Argument(help="Its name; the one in use when absent.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Required: private keys never leave.")] = False,
    model: Annotated[bool, typer.Option("--model", help="The P-256 key, which signs model.sig.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write it there instead of stdout.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Print a public key (PEM), for those who check receipts, bundles and model signatures."""
    from qmu_edge import api
    from qmu_edge.errors import printable

    result = api.keys_export(name, project, public=public, model=model, out=out)
    show(result, json, lambda _: printable(str(out)) if out else result["pem"].rstrip())  # base64, in lines
