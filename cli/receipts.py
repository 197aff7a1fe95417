"""`qmu-edge receipt` and `qmu-edge report`."""

from pathlib import Path
from typing import Annotated

import typer

from qmu_edge.cli.options import Commands, JsonOption, ProjectOption, QuietOption, progress, show

app = Commands(no_args_is_help=True, help="Erasure receipts.", rich_markup_mode=None)


def report(
    request: Annotated[
        str | None, typer.Argument(help="Which request; that of the current release when absent.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write it there instead of stdout.")] = None,
    letter: Annotated[bool, typer.Option("--letter", help="A letter to the person, as text.")] = False,
    lang: Annotated[str, typer.Option(help="Its language, such as de.")] = "en",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """A page for people about a request that was fulfilled (HTML), or a letter to the person."""
    from qmu_edge import api

    result = api.report(request, project, letter=letter, lang=lang, out=out)
    # The text goes out as it is: it has lines, and what in it was somebody else's is escaped already.
    show(result, json, lambda shown: shown["out"] or result["text"].rstrip("\n"))


@app.command("show")
def receipt_show(
    path: Annotated[Path | None, typer.Argument(help="The receipt; the current one when absent.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Every field, instead of one screen.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show a receipt."""
    from qmu_edge import api
    from qmu_edge.cli import render

    show(api.receipt_show(path, project), json, lambda found: render.receipt(found, full=full))


@app.command("verify")
def receipt_verify(
    path: Annotated[Path | None, typer.Argument(help="The receipt; the current one when absent.")] = None,
    file: Annotated[list[Path] | None, typer.Option(help="A model file; repeatable.")] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="Digest of a file on a device; repeatable.")
    ] = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key that must have signed; repeatable.")
    ] = None,
    previous: Annotated[list[Path] | None, typer.Option(help="Receipts before it, newest first.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Hold a receipt against its signature and the files that it speaks of."""
    from qmu_edge import api
    from qmu_edge.cli import render

    result = api.receipt_verify(
        path, project, files=file or (), digests=sha256 or (), previous=previous or (), trusted_keys=key or ()
    )
    show(result, json, render.verified_receipt)


@app.command("recompute")
def receipt_recompute(
    path: Annotated[Path | None, typer.Argument(help="The receipt; the current one when absent.")] = None,
    project: ProjectOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train the network of an exact receipt again, and compare its files byte for byte."""
    from qmu_edge import api

    show(api.receipt_recompute(path, project, progress=progress(quiet)), json)


@app.command("keep")
def receipt_keep(
    folder: Annotated[Path, typer.Argument(help="Folder, such as one under version control.")],
    begin: Annotated[
        bool, typer.Option("--begin", help="It is new, though the project has issued receipts before.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Copy every receipt into a folder; exit code 8 when what is there is not the project's."""
    from qmu_edge import api

    show(api.receipt_keep(folder, project, begin=begin), json)


@app.command("schema")
def receipt_schema(json: JsonOption = False) -> None:
    """Print the JSON Schema of a receipt's statement, the payload of its envelope."""
    from qmu_edge import api

    show(api.receipt_schema(), True)
