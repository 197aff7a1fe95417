"""A user's folder: `qmu.toml`, the store `.qmu` and what is in it, `release` with what is current.

    qmu.toml            the recipe
    <model>.py          the model file, where the recipe names one
    .qmu/ledger.db      samples, requests, steps, receipts, tombstones
    .qmu/objects/       checkpoints, model files, reports, receipts: name = SHA-256, written once
    .qmu/keys/          the key of pseudonyms and the one that signs, mode 0600
    .qmu/cache/         decoded images, checked against the sample index whenever they are opened
    .qmu/work/          state of unfinished training
    .qmu/releases/      folders of released files
    release             link to the current one

A project is made in a hidden folder beside its place and renamed when it is whole. `qmu.toml` comes
first: a kill between the two leaves it alone, and the same `init` again goes on.
"""

import fcntl
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge import keys
from qmu_edge.columns import Digests, Names
from qmu_edge.errors import BusyError, ConfigError, IntegrityError
from qmu_edge.files import read_regular
from qmu_edge.index import (
    SAMPLE_SPLITS,
    SampleIndex,
    assign_splits,
    content_digests,
    pseudonym,
    read_subjects,
)
from qmu_edge.ledger import Ledger
from qmu_edge.progress import Progress
from qmu_edge.recipe import Recipe, parse_recipe, recipe_file, to_toml
from qmu_edge.sealing import SealedStore
from qmu_edge.split import Claim, barred_samples, from_json
from qmu_edge.store import ObjectStore, hold, sync_folder, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

RECIPE: Final = "qmu.toml"
STORE: Final = ".qmu"
KEYS: Final = "keys"
KEY: Final = f"{KEYS}/pseudonym.key"
IMAGES: Final = "cache/images.npy"
KEY_CHECK: Final = "pseudonym key"  # what the ledger knows about it, of no use to guess it
STAGING: Final = f"{STORE}.new"
TRAIN: Final = SAMPLE_SPLITS.index("train")


