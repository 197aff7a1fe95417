"""A bundle is offered to a Hugging Face Hub: what would be sent, whether it may be, and sending it.

A Hub hands copies to whoever may see the repository, and keeps every revision, so each one that is sent is a
recipient that a later deletion has to reach (`qmu_edge.project.recipients`). What is sent is a bundle as it
lies there, in the folder `bundle/` of the repository, and its card once more where a Hub shows it. Files that
an earlier revision had there and this one has not are deleted with the same commit, or no device would take
the folder. Nothing else in the repository is touched, and none is made: who may see it, a person decides.

The library `huggingface_hub` sends. It is imported here only, told to be silent and to tell nobody, and given
the token of HF_TOKEN; what its errors quote, addresses with keys in them, is not printed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypedDict

from qmu_edge.attestation.card import CARD
from qmu_edge.errors import ConfigError, IntegrityError, LedgerError, VerificationFailed
from qmu_edge.export.hub import Repository, endpoint, is_commit, refusal, token
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.store.ledger import keys
from qmu_edge.store.ledger.issued import verify_issued
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.verify.bundle import Bundle
from qmu_edge.verify.manifest import RECEIPT, Issued
from qmu_edge.verify.newest import Accepted, require_newest, require_one_history

FOLDER: Final = "bundle"
_SECONDS: Final = 30.0
# What the library must know before it is imported: to ask and to tell nobody else, and not to print.
SILENT: Final = {
    "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_VERBOSITY": "critical",
    "HF_DEBUG": "0",
}  # fmt: skip


class OfferedFile(TypedDict):
    """A file that is to be sent, by its path in the repository."""

    path: str
    bytes: int
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Found:
    """What a Hub says of a repository: its newest commit, its files, and whether everybody sees it."""

    commit: str
    files: tuple[str, ...]
    everybody: bool | None


class Refused(ConfigError):
    """The Hub has said no, so nothing has arrived there."""


def require_current(bundle: Bundle, ledger: Ledger, path: Path) -> Issued:
    """Refuse to send a bundle that is not this project's, or is from before a later deletion.

    Args:
        bundle: Opened, so its digests, signature and receipt hold among themselves.
        ledger: Of the project.
        path: Of the bundle, for messages.

    Returns:
        Where in the project's history it stands: at its end.

    Raises:
        IntegrityError: It is not signed by a key of the project, or superseded.
        LedgerError: The project has not issued its receipt.
        VerificationFailed: No receipt covers it.
    """
    known = {key.raw: key for key in keys.known(ledger)}
    key = known.get(bundle.signer) if bundle.signer is not None else None
    if key is None or key.reason == "compromised":
        why = "by no key of this project" if key is None else f"by key {key.name}, which is compromised"
        raise IntegrityError(f"{path}: signed {why} ({bundle.signature}); it is not sent")
    receipts, manifest = ledger.receipts(), bundle.manifest
    number, time = (receipts[-1].seq, receipts[-1].issued) if receipts else (0, None)
    require_newest(manifest, number, path)
    require_one_history(manifest, Accepted(number, time), path)
    issued = manifest.issued
    if issued is None or issued.number != number:
        raise LedgerError(f"{path}: says more than {number} receipts, which are all of this project")
    if not bundle.receipt.covered:
        raise VerificationFailed(f"{path}: not covered by a receipt: {bundle.receipt.text}; it is not sent")
    if RECEIPT in manifest.files:
        verify_issued(ledger, bundle.content[RECEIPT])
    return issued


def offered(bundle: Bundle) -> dict[str, bytes]:
    """What is to be sent, by its path in the repository: the bytes that were verified.

    Args:
        bundle: All of it, see `whole` of `qmu_edge.verify.bundle.read_bundle`.
    """
    files = bundle.content
    card = {CARD: files[CARD]} if CARD in files else {}
    return card | {f"{FOLDER}/{name}": data for name, data in files.items()}


def listed(files: Mapping[str, bytes]) -> list[OfferedFile]:
    """Path, size and digest of each file."""
    return [
        {"path": path, "bytes": len(data), "sha256": sha256_of(data)} for path, data in sorted(files.items())
    ]


class Hub:
    """The Hub of HF_ENDPOINT, with the token of HF_TOKEN."""

    def __init__(self) -> None:
        """Import the library.

        Raises:
            ConfigError: It is not installed, there is no token, or somebody has imported it otherwise.
        """
        self.address, secret = endpoint(), token()
        if secret is None:
            raise ConfigError("HF_TOKEN: not set; a Hub takes files from those whom it knows")
        self._library = _library()
        self._hub = self._library.HfApi(endpoint=self.address, token=secret, library_name="qmu-edge")

    def look(self, repository: Repository, commit: str | None = None) -> Found:
        """What there is, now or in a commit.

        Raises:
            ConfigError: There is no such repository for us, or the Hub does not answer.
        """
        found = self._ask("model_info", str(repository), revision=commit, timeout=_SECONDS)
        names = tuple(str(entry.rfilename) for entry in found.siblings or ())
        return Found(str(found.sha), names, None if found.private is None else not found.private)

    def send(self, repository: Repository, files: Mapping[str, bytes], there: Found) -> str:
        """Commit files to a repository that is as it was looked at; returns the hash of the commit.

        Raises:
            Refused: The Hub does not take them.
            ConfigError: It cannot be said whether they have arrived.
        """
        gone = [name for name in there.files if name.startswith(f"{FOLDER}/") and name not in files]
        operations = [
            *(self._library.CommitOperationDelete(path_in_repo=name, is_folder=False) for name in gone),
            *(
                self._library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
                for name, data in files.items()
            ),
        ]
        done = self._ask(
            "create_commit", str(repository), operations, commit_message="A bundle of qmu-edge",
            parent_commit=there.commit,
        )  # fmt: skip
        if not is_commit(done.oid):
            raise ConfigError(f"{repository}: the Hub names no commit; see there whether the bundle arrived")
        return str(done.oid)

    def require_whole(self, repository: Repository, files: Mapping[str, bytes], commit: str) -> None:
        """Refuse a commit from which a file is missing: a repository's .gitignore can keep one out.

        Raises:
            IntegrityError: One is.
        """
        missing = files.keys() - {*self.look(repository, commit).files}
        if missing:
            raise IntegrityError(
                f"{repository}@{commit}: without {min(missing)}: a .gitignore there may be in the way; "
                "take it down: no device accepts a part of a bundle"
            )

    def _ask(self, call: str, repository: str, *words: Any, **named: Any) -> Any:
        try:
            return getattr(self._hub, call)(repository, *words, **named)
        except Exception as error:  # whatever the library makes of an answer
            status = getattr(getattr(error, "response", None), "status_code", None)
            if isinstance(status, int):
                kind = Refused if 400 <= status < 500 else ConfigError
                raise kind(f"{repository}: {refusal(status)}") from None
            raise ConfigError(f"{repository}: the Hub does not answer: {type(error).__name__}") from None


def _library() -> Any:
    os.environ.update(SILENT)
    try:
        library = import_module("huggingface_hub")
    except ModuleNotFoundError:
        raise ConfigError('sending needs huggingface_hub, the extra "hub" of qmu-edge') from None
    constants = import_module("huggingface_hub.constants")
    if not (constants.HF_HUB_DISABLE_TELEMETRY and constants.HF_HUB_DISABLE_XET) or constants.HF_DEBUG:
        raise ConfigError(
            "huggingface_hub was imported before, and would tell others: set HF_HUB_DISABLE_TELEMETRY=1 "
            "and HF_HUB_DISABLE_XET=1 first"
        )
    return library
