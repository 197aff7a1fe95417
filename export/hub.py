"""A Hugging Face Hub: how its repositories and files are named, and one file of one commit fetched.

A Hub is a stranger, and so is whoever stands between. What is fetched is named by the full hash of a commit
and by its SHA-256, so nobody can give another file: not whoever moves a branch, answers a redirect or owns
the name of a repository that was given up. It is a safetensors file, which is numbers; a pickle is refused by
its name and by its first bytes. No other question is asked, nothing is kept in a cache, and nothing that is
named here becomes a path: a file lies where the caller puts it, under the last part of its name.

Standard library only: one GET and its redirects, over HTTPS. Sending is in `qmu_edge.export.push`.
"""

import hashlib
import http.client
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from qmu_edge import __version__
from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.files import BLOCK_BYTES, cannot_write, file_digest, make_folder, write_blocks
from qmu_edge.io.json import shown
from qmu_edge.io.names import is_file_name

ENDPOINT: Final = "https://huggingface.co"
MAX_BYTES: Final = 4 << 30  # what `adopt` reads of a file of weights
WEIGHTS: Final = ".safetensors"
_MAX_HEADER: Final = 1 << 24
_MAX_PARTS: Final = 8
_REDIRECTS: Final = 5
_SECONDS: Final = 30.0
_MOVED: Final = (301, 302, 303, 307, 308)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_TOKEN: Final = re.compile(r"[!-~]{1,1024}", re.ASCII)
_THIS_MACHINE: Final = ("127.0.0.1", "::1", "localhost")


def is_commit(text: object) -> bool:
    """Whether this is the full hash of a commit; a branch or a short hash can come to mean something else.

    >>> is_commit(40 * "a"), is_commit("main"), is_commit(7 * "a"), is_commit(40 * "A")
    (True, False, False, False)
    """
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of models, as OWNER/NAME."""

    owner: str
    name: str

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.owner}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "Repository":
        """Read OWNER/NAME.

        Raises:
            ConfigError: It is not written so: it could mean another place of the Hub.

        >>> str(Repository.parse("shop/birds-w4a4"))
        'shop/birds-w4a4'
        >>> Repository.parse("shop/../other")
        Traceback (most recent call last):
        qmu_edge.errors.ConfigError: 'shop/../other' is no repository: allowed is OWNER/NAME, of letters, ...
        """
        owner, _, name = text.partition("/")
        if not all(is_file_name(part) and ".." not in part and "--" not in part for part in (owner, name)):
            raise ConfigError(
                f"{shown(text)} is no repository: allowed is OWNER/NAME, of letters, digits and . _ -, "
                'without ".." and "--"'
            )
        return cls(owner, name)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of one commit of a repository, as OWNER/NAME@COMMIT:FILE."""

    repository: Repository
    commit: str
    path: str

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.repository}@{self.commit}:{self.path}"

    @property
    def name(self) -> str:
        """What the file is called without its folders."""
        return self.path.rpartition("/")[2]

    @classmethod
    def parse(cls, text: str) -> "HubFile":
        """Read OWNER/NAME@COMMIT:FILE.

        Raises:
            ConfigError: It is not written so, not of a full commit, or no safetensors file.

        >>> HubFile.parse("shop/birds@" + 40 * "a" + ":float/model.safetensors").name
        'model.safetensors'
        >>> HubFile.parse("shop/birds@main:model.safetensors")
        Traceback (most recent call last):
        qmu_edge.errors.ConfigError: --from 'shop/birds@main:model.safetensors': 'main' is no full hash ...
        """
        what = f"--from {shown(text)}"
        before, _, path = text.partition(":")
        repository, _, commit = before.partition("@")
        if not is_commit(commit):
            raise ConfigError(
                f"{what}: {shown(commit)} is no full hash of a commit (40 hex digits), as "
                "OWNER/NAME@COMMIT:FILE has it; a branch or a tag can be moved"
            )
        parts = path.split("/")
        if len(parts) > _MAX_PARTS or not all(is_file_name(part) and ".." not in part for part in parts):
            raise ConfigError(f"{what}: {shown(path)} is no path of a file in a repository")
        if not path.endswith(WEIGHTS):
            raise ConfigError(
                f"{what}: {shown(path)} is no {WEIGHTS} file; other files of weights can run code when read"
            )
        return cls(Repository.parse(repository), commit, path)


def endpoint() -> str:
    """Address of the Hub: the public one, or that of the environment's HF_ENDPOINT.

    Raises:
        ConfigError: It is not https, of this machine not http either, or more than an address.
    """
    text = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
    place = _split(text)
    here = place is not None and place.scheme == "http" and place.hostname in _THIS_MACHINE
    if place is None or not (here or place.scheme == "https") or place.query or place.fragment:
        raise ConfigError(f"HF_ENDPOINT {shown(text)}: allowed is https://HOST without a user's name")
    return text


def token() -> str | None:
    """The token of the environment's HF_TOKEN; None where there is none. It is sent to the Hub alone.

    Raises:
        ConfigError: It holds what no token does; it is not said what.
    """
    text = os.environ.get("HF_TOKEN", "")
    if text and not _TOKEN.fullmatch(text):
        raise ConfigError("HF_TOKEN: holds a space or another character that no token has")
    return text or None


