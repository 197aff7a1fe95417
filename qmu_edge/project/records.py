"""What work leaves behind: steps, releases, reports, trainings and references.

Each kind has one class and one parser. Releases and reports are JSON objects under their digest; the others
stand in the ledger.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Final, TypeVar

from qmu_edge.errors import IntegrityError
from qmu_edge.io.digest import Sha256, salted, sha256
from qmu_edge.io.json import compact, parse_stored
from qmu_edge.io.names import file_name
from qmu_edge.io.plain import from_json, to_json
from qmu_edge.project.plain import AdoptedJson, MeasuredJson, ReportJson, Training
from qmu_edge.verify.codes import CodesChanged
from qmu_edge.verify.evaluation import Evaluation
from qmu_edge.verify.figures import Figures
from qmu_edge.verify.plain import EfficacyJson
from qmu_edge.verify.verdict import Terms, Verdict

PAPER: Final = "paper"  # the kind of what `StepResult.papers` names

N = TypeVar("N", "Trained", "Adopted", "ReferenceNote")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step of a request has found; a field is None where the step has nothing to say.

    Attributes:
        claim, split, checkpoint, release, report, comparison, page: Digests of the objects that it stored.
        papers: Digests of what was written with the receipts for other tools, by the name of the file.
        counts: How many samples there are of each kind.
        training_images: How many were registered when the request was resolved.
        batch: Names the requests that are served together.
        count: New tombstones.
        receipts: How many were written.
        method, category, result: Of an attempt that did not pass.
        spent: What the training of the step has cost, see `Throughput.spent`.
        circumstances: Of a step that was computed with --deterministic, what its bits depend on.
        seconds, peak_mb: Wall-clock time, and MiB of resident memory at the highest point.
        reason: Of an extension, or the class of the error that ended the step.
    """

    OBJECTS: ClassVar[tuple[str, ...]] = (
        "claim", "split", "checkpoint", "release", "report", "comparison", "page",
    )  # fmt: skip

    claim: Sha256 | None = None
    split: Sha256 | None = None
    checkpoint: Sha256 | None = None
    release: Sha256 | None = None
    report: Sha256 | None = None
    comparison: Sha256 | None = None
    page: Sha256 | None = None
    papers: Mapping[str, Sha256] | None = None
    counts: Mapping[str, int] | None = None
    training_images: int | None = None
    batch: str | None = None
    count: int | None = None
    receipts: int | None = None
    method: str | None = None
    category: str | None = None
    result: str | None = None
    spent: Mapping[str, int | float] | None = None
    circumstances: Mapping[str, str | int] | None = None
    seconds: int | float | None = None
    peak_mb: int | float | None = None
    reason: str | None = None

    @classmethod
    def parse(cls, detail: Mapping[str, Any]) -> "StepResult":
        """What `to_json` wrote into a step's detail; fields of other versions are passed over.

        Raises:
            IntegrityError: An object is not named by a digest.
        """
        known = {f.name: detail[f.name] for f in fields(cls) if f.name in detail}
        for name in known.keys() & set(cls.OBJECTS):
            sha256(known[name], f"the ledger's step: {name}")
        for name, digest in known.get("papers", {}).items():
            sha256(digest, f"the ledger's step: {name}")
        return cls(**known)

    def to_json(self) -> dict[str, object]:
        """The fields that say something."""
        found = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in found if value is not None}

    def objects(self) -> Iterator[tuple[str, Sha256]]:
        """Kind and digest of everything that the step has stored."""
        for name in self.OBJECTS:
            digest = getattr(self, name)
            if digest is not None:
                yield name, digest
        for digest in (self.papers or {}).values():
            yield PAPER, digest

    def stored(self, name: str) -> Sha256:
        """Digest of what a finished step has stored under `name`.

        Raises:
            IntegrityError: The ledger says nothing of it.
        """
        digest = getattr(self, name)
        if not isinstance(digest, str):
            raise IntegrityError(f"the ledger's step names no {name}")
        return Sha256(digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The file with all outputs, which is measured in place of files from which some were taken out.

    Attributes:
        file: Its digest.
        outputs: The label of each output of the files that ship.
    """

    file: Sha256
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Exported files of one checkpoint, and what the gates found.

    Attributes:
        checkpoint: Digest of the checkpoint.
        files, sizes: SHA-256, and size in bytes, of each file by its name.
        parity, levels, explained, gate: Reports of the export's gates by format.
        obstacles: By format, what keeps a file from being proven to compute the same on every processor;
            formats of older releases are missing.
        whole: Where outputs of deleted classes were taken out, the file with all of them.
    """

    checkpoint: Sha256
    files: Mapping[str, Sha256]
    sizes: Mapping[str, int]
    parity: Mapping[str, Any] = field(default_factory=dict)
    levels: Mapping[str, Any] = field(default_factory=dict)
    explained: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    obstacles: Mapping[str, Any] = field(default_factory=dict)
    whole: Whole | None = None

    @classmethod
    def parse(cls, data: bytes) -> "Release":
        """What `to_bytes` wrote.

        Raises:
            IntegrityError: It wrote something else.
        """
        document = parse_stored(data, "a stored release")
        document = {"sizes" if name == "bytes" else name: value for name, value in document.items()}
        found = from_json(cls, document, "a stored release is not as it was written")
        for name in found.files:
            file_name(name, f"a stored release of checkpoint {found.checkpoint[:12]}")
        return found

    def to_bytes(self) -> bytes:
        """The same bytes for the same release."""
        found = {"bytes" if n == "sizes" else n: value for n, value in to_json(self).items()}
        return compact({name: value for name, value in found.items() if value is not None})

    def stored(self) -> list[Sha256]:
        """Digests of all its files: those that ship, and what was measured in their place."""
        return [*self.files.values(), *([self.whole.file] if self.whole else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one exported file does.

    Attributes:
        evaluation: Accuracies and membership inference.
        mia_efficacy: Mean and deviation over draws of the attack of the papers; None without its sets.
        metrics: Values of the recipe's metrics by name, None of one that failed; for information only.
    """

    evaluation: Evaluation
    mia_efficacy: EfficacyJson | None
    metrics: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Measured":
        """What `to_json` wrote.

        Raises:
            IntegrityError: It wrote something else.
        """
        try:
            evaluation = from_json(Evaluation, document["evaluation"], "a stored evaluation")
            metrics = {str(name): value for name, value in document.get("metrics", {}).items()}
            return cls(evaluation=evaluation, mia_efficacy=document["mia_efficacy"], metrics=metrics)
        except (TypeError, KeyError, AttributeError) as error:
            raise IntegrityError(f"a stored report is not as it was written: {error}") from None

    def to_json(self) -> MeasuredJson:
        """All of it, ready for JSON."""
        found: MeasuredJson = {
            "evaluation": to_json(self.evaluation), "mia_efficacy": self.mia_efficacy,
        }  # fmt: skip
        if self.metrics:
            found["metrics"] = self.metrics
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured for a request, and the verdict.

    Attributes:
        unlearned, original: The exported file, and the one before.
        terms: What it was judged by.
        verdict: The outcome.
        sizes: Of the files in bytes by name: of "unlearned" and "original".
        codes: How the integer weights of the two differ; None in reports that are older than the figure.
        figures: What is drawn about it; None in reports that are older than the page.
    """

    unlearned: Measured
    original: Measured
    terms: Terms
    verdict: Verdict
    sizes: Mapping[str, Mapping[str, int]]
    codes: CodesChanged | None = None
    figures: Figures | None = None

    @classmethod
    def parse(cls, data: bytes) -> "Report":
        """What `to_bytes` wrote, in this version or before.

        Raises:
            IntegrityError: It wrote something else.
        """
        document = parse_stored(data, "a stored report")
        try:
            codes, figures = document.get("codes_changed"), document.get("figures")
            terms = document["terms"] if "terms" in document else _older_terms(document)
            return cls(
                unlearned=Measured.parse(document["unlearned"]),
                original=Measured.parse(document["original"]),
                terms=from_json(Terms, terms, "a stored report: terms"),
                verdict=from_json(Verdict, document["verdict"], "a stored report: verdict"),
                sizes=document["bytes"],
                codes=from_json(CodesChanged, codes, "a stored report: codes") if codes else None,
                figures=from_json(Figures, figures, "a stored report: figures") if figures else None,
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise IntegrityError(f"a stored report is not as it was written: {error}") from None

    def to_json(self) -> ReportJson:
        """All of it, ready for JSON."""
        found: ReportJson = {
            "unlearned": self.unlearned.to_json(),
            "original": self.original.to_json(),
            "terms": to_json(self.terms),
            "verdict": to_json(self.verdict),
            "bytes": self.sizes,
        }
        if self.codes:
            found["codes_changed"] = to_json(self.codes)
        if self.figures:
            found["figures"] = to_json(self.figures)
        return found

    def to_bytes(self) -> bytes:
        """The same bytes for the same report."""
        return compact(self.to_json())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A training that ended.

    Attributes:
        checkpoint: Digest of the network.
        images: How many it was trained on.
        accuracy: In PyTorch, on the "validation" and the "test" samples; of those that there are.
        spent: What it has cost; None in projects that are older than the figure.
    """

    checkpoint: Sha256
    images: int
    accuracy: Mapping[str, int | float]
    spent: Mapping[str, int | float] | None = None

    def to_json(self) -> Training:
        """The fields that say something."""
        found: Training = {
            "checkpoint": self.checkpoint, "images": self.images, "accuracy": self.accuracy,
        }  # fmt: skip
        if self.spent is not None:
            found["spent"] = self.spent
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A network that was trained elsewhere and became the project's.

    Attributes:
        run: Digest of all that went into it.
        checkpoint: Digest of the network.
        weights: SHA-256 of the file that was given.
        images: How many it is declared to have been trained on.
        accuracy: In PyTorch, on the "validation" and the "test" samples; of those that there are.
        float_accuracy: The same before quantization; None of a deployed file.
        agreement: How far network and deployed file agree; None of weights.
        pretrained: Digest of the weights that retraining starts from; None to start from scratch.
        retrained: Whether a network that was trained here has taken its place.
        spent: What training after quantization has cost.
    """

    run: Sha256
    checkpoint: Sha256
    weights: Sha256
    images: int
    accuracy: Mapping[str, int | float]
    float_accuracy: Mapping[str, int | float] | None = None
    agreement: Mapping[str, int | float] | None = None
    pretrained: Sha256 | None = None
    retrained: bool = False
    spent: Mapping[str, int | float] | None = None

    def to_json(self) -> AdoptedJson:
        """What whoever has brought it wants to know."""
        found: AdoptedJson = {
            "checkpoint": self.checkpoint, "weights": self.weights, "images": self.images,
            "accuracy": self.accuracy,
        }  # fmt: skip
        if self.float_accuracy is not None:
            found["float_accuracy"] = self.float_accuracy
        if self.agreement is not None:
            found["agreement"] = self.agreement
        if self.pretrained is not None:
            found["pretrained"] = self.pretrained
        if self.spent is not None:
            found["spent"] = self.spent
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceNote:
    """A reference that was trained.

    Attributes:
        made_of: Salted digest of all that went into it.
        scores: Digest of what it thinks of the samples that it never saw.
        salt: Random text: what the chain keeps of this note confirms nothing once the note is gone. None in
            projects that are older.
    """

    made_of: Sha256
    scores: Sha256
    salt: str | None = None

    def is_of(self, name: Sha256) -> bool:
        """Whether all of this, by its digest, went into the reference."""
        return self.made_of == salted(name, self.salt or "")


def _older_terms(document: Mapping[str, Any]) -> dict[str, object]:
    """The terms of a report from before there were answers: it compared with a rule of thumb."""
    known = {"max_ta_drop", "max_ra_drop"}
    limits = {name: value for name, value in document["thresholds"].items() if name in known}
    return {"thresholds": limits, "exact": document["reference"]["kind"] == "exact"}


def noted(kind: type[N], value: Any) -> N:
    """A note as its class; fields of other versions are passed over."""
    known = {f.name: value[f.name] for f in fields(kind) if f.name in value}
    return from_json(kind, known, "the ledger's note of a result is not as it was written")


def said(note: Trained | Adopted | ReferenceNote) -> dict[str, object]:
    """The fields of a note that say something, ready for JSON."""
    return {name: value for name, value in asdict(note).items() if value is not None}