@dataclass
class Project:
    """An open project.

    Attributes:
        root: The user's folder.
        recipe: As `qmu.toml` says now.
        ledger: Open; closed with the project.
        progress: Where long work shows itself.
        wait_s: How long `held` waits for another process.
    """

    root: Path
    recipe: Recipe
    ledger: Ledger
    progress: Progress
    wait_s: float = 0.0

    @property
    def folder(self) -> Path:
        """The store's folder."""
        return self.root / STORE

    @property
    def store(self) -> ObjectStore:
        """The objects."""
        sealing = self.recipe.policy.encrypt_at_rest
        return SealedStore(self.folder / "objects", self.folder / "keys/objects", sealing=sealing)

    @cached_property
    def index(self) -> SampleIndex:
        """All samples, as registered."""
        return self.ledger.read_samples()

    @cached_property
    def key(self) -> bytes:
        """The HMAC key of pseudonyms and request digests.

        Raises:
            IntegrityError: It is missing or not 32 bytes.
        """
        path = self.folder / KEY
        key = read_regular(path, limit=1024, error=IntegrityError)
        if len(key) != 32:
            raise IntegrityError(f"{path}: {len(key)} bytes, allowed are 32")
        if self.ledger.meta(KEY_CHECK) != _key_check(key):
            raise IntegrityError(f"{path}: not the key that this project was made with")
        return key

    @property
    def signing_key(self) -> "Ed25519PrivateKey":
        """What signs receipts and bundles.

        Raises:
            IntegrityError: Its file is missing, or holds another key than the ledger says.
        """
        return keys.signing_key(self.folder / KEYS, self.ledger)

    @cached_property
    def images(self) -> np.ndarray:
        """All decoded images, uint8 (n, c, h, w), as a private memory map; purged ones are all zero.

        Raises:
            IntegrityError: The cache is missing, or an image is not the one that was registered.
        """
        path = self.folder / IMAGES
        try:
            images: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise IntegrityError(f"{path}: decoded images cannot be opened: {error}") from None
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(self.index.ids):
            raise IntegrityError(f"{path}: {images.dtype} {images.shape} is not the registered dataset")
        header = _header(images)
        with path.open("rb") as file:
            whole = file.read(len(header)) == header
        if not whole or path.stat().st_size != len(header) + images.nbytes:
            raise IntegrityError(f"{path}: its header is altered, or something follows the images")
        found = content_digests(images)
        altered = set(np.flatnonzero((found.raw != self.index.digests.raw).any(axis=1)).tolist())
        # Asked after hashing: the intent to erase an image is written down before it is touched.
        erased = self.ledger.erased_images()
        back = {i for i, state in erased.items() if state == "done" and images[i].any()}
        if wrong := sorted(altered - erased.keys() | back):
            again = (
                f"; {len(back)} of them were purged: qmu-edge purge --now erases them again" if back else ""
            )
            raise IntegrityError(
                f"{path}: {len(wrong)} images are not the registered ones, the first is "
                f"{self.index.ids[wrong[0]]}{again}"
            )
        return images

    def barred(self, *, besides: Collection[str] = ()) -> NDArray[np.bool_]:
        """Which samples (n,) were deleted, by id or by their pixels; not by the requests `besides`."""
        return barred_samples(self.index, self.ledger.barred(besides=besides))

    def claimed(self, *, besides: Collection[str] = ()) -> NDArray[np.bool_]:
        """Which samples (n,) open requests ask to delete: nothing new is trained on them meanwhile."""
        found = np.zeros(len(self.index.ids), np.bool_)
        for request_id, detail in self.ledger.open_details("resolved").items():
            if request_id not in besides:
                found[self.claim(detail).samples] = True
        return found

    def claim(self, resolved: Mapping[str, Any]) -> Claim:
        """The claim that the detail of a resolved step points to."""
        return from_json(Claim, self.store.get_bytes(resolved["claim"]))

    def trainable(self) -> NDArray[np.int64]:
        """Positions (m,) of all training samples that nobody has asked to delete."""
        return np.flatnonzero((self.index.splits == TRAIN) & ~self.barred() & ~self.claimed())

    def allowed(self, positions: NDArray[np.int64], use: str) -> NDArray[np.int64]:
        """The same positions (m,), after the re-ingestion guard.

        Every path from samples to training, calibration, tuning, golden inputs or measurement of what
        is kept goes through here.

        Raises:
            IntegrityError: A deleted sample, or another with its pixels, is among them.
        """
        found = int(self.barred()[positions].sum())
        if found:
            raise IntegrityError(f"{use}: {found} of {len(positions)} samples are deleted; allowed are none")
        return positions

    def purged(self, digest: str) -> bool:
        """Whether an object is not there because a purge removed it, which is no damage."""
        return not self.store.path(digest).exists() and self.ledger.removed(digest)

    def training(self) -> str:
        """Digest that names a training on all samples that no request has deleted."""
        recipe = self.recipe
        identity = f"{recipe.model}{recipe.train}{recipe.data}{self.index.digest()}".encode()
        return hashlib.sha256(identity + self.trainable().tobytes()).hexdigest()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that writes to the project; waits `wait_s` for another one to end.

        Raises:
            BusyError: Another process still holds it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(self.folder))
            except BusyError as error:
                if self.wait_s <= 0:
                    raise
                self.progress.note(f"{error}; waiting up to {self.wait_s:g} s")
                stack.enter_context(hold(self.folder, wait_s=self.wait_s))
            yield

    def current(self, what: str) -> str:
        """Digest of the current checkpoint or release.

        Raises:
            ConfigError: There is none yet.
        """
        digest = self.ledger.current(what)  # type: ignore[arg-type]
        if digest is None:
            first = "qmu-edge train" if what == "checkpoint" else "qmu-edge export"
            raise ConfigError(f"{self.root}: no {what} yet; run {first} first")
        return digest


def find(start: Path) -> Path:
    """The project folder at or above `start`.

    Raises:
        ConfigError: There is none.
    """
    here = start.resolve()
    for folder in (here, *here.parents):
        if (folder / RECIPE).is_file() and (folder / STORE).is_dir():
            return folder
    raise ConfigError(f"no project at {start} or above; run qmu-edge init first")


