"""Sending to a Hub: what the library is told, what it asks, and that it asks nobody else."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import ConfigError
from qmu_edge.export.hub import Repository
from qmu_edge.export.push import FOLDER, SILENT, Hub, Refused, offered
from qmu_edge.verify.bundle import read_bundle
from tests.export.hub_server import Answer, Asked, as_json, listening
from tests.export.library import NoSuch, installed
from tests.verify.bundles import write_alone

BIRDS = Repository("shop", "birds")
COMMIT, PARENT = 40 * "b", 40 * "a"


def test_the_library_is_told_to_be_silent_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed():
        real, told = __import__("importlib").import_module, []

        def importing(name: str) -> Any:
            told.append({known: os.environ.get(known) for known in SILENT})
            return real(name)

        monkeypatch.setattr("qmu_edge.export.push.import_module", importing)
        Hub()
    assert told[0] == SILENT and SILENT["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ.get("HF_HUB_DISABLE_XET") is None  # `installed` has put it back


def test_whatever_the_library_raises_is_one_line_without_its_words() -> None:
    with installed() as library:
        hub = Hub()
        for error, kind in (
            (NoSuch(409), Refused),
            (NoSuch(502), ConfigError),
            (KeyError("secret"), ConfigError),
        ):
            library.wrong["model_info"] = error
            with pytest.raises(kind) as caught:
                hub.look(BIRDS)
            assert type(caught.value) is kind and "secret" not in str(caught.value)
            assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_repository_whose_hub_does_not_say_who_sees_it() -> None:
    with installed() as library:
        for private, everybody in ((True, False), (False, True), (None, None)):
            library.private = private
            assert Hub().look(BIRDS).everybody is everybody


def test_what_was_verified_is_what_is_offered(tmp_path: Path, model_file: Path) -> None:
    """Whatever becomes of the files afterwards: each is read once."""
    write_alone(tmp_path / "b", model_file, number=0)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    checked = read_bundle(tmp_path / "b", whole=True)
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"changed since")
    assert {f"{FOLDER}/{name}": data for name, data in whole.items()}.items() <= offered(checked).items()


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A model file of one layer."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).integers(-7, 8, (3, 12)).astype(np.int8)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    shapes: dict[str, list[str | int]] = {"image": ["n", 3, 2, 2], "logits": ["n", 3]}
    image, logits = (helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in shapes.items())
    stored: dict[str, Any] = {"w": weights, "scale": np.array(0.1, np.float32)}
    tensors = [numpy_helper.from_array(a, n) for n, a in stored.items()]
    graph = helper.make_graph(nodes, "net", [image], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "model.onnx"


# The library itself.

SEND = """
import json, sys
asked = []
def hear(event, what):
    if event in ("socket.connect", "socket.getaddrinfo"):
        asked.append([event, str(what[event == "socket.connect"])])
sys.addaudithook(hear)
from qmu_edge.export.hub import Repository
from qmu_edge.export.push import Hub
hub, birds = Hub(), Repository("shop", "birds")
there = hub.look(birds)
files = {"README.md": b"---\\nlibrary_name: \\"onnx\\"\\n---\\n", "bundle/model.onnx": b"model" * 1000}
commit = hub.send(birds, files, there)
hub.require_whole(birds, files, commit)
print(json.dumps({"commit": commit, "asked": asked, "xet": "hf_xet" in sys.modules}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="the extra `hub` is not installed"
)
def test_the_library_asks_what_sending_takes_and_nobody_else(tmp_path: Path) -> None:
    with listening() as hub:
        held: dict[str, bytes] = {}
        about, page = "/api/models/shop/birds", f"{hub.address}/shop/birds/commit/{COMMIT}"

        def info(asked: Asked) -> Answer:
            new = asked.path.endswith(COMMIT)
            names = ["README.md", "bundle/model.onnx"] if new else [".gitattributes", "bundle/old.onnx"]
            siblings = [{"rfilename": name} for name in names]
            return as_json({"id": "shop/birds", "sha": PARENT, "private": True, "siblings": siblings})

        def modes(asked: Asked) -> Answer:
            files = [file["path"] for file in json.loads(asked.body)["files"]]
            kinds = {"README.md": "regular", "bundle/model.onnx": "lfs"}
            return as_json(
                {"files": [{"path": p, "uploadMode": kinds[p], "shouldIgnore": False} for p in files]}
            )

        def batch(asked: Asked) -> Answer:
            (thing,) = json.loads(asked.body)["objects"]
            upload = {"href": f"{hub.address}/blob?X-Amz-Signature=secret"}
            return as_json({"transfer": "basic", "objects": [{**thing, "actions": {"upload": upload}}]})

        def put(asked: Asked) -> Answer:
            held["blob"] = asked.body
            return Answer()

        hub.answers = {
            about: info, f"{about}/revision/{COMMIT}": info,
            "/api/validate-yaml": as_json({"errors": [], "warnings": []}),
            f"{about}/preupload/main": modes, "/shop/birds.git/info/lfs/objects/batch": batch, "/blob": put,
            f"{about}/commit/main": as_json({"commitOid": COMMIT, "commitUrl": page, "success": True}),
        }  # fmt: skip
        home = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address}
        kept = {n: v for n, v in os.environ.items() if "proxy" not in n.lower() and not n.startswith("HF_")}
        environment = kept | home | {"HF_TOKEN": "hf_thisIsTheToken"}
        done = subprocess.run(
            [sys.executable, "-c", SEND], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["commit"], told["xet"], done.stderr) == (COMMIT, False, "")
        port = hub.address.rpartition(":")[2]
        looked, met = ({what for event, what in told["asked"] if event == name} for name in EVENTS)
        assert looked <= {"127.0.0.1"} and met == {f"('127.0.0.1', {port})"}
        assert [path.partition("?")[0] for path in hub.paths()] == [
            f"GET {about}", "POST /api/validate-yaml", f"POST {about}/preupload/main",
            "POST /shop/birds.git/info/lfs/objects/batch", "PUT /blob", f"POST {about}/commit/main",
            f"GET {about}/revision/{COMMIT}",
        ]  # fmt: skip
        assert held["blob"] == b"model" * 1000
        *_, commit, _ = hub.asked
        lines = [json.loads(line) for line in commit.body.splitlines()]
        assert lines[0]["value"]["parentCommit"] == PARENT
        assert [(line["key"], line["value"]["path"]) for line in lines[1:]] == [
            ("deletedFile", "bundle/old.onnx"), ("file", "README.md"), ("lfsFile", "bundle/model.onnx"),
        ]  # fmt: skip
        assert "torch" not in commit.agent and "agent/" not in commit.agent
        assert [asked.path for asked in hub.asked if asked.path.startswith("/blob") and asked.token] == []
        assert not any(path.is_file() for path in tmp_path.rglob("*"))


EVENTS = ("socket.getaddrinfo", "socket.connect")
