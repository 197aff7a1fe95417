"""The folder `release`: what is current, as plain files for people and programs.

    .qmu/releases/<start of the release's digest>/   copies of objects
    release                                          link to one of them, replaced in one step

A reader sees the old files or the new ones, never some of each: another release is another folder. It is
whole when its SHA256SUMS says so, which `sha256sum -c` reads too; that file is written last.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from qmu_edge.attestation.papers import PAPERS
from qmu_edge.errors import ConfigError, IntegrityError
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import LITTER, MAX_FILE, TEMPORARY, file_digest, make_folder, sync_folder, write_atomic
from qmu_edge.project.project import STORE
from qmu_edge.project.records import Release
from qmu_edge.project.results import Results
from qmu_edge.receipt import receipt
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.states import Pointer
from qmu_edge.store.objects import ObjectStore

RELEASES: Final = "releases"
LINK: Final = "release"
SUMS: Final = "SHA256SUMS"
RECEIPT: Final = "receipt.json"
REPORT: Final = "report.json"
PAGE: Final = "report.html"
LIMIT_BYTES: Final = MAX_FILE
Papers = Mapping[str, bytes]  # what people read about a release, by the name of the file


def publish(root: Path, store: ObjectStore, digest: str, release: Release, papers: Papers) -> Path:
    """Make a release the current one: a folder of its files, and the link `release` to it.

    Args:
        root: The user's folder; its store is locked by the caller.
        store: Holds the files.
        digest: Of the release.
        release: What it is.
        papers: What is written beside the files; see `papers_of`.

    Returns:
        The link.

    Raises:
        ConfigError: Something of the user's is in the way, or the disk refuses.
    """
    link = root / LINK
    if link.exists() and not link.is_symlink():
        raise ConfigError(f"{link} is not a link of qmu-edge; move it away")
    texts = dict(papers)
    named = {**release.files, **{n: sha256_of(data) for n, data in texts.items()}}
    texts[SUMS] = sums(named)
    folder = root / STORE / RELEASES / digest[:16]
    try:
        make_folder(folder, 0o755)
        present = files_in(folder)
        for name in present.keys() - named.keys() - {SUMS}:
            (folder / name).unlink()
        for name in (n for n in (*named, SUMS) if n == SUMS or present.get(n) != named[n]):
            write_atomic(
                folder / name, texts.get(name) or store.get_bytes(release.files[name], limit=LIMIT_BYTES)
            )
        sync_folder(folder.parent)
        _switch(link, folder)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return link


def publish_current(root: Path, store: ObjectStore, ledger: Ledger, results: Results) -> Path | None:
    """Put in place what the ledger says is current; None when there is no release yet."""
    digest = ledger.current(Pointer.RELEASE)
    if digest is None:
        return None
    release = results.release(digest)
    return publish(root, store, digest, release, papers_of(release, ledger, store))


def papers_of(release: Release, ledger: Ledger, store: ObjectStore) -> Papers:
    """What is written beside the files of a release, see `papers_named`."""
    return {name: store.get_bytes(sha) for name, sha in papers_named(release, ledger, store).items()}


def papers_named(release: Release, ledger: Ledger, store: ObjectStore) -> dict[str, Sha256]:
    """Digests of the current receipt, its report, its page and what others verify, by the name of the file.

    None where the receipt does not speak of every file of the release. The signature of the release covers
    exactly these files, so what speaks of others is left out.
    """
    digest = ledger.current(Pointer.RECEIPT)
    if digest is None:
        return {}
    stated = receipt.loads(store.get_bytes(digest), "receipt").files
    if not set(stated.values()) >= set(release.files.values()):
        return {}
    whole = stated == release.files
    papers = {n: sha for n, sha in ledger.papers_of(digest).items() if n in PAPERS and whole}
    others = {REPORT: ledger.report_of(digest), PAGE: ledger.page_of(digest), **papers}
    return {RECEIPT: digest, **{name: sha for name, sha in others.items() if sha}}


def sums(files: Mapping[str, str]) -> bytes:
    r"""The content of SHA256SUMS for files (name to SHA-256).

    >>> sums({"model.onnx": "00ab"})
    b'00ab  model.onnx\n'
    """
    return "".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()


def is_whole(folder: Path) -> bool:
    """Whether a folder holds what its SHA256SUMS says, and nothing else."""
    try:
        found = files_in(folder)
        return found.pop(SUMS, None) == sha256_of(sums(found))
    except (OSError, IntegrityError):
        return False


def files_in(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of everything in a folder; "" for what is no plain file or too large for ours."""
    return {
        path.name: file_digest(path) if _is_plain(path) else ""
        for path in folder.iterdir()
        if not path.name.startswith(TEMPORARY) and path.name not in LITTER
    }


def _is_plain(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= LIMIT_BYTES


def _switch(link: Path, folder: Path) -> None:
    """Point `link` to `folder` in one step; the new link is made where a killed one is swept away."""
    target = os.path.relpath(folder, link.parent)
    if link.is_symlink() and os.readlink(link) == target:
        return
    fresh = folder.parents[1] / f"{TEMPORARY}{LINK}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target, target_is_directory=True)
    os.replace(fresh, link)
    sync_folder(link.parent)
