"""A new project."""

import fcntl
import io
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from qmu_edge.data.index import (
    SampleIndex,
    SampleSplit,
    assign_splits,
    content_digests,
)
from qmu_edge.data.subjects import SubjectList, pseudonym, read_subjects
from qmu_edge.data.tombstones import barred_samples
from qmu_edge.errors import BusyError, ConfigError
from qmu_edge.io.files import sync_folder, write_atomic
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import KEY, KEY_CHECK, KEYS, RECIPE, STORE, find, key_check, opened
from qmu_edge.project.samples import IMAGES
from qmu_edge.recipe import Recipe, parse_recipe, to_toml
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.ledger import Ledger

STAGING: Final = f"{STORE}.new"


def create(
    root: Path,
    recipe: Recipe,
    subjects: Path | None,
    progress: Progress,
    *,
    previous: Path | None = None,
    model: bytes = b"",
) -> dict[str, Any]:
    """Register the recipe's dataset and make a project of `root`.

    Args:
        root: The folder; made when missing. It must not hold a project.
        recipe: What `qmu.toml` will say.
        subjects: Table with the columns `sample` and `subject`.
        progress: Decoding is shown there.
        previous: An earlier project of the same data. What was deleted there stays deleted here.
        model: Content of the model file that the recipe names.

    Returns:
        Counts of samples by split, of classes and of subjects, and what was noticed in the list of subjects.

    Raises:
        ConfigError: There is a project already, no dataset, a sample that the previous project has
            deleted, or the disk refuses.
    """
    _require_room(root, recipe, model)
    from qmu_edge.data.sources import load

    text = to_toml(recipe)
    parse_recipe(text, "recipe")  # what is written can be read: a folder's name may be beyond TOML
    source = load(recipe.data, progress)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            _require_room(root, recipe, model)
            given = _subjects(source, subjects)
            index = _make(root, recipe, source, given, previous, model)
            return _summary(index) | ({"subject_list": given.to_json()} if subjects else {})
    except OSError as error:
        raise ConfigError(f"cannot write {root}: {error.strerror}; nothing was changed") from None


def _require_room(root: Path, recipe: Recipe, model: bytes) -> None:
    """No project is here; the visible files of an `init` with this recipe that was killed may be."""
    for name, data in _visible(recipe, model).items():
        known = root / name
        if (root / STORE).exists() or (known.exists() and known.read_bytes() != data):
            raise ConfigError(f"{root}: there is a project already, or a {name} of something else")


def _visible(recipe: Recipe, model: bytes) -> dict[str, bytes]:
    """The files beside the store: the model file, where there is one, and last the recipe that names it."""
    text = {RECIPE: to_toml(recipe).encode()}
    return {recipe.model.path: model, **text} if recipe.model.path is not None else text


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Be the only process that makes a project of `root`; leaves no file behind."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError(f"{root}: another process is making a project here") from None
    finally:
        os.close(handle)


def _make(
    root: Path, recipe: Recipe, source: Any, given: SubjectList, previous: Path | None, model: bytes
) -> SampleIndex:
    tombstones = _tombstones_of(previous) if previous is not None else set()
    staging = root / STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of an `init` that was killed
        for folder in ("objects", KEYS, "cache", "work", "releases"):
            (staging / folder).mkdir(parents=True, mode=0o700 if folder == KEYS else 0o755)
        key = secrets.token_bytes(32)
        write_atomic(staging / KEY, key, mode=0o600)
        index = _index(source, given, key)
        _require_none_deleted(index, tombstones, previous)
        write_atomic(staging / IMAGES, _npy(source.images), mode=0o600)
        with Ledger.create(staging / "ledger.db") as ledger:
            ledger.write_samples(index)
            if tombstones:
                ledger.carry(tombstones)
            keys.renew(staging / KEYS, ledger)
            ledger.set_meta(KEY_CHECK, key_check(key))
        for name, data in _visible(recipe, model).items():
            write_atomic(staging / name, data)
            os.replace(staging / name, root / name)
        sync_folder(root)
        staging.rename(root / STORE)
        sync_folder(root)
        sync_folder(root.absolute().parent)
        return index
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _tombstones_of(previous: Path) -> set[tuple[str, str]]:
    with opened(find(previous), Progress()) as project:
        return project.ledger.barred()


def _require_none_deleted(
    index: SampleIndex, tombstones: Collection[tuple[str, str]], previous: Path | None
) -> None:
    """Whose a deleted sample was is not carried over, so nobody's sample with its pixels is taken."""
    found = np.flatnonzero(barred_samples(index, tombstones))
    if found.size:
        raise ConfigError(
            f"{found.size} of {len(index.ids)} samples were deleted in {previous}, by name or by their "
            f"pixels, the first is {index.ids[found[0]]}: remove them from the dataset"
        )


def _subjects(source: Any, path: Path | None) -> SubjectList:
    """Whose each sample is: as a list says, else as the source does."""
    if path is not None:
        return read_subjects(path, source.ids)
    return SubjectList(tuple((s,) if s else () for s in source.subjects) or ((),) * len(source.ids))


def _index(source: Any, given: SubjectList, key: bytes) -> SampleIndex:
    digests = content_digests(source.images)
    return SampleIndex.of(
        ids=source.ids,
        digests=digests,
        labels=source.labels,
        splits=assign_splits(source.labels, digests, source.given),
        subjects=(" ".join(sorted(pseudonym(key, name) for name in people)) for people in given.subjects),
        class_names=source.class_names,
    )


def _summary(index: SampleIndex) -> dict[str, Any]:
    counts = {split.word: int(index.in_split(split).sum()) for split in SampleSplit}
    subjects = len(index.everybody())
    return {
        "samples": len(index.ids), **counts,
        "classes": len(index.class_names), "subjects": subjects, "split": index.digest(),
    }  # fmt: skip


def _npy(images: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()
