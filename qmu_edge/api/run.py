"""The commands that compute: train, adopt, references build, unlearn, export, verify, audit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

from qmu_edge.api.project import _project
from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import AnyPath, may_write, path_of
from qmu_edge.io.progress import Progress
from qmu_edge.project.plain import References, Training
from qmu_edge.project.project import Project, find, opened, search
from qmu_edge.project.records import Release
from qmu_edge.request.document import load_request
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.plain import ParityJson, VerificationJson

if TYPE_CHECKING:
    from qmu_edge.pipeline.adopt_run import AdoptedNetwork
    from qmu_edge.pipeline.audit_run import Audited
    from qmu_edge.pipeline.dry_run import PendingPreview, Preview
    from qmu_edge.pipeline.fulfilled import Fulfilled, FulfilledPending


def train(
    project: AnyPath | None = None,
    *,
    device: str = "auto",
    deterministic: bool = False,
    replace: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> Training:
    """Train the recipe's network on all samples that no request has deleted; continues after a kill.

    Where a network was released, another one takes its place only with `replace`.
    `wait_s` is how long to wait for another process that holds the project; `deterministic` allows only
    operations that compute the same bits again.
    """
    from qmu_edge.pipeline.train_run import train_project
    from qmu_edge.runtime.determinism import determinism

    with _working(project, progress, wait_s, rungs=True) as found, determinism(deterministic):
        return train_project(found, device, replace=replace)


def adopt(
    weights: AnyPath,
    project: AnyPath | None = None,
    *,
    trained_on: AnyPath,
    names: AnyPath | None = None,
    pretrained: AnyPath | None = None,
    device: str = "auto",
    deterministic: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> "AdoptedNetwork":
    """Make a network that was trained elsewhere the current checkpoint, in place of training.

    Args:
        weights: safetensors, or a state_dict of `torch.save`.
        project: Its folder; found upwards from here when None.
        trained_on: "registered" for every image that is not a test image, or a file with an id in each line:
            what is not declared cannot be unlearned.
        names: TOML file `our name = "their name"`, of tensors or modules whose names differ.
        pretrained: Weights that the method retrain starts from; from scratch when None.
        device: "auto", "cpu" or "cuda".
        deterministic: Allow only operations that compute the same bits again.
        wait_s: How long to wait for another process that holds the project.
        progress: Silent when None.
    """
    from qmu_edge.pipeline.adopt_run import adopt_project
    from qmu_edge.pipeline.adoption import Given
    from qmu_edge.runtime.determinism import determinism

    given = Given(
        weights=Path(weights), trained_on=str(trained_on), names=path_of(names),
        pretrained=path_of(pretrained),
    )  # fmt: skip
    with _working(project, progress, wait_s) as found, determinism(deterministic):
        return adopt_project(found, given, device)


def references_build(
    project: AnyPath | None = None,
    *,
    device: str = "auto",
    deterministic: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> References:
    """Train the references that are missing or know somebody who was deleted; continues after a kill."""
    from qmu_edge.pipeline.references_run import prepare_references
    from qmu_edge.runtime.determinism import determinism

    with _working(project, progress, wait_s) as found, determinism(deterministic), found.locked():
        return prepare_references(found, device)


class Options(TypedDict, total=False):
    """How to fulfil requests, see `unlearn`."""

    method: str | None
    budget_s: float | None
    device: str
    deterministic: bool
    wait_s: float
    progress: Progress | None


@overload
def unlearn(
    request: AnyPath, project: AnyPath | None = None, *, pending: Literal[False] = False,
    dry_run: Literal[False] = False, **how: Unpack[Options],
) -> "Fulfilled": ...  # fmt: skip
@overload
def unlearn(
    request: AnyPath, project: AnyPath | None = None, *, pending: Literal[False] = False,
    dry_run: Literal[True], **how: Unpack[Options],
) -> "Preview": ...  # fmt: skip
@overload
def unlearn(
    request: None = None, project: AnyPath | None = None, *, pending: Literal[True],
    dry_run: Literal[False] = False, **how: Unpack[Options],
) -> "FulfilledPending": ...  # fmt: skip
@overload
def unlearn(
    request: None = None, project: AnyPath | None = None, *, pending: Literal[True], dry_run: Literal[True],
    **how: Unpack[Options],
) -> "PendingPreview": ...  # fmt: skip
@overload
def unlearn(
    request: AnyPath | None = None, project: AnyPath | None = None, *, pending: bool = False,
    dry_run: bool = False, **how: Unpack[Options],
) -> "Fulfilled | Preview | FulfilledPending | PendingPreview": ...  # fmt: skip
def unlearn(
    request: AnyPath | None = None,
    project: AnyPath | None = None,
    *,
    pending: bool = False,
    method: str | None = None,
    budget_s: float | None = None,
    dry_run: bool = False,
    device: str = "auto",
    deterministic: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> "Fulfilled | Preview | FulfilledPending | PendingPreview":
    """Serve a deletion request, or all open ones: unlearn, re-quantize, export, verify, receipt.

    Args:
        request: The file. Either this or `pending`.
        project: Its folder; found upwards from here when None.
        pending: All open requests in one run, a receipt for each.
        method: The only one to try, instead of the policy's rungs; that of another package is confirmed by
            naming it here.
        budget_s: No further rung begins after so many seconds, nor one that is expected to end later.
        dry_run: Only say what would be deleted, by which methods, and what each is expected to cost.
        device: "auto", "cpu" or "cuda".
        deterministic: Allow only operations that compute the same bits again.
        wait_s: How long to wait for another process that holds the project.
        progress: Silent when None.
    """
    if (request is None) != pending:
        raise ConfigError("unlearn needs either --request FILE or --pending")
    if method is not None:
        from qmu_edge.plugins.registry import confirm, installed

        if method in installed("method"):
            confirm("method", method)
    with _project(project, progress, wait_s) as found:
        parsed = load_request(Path(request), key=found.ids_key) if request is not None else None
        if dry_run:
            from qmu_edge.pipeline.dry_run import preview_pending, preview_request

            return preview_request(found, parsed, method) if parsed else preview_pending(found, method)
        from qmu_edge.pipeline.fulfil import fulfil, fulfil_pending
        from qmu_edge.pipeline.ladder import Effort
        from qmu_edge.pipeline.plugged import plugged
        from qmu_edge.runtime.determinism import determinism
        from qmu_edge.runtime.device import device_named

        effort = Effort(device=device_named(device), method=method, budget_s=budget_s)
        with plugged(found.recipe, found.ledger, found.root, found.progress), determinism(deterministic):
            return fulfil_pending(found, effort) if parsed is None else fulfil(found, parsed, effort)


class CostJson(TypedDict):
    """An `InferenceCost`."""

    bit_operations: float
    weight_bits: float
    activation_bits: float


class Exported(TypedDict):
    """Files that were exported.

    Attributes:
        checkpoint: Digest of the network.
        receipt: Digest of the receipt that names the files, or is about the same network; None where there is
            none.
        files, sha256, bytes: Path, digest and size of each file by its name.
        parity, levels: What the gates have found by format: agreement with the network, and the same by
            optimization level and thread count of onnxruntime.
        cost: Of one image; None unless asked for.
        same_bits: By format, whether the file computes the same on every processor, for people.
    """

    checkpoint: Sha256
    receipt: Sha256 | None
    files: dict[str, str]
    sha256: Mapping[str, Sha256]
    bytes: Mapping[str, int]
    parity: Mapping[str, ParityJson]
    levels: Mapping[str, Mapping[str, ParityJson]]
    cost: CostJson | None
    same_bits: dict[str, str]


def export(
    project: AnyPath | None = None,
    *,
    formats: Sequence[str] = (),
    target: str = "onnxruntime",
    dtype: str = "float32",
    layout: str = "NCHW",
    batch: int | None = None,
    out: AnyPath | None = None,
    bundle: AnyPath | None = None,
    cost: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> Exported:
    """Export the current checkpoint through all gates.

    The files go to `out` or into a bundle; without either they become the project's `release`. To `out` they
    go also from a project that may only be read.

    Args:
        project: Folder of the project.
        formats: integer, packed, qcdq, qonnx; what the target reads when empty.
        target: onnxruntime, openvino, tensorrt, finn or hls4ml.
        dtype: Of the file's input: float32 (0..1) or uint8.
        layout: Of the file's input: NCHW or NHWC.
        batch: A fixed batch size; any when None.
        out: Folder for the files.
        bundle: Folder for a bundle; its archive goes beside it. What a killed run has left there is
            completed, anything else is refused.
        cost: Analyse the QONNX file: bit operations and memory of one image.
        wait_s: How long to wait for another process that holds the project.
        progress: Where to count.
    """
    from qmu_edge.export.formats.qonnx import inference_cost
    from qmu_edge.export.input import InputSpec
    from qmu_edge.export.targets import Format, target_named
    from qmu_edge.io.plain import to_json
    from qmu_edge.pipeline.release import RELEASED, bundle_files, copy_files, issued_with, make_release
    from qmu_edge.project.publish import papers_of, publish
    from qmu_edge.verify.render import same_bits

    consumer, spec = target_named(target), InputSpec.parse(dtype, layout)
    chosen = tuple(map(Format.parse, formats)) or tuple(f for f in RELEASED if f in consumer.formats)
    consumer.require(chosen)
    with _project(project, progress, wait_s) as found:
        reading = out is not None and bundle is None and not may_write(found.folder / "ledger.db")
        with _store_aside() if reading else found.locked() as aside:
            current, store = found.current(Pointer.CHECKPOINT), aside or found.store
            digest, release = make_release(
                found, current, chosen, target=consumer, input=spec, batch=batch, aside=aside
            )
            if bundle is not None:
                paths = bundle_files(
                    release, Path(bundle), ledger=found.ledger, store=found.store, recipe=found.recipe,
                    key=found.signing_key,
                )  # fmt: skip
            elif out is not None:
                paths = copy_files(store, release, Path(out))
            else:
                found.ledger.set_current(Pointer.RELEASE, digest)
                papers = papers_of(release, found.ledger, found.store)
                link = publish(found.root, found.store, digest, release, papers)
                paths = [link / name for name in release.files]
            issued, _ = issued_with(found.ledger, found.store, release)
            analysed = inference_cost(_qonnx_of(store, release)) if cost else None
        if issued.number and issued.receipt is None:
            found.progress.warn("no receipt covers this network: a device will say so, and not pass it")
        return {
            "checkpoint": release.checkpoint, "receipt": issued.receipt,
            "files": {p.name: str(p) for p in paths},
            "sha256": release.files, "bytes": release.sizes, "parity": release.parity,
            "levels": release.levels, "cost": to_json(analysed),
            "same_bits": {form: same_bits(about) for form, about in release.obstacles.items()},
        }  # fmt: skip


@contextmanager
def _working(
    folder: AnyPath | None, progress: Progress | None, wait_s: float, *, rungs: bool = False
) -> Iterator[Project]:
    """An open project, whose observers are told of the work; which imports the policy's `rungs`, or none."""
    from qmu_edge.pipeline.plugged import plugged

    with _project(folder, progress, wait_s) as found:
        with plugged(found.recipe, found.ledger, found.root, found.progress, rungs=rungs):
            yield found


