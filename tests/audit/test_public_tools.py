"""The same scores, given to other people's implementations: their numbers are ours.

None of them is needed by anything else. They are installed by hand, where somebody wants to compare:
privacyguard-platform (LiRA, RMIA), adversarial-robustness-toolbox (the shadow attack), hyppo (two samples),
captum (Grad-CAM).
scikit-learn and scipy are here anyway. No package known to us has BaVarIA, the relearn tests, the pair, or
distances of codes: those are compared with their definitions written out, in their own tests.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from qmu_edge.audit import features, grad_cam, lira, rmia, shadow
from qmu_edge.audit.rates import RATES, told
from qmu_edge.audit.subject import Known, Subject
from qmu_edge.models.layers import Classifier
from qmu_edge.models.quant_layers import QuantIdentity, QuantReLU
from qmu_edge.verify.metrics import softmax
from qmu_edge.verify.residual import Values
from tests.audit.test_shadow import Shadows
from tests.audit.worlds import Answering, subject

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def package(name: str, module: str) -> Any:
    """A module of a package that is installed; what was compared with is printed."""
    found = pytest.importorskip(module, reason=f"{name} is not installed")
    print(f"\n{name} {importlib.metadata.version(name)}")
    return found


def area(members: Values, unseen: Values) -> float:
    """Of scikit-learn, the area under the curve."""
    seen = np.repeat([1, 0], [len(members), len(unseen)])
    return float(roc_auc_score(seen, np.concatenate([members, unseen])))


def sides(there: Subject) -> tuple[Known, Known]:
    return there.forgotten, there.unseen


def opinions(there: Subject, known: Known) -> Values:
    return there.means.references()[known]


@pytest.mark.parametrize("digits", [1, 9], ids=["ties", "no ties"])
def test_areas_and_shares_are_those_of_scikit_learn(digits: int) -> None:
    package("scikit-learn", "sklearn")
    rng = np.random.default_rng(0)
    members, unseen = rng.normal(1.0, 1.0, 130).round(digits), rng.normal(0.0, 1.0, 3350).round(digits)
    ours = told(members, unseen, 130.0, 3350.0)
    false, true, _ = roc_curve(
        np.repeat([1, 0], [130, 3350]), np.concatenate([members, unseen]), drop_intermediate=False
    )
    theirs = [area(members, unseen), *(true[false <= rate].max() for rate in RATES)]
    assert [one.value for one in ours] == pytest.approx(theirs, abs=5e-5)  # ours are rounded to four places
    print([one.value for one in ours], theirs)


def frame(there: Subject, known: Known, **columns: Any) -> Any:
    """Scores of the original, and what else an attack of PrivacyGuard reads."""
    pandas = pytest.importorskip("pandas")
    scores = there.original.scores(known)
    return pandas.DataFrame({"user_id": np.arange(len(known)), "score_orig": scores, **columns})


def test_lira_is_that_of_privacyguard() -> None:
    """Theirs is minus the logarithm of a normal density: half our square, and a constant."""
    module = package("privacyguard-platform", "privacy_guard.attacks.lira_attack")
    there = subject()
    assert there.unseen.expected is not None
    line = lira.line_through(there.unseen.expected, there.original.scores(there.unseen))
    frames = [
        frame(
            there, known, score_mean=line.level + line.slope * known.expected, score_std=line.deviation,
        )
        for known in sides(there)
        if known.expected is not None
    ]  # fmt: skip
    made = module.LiraAttack(*frames, module.AggregationType.NONE, std_dev_type="shadows_out").run_attack()
    ours = [lira.standardised(there.original.scores(known), known, line) for known in sides(there)]
    constant = np.log(line.deviation) + 0.5 * np.log(2 * np.pi)
    for own, data in zip(ours, (made.df_train_merge, made.df_test_merge), strict=True):
        assert data["score"].to_numpy() == pytest.approx(own**2 / 2 + constant)
    signed = [np.sign(own) * np.sqrt(2 * np.maximum(0.0, data["score"].to_numpy() - constant))
              for own, data in zip(ours, (made.df_train_merge, made.df_test_merge), strict=True)]  # fmt: skip
    found = lira.run(there)[0].original
    assert found is not None and found.value == pytest.approx(area(*signed), abs=5e-5)
    print(f"area {found.value}, theirs {area(*signed):.4f}")


def ratios(there: Subject, *, each: bool) -> tuple[Values, Values]:
    """What RMIA of PrivacyGuard makes of forgotten and unseen images.

    Args:
        there: Whose original is attacked.
        each: Whether it is given every reference, or their mean scaled confidence as a single one.
    """
    module = pytest.importorskip("privacy_guard.attacks.rmia_attack")

    def chances(known: Known) -> Any:
        seen = opinions(there, known) if each else opinions(there, known).mean(axis=0)[None]
        columns: dict[str, Any] = {}
        for number, scores in enumerate(seen):
            columns[f"score_ref_{number}"] = 1 / (1 + np.exp(-scores))
            columns[f"member_ref_{number}"] = False
        found = frame(there, known, **columns)
        return found.assign(score_orig=1 / (1 + np.exp(-found["score_orig"])))

    forgotten, unseen = (chances(known) for known in sides(there))
    count = sum(name.startswith("score_ref") for name in forgotten)
    attack = module.RmiaAttack(
        forgotten, unseen, unseen, module.AggregationType.NONE, num_reference_models=count,
        alpha_coefficient=rmia.SHIFT,
    )  # fmt: skip
    made = attack.run_attack()
    return made.df_train_merge["score"].to_numpy(), made.df_test_merge["score"].to_numpy()


def test_rmia_is_that_of_privacyguard() -> None:
    """Image by image with a single reference; and how much a mean of log-odds changes with five."""
    package("privacyguard-platform", "privacy_guard.attacks.rmia_attack")
    there = subject(known_before=6.0)
    own, others = (rmia.score(there.original, known) for known in sides(there))
    theirs, unseen = ratios(there, each=False)
    assert theirs == pytest.approx(rmia.rmia(own, others), abs=1e-12)
    # Of unseen images theirs does not count the image itself, of which ours says that it dominates it.
    assert unseen == pytest.approx(rmia.rmia(others, others) - 1 / len(others), abs=1e-12)
    five = ratios(there, each=True)
    found = rmia.run(there)[0].original
    assert found is not None and found.value == pytest.approx(area(theirs, unseen), abs=1e-3)
    assert found.value == pytest.approx(area(*five), abs=0.03)
    print(f"area {found.value}, theirs {area(theirs, unseen):.4f}, with five references {area(*five):.4f}")


def as_shadows(there: Subject) -> Subject:
    """The original answers as a shadow network would; trees say little of what none of them has shown."""
    rng = np.random.default_rng(5)
    table = {known: rng.normal(3.0 * (known is there.forgotten), 1.0, len(known)) for known in sides(there)}
    return replace(there, original=Answering(table), file=Answering(table), means=Shadows())


def shadows(there: Subject) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Answers, labels and truth that the shadow attack learns from, as `shadow.run` has them."""
    generator, means = np.random.default_rng(there.seed), Shadows()
    answers, labels, seen = [], [], []
    for number in range(shadow.SHADOWS):
        halves = np.array_split(generator.permutation(len(there.retained)), 2)
        inside, outside = (there.retained.take(np.sort(half)) for half in halves)
        for logits, known, member in zip(
            means.shadow(inside, (inside, outside), number), (inside, outside), (True, False), strict=True
        ):
            answers.append(softmax(logits))
            labels.append(known.labels)
            seen.append(np.full(len(known), member))
    return np.concatenate(answers), np.concatenate(labels), np.concatenate(seen)


