"""To whom bundles were sent: revisions on a model hub, which a later deletion must take down.

Each is a note of the ledger (`upload:1` and on), written before anything is sent: one of which no commit is
known may have arrived all the same. Nothing here asks the hub; what was taken down, a person says.
"""

from dataclasses import dataclass, replace
from typing import Final

from qmu_edge.errors import ConfigError
from qmu_edge.io.digest import Sha256
from qmu_edge.io.plain import from_json, to_json
from qmu_edge.store.ledger import chain
from qmu_edge.store.ledger.ledger import Ledger

UPLOAD: Final = "upload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A bundle that was sent.

    Attributes:
        number: Counts from 1 in a project.
        hub: Address of the hub.
        repository: OWNER/NAME there.
        manifest: SHA-256 of the bundle's manifest.
        issued: How many receipts the project had issued when the bundle was made.
        files, bytes: How many were sent, and their size together.
        begun: When, RFC 3339.
        commit: What the hub calls the revision; None where it did not answer.
        everybody: Whether everybody could see the repository then; None where that is not known.
        taken_down: When somebody said that it was; None before.
    """

    number: int
    hub: str
    repository: str
    manifest: Sha256
    issued: int
    files: int
    bytes: int
    begun: str
    commit: str | None = None
    everybody: bool | None = None
    taken_down: str | None = None

    def __str__(self) -> str:
        """The revision, as people name it."""
        return f"{self.repository}@{self.commit or 'unknown, see whether it arrived'}"


class Recipients:
    """What the ledger says of them."""

    def __init__(self, ledger: Ledger) -> None:
        """The ledger is locked where something is noted."""
        self._ledger = ledger

    def all(self) -> list[Upload]:
        """All of them in order."""
        found = [from_json(Upload, value, key) for key, value in self._ledger.notes(UPLOAD) if value]
        return sorted(found, key=lambda upload: upload.number)

    def there(self) -> list[Upload]:
        """Those that were not taken down, as far as is known."""
        return [upload for upload in self.all() if upload.taken_down is None]

    def superseded(self) -> list[Upload]:
        """Those of them that are from before a later deletion."""
        receipts = self._ledger.receipts()
        return [upload for upload in self.there() if receipts and upload.issued < receipts[-1].seq]

    def begin(
        self, *, hub: str, repository: str, manifest: Sha256, issued: int, files: int, bytes: int
    ) -> Upload:
        """Note that something is about to be sent; see `Upload`."""
        number = 1 + len(self._ledger.notes(UPLOAD))
        return self._note(
            Upload(
                number=number, hub=hub, repository=repository, manifest=manifest, issued=issued,
                files=files, bytes=bytes, begun=chain.now(),
            )
        )  # fmt: skip

    def arrived(self, upload: Upload, commit: str, *, everybody: bool | None) -> Upload:
        """Note what the hub calls it; the same revision again is noted once."""
        same = [
            u
            for u in self.there()
            if (u.hub, u.repository, u.commit) == (upload.hub, upload.repository, commit)
        ]
        if same and same[0].manifest == upload.manifest:
            self.refused(upload)
            return same[0]
        return self._note(replace(upload, commit=commit, everybody=everybody))

    def refused(self, upload: Upload) -> None:
        """Note that the hub did not take it."""
        self._ledger.set_meta(f"{UPLOAD}:{upload.number}", None)

    def take_down(self, number: int) -> Upload:
        """Note that a person has taken one down.

        Raises:
            ConfigError: There is none of this number.
        """
        for upload in self.all():
            if upload.number == number:
                return upload if upload.taken_down else self._note(replace(upload, taken_down=chain.now()))
        raise ConfigError(f"recipient {number}: no such one; qmu-edge recipients lists them")

    def _note(self, upload: Upload) -> Upload:
        self._ledger.set_meta(f"{UPLOAD}:{upload.number}", to_json(upload))
        return upload