@contextmanager
def _store_aside() -> Iterator[ObjectStore]:
    """Objects in a folder of their own, for a project that may only be read."""
    with TemporaryDirectory(prefix="qmu-edge-export-") as folder:
        yield ObjectStore(Path(folder))


def _qonnx_of(store: ObjectStore, release: Release) -> bytes:
    from qmu_edge.export.targets import Format

    if Format.QONNX.file_name not in release.files:
        raise ConfigError("--cost is measured on the QONNX file; add --format qonnx")
    return store.get_bytes(release.files[Format.QONNX.file_name], limit=4 << 30)


def verify(
    model: AnyPath,
    project: AnyPath | None = None,
    *,
    data_out: AnyPath | None = None,
    progress: Progress | None = None,
) -> VerificationJson:
    """Check an exported file: structure, latent weights, and its accuracies on the project's data.

    Without a project only the file itself is checked. `passed` is false when a threshold is missed.
    `data_out` is a folder for images and references: with them a device of yours comes to the same verdict.
    """
    root = find(project) if project else search()
    if root is None:
        from qmu_edge.verify.onnx.reader import read
        from qmu_edge.verify.verification import verify_structure

        return verify_structure(read(Path(model))).to_json()
    from qmu_edge.pipeline.verify_file import check_against_project

    with opened(root, progress or Progress()) as found:
        return check_against_project(found, Path(model), path_of(data_out))


