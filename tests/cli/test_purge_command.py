"""After `purge` every other command still does its work, on what is left."""

from pathlib import Path
from typing import Any

import numpy as np

from qmu_edge.project.samples import IMAGES
from qmu_edge.receipt import receipt


def issued(project: Path) -> dict[str, Any]:
    """The statement of the current receipt."""
    return receipt.loads((project / "release/receipt.json").read_bytes(), "receipt").document()


def blank(project: Path) -> int:
    """How many decoded images are all zero."""
    images = np.load(project / ".qmu" / IMAGES)
    return int((~images.any(axis=(1, 2, 3))).sum())


def test_within_the_window_nothing_goes(made: Any, run: Any, served: Path, digest: Any) -> None:
    before = digest(served / ".qmu/objects")
    ended = run("purge", "--project", served, "--json")
    assert (ended.code, ended.json["removed"], ended.json["requests"]) == (0, [], [])
    kept = {(row["kind"], row["reason"].split(":")[0][:5]) for row in ended.json["kept"]}
    assert {("checkpoint", "until"), ("decoded images", "until"), ("checkpoint", "it is")} <= kept
    assert digest(served / ".qmu/objects") == before and blank(served) == 0


def test_a_dry_run_lists_and_changes_nothing(made: Any, run: Any, served: Path, digest: Any) -> None:
    before = digest(served)
    ended = run("purge", "--project", served, "--now", "--dry-run", "--json")
    assert ended.code == 0 and digest(served) == before
    counts = made.commands["unlearn"].json["counts"]
    checklist = ended.json["requests"][made.commands["unlearn"].json["request"]]
    (images,) = [row for row in checklist if row["kind"] == "decoded images"]
    deleted = counts["forget"] + counts["also_erased"]
    assert images == {
        "kind": "decoded images", "count": deleted, "bytes": deleted * 64, "state": "present",
    }  # fmt: skip
    assert made.commands["train"].json["checkpoint"] in {row["name"] for row in ended.json["remove"]}
    assert "backups of this folder" in ended.json["outside"]


def test_a_dry_run_reports_for_people(made: Any, run: Any, served: Path) -> None:
    ended = run("purge", "--project", served, "--now", "--dry-run")
    request = made.commands["unlearn"].json["request"]
    assert ended.code == 0 and ended.err == ""
    heads = [line.split("  ")[0] for line in ended.out.splitlines() if line.endswith(" bytes")]
    assert heads == ["would be removed", "kept", f"of request {request}"]
    for words in ("checkpoint (not needed since", "decoded images (present)", "model files on devices"):
        assert words in ended.out
    assert ended.out.rstrip().endswith("dry run: nothing was changed")


def test_all_commands_work_after_a_purge(made: Any, run: Any, served: Path, tmp_path: Path) -> None:
    first, request = made.commands["unlearn"].json, made.request
    purged = run("purge", "--project", served, "--now", "--json")
    assert purged.code == 0 and purged.json["requests"] == [first["request"]]
    assert blank(served) == first["counts"]["forget"] + first["counts"]["also_erased"]
    assert run("doctor", "--project", served, "--json").json["problems"] == []
    assert run("status", "--project", served, "--json").json["checkpoint"] == first["checkpoint"]
    assert run("receipt", "verify", "--project", served).code == 0
    verified = run("verify", served / "release/model.onnx", "--project", served, "--json", "--quiet").json
    assert verified["passed"] and verified["verdict"] is None and "purged" in verified["note"]
    assert verified["evaluation"]["fa"] is None and verified["evaluation"]["ra"] is not None
    again = run("unlearn", "--request", request, "--project", served, "--json", "--quiet")
    assert (again.code, again.json["receipt_sha256"]) == (0, first["receipt_sha256"])
    preview = run("unlearn", "--request", request, "--project", served, "--dry-run", "--json").json
    assert preview["outcome"] == "unlearned" and preview["counts"] == first["counts"]
    run("request", "new", "--subject", "writer-3", "--out", tmp_path / "same.json")
    same = run("unlearn", "--request", tmp_path / "same.json", "--project", served)
    assert same.code == 3 and "writer-3" not in same.err
    other = tmp_path / "other.json"  # under the id of a purged request, about somebody who is still there
    other.write_text(Path(request).read_text("utf-8").replace("writer-3", "writer-5"), "utf-8")
    for words in ((), ("--dry-run",)):
        refused = run("unlearn", "--request", other, "--project", served, *words)
        assert refused.code == 3 and "what it names now is not deleted" in refused.err
    assert run("export", "--project", served, "--out", tmp_path / "files").code == 0


def test_the_receipt_holds_the_checklist_of_its_moment(made: Any, served: Path) -> None:
    stated = issued(served)["predicate"]
    rows = {row["kind"]: row for row in stated["derived_artefacts"]}
    counts = stated["split"]["counts"]
    assert rows["decoded images"]["count"] == counts["forget"] + counts["also_erased"]
    assert rows["checkpoint"]["count"] == 2  # the one before, and the one before re-quantization
    assert rows["checkpoint"]["state"] == rows["split"]["state"] == "present"
    assert (rows["model files on devices"]["count"], rows["saliency masks"]["count"]) == (None, 0)


def test_a_purge_reports_for_people(run: Any, served: Path) -> None:
    ended = run("purge", "--project", served, "--now")
    assert ended.code == 0 and ended.err == ""
    for words in ("decoded images (asked for)", "1 requests are purged whole", "model files on devices"):
        assert words in ended.out


def test_the_next_request_follows_a_purge_and_the_first_one_stays_answered(
    made: Any, run: Any, served: Path, tmp_path: Path
) -> None:
    run("purge", "--project", served, "--now")
    run("request", "new", "--subject", "writer-5", "--out", tmp_path / "second.json")
    command = ("unlearn", "--request", tmp_path / "second.json", "--project", served, "--json", "--quiet")
    second = run(*command)
    assert second.code == 0, second.err
    assert issued(served)["predicate"]["previous"] == made.commands["unlearn"].json["receipt_sha256"]
    assert run("purge", "--project", served, "--now", "--json").json["requests"] == [second.json["request"]]
    first = run("unlearn", "--request", made.request, "--project", served, "--json", "--quiet")
    assert first.code == 0 and first.json["purged"] is True
    assert first.json["receipt_sha256"] == made.commands["unlearn"].json["receipt_sha256"]
    assert run("unlearn", "--request", made.request, "--project", served, "--quiet").code == 0
    assert run("receipt", "verify", "--project", served).code == 0
    assert run("doctor", "--project", served, "--json").json["problems"] == []
    verified = run("verify", served / "release/model.onnx", "--project", served, "--quiet")
    assert verified.code == 0


def test_training_again_after_a_purge_trains(made: Any, run: Any, served: Path) -> None:
    run("purge", "--project", served, "--now")
    again = run("train", "--project", served, "--replace", "--json", "--quiet")
    assert again.code == 0 and again.json["images"] == made.commands["unlearn"].json["counts"]["retain"]
    assert run("doctor", "--project", served, "--json").json["problems"] == []
