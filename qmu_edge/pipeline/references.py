"""References: small networks that never saw an image, and what they think of it.

The training images are divided into shards by person, and a float network is trained on each: so every person
is unknown to all networks but one. All together cost about as much as one training, once. A request then
finds their scores stored. The one network that knew the person is trained again before the receipt.

Only scores are kept, and only of images that a network never saw. The network itself is dropped: nothing that
knows a training image by heart lies beside the checkpoint. The shards are drawn once and kept, because
the assignment would change when people are deleted.
"""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from qmu_edge.data.index import SampleSplit
from qmu_edge.data.shards import lookalikes, owners, shards
from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.models.build import build
from qmu_edge.models.layers import Shape
from qmu_edge.pipeline.inputs import samples_of
from qmu_edge.pipeline.networks import Networks
from qmu_edge.project.project import Project
from qmu_edge.project.records import ReferenceNote
from qmu_edge.recipe import ModelRecipe, Recipe
from qmu_edge.runtime.memory import within_memory
from qmu_edge.train.batches import Augment
from qmu_edge.train.fit import fit
from qmu_edge.verify.mia import mean_score, views
from qmu_edge.verify.residual import calibration, intraclass

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

    def to_bytes(self) -> bytes:
        """The same bytes for the same reference."""
        return save_arrays({"members": self.members.astype(np.uint8), "scores": self.scores})


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


def build_references(project: Project, device: torch.device) -> dict[str, Any]:
    """Train the references that are missing, altered, or know somebody who was deleted since.

    Returns:
        How many there are, and how many of them were trained now.
    """
    assigned = _assigned(project)
    trainable = project.samples.trainable()
    trained = 0
    for shard in range(project.recipe.references.count):
        chosen = trainable[assigned[trainable] == shard]
        name = _name(project, shard, chosen)
        known = project.results.bank(shard)
        if known is not None and known.made_of == name and _readable(project, known.scores):
            continue
        everybody = np.flatnonzero(~project.samples.barred())
        made = _trained(project, device, shard, chosen, everybody, name)
        note = ReferenceNote(made_of=name, scores=project.store.put_bytes(made.to_bytes()))
        project.results.note_bank(shard, note)
        trained += 1
    return {"references": project.recipe.references.count, "trained": trained}


def for_request(
    project: Project, split: str, retain: NDArray[np.int64], scored: NDArray[np.int64], device: torch.device
) -> list[Reference]:
    """References of one request, trained on nothing that it names; found again after a kill.

    Args:
        project: Locked.
        split: Digest of the request's sets.
        retain: What may be trained on (m,).
        scored: What to score (s,), the request's images too.
        device: Where to train.
    """
    assigned, found = _assigned(project), []
    for shard in range(project.recipe.references.count):
        key = f"{split}:{shard}"
        known = project.results.reference(key)
        if known is None:
            chosen = retain[assigned[retain] == shard]
            name = _name(project, shard, chosen)
            made = _trained(project, device, shard, chosen, scored, name)
            known = ReferenceNote(made_of=name, scores=project.store.put_bytes(made.to_bytes()))
            project.results.note_reference(key, known)
        found.append(_read(project, known.scores))
    return found


def bank(project: Project, besides: Collection[str] = ()) -> list[Reference]:
    """The stored references that know nobody who was deleted; by the requests `besides` is no matter.

    Raises:
        IntegrityError: One is missing or altered: `build_references` makes it anew.
    """
    barred = project.samples.barred(besides=besides)
    notes = (project.results.bank(shard) for shard in range(project.recipe.references.count))
    found = [_read(project, note.scores) for note in notes if note is not None]
    usable = [one for one in found if not (one.members & barred).any()]
    if len(usable) < len(found):
        project.progress.note(
            f"{len(found) - len(usable)} of {len(found)} references know somebody who was deleted and "
            "are not used: qmu-edge references build trains them again"
        )
    return usable


def expected(project: Project, references: list[Reference]) -> Expected | None:
    """What references expect of every sample; None without any.

    Unseen samples are known to none of them. One is left out for each all the same, in turn: a mean of as
    many networks has the same errors as that of a training sample.
    """
    if not references:
        return None
    index = project.samples.index
    scores = np.stack([one.scores for one in references]).astype(np.float64)
    missing = np.stack([one.members for one in references]) | ~np.isfinite(scores)
    unseen = np.flatnonzero(~index.in_split(SampleSplit.TRAIN))
    if missing.any():  # else they were trained for one request, and know no sample that counts
        missing[np.arange(len(unseen)) % len(references), unseen] = True
    people = owners(index)
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
    mean = float(np.mean(found)) if found else 0.0
    return mean if several >= _LEAST_PEOPLE else max(mean, _ALIKE)


