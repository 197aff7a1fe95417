"""A model file cannot end, hold up or exhaust a command, nor be followed as something else."""

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.models.layers import Shape
from qmu_edge.pipeline import trial
from qmu_edge.pipeline.networks import require_exportable
from qmu_edge.pipeline.trial import suspects, tried
from qmu_edge.recipe import ModelRecipe, parse_recipe
from tests.pipeline.test_networks import LINEAR, net
from tests.project.test_model_file import RECIPE

MINE, SHAPE = ModelRecipe(architecture="file", path="mine.py"), Shape(channels=1, classes=10)
LOGITS = "return self.fc(x.mean((2, 3)))"
COUNTER = f"{LINEAR}        self.n = 0\n"
ENDS = r"^mine\.py: building it or one pass ends the process"
FULL = r"^mine\.py: building it and one pass need more than the allowed 2048 MiB of memory"
DIFFERS = r"^mine\.py: forward computes something else than the calls that are followed.*; look at line \d"
REFUSED = {
    "ends at once": ("import os\nos._exit(0)\n", ENDS),
    "ends in build": ("import os\ndef build(layers, shape):\n    os._exit(0)\n", ENDS),
    "ends in forward": (net("import os", "os._exit(0)"), ENDS),
    "is killed": ("import os\nos.kill(os.getpid(), 9)\n", ENDS),
    "interrupts": ("raise KeyboardInterrupt\n", ENDS),
    "many parameters": (
        net("x = self.conv(x)", LOGITS, layers=LINEAR.replace("8, 10", "8, 10**9 // 8")), FULL
    ),
    "much memory": ("kept = bytearray(1 << 40)\n", FULL),
    "a count": (net("self.n += 1", "x = self.conv(x) * self.n", LOGITS, layers=COUNTER), DIFFERS),
    "chance": (net("import random", "x = self.conv(x) * random.random()", LOGITS, layers=LINEAR), DIFFERS),
    "training": (net("x = self.conv(x)", "x = x * (1 + self.training)", LOGITS, layers=LINEAR), DIFFERS),
    "drops out always": (net("x = F.dropout(self.conv(x))", LOGITS, layers=LINEAR), DIFFERS),
    "in place": (net("x = self.conv(x)", "x = x + F.relu(x, inplace=True)", LOGITS, layers=LINEAR), DIFFERS),
    "nobody reads": (net("x = self.conv(x)", "x.relu_()", LOGITS, layers=LINEAR), DIFFERS),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_more_than_its_calls_is_refused(name: str) -> None:
    source, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        require_exportable(parse_recipe(RECIPE, "r"), source.encode(), channels=1, classes=10, size=8)


@pytest.mark.parametrize("name", [name for name, (_, message) in REFUSED.items() if message == DIFFERS])
def test_the_line_that_may_be_why_is_named(name: str) -> None:
    """The first line of `forward` in these files, or the second where that is an import or a layer."""
    source = REFUSED[name][0]
    forward = next(i for i, line in enumerate(source.splitlines(), 1) if "def forward" in line)
    found = suspects(source.encode())
    wanted = {"a count": [1, 2], "chance": [1, 2], "nobody reads": [2]}.get(name, [1])
    assert found and {n - forward for n in found} <= {*wanted, 2}


def test_a_file_that_takes_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_SECONDS", 0.5)
    with pytest.raises(ConfigError, match=r"^mine\.py: .* take longer than the allowed 0\.5 seconds"):
        tried(b"while True: pass\n", MINE, SHAPE)


@pytest.mark.parametrize(
    "forward",
    [
        ("x = F.dropout(F.relu_(self.conv(x)), 0.5, self.training)", "x += 1", LOGITS),
        ("x = F.adaptive_avg_pool2d(self.conv(x), 1)", "return self.fc(x.view(x.size(0), -1))"),
    ],
)
def test_what_is_followed_rightly_is_not(forward: tuple[str, ...]) -> None:
    source = net(*forward, layers=LINEAR).encode()
    require_exportable(parse_recipe(RECIPE, "r"), source, channels=1, classes=10, size=8)


def test_what_raises_an_exception_is_left_to_the_command() -> None:
    tried(b"1 / 0\n", MINE, SHAPE)
