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

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from qmu_edge.data.index import SampleSplit
from qmu_edge.errors import BusyError, ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import AnyPath, read_regular, require_plain
from qmu_edge.io.progress import Progress
from qmu_edge.project.recipes import recipe_file
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import Recipe, parse_recipe
from qmu_edge.store.encrypted import EncryptedStore
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.lock import locked
from qmu_edge.store.objects import ObjectStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

RECIPE: Final = "qmu.toml"
STORE: Final = ".qmu"
KEYS: Final = "keys"
KEY: Final = f"{KEYS}/pseudonym.key"
IDS_KEY: Final = "key of request ids"
KEY_CHECK: Final = "pseudonym key"  # what the ledger knows about it, of no use to guess it


@dataclass
class Project:
    """An open project.

    Attributes:
        root: The user's folder.
        recipe: As `qmu.toml` says now.
        ledger: Open; closed with the project.
        progress: Where long work shows itself.
        wait_s: How long `locked` waits for another process.
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

    @cached_property
    def store(self) -> ObjectStore:
        """The objects."""
        encrypting = self.recipe.policy.encrypt_at_rest
        return EncryptedStore(self.folder / "objects", self.folder / "keys/objects", encrypting=encrypting)

    @cached_property
    def samples(self) -> ProjectSamples:
        """The registered samples."""
        return ProjectSamples(self.folder, self.ledger, self.store)

    @cached_property
    def results(self) -> Results:
        """What earlier work has stored."""
        return Results(self.ledger, self.store)

    @cached_property
    def key(self) -> bytes:
        """The HMAC key of pseudonyms.

        Raises:
            IntegrityError: It is missing or not 32 bytes.
        """
        path = self.folder / KEY
        key = read_regular(path, limit=1024, error=IntegrityError)
        if len(key) != 32:
            raise IntegrityError(f"{path}: {len(key)} bytes, allowed are 32")
        if self.ledger.meta(KEY_CHECK) != key_check(key):
            raise IntegrityError(f"{path}: not the key that this project was made with")
        return key

    @property
    def ids_key(self) -> bytes:
        """The HMAC key of ids that requests do not bring along: a purge renews it when none is open.

        Raises:
            IntegrityError: See `key`, which up to version 0.1 was used for these too.
        """
        own = self.ledger.meta(IDS_KEY)
        return bytes.fromhex(own) if own else self.key

    @property
    def signing_key(self) -> "Ed25519PrivateKey":
        """What signs receipts and bundles.

        Raises:
            IntegrityError: Its file is missing, or holds another key than the ledger says.
        """
        return keys.signing_key(self.folder / KEYS, self.ledger)

    def training(self) -> str:
        """Digest that names a training on all samples that no request has deleted.

        It is of the requests' numbers: one of the samples left would confirm a guess at whose are gone.
        """
        recipe, index = self.recipe, self.samples.index
        identity = f"{recipe.model}{recipe.train}{recipe.data}{index.digest()}".encode()
        everything = np.flatnonzero(index.in_split(SampleSplit.TRAIN)).tobytes()
        return sha256_of(identity + everything + "".join(f" {n}" for n in self.ledger.deleting()).encode())

    def open_training(self) -> str:
        """The name of the training that is not done yet; "" when it is."""
        run = self.training()
        return run if self.results.trained(run) is None else ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that writes to the project; waits `wait_s` for another one to end.

        Nothing is built on a ledger that was changed behind its back; its samples are checked where they are
        read.

        Raises:
            BusyError: Another process still writes.
            LedgerError: The ledger does not hold.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder))
            except BusyError as error:
                if self.wait_s <= 0:
                    raise
                self.progress.note(f"{error}; waiting up to {self.wait_s:g} s")
                stack.enter_context(locked(self.folder, wait_s=self.wait_s))
            self.ledger.require_sound(besides={"samples"})
            yield

    def current(self, what: Pointer) -> Sha256:
        """Digest of the current checkpoint or release.

        Raises:
            ConfigError: There is none yet.
        """
        digest = self.ledger.current(what)
        if digest is None:
            first = "qmu-edge train (or adopt)" if what is Pointer.CHECKPOINT else "qmu-edge export"
            raise ConfigError(f"{self.root}: no {what} yet; run {first} first")
        return digest


def search(named: AnyPath | None = None) -> Path | None:
    """The project folder at or above `named`, or above the working directory; None where there is none.

    A project is a program: its recipe and its model file say what runs. One that is only come across must
    belong to whoever runs it, or to root; whose it is does not matter when its own folder is named.

    Raises:
        ConfigError: The first that is found is somebody else's.
    """
    here = Path(named or ".").resolve()
    for folder in (here, *here.parents):
        if (folder / RECIPE).is_file() and (folder / STORE).is_dir():
            owners = {path.lstat().st_uid for path in (folder / RECIPE, folder / STORE)}
            if foreign := owners - {os.geteuid(), 0}:
                if named is None or folder != here:
                    raise ConfigError(
                        f"{folder}: a project of user {min(foreign)}, not yours; if you trust it, "
                        f"say --project {folder}"
                    )
            return folder
    return None


def find(named: AnyPath | None = None) -> Path:
    """The project folder, see `search`.

    Raises:
        ConfigError: There is none, or it is somebody else's.
    """
    folder = search(named)
    if folder is None:
        raise ConfigError(f"no project at {named or Path.cwd()} or above; run qmu-edge init first")
    return folder


@contextmanager
def opened(root: Path, progress: Progress, wait_s: float = 0.0) -> Iterator[Project]:
    """Open the project in `root`; `wait_s` is for `Project.locked`.

    Raises:
        ConfigError: The recipe is wrong.
        IntegrityError: The ledger is missing, or a link in the store leads elsewhere.
        LedgerError: The ledger does not hold.
    """
    require_plain(root / STORE)  # before SQLite writes into files beside the ledger
    recipe = parse_recipe(recipe_file(root / RECIPE), str(root / RECIPE))
    with Ledger.open(root / STORE / "ledger.db") as ledger:
        yield Project(root, recipe, ledger, progress, wait_s)


def key_check(key: bytes) -> str:
    """What the ledger keeps of the key of pseudonyms; it does not help to guess the key."""
    return sha256_of(b"qmu-edge pseudonym key" + key)