def _trained(
    project: Project, device: torch.device, shard: int, chosen: NDArray[np.int64],
    scored: NDArray[np.int64], name: str,
) -> Reference:  # fmt: skip
    """Train one network on the samples `chosen` (m,), and score the others among `scored` (s,)."""
    recipe, samples = project.recipe, project.samples
    members = lookalikes(samples.index, chosen) if len(chosen) else np.zeros(len(samples.index.ids), np.bool_)
    scores = np.full(len(members), np.nan, np.float32)
    others = scored[~members[scored]]
    if len(chosen) == 0 or len(others) == 0:
        return Reference(members, scores)
    seed = recipe.train.seed + SEED + shard
    shape = Shape(
        channels=samples.images.shape[1], classes=len(samples.index.class_names),
        mean=recipe.data.mean, std=recipe.data.std,
    )  # fmt: skip
    model = build(_float_twin(recipe), shape, seed, Networks.of(project).factory).to(device)
    with within_memory("[train] batch", recipe.train.batch):
        fit(
            model, samples_of(samples, recipe.data, device, chosen, "reference"),
            recipe.train.model_copy(update={"seed": seed, "epochs": _epochs(recipe)}),
            Augment(recipe.data.pad, recipe.data.flip), progress=project.progress,
            label=f"reference {shard + 1} of {recipe.references.count}",
            resume=project.folder / "work" / f"reference-{name[:16]}.safetensors",
        )  # fmt: skip
        scores[others] = _scores(project, model, device, others)
    return Reference(members, scores)


def _scores(
    project: Project, model: torch.nn.Module, device: torch.device, positions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What a network thinks of samples (s,), on average over their views."""
    images, labels = project.samples.images, project.samples.index.labels
    model.eval()
    found = []
    for start in range(0, len(positions), _BATCH):
        batch = positions[start : start + _BATCH]
        shown = views(images[batch], flip=project.recipe.data.flip)
        logits = [_logits(model, view, device) for view in shown]
        found.append(mean_score(logits, labels[batch]))
    return np.concatenate(found)


def _logits(model: torch.nn.Module, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    with torch.inference_mode():
        given = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 255
        return np.asarray(model(given).float().cpu().numpy())


def _float_twin(recipe: Recipe) -> ModelRecipe:
    """The recipe's network without quantizers: half the time, and as good a reference."""
    return recipe.model.model_copy(
        update={
            "weight_bits": 8, "activation_bits": "float", "edge_bits": "float",
            "quantizer": "learned_step", "width": recipe.model.width * recipe.references.width,
        }
    )  # fmt: skip


def _epochs(recipe: Recipe) -> int:
    return recipe.references.epochs or recipe.train.epochs


def _assigned(project: Project) -> NDArray[np.int64]:
    """The shard of each sample (n,), drawn the first time and then kept."""
    index, count = project.samples.index, project.recipe.references.count
    known = project.results.shards(count)
    if known is not None:
        found = np.frombuffer(project.store.get_bytes(known), "<i8")
        if len(found) != len(index.ids):
            raise IntegrityError(f"the stored shards are of {len(found)} samples, not {len(index.ids)}")
        return found
    drawn = shards(index, count)
    project.results.note_shards(count, project.store.put_bytes(drawn.astype("<i8").tobytes()))
    return drawn


def _name(project: Project, shard: int, chosen: NDArray[np.int64]) -> Sha256:
    """Digest of all that goes into one reference."""
    recipe, index = project.recipe, project.samples.index
    identity = f"{_float_twin(recipe)}{recipe.train}{recipe.data}{recipe.references}{shard}{index.digest()}"
    return sha256_of(identity.encode() + chosen.astype("<i8").tobytes())


def _readable(project: Project, digest: Sha256) -> bool:
    try:
        _read(project, digest)
    except IntegrityError:
        return False
    return True


def _read(project: Project, digest: Sha256) -> Reference:
    return Reference.parse(project.store.get_bytes(digest, limit=_MAX_BYTES), len(project.samples.index.ids))
