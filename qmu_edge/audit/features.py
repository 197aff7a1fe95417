"""Features before the classifier: is what was forgotten still there, behind an output that hides it?

The file is cut before its last layer. Two questions are asked of the values that enter it. *Probe*: a linear
classifier learns on other people's images how features of trained images differ from those of unseen ones,
and is then asked of the forgotten. *Two samples*: lie the forgotten people's features further from those of
unseen people than those of as many unseen people chosen at random do?

Source: features behind outputs that look forgotten: arXiv:2604.08271 (linear probes) and arXiv:2605.27569
    (RULER). Test: squared distance of means (MMD with a linear kernel), Gretton et al., JMLR 13 (2012), by
    permutation.
Differs: distances are less what chance alone puts between means of so many images: some people have more. The
    probe never sees a forgotten image while it learns, so nothing that merely looks like a person is taken
    for knowledge; features are centred by class, and their length along the mean of their class stands beside
    them. People are permuted, not images: one person's are alike. RULER's own metrics need a retrained
    network, or its similarities; they are not these.
Shapes: n images, d features, p people.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from jaxtyping import Float, Integer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from qmu_edge.audit.attack import Attack, Sizes, Work, on_all
from qmu_edge.audit.rates import GUESSES, QUANTITIES, told
from qmu_edge.audit.subject import Attacked, Known, Subject
from qmu_edge.errors import ExportError
from qmu_edge.project.audits import Estimate, Finding
from qmu_edge.verify.latent_weights import WEIGHTED
from qmu_edge.verify.onnx.reader import OnnxFile
from qmu_edge.verify.residual import Values
from qmu_edge.verify.session import OrtRunner

PROBED: Final = tuple(f"linear probe, {name}" for name in QUANTITIES)
TWO_SAMPLES: Final = "two-sample test of the features, probability by chance"
PERMUTATIONS: Final = 999
_BATCH: Final = 256

Features = Float[np.ndarray, "n d"]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Features of one set (n, d), centred by class, with their length along the class (n, 1) behind them."""

    forgotten: np.ndarray
    unseen: np.ndarray
    retained: np.ndarray


def before_classifier(file: OnnxFile) -> tuple[bytes, str]:
    """The file with what enters its last layer in place of its output, and the name of that.

    Raises:
        ExportError: No layer with weights leads to the output.
    """
    model = onnx.load_from_string(file.data)
    weighted = [node for node in model.graph.node if node.op_type in WEIGHTED]
    if not weighted:
        raise ExportError(f"{file.path}: no layer to cut before")
    name = weighted[-1].input[0]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model.SerializeToString(), name


def features(runner: OrtRunner, images: np.ndarray) -> np.ndarray:
    """What enters the last layer of a file, float32 (n, d), of images uint8 (n, c, h, w)."""
    data, name = before_classifier(runner.file)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = runner.threads, 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    size, entry, found = runner.input_shape[0] or _BATCH, session.get_inputs()[0].name, []
    for start in range(0, len(images), size):
        some = images[start : start + size]
        filled = np.concatenate([some, np.repeat(some[:1], size - len(some), 0)])  # a batch may be fixed
        found.append(session.run([name], {entry: runner.fed(filled)})[0].reshape(size, -1)[: len(some)])
    return np.concatenate(found)


def centred(x: Features, labels: Integer[np.ndarray, " n"], means: Float[np.ndarray, "k d"]) -> np.ndarray:
    """Features less the mean of their class, and beside these their length along it, (n, d + 1).

    >>> centred(np.array([[3.0, 5.0]]), np.array([0]), np.array([[0.0, 4.0]])).tolist()
    [[3.0, 1.0, 5.0]]
    """
    own = means[labels]
    along = (x * own).sum(axis=1) / np.maximum(np.linalg.norm(own, axis=1), 1e-12)
    return np.concatenate([x - own, along[:, None]], axis=1)


