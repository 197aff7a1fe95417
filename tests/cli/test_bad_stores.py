"""Damaged stores: noticed before anything is written, each with its exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save

from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.objects import ObjectStore
from tests.cli.refusals import cut, flip, refused

Damage = Callable[[Path], object]


def _object(project: Path) -> Path:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        digest = ledger.current(Pointer.CHECKPOINT)
    assert digest is not None
    return ObjectStore(project / ".qmu/objects").path(digest)


def _not_a_number(project: Path) -> None:
    path = _object(project)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load(data)
    first = next(name for name in tensors if name.endswith("weight"))
    tensors[first].view(-1)[0] = float("nan")
    digest = ObjectStore(project / ".qmu/objects").put_bytes(save(tensors, metadata=header))
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        ledger.set_current(Pointer.CHECKPOINT, digest)


def _replace(name: str, old: str, new: str) -> Damage:
    def work(project: Path) -> None:
        text = (project / name).read_text("utf-8")
        assert old in text
        (project / name).write_text(text.replace(old, new), "utf-8")

    return work


DAMAGE: dict[str, tuple[Damage, int, str]] = {
    "checkpoint missing": (lambda p: _object(p).unlink(), 4, "no file"),
    "checkpoint bit-flipped": (lambda p: flip(_object(p)), 4, "altered"),
    "checkpoint truncated": (lambda p: cut(_object(p)), 4, "altered"),
    "checkpoint of another model": (_replace("qmu.toml", "width = 0.125", "width = 4"), 4, "width"),
    "NaN in the weights": (_not_a_number, 4, "not finite"),
    "ledger missing": (lambda p: (p / ".qmu/ledger.db").unlink(), 4, "no such file"),
    "ledger is garbage": (lambda p: (p / ".qmu/ledger.db").write_bytes(b"garbage" * 1000), 8, "ledger"),
    "ledger is empty": (lambda p: (p / ".qmu/ledger.db").write_bytes(b""), 8, "ledger"),
    "images altered": (lambda p: flip(p / ".qmu/cache/images.npy"), 4, "registered"),
    "images truncated": (lambda p: cut(p / ".qmu/cache/images.npy"), 4, "images"),
    "images missing": (lambda p: (p / ".qmu/cache/images.npy").unlink(), 4, "images"),
    "key missing": (lambda p: (p / ".qmu/keys/pseudonym.key").unlink(), 4, "pseudonym.key"),
    "key cut": (lambda p: cut(p / ".qmu/keys/pseudonym.key"), 4, "32"),
    "recipe is not TOML": (lambda p: (p / "qmu.toml").write_text("=", "utf-8"), 2, "TOML"),
    "recipe is not UTF-8": (lambda p: (p / "qmu.toml").write_bytes(b"\xff\xfe"), 2, "UTF-8"),
    "recipe misspelt": (_replace("qmu.toml", "max_ta_drop", "max_ta_dorp"), 2, "max_ta_dorp"),
    "recipe out of range": (_replace("qmu.toml", "weight_bits = 4", "weight_bits = 9"), 2, "weight_bits"),
    "method misspelt": (_replace("qmu.toml", '"qmul", "retrain"', '"qmull", "retrain"'), 2, "qmull"),
    "parameter misspelt": (_replace("qmu.toml", "[unlearn.qmul]", "[unlearn.qmul]\nlrr = 1"), 2, "lrr"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_project_is_noticed_before_anything_is_written(
    made: Any, run: Any, trained: Path, digest: Any, name: str
) -> None:
    damage, code, fragment = DAMAGE[name]
    damage(trained)
    before = digest(trained)
    ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(ended, code, fragment)
    assert digest(trained) == before


@pytest.mark.parametrize("name", ["checkpoint bit-flipped", "images altered", "key missing"])
def test_doctor_finds_the_damage(run: Any, trained: Path, name: str) -> None:
    DAMAGE[name][0](trained)
    found = run("doctor", "--project", trained, "--json")
    assert found.code == 4 and len(found.json["problems"]) == 1
    assert found.err.startswith("qmu-edge: 1 problem")
