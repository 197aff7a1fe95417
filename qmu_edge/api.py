"""The commands as Python functions, under the same names; the command line is a thin layer over them.

Each takes plain values, returns a dictionary that is ready for JSON, and raises the errors of
`qmu_edge.errors`. Imports of torch stand inside the functions that need it, so that `status` and
`receipt_verify` answer at once.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qmu_edge.desk import (
    request_add,
    request_approve,
    request_deny,
    request_extend,
    request_list,
    request_new,
    request_withdraw,
)
from qmu_edge.errors import ConfigError
from qmu_edge.notary import (
    keys_export,
    keys_list,
    keys_revoke,
    keys_rotate,
    receipt_schema,
    receipt_show,
    receipt_verify,
)
from qmu_edge.own_model import adopt
from qmu_edge.progress import Progress
from qmu_edge.project import Project, create, find, opened
from qmu_edge.publication import papers, publish
from qmu_edge.recipe import Recipe, parse_recipe, recipe_text, shipped_recipes
from qmu_edge.request import load_request

__all__ = (
    "doctor", "export", "init", "keys_export", "keys_list", "keys_revoke", "keys_rotate", "methods",
    "purge", "receipt_schema", "receipt_show", "receipt_verify", "recipes", "request_add", "request_approve",
    "request_deny", "request_extend", "request_list", "request_new", "request_withdraw", "status", "train",
    "unlearn", "verify",
)  # fmt: skip
SOURCES = ("digits", "cifar10", "cifar100", "svhn", "fashion_mnist")


def init(
    folder: Path,
    *,
    dataset: str = "digits",
    recipe: str = "digits-resnet18-w4a4",
    data_path: Path | None = None,
    subjects: Path | None = None,
    previous: Path | None = None,
    model: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Register a dataset and make a project of `folder`.

    Args:
        folder: The user's folder.
        dataset: One of `SOURCES`, or a folder with `train/<class>/*` and `test/<class>/*`.
        recipe: Name of a shipped recipe, or a TOML file.
        data_path: Where torchvision keeps its downloads.
        subjects: CSV file `sample,subject`.
        previous: An earlier project of the same data: what was deleted there is refused here.
        model: A Python file that makes the network: it is copied, and run by whatever needs the network.
        progress: Silent when None.
    """
    found = parse_recipe(recipe_text(recipe), recipe)
    values = found.data.model_dump()
    if dataset in SOURCES:
        values.update(source=dataset, path=str(data_path.resolve()) if data_path else None)
    elif Path(dataset).is_dir():
        values.update(source="folder", path=str(Path(dataset).resolve()))
    else:
        raise ConfigError(f"dataset {dataset!r}: no such folder, and not one of {', '.join(SOURCES)}")
    network, source = adopt(found.model, model)
    chosen = Recipe.model_validate({**found.model_dump(), "data": values, "model": network.model_dump()})
    made = create(folder, chosen, subjects, progress or Progress(), previous=previous, model=source)
    return {"project": str(folder), **made}


