"""`qmu-edge`: arguments in, one call, one result out.

Imports of the project stand inside the commands, so that `--help` answers without torch or pydantic.
The one place that turns errors into exit codes is `main`.
"""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ModuleNotFoundError:  # a device has the verifier only
    sys.exit('the command line needs: pip install "qmu-edge[cli]"; a device runs python -m qmu_edge.verify')

from qmu_edge.cli import requests
from qmu_edge.cli.options import (
    BudgetOption,
    DeterministicOption,
    DeviceOption,
    JsonOption,
    ProfileOption,
    ProjectOption,
    QuietOption,
    WaitOption,
)
from qmu_edge.cli.options import profiled as _profiled
from qmu_edge.cli.options import progress as _progress
from qmu_edge.cli.options import show as _show

app = typer.Typer(
    name="qmu-edge", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Remove a person's data from a quantized image classifier, and show it on the exported file.",
)  # fmt: skip
receipt_app = typer.Typer(no_args_is_help=True, help="Erasure receipts.", rich_markup_mode=None)
keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign receipts.", rich_markup_mode=None)
app.add_typer(requests.app, name="request")
app.add_typer(receipt_app, name="receipt")
app.add_typer(keys_app, name="keys")

INTERRUPTED = 130


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project.")] = Path("."),
    dataset: Annotated[
        str,
        typer.Option(help="digits, cifar10, cifar100, svhn, fashion_mnist, or an image folder."),
    ] = "digits",
    recipe: Annotated[
        str, typer.Option(help="Name of a shipped recipe, or a TOML file.")
    ] = "digits-resnet18-w4a4",
    data_path: Annotated[Path | None, typer.Option(help="Where torchvision keeps downloads.")] = None,
    subjects: Annotated[Path | None, typer.Option(help="CSV file: sample,subject.")] = None,
    previous: Annotated[
        Path | None, typer.Option(help="An earlier project of the same data: its deletions stay deleted.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A Python file that makes the network; it will be run.")
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Register a dataset and make a project."""
    from qmu_edge import api

    _show(
        api.init(
            folder, dataset=dataset, recipe=recipe, data_path=data_path, subjects=subjects,
            previous=previous, model=model, progress=_progress(quiet),
        ),
        json,
    )  # fmt: skip


@app.command()
def train(
    project: ProjectOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    wait_s: WaitOption = 0,
    profile: ProfileOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train the recipe's network; continues after a kill."""
    from qmu_edge import api
    from qmu_edge.cli import render

    with _profiled(quiet, profile) as progress:
        result = api.train(
            project, device=device, deterministic=deterministic, wait_s=wait_s, progress=progress
        )
    _show(result, json, render.trained)


@app.command()
def unlearn(
    request: Annotated[Path | None, typer.Option(help="The deletion request (JSON).")] = None,
    pending: Annotated[bool, typer.Option("--pending", help="All open requests in one run.")] = False,
    method: Annotated[
        str | None, typer.Option(help="The only one to try, instead of the policy's rungs.")
    ] = None,
    budget_s: BudgetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    project: ProjectOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    wait_s: WaitOption = 0,
    profile: ProfileOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Serve deletion requests: unlearn, re-quantize, export, verify, receipt."""
    from qmu_edge import api
    from qmu_edge.cli import render

    with _profiled(quiet, profile) as progress:
        result = api.unlearn(
            request, project, pending=pending, method=method, budget_s=budget_s, dry_run=dry_run,
            device=device, deterministic=deterministic, wait_s=wait_s, progress=progress,
        )  # fmt: skip
    text = render.pending if pending else render.served
    _show(result, json, render.plain if dry_run else text)
    if pending and not dry_run:
        _require_all_served(result)


def _require_all_served(result: Any) -> None:
    """End with the code of the first batch that failed, or with 3 when a request waits for a person."""
    from qmu_edge.errors import QmuEdgeError, RequestError

    if result["failed"]:
        first = result["failed"][0]
        kind = next(c for c in QmuEdgeError.__subclasses__() if c.exit_code == first["exit_code"])
        raise kind(f"{len(result['failed'])} batches failed, the first: {first['error']}")
    if result["waiting"]:
        raise RequestError(f"{len(result['waiting'])} open requests wait for a person: qmu-edge status")


@app.command()
def export(
    format: Annotated[
        str, typer.Option(help="Comma-separated: integer, packed, qcdq, qonnx; else what the target reads.")
    ] = "",
    target: Annotated[
        str, typer.Option(help="onnxruntime, openvino, tensorrt, finn, hls4ml.")
    ] = "onnxruntime",
    input: Annotated[str, typer.Option(help="float32 (0..1) or uint8.")] = "float32",
    layout: Annotated[str, typer.Option(help="NCHW or NHWC.")] = "NCHW",
    batch: Annotated[int | None, typer.Option(min=1, help="A fixed batch size.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; without it the files become `release`.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder for a bundle, and .tar beside it.")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Bit operations and memory of one image.")] = False,
    project: ProjectOption = None,
    wait_s: WaitOption = 0,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Export the current checkpoint through all gates."""
    from qmu_edge import api

    formats = [name.strip() for name in format.split(",") if format]
    _show(
        api.export(
            project, formats=formats, target=target, dtype=input, layout=layout, batch=batch, out=out,
            bundle=bundle, cost=cost, wait_s=wait_s, progress=_progress(quiet),
        ),
        json,
    )  # fmt: skip


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="The exported file.")],
    project: ProjectOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Check an exported file under onnxruntime; exit code 7 when a threshold is missed."""
    from qmu_edge import api
    from qmu_edge.cli import render
    from qmu_edge.errors import VerificationFailed

    result = api.verify(model, project, progress=_progress(quiet))
    _show(result, json, render.verified)
    if not result["passed"]:
        raise VerificationFailed(f"{model}: a threshold is not met")


@app.command()
def status(project: ProjectOption = None, json: JsonOption = False) -> None:
    """Where the project stands, and which requests are open."""
    from qmu_edge import api
    from qmu_edge.cli import render

    _show(api.status(project), json, render.status)


@app.command()
def purge(
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the retention window.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Remove superseded checkpoints and what deleted people have left in the store."""
    from qmu_edge import api
    from qmu_edge.cli import render

    _show(api.purge(project, now=now, dry_run=dry_run), json, None if dry_run else render.purged)