def by_chance(
    x: Features,
    people: Integer[np.ndarray, " n"],
    chosen: Integer[np.ndarray, " p"],
    generator: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> float:
    """How often as many people at random lie as far from the others as the chosen ones: small if told apart.

    Args:
        x: Features of all people.
        people: Whose each is.
        chosen: Who is asked about.
        generator: Draws who takes their place.
        permutations: How often.

    >>> two = np.array([[9.0], [0.0], [0.1], [-0.1]])
    >>> by_chance(two, np.arange(4), np.array([0]), np.random.default_rng(0), 3) <= 1.0
    True
    """
    names, place, sizes = np.unique(people, return_inverse=True, return_counts=True)
    spread = np.maximum(x.std(axis=0), 1e-12)
    sums = np.zeros((len(names), x.shape[1]))
    np.add.at(sums, place, x / spread)
    total, n = sums.sum(axis=0), len(x)

    def distance(at: np.ndarray) -> float:
        inside, size = sums[at].sum(axis=0), sizes[at].sum()
        apart = ((inside / size - (total - inside) / max(1, n - size)) ** 2).sum()
        return float(apart - x.shape[1] * (1 / size + 1 / max(1, n - size)))

    at = np.flatnonzero(np.isin(names, chosen))
    found = distance(at)
    draws = (generator.permutation(len(names))[: len(at)] for _ in range(permutations))
    return (1 + sum(distance(draw) >= found - 1e-12 for draw in draws)) / (1 + permutations)


def probed(
    seen: Seen, people: Integer[np.ndarray, " u"], generator: np.random.Generator
) -> tuple[Values, Values]:
    """How much forgotten and unseen images look like trained ones, to a probe that has seen neither.

    Two probes: each learns on half of the unseen people and as many retained images, and is asked of the
    other half, and of every second forgotten image.

    Args:
        seen: Features of the three sets.
        people: Whose each unseen image is.
        generator: Draws the halves.
    """
    names = np.unique(people)
    half = np.isin(people, generator.permutation(names)[: len(names) // 2])
    forgotten, unseen = np.zeros(len(seen.forgotten)), np.zeros(len(seen.unseen))
    every_second = np.arange(len(forgotten)) % 2 == 0
    for learn, asked in ((half, every_second), (~half, ~every_second)):
        some = generator.permutation(len(seen.retained))[: int(learn.sum())]
        x = np.concatenate([seen.retained[some], seen.unseen[learn]])
        trained = np.arange(len(x)) < len(some)
        scale = StandardScaler().fit(x)
        probe = LogisticRegression(C=0.1, max_iter=1000).fit(scale.transform(x), trained)
        forgotten[asked] = probe.decision_function(scale.transform(seen.forgotten[asked]))
        unseen[~learn] = probe.decision_function(scale.transform(seen.unseen[~learn]))
    return forgotten, unseen


def run(subject: Subject) -> tuple[Finding, ...]:
    """Of the forgotten against the unseen, for the original and the file."""
    rows = [_of(subject, file) for file in (subject.original, subject.file)]
    guesses = (*map(Estimate, GUESSES), Estimate(0.5, 0.025, 0.975))
    return tuple(
        Finding(quantity=name, original=before, file=after, unknowing=guess)
        for name, before, after, guess in zip((*PROBED, TWO_SAMPLES), *rows, guesses, strict=True)
    )


def _of(subject: Subject, file: Attacked) -> tuple[Estimate, ...]:
    generator, seen = np.random.default_rng(subject.seed), _seen(subject, file)
    sizes = subject.effective(subject.forgotten), subject.effective(subject.unseen)
    probe = told(*probed(seen, subject.unseen.people, generator), *sizes)
    both = np.concatenate([seen.forgotten, seen.unseen])
    people = np.concatenate([subject.forgotten.people, subject.unseen.people])
    chance = by_chance(both, people, np.unique(subject.forgotten.people), generator)
    return *probe, Estimate(round(chance, 4))


def _seen(subject: Subject, file: Attacked) -> Seen:
    """Features of the three sets; the means of the classes are of the retained."""

    def of(known: Known) -> np.ndarray:
        return features(file.runner, known.images).astype(np.float64)

    forgotten, unseen, retained = (of(k) for k in (subject.forgotten, subject.unseen, subject.retained))
    known, labels = (subject.forgotten, subject.unseen, subject.retained), subject.retained.labels
    means = np.zeros((1 + max(int(k.labels.max()) for k in known), retained.shape[1]))
    for label in np.unique(labels):
        means[label] = retained[labels == label].mean(axis=0)
    sets = zip((forgotten, unseen, retained), known, strict=True)
    return Seen(*(centred(x, k.labels, means) for x, k in sets))


def work(sizes: Sizes) -> Work:
    """Each image once through either file; probes and permutations."""
    return Work(forward=on_all(sizes).forward / sizes.views, seconds=0.5)


ATTACK: Final = Attack(
    run=run, work=work, quantities=(*PROBED, TWO_SAMPLES),
    summary="what the features before the classifier still tell",
)  # fmt: skip
