"""Receipts and keys by the commands: who signed, what auditors and devices can check, what is published."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from qmu_edge.io.progress import Progress
from qmu_edge.project.project import opened
from qmu_edge.receipt.envelope import read
from qmu_edge.verify import __main__ as device
from qmu_edge.verify.metrics import binomial_interval


def key_of(project: Path) -> str:
    with opened(project, Progress()) as found:
        ((public,),) = found.ledger.rows("SELECT public_key FROM keys WHERE until IS NULL")
        return str(public)


def payload(path: Path) -> Any:
    return json.loads(read(path.read_bytes(), path).payload)


def test_init_makes_a_private_key_that_nobody_else_can_read(made: Any) -> None:
    folder = made.untrained / ".qmu/keys"
    (path,) = folder.glob("signing-*.key")
    assert path.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    secret = path.read_text("ascii")
    assert len(secret) == 64
    others = [p for p in made.served.rglob("*") if p.is_file() and not p.name.startswith("signing-")]
    assert [p for p in others if secret.encode() in p.read_bytes()] == []
    assert [p for p in others if bytes.fromhex(secret) in p.read_bytes()] == []


def test_the_receipt_says_everything_that_it_must(made: Any) -> None:
    statement = payload(made.served / "release/receipt.json")
    predicate, unlearn = statement["predicate"], made.commands["unlearn"].json
    request = predicate["request"]
    assert request["deadline_met"] is True and request["due"] > predicate["completed"][:19]
    assert predicate["batch"] == {"requests": 1, "forget": unlearn["counts"]["forget"]}
    assert predicate["checkpoints"]["after"] == unlearn["checkpoint"] != predicate["checkpoints"]["before"]
    assert predicate["split"]["counts"] == unlearn["counts"]
    assert predicate["method"]["category"] == "approximate" and predicate["method"]["seed"] == 0
    stated, report = predicate["verdict"], unlearn["report"]
    assert (stated["answer"], stated["passed"], stated["residuals"]) == ("not_measurable", True, [])
    assert [r["metric"] for r in stated["results"]] == ["ta_drop", "unchanged_codes"]
    for result, check in zip(stated["results"], report["verdict"]["checks"], strict=True):
        assert [result[k] for k in ("metric", "value", "low", "high", "threshold", "sample_size")] == [
            check[k] for k in ("name", "value", "low", "high", "allowed", "n")
        ]
    assert stated["codes"] == {k: report["codes_changed"][k] for k in ("weights", "changed")}
    assert predicate["thresholds"] == report["terms"]["thresholds"]
    with opened(made.served, Progress()) as project:
        assert predicate["recipe"] == project.recipe.digest()
        assert request["digest"] == project.ledger.requests()[0].digest
    for name in ("fa", "ra", "ta", "va"):
        share = predicate["metrics"]["evaluation"][name]
        low, high = binomial_interval(round(share["value"] * share["n"]), share["n"])
        assert (share["low"], share["high"]) == pytest.approx((low, high), abs=1e-12)
    auc = predicate["metrics"]["evaluation"]["mia_auc"]
    assert auc["low"] < auc["value"] < auc["high"]


def test_the_published_schema_describes_the_receipt(made: Any, run: Any) -> None:
    schema = run("receipt", "schema").json
    assert schema["$id"].endswith(":v3") and run("receipt", "schema", "--json").json == schema
    jsonschema.Draft202012Validator(schema).validate(payload(made.served / "release/receipt.json"))


NO_NETWORK = """
import sys
def stop(event, args):
    assert not event.startswith("socket."), event
sys.addaudithook(stop)
for name in ("torch", "torchvision", "brevitas", "onnx", "qonnx", "sklearn"):
    sys.modules[name] = None
