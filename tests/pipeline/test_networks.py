"""A network of the user's own is refused at `init`, and nothing is left."""

import time
from pathlib import Path

import pytest
from torch import Tensor, nn

from qmu_edge import api
from qmu_edge.errors import ConfigError
from qmu_edge.models import own
from qmu_edge.models.follow import Followed
from qmu_edge.models.standard import standard
from qmu_edge.pipeline.networks import require_exportable
from qmu_edge.recipe import Recipe, parse_recipe
from tests.project.test_model_file import RECIPE

HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\nclass Net(nn.Module):\n"
LAYERS = "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv2d(1, 8, 3)\n"
BUILD = "\ndef build(layers, shape):\n    return Net()\n"


def net(*forward: str, layers: str = "") -> str:
    """A model file; the first line of `forward` is line 11 without `layers`."""
    lines = "".join(f"        {line}\n" for line in forward)
    return f"{HEAD}{LAYERS}{layers}    # what it does\n    def forward(self, x):\n{lines}{BUILD}"


LINEAR = "        self.fc = nn.Linear(8, 10)\n"
REFUSED = {
    "a layer": (
        net("return self.norm(self.conv(x))", layers="        self.norm = nn.GroupNorm(2, 8)\n"),
        r"^mine\.py, line 12: norm: GroupNorm cannot be exported; allowed are .*Conv2d",
    ),
    "a function": (net("x = self.conv(x)", "return torch.cumsum(x, 1)"), r"^mine\.py, line 12: cumsum: "),
    "a part, behind what is written in another way": (
        net("x = F.relu(self.conv(x))", "return self.fc(x[:, None].flatten(1)[:, :8])", layers=LINEAR),
        r"^mine\.py, line 13: getitem: getitem takes a part",
    ),
    "the image behind the last layer": (
        net("y = self.conv(x).mean((2, 3))", "return self.fc(y) + x.flatten(1)[:, :10]", layers=LINEAR),
        r"^mine\.py, line 13: .* reads what lies before fc, the last layer with weights",
    ),
    "no weights": (net("return x.flatten(1)[:, :10]"), r"^mine\.py: no layer with weights"),
    "values decide": (
        net("if x.sum() > 0:", "    x = -x", "return self.conv(x)"),
        r"^mine\.py, line 11: the network's forward",
    ),
    "classes": (
        net("return self.fc(self.conv(x).mean((2, 3)))", layers="        self.fc = nn.Linear(8, 7)\n"),
        r"^mine\.py: TypeError: the body returned \(1, 7\), allowed are features .* and logits \(n, 10\)",
    ),
    "the recipe's size": (
        net(
            "return self.fc(self.conv(x).flatten(1))", layers="        self.fc = nn.Linear(8 * 30 * 30, 10)\n"
        ),
        r"^mine\.py: RuntimeError: .*288.*7200",
    ),
    "shapes": (net("return self.conv(self.conv(x))"), r"^mine\.py: RuntimeError: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_at_init_with_its_line(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    (tmp_path / "mine.py").write_text(text, "utf-8")
    begin = time.process_time()
    with pytest.raises(ConfigError, match=message):
        api.init(tmp_path / "new", recipe=str(tmp_path / "recipe.toml"), model=tmp_path / "mine.py")
    assert time.process_time() - begin < 5.0
    assert not (tmp_path / "new").exists()


def test_what_can_be_exported_is_looked_at_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def noted(body: nn.Module, example: Tensor, *, lines: bool) -> Followed:
        seen.append(example.device.type)
        return standard(body, example, lines=lines)

    monkeypatch.setattr(own, "standard", noted)
    source = net("return self.fc(F.relu(self.conv(x)).mean((2, 3)))", layers=LINEAR).encode()
    recipe = parse_recipe(RECIPE, "recipe")
    require_exportable(recipe, source, channels=1, classes=10, size=8)
    assert seen == ["meta"]


def test_a_file_that_needs_numbers_is_tried_with_numbers() -> None:
    layers = f"{LINEAR}        self.slope = torch.linspace(0, 1, 3)[1].item()\n"
    source = net(
        "return self.fc(F.leaky_relu(self.conv(x), self.slope).mean((2, 3)))", layers=layers
    ).encode()
    require_exportable(parse_recipe(RECIPE, "recipe"), source, channels=1, classes=10, size=8)


def test_an_architecture_can_be_named_in_the_place_of_a_file(tmp_path: Path) -> None:
    for name in ("no_such_net", "torchvision:"):
        with pytest.raises(
            ConfigError, match=f"^model '{name}': no such file, and no architecture; allowed are resnet18, "
        ):
            api.init(tmp_path / "new", model=name)
    api.init(tmp_path / "new", model="small_vgg")
    assert 'architecture = "small_vgg"' in (tmp_path / "new/qmu.toml").read_text("utf-8")


def test_a_network_of_torchvision_takes_no_other_width() -> None:
    recipe = Recipe.model_validate(
        {"model": {"architecture": "torchvision:resnet18"}, "references": {"width": 0.5}}
    )
    with pytest.raises(ConfigError, match=r"references\.width is 0\.5"):
        require_exportable(recipe, b"", channels=3, classes=10, size=32)