def train(
    project: Path | None = None,
    *,
    device: str = "auto",
    deterministic: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the recipe's network on all samples that no request has deleted; continues after a kill.

    `wait_s` is how long to wait for another process that holds the project; `deterministic` allows only
    operations that compute the same bits again.
    """
    from qmu_edge.determinism import determinism
    from qmu_edge.training import train_project

    with _project(project, progress, wait_s) as opened_project, determinism(deterministic):
        return train_project(opened_project, device)


def unlearn(
    request: Path | None = None,
    project: Path | None = None,
    *,
    pending: bool = False,
    method: str | None = None,
    budget_s: float | None = None,
    dry_run: bool = False,
    device: str = "auto",
    deterministic: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Serve a deletion request, or all open ones: unlearn, re-quantize, export, verify, receipt.

    Args:
        request: The file. Either this or `pending`.
        project: Its folder; found upwards from here when None.
        pending: All open requests in one run, a receipt for each.
        method: The only one to try, instead of the policy's rungs.
        budget_s: No further rung begins after so many seconds.
        dry_run: Only say what would be deleted.
        device: "auto", "cpu" or "cuda".
        deterministic: Allow only operations that compute the same bits again.
        wait_s: How long to wait for another process that holds the project.
        progress: Silent when None.
    """
    if (request is None) != pending:
        raise ConfigError("unlearn needs either --request FILE or --pending")
    with _project(project, progress, wait_s) as found:
        parsed = load_request(request, key=found.key) if request is not None else None
        from qmu_edge import preview, serving
        from qmu_edge.determinism import determinism
        from qmu_edge.ladder import Effort
        from qmu_edge.release import device_named

        effort = Effort(device=device_named(device), method=method, budget_s=budget_s)
        with determinism(deterministic):
            if parsed is None:
                if dry_run:
                    return preview.preview_pending(found, method)
                return serving.serve_pending(found, effort)
            if dry_run:
                return preview.preview_request(found, parsed, method)
            return serving.serve(found, parsed, effort)


def export(
    project: Path | None = None,
    *,
    formats: Sequence[str] = (),
    target: str = "onnxruntime",
    dtype: str = "float32",
    layout: str = "NCHW",
    batch: int | None = None,
    out: Path | None = None,
    bundle: Path | None = None,
    cost: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Export the current checkpoint through all gates.

    The files go to `out` or into a bundle; without either they become the project's `release`.

    Args:
        project: Folder of the project.
        formats: integer, packed, qcdq, qonnx; what the target reads when empty.
        target: onnxruntime, openvino, tensorrt, finn or hls4ml.
        dtype: Of the file's input: float32 (0..1) or uint8.
        layout: Of the file's input: NCHW or NHWC.
        batch: A fixed batch size; any when None.
        out: Folder for the files.
        bundle: Folder for a bundle, which must not exist; its archive goes beside it.
        cost: Analyse the QONNX file: bit operations and memory of one image.
        wait_s: How long to wait for another process that holds the project.
        progress: Where to count.
    """
    from qmu_edge.export import Camera
    from qmu_edge.export.qonnx import inference_cost
    from qmu_edge.export.targets import target_named
    from qmu_edge.release import RELEASED, bundle_files, copy_files, make_release

    taken = target_named(target, tuple(formats)).formats
    chosen = tuple(formats) or tuple(f for f in RELEASED if f in taken)
    options = {"target": target, "camera": Camera.of(dtype, layout), "batch": batch}
    with _project(project, progress, wait_s) as found:
        with found.held():
            digest, release = make_release(found, found.current("checkpoint"), chosen, **options)
            if bundle is not None:
                paths = bundle_files(found, release, bundle, papers(found, release)[0])
            elif out is not None:
                paths = copy_files(found, release, out)
            else:
                found.ledger.set_current("release", digest)
                link = publish(found, digest, *papers(found, release))
                paths = [link / name for name in release["files"]]
        analysed = inference_cost(_qonnx_of(found, release)) if cost else None
        return {
            "checkpoint": release["checkpoint"], "files": {p.name: str(p) for p in paths},
            "sha256": release["files"], "bytes": release["bytes"], "parity": release["parity"],
            "levels": release["levels"], "cost": analysed,
        }  # fmt: skip


def _qonnx_of(project: Project, release: dict[str, Any]) -> bytes:
    from qmu_edge.export import FILES

    if FILES["qonnx"] not in release["files"]:
        raise ConfigError("--cost is measured on the QONNX file; add --format qonnx")
    return project.store.get_bytes(release["files"][FILES["qonnx"]], limit=4 << 30)


def verify(model: Path, project: Path | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Check an exported file: structure, latent weights, and its accuracies on the project's data.

    Without a project only the file itself is checked. `passed` is false when a threshold is missed.
    """
    if project is None:
        try:
            project = find(Path.cwd())
        except ConfigError:
            from qmu_edge.verify.__main__ import describe
            from qmu_edge.verify.onnx_file import read

            return describe(read(model))
    from qmu_edge.checking import check_against_project

    with _project(project, progress) as found:
        return check_against_project(found, model)


def status(project: Path | None = None) -> dict[str, Any]:
    """Where the project stands: current objects, requests with their deadlines, what comes next."""
    from qmu_edge.planning import standing

    with _project(project, None) as found:
        ledger = found.ledger
        requests = standing(found, datetime.now(UTC))
        return {
            "project": str(found.root),
            "dataset": found.recipe.data.source,
            "samples": ledger.sample_count(),
            "deleted": len(ledger.tombstones()),
            **{name: ledger.current(name) for name in ("checkpoint", "release", "receipt")},
            "open": sum(r["next"] is not None for r in requests),
            "overdue": sum(r["overdue"] for r in requests),
            "requests": requests,
        }


def purge(project: Path | None = None, *, now: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Remove superseded checkpoints and everything else made of deleted data, after the retention window.

    Args:
        project: Folder of the project.
        now: Do not wait for the window; what is current or needed by an open request stays.
        dry_run: Only say what would be removed, and each request's checklist.
    """
    from qmu_edge.purge import preview
    from qmu_edge.purge import purge as run

    moment = datetime.now(UTC)
    with _project(project, None) as found:
        if dry_run:
            return preview(found, moment, at_once=now)
        with found.held():
            return run(found, moment, at_once=now)


def methods() -> dict[str, Any]:
    """The unlearning methods: category, summary, image sets, parameter groups, default parameters."""
    from qmu_edge.unlearn import METHODS, parameters

    return {
        name: {
            "category": m.category, "summary": m.summary,
            "reads": sorted(m.reads), "touches": sorted(m.touches),
            "parameters": _defaults(parameters(name, {}, Recipe().train)),
        }
        for name, m in METHODS.items()
    }  # fmt: skip


def _defaults(params: Any) -> dict[str, Any]:
    names = params.__dataclass_fields__
    return {n: "the recipe's [train]" if n == "train" else getattr(params, n) for n in names}


def recipes() -> dict[str, str]:
    """The recipes that come with the package."""
    return shipped_recipes()


def doctor(project: Path | None = None, *, repair: bool = False) -> dict[str, Any]:
    """Versions, GPU, and the integrity of everything that a project stores; see `qmu_edge.doctor`.

    Args:
        project: Its folder; found upwards from here when None, and without one only versions are told.
        repair: Do what is safe to do about the problems.
    """
    from qmu_edge.doctor import examine, machine

    try:
        root = find(project or Path.cwd())
    except ConfigError:
        return {**machine(), "problems": []}
    return {**machine(), "project": str(root), **examine(root, repair=repair)}


def _project(
    folder: Path | None, progress: Progress | None, wait_s: float = 0.0
) -> AbstractContextManager[Project]:
    return opened(find(folder or Path.cwd()), progress or Progress(), wait_s)
