"""References: small networks that never saw an image, and what they think of it.

The training images are divided into shards by person, and a float network is trained on each: so every person
is unknown to all networks but one. All together cost about as much as one training, once. A request then
finds their scores stored. The one network that knew the person is trained again before the receipt.

Only scores are kept, and only of images that a network never saw. The network itself is dropped: nothing that
knows a training image by heart lies beside the checkpoint. The scores of deleted images go with the request.
The shards are drawn once and kept, because the assignment would change when people are deleted.
"""

import secrets
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from qmu_edge.data.index import SampleIndex, SampleSplit
from qmu_edge.data.shards import owners, shards
from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256, salted, sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier
from qmu_edge.pipeline.distributed import Job
from qmu_edge.pipeline.inputs import samples_of, shape_of
from qmu_edge.pipeline.networks import Networks
from qmu_edge.project.plain import References
from qmu_edge.project.project import Project
from qmu_edge.project.records import ReferenceNote
from qmu_edge.project.results import Results
from qmu_edge.project.samples import ProjectSamples
from qmu_edge.recipe import ModelRecipe, Recipe, TrainRecipe
from qmu_edge.request.stored import Positions
from qmu_edge.runtime.memory import within_memory
from qmu_edge.store.objects import ObjectStore
from qmu_edge.train.batches import Augment, Samples
from qmu_edge.verify.metrics import intraclass
from qmu_edge.verify.mia import mean_score, views
from qmu_edge.verify.residual import Values, calibration

