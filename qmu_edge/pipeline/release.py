"""From a checkpoint to files that ship.

A release is made once for a checkpoint and an export plan; whoever wants the same again finds it.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.attestation.results import TEST_RESULT
from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.errors import ConfigError
from qmu_edge.export.bundle import write_bundle
from qmu_edge.export.exporter import ExportPlan, export
from qmu_edge.export.input import InputSpec
from qmu_edge.export.outputs import keep_outputs
from qmu_edge.export.targets import ONNXRUNTIME, Format, Target
from qmu_edge.export.trace import trace
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import make_folder, write_atomic
from qmu_edge.io.plain import to_json
from qmu_edge.io.progress import Progress
from qmu_edge.models.deploy import deploy
from qmu_edge.pipeline.evaluate import (
    Seen,
    SetPositions,
    evaluate_file,
    measured_file,
    stored_file,
    thresholds_of,
)
from qmu_edge.pipeline.networks import MAX_BYTES, Networks
from qmu_edge.pipeline.papers import described, facts_of
from qmu_edge.project.project import Project
from qmu_edge.project.records import Measured, Release, Whole
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.receipt import receipt
from qmu_edge.recipe import Recipe
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.manifest import RECEIPT, Issued

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# What a release holds where nothing else is asked for.
RELEASED: Final = (Format.INTEGER, Format.PACKED, Format.QONNX)
# The name of an output whose class was deleted whole.
REMOVED: Final = "removed"


def make_release(
    project: Project,
    digest: Sha256,
    formats: tuple[Format, ...] = RELEASED,
    *,
    target: Target = ONNXRUNTIME,
    input: InputSpec | None = None,
    batch: int | None = None,
    aside: ObjectStore | None = None,
) -> tuple[Sha256, Release]:
    """Export a checkpoint, or find the release that was made of it before.

    Everything here runs on the CPU: that is where the file is compared with the network, and a GPU's
    shortened float32 products would be taken for a difference of the file.

    Args:
        project: Locked by the caller.
        digest: Of the checkpoint.
        formats: Of the files.
        target: Who reads the files.
        input: What the files take; float32 0..1, channels first, when None.
        batch: Fixed batch size; None for any.
        aside: Where everything goes when nothing of the project may change: it need not be locked then.

    Returns:
        The release and its digest.

    Raises:
        ConfigError: The target does not take a format.
        ExportError: A gate does not pass; no release is made.
    """
    networks, samples = Networks.of(project), project.samples
    names = networks.origin(digest).class_names
    plan = planned(
        names, samples, project.recipe,
        formats=formats, target=target, input=input or InputSpec(), batch=batch,
    )  # fmt: skip
    results, policy = project.results, project.recipe.policy
    named = plan.digest()
    known, store = None if aside else results.released(digest, named), aside or project.store
    if known:
        return known, results.release(known)
    project.progress.start("export", 0)
    model, _ = networks.load(digest)
    gated = partial(
        export, model, images=parity_images(samples, policy.parity_inputs),
        min_agreement=policy.min_agreement, min_inputs=policy.parity_inputs,
    )  # fmt: skip
    files, whole = gated(plan), None
    if plan.outputs is not None:
        (file,) = gated(with_all_outputs(plan, names))
        whole = Whole(file=store.put_released(file.data), outputs=plan.outputs)
    project.progress.finish(f"{len(files)} files")
    release = Release(
        checkpoint=digest,
        files={f.format.file_name: store.put_released(f.data) for f in files},
        sizes={f.format.file_name: len(f.data) for f in files},
        parity={f.format: to_json(f.parity) for f in files},
        levels={f.format: to_json(f.levels) for f in files},
        explained={f.format: to_json(f.arbitration) for f in files},
        gate={f.format: to_json(f.latent_weights) for f in files},
        obstacles={f.format: [*map(str, f.obstacles)] for f in files},
        whole=whole,
    )
    found = store.put_bytes(release.to_bytes())
    if aside is None:
        results.note_released(digest, named, found)
    return found, release


def shipped(
    digest: Sha256, networks: Networks, samples: ProjectSamples, recipe: Recipe, results: Results
) -> Release | None:
    """The release of a checkpoint as `make_release` makes it, where that was done before."""
    plan = planned(networks.origin(digest).class_names, samples, recipe)
    known = results.released(digest, plan.digest())
    return results.release(known) if known else None


def planned(names: Sequence[str], samples: ProjectSamples, recipe: Recipe, **options: Any) -> ExportPlan:
    """The options of an export of a checkpoint with these class names.

    A class may be a person, whose name goes with the images: no file carries it. By the policy none has an
    output for it either.
    """
    gone = emptied(samples.index, samples.barred())
    kept = tuple(label for label in range(len(names)) if label not in gone)
    plan = ExportPlan(class_names=blanked(names, kept), recipe=recipe.digest(), **options)
    if recipe.policy.deleted_class == "blank" or len(kept) == len(names):
        return plan
    return replace(plan, outputs=kept, class_names=tuple(names[label] for label in kept))


def with_all_outputs(plan: ExportPlan, names: Sequence[str]) -> ExportPlan:
    """The plan of the file that is measured in place of files from which outputs were taken out."""
    return ExportPlan(
        formats=(Format.INTEGER,), class_names=blanked(names, plan.outputs or ()), recipe=plan.recipe
    )


def emptied(index: SampleIndex, barred: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Labels of the classes of which every training image was deleted; `barred` (n,) says which were."""
    train = index.in_split(SampleSplit.TRAIN)
    return np.setdiff1d(index.labels[train & barred], index.labels[train & ~barred])


