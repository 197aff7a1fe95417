"""`adopt`: weights from elsewhere in place of training, until a receipt says so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qmu_edge.data.index import SampleSplit
from qmu_edge.errors import VerificationFailed
from qmu_edge.io.progress import Progress
from qmu_edge.models.names import PUBLISHED, QUANTIZER, trained_tensors
from qmu_edge.pipeline.adopt_run import _require_accuracy
from qmu_edge.pipeline.networks import Networks
from qmu_edge.project.project import opened
from qmu_edge.receipt.receipt import ADOPTED, LIMITS, PRETRAINED
from qmu_edge.store.ledger.states import Pointer
from tests.cli.conftest import RECIPE, SUBJECT, Made, copied, run_command
from tests.cli.refusals import current, refused

NOTHING = RECIPE.replace("[unlearn.qmul]", "[adopt]\nepochs = 0\n[unlearn.qmul]")


def network_of(project: Path) -> dict[str, Tensor]:
    """The weights of the current network under torchvision's names."""
    with opened(project, Progress()) as found:
        model, _ = Networks.of(found).load(found.current(Pointer.CHECKPOINT))
    return {PUBLISHED["resnet18"](name): t.clone() for name, t in trained_tensors(model).items()}


@pytest.fixture(scope="module")
def weights(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elsewhere") / "w.safetensors"
    save_file(network_of(made.trained), path)
    return path


def fresh(made: Made, folder: Path, recipe: str = NOTHING) -> Path:
    """A project that is not trained, under another recipe."""
    project = copied(made.untrained, folder)
    (project / "qmu.toml").write_text(recipe, "utf-8")
    return project


@pytest.fixture(scope="module")
def adopted(made: Made, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    project = fresh(made, tmp_path_factory.mktemp("adopted") / "shop")
    yield project, run_command("adopt", weights, "--trained-on", "registered", "--project", project, "--json")


def test_the_network_becomes_current_and_says_where_it_comes_from(adopted: Any, weights: Path) -> None:
    project, ended = adopted
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["origin"] == "adopted, training not witnessed"
    assert found["declared"]["train"] == found["images"] > 1000 and found["declared"]["validation"] > 0
    assert found["float_accuracy"]["test"] > 0.5 and found["accuracy"]["test"] > 0.5
    assert "float: " in ended.err and "quantized: " in ended.err
    status = run_command("status", "--project", project, "--json").json
    assert status["origin"] == found["origin"] and status["checkpoint"] == found["checkpoint"]
    doctor = run_command("doctor", "--project", project, "--json")
    assert doctor.code == 0 and doctor.json["problems"] == []


def test_the_same_again_is_done_once(adopted: Any, weights: Path) -> None:
    arguments = ("--trained-on", "registered", "--project", adopted[0], "--json")
    again = run_command("adopt", weights, *arguments)
    assert again.json == adopted[1].json and "quantized" not in again.err


def test_what_is_not_declared_cannot_be_unlearned(adopted: Any, weights: Path, tmp_path: Path) -> None:
    project = copied(adopted[0], tmp_path / "shop")
    with opened(project, Progress()) as found:
        train = np.flatnonzero(found.samples.index.in_split(SampleSplit.TRAIN)).tolist()
        ids = [found.samples.index.ids[i] for i in train[:1000]]
    (tmp_path / "seen.txt").write_text("\n".join(ids[:-1]))
    told = run_command(
        "adopt", weights, "--trained-on", tmp_path / "seen.txt", "--project", project, "--json"
    ).json
    assert told["declared"]["train"] == told["images"] == 999
    assert told["checkpoint"] != adopted[1].json["checkpoint"]
    word = run_command("adopt", weights, "--trained-on", "registered", "--project", project, "--quiet")
    refused(word, 2, "declared by a list", "give a list")  # the list would go on to hold, without a word
    request = tmp_path / "req.json"
    for sample, code in ((ids[-1], 3), (ids[0], 0)):
        request.unlink(missing_ok=True)
        run_command("request", "new", "--sample", sample, "--out", request)
        ended = run_command("unlearn", "--request", request, "--project", project, "--dry-run")
        assert ended.code == code, ended.err
        assert ("not declared as trained on when the network was adopted" in ended.err) == (code == 3)


def test_a_floor_refuses() -> None:
    _require_accuracy({"validation": 0.2, "test": 0.8}, 0.8, Path("w"))
    _require_accuracy({}, 0.0, Path("w"))
    with pytest.raises(
        VerificationFailed, match=r"80\.00% on test images, \[adopt\] min_accuracy is 81\.00%"
    ):
        _require_accuracy({"validation": 0.9, "test": 0.8}, 0.81, Path("w"))
    with pytest.raises(VerificationFailed, match="on validation images"):
        _require_accuracy({"validation": float("nan")}, 0.01, Path("w"))


@pytest.mark.slow
def test_below_the_floor_nothing_changes(made: Made, weights: Path, tmp_path: Path, digest: Any) -> None:
    recipe = NOTHING.replace("epochs = 0", "epochs = 0\nmin_accuracy = 1.0")
    project = fresh(made, tmp_path / "shop", recipe)
    before = digest(project)
    ended = run_command("adopt", weights, "--trained-on", "registered", "--project", project, "--quiet")
    refused(ended, 7, "accuracy after quantization is", "min_accuracy is 100.00%")
    assert {n: d for n, d in digest(project).items() if n != ".qmu/lock"} == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--trained-on", "registred"), 2, "registred: no such file; did you mean 'registered'?"),
        (("--trained-on", "registered", "--names", "{weights}"), 2, "not UTF-8 at byte"),
        (("--trained-on", "registered", "--pretrained", "nowhere"), 2, "nowhere: no such file"),
        (("--trained-on", "registered", "--pretrained", "/dev/null"), 2, "/dev/null: not a regular file"),
        (("--trained-on", "registered", "--names", "."), 2, ".: not a regular file"),
    ],
)
def test_bad_options_are_refused(
    made: Made, weights: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    project = fresh(made, tmp_path / "shop")
    given = [a.format(weights=weights) for a in arguments]
    refused(run_command("adopt", weights, *given, "--project", project, "--quiet"), code, words)


def test_a_project_with_requests_or_a_release_is_not_for_adopting(
    made: Made, weights: Path, tmp_path: Path
) -> None:
    project = copied(made.served, tmp_path / "served")
    arguments = ("adopt", weights, "--trained-on", "registered", "--quiet", "--project")
    refused(run_command(*arguments, project), 2, "has requests", "adopt in a new project")


@pytest.mark.slow
def test_a_checkpoint_of_quantization_aware_training_is_taken_as_it_is(made: Made, tmp_path: Path) -> None:
    with opened(made.trained, Progress()) as trained:
        model, _ = Networks.of(trained).load(trained.current(Pointer.CHECKPOINT))
    before = {name: t.clone() for name, t in trained_tensors(model, quantizers=True).items()}
    torch.save({"state_dict": before}, tmp_path / "qat.pt")
    project = fresh(made, tmp_path / "shop")
    arguments = ("adopt", tmp_path / "qat.pt", "--trained-on", "registered", "--project", project)
    ended = run_command(*arguments, "--json")
    assert ended.code == 0, ended.err
    found = ended.json["agreement"]
    assert found["agreement"] > 0.8 and found["n"] >= 1000 and "float_accuracy" not in ended.json
    with opened(project, Progress()) as shop:
        model, _ = Networks.of(shop).load(shop.current(Pointer.CHECKPOINT))
    after = trained_tensors(model, quantizers=True)
    assert all(torch.equal(after[name], t) for name, t in before.items())
    del before[next(name for name in before if QUANTIZER in name)]
    torch.save(before, tmp_path / "qat.pt")
    ended = run_command(*arguments, "--quiet")
    refused(ended, 2, "1 tensors of the network are not in it", QUANTIZER)


@pytest.mark.slow
def test_a_deployed_file_is_taken_as_it_is(made: Made, tmp_path: Path) -> None:
    project, file = fresh(made, tmp_path / "shop"), made.served / "release/model.packed.onnx"
    ended = run_command("adopt", file, "--trained-on", "registered", "--project", project, "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["agreement"]["agreement"] == 1.0 and found["agreement"]["max_abs_difference"] == 0.0
    assert found["agreement"]["n"] >= 1000 and "float_accuracy" not in found and "spent" not in found
    out = tmp_path / "again"
    assert run_command("export", "--out", out, "--project", project).code == 0
    with opened(made.served, Progress()) as served, opened(project, Progress()) as again:
        assert again.recipe.model == served.recipe.model
    before, after = (onnx.load(p / "model.onnx") for p in (made.served / "release", out))
    assert before.graph == after.graph
    assert run_command("unlearn", "--request", made.request, "--project", project).code == 0


@pytest.mark.slow
def test_a_file_of_another_network_is_refused(made: Made, tmp_path: Path) -> None:
    recipe = NOTHING.replace("width = 0.125", "width = 0.125\nactivation_bits = 8")
    project = fresh(made, tmp_path / "shop", recipe)
    file = made.served / "release/model.onnx"
    ended = run_command("adopt", file, "--trained-on", "registered", "--project", project, "--quiet")
    refused(ended, 6, f"{file}: QuantizeLinear ", "codes 0 to 15, the recipe's grid")
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:-100])
    ended = run_command(
        "adopt", tmp_path / "cut.onnx", "--trained-on", "registered", "--project", project, "--quiet"
    )
    refused(ended, 2, "cut.onnx: ")


