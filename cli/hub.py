"""`qmu-edge push` and `recipients`: bundles for a Hugging Face Hub, and where they were sent."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qmu_edge.cli.options import JsonOption, ProjectOption, WaitOption, show
from qmu_edge.cli.render import table


def push(
    bundle: Annotated[Path, typer.Argument(help="Of this project: a folder, or the .tar beside it.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub, which exists.")],
    send: Annotated[
        bool, typer.Option("--send", help="Send it, with the token in HF_TOKEN; else only say what.")
    ] = False,
    project: ProjectOption = None,
    wait_s: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Say what a Hugging Face Hub would be sent; with --send, send it, and note the recipient."""
    from qmu_edge import api

    result = api.push(bundle, repository, project, send=send, wait_s=wait_s)
    show(result, json, lambda shown: "\n".join(_pushed(shown)))


def recipients(
    taken_down: Annotated[
        int | None, typer.Option("--taken-down", min=1, metavar="N", help="Note that number N was.")
    ] = None,
    project: ProjectOption = None,
    wait_s: WaitOption = 0,
    json: JsonOption = False,
) -> None:
    """Where bundles were sent, and what must be taken down there since a later deletion."""
    from qmu_edge import api

    show(api.recipients(project, taken_down=taken_down, wait_s=wait_s), json, _recipients)


def _pushed(result: Mapping[str, Any]) -> Iterator[str]:
    rows = [["file", "bytes", "SHA-256"]]
    rows += [[file["path"], f"{file['bytes']:,}", file["sha256"]] for file in result["files"]]
    yield table(rows)
    of = f"receipt {result['number']}, of {result['time']}" if result["number"] else "before any deletion"
    yield f"\n{result['bytes']:,} bytes ({of}) for {result['repository']} at {result['hub']}"
    yield result["notice"]
    if result["open"]:
        yield f"{result['open']} requests are open; the next that is fulfilled supersedes this bundle."
    if not result["sent"]:
        yield "nothing was sent; --send does"
        return
    seen = {True: "everybody sees it", False: "not everybody sees it", None: "who sees it is not known"}
    yield f"sent to recipient {result['recipient']}: {seen[result['everybody']]}"
    yield f"{result['repository']}@{result['commit']}"


def _recipients(result: Sequence[Mapping[str, Any]]) -> str:
    if not result:
        return "nothing was sent to a Hub"
    rows = [["recipient", "revision", "sent", "bytes", "state"]]
    for upload in result:
        revision = f"{upload['repository']}@{upload['commit'] or '?'}"
        rows.append(
            [str(upload["number"]), revision, upload["begun"][:10], f"{upload['bytes']:,}", _state(upload)]
        )
    return table(rows)


def _state(upload: Mapping[str, Any]) -> str:
    if upload["taken_down"]:
        return f"taken down {upload['taken_down'][:10]}"
    if upload["superseded"]:
        return "TAKE DOWN"
    return "current" if upload["commit"] else "see there whether it arrived"