from qmu_edge.cli.main import main
sys.argv[0] = "qmu-edge"
main()
"""


def test_an_auditor_checks_it_in_an_empty_folder_without_torch_and_network(
    made: Any, run: Any, tmp_path: Path
) -> None:
    pem = tmp_path / "key.pem"
    assert run("keys", "export", "--public", "--project", made.served, "--out", pem).code == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copyfile(made.served / "release/receipt.json", empty / "receipt.json")
    held = payload(empty / "receipt.json")["subject"][0]["digest"]["sha256"]
    words = ["receipt", "verify", "receipt.json", "--sha256", held, "--key", str(pem), "--json"]
    call = [sys.executable, "-W", "ignore", "-c", NO_NETWORK, *words]
    done = subprocess.run(call, capture_output=True, text=True, cwd=empty, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (
        "which is trusted" in found["checks"][0]
        and f"model.onnx: SHA-256 {held}, as stated" in found["checks"]
    )
    assert [p.name for p in empty.iterdir()] == ["receipt.json"]


def test_a_key_that_came_with_the_receipt_vouches_for_nothing(made: Any, run: Any, tmp_path: Path) -> None:
    shutil.copyfile(made.served / "release/receipt.json", tmp_path / "receipt.json")
    (tmp_path / "signing.pub").write_text(key_of(made.served))
    words = ["receipt", "verify", tmp_path / "receipt.json", "--key", tmp_path / "signing.pub", "--json"]
    beside = run(*words)
    assert beside.code == 0
    assert f"{tmp_path / 'signing.pub'}: lies beside the receipt; if it came" in str(beside.json["checks"])
    for packed in ("manifest.json", "SHA256SUMS"):
        (tmp_path / packed).write_text("{}")
        ended = run(*words)
        assert (ended.code, ended.out) == (2, "") and "signing.pub: came with the receipt" in ended.err
        (tmp_path / packed).unlink()


def test_a_key_is_insisted_upon_when_given_and_never_assumed(made: Any, run: Any, tmp_path: Path) -> None:
    receipt = made.served / "release/receipt.json"
    alone = run("receipt", "verify", receipt, "--json").json
    assert "compared with no key, so it does not tell who signed" in alone["checks"][0]
    (tmp_path / "mine").write_text(key_of(made.served))
    (tmp_path / "other").write_text("11" * 32)
    good = run(
        "receipt", "verify", receipt, "--key", tmp_path / "other", "--key", tmp_path / "mine", "--json"
    )
    assert good.code == 0 and f"key {alone['key']}, which is trusted" in good.json["checks"][0]
    for more in ((), ("--project", made.served)):
        wrong = run("receipt", "verify", receipt, "--key", tmp_path / "other", *more)
        assert wrong.code == 8 and f"signature: by key {alone['key']}; trusted: " in wrong.err
    assert run("receipt", "verify", receipt, "--key", receipt).code == 2
    wrong = run("receipt", "verify", receipt, "--sha256", "0" * 64)
    assert wrong.code == 8 and "is none of model.onnx" in wrong.err


def test_rotation_keeps_old_receipts_good_and_bundles_checkable(
    made: Any, run: Any, served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old,) = run("keys", "list", "--project", served, "--json").json
    new = run("keys", "rotate", "--reason", "compromised", "--project", served, "--json").json["key"]
    listed = run("keys", "list", "--project", served, "--json").json
    assert [*listed] == [old, new] and listed[old]["reason"] == "compromised" and listed[new]["until"] is None
    checks = run("receipt", "verify", "--project", served, "--json").json["checks"]
    assert f"signature: holds, key {old}, which is trusted" in checks
    told = run("receipt", "verify", "--project", served).out.splitlines()
    assert told[-1].startswith("the receipt holds") and len(told) > len(checks)
    assert checks[-2].endswith("the signature alone would prove nothing, the ledger does")
    assert run("export", "--project", served, "--bundle", tmp_path / "device", "--quiet").code == 0
    (tmp_path / "new.pem").write_text(run("keys", "export", "--public", "--project", served).out)
    assert device.main([str(tmp_path / "device.tar"), "--key", str(tmp_path / "new.pem"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["bundle"]
    assert about["signature"] == f"valid, key {new}"
    assert f"key {old} (another than the bundle's, which vouches for it)" in about["receipt"]
    assert run("doctor", "--project", served).code == 0


def test_keys_export_gives_the_public_half_only(run: Any, served: Path, tmp_path: Path) -> None:
    refused = run("keys", "export", "--project", served)
    assert refused.code == 2 and "never exported" in refused.err
    old = run("keys", "export", "--public", "--project", served, "--json").json
    new = run("keys", "rotate", "--project", served, "--json").json
    assert old["pem"] != new["pem"] and old["pem"].startswith("-----BEGIN PUBLIC KEY-----\n")
    again = run("keys", "export", old["key"], "--public", "--project", served, "--json").json
    assert again["pem"] == old["pem"] and again["until"] == new["since"]
    assert run("keys", "export", "nobody", "--public", "--project", served).code == 2
    (tmp_path / "key.pem").write_text("mine")
    assert run("keys", "export", "--public", "--project", served, "--out", tmp_path / "key.pem").code == 2
    assert (tmp_path / "key.pem").read_text() == "mine"
    assert run("keys", "revoke", old["key"], "--project", served, "--json").json["reason"] == "compromised"
    assert run("keys", "revoke", new["key"], "--project", served).code == 2
    assert run("keys", "rotate", "--reason", "bored", "--project", served).code == 2


def test_a_lost_key_stops_a_request_with_its_remedy(made: Any, run: Any, trained: Path) -> None:
    (path,) = (trained / ".qmu/keys").glob("signing-*.key")
    path.unlink()
    ended = run("doctor", "--project", trained)
    assert ended.code == 4 and "keys rotate --reason lost" in ended.err
    command = ("unlearn", "--request", made.request, "--project", trained, "--quiet")
    ended = run(*command)
    assert ended.code == 4 and "keys rotate --reason lost" in ended.err
    assert not (trained / "release").exists()
    assert run("keys", "rotate", "--reason", "lost", "--project", trained).code == 0
    assert run(*command).code == 0
    assert run("receipt", "verify", "--project", trained).code == 0


def test_nothing_is_signed_that_the_linter_objects_to(
    made: Any, run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(trained, Progress()) as project:
        somebody = project.samples.index.subjects[
            5
        ]  # a person of the project, whether of this request or not
    monkeypatch.setattr("qmu_edge.pipeline.make_receipt._versions", lambda _: {"torch": somebody})
    ended = run("unlearn", "--request", made.request, "--project", trained, "--quiet")
    assert ended.code == 8 and "$.predicate.tool.dependencies.torch: a forbidden text" in ended.err
    assert not (trained / "release").exists() and somebody not in ended.err


GOLDEN = Path(__file__).parents[1] / "receipt/golden"


def test_a_chain_of_receipts_is_checked_from_its_newest_link(run: Any) -> None:
    sparse, second, first = (GOLDEN / f"receipt.v1-{name}.json" for name in ("sparse", "second", "first"))
    words = ("receipt", "verify", sparse, "--key", GOLDEN / "receipt.v1-sparse.pem")
    found = run(*words, "--previous", second, "--previous", first, "--json")
    assert (
        found.code == 0 and sum(c.startswith("previous receipt: SHA-256") for c in found.json["checks"]) == 2
    )
    wrong = run(*words, "--previous", first)
    assert wrong.code == 8 and "previous receipt: SHA-256 is" in wrong.err


def test_a_ledger_that_was_put_back_is_told_with_any_later_receipt(
    made: Any, run: Any, served: Path, tmp_path: Path
) -> None:
    """Its files and the link too, as a backup restores them; the person has kept the receipt."""
    kept = tmp_path / "kept.json"
    kept.write_bytes((served / "release/receipt.json").read_bytes())
    stated = payload(kept)["predicate"]["ledger"]
    assert run("status", "--project", served, "--json").json["ledger"]["events"] > stated["events"]
    assert run("receipt", "verify", kept, "--project", served).code == 0
    for path in (served / ".qmu").glob("ledger.db*"):
        path.unlink()
    shutil.copy(made.trained / ".qmu/ledger.db", served / ".qmu/ledger.db")
    told = run("receipt", "verify", kept, "--project", served)
    assert told.code == 8 and "put back, cut or written anew since" in told.err
    found = run("doctor", "--project", served)
    assert found.code == 8 and "put back, cut or written anew since" in found.err
