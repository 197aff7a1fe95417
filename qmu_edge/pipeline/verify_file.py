"""Verify any exported file against a project's data.

A file that a receipt speaks of is measured again on that request's sets and judged as it was. Any
other file is measured on all data, without a verdict: "forget" is then everything that was ever deleted. Of a
file from which the outputs of deleted classes were taken out, the file with all outputs is measured, and it
must be the same otherwise.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import make_folder, write_atomic
from qmu_edge.io.plain import to_json
from qmu_edge.pipeline.comparison import MAX_BYTES, Comparison
from qmu_edge.pipeline.evaluate import Seen, evaluate_file, positions_of, stored_file, thresholds_of
from qmu_edge.project.project import Project
from qmu_edge.project.records import Release, Report, Whole
from qmu_edge.project.results import RELEASE, Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import PolicyRecipe
from qmu_edge.request.split import Split
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import FULFILLED, Step
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.arrays import OUTPUTS
from qmu_edge.verify.onnx.reader import read
from qmu_edge.verify.plain import VerificationJson
from qmu_edge.verify.verdict import Terms, Verdict, judge
from qmu_edge.verify.verification import verify_structure


@dataclass(frozen=True, slots=True)
class _Released:
    """The request whose network a file comes from; report and comparison are None when they are purged.

    `original` is the digest of the file before; `named` says whether the receipt names this very file.
    """

    request_id: str
    named: bool
    report: Report | None = None
    comparison: Comparison | None = None
    original: Sha256 | None = None


def check_against_project(project: Project, path: Path, data_out: Path | None = None) -> VerificationJson:
    """Structure, latent-weight gate, accuracies and verdict of one file.

    Args:
        project: Open.
        path: The file.
        data_out: Folder for what the same verdict needs on a device, see `device_arrays`; None for nothing.

    Raises:
        IntegrityError: There is no such file; see also `read`.
    """
    try:
        file = read(path)
    except IntegrityError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise IntegrityError(
            f"{path}: no such file: qmu-edge unlearn writes release/model.onnx, export --out any other"
        ) from None
    result = verify_structure(file).to_json()
    if file.is_qonnx:
        result["note"] = "a QONNX file has no operators in onnxruntime: structure and weights were checked"
        return result
    samples, recipe, whole = project.samples, project.recipe, _whole(project.results, file.sha256)
    of, barred = _released(project.ledger, project.results, project.store, file.sha256), samples.barred()
    if of is None:
        result["note"] = "no receipt names this file or its network: it is measured, not judged"
    elif of.report is None or of.comparison is None:
        result["note"] = (
            f"what {of.request_id} was judged by is purged, or an older version did not keep it; "
            "the receipt says what was measured"
        )
    elif not of.named:
        result["note"] = (
            "exported with other options from the network of the receipt: judged as its files were"
        )
    if of is not None and of.comparison is not None:
        positions, flip = of.comparison.positions(barred), recipe.data.flip and bool(of.comparison.references)
    else:
        split = _everything(samples, set(project.ledger.erased_images()))
        positions, flip = positions_of(split, most=recipe.policy.evaluation_images), False
    measured = stored_file(project.store, whole.file) if whole else file
    found, seen = evaluate_file(
        measured, samples, positions, flip=flip, progress=project.progress,
        outputs=whole.outputs if whole else (), narrowed=[file] if whole else [],
    )  # fmt: skip
    verdict = _verdict(of, seen, samples.index, barred, recipe.policy) if of else None
    if data_out is not None:
        _write_data(of, data_out, samples, project.store, barred, whole, flip=flip)
    if whole is not None:
        result["whole"] = whole.file
    return {
        **result, "evaluation": to_json(found.evaluation), "mia_efficacy": found.mia_efficacy,
        "request": of.request_id if of else None,
        "verdict": to_json(verdict) if verdict else None, "passed": verdict is None or verdict.passed,
    }  # fmt: skip


def _released(ledger: Ledger, results: Results, store: ObjectStore, sha256: str) -> _Released | None:
    """The last request whose release holds the file, or another export of the same network."""
    networks = _networks_of(results, sha256)
    for row in reversed(ledger.requests()):
        if row.is_open or row.outcome not in FULFILLED:
            continue
        steps = results.fulfilled_steps(row.request_id)
        release = steps[Step.EXPORTED].stored("release")
        if results.purged(release):
            continue
        made = results.release(release)
        named = sha256 in made.files.values()
        if not named and made.checkpoint not in networks:
            continue
        verified = steps[Step.VERIFIED]
        report, comparison = verified.stored("report"), verified.comparison
        if results.purged(report) or comparison is None or results.purged(comparison):
            return _Released(row.request_id, named)
        found = results.report(report)
        return _Released(
            row.request_id, named, found, Comparison.parse(store.get_bytes(comparison, limit=MAX_BYTES)),
            found.original.evaluation.sha256,
        )  # fmt: skip
    return None


def _whole(results: Results, sha256: str) -> Whole | None:
    """The file with all outputs, of a file from which some were taken out.

    Raises:
        IntegrityError: It is purged.
    """
    found = next((r.whole for r in _exports(results) if sha256 in r.files.values()), None)
    if found is not None and results.purged(found.file):
        raise IntegrityError(f"the file with all outputs, which is measured in place of {sha256}, is purged")
    return found


def _networks_of(results: Results, sha256: str) -> set[Sha256]:
    """Checkpoints that a file was exported from, with whatever options."""
    return {release.checkpoint for release in _exports(results) if sha256 in release.files.values()}


def _exports(results: Results) -> Iterator[Release]:
    """Every release that is still there."""
    for note in results.notes():
        for _, digest in note.objects if note.kind == RELEASE else ():
            if not results.purged(digest):
                yield results.release(digest)


def _everything(samples: ProjectSamples, erased: set[int]) -> Split:
    """All data: what was deleted and is not erased as forget, everything else as retain."""
    index, deleted = samples.index, samples.barred()
    kept = {split: np.flatnonzero(index.in_split(split) & ~deleted) for split in SampleSplit}
    deleted[list(erased)] = False  # zeros tell nothing about anybody
    train = index.in_split(SampleSplit.TRAIN)
    return Split(
        forget=np.flatnonzero(train & deleted), retain=kept[SampleSplit.TRAIN],
        validation=kept[SampleSplit.VALIDATION], test=kept[SampleSplit.TEST],
        also_erased=np.flatnonzero(~train & deleted), scope="mixed", index_digest=index.digest(),
    )  # fmt: skip


def _verdict(
    of: _Released, seen: Seen, index: SampleIndex, barred: NDArray[np.bool_], policy: PolicyRecipe
) -> Verdict | None:
    """The same verdict again, by what the policy allows now; None where its comparison is gone."""
    if of.report is None or of.comparison is None:
        return None
    terms = replace(
        of.report.terms, thresholds=thresholds_of(policy),
        release_unmeasurable=policy.when_not_measurable == "release",
    )  # fmt: skip
    return judge(of.comparison.compared(seen, index, barred), terms, codes=of.report.codes)


def _write_data(
    of: _Released | None, out: Path, samples: ProjectSamples, store: ObjectStore,
    barred: NDArray[np.bool_], whole: Whole | None, *, flip: bool,
) -> None:  # fmt: skip
    """Write `sets.npz` and `original.onnx`: with them a device judges the file as this project does.

    Where outputs were taken out, also `whole.onnx`, which has all of them.

    Raises:
        ConfigError: What the file was judged by is not stored.
    """
    if of is None or of.report is None or of.comparison is None or of.original is None:
        raise ConfigError("--data-out: what this file was judged by is not stored, or it never was judged")
    arrays = device_arrays(of.comparison, of.report.terms, samples, barred)
    arrays["flip"] = np.array(flip, np.uint8)
    if whole is not None:
        arrays[OUTPUTS] = np.array(whole.outputs, np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    if not store.path(of.original).exists():
        raise ConfigError("--data-out: the file before is purged")
    original = store.get_bytes(of.original, limit=MAX_BYTES)
    try:
        make_folder(out, 0o700)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    write_atomic(out / "sets.npz", buffer.getvalue(), mode=0o600)
    write_atomic(out / "original.onnx", original)
    if whole is not None:
        write_atomic(out / "whole.onnx", store.get_bytes(whole.file, limit=MAX_BYTES))


def device_arrays(
    comparison: Comparison, terms: Terms, samples: ProjectSamples, barred: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Images, labels and references of each set, as `qmu_edge.verify.arrays.read_sets` takes them.

    They hold the pictures of whom the request names. People are numbers that mean nothing elsewhere.
    """
    found: dict[str, NDArray[Any]] = {
        "networks": np.array(terms.references), "intraclass": np.array(terms.intraclass),
        "exact": np.array(terms.exact, np.uint8), "classes": np.array(terms.classes, np.int64),
        "release_unmeasurable": np.array(terms.release_unmeasurable, np.uint8),
    }  # fmt: skip
    for name, positions in comparison.positions(barred).items():
        found[f"{name}_images"] = samples.images[positions]
        found[f"{name}_labels"] = samples.index.labels[positions]
        kept = comparison.kept(name, barred)
        if name in comparison.references:
            found[f"{name}_references"] = comparison.references[name][kept]
            found[f"{name}_people"] = np.unique(comparison.people[name][kept], return_inverse=True)[1]
    return found
