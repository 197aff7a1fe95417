"""The fields of an erasure receipt: an in-toto Statement whose predicate has no room for free text.

This is the one list of fields. Whoever makes a receipt constructs these objects, whoever reads one gets them,
and the JSON Schema that is published as `schemas/erasure-receipt.v3.json` is generated from them. A text is a
digest, a time, one word without spaces or slashes, or a plain sentence. Where the names of metrics,
parameters and libraries differ between versions, a small object of words and numbers holds them. So there is
no field that a name, a path or a picture would fit into; `qmu_edge.receipt.personal_data` looks at the words.

Other fields need a new predicate type; receipts of the old type stay readable.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from qmu_edge.errors import LedgerError
from qmu_edge.io.canonical import canonical
from qmu_edge.io.digest import Sha256
from qmu_edge.io.json import MAX_INTEGER, parse_object
from qmu_edge.receipt.fields import (
    MAX_ITEMS,
    OPEN,
    Count,
    Counts,
    Form,
    Fraction,
    Groups,
    HexDigest,
    Integer,
    Number,
    Sentence,
    Time,
    Values,
    Word,
    refusing,
)
from qmu_edge.receipt.version1 import Reference, VerdictV1

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:qmu-edge:erasure-receipt:v3"
PREDICATE_TYPE_V2: Final = "urn:qmu-edge:erasure-receipt:v2"
PREDICATE_TYPE_V1: Final = "urn:qmu-edge:erasure-receipt:v1"


class Digest(Form):
    """Digest of a file."""

    sha256: HexDigest


class File(Form):
    """An exported file."""

    name: Word
    digest: Digest


class Request(Form):
    """The request: a keyed digest of its document, and its clock."""

    digest: HexDigest
    form: Literal["opendsr", "research"]
    regulation: Literal["gdpr", "ccpa"] | None
    received: Time
    due: Time | None
    deadline_met: bool | None


class Batch(Form):
    """How many requests one run served, and how many samples they had forgotten together."""

    requests: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    forget: Count


class Method(Form):
    """How the data were removed."""

    name: Word
    category: Literal["exact", "approximate"]
    parameters: Groups
    seed: Integer


class Rung(Form):
    """A method that was tried on the way; the last one passed."""

    method: Word
    category: Literal["exact", "approximate"]
    result: Literal["passed", "threshold_missed", "not_measurable", "method_failed", "export_failed"]


def _older(rungs: list[Rung]) -> list[Rung]:
    if any(rung.result == "not_measurable" for rung in rungs):
        raise ValueError("a result that this version has no word for; allowed from version 3 on")
    return rungs


class Checkpoints(Form):
    """Digests of the network before and after."""

    before: HexDigest | None
    after: HexDigest | None


class Split(Form):
    """The samples, as a digest and as counts."""

    digest: HexDigest
    counts: Counts


class Model(Form):
    """What kind of network it is."""

    architecture: Word
    bits: Values


class Share(Form):
    """An accuracy: a fraction of n samples, with its 95 % Wilson interval."""

    value: Fraction
    n: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    low: Fraction
    high: Fraction


class Interval(Form):
    """A measured value with its 95 % interval."""

    value: Fraction
    low: Fraction
    high: Fraction


class Evaluation(Form):
    """What the exported file does under onnxruntime."""

    sha256: HexDigest
    bytes: Count
    seconds: Number
    fa: Share | None
    ra: Share | None
    ta: Share | None
    va: Share | None
    mia_auc: Interval | None
    mean_confidence: Values


class Metrics(Form):
    """Everything measured on the exported files."""

    evaluation: Evaluation
    mia_efficacy: Values | None
    parity: Groups
    bytes: Counts
    latent_weights: Groups


class MoreMetrics(Metrics):
    """The same, and metrics that other packages plug in: null of one that failed."""

    # Missing where the recipe names none.
    others: Annotated[dict[Word, Number | None], OPEN] = Field(default_factory=dict)


class EvaluationResult(Form):
    """A measured quantity and its limit.

    `bound` says what is compared: the value, or one end of its interval, beyond which 5 % lie.
    """

    metric: Word
    value: Number | None
    low: Number | None
    high: Number | None
    bound: Literal["value", "low", "high"]
    comparator: Literal["<="]
    threshold: Number
    sample_size: Count | None
    passed: bool


class Residual(Form):
    """The share that is left of what the original knew, of samples or of whole classes."""

    scope: Literal["samples", "classes"]
    value: Number | None
    low: Number | None
    high: Number | None
    n: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    effective: Number
    references: Count
    detected: bool
    power: Fraction


class Codes(Form):
    """How many integer weights there are, and how many differ from the file before."""

    weights: Count
    changed: Count


class Verdict(Form):
    """What is known about the rest of the data's influence, and whether every threshold is met."""

    answer: Literal[
        "forgotten", "retrained", "not_measurable", "still_present", "over_forgotten", "inconclusive"
    ]
    passed: bool
    residuals: Annotated[list[Residual], Field(max_length=2)]
    results: Annotated[list[EvaluationResult], Field(max_length=MAX_ITEMS)]
    codes: Codes


class Artefact(Form):
    """Something else that was made of the data, and where it stands."""

    kind: Sentence
    count: Count | None
    bytes: Count | None
    state: Sentence