@pytest.mark.slow
def test_a_request_is_served_and_the_receipt_says_so(adopted: Any, made: Made, tmp_path: Path) -> None:
    project = copied(adopted[0], tmp_path / "shop")
    ended = run_command("unlearn", "--request", made.request, "--project", project, "--json")
    assert ended.code == 0, ended.err
    receipt = run_command("receipt", "show", "--project", project, "--json").json["receipt"]["predicate"]
    assert receipt["limits"] == [*LIMITS, ADOPTED]
    verified = run_command("receipt", "verify", "--project", project)
    assert verified.code == 0, verified.err
    assert run_command("verify", project / "release/model.onnx", "--project", project).code == 0


@pytest.mark.slow
def test_retraining_starts_from_pretrained_weights_and_says_so(
    made: Made, weights: Path, tmp_path: Path
) -> None:
    project = fresh(made, tmp_path / "shop")
    pretrained = {n: t for n, t in network_of(made.trained).items() if not n.startswith("fc.")}
    pretrained |= {"fc.weight": torch.ones(1000, 64), "fc.bias": torch.ones(1000)}
    save_file(pretrained, tmp_path / "p.safetensors")
    ended = run_command(
        "adopt", weights, "--trained-on", "registered", "--pretrained", tmp_path / "p.safetensors",
        "--project", project, "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    served = run_command("unlearn", "--request", made.request, "--method", "retrain", "--project", project)
    assert served.code == 0, served.err
    receipt = run_command("receipt", "show", "--project", project, "--json").json["receipt"]["predicate"]
    assert receipt["limits"] == [*LIMITS, ADOPTED, PRETRAINED]
    assert receipt["method"]["parameters"]["pretrained"] == ended.json["pretrained"]
    status = run_command("status", "--project", project, "--json").json
    assert status["origin"] == "retrained from pretrained weights, their training not witnessed"
    purged = run_command("purge", "--now", "--project", project, "--json").json
    assert any(r["kind"] == "pretrained weights" for r in purged["kept"])
    assert run_command("doctor", "--project", project).code == 0


@pytest.mark.slow
def test_without_a_training_recipe_the_ladder_ends_before_retraining(
    made: Made, weights: Path, tmp_path: Path
) -> None:
    recipe = NOTHING.replace("epochs = 0", "epochs = 0\nretrain = false")
    recipe = recipe.replace("max_ta_drop = 1.0", "max_ta_drop = 0.0").replace(
        "epochs = 1\nbatch", "epochs = 1\nlr = 5.0\nbatch"
    )
    project = fresh(made, tmp_path / "shop", recipe)
    run_command("adopt", weights, "--trained-on", "registered", "--project", project)
    shown = run_command(
        "unlearn", "--request", made.request, "--dry-run", "--project", project, "--json"
    ).json
    assert shown["rungs"] == ["qmul"] and "nothing says how to train" in shown["rungs_forced_by"]
    asked = run_command(
        "unlearn", "--request", made.request, "--method", "retrain", "--project", project, "--quiet"
    )
    refused(asked, 2, "retrain: [adopt] retrain is false")
    ended = run_command("unlearn", "--request", made.request, "--project", project, "--quiet")
    assert ended.code in (5, 7), ended.err
    assert current(project, "release") is None and SUBJECT not in ended.err
    assert json.loads(run_command("status", "--project", project, "--json").out)["open"] == 1
