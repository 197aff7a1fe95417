"""`qmu-edge request`: what may happen to a request besides being served."""

from pathlib import Path
from typing import Annotated

import typer

from qmu_edge.cli.options import Commands, JsonOption, ProjectOption, show

app = Commands(no_args_is_help=True, help="Deletion requests.", rich_markup_mode=None)
RequestId = Annotated[str, typer.Argument(help="Of a recorded request; see qmu-edge request list.")]


@app.command("new")
def request_new(
    subject: Annotated[list[str] | None, typer.Option(help="Whose data; repeatable.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="A sample id; repeatable.")] = None,
    class_: Annotated[list[str] | None, typer.Option("--class", help="A class name; repeatable.")] = None,
    regulation: Annotated[str, typer.Option(help="gdpr or ccpa.")] = "gdpr",
    requested_by: Annotated[str | None, typer.Option(help="Reference of who asks.")] = None,
    approved_by: Annotated[str | None, typer.Option(help="Reference of who approved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it there instead of stdout.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a valid erasure request (JSON)."""
    from qmu_edge import api
    from qmu_edge.errors import printable

    document = api.request_new(
        subject_ids=subject or (), sample_ids=sample or (), class_ids=class_ or (),
        regulation=regulation, requested_by=requested_by, approved_by=approved_by, out=out,
    )  # fmt: skip
    show(document, out is None or json, lambda _: printable(str(out)))


@app.command("add")
def request_add(
    request: Annotated[Path, typer.Argument(help="The deletion request (JSON).")],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Record a request without serving it; exit code 3 when nothing or only a part of it is known."""
    from qmu_edge import api

    show(api.request_add(request, project), json)


@app.command("list")
def request_list(
    open_only: Annotated[bool, typer.Option("--open", help="Only those still to be served.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """All requests with their dates, and what happens next."""
    from qmu_edge import api
    from qmu_edge.cli import render

    show(api.request_list(project, open_only=open_only), json, render.requests)


@app.command("approve")
def request_approve(
    request_id: RequestId,
    by: Annotated[str, typer.Option(help="Reference of who approves, like a ticket.")],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Let a request that waits for approval be served."""
    from qmu_edge import api

    show(api.request_approve(request_id, project, by=by), json)


@app.command("withdraw")
def request_withdraw(request_id: RequestId, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Close a request because the person took it back; not once its samples are barred."""
    from qmu_edge import api

    show(api.request_withdraw(request_id, project), json)


@app.command("deny")
def request_deny(
    request_id: RequestId,
    reason: Annotated[
        str,
        typer.Option(
            help="suspected_fraud, insuf_verification, no_match, claim_not_covered, outside_jurisdiction, "
            "too_many_requests, already_deleted or other."
        ),
    ],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Close a request that is not granted."""
    from qmu_edge import api

    show(api.request_deny(request_id, project, reason=reason), json)


@app.command("extend")
def request_extend(
    request_id: RequestId,
    reason: Annotated[str, typer.Option(help="complexity or number_of_requests.")],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Put the deadline off, once: GDPR by two months, CCPA by 45 days."""
    from qmu_edge import api

    show(api.request_extend(request_id, project, reason=reason), json)