@receipt_app.command("show")
def receipt_show(
    path: Annotated[Path | None, typer.Argument(help="The receipt; the current one when absent.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show a receipt."""
    from qmu_edge import api
    from qmu_edge.cli import render

    _show(api.receipt_show(path, project), json, render.receipt)


@receipt_app.command("verify")
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

    result = api.receipt_verify(
        path, project, files=file or (), digests=sha256 or (), previous=previous or (), trusted_keys=key or ()
    )
    _show(result, json)


@receipt_app.command("schema")
def receipt_schema(json: JsonOption = False) -> None:
    """Print the JSON Schema of a receipt's statement, the payload of its envelope."""
    from qmu_edge import api

    _show(api.receipt_schema(), True)


@keys_app.command("list")
def keys_list(project: ProjectOption = None, json: JsonOption = False) -> None:
    """The project's public keys and their time."""
    from qmu_edge import api

    _show(api.keys_list(project), json)


@keys_app.command("rotate")
def keys_rotate(
    reason: Annotated[str, typer.Option(help="rotated, lost or compromised.")] = "rotated",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Put a new key in use; the private half of the one before is deleted."""
    from qmu_edge import api

    _show(api.keys_rotate(project, reason=reason), json)


@keys_app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(help="Its name; see qmu-edge keys list.")],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Declare a key that is out of use compromised."""
    from qmu_edge import api

    _show(api.keys_revoke(name, project), json)


@keys_app.command("export")
def keys_export(
    name: Annotated[str | None, typer.Argument(help="Its name; the one in use when absent.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Required: private keys never leave.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write it there instead of stdout.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Print a public key (PEM), for those who check receipts and bundles."""
    from qmu_edge import api

    result = api.keys_export(name, project, public=public, out=out)
    _show(result, json, lambda r: str(out) if out else r["pem"].rstrip())


@app.command()
def methods(json: JsonOption = False) -> None:
    """The unlearning methods."""
    from qmu_edge import api

    _show(api.methods(), json)


@app.command()
def recipes(json: JsonOption = False) -> None:
    """The recipes that come with the package."""
    from qmu_edge import api

    _show(api.recipes(), json)


@app.command()
def doctor(
    project: ProjectOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Do what is safe to do.")] = False,
    json: JsonOption = False,
) -> None:
    """Versions, GPU, and the integrity of everything stored; exit code 4 or 8 when something is wrong."""
    from qmu_edge import api
    from qmu_edge.errors import IntegrityError, LedgerError

    result = api.doctor(project, repair=repair)
    _show(result, json)
    if problems := result["problems"]:
        wrong = IntegrityError if result["ledger_holds"] else LedgerError
        raise wrong(f"{len(problems)} problems, the first: {problems[0]}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where; made when missing.")] = Path("demo"),
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train on digits, delete one person, verify beside a retrained reference."""
    from qmu_edge.api.demo import demo as run
    from qmu_edge.cli import render

    _show(run(folder, progress=_progress(quiet)), json, render.demo)


def main() -> None:
    """Run the command line; deliberate errors become one line and their exit code."""
    from qmu_edge.errors import ConfigError, QmuEdgeError

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
