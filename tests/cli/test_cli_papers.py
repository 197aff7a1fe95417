"""What others verify of a release, by the commands: written, held against the ledger, repaired, purged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.attestation.papers import PAPERS
from qmu_edge.attestation.signature import read
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import KEYS, opened
from qmu_edge.receipt import envelope
from qmu_edge.store.ledger import keys


def papers_of(project: Path) -> dict[str, str]:
    with opened(project, Progress()) as found:
        (receipt,) = [row.digest for row in found.ledger.receipts()]
        return dict(found.ledger.papers_of(receipt))


def test_a_release_is_signed_for_others_and_the_ledger_knows_each_file(made: Any, run: Any) -> None:
    release = made.served / "release"
    signed = read((release / "model.sig").read_bytes(), "model.sig")
    assert {*signed.files, *signed.ignored} == {path.name for path in release.iterdir()}
    assert signed.ignored == ["SHA256SUMS", "model.sig"] and set(papers_of(made.served)) == PAPERS
    assert "model.sig" in (release / "SHA256SUMS").read_text()
    checks = run("receipt", "verify", "--project", made.served, "--json").json["checks"]
    assert any(line.startswith("model.sig: 9 files") and line.endswith("which is trusted") for line in checks)
    result = json.loads(envelope.read((release / "test-result.json").read_bytes(), "result").payload)
    assert (result["predicate"]["result"], result["predicate"]["warnedTests"]) == ("WARNED", ["residual"])


@pytest.mark.parametrize("name", sorted(PAPERS))
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_damage_is_told_and_doctor_puts_the_file_back(run: Any, served: Path, name: str, damage: str) -> None:
    path = (served / "release").resolve() / name
    before = path.read_bytes()
    data = bytearray(before)
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage == "flipped":
        path.write_bytes(data)
    ended = run("receipt", "verify", "--project", served)
    assert ended.code == 8 and name in ended.err and "\n" not in ended.err.strip()
    (problem,) = run("doctor", "--project", served, "--json").json["problems"]
    assert "release" in problem
    assert run("doctor", "--repair", "--project", served).code == 0
    assert path.read_bytes() == before and run("receipt", "verify", "--project", served).code == 0


def test_a_release_whose_sums_were_made_anew_without_a_file_is_told(run: Any, served: Path) -> None:
    folder = (served / "release").resolve()
    (folder / "model.sig").unlink()
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in sums if "model.sig" not in line))
    assert len(run("doctor", "--project", served, "--json").json["problems"]) == 1


def test_a_foreign_key_is_told_and_the_right_one_is_exported(made: Any, run: Any, tmp_path: Path) -> None:
    receipt, mine, foreign = made.served / "release/receipt.json", tmp_path / "mine", tmp_path / "foreign"
    words = ("keys", "export", "--public", "--model", "--project")
    assert run(*words, made.served, "--out", mine).code == 0
    assert run("keys", "rotate", "--project", shutil.copytree(made.untrained, tmp_path / "other")).code == 0
    assert run(*words, tmp_path / "other", "--out", foreign).code == 0
    held = run("receipt", "verify", receipt, "--key", mine, "--json").json["checks"]
    assert any(line.startswith("model.sig: 9 files") and line.endswith("which is trusted") for line in held)
    assert any("compared with no key" in line for line in held)  # the receipt's own
    ended = run("receipt", "verify", receipt, "--key", foreign)
    assert ended.code == 8 and "model.sig: by P-256 key" in ended.err
    listed = run("keys", "list", "--project", made.served, "--json").json
    (key,) = listed.values()
    assert key["p256"] == read((made.served / "release/model.sig").read_bytes(), "model.sig").hint


def test_after_a_rotation_the_old_signature_still_holds(run: Any, served: Path, tmp_path: Path) -> None:
    before = run("keys", "list", "--project", served, "--json").json
    assert run("keys", "rotate", "--project", served).code == 0
    after = run("keys", "list", "--project", served, "--json").json
    assert len({key["p256"] for key in after.values()}) == 2 and len(after) == 2
    assert run("receipt", "verify", "--project", served).code == 0
    (name,) = before
    old = run("keys", "export", name, "--public", "--model", "--project", served, "--json").json
    assert old["p256"] == before[name]["p256"]
    done = run("export", "--project", served, "--bundle", tmp_path / "device", "--quiet")
    assert done.code == 0, done.err
    hint = read((tmp_path / "device/model.sig").read_bytes(), "model.sig").hint
    assert hint == next(key["p256"] for key in after.values() if key["until"] is None)
    checks = run("receipt", "verify", tmp_path / "device/receipt.json", "--project", served, "--json").json
    assert any(line.startswith("model.sig: 10 files") for line in checks["checks"])


def forget_keys(project: Path) -> None:
    """As an older version has made it: without a P-256 key that is known."""
    with opened(project, Progress()) as found, found.locked(), found.ledger.change() as db:
        for name in keys.model_keys(found.ledger):
            db.execute("DELETE FROM meta WHERE key = ?", (f"{keys.P256}:{name}",))
            found.ledger.append("meta", f"{keys.P256}:{name}")


@pytest.mark.slow
def test_an_older_project_stays_valid_and_gets_them_with_its_next_release(
    made: Any, run: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_keys(trained)
    with monkeypatch.context() as patch:
        patch.setattr("qmu_edge.pipeline.fulfil.released_papers", lambda *_, **__: {})
        patch.setattr("qmu_edge.pipeline.fulfil.note_model_key", lambda *_: None)
        assert run("unlearn", "--request", made.request, "--project", trained).code == 0
    assert not PAPERS & {path.name for path in (trained / "release").iterdir()}
    assert run("doctor", "--project", trained, "--json").json["problems"] == []
    assert run("receipt", "verify", "--project", trained).code == 0
    ended = run("keys", "export", "--public", "--model", "--project", trained)
    assert ended.code == 2 and "no P-256 key is known" in ended.err
    (key,) = run("keys", "list", "--project", trained, "--json").json.values()
    assert key["p256"] is None
    request = tmp_path / "next.json"
    run("request", "new", "--subject", "writer-5", "--out", request)
    assert run("unlearn", "--request", request, "--project", trained).code == 0
    assert PAPERS < {path.name for path in (trained / "release").iterdir()}
    assert run("receipt", "verify", "--project", trained).code == 0
    with opened(trained, Progress()) as project:
        assert [*keys.problems(project.folder / KEYS, project.ledger)] == []
        assert len(keys.model_keys(project.ledger)) == 1


def test_a_purge_removes_superseded_ones_and_keeps_the_current(
    run: Any, served: Path, tmp_path: Path
) -> None:
    old, first = (served / "release").resolve(), set(papers_of(served).values())
    request = tmp_path / "next.json"
    run("request", "new", "--subject", "writer-5", "--out", request)
    assert run("unlearn", "--request", request, "--project", served).code == 0
    assert run("purge", "--project", served, "--now").code == 0
    with opened(served, Progress()) as project:
        *_, last = project.ledger.receipts()
        current = set(project.ledger.papers_of(last.digest).values())
        kept = set(project.store)
        assert not first & kept and current <= kept and len(current) == len(PAPERS) and not old.exists()
    assert run("receipt", "verify", "--project", served).code == 0
    assert run("doctor", "--project", served, "--json").json["problems"] == []
