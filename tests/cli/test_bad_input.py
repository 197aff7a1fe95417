"""A corpus of bad input: one clear line on stderr, the right exit code, no traceback, an unchanged store."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import load, save

from qmu_edge.ledger import Ledger
from qmu_edge.progress import Progress
from qmu_edge.project import Project, opened
from qmu_edge.receipt import loads
from qmu_edge.release import make_release
from qmu_edge.store import ObjectStore
from qmu_edge.unlearn import apply

Damage = Callable[[Path], object]


def refused(ended: Any, code: int, *fragments: str) -> None:
    """The command ended as a deliberate error: one line, its exit code, nothing on stdout."""
    assert ended.code == code, ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("qmu-edge: "), ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
    for fragment in fragments:
        assert fragment in lines[0]


def ask(folder: Path, document: object) -> Path:
    path = folder / "asked.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def opendsr(**extension: Any) -> dict[str, Any]:
    return {
        "regulation": "gdpr", "subject_request_id": "11111111-2222-4333-8444-555555555555",
        "subject_request_type": "erasure", "submitted_time": "2026-01-02T03:04:05Z", "api_version": "2.0",
        "subject_identities": [], "extensions": {"qmu-edge": {"schema_version": 1, **extension}},
    }  # fmt: skip


ONE_CLASS = {"subject": False, "sample_ids": [], "class_ids": ["3"]}
ID = "11111111-2222-4333-8444-555555555555"
REQUESTS: dict[str, tuple[Any, int, str]] = {
    "malformed JSON": ('{"sample_ids": [', 3, "not JSON"),
    "not JSON at all": ("\x00\x01", 3, ""),
    "empty file": ("", 3, "not JSON"),
    "duplicate keys": ('{"class_ids": [1], "class_ids": [2]}', 3, "appears twice"),
    "unknown field": ({"class_ids": [1], "clas_ids": [2]}, 3, "unknown field"),
    "wrong type": ({"sample_ids": "digits/0001"}, 3, "sample_ids"),
    "a list": ("[1, 2]", 3, "JSON object"),
    "a date in the future": ({"class_ids": [1], "submitted_time": "2999-01-01T00:00:00Z"}, 3, "future"),
    "no such date": ({"class_ids": [1], "submitted_time": "2026-02-30T00:00:00Z"}, 3, "submitted_time"),
    "unknown sample": ({"sample_ids": ["digits/9999"]}, 3, "digits/9999"),
    "one unknown among known": ({"sample_ids": ["digits/9999"], "class_ids": [1]}, 3, "digits/9999"),
    "names nothing": ({"sample_ids": []}, 3, "names no subject"),
    "empty object": ({}, 3, ""),
    "every sample": ({"class_ids": list(range(10))}, 3, "every training sample"),
    "unknown class name": ({"class_ids": ["ten"]}, 3, "class_ids"),
    "unknown class number": ({"class_ids": [10]}, 3, "class_ids"),
    "unknown subject": ({"subject_ids": ["writer-11"]}, 3, "subject_ids"),
    "another model": (opendsr(scope=ONE_CLASS, model_ref={"sha256": "0" * 64}), 3, "not the current one"),
    "nested too deep": ('{"a": ' + "[" * 40 + "]" * 40 + "}", 3, "nested"),
    "too large": (json.dumps({"sample_ids": ["x" * 500] * 3000}), 3, "larger"),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("flag", [[], ["--dry-run"]], ids=["serve", "dry run"])
def test_a_request_that_cannot_be_honoured_leaves_no_trace(
    run: Any, trained: Path, digest: Any, tmp_path: Path, name: str, flag: list[str]
) -> None:
    document, code, fragment = REQUESTS[name]
    before = digest(trained)
    ended = run("unlearn", "--request", ask(tmp_path, document), "--project", trained, "--quiet", *flag)
    refused(ended, code, fragment)
    assert digest(trained) == before


def test_test_images_cannot_be_named(run: Any, trained: Path, digest: Any, tmp_path: Path) -> None:
    with opened(trained, Progress()) as project:
        position = int(np.flatnonzero(project.index.splits == 2)[0])
        document = {"sample_ids": [project.index.ids[position]]}
    before = digest(trained)
    ended = run("unlearn", "--request", ask(tmp_path, document), "--project", trained, "--quiet")
    refused(ended, 3, "never trained on")
    assert digest(trained) == before


def test_a_message_does_not_repeat_who_it_is_about(run: Any, trained: Path, tmp_path: Path) -> None:
    document = ask(tmp_path, {"subject_ids": ["jane.doe@example.org"]})
    assert "jane" not in run("unlearn", "--request", document, "--project", trained, "--quiet").err


@pytest.mark.parametrize("what", ["missing", "folder", "pipe"])
def test_a_request_must_be_a_file(run: Any, trained: Path, digest: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / "asked.json"
    if what == "folder":
        path.mkdir()
    if what == "pipe":
        os.mkfifo(path)
    before = digest(trained)
    refused(run("unlearn", "--request", path, "--project", trained, "--quiet"), 3, str(path))
    assert digest(trained) == before


def test_the_same_id_with_another_body_is_a_conflict(
    made: Any, run: Any, served: Path, digest: Any, tmp_path: Path
) -> None:
    document = json.loads(made.request.read_text("utf-8"))
    document["extensions"]["qmu-edge"]["requested_by"] = "ticket 7"
    before = digest(served)
    refused(
        run("unlearn", "--request", ask(tmp_path, document), "--project", served, "--quiet"), 3, "conflict"
    )
    assert digest(served) == before


def test_what_is_deleted_cannot_be_deleted_again(run: Any, served: Path, digest: Any, tmp_path: Path) -> None:
    before = digest(served)
    document = ask(tmp_path, {"subject_ids": ["writer-3"]})
    refused(run("unlearn", "--request", document, "--project", served, "--quiet"), 3, "already deleted")
    assert digest(served) == before


OPTIONS: dict[str, tuple[list[str], str]] = {
    "no such method": (["--method", "magic"], "qmul, random_label"),
    "no such device": (["--device", "tpu"], "auto, cpu, cuda"),
    "CUDA without a GPU": (["--device", "cuda"], "GPU"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_cannot_be_met_is_a_usage_error(
    made: Any, run: Any, trained: Path, digest: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options, fragment = OPTIONS[name]
    before = digest(trained)
    ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet", *options)
    refused(ended, 2, fragment)
    assert digest(trained) == before


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_training_on_a_device_that_is_not_there_is_a_usage_error(
    run: Any, trained: Path, digest: Any, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = digest(trained)
    refused(run("train", "--project", trained, "--device", device, "--quiet"), 2, device)
    assert digest(trained) == before


def test_an_unknown_format_is_a_usage_error(run: Any, trained: Path, digest: Any) -> None:
    before = digest(trained)
    refused(run("export", "--project", trained, "--format", "qcdq,tflite", "--quiet"), 2, "tflite")
    assert digest(trained) == before


@pytest.mark.parametrize("command", [["unlearn"], ["export"], ["receipt", "show"], ["receipt", "verify"]])
def test_before_training_there_is_nothing_to_work_on(
    made: Any, run: Any, untrained: Path, digest: Any, command: list[str]
) -> None:
    more = ["--request", made.request, "--quiet"] if command == ["unlearn"] else []
    before = digest(untrained)
    refused(run(*command, "--project", untrained, *more), 2)
    assert digest(untrained).items() - before.items() <= {(".qmu/lock", _EMPTY)}


_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
PROJECT_COMMANDS: list[list[str]] = [
    ["train", "--quiet"],
    ["unlearn", "--request", "r.json", "--quiet"],
    ["export", "--quiet"],
    ["status"],
    ["receipt", "show"],
    ["receipt", "verify"],
]


@pytest.mark.parametrize("command", PROJECT_COMMANDS, ids=" ".join)
def test_without_a_project_commands_say_so(run: Any, tmp_path: Path, command: list[str]) -> None:
    refused(run(*command, "--project", tmp_path), 2, "no project")
    assert list(tmp_path.iterdir()) == []


# Damaged stores: what is done to the project, exit code, a word of the message.


def _object(project: Path) -> Path:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        digest = ledger.current("checkpoint")
    assert digest is not None
    return ObjectStore(project / ".qmu/objects").path(digest)


def _flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def _not_a_number(project: Path) -> None:
    path = _object(project)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load(data)
    first = next(name for name in tensors if name.endswith("weight"))
    tensors[first].view(-1)[0] = float("nan")
    digest = ObjectStore(project / ".qmu/objects").put_bytes(save(tensors, metadata=header))
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        ledger.set_current("checkpoint", digest)


def _replace(name: str, old: str, new: str) -> Damage:
    def work(project: Path) -> None:
        text = (project / name).read_text("utf-8")
        assert old in text
        (project / name).write_text(text.replace(old, new), "utf-8")

    return work


DAMAGE: dict[str, tuple[Damage, int, str]] = {
    "checkpoint missing": (lambda p: _object(p).unlink(), 4, "no file"),
    "checkpoint bit-flipped": (lambda p: _flip(_object(p)), 4, "altered"),
    "checkpoint truncated": (lambda p: _cut(_object(p)), 4, "altered"),
    "checkpoint of another model": (_replace("qmu.toml", "width = 0.125", "width = 4"), 4, "width"),
    "NaN in the weights": (_not_a_number, 4, "not finite"),
    "ledger missing": (lambda p: (p / ".qmu/ledger.db").unlink(), 4, "no such file"),
    "ledger is garbage": (lambda p: (p / ".qmu/ledger.db").write_bytes(b"garbage" * 1000), 8, "ledger"),
    "ledger is empty": (lambda p: (p / ".qmu/ledger.db").write_bytes(b""), 8, "ledger"),
    "images altered": (lambda p: _flip(p / ".qmu/cache/images.npy"), 4, "registered"),
    "images truncated": (lambda p: _cut(p / ".qmu/cache/images.npy"), 4, "images"),
    "images missing": (lambda p: (p / ".qmu/cache/images.npy").unlink(), 4, "images"),
    "key missing": (lambda p: (p / ".qmu/keys/pseudonym.key").unlink(), 4, "pseudonym.key"),
    "key cut": (lambda p: _cut(p / ".qmu/keys/pseudonym.key"), 4, "32"),
    "recipe is not TOML": (lambda p: (p / "qmu.toml").write_text("=", "utf-8"), 2, "TOML"),
    "recipe is not UTF-8": (lambda p: (p / "qmu.toml").write_bytes(b"\xff\xfe"), 2, "UTF-8"),
    "recipe misspelt": (_replace("qmu.toml", "max_fa_gap", "max_fa_gab"), 2, "max_fa_gab"),
    "recipe out of range": (_replace("qmu.toml", "weight_bits = 4", "weight_bits = 9"), 2, "weight_bits"),
    "method misspelt": (_replace("qmu.toml", 'method = "qmul"', 'method = "qmull"'), 2, "qmull"),
    "parameter misspelt": (_replace("qmu.toml", "[unlearn.qmul]", "[unlearn.qmul]\nlrr = 1"), 2, "lrr"),
}


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[: len(data) // 2])


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


# Files given to `verify`.


def _external(path: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def _foreign(path: Path, model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, path)


def _latent(path: Path, model: onnx.ModelProto) -> None:
    """A float tensor in place of integer codes."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
            codes = numpy_helper.to_array(tensor).astype(np.float32)
            noise = np.random.default_rng(0).normal(0, 0.1, codes.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(codes + noise, tensor.name))
            break
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] == tensor.name:
            node.op_type = "Mul"
            del node.input[2:], node.attribute[:]
            break
    onnx.save(model, path)