def fetched(file: HubFile, digest: Sha256, *, limit: int = MAX_BYTES) -> Iterator[bytes]:
    """The content of a file, block by block; the last block comes before its digest is known.

    So whoever keeps the blocks throws them away when this raises, as `qmu_edge.io.files.write_blocks` does.

    Args:
        file: What is asked for.
        digest: The SHA-256 that it must have.
        limit: Most bytes that it may have.

    Raises:
        ConfigError: The Hub does not answer, or has no such file for us.
        IntegrityError: It is larger than allowed, no safetensors file, or another one.
    """
    hub = endpoint()
    url = f"{hub}/{file.repository}/resolve/{file.commit}/{file.path}"
    try:
        with _answer(url, hub, file) as answer:
            announced = answer.headers.get("Content-Length", "")
            if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
                raise IntegrityError(f"{file}: announced with {announced[:20]} bytes, allowed are {limit}")
            yield from _checked(answer.read, file, digest, limit)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConfigError(f"{file}: the Hub does not answer: {_cause(error)}") from None


def _checked(read: Callable[[int], bytes], file: HubFile, digest: Sha256, limit: int) -> Iterator[bytes]:
    sha, size = hashlib.sha256(), 0
    while block := read(BLOCK_BYTES):
        if not size and not _begins_as_safetensors(block):
            raise IntegrityError(f"{file}: no safetensors file, whatever its name says")
        sha.update(block)
        size += len(block)
        if size > limit:
            raise IntegrityError(f"{file}: larger than the allowed {limit} bytes")
        yield block
    if sha.hexdigest() != digest:
        raise IntegrityError(f"{file}: {size} bytes of SHA-256 {sha.hexdigest()}, asked for was {digest}")


def _begins_as_safetensors(block: bytes) -> bool:
    """A length that a header may have, and the brace that begins it: a zip or a pickle does not.

    >>> _begins_as_safetensors(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}"), _begins_as_safetensors(b"PK123456{")
    (True, False)
    """
    return int.from_bytes(block[:8], "little") <= _MAX_HEADER and block[8:9] == b"{"


def fetch(file: HubFile, digest: Sha256, folder: Path) -> Path:
    """Put a file into a folder, which is made; the one that is there already is not fetched again.

    Raises:
        ConfigError, IntegrityError: As `fetched`, and no file is left then. Or another one is there.
    """
    path = folder / file.name
    if os.path.lexists(path):
        if path.is_symlink() or not path.is_file() or file_digest(path) != digest:
            raise ConfigError(f"{path}: exists already, and is not {file} of this SHA-256")
        return path
    try:
        make_folder(folder, 0o755)
    except OSError as error:
        raise cannot_write(folder, error) from None
    write_blocks(path, fetched(file, digest), 0o644)
    return path


def _opener() -> OpenerDirector:
    """What asks, and follows no redirect: urllib would read all of its body, and send the token along."""
    opener = OpenerDirector()
    for handler in (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener


@contextmanager
def _answer(url: str, hub: str, file: HubFile) -> Iterator[Any]:
    """The answer at an address or where it redirects to; the token goes to the Hub itself only."""
    secret, opener = token(), _opener()
    for _ in range(_REDIRECTS + 1):
        request = Request(
            url, headers={"User-Agent": f"qmu-edge/{__version__}", "Accept-Encoding": "identity"}
        )
        if secret and _origin(url) == _origin(hub):
            request.add_unredirected_header("Authorization", f"Bearer {secret}")
        try:
            answer = opener.open(request, timeout=_SECONDS)
        except HTTPError as error:
            error.close()
            if error.code not in _MOVED:
                raise ConfigError(f"{file}: {refusal(error.code)}") from None
            url = _next(url, error.headers.get("Location", ""), hub, file)
            continue
        with answer:
            yield answer
        return
    raise ConfigError(f"{file}: redirected more than {_REDIRECTS} times")


def _next(url: str, location: str, hub: str, file: HubFile) -> str:
    """Where a redirect leads: to HTTPS, or to the Hub itself."""
    try:
        there = urljoin(url, location)
    except ValueError:
        there = ""
    if not _allowed(there, hub):
        raise ConfigError(f"{file}: redirected to what is not https")
    return there


def _allowed(url: str, hub: str) -> bool:
    place = _split(url)
    return place is not None and (place.scheme == "https" or _origin(url) == _origin(hub))


def _split(url: str) -> SplitResult | None:
    """The parts of an address; None where it names no host, a user, or has a character that none has."""
    try:
        place = urlsplit(url)
        sound = bool(place.hostname) and place.username is None and place.port != 0
    except ValueError:
        return None
    return place if sound and url.isascii() and url.isprintable() and " " not in url else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    place = urlsplit(url)
    return place.scheme, place.hostname, place.port or {"https": 443, "http": 80}.get(place.scheme)


def refusal(status: int) -> str:
    """What a Hub means by a status; its own words are not printed: they may quote an address with a key.

    >>> refusal(503)
    'the Hub answers with status 503'
    """
    unknown = "it is not there, or HF_TOKEN does not open it" if status in (401, 403, 404) else ""
    return f"the Hub answers with status {status}" + (f": {unknown}" if unknown else "")


def _cause(error: Exception) -> str:
    """The kind of an error and what the system says: never an address, which may hold a key."""
    inner = getattr(error, "reason", error)
    said = inner.strerror if isinstance(inner, OSError) and inner.strerror else ""
    return f"{type(inner).__name__}: {said}" if said else type(inner).__name__
