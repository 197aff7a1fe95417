"""Where the results of earlier work are: objects of the store, and the notes in the ledger that lead to them.

Notes are values of the ledger's `meta`: whoever does the same work again finds its result there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from qmu_edge import __version__
from qmu_edge.io.digest import Sha256, sha256
from qmu_edge.io.plain import from_json, to_json
from qmu_edge.project.audits import AttackResult
from qmu_edge.project.records import (
    Adopted,
    ReferenceNote,
    Release,
    Report,
    StepResult,
    Trained,
    noted,
    said,
)
from qmu_edge.request.split import Passes
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Status, Step
from qmu_edge.store.objects import ObjectStore
from qmu_edge.verify.residual import Sensitivity

# Keys of `meta` that hold one value.
EXACT: Final = "deleted before the last training from scratch"
SENSITIVITY: Final = "what a test of the current network can see"
TRAINING_COST: Final = "seconds and images of the last training"
REFERENCE_COST: Final = "seconds and images of the last reference"
PASSES: Final = "images that the recipe's methods take of the sets of a request"
ADOPTED: Final = "the adopted network"
DECLARED: Final = "how the samples were declared"
REFERENCE_SHARE: Final = 1.0  # where none was measured: of small networks on small images
# What `origin` says.
BROUGHT: Final = "adopted, training not witnessed"
BEGUN: Final = "retrained from pretrained weights, their training not witnessed"
# Kinds of keys that lead to objects: "<kind>:<what it was made of>".
TRAINED: Final = "trained"
REFERENCE: Final = "reference"
RELEASE: Final = "release"
BANK: Final = "bank"
SHARDS: Final = "shards"
AUDIT: Final = "audit"


@dataclass(frozen=True, slots=True)
class Note:
    """A note that leads to objects: its key, its kind, what the result was made of, and the objects."""

    key: str
    kind: str
    source: str
    objects: tuple[tuple[str, Sha256], ...]


class Results:
    """Results of earlier work in an open project."""

    def __init__(self, ledger: Ledger, store: ObjectStore) -> None:
        """Both are the project's."""
        self._ledger = ledger
        self._store = store

    def purged(self, digest: Sha256) -> bool:
        """Whether an object is not there because a purge has removed it, which is no damage."""
        return not self._store.path(digest).exists() and self._ledger.removed(digest)

    def release(self, digest: Sha256) -> Release:
        """A stored release.

        Raises:
            IntegrityError: It is missing or altered.
        """
        return Release.parse(self._store.get_bytes(digest))

    def report(self, digest: Sha256) -> Report:
        """A stored report; raises like `release`."""
        return Report.parse(self._store.get_bytes(digest))

    def released(self, checkpoint: Sha256, plan: str) -> Sha256 | None:
        """Digest of the release that was made of a checkpoint by a plan of this digest."""
        found = self._ledger.meta(f"{RELEASE}:{checkpoint}:{plan}")
        return sha256(found) if found else None

    def note_released(self, checkpoint: Sha256, plan: str, release: Sha256) -> None:
        """Let `released` find a release."""
        self._ledger.set_meta(f"{RELEASE}:{checkpoint}:{plan}", release)

    def audited(self, checkpoint: Sha256) -> dict[str, AttackResult]:
        """What attacks have found on the file of a network, by their names.

        Raises:
            IntegrityError: It is missing or altered.
        """
        prefix = f"{AUDIT}:{checkpoint}:"
        notes = [(k.removeprefix(prefix), v) for k, v in self._ledger.notes(AUDIT) if k.startswith(prefix)]
        return {name: AttackResult.parse(self._store.get_bytes(sha256(v))) for name, v in notes if v}

    def note_audited(self, checkpoint: Sha256, attack: str, result: Sha256) -> None:
        """Let `audited` find what an attack has found."""
        self._ledger.set_meta(f"{AUDIT}:{checkpoint}:{attack}", result)

    def trained(self, run: str) -> Trained | None:
        """The result of a training that is named by `run`."""
        found = self._ledger.meta(f"{TRAINED}:{run}")
        return noted(Trained, found) if found else None

    def note_trained(self, run: str, trained: Trained) -> None:
        """Let `trained` find a training, and `seconds_per_image` what it took."""
        self._ledger.set_meta(f"{TRAINED}:{run}", said(trained))
        self._note_cost(trained.spent or {}, trained.images)

    def _note_cost(self, spent: Mapping[str, int | float], images: int) -> None:
        cost = {"seconds": spent.get("seconds", 0.0), "images": images}
        if "epoch_equivalents" in spent:  # of this process: fewer than the epochs after a kill
            cost["epochs"] = spent["epoch_equivalents"]
        self._ledger.set_meta(TRAINING_COST, cost)

    def reference(self, name: str) -> ReferenceNote | None:
        """The reference of this name, which was trained for one request."""
        found = self._ledger.meta(f"{REFERENCE}:{name}")
        return noted(ReferenceNote, found) if found else None

    def note_reference(self, name: str, note: ReferenceNote) -> None:
        """Let `reference` find it."""
        self._ledger.set_meta(f"{REFERENCE}:{name}", said(note))

    def bank(self, shard: int) -> ReferenceNote | None:
        """The reference that was last trained on a shard."""
        found = self._ledger.meta(f"{BANK}:{shard}")
        return noted(ReferenceNote, found) if found else None

    def note_bank(self, shard: int, note: ReferenceNote | None) -> None:
        """Let `bank` find it; with None, let it go."""
        self._ledger.set_meta(f"{BANK}:{shard}", said(note) if note else None)

    def banks(self) -> list[int]:
        """The shards of which there is a reference."""
        return [int(key.partition(":")[2]) for key, value in self._ledger.notes(BANK) if value]

    def shards(self, count: int) -> Sha256 | None:
        """Digest of the shard of each sample, for so many shards."""
        found = self._ledger.meta(f"{SHARDS}:{count}")
        return sha256(found) if found else None

    def note_shards(self, count: int, digest: Sha256 | None) -> None:
        """Let `shards` find it; with None, let it go."""
        self._ledger.set_meta(f"{SHARDS}:{count}", digest)

    def sensitivity(self) -> Sensitivity | None:
        """What tests of the current network can see; None where there are no references."""
        found = self._ledger.meta(SENSITIVITY)
        return from_json(Sensitivity, found, "the ledger's note of the sensitivity") if found else None

    def note_sensitivity(self, found: Sensitivity | None) -> None:
        """Let `sensitivity` find it."""
        self._ledger.set_meta(SENSITIVITY, to_json(found) if found else None)

    def seconds_per_image(self, epochs: int) -> float:
        """What one image took in the last training, forward and backward; 0 when there was none.

        `epochs` is of a training whose note is older than this figure.
        """
        known = self._ledger.meta(TRAINING_COST) or {}
        images = float(known.get("epochs", epochs)) * int(known.get("images", 0))
        return float(known.get("seconds", 0.0)) / max(1.0, images)

    def note_reference_cost(self, seconds: float, images: int) -> None:
        """Let `reference_share` find what a training of a reference took, and of how many images in all."""
        self._ledger.set_meta(REFERENCE_COST, {"seconds": round(seconds, 3), "images": images})

    def reference_share(self, epochs: int) -> float:
        """What an image takes in the training of a reference, as a share of that in the network's own.

        `epochs` is as for `seconds_per_image`; `REFERENCE_SHARE` where either was not measured.
        """
        known, own = self._ledger.meta(REFERENCE_COST) or {}, self.seconds_per_image(epochs)
        if not own or not known:
            return REFERENCE_SHARE
        return float(known["seconds"]) / max(1, int(known["images"])) / own

    def passes(self, recipe: Sha256) -> dict[str, Passes]:
        """How often the methods of a recipe go through the sets of a request; {} of another recipe.

        A recipe that was noted is one whose methods and hyperparameters this version knows to be right.
        """
        found = self._ledger.meta(PASSES) or {}
        same = found.get("recipe") == recipe and found.get("version") == __version__
        known = found["methods"] if same else {}
        return {n: Passes(*map(float, p)) for n, p in known.items()}  # 1.0 is stored as 1

    def note_passes(self, recipe: Sha256, passes: Mapping[str, Passes]) -> None:
        """Let `passes` find them."""
        if self.passes(recipe) != passes:
            methods = {name: list(found) for name, found in passes.items()}
            self._ledger.set_meta(PASSES, {"recipe": recipe, "version": __version__, "methods": methods})

    def fulfilled_steps(self, request_id: str) -> dict[str, StepResult]:
        """What each step of the attempt that ended in a receipt has found."""
        done = [step for step in self._ledger.steps(request_id) if step.status is Status.DONE]
        last = [step.run for step in done if step.step == Step.RECEIPTED][-1]
        return {s.step: StepResult.parse(s.detail) for s in done if s.run in ("", last)}

    def deleted_before_training(self) -> int:
        """How many training images had been deleted when a network was last trained from scratch."""
        return int(self._ledger.meta(EXACT) or 0)

    def note_training_from_scratch(self) -> None:
        """All that is deleted now is unknown to the network that becomes current."""
        self._ledger.set_meta(EXACT, self._ledger.training_images(barred=True))
        if (known := self.adopted()) is not None:
            self.note_adopted(replace(known, retrained=True))

    def adopted(self) -> Adopted | None:
        """The network that was brought from elsewhere, also after it was retrained; None where none was."""
        found = self._ledger.meta(ADOPTED)
        return noted(Adopted, found) if found else None

    def note_adopted(self, found: Adopted | None) -> None:
        """Let `adopted` find it, and `seconds_per_image` what its fine-tuning took; with None, let it go."""
        if found is not None or self._ledger.meta(ADOPTED):
            self._ledger.set_meta(ADOPTED, said(found) if found else None)
        if found is not None and found.spent:
            self._note_cost(found.spent, found.images)

    def declared(self) -> str | None:
        """How it was declared what an adopted network has seen: "registered", "list"; None before."""
        found = self._ledger.meta(DECLARED)
        return str(found) if found else None

    def note_declared(self, how: str) -> None:
        """Let `declared` find it, also after the network was trained anew: the samples are split by it."""
        self._ledger.set_meta(DECLARED, how)

    def pretrained(self) -> Sha256 | None:
        """Digest of the weights that retraining starts from; None to start from scratch."""
        known = self.adopted()
        return known.pretrained if known else None

    def origin(self) -> str:
        """What is to be said of where the current network comes from; "" when it was trained here."""
        known = self.adopted()
        if known is None or (known.retrained and not known.pretrained):
            return ""
        return BEGUN if known.retrained else BROUGHT

    def notes(self) -> Iterator[Note]:
        """All notes that lead to objects."""
        for key, value in self._ledger.notes(TRAINED, REFERENCE, RELEASE, BANK, SHARDS, AUDIT):
            kind, _, source = key.partition(":")
            if value is not None:
                yield Note(key, kind, source.partition(":")[0], tuple(_objects_of(kind, value)))


def _objects_of(kind: str, value: Any) -> Iterator[tuple[str, Sha256]]:
    if kind in (RELEASE, SHARDS, AUDIT):
        yield kind, sha256(value)
    elif kind == TRAINED:
        yield "checkpoint", noted(Trained, value).checkpoint
    else:
        # Up to version 0.1 a reference was a whole network of the recipe, with its report.
        words = {"scores": "reference scores", "report": "reference report"}
        for name in ("scores", "report", "checkpoint", "trained"):
            if value.get(name) is not None:
                yield words.get(name, "reference model"), sha256(value[name])
