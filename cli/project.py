"""Commands about a project as a whole, and about this installation."""

from pathlib import Path
from typing import Annotated

import typer

from qmu_edge.cli.options import JsonOption, ProjectOption, QuietOption, progress, show


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project.")] = Path("."),
    dataset: Annotated[
        str,
        typer.Option(
            help="An image folder, a csv, parquet, tar or npz file, torchvision:NAME, plugin:NAME, or digits."
        ),
    ] = "digits",
    recipe: Annotated[
        str | None, typer.Option(help="Name of a shipped recipe, or a TOML file; else one for photographs.")
    ] = None,
    data_path: Annotated[
        Path | None, typer.Option(help="Where torchvision keeps downloads; what a plug-in is given.")
    ] = None,
    subjects: Annotated[Path | None, typer.Option(help="CSV file: sample,subject.")] = None,
    previous: Annotated[
        Path | None, typer.Option(help="An earlier project of the same data: its deletions stay deleted.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A Python file that makes the network, which will be run; or an architecture."),
    ] = None,
    weights_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="OWNER/NAME@COMMIT:FILE",
            help="Weights (safetensors) of a Hugging Face Hub, fetched into the folder for adopt.",
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 that the file of --from must have.")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Register a dataset and make a project."""
    from qmu_edge import api

    show(
        api.init(
            folder, dataset=dataset, recipe=recipe, data_path=data_path, subjects=subjects,
            previous=previous, model=model, weights_from=weights_from, sha256=sha256,
            progress=progress(quiet),
        ),
        json,
    )  # fmt: skip


def status(project: ProjectOption = None, json: JsonOption = False) -> None:
    """Where the project stands, and which requests are open."""
    from qmu_edge import api
    from qmu_edge.cli import render

    show(api.status(project), json, render.status)


def purge(
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the retention window.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Remove superseded checkpoints and what deleted people have left in the store."""
    from qmu_edge import api
    from qmu_edge.cli import render

    as_text = render.purge_previewed if dry_run else render.purged
    show(api.purge(project, now=now, dry_run=dry_run), json, as_text)


def doctor(
    project: ProjectOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Do what is safe to do.")] = False,
    json: JsonOption = False,
) -> None:
    """Versions, GPU, and the integrity of everything stored; exit code 4 or 8 when something is wrong."""
    from qmu_edge import api
    from qmu_edge.errors import IntegrityError, LedgerError

    result = api.doctor(project, repair=repair)
    show(result, json)
    if problems := result["problems"]:
        wrong = IntegrityError if result["ledger_holds"] else LedgerError
        raise wrong(f"{len(problems)} problems, the first: {problems[0]}")


def confirm(
    what: Annotated[
        str, typer.Argument(help="A Python file, which you have read; or KIND:NAME of a plug-in.")
    ],
    json: JsonOption = False,
) -> None:
    """Let a model file or a plug-in be run where a project on this machine names it; `init` does so too."""
    from qmu_edge import api

    show(api.confirm(what), json)


def methods(
    name: Annotated[str | None, typer.Argument(help="This one only, also of another package.")] = None,
    json: JsonOption = False,
) -> None:
    """The unlearning methods."""
    from qmu_edge import api

    show(api.methods(name), json)


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this one, or a TOML file, with every value written out.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """The recipes that come with the package."""
    from qmu_edge import api

    found = api.recipes(name)
    if name is None or json:
        show(found, json)
    else:
        show(found["toml"].strip().splitlines(), json, "\n".join)


def demo(
    folder: Annotated[Path, typer.Argument(help="Where; made when missing.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the noise in the images and of all training.")] = 0,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train on noisy digits, delete one person, and see what is left, beside retraining."""
    from qmu_edge.api.demo import demo as run
    from qmu_edge.cli import render

    show(run(folder, seed=seed, progress=progress(quiet)), json, render.demo)