def audit(
    request: str | None = None,
    project: AnyPath | None = None,
    *,
    attacks: Sequence[str] = (),
    budget_s: float | None = None,
    dry_run: bool = False,
    pictures: AnyPath | None = None,
    show_forgotten: bool = False,
    device: str = "auto",
    deterministic: bool = False,
    wait_s: float = 0.0,
    progress: Progress | None = None,
) -> "Audited":
    """Attack the file that a request was released with, for the report; no gate reads what is found.

    Args:
        request: Its id; that of the current receipt when None.
        project: Its folder; found upwards from here when None.
        attacks: Names, see `qmu_edge.audit.registry`; all when empty. What is stored is not computed again.
        budget_s: No further attack begins after so many seconds, nor one that is expected to end later.
        dry_run: Only say what each attack is expected to take.
        pictures: Where to write a page of heat maps of a few images that stay; it is kept nowhere.
        show_forgotten: Show forgotten images there as well.
        device: "auto", "cpu" or "cuda".
        deterministic: Allow only operations that compute the same bits again.
        wait_s: How long to wait for another process that holds the project.
        progress: Silent when None.
    """
    from qmu_edge.pipeline import audit_run
    from qmu_edge.pipeline.references import Bank
    from qmu_edge.runtime.determinism import determinism
    from qmu_edge.runtime.device import device_named

    page = path_of(pictures)
    if page is None and show_forgotten:
        raise ConfigError("--show-forgotten: say with --pictures into which file")
    if page is not None and dry_run:
        raise ConfigError("--pictures: nothing is computed in a dry run")
    if page is not None and not page.parent.is_dir():
        raise ConfigError(f"{page.parent}: no such folder")
    effort = audit_run.Effort(
        device=device_named(device), attacks=tuple(attacks), budget_s=budget_s, pictures=page,
        forgotten_too=show_forgotten,
    )  # fmt: skip
    with _project(project, progress, wait_s) as found, determinism(deterministic):
        with nullcontext() if dry_run else found.locked():
            return audit_run.audit(Bank.of(found), found.ledger, found.root, request, effort, dry_run=dry_run)
