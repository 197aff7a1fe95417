"""A file of a Hub: by full commit and digest, whoever answers and whatever they answer."""

import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.export.hub import MAX_BYTES, HubFile, Repository, endpoint, fetch, fetched, token
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import BLOCK_BYTES
from qmu_edge.models import weights_file
from tests.export.hub_server import Answer, Hub, listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}" + bytes(5000)
FILE = HubFile.parse(f"shop/birds@{COMMIT}:float/model.safetensors")
PATH = f"/shop/birds/resolve/{COMMIT}/float/model.safetensors"
SECRET = "hf_thisIsTheToken"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with one file, which the environment names."""
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    with listening() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        found.answers[PATH] = Answer(body=WEIGHTS)
        yield found


def read(digest: str = sha256_of(WEIGHTS), **limit: int) -> bytes:
    return b"".join(fetched(FILE, Sha256(digest), **limit))


# Names.


@pytest.mark.parametrize(
    "text",
    [
        "birds", "a/b/c", "/b", "a/", "../b", "a/..", "a/b..c", "a--b/c", "a/.git", "a/b?x=1", "a/b#c",
        "a/%2e%2e", "a/b c", "a/b\n", "https://huggingface.co/a/b", "a\\b/c", "ä/b", "a@b/c", "",
    ],
)  # fmt: skip
def test_a_name_that_could_mean_another_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no repository"):
        Repository.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a/b:model.safetensors", "no full hash"),
        ("a/b@main:model.safetensors", "no full hash"),
        ("a/b@0123456:model.safetensors", "no full hash"),
        (f"a/b@{COMMIT.upper()}:model.safetensors", "no full hash"),
        (f"a/b@{COMMIT}\n:model.safetensors", "no full hash"),
        (f"a/b@refs/pr/1@{COMMIT}:model.safetensors", "no full hash"),
        (f"a/b@{COMMIT}", "no path"),
        (f"a/b@{COMMIT}:../model.safetensors", "no path"),
        (f"a/b@{COMMIT}:x/../../model.safetensors", "no path"),
        (f"a/b@{COMMIT}:/etc/model.safetensors", "no path"),
        (f"a/b@{COMMIT}:x//model.safetensors", "no path"),
        (f"a/b@{COMMIT}:{'x/' * 9}model.safetensors", "no path"),
        (f"a/b@{COMMIT}:model.safetensors?download=true", "no path"),
        (f"a/b@{COMMIT}:.hidden.safetensors", "no path"),
        (f"a/b@{COMMIT}:pytorch_model.bin", "can run code"),
        (f"a/b@{COMMIT}:model.pt", "can run code"),
        (f"a/b@{COMMIT}:model.pkl", "can run code"),
        (f"a/b@{COMMIT}:model.safetensors.pkl", "can run code"),
        (f"a/../b@{COMMIT}:model.safetensors", "no repository"),
    ],
)
def test_a_file_is_named_by_a_full_commit_and_is_safetensors(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        HubFile.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://huggingface.co", "http://127.0.0.1.evil.example", "ftp://huggingface.co", "huggingface.co",
        "https://user:secret@huggingface.co", "https://", "https://a b", "https://a/?x=1", "https://a/#x",
        "file:///etc", "https://[::1", "https://a:99999",
    ],
)  # fmt: skip
def test_the_address_of_a_hub_is_https(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        endpoint()


@pytest.mark.parametrize("text", ["https://hub.example/mirror", "http://127.0.0.1:8080", "http://[::1]:80"])
def test_a_mirror_or_one_of_this_machine_may_be_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text + "/")
    assert endpoint() == text
    monkeypatch.delenv("HF_ENDPOINT")
    assert endpoint() == "https://huggingface.co"


@pytest.mark.parametrize("text", ["hf_a\nX-Evil: 1", "hf_a b", "hf_ä", "x" * 2000])
def test_a_token_that_could_write_headers_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", text)
    with pytest.raises(ConfigError) as caught:
        token()
    assert text not in str(caught.value) and "hf_" not in str(caught.value)


# Fetching.


def test_a_file_is_fetched_by_one_question_that_says_who_asks_and_no_more(hub: Hub) -> None:
    assert read() == WEIGHTS
    ((method, path, sent, body, agent),) = hub.asked
    assert (method, path, sent, body) == ("GET", PATH, "", b"")
    assert agent.startswith("qmu-edge/") and " " not in agent


def test_nobody_else_is_looked_up_or_connected_to(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = socket.create_connection, []

    def connect(address: Any, *words: Any, **named: Any) -> socket.socket:
        seen.append(f"http://{address[0]}:{address[1]}")
        return real(address, *words, **named)

    monkeypatch.setattr(socket, "create_connection", connect)
    read()
    assert seen == [hub.address]


@pytest.mark.parametrize("length", [None, ""], ids=["announced", "not announced"])
@pytest.mark.parametrize("other", [b"", WEIGHTS[:-1], WEIGHTS + b"x", WEIGHTS[:-1] + b"x"])
def test_another_file_is_refused(hub: Hub, other: bytes, length: str | None) -> None:
    headers = {} if length is None else {"Content-Length": length}
    hub.answers[PATH] = Answer(body=other, headers=headers)
    with pytest.raises(IntegrityError, match="asked for was"):
        read()


def test_a_file_that_ends_before_its_length_is_refused(hub: Hub) -> None:
    hub.answers[PATH] = Answer(body=WEIGHTS, headers={"Content-Length": "9000"})
    with pytest.raises((ConfigError, IntegrityError)):
        read(sha256_of(WEIGHTS + bytes(3990)))


def test_a_file_that_is_announced_as_too_large_is_not_read(hub: Hub) -> None:
    hub.answers[PATH] = Answer(body=WEIGHTS, headers={"Content-Length": str(10**12)})
    with pytest.raises(IntegrityError, match=r"announced with 1000000000000 bytes, allowed are 4294967296"):
        read()


@pytest.mark.parametrize("length", ["", "100"], ids=["none announced", "less announced"])
def test_a_file_that_is_larger_than_announced_is_not_kept(hub: Hub, tmp_path: Path, length: str) -> None:
    hub.answers[PATH] = Answer(body=WEIGHTS, headers={"Content-Length": length})
    with pytest.raises(IntegrityError, match=r"larger than the allowed 50 bytes|announced with 100"):
        read(limit=50)
    if length:
        with pytest.raises(IntegrityError, match="asked for was"):
            fetch(FILE, sha256_of(WEIGHTS), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_fetched_is_what_adopt_reads() -> None:
    assert MAX_BYTES == weights_file.MAX_BYTES


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(99), b"\x80\x05" + bytes(99), b"{}", b"<html>"])
def test_a_pickle_under_the_name_of_safetensors_is_refused_before_it_is_kept(
    hub: Hub, tmp_path: Path, content: bytes
) -> None:
    hub.answers[PATH] = Answer(body=content)
    with pytest.raises(IntegrityError, match="no safetensors file"):
        fetch(FILE, sha256_of(content), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_hub_that_says_no_is_quoted_by_its_number_only(hub: Hub, status: int) -> None:
    hub.answers[PATH] = Answer(status, b"secret \x1b[2J", {"X-Error-Message": "secret"})
    with pytest.raises(ConfigError, match=f"status {status}") as caught:
        read()
    assert "secret" not in str(caught.value) and "http:" not in str(caught.value)


def test_a_hub_that_is_not_there_is_a_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConfigError, match="does not answer: ConnectionRefusedError"):
            read()


# Redirects.


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.answers[PATH] = Answer(307, headers={"Location": "/moved"})
    with listening() as elsewhere:
        monkeypatch.setattr("qmu_edge.export.hub._allowed", lambda *_: True)  # as if it were https
        hub.answers["/moved"] = Answer(302, headers={"Location": f"{elsewhere.address}/x?Signature=1"})
        elsewhere.answers["/x"] = Answer(body=WEIGHTS)
        assert read() == WEIGHTS
        assert [a.token for a in hub.asked] == [f"Bearer {SECRET}"] * 2
        assert [a.token for a in elsewhere.asked] == [""]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:1/x", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "ftp://a/b",
        "data:,x", "https://user:secret@a/b", "https://", "//[::1", "gopher://a",
    ],
)  # fmt: skip
def test_a_redirect_leads_to_https_or_nowhere(hub: Hub, location: str) -> None:
    hub.answers[PATH] = Answer(302, b"x", {"Location": location})
    with pytest.raises(ConfigError, match="redirected to what is not https") as caught:
        read()
    assert "secret" not in str(caught.value) and len(hub.asked) == 1


def test_redirects_end(hub: Hub) -> None:
    hub.answers[PATH] = Answer(302, headers={"Location": PATH})
    with pytest.raises(ConfigError, match="redirected more than 5 times"):
        read()
    assert len(hub.asked) == 6


def test_no_answer_is_read_as_a_whole(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows redirects in urllib reads all of their bodies, and a Hub can send without end."""
    hub.answers[PATH] = Answer(302, bytes(1 << 20), {"Location": "/moved"})
    hub.answers["/moved"] = Answer(body=WEIGHTS)
    real, sizes = HTTPResponse.read, []

    def reading(answer: HTTPResponse, amount: int | None = None) -> bytes:
        sizes.append((answer.status, amount))
        return real(answer, amount)

    monkeypatch.setattr(HTTPResponse, "read", reading)
    assert read() == WEIGHTS
    assert set(sizes) == {(200, BLOCK_BYTES)}


# What lies in the folder.


def test_a_file_is_kept_under_its_own_name_and_not_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    assert fetch(FILE, sha256_of(WEIGHTS), folder) == folder / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    fetch(FILE, sha256_of(WEIGHTS), folder)
    assert len(hub.asked) == 1 and [p.name for p in folder.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("there", ["other", "link", "dangling", "folder"])
def test_what_lies_there_is_left_alone(hub: Hub, tmp_path: Path, there: str) -> None:
    path, target = tmp_path / "model.safetensors", tmp_path / "target"
    if there == "other":
        path.write_bytes(b"mine")
    elif there == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
        if there == "link":
            target.write_bytes(WEIGHTS)
    with pytest.raises(ConfigError, match="exists already"):
        fetch(FILE, sha256_of(WEIGHTS), tmp_path)
    assert hub.asked == [] and not (there == "dangling" and target.exists())