def blanked(names: Sequence[str], kept: Collection[int]) -> tuple[str, ...]:
    """Class names (k) in label order; those that are not kept are called "removed".

    >>> blanked(["ana", "bo"], [1])
    ('removed', 'bo')
    """
    return tuple(name if label in kept else REMOVED for label, name in enumerate(names))


def require_removable(networks: Networks, digest: Sha256, size: int) -> None:
    """Refuse a network of which no output can be taken out; `size` is the side of its images in pixels.

    Raises:
        ExportError: See `qmu_edge.export.outputs`.
    """
    model, _ = networks.load(digest)
    keep_outputs(trace(deploy(model, size), size), [0])


def parity_images(samples: ProjectSamples, wanted: int) -> np.ndarray:
    """Images of the parity gate, uint8 (wanted, c, h, w): never deleted ones.

    Shifted copies follow where the dataset is small.
    """
    kept = ~samples.barred() & ~samples.claimed()
    order = np.argsort(-samples.index.splits, kind="stable")  # test images first
    alive = samples.allowed(order[kept[order]][:wanted], "parity inputs")
    images = samples.images[alive]
    shifts = [np.roll(images, s, axis=(2, 3)) for s in range(1, -(-wanted // max(1, len(alive))))]
    return np.concatenate([images, *shifts])[: max(wanted, len(alive))]


def evaluate_release(
    store: ObjectStore,
    release: Release,
    samples: ProjectSamples,
    positions: SetPositions,
    *,
    flip: bool,
    progress: Progress,
) -> tuple[Measured, Seen]:
    """What the exported file of a release does on sets of samples, as `evaluate_file`; never the network.

    Raises:
        ConfigError: The release holds no file that onnxruntime can run.
        ExportError: A file from which outputs were taken out is otherwise not the one that was measured.
    """
    file, whole = stored_file(store, measured_file(release)), release.whole
    ships = [sha for name, sha in release.files.items() if name != Format.QONNX.file_name] if whole else []
    return evaluate_file(
        file, samples, positions, flip=flip, progress=progress,
        outputs=whole.outputs if whole else (), narrowed=[stored_file(store, sha) for sha in ships],
    )  # fmt: skip


def copy_files(store: ObjectStore, release: Release, out: Path) -> list[Path]:
    """Copy the files of a release into a folder of the user's."""
    try:
        make_folder(out, 0o755)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    paths = []
    for name, sha in release.files.items():
        write_atomic(out / name, store.get_bytes(sha, limit=MAX_BYTES))
        paths.append(out / name)
    return paths


def issued_with(ledger: Ledger, store: ObjectStore, release: Release) -> tuple[Issued, bytes | None]:
    """Where in the project's history the files of a release stand, and the receipt that covers them.

    A receipt covers the files that it names, and others of the checkpoint that it is about.
    """
    receipts = ledger.receipts()
    digest, data = ledger.current(Pointer.RECEIPT), None
    if digest is not None:
        data = store.get_bytes(digest)
        stated = receipt.loads(data, "receipt")
        named = set(stated.files.values()) >= set(release.files.values())
        if not named and stated.predicate.checkpoints.after != release.checkpoint:
            digest = data = None
    issued = Issued(
        number=receipts[-1].seq if receipts else 0,
        time=receipts[-1].issued if receipts else None,
        checkpoint=release.checkpoint,
        receipt=digest,
    )
    return issued, data


def bundle_files(
    release: Release,
    out: Path,
    *,
    ledger: Ledger,
    store: ObjectStore,
    recipe: Recipe,
    key: "Ed25519PrivateKey",
) -> list[Path]:
    """Write the files of a release as a bundle, with the receipt that covers them, and what others verify.

    Raises:
        ConfigError: No file of the release runs under onnxruntime, or `out` holds something else already.
    """
    model = next((name for name in release.files if name != Format.QONNX.file_name), None)
    if model is None:
        raise ConfigError(f"a bundle needs a file that onnxruntime can run; add --format {Format.INTEGER}")
    files = {n: store.get_bytes(sha, limit=MAX_BYTES) for n, sha in release.files.items()}
    issued, covering = issued_with(ledger, store, release)
    if covering is not None:
        files[RECEIPT] = covering
    if issued.receipt is not None and (result := ledger.papers_of(issued.receipt).get(TEST_RESULT)):
        files[TEST_RESULT] = store.get_bytes(result)
    files |= described(facts_of(release, recipe, covering))
    keys.note_model_key(ledger, key)
    policy = recipe.policy
    manifest = write_bundle(
        out, files, model=model, thresholds=thresholds_of(policy), min_agreement=policy.min_agreement,
        issued=issued, key=key,
    )  # fmt: skip
    return [out / name for name in manifest.files]