@contextmanager
def opened(root: Path, progress: Progress, wait_s: float = 0.0) -> Iterator[Project]:
    """Open the project in `root`; `wait_s` is for `Project.held`.

    Raises:
        ConfigError: The recipe is wrong.
        IntegrityError: The ledger is missing.
        LedgerError: The ledger does not hold.
    """
    recipe = parse_recipe(recipe_file(root / RECIPE), str(root / RECIPE))
    with Ledger.open(root / STORE / "ledger.db") as ledger:
        yield Project(root, recipe, ledger, progress, wait_s)


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
        subjects: CSV file `sample,subject`.
        progress: Decoding is shown there.
        previous: An earlier project of the same data. What was deleted there stays deleted here.
        model: Content of the model file that the recipe names.

    Returns:
        Counts of samples by split, of classes and of subjects.

    Raises:
        ConfigError: There is a project already, no dataset, a sample that the previous project has
            deleted, or the disk refuses.
    """
    _require_room(root, recipe, model)
    from qmu_edge.datasets import load

    text = to_toml(recipe)
    parse_recipe(text, "recipe")  # what is written can be read: a folder's name may be beyond TOML
    source = load(recipe.data, progress)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            _require_room(root, recipe, model)
            return _summary(_make(root, recipe, source, subjects, previous, model))
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
    root: Path, recipe: Recipe, source: Any, subjects: Path | None, previous: Path | None, model: bytes
) -> SampleIndex:
    stones = _stones_of(previous) if previous is not None else set()
    staging = root / STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of an `init` that was killed
        for folder in ("objects", KEYS, "cache", "work", "releases"):
            (staging / folder).mkdir(parents=True, mode=0o700 if folder == KEYS else 0o755)
        key = secrets.token_bytes(32)
        write_atomic(staging / KEY, key, mode=0o600)
        given = read_subjects(subjects, source.ids) if subjects else source.subjects
        index = _index(source, given, key)
        _require_none_deleted(index, stones, previous)
        write_atomic(staging / IMAGES, _npy(source.images), mode=0o600)
        with Ledger.create(staging / "ledger.db") as ledger:
            ledger.write_samples(index)
            if stones:
                ledger.carry(stones)
            keys.renew(staging / KEYS, ledger)
            ledger.set_meta(KEY_CHECK, _key_check(key))
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


def _key_check(key: bytes) -> str:
    return hashlib.sha256(b"qmu-edge pseudonym key" + key).hexdigest()


def _stones_of(previous: Path) -> set[tuple[str, str]]:
    with opened(find(previous), Progress()) as project:
        return project.ledger.barred()


def _require_none_deleted(
    index: SampleIndex, stones: Collection[tuple[str, str]], previous: Path | None
) -> None:
    """Whose a deleted sample was is not carried over, so nobody's sample with its pixels is taken."""
    found = np.flatnonzero(barred_samples(index, stones))
    if found.size:
        raise ConfigError(
            f"{found.size} of {len(index.ids)} samples were deleted in {previous}, by name or by their "
            f"pixels, the first is {index.ids[found[0]]}: remove them from the dataset"
        )


def _index(source: Any, subjects: Sequence[str], key: bytes) -> SampleIndex:
    digests = content_digests(source.images)
    names = [pseudonym(key, s) if s else "" for s in subjects] or [""] * len(source.ids)
    return SampleIndex(
        ids=Names(source.ids, "sample ids"),
        digests=digests,
        labels=source.labels,
        splits=assign_splits(source.labels, digests, source.given),
        subjects=Digests.of(names, "subjects", blank=True),
        class_names=source.class_names,
    )


def _summary(index: SampleIndex) -> dict[str, Any]:
    counts = {name: int((index.splits == code).sum()) for code, name in enumerate(SAMPLE_SPLITS)}
    subjects = len(set(index.subjects) - {""})
    return {
        "samples": len(index.ids), **counts,
        "classes": len(index.class_names), "subjects": subjects, "split": index.digest(),
    }  # fmt: skip


def _npy(images: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()


def _header(images: np.ndarray) -> bytes:
    """What `_npy` writes before the images."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(images))
    return buffer.getvalue()
