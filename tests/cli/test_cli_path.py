"""The whole path by the commands, from `init` to a receipt, and what each leaves behind."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.io.progress import Progress
from qmu_edge.project.project import Project, opened
from qmu_edge.receipt.envelope import read
from qmu_edge.receipt.receipt import loads
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.verify import __main__ as device

SUBJECT = "writer-3"
MODELS = ("model.onnx", "model.packed.onnx", "model.qonnx.onnx")
PAPERS = ("README.md", "bom.cdx.json", "model.sig", "test-result.json")
FILES = (*MODELS, "receipt.json", "report.json", "report.html", *PAPERS)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def forgotten(project: Path) -> list[str]:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        return sorted(ledger.tombstones())


def receipts(project: Path) -> list[tuple[str, str | None]]:
    with Ledger.open(project / ".qmu/ledger.db") as ledger:
        query = "SELECT receipt_digest, previous_digest FROM receipts ORDER BY seq"
        return [(new, old) for new, old in ledger.rows(query)]


def split_of(project: Path, request_id: str) -> dict[str, Any]:
    with opened(project, Progress()) as found:
        split = found.results.fulfilled_steps(request_id)["unlearned"].stored("split")
        document: dict[str, Any] = json.loads(found.store.get_bytes(split))
        return document


def test_every_step_ends_well_and_says_so_as_json(made: Any) -> None:
    init, train, unlearn = (made.commands[name].json for name in ("init", "train", "unlearn"))
    assert init["train"] + init["validation"] + init["test"] == init["samples"] == 1797
    assert init["subjects"] == init["classes"] == 10
    assert train["images"] == init["train"]
    assert unlearn["outcome"] == "unlearned"
    assert unlearn["counts"]["forget"] + unlearn["counts"]["retain"] == init["train"]
    assert set(unlearn["steps"]) == {"unlearned", "requantized", "exported", "verified", "receipted"}


def test_progress_goes_to_stderr_and_quiet_silences_it(made: Any, run: Any, served: Path) -> None:
    assert "training" in made.commands["train"].err and "training" not in made.commands["train"].out
    assert "qmul" in made.commands["unlearn"].err
    again = run("verify", served / "release/model.onnx", "--project", served, "--json", "--quiet")
    assert again.code == 0 and again.err == "" and again.json["passed"]


def test_a_dry_run_changes_nothing_and_says_what_would_be_deleted(
    made: Any, run: Any, trained: Path, digest: Any
) -> None:
    before = digest(trained)
    planned = run("unlearn", "--request", made.request, "--project", trained, "--dry-run", "--json").json
    assert digest(trained) == before
    assert planned["dry_run"] and planned["counts"] == made.commands["unlearn"].json["counts"]


def test_release_is_a_relative_link_to_the_files_that_the_receipt_names(made: Any) -> None:
    link = made.served / "release"
    assert link.is_symlink() and not link.readlink().is_absolute()
    assert sorted(p.name for p in link.iterdir()) == sorted([*FILES, "SHA256SUMS"])
    receipt = loads((link / "receipt.json").read_bytes(), link)
    assert receipt.files == {name: sha(link / name) for name in MODELS}
    stated = receipt.document()["predicate"]["metrics"]["evaluation"]
    assert stated["sha256"] == sha(link / "model.onnx")
    assert stated.items() <= _report(link)["unlearned"]["evaluation"].items()


def _report(link: Path) -> Any:
    return json.loads((link / "report.json").read_bytes())


def test_the_result_names_what_lies_in_the_release(made: Any) -> None:
    result = made.commands["unlearn"].json
    assert {Path(p).name: sha(Path(p)) for p in result["files"].values()} == {
        name: sha(made.served / "release" / name) for name in MODELS
    }
    assert sha(Path(result["receipt"])) == result["receipt_sha256"] == receipts(made.served)[-1][0]


def test_status_tells_where_a_request_stands(made: Any, run: Any) -> None:
    before = run("status", "--project", made.trained, "--json").json
    after = run("status", "--project", made.served, "--json").json
    assert before["requests"] == [] and before["deleted"] == 0 and before["receipt"] is None
    (request,) = after["requests"]
    assert (request["state"], request["outcome"], request["next"]) == ("completed", "unlearned", None)
    assert not request["overdue"] and request["due"] > request["received"]
    assert after["deleted"] == len(forgotten(made.served)) and after["checkpoint"] != before["checkpoint"]


def test_verify_measures_the_file_on_the_sets_of_its_request(made: Any, run: Any, served: Path) -> None:
    found = run("verify", served / "release/model.onnx", "--project", served, "--json").json
    assert found["request"] == made.commands["unlearn"].json["request"]
    reported = _report(served / "release")["unlearned"]["evaluation"]
    assert {**found["evaluation"], "seconds": 0} == {**reported, "seconds": 0}
    assert found["evaluation"]["fa"]["n"] == made.commands["unlearn"].json["counts"]["forget"]


def test_verify_checks_the_structure_of_a_qonnx_file(run: Any, served: Path) -> None:
    found = run("verify", served / "release/model.qonnx.onnx", "--project", served, "--json").json
    assert found["format"] == "qonnx" and "structure and weights" in found["note"]


def test_verify_outside_of_a_project_checks_the_file_alone(
    run: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run("verify", made.served / "release/model.onnx", "--json")
    assert found.code == 0 and found.json["evaluation"] is None and found.json["latent_weights"]["weights"]


def test_the_project_is_found_upwards_from_here(
    run: Any, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(served / "deep/er")
    assert run("status", "--json").json["project"] == str(served)


def test_receipt_show_prints_the_stored_receipt(run: Any, served: Path) -> None:
    shown = run("receipt", "show", "--project", served, "--json").json
    assert shown["receipt"] == loads((served / "release/receipt.json").read_bytes(), served).document()
    assert shown["sha256"] == sha(served / "release/receipt.json")
    text = run("receipt", "show", served / "release/receipt.json", "--full").out
    assert "What this does not prove" in text
    assert len(run("receipt", "show", served / "release/receipt.json").out.splitlines()) <= 26


def test_receipt_verify_hashes_the_files_beside_it(run: Any, served: Path) -> None:
    checks = run("receipt", "verify", "--project", served, "--json").json["checks"]
    assert sum("as stated" in line for line in checks) == 3
    alone = run("receipt", "verify", served / "release/receipt.json", "--json").json["checks"]
    assert sum("as stated" in line for line in alone) == 3


def test_export_writes_the_current_files_elsewhere(run: Any, served: Path, tmp_path: Path) -> None:
    done = run("export", "--project", served, "--out", tmp_path / "device", "--json").json
    assert sorted(p.name for p in (tmp_path / "device").iterdir()) == [*MODELS]
    for name, path in done["files"].items():
        assert sha(Path(path)) == done["sha256"][name] == sha(served / "release" / name)
    assert all(
        p["max_abs_difference"] == 0.0 or (p["agreement"] >= 0.999 and p["n"] >= 1000)
        for p in done["parity"].values()
    )


def test_export_of_one_format_writes_one_file(run: Any, served: Path, tmp_path: Path) -> None:
    assert run("export", "--project", served, "--format", "qcdq", "--out", tmp_path / "one").code == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["model.qcdq.onnx"]


def test_export_says_whether_a_file_computes_the_same_everywhere(
    run: Any, served: Path, tmp_path: Path
) -> None:
    said = run("export", "--project", served, "--out", tmp_path / "files", "--json").json["same_bits"]
    assert said.keys() == {"integer", "packed", "qonnx"}
    assert all("processors without VNNI clip their sum" in said[form] for form in ("integer", "packed"))


def test_export_writes_a_bundle_that_a_device_checks(
    run: Any, served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.readlink(served / "release")
    done = run("export", "--project", served, "--bundle", tmp_path / "device", "--json", "--quiet")
    assert done.code == 0, done.err
    assert {*MODELS, *PAPERS, "receipt.json", "signing.pub"} < set(done.json["files"])
    assert os.readlink(served / "release") == before
    assert sha(tmp_path / "device/receipt.json") == sha(served / "release/receipt.json")
    assert device.main([str(tmp_path / "device.tar"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["max_abs_difference"] == 0.0
    assert done.json["receipt"] == sha(tmp_path / "device/receipt.json")
    (tmp_path / "device.tar").unlink()  # as a kill between the two leaves it
    assert run("export", "--project", served, "--bundle", tmp_path / "device", "--quiet").code == 0
    assert device.main([str(tmp_path / "device.tar")]) == 0
    other = ("--format", "packed", "--bundle", tmp_path / "device")
    again = run("export", "--project", served, *other, "--quiet")
    assert (again.code, "exists already, and is not this bundle" in again.err) == (2, True)
    assert run("doctor", "--project", served).code == 0


def test_export_for_another_target_and_camera(run: Any, served: Path, tmp_path: Path) -> None:
    words = ("export", "--project", served, "--quiet", "--json")
    camera = ("--input", "uint8", "--layout", "NHWC", "--batch", "1")
    done = run(*words, "--target", "tensorrt", *camera, "--out", tmp_path / "trt")
    assert done.code == 0, done.err
    assert list(done.json["files"]) == ["model.onnx"]
    assert run("verify", tmp_path / "trt/model.onnx", "--project", served, "--quiet").code in (0, 7)
    for refused in (
        ("--target", "finn", "--format", "integer"), ("--target", "toaster"), ("--input", "int8"),
        ("--layout", "HWC"), ("--format", "integer", "--cost"),
    ):  # fmt: skip
        assert run(*words, *refused, "--out", tmp_path / "none").code == 2, refused


def test_export_before_any_request_makes_a_release(run: Any, trained: Path) -> None:
    assert run("export", "--project", trained).code == 0
    assert sorted(p.name for p in (trained / "release").iterdir()) == ["SHA256SUMS", *MODELS]
    assert run("verify", trained / "release/model.onnx", "--project", trained, "--json").json["passed"]


def test_doctor_finds_nothing_wrong(run: Any, served: Path) -> None:
    found = run("doctor", "--project", served, "--json")
    assert found.code == 0 and found.json["problems"] == [] and found.json["versions"]["torch"]
    assert found.json["processors"]["threads"] >= 1


def test_doctor_repairs_what_is_safe_and_says_by_its_code_what_is_left(run: Any, served: Path) -> None:
    (served / "release").unlink()
    (served / ".qmu/keys").chmod(0o755)
    sick = run("doctor", "--project", served, "--json")
    assert sick.code == 4 and len(sick.json["repairable"]) == 2
    cured = run("doctor", "--repair", "--project", served, "--json")
    assert cured.code == 0 and cured.json["repaired"] == sick.json["repairable"]
    assert {path.name for path in (served / "release").iterdir()} == {*FILES, "SHA256SUMS"}
    assert run("receipt", "verify", "--project", served).code == 0
    with Ledger.open(served / ".qmu/ledger.db") as ledger:
        ledger.rows("UPDATE requests SET due = NULL")
    assert run("doctor", "--repair", "--project", served).code == 8


def test_the_same_request_again_is_the_same_receipt(made: Any, run: Any, served: Path, digest: Any) -> None:
    before = digest(served)
    again = run("unlearn", "--request", made.request, "--project", served, "--json").json
    assert again["receipt_sha256"] == made.commands["unlearn"].json["receipt_sha256"]
    assert len(receipts(served)) == 1
    assert digest(served) == before


def test_training_twice_is_training_once(made: Any, run: Any, trained: Path) -> None:
    again = run("train", "--project", trained, "--json", "--quiet")
    assert again.json == made.commands["train"].json


def test_deleted_samples_are_never_trained_on_again(made: Any, run: Any, served: Path) -> None:
    counts = made.commands["unlearn"].json["counts"]
    again = run("train", "--project", served, "--replace", "--json").json
    assert again["images"] == counts["retain"] == made.commands["train"].json["images"] - counts["forget"]
    with opened(served, Progress()) as project:
        ids = {project.samples.index.ids[i] for i in project.samples.trainable()}
    assert ids and not ids & set(forgotten(served))


def test_a_second_request_follows_the_first(made: Any, run: Any, served: Path, tmp_path: Path) -> None:
    first = made.commands["unlearn"].json
    request = tmp_path / "second.json"
    run("request", "new", "--subject", "writer-5", "--out", request)
    result = run("unlearn", "--request", request, "--project", served, "--json").json
    receipt = loads((served / "release/receipt.json").read_bytes(), served)
    assert receipt.predicate.previous == first["receipt_sha256"]
    assert receipts(served) == [
        (first["receipt_sha256"], None), (result["receipt_sha256"], first["receipt_sha256"]),
    ]  # fmt: skip
    assert receipt.predicate.checkpoints.before == first["checkpoint"]
    one, two = split_of(served, first["request"]), split_of(served, result["request"])
    gone = {*one["forget"], *one["also_erased"]}
    assert one["forget"] and not gone & {*two["retain"], *two["forget"], *two["test"], *two["validation"]}
    verified = run("receipt", "verify", "--project", served, "--json").json["checks"]
    assert any("previous receipt" in line and "as stated" in line for line in verified)


def personal_texts(project: Project, subject: str) -> list[str]:
    index, key = project.samples.index, project.key
    gone = [i for i, name in enumerate(index.ids) if name in project.ledger.tombstones()]
    pseudonyms = {index.subjects[i] for i in gone}
    assert len(pseudonyms) == 1 and len(gone) > 100
    ids = [index.ids[i] for i in gone]
    digests = [index.digests[i] for i in gone]
    return [subject, *pseudonyms, *ids, *digests, key.hex(), str(project.root), str(Path.cwd()), "/tmp/"]


@pytest.mark.parametrize("name", FILES)
def test_no_released_file_names_a_person_a_sample_or_a_path(made: Any, name: str) -> None:
    data = (made.served / "release" / name).read_bytes()
    with opened(made.served, Progress()) as project:
        texts = personal_texts(project, SUBJECT)
    data += read(data, name).payload if name in ("receipt.json", "test-result.json") else b""
    assert [t for t in texts if t.encode() in data] == []


def test_no_event_or_step_of_the_ledger_names_a_person_or_a_sample(made: Any) -> None:
    with opened(made.served, Progress()) as project:
        rows = project.ledger.rows("SELECT body FROM events")
        rows += project.ledger.rows("SELECT detail FROM steps")
        rows += project.ledger.rows("SELECT value FROM meta")
        text = "\n".join(row for (row,) in rows)
        assert [t for t in personal_texts(project, SUBJECT) if t in text] == []


COMMANDS: list[list[str]] = [
    ["methods"],
    ["recipes"],
    ["status", "--project", "{project}"],
    ["doctor", "--project", "{project}"],
    ["train", "--project", "{project}", "--quiet"],
    ["request", "new", "--sample", "digits/0001"],
    ["request", "new", "--class", "3", "--out", "{project}/other.json"],
    ["unlearn", "--request", "{request}", "--project", "{project}", "--quiet"],
    ["unlearn", "--request", "{request}", "--project", "{project}", "--dry-run", "--quiet"],
    ["export", "--project", "{project}", "--quiet"],
    ["verify", "{project}/release/model.onnx", "--project", "{project}", "--quiet"],
    ["purge", "--project", "{project}"],
    ["purge", "--project", "{project}", "--dry-run"],
    ["receipt", "show", "--project", "{project}"],
    ["receipt", "verify", "--project", "{project}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_prints_json_alone_or_text_for_people(
    made: Any, run: Any, served: Path, command: list[str]
) -> None:
    words = [word.format(project=served, request=made.request) for word in command]
    if command[0] == "train":
        words = [word.format(project=made.trained, request=made.request) for word in command]
    text = run(*words)
    (served / "other.json").unlink(missing_ok=True)
    machine = run(*words, "--json")
    assert (text.code, machine.code, text.err, machine.err) == (0, 0, "", "")
    assert text.out.strip() and isinstance(machine.json, dict)


def test_training_and_unlearning_say_what_they_spent(made: Any, run: Any) -> None:
    trained, served = made.commands["train"].json, made.commands["unlearn"].json
    for spent, epochs in ((trained["spent"], 2), (served["steps"]["unlearned"]["spent"], 1)):
        assert spent["images"] >= epochs * 1000 and spent["epoch_equivalents"] >= 0.5
        assert min(spent[part] for part in ("data_s", "step_s", "images_per_s")) > 0
    text = run("train", "--project", made.trained, "--quiet").out
    assert text.splitlines()[-1].startswith(f"{trained['spent']['images']:,} images, ")
    assert b"epoch_equivalents" not in Path(served["receipt"]).read_bytes()