FILES: dict[str, tuple[Callable[[Path, bytes], object], int]] = {
    "missing": (lambda p, data: None, 4),
    "empty": (lambda p, data: p.write_bytes(b""), 4),
    "a folder": (lambda p, data: p.mkdir(), 4),
    "a pipe": (lambda p, data: os.mkfifo(p), 4),
    "text": (lambda p, data: p.write_text("not a model"), 6),  # reads as unknown fields
    "a PNG": (lambda p, data: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), 6),
    "truncated": (lambda p, data: p.write_bytes(data[: len(data) // 2]), 4),
    "external data": (lambda p, data: _external(p, onnx.load_from_string(data)), 6),
    "a foreign domain": (lambda p, data: _foreign(p, onnx.load_from_string(data)), 6),
    "latent weights": (lambda p, data: _latent(p, onnx.load_from_string(data)), 6),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("inside", [True, False], ids=["in a project", "outside"])
def test_verify_refuses_what_is_no_model_of_ours(
    made: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: bool
) -> None:
    make, code = FILES[name]
    model = tmp_path / "model.onnx"
    make(model, (made.served / "release/model.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    more = ["--project", made.served] if inside else []
    refused(run("verify", model, "--quiet", *more), code, str(model))


# The world around: disks, other processes, datasets.


@pytest.mark.parametrize("function", ["open", "replace"])
def test_a_read_only_disk_is_one_clear_message(
    made: Any, run: Any, trained: Path, digest: Any, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    real = getattr(os, function)

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        writes = function == "replace" or (args and args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(path).startswith(str(trained)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *args, **kwargs)

    before = digest(trained)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(ended, 2, "Read-only file system")
    assert digest(trained) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_clear_message(made: Any, run: Any, trained: Path) -> None:
    (trained / ".qmu").chmod(0o555)
    try:
        refused(run("unlearn", "--request", made.request, "--project", trained, "--quiet"), 2)
    finally:
        (trained / ".qmu").chmod(0o755)


def test_a_full_disk_at_any_write_is_survived(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    failed_in = set()
    for allowed in (0, 1, 3, 6, 11, 17, 24, 32, 42, 60, 80):
        calls = iter(range(10_000))

        def full(handle: int, calls: Any = calls, allowed: int = allowed) -> None:
            if next(calls) >= allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
        if ended.code == 0:
            break
        refused(ended, 2, "No space left")
        failed_in.add(_last_step(trained))
        assert _current(trained, "receipt") is None or "receipted" in failed_in
    assert len(failed_in) >= 4
    done = run("unlearn", "--request", made.request, "--project", trained, "--json", "--quiet")
    assert done.code == 0 and done.json["checkpoint"] == made.commands["unlearn"].json["checkpoint"]
    assert run("doctor", "--project", trained, "--json").json["problems"] == []


def _last_step(project: Path) -> str:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        return str([("", ""), *ledger.rows("SELECT seq, step FROM steps ORDER BY seq")][-1][1])


def _current(project: Path, name: Any) -> str | None:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        return ledger.current(name)


def test_a_full_disk_under_the_ledger_is_survived(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger.__init__

    def cramped(self: Ledger, path: Path) -> None:
        real(self, path)
        ((pages,),) = self.rows("PRAGMA page_count")
        self.rows(f"PRAGMA max_page_count = {pages}")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "__init__", cramped)
        ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(ended, 2, "full")
    assert _current(trained, "receipt") is None
    assert run("unlearn", "--request", made.request, "--project", trained, "--quiet").code == 0


HOLDER = """
import sys
from pathlib import Path
from qmu_edge.store import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_store(
    made: Any, run: Any, served: Path, digest: Any, tmp_path: Path
) -> None:
    other = ask(tmp_path, {"class_ids": [4]})
    words = [sys.executable, "-W", "ignore", "-c", HOLDER, str(served / ".qmu")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        before = digest(served)
        for command in (["unlearn", "--request", other], ["train"], ["export"]):
            refused(run(*command, "--project", served, "--quiet"), 9, f"pid {process.pid}")
        assert run("status", "--project", served).code == 0
        assert digest(served) == before
        process.communicate()
    assert run("export", "--project", served, "--quiet").code == 0


def test_another_process_that_writes_the_ledger_is_waited_for_and_named(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Ledger.__init__

    def hasty(self: Ledger, path: Path) -> None:
        real(self, path)
        self.rows("PRAGMA busy_timeout = 10")

    monkeypatch.setattr(Ledger, "__init__", hasty)
    other = sqlite3.connect(trained / ".qmu/ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        refused(run("unlearn", "--request", made.request, "--project", trained, "--quiet"), 9, "locked")
    finally:
        other.close()


def test_init_does_not_touch_an_existing_project(run: Any, trained: Path, digest: Any) -> None:
    before = digest(trained)
    refused(run("init", trained, "--quiet"), 2, "already")
    assert digest(trained) == before


def _images(root: Path, size: int = 8) -> Path:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                noise = np.random.default_rng([number, len(name)]).integers(0, 256, (size, size), np.uint8)
                Image.fromarray(noise).save(folder / f"{split}-{name}-{number}.png")
    return root


def _emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _broken(root: Path) -> None:
    (root / "train/cat/train-cat-1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")


def _truncated(root: Path) -> None:
    _cut(root / "train/dog/train-dog-2.png")


def _other_size(root: Path) -> None:
    from PIL import Image

    Image.new("L", (9, 9)).save(root / "test/dog/test-dog-0.png")


DATASETS: dict[str, tuple[Damage, str]] = {
    "no such folder": (shutil.rmtree, "no such folder"),
    "no images": (_emptied, "no images"),
    "a broken image": (_broken, "train-cat-1.png"),
    "a truncated image": (_truncated, "train-dog-2.png"),
    "an image of another size": (_other_size, "9x9"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_cannot_be_read_makes_no_project(run: Any, tmp_path: Path, name: str) -> None:
    damage, fragment = DATASETS[name]
    damage(_images(tmp_path / "images"))
    recipe = tmp_path / "r.toml"
    recipe.write_text("[data]\nsize = 0\n")
    ended = run("init", tmp_path / "p", "--dataset", tmp_path / "images", "--recipe", recipe, "--quiet")
    refused(ended, 2, fragment)
    assert not (tmp_path / "p").exists() or list((tmp_path / "p").iterdir()) == []


def test_a_folder_of_images_makes_a_project(run: Any, tmp_path: Path) -> None:
    _images(tmp_path / "images")
    recipe, subjects = tmp_path / "r.toml", tmp_path / "s.csv"
    recipe.write_text("[data]\nsize = 0\n")
    subjects.write_text("sample,subject\ntrain/cat/train-cat-0.png,ana\n")
    words = ["--dataset", tmp_path / "images", "--recipe", recipe, "--subjects", subjects, "--json"]
    found = run("init", tmp_path / "p", *words).json
    assert (found["samples"], found["test"], found["classes"], found["subjects"]) == (16, 8, 2, 1)


RECIPES: dict[str, tuple[str, str]] = {
    "not TOML": ("= 1", "TOML"),
    "unknown key": ("[model]\nwidht = 1.0", "widht"),
    "unknown table": ("[polcy]\nmax_fa_gap = 0.1", "polcy"),
    "9 bits": ("[model]\nweight_bits = 9", "weight_bits"),
    "1 bit": ("[model]\nactivation_bits = 1", "activation_bits"),
    "text for a number": ('[train]\nepochs = "2"', "epochs"),
    "no epochs": ("[train]\nepochs = 0", "epochs"),
    "negative rate": ("[train]\nlr = -0.1", "lr"),
    "infinite rate": ("[train]\nlr = inf", "lr"),
    "NaN limit": ("[policy]\nmax_fa_gap = nan", "max_fa_gap"),
    "a limit above 1": ("[policy]\nmax_ta_drop = 2.0", "max_ta_drop"),
    "few parity inputs": ("[policy]\nparity_inputs = 10", "parity_inputs"),
    "unknown network": ('[model]\narchitecture = "vgg"', "architecture"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_makes_no_project(run: Any, tmp_path: Path, name: str) -> None:
    text, fragment = RECIPES[name]
    (tmp_path / "r.toml").write_text(text)
    refused(run("init", tmp_path / "p", "--recipe", tmp_path / "r.toml", "--quiet"), 2, fragment)
    assert not (tmp_path / "p").exists()


def test_an_unknown_recipe_names_those_there_are(run: Any, tmp_path: Path) -> None:
    refused(run("init", tmp_path / "p", "--recipe", "nothing", "--quiet"), 2, "digits-resnet18-w4a4")


def test_request_new_does_not_overwrite(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "req.json"
    path.write_text("mine")
    refused(run("request", "new", "--subject", "ana", "--out", path), 2, "exists")
    assert path.read_text() == "mine"
    refused(run("request", "new"), 3, "names no subject")
    refused(run("request", "new", "--subject", "ana", "--regulation", "hipaa"), 3, "hipaa")


# Receipts and verdicts.


def test_a_receipt_altered_by_one_byte_is_not_one_that_was_issued(run: Any, served: Path) -> None:
    path = served / "release/receipt.json"
    good = path.read_bytes()
    for at in range(0, len(good), 97):
        _flip(path, at)
        ended = run("receipt", "verify", path, "--project", served)
        refused(ended, 8)
        path.write_bytes(good)
    assert run("receipt", "verify", path, "--project", served).code == 0


def test_a_receipt_is_held_against_the_files_without_a_project(
    run: Any, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Path(shutil.copytree(served / "release", tmp_path / "device"))
    monkeypatch.chdir(tmp_path)
    assert run("receipt", "verify", device / "receipt.json").code == 0
    _flip(device / "model.onnx")
    refused(run("receipt", "verify", device / "receipt.json"), 8, "model.onnx")
    refused(run("receipt", "verify", device / "nothing.json"), 8, "nothing.json")


def _policy(project: Path, **limits: str) -> None:
    text = (project / "qmu.toml").read_text("utf-8")
    lines = [x for x in text.splitlines() if x.split(" = ")[0] not in limits]
    (project / "qmu.toml").write_text("\n".join(lines).replace(
        "[policy]", "\n".join(["[policy]", *(f"{k} = {v}" for k, v in limits.items())])
    ))  # fmt: skip


def test_the_model_before_unlearning_misses_a_strict_threshold(run: Any, served: Path, digest: Any) -> None:
    with opened(served, Progress()) as project:
        before = _original(project)
    shutil.copyfile(before, served / "original.onnx")
    _policy(served, max_fa_gap="0.0")
    state = digest(served)
    ended = run("verify", served / "original.onnx", "--project", served, "--quiet", "--json")
    assert ended.code == 7 and not ended.json["passed"] and ended.json["request"] is None
    assert ended.err.splitlines() == [f"qmu-edge: {served / 'original.onnx'}: a threshold is not met"]
    assert digest(served) == state


def _original(project: Project) -> Path:
    """The exported file of the checkpoint before the request."""
    current = project.ledger.current("receipt")
    assert current is not None
    receipt = loads(project.store.get_bytes(current), current)
    before = receipt["predicate"]["checkpoints"]["before"]
    _, release = make_release(project, before, ("integer",))
    return project.store.open_verified(release["files"]["model.onnx"])


def test_a_missed_threshold_releases_nothing_and_retraining_can_follow(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def destroyed(name: str, *args: Any) -> Any:
        model = apply(name, *args)
        if name == "qmul":
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if parameter_name.endswith("bias") and parameter.numel() == 10:
                        parameter.copy_(torch.arange(10.0) * 1000)
        return model

    monkeypatch.setattr("qmu_edge.pipeline.apply", destroyed)
    _policy(trained, max_ta_drop="0.12")
    before = {name: _current(trained, name) for name in ("checkpoint", "release", "receipt")}
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet")
    for _ in range(2):
        refused(run(*command), 7, "ta_drop", "nothing was released", "--method retrain")
        assert {name: _current(trained, name) for name in before} == before
        assert not (trained / "release").exists()
    (request,) = run("status", "--project", trained, "--json").json["requests"]
    assert request["outcome"] == "failed" and request["next"]
    result = run(*command, "--method", "retrain", "--json")
    assert result.code == 0 and result.json["outcome"] == "retrained"
    assert (trained / "release/receipt.json").is_file()
    verified = run("verify", trained / "release/model.onnx", "--project", trained, "--json", "--quiet")
    assert verified.json["request"] == result.json["request"]


def test_a_policy_without_any_threshold_is_said(made: Any, run: Any, trained: Path) -> None:
    _policy(trained, max_fa_gap='"off"', max_ta_drop='"off"')
    refused(
        run("unlearn", "--request", made.request, "--project", trained, "--quiet"), 7, "sets no threshold"
    )


def test_a_method_that_diverges_is_said_and_can_be_tried_again(made: Any, run: Any, trained: Path) -> None:
    text = (trained / "qmu.toml").read_text("utf-8")
    (trained / "qmu.toml").write_text(text.replace("[unlearn.qmul]", "[unlearn.qmul]\nlr = 1e30"))
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet")
    refused(run(*command), 5)
    assert _current(trained, "receipt") is None
    (trained / "qmu.toml").write_text(text)
    assert run(*command).code == 0