class Ledger(Form):
    """The ledger when the receipt was made: its events, the hash of the last, and its tombstones."""

    events: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    head: HexDigest
    tombstones: Count


class Tool(Form):
    """What wrote the receipt, with the versions it ran on."""

    name: Word
    version: Word
    dependencies: Annotated[dict[Word, Word], OPEN]


class _Predicate(Form):
    """What was done for one request, as far as all versions say the same."""

    request: Request
    batch: Batch
    completed: Time
    issued: Time
    outcome: Literal["unlearned", "retrained", "withdrawn", "denied", "no_match", "partial", "failed"]
    method: Method
    recipe: HexDigest
    checkpoints: Checkpoints
    split: Split
    model: Model
    metrics: Metrics
    thresholds: Values
    derived_artefacts: Annotated[list[Artefact], Field(max_length=MAX_ITEMS)]
    tool: Tool
    limits: Annotated[list[Sentence], Field(min_length=1, max_length=MAX_ITEMS)]
    previous: HexDigest | None


class PredicateV1(_Predicate):
    """What was done for one request, in version 1."""

    # Empty in receipts that are older than the field.
    rungs: Annotated[list[Rung], Field(max_length=256, default_factory=list), AfterValidator(_older)]
    reference: Reference | None
    verdict: VerdictV1


class PredicateV2(_Predicate):
    """What was done for one request, in version 2."""

    rungs: Annotated[list[Rung], Field(min_length=1, max_length=256), AfterValidator(_older)]
    verdict: Verdict


class Predicate(PredicateV2):
    """What was done for one request, and how far the ledger was."""

    rungs: Annotated[list[Rung], Field(min_length=1, max_length=256)]
    metrics: MoreMetrics
    ledger: Ledger


def _distinct(files: list[File]) -> list[File]:
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise ValueError("two files of one name; allowed: each once")
    return files


class Statement(Form):
    """An in-toto Statement v1 about exported files."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[File], Field(min_length=1, max_length=MAX_ITEMS), AfterValidator(_distinct)]
    predicateType: str
    predicate: Predicate | PredicateV2 | PredicateV1

    @classmethod
    def about(cls, files: Mapping[str, Sha256], predicate: Predicate) -> "Statement":
        """The statement that `predicate` is true of these files, given as SHA-256 by name.

        Raises:
            ValidationError: There is no file, or a name or a digest is not allowed.
        """
        subject = [{"name": name, "digest": {"sha256": sha}} for name, sha in sorted(files.items())]
        return StatementV3.model_validate(
            {
                "_type": STATEMENT_TYPE,
                "subject": subject,
                "predicateType": PREDICATE_TYPE,
                "predicate": predicate,
            }
        )

    @classmethod
    def parse(cls, payload: bytes, source: object) -> "Statement":
        """Read a statement in RFC 8785 form from bytes that nobody vouches for.

        Raises:
            LedgerError: It is not a statement of a receipt, or not in that form; `source` is what the
                message calls it.

        >>> Statement.parse(b"[]", "receipt.json")
        Traceback (most recent call last):
        qmu_edge.errors.LedgerError: receipt.json: not a receipt: must be a JSON object, like {...}
        """
        document = parse_object(payload, f"{source}: not a receipt", LedgerError)
        older: dict[str, type[Statement]] = {PREDICATE_TYPE_V1: StatementV1, PREDICATE_TYPE_V2: StatementV2}
        kind = older.get(str(document.get("predicateType")), StatementV3)
        with refusing(source):
            statement = kind.model_validate(document)
        if canonical(document) != payload:
            raise LedgerError(
                f"{source}: not a receipt: the JSON is not in RFC 8785 form: spaces, order or numbers differ"
            )
        return statement

    def to_bytes(self) -> bytes:
        """The RFC 8785 form, the bytes that are signed.

        Raises:
            LedgerError: It holds a number that JSON cannot hold.
        """
        # Receipts that are older than a field must get their own bytes back, without the field's default.
        return canonical(self.model_dump(by_alias=True, exclude_unset=True), "receipt")

    def document(self) -> dict[str, Any]:
        """The JSON object that `to_bytes` encodes: keys are sorted, whole numbers are integers."""
        return parse_object(self.to_bytes(), "receipt", LedgerError)

    @property
    def files(self) -> dict[str, Sha256]:
        """SHA-256 of each file by its name."""
        return {file.name: file.digest.sha256 for file in self.subject}


class StatementV1(Statement):
    """A statement whose predicate is of version 1."""

    predicateType: Literal["urn:qmu-edge:erasure-receipt:v1"]
    predicate: PredicateV1


class StatementV2(Statement):
    """A statement whose predicate is of version 2."""

    predicateType: Literal["urn:qmu-edge:erasure-receipt:v2"]
    predicate: PredicateV2


class StatementV3(Statement):
    """A statement whose predicate is of version 3."""

    predicateType: Literal["urn:qmu-edge:erasure-receipt:v3"]
    predicate: Predicate


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12); `schemas/erasure-receipt.v3.json` is its text.

    It cannot say that two files have two names; `Statement.parse` checks that.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": PREDICATE_TYPE,
        **StatementV3.model_json_schema(by_alias=True),
        "title": "qmu-edge erasure receipt (in-toto Statement)",
    }
