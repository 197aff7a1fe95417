"""What `to_json` makes of records, and what the commands that make a project and its networks answer.

`qmu_edge.project.records` says what the fields of records mean.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict

from qmu_edge.io.digest import Sha256
from qmu_edge.verify.plain import (
    CodesChangedJson,
    EfficacyJson,
    EvaluationJson,
    FiguresJson,
    TermsJson,
    VerdictJson,
)

if TYPE_CHECKING:
    from qmu_edge.data.pictures import ReadFiles
    from qmu_edge.data.subjects import SubjectListJson


class Registered(TypedDict):
    """What was registered.

    Attributes:
        samples: How many, and by split in `train`, `validation` and `test`.
        classes, subjects: How many.
        split: Digest of the splits.
        first_sample: Id of the first, as a request names it.
        notices: What should be known about them.
        subject_list: Of the list of subjects, where one was given.
        read: Of images that are the user's own.
        weights: Path of a file that was fetched from a Hub.
    """

    samples: int
    train: int
    validation: int
    test: int
    classes: int
    subjects: int
    split: Sha256
    first_sample: str
    notices: list[str]
    subject_list: NotRequired["SubjectListJson"]
    read: NotRequired["ReadFiles"]
    weights: NotRequired[str]


class MeasuredJson(TypedDict):
    """`Measured`, as it is stored."""

    evaluation: EvaluationJson
    mia_efficacy: EfficacyJson | None
    metrics: NotRequired[Mapping[str, float | None]]


class ReportJson(TypedDict):
    """A `Report`, as it is stored."""

    unlearned: MeasuredJson
    original: MeasuredJson
    terms: TermsJson
    verdict: VerdictJson
    bytes: Mapping[str, Mapping[str, int]]
    codes_changed: NotRequired[CodesChangedJson]
    figures: NotRequired[FiguresJson]


class References(TypedDict):
    """How many references there are, how many were trained now, and what a test can see with them.

    The last four are those of `qmu_edge.queue.foreseen.Verdicts`, and missing where there is too little to
    compare with.
    """

    references: int
    trained: int
    networks: NotRequired[int]
    detects: NotRequired[dict[str, float]]
    proves: NotRequired[dict[str, float]]
    why: NotRequired[str]


class Training(TypedDict):
    """What `Trained` says, and `references` where the recipe keeps them."""

    checkpoint: Sha256
    images: int
    accuracy: Mapping[str, int | float]
    spent: NotRequired[Mapping[str, int | float]]
    references: NotRequired[References]


class AdoptedJson(Training):
    """What `Adopted` says to whoever has brought the network."""

    weights: Sha256
    float_accuracy: NotRequired[Mapping[str, int | float]]
    agreement: NotRequired[Mapping[str, int | float]]
    pretrained: NotRequired[Sha256]