def test_the_shadow_attack_finds_what_that_of_art_finds() -> None:
    """Trees of another library, taught by the same answers: the same area, but for their own chance."""
    module = package("adversarial-robustness-toolbox", "art.attacks.inference.membership_inference")
    there = as_shadows(subject(n=600))
    answers, labels, seen = shadows(there)
    estimators = pytest.importorskip("art.estimators.classification")
    target = estimators.BlackBoxClassifier(lambda x: np.zeros((len(x), 2)), input_shape=(1,), nb_classes=2)
    attack = module.MembershipInferenceBlackBox(target, attack_model_type="gb", scaler_type=None)
    attack.fit(
        pred=answers[seen], y=labels[seen], test_pred=answers[~seen], test_y=labels[~seen],
    )  # fmt: skip
    theirs = []
    for known in sides(there):
        chances = softmax(there.original.logits(known))
        theirs.append(attack.infer(x=None, y=known.labels, pred=chances, probabilities=True)[:, -1])
    found = shadow.run(there)[0].original
    assert found is not None and found.value == pytest.approx(area(*theirs), abs=0.02)
    print(f"area {found.value}, theirs {area(*theirs):.4f}")


@pytest.mark.parametrize("apart", [0.0, 0.25])
def test_the_two_sample_test_is_that_of_scipy_and_of_hyppo(apart: float) -> None:
    """Of people with one image each; the rest of the difference is the chance of so many draws."""
    rng = np.random.default_rng(3)
    both = np.concatenate([rng.normal(apart, 1.0, (40, 6)), rng.normal(0.0, 1.0, (40, 6))])
    scaled, people = both / both.std(axis=0), np.arange(80)
    ours = features.by_chance(both, people, people[:40], np.random.default_rng(0), 9999)

    def distance(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        return float(((scaled[one].mean(axis=0) - scaled[other].mean(axis=0)) ** 2).sum())

    stats = package("scipy", "scipy.stats")
    theirs = stats.permutation_test(
        (people[:40], people[40:]), distance, n_resamples=9999, alternative="greater", vectorized=False,
        rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    print(f"{ours:.4f}, theirs {theirs:.4f}")
    assert ours == pytest.approx(theirs, abs=chance(theirs, 9999))
    mmd = package("hyppo", "hyppo.ksample").MMD(compute_kernel="linear", bias=True)
    theirs = mmd.test(scaled[:40], scaled[40:], reps=999, auto=False, random_state=0)[1]
    print(f"{ours:.4f}, theirs {theirs:.4f}")
    assert ours == pytest.approx(theirs, abs=chance(theirs, 999))


def chance(probability: float, draws: int) -> float:
    """How far two numbers of so many draws may lie apart: four deviations, and one draw."""
    return float(4 * np.sqrt(2 * probability * (1 - probability) / draws) + 1 / draws)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_heat_maps_are_those_of_captum(architecture: str, network: Callable[..., Classifier]) -> None:
    """Theirs are asked of the module whose result ours took: the last one with as many places."""
    attribution = package("captum", "captum.attr")
    model = network(architecture=architecture).eval()
    images, labels = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    ours = grad_cam.heat_maps(model, images, labels)
    called: list[torch.nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, _, found: called.append(module))
        for module in model.modules()
        if isinstance(module, QuantReLU | QuantIdentity)
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    shapes = {module: attribution.LayerActivation(model, module).attribute(images).shape for module in called}
    layer = next(module for module in reversed(called) if shapes[module][2:] == ours.shape[1:])
    theirs = attribution.LayerGradCam(model, layer).attribute(images, labels, relu_attributions=False)
    torch.testing.assert_close(ours, theirs[:, 0].detach(), rtol=1e-4, atol=1e-9)
    print(float((ours - theirs[:, 0]).abs().max()), float(ours.abs().max()))
