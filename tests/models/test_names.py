"""Weights from elsewhere get their place in a network by name and shape, or an error names what is left."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from qmu_edge.errors import ConfigError
from qmu_edge.models.build import ARCHITECTURES, build
from qmu_edge.models.layers import Classifier, Shape
from qmu_edge.models.names import PUBLISHED, matched, names_in, trained_tensors
from qmu_edge.recipe import ModelRecipe
from tests.networks import TWO_BLOCKS


def empty(architecture: str, classes: int = 10) -> Classifier:
    """A network of the original width, without values."""
    with torch.device("meta"):
        recipe = ModelRecipe.model_validate({"architecture": architecture, "stem": "imagenet"})
        return ARCHITECTURES[architecture](recipe, Shape(channels=3, classes=classes))


def published(architecture: str, classes: int = 10) -> dict[str, Tensor]:
    with torch.device("meta"):
        found: dict[str, Tensor] = getattr(torchvision.models, architecture)(num_classes=classes).state_dict()
    return {name: t for name, t in found.items() if not name.endswith("running_var")} | {
        name: torch.ones(t.shape) for name, t in found.items() if name.endswith("running_var")
    }


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "resnet18"])
def test_torchvisions_names_are_known(architecture: str) -> None:
    theirs = published(architecture)
    found = matched(empty(architecture), theirs, {}, "w")
    assert len(found) == sum(not name.endswith("num_batches_tracked") for name in theirs)
    assert {*PUBLISHED} == {"mobilenet_v2", "resnet18"}
    # In the order in which both networks use them: the first of ours is the first of theirs.
    order = [name for name in theirs if name.endswith("weight")]
    places = {id(t): name for name, t in theirs.items()}
    ours = [places[id(found[name])] for name in found if name.endswith("weight")]
    assert sorted(ours) == sorted(order) and ours[0] == order[0] and ours[-1] == order[-1]


def test_a_classifier_of_other_classes_is_refused_or_left_out() -> None:
    theirs = published("resnet18", 1000)
    with pytest.raises(ConfigError, match="w: its classifier has 1000 classes, the dataset has 10"):
        matched(empty("resnet18"), theirs, {}, "w")
    found = matched(empty("resnet18"), theirs, {}, "w", any_head=True)
    assert {*trained_tensors(empty("resnet18"))} - {*found} == {"head.weight", "head.bias"}


@pytest.fixture
def model(network: Callable[..., Classifier]) -> Classifier:
    return network(**TWO_BLOCKS)


def given(model: Classifier) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in trained_tensors(model).items()}


@pytest.mark.parametrize("wrapper", ["module.", "net.model."])
def test_what_a_wrapper_puts_before_every_name_is_taken_off(wrapper: str) -> None:
    theirs = published("resnet18")
    found = matched(empty("resnet18"), {f"{wrapper}{name}": t for name, t in theirs.items()}, {}, "w")
    assert found.keys() == matched(empty("resnet18"), theirs, {}, "w").keys()


def test_own_names_and_those_of_the_body_alone_are_known(model: Classifier) -> None:
    theirs = given(model)
    assert {*matched(model, theirs, {}, "w")} == {*theirs}
    bare = {name.removeprefix("body."): t for name, t in theirs.items()}
    found = matched(model, bare, {}, "w")
    assert all(found[name] is bare[name.removeprefix("body.")] for name in theirs)


def test_a_file_of_names_pairs_tensors_and_modules(model: Classifier, tmp_path: Path) -> None:
    theirs = given(model)
    theirs["fc.weight"], theirs["fc.b"] = theirs.pop("head.weight"), theirs.pop("head.bias")
    path = tmp_path / "names.toml"
    path.write_text('head = "fc"\n"head.bias" = "fc.b"\n')
    names = names_in(path.read_bytes(), path)
    assert names == {"head": "fc", "head.bias": "fc.b"}
    found = matched(model, theirs, names, "w")
    assert found["head.bias"] is theirs["fc.b"] and found["head.weight"] is theirs["fc.weight"]
    path.write_text('head.weight = "fc.weight"\nhead.bias = "fc.b"\n')  # to TOML, a table
    assert {*matched(model, theirs, names_in(path.read_bytes(), path), "w")} == {*found}


def test_the_classifier_may_be_called_anything_where_it_alone_is_left(model: Classifier) -> None:
    theirs = given(model)
    theirs |= {f"classifier.3.{part}": theirs.pop(f"head.{part}") for part in ("weight", "bias")}
    found = matched(model, theirs, {}, "w")
    assert found["head.weight"] is theirs["classifier.3.weight"] and len(found) == len(theirs)
    with pytest.raises(
        ConfigError, match=r"'classifier\.4': the file has no .*; did you mean 'classifier\.3'"
    ):
        matched(model, theirs, {"head": "classifier.4"}, "w")  # what a file of names says is not overruled
    with pytest.raises(ConfigError, match="3 of its tensors have no place"):
        matched(model, {**theirs, "aux.weight": torch.ones(1)}, {}, "w")
    theirs |= {"classifier.3.weight": torch.ones(5, 16), "classifier.3.bias": torch.ones(5)}
    with pytest.raises(ConfigError, match="its classifier has 5 classes, the dataset has 3"):
        matched(model, theirs, {}, "w")
    assert {*given(model)} - {*matched(model, theirs, {}, "w", any_head=True)} == {"head.weight", "head.bias"}


def test_a_name_that_the_network_has_not_is_refused_by_it(model: Classifier) -> None:
    theirs = given(model)
    for wrong in ("haed", "head.weigth", "hea"):
        with pytest.raises(ConfigError, match=f"^w: --names: '{wrong}': the network has no"):
            matched(model, theirs, {"head.bias": "head.bias", wrong: "head.bias"}, "w")
    with pytest.raises(ConfigError, match=r"no module of this name; did you mean 'head'\?"):
        matched(model, theirs, {"haed": "head"}, "w")
    matched(model, theirs, {"head.bias": "head.bias", "body.0.1.act_quant.tensor_quant": "x"}, "w")


DEEP = "a = " + "{b = " * 2000
LONG = ".".join("a" * 5000) + ' = "b"'


@pytest.mark.parametrize(
    "text",
    ["a = 1", "a = [1]", "a", "a = {b = 1}", "a = 9" + "9" * 5000, DEEP, LONG, "\ud800"],
    ids=["a number", "a list", "a word", "a table", "a long number", "deep", "a long key", "no UTF-8"],
)
def test_what_is_no_file_of_names_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "names.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=r"names\.toml: "):
        names_in(path.read_bytes(), path)


def test_every_tensor_that_is_left_over_is_named(model: Classifier) -> None:
    theirs = given(model)
    theirs["aux.weight"] = theirs.pop("head.weight")
    with pytest.raises(
        ConfigError, match=r"^w: most names differ: is \[model\] architecture that of the file\? "
    ):
        matched(model, published("mobilenet_v2"), {}, "w")
    del theirs["body.0.0.1.running_mean"]
    message = (
        r"w: 2 tensors of the network are not in it: body\.0\.0\.1\.running_mean, head\.weight; "
        r"1 of its tensors have no place in the network: aux\.weight; --names"
    )
    with pytest.raises(ConfigError, match=message):
        matched(model, theirs, {}, "w")


def test_another_width_is_said_to_be_one(network: Callable[..., Classifier]) -> None:
    narrow, wide = network(width=0.125), network(width=0.25)
    with pytest.raises(
        ConfigError, match=r"shapes differ: .* and \d+ more; .*2 times the channels, as width = 0.25"
    ):
        matched(narrow, given(wide), {}, "w")


def test_wrong_shapes_are_named(model: Classifier) -> None:
    theirs = given(model)
    theirs["head.weight"] = torch.ones(3, 5)
    with pytest.raises(
        ConfigError, match=r"1 shapes differ: head\.weight \(3, 5\) for head\.weight \(3, 16\)"
    ):
        matched(model, theirs, {}, "w")


def test_a_tensor_cannot_be_two(model: Classifier) -> None:
    theirs = given(model)
    del theirs["body.0.0.1.bias"]
    with pytest.raises(ConfigError, match=r"'body\.0\.0\.1\.weight' is wanted twice"):
        matched(model, theirs, {"body.0.0.1.bias": "body.0.0.1.weight"}, "w")


def test_a_negative_variance_is_refused(model: Classifier) -> None:
    theirs = given(model)
    theirs["body.0.0.1.running_var"] -= 100
    with pytest.raises(ConfigError, match="running_var' is negative"):
        matched(model, theirs, {}, "w")


def test_a_network_is_built_from_them(model: Classifier) -> None:
    theirs = given(model)
    again = build(model.recipe, model.shape, 7, model.factory, theirs)
    assert all(torch.equal(trained_tensors(again)[name], t) for name, t in theirs.items())
    assert again.start is theirs
    drawn = build(model.recipe, model.shape, 7, model.factory, {"head.bias": torch.ones(3)})
    assert torch.equal(drawn.state_dict()["head.bias"], torch.ones(3))
    fresh = build(model.recipe, model.shape, 7, model.factory)
    assert torch.equal(drawn.state_dict()["head.weight"], fresh.state_dict()["head.weight"])
    # Steps are set from the weights that are there.
    steps = [n for n in again.state_dict() if "weight_quant" in n]
    assert any(not torch.equal(again.state_dict()[n], fresh.state_dict()[n]) for n in steps)
