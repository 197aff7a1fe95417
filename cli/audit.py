"""`qmu-edge audit`: the strongest attacks that a project can afford, on the file of a request."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qmu_edge.cli.options import (
    BudgetOption,
    DeterministicOption,
    DeviceOption,
    JsonOption,
    ProjectOption,
    QuietOption,
    WaitOption,
    progress,
    show,
)
from qmu_edge.cli.render import table


def audit(
    request: Annotated[
        str | None, typer.Argument(help="Id of the request; that of the current receipt when absent.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Only this one; repeatable. --dry-run names them.")
    ] = None,
    budget_s: BudgetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what each attack is expected to take.")
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Write heat maps of a few images that stay into this HTML file, which shows them."),
    ] = None,
    show_forgotten: Annotated[
        bool, typer.Option("--show-forgotten", help="Show forgotten images in that file as well.")
    ] = False,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    project: ProjectOption = None,
    wait_s: WaitOption = 0,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Attack the file of a fulfilled request, for its report; never a gate. Continues after a kill."""
    from qmu_edge import api

    result = api.audit(
        request, project, attacks=attack or (), budget_s=budget_s, dry_run=dry_run,
        pictures=pictures, show_forgotten=show_forgotten, device=device, deterministic=deterministic,
        wait_s=wait_s, progress=progress(quiet),
    )  # fmt: skip
    show(result, json, lambda shown: "\n".join(_lines(shown)))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"request {result['request']}, {result['file']}"
    rows = [["attack", "state", "expected s", "took s"]]
    for name, attack in result["attacks"].items():
        expected = attack["expected_seconds"]
        took = f"{attack['seconds']:.1f}" if "seconds" in attack else "-"
        rows.append([name, attack["state"], "unknown" if expected is None else f"{expected:.1f}", took])
    yield table(rows)
    for name, attack in result["attacks"].items():
        yield f"\n{name}: {attack['summary']}"
        if attack.get("without"):
            yield f"  nothing can be said: {attack['without']}"
        elif "findings" in attack:
            yield table([_HEAD, *map(_row, attack["findings"])])


_HEAD = ["  what", "original", "this file", "never saw them"]


def _row(finding: Mapping[str, Any]) -> list[str]:
    name = " ".join(filter(None, (finding["part"], finding["quantity"])))
    return [f"  {name}", *(_told(finding[of]) for of in ("original", "file", "unknowing"))]


def _told(estimate: Mapping[str, Any] | None) -> str:
    """A number with its interval.

    >>> _told({"value": 0.5, "low": 0.25, "high": 0.75}), _told(None)
    ('0.5 (0.25 to 0.75)', '-')
    """
    if estimate is None:
        return "-"
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return f"{value:.4g}" if low is None else f"{value:.4g} ({low:.4g} to {high:.4g})"
