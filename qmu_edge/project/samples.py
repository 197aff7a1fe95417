"""The samples that a project has registered: index, decoded images, and which of them may still be used."""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.alike import look_alike
from qmu_edge.data.index import Form, SampleIndex, SampleSplit, content_digests, npy_header
from qmu_edge.data.tombstones import barred_samples
from qmu_edge.errors import IntegrityError
from qmu_edge.io.files import cannot_read
from qmu_edge.project.records import StepResult
from qmu_edge.request.resolve import Claim
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import RemovalStatus, Step
from qmu_edge.store.objects import ObjectStore

IMAGES: Final = "cache/images.npy"
FORMS: Final = "decoded as"  # in the ledger; a project without it was made with decoding 1
_AGAIN: Final = (
    "; put a copy of the file back, or make it anew: qmu-edge init OTHER --dataset (the same as then) "
    f"--recipe (this project's qmu.toml) writes OTHER/.qmu/{IMAGES}"
)


class ProjectSamples:
    """The registered samples of an open project.

    Shapes: n samples; images uint8 (n, c, h, w).
    """

    def __init__(self, folder: Path, ledger: Ledger, store: ObjectStore) -> None:
        """`folder` is the store's."""
        self.path = folder / IMAGES
        self._ledger = ledger
        self._store = store

    @cached_property
    def index(self) -> SampleIndex:
        """All samples, as registered."""
        return self._ledger.read_samples()

    @cached_property
    def images(self) -> np.ndarray:
        """All decoded images, uint8 (n, c, h, w), as a private memory map; purged ones are all zero.

        Raises:
            IntegrityError: The cache is missing, or an image is not the one that was registered.
        """
        if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
            raise IntegrityError(f"{self.path}: decoded images cannot be opened: not a regular file{_AGAIN}")
        try:
            images: np.ndarray = np.load(self.path, mmap_mode="c", allow_pickle=False)
        except PermissionError as error:
            raise cannot_read(self.path, error) from None
        except (OSError, ValueError, EOFError) as error:
            raise IntegrityError(f"{self.path}: decoded images cannot be opened: {error}{_AGAIN}") from None
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(self.index.ids):
            raise IntegrityError(
                f"{self.path}: {images.dtype} {images.shape} is not the registered dataset{_AGAIN}"
            )
        self._require_whole(images)
        self._require_registered(images)
        return images

    def forms(self) -> list[Form]:
        """What images were made to be before digests were taken of their pixels.

        The project's own form is the first; the others are of earlier projects whose tombstones it carries.

        Raises:
            IntegrityError: The project is older than this note, and its decoded images cannot be opened.
        """
        known = self._ledger.meta(FORMS)
        if known is None:
            channels, height, width = self.images.shape[1:]
            return [Form(1, (channels, height, width))]
        return [Form(form["decoding"], tuple(form["shape"]), form.get("fit", "stretch")) for form in known]

    def _require_whole(self, images: np.ndarray) -> None:
        """Nothing but the images is in the file: an altered header, or a tail, could hide something."""
        header = npy_header(images.shape)
        with self.path.open("rb") as file:
            whole = file.read(len(header)) == header
        if not whole or self.path.stat().st_size != len(header) + images.nbytes:
            raise IntegrityError(
                f"{self.path}: its header is altered, or something follows the images{_AGAIN}"
            )

    def _require_registered(self, images: np.ndarray) -> None:
        found = content_digests(images)
        altered = set(np.flatnonzero((found.raw != self.index.digests.raw).any(axis=1)).tolist())
        # Asked after hashing: the intent to erase an image is written down before it is touched.
        erased = self._ledger.erased_images()
        back = {i for i, status in erased.items() if status is RemovalStatus.DONE and images[i].any()}
        if wrong := sorted(altered - erased.keys() | back):
            again = (
                f"; {len(back)} of them were purged: qmu-edge purge --now erases them again" if back else ""
            )
            again += _AGAIN if altered - erased.keys() else ""
            raise IntegrityError(
                f"{self.path}: {len(wrong)} images are not the registered ones, the first is "
                f"{self.index.ids[wrong[0]]}{again}"
            )

    def barred(self, *, besides: Collection[str] = ()) -> NDArray[np.bool_]:
        """Which samples (n,) were deleted, by id or by their pixels; not by the requests `besides`."""
        return barred_samples(self.index, self._ledger.barred(besides=besides))

    def forgotten(self, served: Collection[str] = ()) -> NDArray[np.bool_]:
        """Which samples (n,) were deleted, without those that open requests but `served` still work on."""
        return self.barred(besides=self._ledger.open_details(Step.RESOLVED).keys() - set(served))

    def claimed(self, *, besides: Collection[str] = ()) -> NDArray[np.bool_]:
        """Which samples (n,) open requests ask to delete: nothing new is trained on them meanwhile."""
        found = np.zeros(len(self.index.ids), np.bool_)
        for request_id, detail in self._ledger.open_details(Step.RESOLVED).items():
            if request_id not in besides:
                found[self.claim(detail).samples] = True
        return found

    def claim(self, resolved: Mapping[str, object]) -> Claim:
        """The claim that the detail of a resolved step points to.

        Raises:
            IntegrityError: It points to none, or to something else.
        """
        return Claim.parse(self._store.get_bytes(StepResult.parse(resolved).stored("claim")))

    def trainable(self) -> NDArray[np.int64]:
        """Positions (m,) of all training samples that nobody has asked to delete."""
        return np.flatnonzero(self.index.in_split(SampleSplit.TRAIN) & ~self.barred() & ~self.claimed())

    def alike(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions among `others` (m,) whose image looks like one of `some` (k,), but for exact copies."""
        copies = self.index.digests.find({self.index.digests[i] for i in some.tolist()})
        rest = np.setdiff1d(others, copies)
        return rest[look_alike(self.images, some, rest)]

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
