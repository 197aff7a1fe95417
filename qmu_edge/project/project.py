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

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.index import SAMPLE_SPLITS, SampleIndex, content_digests
from qmu_edge.data.tombstones import barred_samples
from qmu_edge.errors import BusyError, ConfigError, IntegrityError
from qmu_edge.io.files import read_regular
from qmu_edge.io.progress import Progress
from qmu_edge.recipe import Recipe, parse_recipe, recipe_file
from qmu_edge.request.resolve import Claim
from qmu_edge.request.split import from_json
from qmu_edge.store.encrypted import SealedStore
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.lock import hold
from qmu_edge.store.objects import ObjectStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

RECIPE: Final = "qmu.toml"
STORE: Final = ".qmu"
KEYS: Final = "keys"
KEY: Final = f"{KEYS}/pseudonym.key"
IMAGES: Final = "cache/images.npy"
KEY_CHECK: Final = "pseudonym key"  # what the ledger knows about it, of no use to guess it
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


def _key_check(key: bytes) -> str:
    return hashlib.sha256(b"qmu-edge pseudonym key" + key).hexdigest()


def _header(images: np.ndarray) -> bytes:
    """What `_npy` writes before the images."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(images))
    return buffer.getvalue()
