"""Tiny images and networks for the tests that need torch; the others never import it from here."""

import atexit
import copy
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from qmu_edge.machine.processors import settle
from tests import annotations

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # networks here are small, and two test processes share the machine
os.environ.setdefault("OMP_DYNAMIC", "false")  # tests compare networks to the bit
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="qmu-edge-state-")  # what tests confirm is nobody's
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
settle()
annotations.install()
settings.register_profile("untimed", deadline=None)  # a neighbour on the machine is no fault of a parser
settings.load_profile("untimed")

if TYPE_CHECKING:
    from qmu_edge.models.layers import Classifier
    from qmu_edge.train.batches import Samples


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--random-order SEED`: tests that need another one before them fail then."""
    parser.addoption("--random-order", type=int, metavar="SEED", help="run the tests in an order of chance")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The same order in every worker."""
    if (seed := config.getoption("--random-order")) is not None:
        random.Random(seed).shuffle(items)


@pytest.fixture(autouse=True, scope="session")
def threads() -> None:
    """Keep torch on the threads of the environment, one by default, where a test has imported it."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def toy() -> "Callable[..., Samples]":
    """Greyscale images of three classes, told apart by where the bright bar lies."""
    from tests.pipeline.ranks import images

    return images


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """Networks of fewer blocks, for tests of something else than their depth."""
    from tests.networks import make_shallow

    with pytest.MonkeyPatch.context() as patch:
        make_shallow(patch)
        yield


@pytest.fixture(scope="session")
def network() -> "Callable[..., Classifier]":
    """Calibrated networks of width 0.125 for the toy images; each recipe is made once and copied."""
    import torch

    from qmu_edge.models import mobilenet
    from qmu_edge.models.build import ARCHITECTURES, build
    from qmu_edge.models.calibration import calibrate, calibration_batches
    from qmu_edge.models.layers import Classifier, Shape
    from qmu_edge.recipe import ModelRecipe
    from tests.networks import two_blocks

    made: dict[tuple[ModelRecipe, object], Classifier] = {}

    def make(**changes: Any) -> Classifier:
        recipe = ModelRecipe(**{"width": 0.125, **changes})
        key = recipe, (ARCHITECTURES.get(recipe.architecture), mobilenet.STAGES)
        if key not in made:
            model = build(recipe, Shape(channels=1, classes=3), seed=0, factory=two_blocks)
            generator = torch.Generator().manual_seed(0)
            wanted = calibration_batches(model)
            calibrate(model, [torch.rand(4, 1, 8, 8, generator=generator) for _ in range(wanted)])
            made[key] = model.eval()
        return copy.deepcopy(made[key])

    return make