SEED: Final = 1000  # added to the training's, and the number of the shard
_LEAST_PEOPLE: Final = 8  # fewer people with several images do not tell how alike one's images are
_ALIKE: Final = 0.1  # then taken at least for this
_MAX_BYTES: Final = 1 << 30
_BATCH: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """One network's view of n samples of the index.

    Attributes:
        members: Which samples it was trained on, or have their pixels, bool (n,).
        scores: Its mean scaled confidence in the true class, float32 (n,); NaN where there is none.
    """

    members: NDArray[np.bool_]
    scores: NDArray[np.float32]

    @classmethod
    def parse(cls, data: bytes, n: int) -> "Reference":
        """What `to_bytes` wrote, of n samples.

        Raises:
            IntegrityError: It wrote something else.
        """
        try:
            arrays = load_arrays(data)
            members, scores = arrays["members"].astype(np.bool_), arrays["scores"]
        except (SafetensorError, KeyError, ValueError) as error:
            raise IntegrityError(f"stored references are not as they were written: {error}") from None
        if members.shape != (n,) or scores.shape != (n,) or scores.dtype != np.float32:
            raise IntegrityError(f"stored references: {scores.dtype} {scores.shape}, allowed float32 ({n},)")
        return cls(members, scores)

    def to_bytes(self, salt: str = "") -> bytes:
        """The same bytes for the same reference and salt, see `ReferenceNote`."""
        return save_arrays(
            {"members": self.members.astype(np.uint8), "scores": self.scores},
            {"salt": salt} if salt else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What networks that never saw it think of each of n samples.

    Attributes:
        scores: Mean over these networks, float64 (n,); NaN where there is none.
        networks: How many there are, (n,).
        people: Whose each sample is, as numbers (n,).
        intraclass: Correlation of one person's images, see `qmu_edge.verify.residual`.
    """

    scores: NDArray[np.float64]
    networks: NDArray[np.int64]
    people: NDArray[np.int64]
    intraclass: float


@dataclass(frozen=True, slots=True)
class Bank:
    """The references of a project.

    Attributes:
        samples, results, store, recipe, networks, progress: Of the project, which is locked where anything
            is trained.
        work: Folder for the state of an unfinished training.
    """

    samples: ProjectSamples
    results: Results
    store: ObjectStore
    recipe: Recipe
    networks: Networks
    work: Path
    progress: Progress

    @classmethod
    def of(cls, project: Project) -> "Bank":
        """Those of a project."""
        return cls(
            project.samples, project.results, project.store, project.recipe, Networks.of(project),
            project.folder / "work", project.progress,
        )  # fmt: skip

    def build(self, device: torch.device, served: Collection[str] = ()) -> References:
        """Train the references that are missing, altered, or know somebody who was deleted since.

        Nothing that is current holds a score of a deleted image but of those that requests wait for.

        Args:
            device: Where to train.
            served: Open requests that have passed: they wait for no score any more.

        Returns:
            How many there are, and how many of them were trained now.
        """
        self.forget()
        if len(self.samples.index.class_names) < 2:
            self.progress.note("one class only: there is no confidence to compare, and no references")
            return {"references": 0, "trained": 0}
        gone = self.samples.forgotten(served)
        assigned, trainable, trained = self._assigned(), self.samples.trainable(), 0
        for shard in range(self.recipe.references.count):
            chosen = trainable[assigned[trainable] == shard]
            name, known = self._name(shard, chosen), self.results.bank(shard)
            if known is not None and known.is_of(name) and self._readable(known.scores):
                self._erase(shard, known, gone)
                continue
            self.results.note_bank(shard, self._made(name, shard, chosen, np.flatnonzero(~gone), device))
            trained += 1
        self.drop_states()
        return {"references": self.recipe.references.count, "trained": trained}

    def _erase(self, shard: int, known: ReferenceNote, gone: NDArray[np.bool_]) -> None:
        """Keep no score of samples that are `gone` (n,)."""
        found = self._read(known.scores)
        if np.isfinite(found.scores[gone]).any():
            scores = np.where(gone, np.float32(np.nan), found.scores)
            left = Reference(found.members, scores).to_bytes(known.salt or "")
            self.results.note_bank(shard, replace(known, scores=self.store.put_bytes(left)))

    def forget(self) -> None:
        """Let go of references that the recipe does not ask for any more: a purge removes them."""
        wanted = self.recipe.references.count if self.recipe.references.trained == "once" else 0
        for shard in self.results.banks():
            if shard >= wanted:
                self.results.note_bank(shard, None)

    def drop_states(self) -> None:
        """Remove what unfinished trainings of references have left: it knows whom it was trained on."""
        for state in self.work.glob("reference-*"):
            state.unlink(missing_ok=True)

    def for_request(
        self, split: str, retain: Positions, scored: Positions, device: torch.device
    ) -> list[Reference]:
        """References of one request, trained on nothing that it names; found again after a kill.

        Args:
            split: Digest of the request's sets.
            retain: What may be trained on (m,).
            scored: What to score (s,), the request's images too.
            device: Where to train.
        """
        assigned, found = self._assigned(), []
        for shard in range(self.recipe.references.count):
            chosen = retain[assigned[retain] == shard]
            key, name = f"{split}:{shard}", self._name(shard, chosen)
            known = self.results.reference(key)
            if known is None or not known.is_of(name):
                known = self._made(name, shard, chosen, scored, device)
                self.results.note_reference(key, known)
            found.append(self._read(known.scores))
        return found

    def usable(self, besides: Collection[str] = ()) -> list[Reference]:
        """The stored references that know nobody who was deleted; by the requests `besides` is no matter.

        Raises:
            IntegrityError: One is missing or altered: `build` makes it anew.
        """
        barred = self.samples.barred(besides=besides)
        notes = {shard: self.results.bank(shard) for shard in range(self.recipe.references.count)}
        found = {shard: self._read(note.scores) for shard, note in notes.items() if note is not None}
        assigned = self._assigned()  # others have the pixels of a member, and are none
        good = [one for shard, one in found.items() if not (one.members & barred & (assigned == shard)).any()]
        if len(good) < len(found):
            self.progress.note(
                f"{len(found) - len(good)} of {len(found)} references know somebody who was deleted and "
                "are not used: qmu-edge references build trains them again"
            )
        return good

    def _made(
        self, name: Sha256, shard: int, chosen: Positions, scored: Positions, device: torch.device
    ) -> ReferenceNote:
        """Train one network on the samples `chosen` (m,), and score the others among `scored` (s,)."""
        index, references = self.samples.index, self.recipe.references
        members = index.digests.mask({index.digests[i] for i in chosen.tolist()})
        scores = np.full(len(members), np.nan, np.float32)
        others = scored[~members[scored]]
        if len(chosen) > 1 and len(others):  # a single image has no batch statistics
            self.progress.note(f"reference {shard + 1} of {references.count}")
            with within_memory("[train] batch", self.recipe.train.batch):
                model = self._trained(name, shard, chosen, device)
                scores[others] = self._scores(model, others, device)
        salt = secrets.token_hex(32)
        stored = self.store.put_bytes(Reference(members, scores).to_bytes(salt))
        return ReferenceNote(made_of=salted(name, salt), scores=stored, salt=salt)

    def _trained(self, name: Sha256, shard: int, chosen: Positions, device: torch.device) -> Classifier:
        images = samples_of(self.samples, self.recipe.data, device, chosen, "reference")
        return self.trained_on(images, shard, name[:16])

    def trained_on(self, images: Samples, number: int, state: str) -> Classifier:
        """A float network that is trained on these images alone, where they lie; a killed training goes on.

        Args:
            images: Of one shard, or of whoever asks.
            number: Its initial weights and its order are those of this number.
            state: Name of the unfinished training, see `drop_states`.
        """
        data, train = self.recipe.data, reference_training(self.recipe, number)
        start = self.networks.start if self._begun_with else None
        shape, factory = shape_of(self.samples, data), self.networks.factory
        model = build(float_twin(self.recipe), shape, train.seed, factory, start).to(images.device)
        unfinished = self.work / f"reference-{state}.safetensors"
        whole, begun = not unfinished.exists(), time.perf_counter()
        job = Job.training(
            model, images, train, Augment.of(data), source=self.networks.source,
            progress=self.progress, state=unfinished,
        )  # fmt: skip
        trained = job.shared()
        if whole:
            self.results.note_reference_cost(time.perf_counter() - begun, train.epochs * len(images))
        return trained

    @property
    def _begun_with(self) -> Sha256 | None:
        """References start where retraining does, but not with fewer channels than its weights are for."""
        return self.networks.pretrained if self.recipe.references.width == 1.0 else None

    def _scores(self, model: torch.nn.Module, positions: Positions, device: torch.device) -> Values:
        """What a network thinks of samples (s,), on average over their views."""
        images, labels, found = self.samples.images, self.samples.index.labels, []
        model.eval()
        for start in range(0, len(positions), _BATCH):
            batch = positions[start : start + _BATCH]
            shown = views(images[batch], flip=self.recipe.data.flip)
            found.append(mean_score([_logits(model, view, device) for view in shown], labels[batch]))
        return np.concatenate(found)

    def _assigned(self) -> Positions:
        """The shard of each sample (n,), drawn the first time and then kept."""
        index, count = self.samples.index, self.recipe.references.count
        known = self.results.shards(count)
        if known is not None:
            try:
                found = np.frombuffer(self.store.get_bytes(known, limit=_MAX_BYTES), "<i8")
                if len(found) == len(index.ids):
                    return found
            except IntegrityError:
                pass  # they are drawn anew, and references of other samples are trained again
        drawn = shards(index, count)
        self.results.note_shards(count, self.store.put_bytes(drawn.astype("<i8").tobytes()))
        return drawn

    def _name(self, shard: int, chosen: Positions) -> Sha256:
        """Digest of all that goes into one reference."""
        recipe, index = self.recipe, self.samples.index
        parts = [float_twin(recipe), reference_training(recipe, shard), recipe.data, index.digest()]
        parts += [self._begun_with] if self._begun_with else []
        return sha256_of("".join(map(str, parts)).encode() + chosen.astype("<i8").tobytes())

    def _readable(self, digest: Sha256) -> bool:
        try:
            self._read(digest)
        except IntegrityError:
            return False
        return True

    def _read(self, digest: Sha256) -> Reference:
        try:
            data = self.store.get_bytes(digest, limit=_MAX_BYTES)
            return Reference.parse(data, len(self.samples.index.ids))
        except IntegrityError as error:
            raise IntegrityError(f"{error}; qmu-edge references build trains it again") from None


def expected(index: SampleIndex, references: list[Reference]) -> Expected | None:
    """What references expect of every sample; None without any.

    Unseen samples are known to none of them. One is left out for each all the same, in turn: a mean of as
    many networks has the same errors as that of a training sample.
    """
    if not references:
        return None
    scores = np.stack([one.scores for one in references]).astype(np.float64)
    missing = np.stack([one.members for one in references]) | ~np.isfinite(scores)
    unseen = np.union1d(np.flatnonzero(~index.in_split(SampleSplit.TRAIN)), sorted(index.others)).astype(
        np.int64
    )
    if missing.any():  # else they were trained for one request, and know no sample that counts
        missing[np.arange(len(unseen)) % len(references), unseen] = True
    people = owners(index, np.arange(len(index.ids)))
    weights = (~missing).astype(np.float64)
    networks = weights.sum(axis=0).astype(np.int64)
    mean = np.where(missing, 0.0, scores).sum(axis=0) / np.maximum(networks, 1)
    mean[networks == 0] = np.nan
    alike = _alike(np.where(missing, np.nan, scores), index.labels, len(index.class_names), people)
    return Expected(mean, networks, people, alike)


def _alike(
    scores: NDArray[np.float64], labels: NDArray[np.int64], classes: int, people: NDArray[np.int64]
) -> float:
    """How alike one person's images are to a network that never saw them: each against all the others."""
    found, several = [], 0
    for one in range(len(scores)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of samples that no other network has scored
            others = np.nanmean(np.delete(scores, one, axis=0), axis=0) if len(scores) > 1 else scores[one]
        there = np.flatnonzero(np.isfinite(scores[one]) & np.isfinite(others))
        if len(there) < 2:
            continue
        x = calibration(others[there], labels[there], classes)
        weights = np.linalg.lstsq(x, scores[one][there], rcond=None)[0]
        found.append(intraclass(scores[one][there] - x @ weights, people[there]))
        several = max(several, int((np.unique(people[there], return_counts=True)[1] > 1).sum()))
    mean = min(1.0, max(0.0, float(np.mean(found)))) if found else 0.0
    return mean if several >= _LEAST_PEOPLE else max(mean, _ALIKE)


def float_twin(recipe: Recipe) -> ModelRecipe:
    """The recipe's network without quantizers: half the time, and as good a reference."""
    width = recipe.model.width * recipe.references.width
    return recipe.model.unquantized().model_copy(update={"weight_bits": 8, "width": width})


def reference_training(recipe: Recipe, shard: int) -> TrainRecipe:
    """How the reference of a shard is trained: as the network, from other initial weights."""
    epochs = recipe.references.epochs or recipe.train.epochs
    return recipe.train.model_copy(update={"seed": recipe.train.seed + SEED + shard, "epochs": epochs})


def _logits(model: torch.nn.Module, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    with torch.inference_mode():
        given = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 255
        return np.asarray(model(given).float().cpu().numpy())
