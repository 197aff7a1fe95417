"""What the verdict on a file is made of: the original and the references on each image, without the file.

It is stored with the report, so that the same file can be judged again; a purge removes it with what else was
made of deleted images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from qmu_edge.data.index import SampleIndex
from qmu_edge.errors import IntegrityError
from qmu_edge.pipeline.evaluate import Seen, SetPositions
from qmu_edge.pipeline.references import Expected
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.residual import Compared

MAX_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The original and the references on sets of images; arrays as in `Seen` and `Expected`, but by set.

    Attributes:
        before: The original.
        references: Mean scores under networks that never saw an image; without any there is no set.
        people: Whose each image is.
        requests: Which of several requests names each image of the forget set.
    """

    before: Seen
    references: Mapping[SetName, NDArray[np.float64]]
    people: Mapping[SetName, NDArray[np.int64]]
    requests: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls, before: Seen, expected: Expected | None, requests: NDArray[np.int64] | None = None
    ) -> "Comparison":
        """What references expect on the sets on which the original was measured."""
        if expected is None:
            return cls(before, {}, {}, requests)
        at = before.positions
        return cls(
            before,
            {name: expected.scores[positions] for name, positions in at.items()},
            {name: expected.people[positions] for name, positions in at.items()},
            requests,
        )

    @classmethod
    def parse(cls, data: bytes) -> "Comparison":
        """What `to_bytes` wrote.

        Raises:
            IntegrityError: It wrote something else.
        """
        try:
            parts: dict[str, dict[SetName, NDArray[np.generic]]] = {
                part: {} for part in ("positions", "right", "scores", "references", "people", "requests")
            }
            for key, array in sorted(load_arrays(data).items()):  # which come in any order
                name, _, part = key.partition(".")
                parts[part][SetName(name)] = array
            right = {name: array.astype(np.bool_) for name, array in parts.pop("right").items()}
            references, people = parts.pop("references"), parts.pop("people")
            requests = parts.pop("requests").get(SetName.FORGET)
            _require_fitting(parts["positions"], (right, parts["scores"]), (references, people))
            return cls(Seen(right=right, **parts), references, people, requests)  # type: ignore[arg-type]
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise IntegrityError(f"stored comparison is not as it was written: {error}") from None

    def to_bytes(self, salt: str = "") -> bytes:
        """The same bytes for the same comparison and salt, see `Split`."""
        seen = self.before
        parts = {
            "positions": seen.positions, "right": seen.right, "scores": seen.scores,
            "references": self.references, "people": self.people,
            "requests": {} if self.requests is None else {SetName.FORGET: self.requests},
        }  # fmt: skip
        return save_arrays(
            {
                f"{name}.{part}": array.astype(np.uint8) if part == "right" else array
                for part, arrays in parts.items()
                for name, array in arrays.items()
            },
            {"salt": salt} if salt else None,
        )

    def positions(self, barred: NDArray[np.bool_]) -> SetPositions:
        """The sets, without what was deleted since from those that are kept."""
        left = {name: p[self.kept(name, barred)] for name, p in self.before.positions.items()}
        return {name: positions for name, positions in left.items() if len(positions)}

    def compared(self, after: Seen, index: SampleIndex, barred: NDArray[np.bool_]) -> dict[SetName, Compared]:
        """A file beside the original and the references, image by image.

        Args:
            after: The file on `positions(barred)`.
            index: Of all samples.
            barred: Which samples were deleted (n,).
        """
        found = {}
        for name, positions in after.positions.items():
            kept = self.kept(name, barred)
            references, people = self.references.get(name), self.people.get(name)
            found[name] = Compared(
                labels=index.labels[positions], classes=len(index.class_names),
                right=after.right[name], score=after.scores[name],
                right_before=self.before.right[name][kept], score_before=self.before.scores[name][kept],
                references=None if references is None else references[kept],
                people=None if people is None else people[kept],
                requests=self.requests if name is SetName.FORGET else None,
            )  # fmt: skip
        return found

    def kept(self, name: SetName, barred: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which images of a set are still in it, (n,)."""
        positions = self.before.positions[name]
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(barred):
            raise IntegrityError("a stored comparison names samples that there are not")
        return np.ones(len(positions), np.bool_) if name is SetName.FORGET else ~barred[positions]


def _require_fitting(
    positions: Mapping[SetName, NDArray[Any]],
    all_of: Sequence[Mapping[SetName, NDArray[Any]]],
    some_of: Sequence[Mapping[SetName, NDArray[Any]]],
) -> None:
    """One value for each position: of every set, or of those that have any."""
    if any(p.dtype != np.int64 or p.ndim != 1 for p in positions.values()):
        raise ValueError("positions are no whole numbers")
    if any(part.keys() != positions.keys() for part in all_of):
        raise ValueError("a set lacks a part")
    for part in (*all_of, *some_of):
        if any(array.shape != positions[name].shape for name, array in part.items()):
            raise ValueError("parts of other lengths")
