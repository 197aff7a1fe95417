"""What a function of the API says that it returns is what its command prints."""

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from qmu_edge.api.project import ConfirmedModel, Health, ListedMethod, NewProject, ProjectStatus
from qmu_edge.api.receipts import ShownReceipt, VerifiedReceipt, Written
from qmu_edge.api.requests import RequestList
from qmu_edge.api.run import Exported
from qmu_edge.data.pictures import ReadFiles
from qmu_edge.data.subjects import SubjectListJson
from qmu_edge.pipeline.dry_run import PendingPreview, Preview
from qmu_edge.pipeline.fulfilled import Fulfilled, FulfilledPending
from qmu_edge.project.plain import Training
from qmu_edge.project.purge import Purged, PurgePreview
from qmu_edge.queue.foreseen import Verdicts
from qmu_edge.queue.schedule import RequestStanding
from qmu_edge.store.ledger.keys import KeyJson, PublicKey
from qmu_edge.verify.plain import VerificationJson

LATER = {
    kind.__name__: kind for kind in (ReadFiles, RequestStanding, SubjectListJson, Verdicts)
}  # imported for the type checker only, where the types are


def other_than(kind: Any, value: Any, path: str = "") -> list[str]:
    """Where a JSON value is not of a type: missing and unknown keys, and values of other types."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in (object, Any):
        return []
    if origin in (Union, UnionType):
        each = [other_than(one, value, path) for one in inner]
        return min(each, key=len)
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is no object"]
        hints = get_type_hints(kind, localns=LATER)
        missing, unknown = kind.__required_keys__ - value.keys(), value.keys() - hints.keys()
        found = [f"{path}.{name}: missing" for name in missing] + [f"{path}.{n}: unknown" for n in unknown]
        return found + [
            w for n, v in value.items() if n in hints for w in other_than(hints[n], v, f"{path}.{n}")
        ]
    if origin is list:
        return [w for i, v in enumerate(value) for w in other_than(inner[0], v, f"{path}[{i}]")]
    if origin in (dict, Mapping):
        return [w for n, v in value.items() for w in other_than(inner[1], v, f"{path}.{n}")]
    if origin is Literal:
        return [] if value in inner else [f"{path}: {value!r}, allowed {inner}"]
    kinds = (int, float) if kind is float else getattr(kind, "__supertype__", kind)
    fits = isinstance(value, kinds) or (
        isinstance(value, str) and isinstance(kind, type) and issubclass(kind, str)
    )
    return (
        [] if fits and (kind is bool or type(value) is not bool) else [f"{path}: {value!r}, allowed {kind}"]
    )


def test_what_is_not_of_a_type_is_found() -> None:
    fine = {"request": "a", "waits_for": "b", "dry_run": True, "counts": {"forget": 1}}
    assert other_than(Preview, fine) == []
    assert other_than(Preview, fine | {"dry_run": False, "more": 1}) == [
        ".more: unknown", ".dry_run: False, allowed (True,)",
    ]  # fmt: skip
    assert other_than(Preview, fine | {"counts": {"forget": "1"}}) and other_than(Preview, {"request": "a"})
    assert other_than(RequestList, {"requests": [{}]})
    assert other_than(float | None, "1") and not other_than(float | None, None)


@pytest.mark.parametrize(
    ("name", "kind"), [("init", NewProject), ("train", Training), ("unlearn", Fulfilled)]
)
def test_the_commands_that_make_a_project(made: Any, name: str, kind: Any) -> None:
    assert other_than(kind, made.commands[name].json) == []


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("status", ProjectStatus), ("request list", RequestList), ("doctor", Health),
        ("methods", dict[str, ListedMethod]), ("purge --dry-run", PurgePreview), ("purge --now", Purged),
        ("keys list", dict[str, KeyJson]), ("keys export --public", PublicKey),
        ("keys export --public --model", PublicKey), ("receipt show", ShownReceipt),
        ("receipt verify", VerifiedReceipt), ("report", Written), ("export", Exported),
        ("verify release/model.onnx", VerificationJson),
        ("verify release/model.qonnx.onnx", VerificationJson),
        ("unlearn --request req.json", Fulfilled), ("unlearn --request req.json --dry-run", Preview),
        ("unlearn --pending", FulfilledPending), ("unlearn --pending --dry-run", PendingPreview),
    ],
)  # fmt: skip
def test_the_commands_on_a_project(
    words: str, kind: Any, made: Any, served: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / "req.json").write_bytes(made.request.read_bytes())
    monkeypatch.chdir(served)
    ended = run(*words.split(), "--json")
    assert ended.code == 0, ended.err
    assert other_than(kind, ended.json) == []


@pytest.mark.parametrize("words", ["unlearn --request req.json --dry-run", "unlearn --pending --dry-run"])
def test_what_an_open_request_would_delete(
    words: str, made: Any, trained: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained / "req.json").write_bytes(made.request.read_bytes())
    monkeypatch.chdir(trained)
    added = run("request", "add", "req.json", "--json")
    assert other_than(RequestStanding, added.json) == [] and added.json["next"]
    found = run(*words.split(), "--json").json
    assert other_than(PendingPreview if "--pending" in words else Preview, found) == [] and found["rungs"]


def test_a_file_without_a_project_and_a_model_that_was_read(
    served: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes((served / "release/model.onnx").read_bytes())
    alone = run("verify", "model.onnx", "--json").json
    assert other_than(VerificationJson, alone) == [] and "request" not in alone
    (tmp_path / "net.py").write_text("def network(classes, channels): ...\n", "utf-8")
    assert other_than(ConfirmedModel, run("confirm", "net.py", "--json").json) == []
