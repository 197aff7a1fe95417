"""What an earlier project of the same data has deleted, and what of it a new one would bring back."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmu_edge.data.alike import alike, thumbnails
from qmu_edge.data.index import Form, SampleIndex, content_digests
from qmu_edge.data.tombstones import barred_samples
from qmu_edge.errors import ConfigError
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import find, opened
from qmu_edge.project.thumbnails import encoded, kept
from qmu_edge.recipe import PolicyRecipe


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a project has deleted.

    Attributes:
        project: Its folder.
        tombstones: Id and content digest of each.
        forms: What the digests are of.
        thumbnails: Of the images that no purge has erased, and those that were kept, (m, 64).
    """

    project: Path
    tombstones: set[tuple[str, str]]
    forms: list[Form]
    thumbnails: NDArray[np.float32]

    @classmethod
    def of(cls, folder: Path) -> "Deleted":
        """Look into a project.

        Raises:
            ConfigError: There is none.
            IntegrityError: Its ledger or its images are not as they were.
        """
        with opened(find(folder), Progress()) as project:
            samples, ledger = project.samples, project.ledger
            if not (tombstones := ledger.barred()):
                return cls(folder, tombstones, [], kept(ledger))
            stones = np.flatnonzero(samples.barred() if samples.path.exists() else [])
            shown = thumbnails(samples.images, stones) if len(stones) else kept(ledger)[:0]
            shown = np.concatenate([kept(ledger), shown[shown.any(axis=1)]])
            return cls(folder, tombstones, samples.forms(), shown)

    def require_none(self, index: SampleIndex, others: Iterable[NDArray[np.uint8]]) -> None:
        """Refuse a dataset that brings deleted samples back.

        Whose a deleted sample was is not carried over, so nobody's sample with its pixels is taken.

        Args:
            index: Of the new dataset.
            others: Its images in the other forms in which the earlier project may have had them.

        Raises:
            ConfigError: Some are among `index`.
        """
        found = barred_samples(index, self.tombstones)
        for images in others:
            same = replace(index, digests=content_digests(images))
            found |= barred_samples(same, self.tombstones)
        if found.any():
            raise ConfigError(
                f"{found.sum()} of {len(index.ids)} samples were deleted in {self.project}, by name or by "
                f"their pixels, the first is {index.ids[found.argmax()]}: remove them from the dataset"
            )

    def noticed(self, index: SampleIndex, images: NDArray[np.uint8], policy: PolicyRecipe) -> list[str]:
        """Say which of the images (n, c, h, w) look like a deleted one, and what cannot be told.

        Raises:
            ConfigError: There is such an image, and the policy refuses it.
        """
        if policy.near_duplicates == "off" or not self.tombstones:
            return []
        found = alike(thumbnails(images, np.arange(len(images))), self.thumbnails)
        said = []
        if found.any():
            first = index.ids[found.argmax()]
            said.append(
                f"{found.sum()} images look like ones that {self.project} has deleted, the first is {first}"
            )
        if policy.near_duplicates == "refuse" and found.any():
            raise ConfigError(
                f"{said[0]}: allowed are none (near_duplicates is refuse); remove them from the dataset, or "
                "allow them with near_duplicates = warn"
            )
        pictures, known = len({digest for _, digest in self.tombstones}), len(encoded(self.thumbnails))
        if known < pictures:
            said.append(
                f"{pictures - known} pictures that {self.project} has deleted are erased, or of one grey: "
                "whether others look like them cannot be told (keep_thumbnails)"
            )
        return said
