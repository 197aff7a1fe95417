"""Commands that compute: `train`, `adopt`, `unlearn`, `export`, `verify`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qmu_edge.cli.options import (
    BudgetOption,
    DeterministicOption,
    DeviceOption,
    JsonOption,
    ProfileOption,
    ProjectOption,
    QuietOption,
    WaitOption,
    profiled,
    progress,
    show,
)


def train(
    project: ProjectOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where a network was released: this one takes its place.")
    ] = False,
    wait_s: WaitOption = 0,
    profile: ProfileOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train the recipe's network; continues after a kill."""
    from qmu_edge import api
    from qmu_edge.cli import render

    with profiled(quiet, profile) as shown:
        result = api.train(
            project,
            device=device,
            deterministic=deterministic,
            replace=replace,
            wait_s=wait_s,
            progress=shown,
        )
    show(result, json, render.trained)


def adopt(
    weights: Annotated[Path, typer.Argument(help="safetensors, a state_dict of torch.save, or .onnx.")],
    trained_on: Annotated[
        str,
        typer.Option(help="registered: all images but the test images; or a file, a sample id in each line."),
    ],
    names: Annotated[
        Path | None, typer.Option(help='TOML file, our name = "their name", where names differ.')
    ] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Weights that the method retrain starts from.")
    ] = None,
    project: ProjectOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    wait_s: WaitOption = 0,
    profile: ProfileOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Take weights that were trained elsewhere, in place of training; quantize them."""
    from qmu_edge import api
    from qmu_edge.cli import render

    with profiled(quiet, profile) as shown:
        result = api.adopt(
            weights, project, trained_on=trained_on, names=names, pretrained=pretrained, device=device,
            deterministic=deterministic, wait_s=wait_s, progress=shown,
        )  # fmt: skip
    show(result, json, render.trained)


def unlearn(
    request: Annotated[Path | None, typer.Option(help="The deletion request (JSON).")] = None,
    pending: Annotated[bool, typer.Option("--pending", help="All open requests in one run.")] = False,
    method: Annotated[
        str | None, typer.Option(help="The only one to try, instead of the policy's rungs.")
    ] = None,
    budget_s: BudgetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted, how, and in what time.")
    ] = False,
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

    with profiled(quiet, profile) as shown:
        result = api.unlearn(
            request, project, pending=pending, method=method, budget_s=budget_s, dry_run=dry_run,
            device=device, deterministic=deterministic, wait_s=wait_s, progress=shown,
        )  # fmt: skip
    text = render.pending if pending else render.served
    show(result, json, render.previewed if dry_run else text)
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


def export(
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="integer, packed, qcdq, qonnx; repeatable, or with commas; else what the target reads."
        ),
    ] = None,
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

    formats = [name.strip() for given in format or () for name in given.split(",")]
    show(
        api.export(
            project, formats=formats, target=target, dtype=input, layout=layout, batch=batch, out=out,
            bundle=bundle, cost=cost, wait_s=wait_s, progress=progress(quiet),
        ),
        json,
    )  # fmt: skip


def verify(
    model: Annotated[Path, typer.Argument(help="The exported file.")],
    data_out: Annotated[
        Path | None, typer.Option(help="Folder for what a device needs for the same verdict: with pictures.")
    ] = None,
    project: ProjectOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Check an exported file under onnxruntime; exit code 7 when a threshold is missed."""
    from qmu_edge import api
    from qmu_edge.cli import render
    from qmu_edge.errors import VerificationFailed

    result = api.verify(model, project, data_out=data_out, progress=progress(quiet))
    show(result, json, render.verified)
    if not result["passed"]:
        raise VerificationFailed(f"{model}: a threshold is not met")
