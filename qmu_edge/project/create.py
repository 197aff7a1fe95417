"""A new project."""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qmu_edge.data.cache import journal_of
from qmu_edge.data.index import (
    Form,
    SampleIndex,
    SampleSplit,
    assign_splits,
    content_digests,
    npy_header,
)
from qmu_edge.data.subjects import SubjectList, pseudonym, read_subjects
from qmu_edge.errors import BusyError, ConfigError
from qmu_edge.io.files import make_folder, sync_folder, write_atomic, write_blocks
from qmu_edge.io.progress import Progress
from qmu_edge.project.notices import names_alike, notices, require_trainable
from qmu_edge.project.plain import Registered
from qmu_edge.project.previous import Deleted
from qmu_edge.project.project import IDS_KEY, KEY, KEY_CHECK, KEYS, RECIPE, STORE, key_check
from qmu_edge.project.samples import FORMS, IMAGES
from qmu_edge.project.staging import forget_decoding, staging_in
from qmu_edge.project.thumbnails import keep
from qmu_edge.recipe import Recipe, parse_recipe, to_toml
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.ledger import Ledger

if TYPE_CHECKING:
    from qmu_edge.data.objects import ImageDataset
    from qmu_edge.data.pictures import Source

_OTHER: Final = "cache/other.npy"  # the same images in another form, for a moment


def create(
    root: Path,
    recipe: Recipe,
    subjects: Path | None,
    progress: Progress,
    *,
    previous: Path | None = None,
    model: bytes = b"",
    objects: "Mapping[str, ImageDataset] | None" = None,
    require: Callable[[Form, int], None] | None = None,
) -> Registered:
    """Register the recipe's dataset and make a project of `root`.

    Args:
        root: The folder; made when missing. It must not hold a project.
        recipe: What `qmu.toml` will say.
        subjects: Table with the columns `sample` and `subject`.
        progress: Decoding is shown there.
        previous: An earlier project of the same data. What was deleted there stays deleted here.
        model: Content of the model file that the recipe names.
        objects: The datasets, by split, where the recipe's source is "object".
        require: Refuses what cannot be done with images of such a form and so many classes.

    Raises:
        ConfigError: There is a project already, no dataset, a sample that the previous project has
            deleted, a picture that looks like one where the policy refuses it, or the disk refuses.
    """
    require_room(root, recipe, model)
    text = to_toml(recipe)
    parse_recipe(text, "recipe")  # what is written can be read: a folder's name may be beyond TOML
    before = Deleted.of(previous) if previous is not None else None
    wanted = _Wanted(recipe, model, subjects, before, objects, require, progress)
    new = not root.exists()
    try:
        make_folder(root, 0o755)
        with _alone(root):
            require_room(root, recipe, model)
            return _make(root, wanted)
    except OSError as error:
        raise ConfigError(f"cannot write {root}: {error.strerror}; nothing was changed") from None
    finally:
        if new:
            with suppress(OSError):  # it is not empty: it has become a project
                root.rmdir()


def require_room(root: Path, recipe: Recipe, model: bytes) -> None:
    """No project is here; the visible files of an `init` with this recipe that was killed may be.

    Raises:
        ConfigError: One is, or a file of another recipe.
    """
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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What `create` was asked for."""

    recipe: Recipe
    model: bytes
    subjects: Path | None
    before: Deleted | None
    objects: "Mapping[str, ImageDataset] | None"
    require: Callable[[Form, int], None] | None
    progress: Progress

    def load(self, cache: Path, form: Form | None = None) -> "Source":
        """Decode the dataset into a file, in the form that an earlier project had where one is given."""
        from qmu_edge.data.sources import load

        if form is not None:
            self.progress.note(
                f"compared with what was deleted: decoding {form.decoding}, shape {form.shape}"
            )

        return load(self.recipe.data, self.progress, form, cache, self.objects)


def _make(root: Path, wanted: _Wanted) -> Registered:
    with staging_in(root) as staging:
        made = _register(staging, wanted)
        for name, data in _visible(wanted.recipe, wanted.model).items():
            write_atomic(staging / name, data)
            os.replace(staging / name, root / name)
        forget_decoding(staging)
        sync_folder(root)
        staging.rename(root / STORE)
        sync_folder(root)
        sync_folder(root.absolute().parent)
        return made


def _register(store: Path, wanted: _Wanted) -> Registered:
    """Read the dataset into a new store, and say what it is."""
    source, before = wanted.load(store / IMAGES), wanted.before
    form = source.form(wanted.recipe.data.fit)
    if wanted.require is not None:
        wanted.require(form, len(source.class_names))
    given = _subjects(source, wanted.subjects)
    key = secrets.token_bytes(32)
    write_atomic(store / KEY, key, mode=0o600)
    index = _index(source, given, key)
    require_trainable(index)
    forms, said = [form], notices(index) + ([] if wanted.subjects else names_alike(source))
    if before is not None:
        forms += [other for other in before.forms if other != form]
        for form in forms[1:]:
            wanted.progress.note(
                f"compared with what was deleted: decoding {form.decoding}, shape {form.shape}"
            )
        before.require_none(index, (wanted.load(store / _OTHER, other).images for other in forms[1:]))
        for path in (store / _OTHER, journal_of(store / _OTHER)):
            path.unlink(missing_ok=True)
        said += before.noticed(index, source.images, wanted.recipe.policy)
    if not isinstance(source.images, np.memmap):
        blocks = (npy_header(source.images.shape), source.images.tobytes())
        write_blocks(store / IMAGES, blocks, 0o600)
    with Ledger.create(store / "ledger.db") as ledger:
        _write(ledger, index, before, wanted.recipe, forms)
        keys.renew(store / KEYS, ledger)
        ledger.set_meta(KEY_CHECK, key_check(key))
    made = _summary(index, said)
    if wanted.subjects:
        made["subject_list"] = given.to_json()
    if source.read is not None:
        made["read"] = source.read
    return made


def _write(
    ledger: Ledger, index: SampleIndex, before: Deleted | None, recipe: Recipe, forms: list[Form]
) -> None:
    ledger.write_samples(index)
    if before is not None and before.tombstones:
        ledger.carry(before.tombstones)
        if recipe.policy.keep_thumbnails:
            keep(ledger, before.thumbnails)
    ledger.set_meta(FORMS, [asdict(form) for form in forms])
    ledger.set_meta(IDS_KEY, secrets.token_hex(32))


def _subjects(source: Any, path: Path | None) -> SubjectList:
    """Whose each sample is: as a list says, else as the source does."""
    if path is not None:
        return read_subjects(path, source.ids)
    return SubjectList(source.subjects or ((),) * len(source.ids))


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


def _summary(index: SampleIndex, said: Sequence[str]) -> Registered:
    train, validation, test = (int(index.in_split(split).sum()) for split in SampleSplit)
    return {
        "samples": len(index.ids), "train": train, "validation": validation, "test": test,
        "classes": len(index.class_names), "subjects": len(index.everybody()), "split": index.digest(),
        "first_sample": index.ids[0], "notices": [*said],
    }  # fmt: skip
