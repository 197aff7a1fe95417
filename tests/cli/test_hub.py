"""`push`, `recipients` and `init --from`: what leaves this machine, when, and what is remembered of it."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.io.digest import sha256_of
from qmu_edge.io.progress import Progress
from qmu_edge.project.inventory import ON_A_HUB
from qmu_edge.project.project import opened
from tests.cli.conftest import copied
from tests.cli.refusals import flip, refused
from tests.export.hub_server import Answer, listening
from tests.export.library import Library, NoSuch, installed
from tests.export.test_hub import COMMIT, PATH, WEIGHTS
from tests.verify.bundles import make_old

TOKEN = "hf_thisIsTheToken"
FROM = f"shop/birds@{COMMIT}:float/model.safetensors"


@pytest.fixture
def library() -> Iterator[Library]:
    """The library that sends, with a repository in memory."""
    with installed() as found:
        yield found


@pytest.fixture
def bundle(run: Any, served: Path, tmp_path: Path) -> Path:
    """A bundle of the project in which one request was served."""
    assert run("export", "--project", served, "--bundle", tmp_path / "bundle").code == 0
    return tmp_path / "bundle"


def delete_another(run: Any, project: Path, folder: Path, subject: str = "writer-5") -> Any:
    request = folder / f"{subject}.json"
    run("request", "new", "--subject", subject, "--out", request)
    ended = run("unlearn", "--request", request, "--project", project, "--json")
    assert ended.code == 0, ended.err
    return ended.json


def test_without_send_it_is_said_what_would_be_sent_and_nothing_happens(
    run: Any, served: Path, bundle: Path, digest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # nothing of it is imported
    before = digest(served)
    told = run("push", bundle, "shop/birds", "--project", served, "--json").json
    names = {path.name for path in bundle.iterdir()}
    assert {file["path"] for file in told["files"]} == {f"bundle/{n}" for n in names} | {"README.md"}
    assert all(
        file["sha256"] == sha256_of((bundle / file["path"].removeprefix("bundle/")).read_bytes())
        for file in told["files"]
    )
    assert (told["sent"], told["recipient"], told["number"], told["open"]) == (False, None, 1, 0)
    text = run("push", f"{bundle}.tar", "shop/birds", "--project", served).out
    assert "bundle/model.onnx" in text and "must be told of later" in text and "nothing was sent" in text
    assert (
        digest(served) == before
        and run("recipients", "--project", served).out == "nothing was sent to a Hub\n"
    )


def test_a_bundle_is_sent_as_it_was_verified_and_noted(
    run: Any, served: Path, bundle: Path, library: Library
) -> None:
    library.files |= {"bundle/model.old.onnx": b"old", "mine.txt": b"mine"}
    ended = run("push", f"{bundle}.tar", "shop/birds", "--project", served, "--send")
    assert (
        ended.code == 0 and "everybody sees it" in ended.out and f"shop/birds@{library.head()}" in ended.out
    )
    sent = {f"bundle/{path.name}": path.read_bytes() for path in bundle.iterdir()}
    sent["README.md"] = sent["bundle/README.md"]
    assert library.files == {".gitattributes": b"x", "mine.txt": b"mine", **sent}
    assert (library.given["token"], library.given["endpoint"]) == (TOKEN, "https://huggingface.co")
    assert library.calls == ["model_info", "create_commit", "model_info"]
    (row,) = run("recipients", "--project", served, "--json").json
    assert (row["repository"], row["commit"], row["issued"]) == ("shop/birds", library.head(), 1)
    assert (row["everybody"], row["superseded"], row["taken_down"]) == (True, False, None)
    assert row["manifest"] == sha256_of((bundle / "manifest.json").read_bytes())
    assert run("doctor", "--project", served).code == 0


def test_the_token_is_neither_kept_nor_shown(
    run: Any, served: Path, bundle: Path, library: Library, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = ""
    for wrong in ({}, {"create_commit": NoSuch(500)}, {"create_commit": RuntimeError(TOKEN)}):
        library.wrong = dict(wrong)
        ended = run("push", bundle, "shop/birds", "--project", served, "--send")
        shown += ended.out + ended.err
    assert TOKEN not in shown + "".join(capfd.readouterr()) and "Signature" not in shown
    found = [path for path in served.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert found == []


@pytest.mark.slow
def test_a_later_deletion_says_what_must_be_taken_down(
    run: Any, served: Path, bundle: Path, library: Library, tmp_path: Path
) -> None:
    assert run("push", bundle, "shop/birds", "--project", served, "--send").code == 0
    revision = f"shop/birds@{library.head()}"
    told = delete_another(run, served, tmp_path)
    assert told["take_down"] == [revision]
    shown = run("receipt", "show", "--project", served, "--json").json["receipt"]
    lines = [line for line in shown["predicate"]["derived_artefacts"] if line["kind"] == ON_A_HUB]
    assert [(line["count"], line["state"]) for line in lines] == [(1, "outside")]
    assert revision in run("status", "--project", served).out
    assert re.search(rf"{revision} .* TAKE DOWN", run("recipients", "--project", served).out)
    assert "take the revisions down" in run("report", "--project", served).out
    assert "Revisionen" in run("report", "--project", served, "--lang", "de").out
    refused(run("push", bundle, "shop/birds", "--project", served), 4, "from before a later deletion")
    refused(run("recipients", "--project", served, "--taken-down", "9"), 2, "recipient 9")
    assert "taken down 2" in run("recipients", "--project", served, "--taken-down", "1").out
    assert run("status", "--project", served, "--json").json["take_down"] == []
    assert "take_down" not in delete_another(run, served, tmp_path, "writer-6")


# What is not sent.


def test_a_bundle_that_was_changed_is_not_sent(
    run: Any, served: Path, bundle: Path, library: Library
) -> None:
    flip(bundle / "model.onnx", 100)
    refused(run("push", bundle, "shop/birds", "--project", served, "--send"), 4, "model.onnx: SHA-256")
    assert library.calls == []


@pytest.mark.parametrize("how", ["unsigned", "another project's", "compromised", "version 1"])
def test_a_bundle_that_the_project_does_not_vouch_for_is_not_sent(
    run: Any, served: Path, bundle: Path, library: Library, made: Any, tmp_path: Path, how: str
) -> None:
    project, code, why = served, 4, "signed by no key of this project"
    if how == "unsigned":
        (bundle / "manifest.sig").unlink()
    elif how == "another project's":
        project = copied(made.trained, tmp_path / "other")
        assert run("keys", "rotate", "--project", project).code == 0
        assert run("keys", "rotate", "--project", served).code == 0
        assert run("export", "--project", served, "--bundle", tmp_path / "newer").code == 0
        bundle = tmp_path / "newer"
    elif how == "compromised":
        assert run("keys", "rotate", "--reason", "compromised", "--project", served).code == 0
        why = "is compromised"
    else:
        with opened(served, Progress()) as found, pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.verify.bundles.KEY", found.signing_key)
            make_old(bundle)
        why = "a bundle of version 1, which has no number"
    refused(run("push", bundle, "shop/birds", "--project", project, "--send"), code, why)
    assert library.calls == []


@pytest.mark.slow
def test_a_bundle_that_no_receipt_covers_is_not_sent(
    run: Any, served: Path, library: Library, tmp_path: Path
) -> None:
    assert run("train", "--replace", "--project", served).code == 0
    assert run("export", "--project", served, "--bundle", tmp_path / "bundle").code == 0
    refused(
        run("push", tmp_path / "bundle", "shop/birds", "--project", served), 7, "not covered by a receipt"
    )


def test_a_bundle_from_before_any_deletion_is_sent(
    run: Any, trained: Path, library: Library, tmp_path: Path
) -> None:
    assert run("export", "--project", trained, "--bundle", tmp_path / "bundle").code == 0
    told = run("push", tmp_path / "bundle", "shop/birds", "--project", trained, "--send", "--json").json
    assert (told["sent"], told["number"], told["recipient"]) == (True, 0, 1)


@pytest.mark.parametrize(
    "name", ["birds", "../birds", "shop/birds@main", "https://huggingface.co/shop/birds"]
)
def test_a_repository_is_owner_and_name(run: Any, served: Path, bundle: Path, name: str) -> None:
    refused(run("push", bundle, name, "--project", served), 2, "is no repository")


def test_sending_needs_a_token_and_the_library(
    run: Any, served: Path, bundle: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("push", bundle, "shop/birds", "--project", served, "--send")
    constants = sys.modules["huggingface_hub.constants"]
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    refused(run(*command), 2, "would tell others")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(run(*command), 2, 'the extra "hub"')
    monkeypatch.delenv("HF_TOKEN")
    refused(run(*command), 2, "HF_TOKEN: not set")
    assert run("recipients", "--project", served, "--json").json == []


@pytest.mark.parametrize(
    ("call", "status", "noted"),
    [
        ("model_info", 404, 0), ("model_info", 500, 0), ("create_commit", 403, 0), ("create_commit", 412, 0),
        ("create_commit", 500, 1),
    ],
)  # fmt: skip
def test_what_may_have_arrived_is_a_recipient(
    run: Any, served: Path, bundle: Path, library: Library, call: str, status: int, noted: int
) -> None:
    library.wrong[call] = NoSuch(status)
    refused(run("push", bundle, "shop/birds", "--project", served, "--send"), 2, f"status {status}")
    assert len(run("recipients", "--project", served, "--json").json) == noted
    if noted:
        assert "see there whether it arrived" in run("recipients", "--project", served).out


def test_a_commit_without_a_hash_or_with_a_file_missing_is_told(
    run: Any, served: Path, bundle: Path, library: Library
) -> None:
    library.left_out = {"bundle/golden_images.npy"}
    ended = run("push", bundle, "shop/birds", "--project", served, "--send")
    refused(ended, 4, "without bundle/golden_images.npy")
    library.oid = "main"
    refused(run("push", bundle, "shop/birds", "--project", served, "--send"), 2, "names no commit")
    assert [row["commit"] for row in run("recipients", "--project", served, "--json").json] == [
        f"{1:040x}", None,
    ]  # fmt: skip


def test_a_push_of_what_is_there_is_no_second_recipient(
    run: Any, served: Path, bundle: Path, library: Library
) -> None:
    command = ("push", bundle, "shop/birds", "--project", served, "--send", "--json")
    first = run(*command).json
    library.oid = first["commit"]  # the library makes no empty commit, and names the newest
    assert run(*command).json["recipient"] == first["recipient"] == 1
    assert len(run("recipients", "--project", served, "--json").json) == 1


# Weights.


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hub with a file of weights."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with listening() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        found.answers[PATH] = Answer(body=WEIGHTS)
        yield found


def test_init_puts_weights_into_the_folder_and_asks_once(
    run: Any, made: Any, hub: Any, tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    given = ("--recipe", made.recipe, "--from", FROM, "--sha256", sha256_of(WEIGHTS))
    ended = run("init", shop, *given, "--json")
    assert ended.code == 0 and ended.json["weights"] == str(shop / "model.safetensors")
    assert (shop / "model.safetensors").read_bytes() == WEIGHTS and hub.paths() == [f"GET {PATH}"]
    assert run("status", "--project", shop).code == 0
    refused(run("init", shop, *given), 2, "there is a project already")
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--from", FROM), 2, "go together"),
        (("--sha256", 64 * "a"), 2, "go together"),
        (("--from", FROM, "--sha256", "abc"), 2, "--sha256 'abc' is not 64"),
        (("--from", FROM, "--sha256", 64 * "a"), 4, "asked for was"),
        (("--from", FROM.replace(COMMIT, "main"), "--sha256", 64 * "a"), 2, "no full hash"),
        (("--from", FROM.replace("safetensors", "bin"), "--sha256", 64 * "a"), 2, "can run code"),
        (("--from", FROM.replace("birds", "cats"), "--sha256", 64 * "a"), 2, "status 404"),
    ],
)
def test_init_without_the_right_weights_makes_no_project(
    run: Any, made: Any, hub: Any, tmp_path: Path, words: tuple[str, ...], code: int, why: str
) -> None:
    ended = run("init", tmp_path / "shop", "--recipe", made.recipe, "--quiet", *words)
    refused(ended, code, why)
    assert not any((tmp_path / "shop").glob("*"))
