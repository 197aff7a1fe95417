"""`push` and `recipients` as Python functions; part of `qmu_edge.api`, and torch-free."""

from pathlib import Path
from typing import Final, TypedDict

from qmu_edge.export.hub import Repository, endpoint
from qmu_edge.export.push import Hub, OfferedFile, Refused, listed, offered, require_current
from qmu_edge.io.digest import Sha256, sha256_of
from qmu_edge.io.files import AnyPath
from qmu_edge.io.plain import to_json
from qmu_edge.io.progress import Progress
from qmu_edge.project.project import find, opened
from qmu_edge.project.recipients import Recipients, Upload
from qmu_edge.verify.bundle import read_bundle
from qmu_edge.verify.manifest import MANIFEST

NOTICE: Final = (
    "A Hub keeps what it is sent and hands out copies: it is a recipient, which must be told of later "
    "deletions (GDPR Art. 19), and so must be whoever has downloaded from it."
)


class Pushed(TypedDict):
    """What would be sent to a Hub, or was.

    Attributes:
        hub, repository: Where.
        number, time: Of the last receipt when the bundle was made; 0 and None before any deletion.
        files: What is sent.
        bytes: Of all of them.
        open: How many requests are open: the next that is fulfilled supersedes the bundle.
        notice: What sending means.
        sent: Whether it was.
        recipient: Its number among the recipients; None where nothing was sent.
        commit: What the Hub calls the revision.
        everybody: Whether everybody can see it; None where the Hub does not say.
    """

    hub: str
    repository: str
    number: int
    time: str | None
    files: list[OfferedFile]
    bytes: int
    open: int
    notice: str
    sent: bool
    recipient: int | None
    commit: str | None
    everybody: bool | None


class RecipientJson(TypedDict):
    """`Upload`, and whether a later deletion says that it must be taken down."""

    number: int
    hub: str
    repository: str
    manifest: Sha256
    issued: int
    files: int
    bytes: int
    begun: str
    commit: str | None
    everybody: bool | None
    taken_down: str | None
    superseded: bool


def push(
    bundle: AnyPath,
    repository: str,
    project: AnyPath | None = None,
    *,
    send: bool = False,
    wait_s: float = 0.0,
) -> Pushed:
    """Say what would be sent to a repository on a Hugging Face Hub; with `send`, send it and note that.

    Args:
        bundle: Folder or archive, of this project and not superseded.
        repository: OWNER/NAME, which exists.
        project: Its folder; found upwards from here when None.
        send: Send it, with the token of the environment's HF_TOKEN. Without it nothing is asked of anybody.
        wait_s: How long to wait for another process that holds the project.

    Raises:
        ConfigError: No such bundle, or the Hub does not answer or take it.
        IntegrityError, LedgerError, VerificationFailed: It must not be sent.
    """
    place, bundle = Repository.parse(repository), Path(bundle)
    checked = read_bundle(bundle, whole=True)
    with opened(find(project), Progress(), wait_s) as found:
        issued = require_current(checked, found.ledger, bundle)
        files = offered(checked)
        told: Pushed = {
            "hub": endpoint(), "repository": str(place), "number": issued.number, "time": issued.time,
            "files": listed(files), "bytes": sum(map(len, files.values())),
            "open": sum(row.is_open for row in found.ledger.requests()), "notice": NOTICE,
            "sent": False, "recipient": None, "commit": None, "everybody": None,
        }  # fmt: skip
        if not send:
            return told
        hub = Hub()
        with found.locked():
            require_current(checked, found.ledger, bundle)  # nothing was deleted while we waited
            noted = _sent(hub, Recipients(found.ledger), place, files, issued.number)
        hub.require_whole(place, files, noted.commit or "")
        return {
            **told, "sent": True, "recipient": noted.number, "commit": noted.commit,
            "everybody": noted.everybody,
        }  # fmt: skip


def _sent(
    hub: Hub, recipients: Recipients, place: Repository, files: dict[str, bytes], number: int
) -> Upload:
    """Send, and note it: before, because the answer may never come; and after."""
    there = hub.look(place)
    begun = recipients.begin(
        hub=hub.address, repository=str(place), manifest=sha256_of(files[f"bundle/{MANIFEST}"]),
        issued=number, files=len(files), bytes=sum(map(len, files.values())),
    )  # fmt: skip
    try:
        commit = hub.send(place, files, there)
    except Refused:
        recipients.refused(begun)
        raise
    return recipients.arrived(begun, commit, everybody=there.everybody)


def recipients(
    project: AnyPath | None = None, *, taken_down: int | None = None, wait_s: float = 0.0
) -> list[RecipientJson]:
    """To whom bundles were sent, and which of them a later deletion says must be taken down.

    Args:
        project: Its folder; found upwards from here when None.
        taken_down: Number of one that a person has taken down, which is noted.
        wait_s: How long to wait for another process that holds the project.

    Raises:
        ConfigError: No such number.
    """
    with opened(find(project), Progress(), wait_s) as found:
        known = Recipients(found.ledger)
        if taken_down is not None:
            with found.locked():
                known.take_down(taken_down)
        late = {upload.number for upload in known.superseded()}
        return [_told(upload, superseded=upload.number in late) for upload in known.all()]


def _told(upload: Upload, *, superseded: bool) -> RecipientJson:
    told: RecipientJson = to_json(upload)
    told["superseded"] = superseded
    return told
