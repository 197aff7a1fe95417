"""Deletion requests: what must be forgotten, as received, from a file that nobody vouches for.

Two forms, told apart by their keys. An OpenDSR 2.0 erasure request names a person
(`subject_identities`) and carries our part in `extensions["qmu-edge"]`. The research form is a bare
`{"sample_ids": [...]}` with `class_ids` and `subject_ids` beside it.

A request is hostile input until parsed. Size, nesting and text are bounded before any meaning is
read, unknown fields are errors in both forms, callback addresses are accepted and never fetched,
and an error message never repeats an identity. Whatever is wrong is a one-line `RequestError`.
"""

import hmac
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    WrapValidator,
)
from pydantic.json_schema import models_json_schema

from qmu_edge.errors import RequestError
from qmu_edge.io.canonical import canonical
from qmu_edge.io.digest import PATTERN, Sha256
from qmu_edge.io.files import read_regular
from qmu_edge.io.json import INVISIBLE_RANGES, MAX_BYTES, MAX_INTEGER, join, parse_object, shown

EXTENSION: Final = "qmu-edge"
SCHEMA_ID: Final = "urn:qmu-edge:deletion-request:v1"
MAX_IDS: Final = 100_000
CLOCK_SKEW: Final = timedelta(minutes=5)

_TIME = re.compile(
    r"[0-9]{4}(-[0-9]{2}){2}[Tt]([0-9]{2}:){2}[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_UUID4 = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
# Only these are short, public words; any other value could be an identity in the wrong place.
_SHOWN = ("regulation", "subject_request_type", "identity_format")


def _time(value: object) -> datetime:
    """RFC 3339 text as a UTC datetime; pydantic alone would also take bare seconds."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError('must be RFC 3339 with a time zone, like "2026-11-02T15:00:00Z"')
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"no such date or time: {error}") from error


def _class(value: object, validate: Callable[[object], str | int]) -> str | int:
    """One message for the two kinds of class id, instead of one for each kind."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError("must be a class name of 1 to 512 characters, or an index") from None


Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        json_schema_extra={"not": {"pattern": f"[{INVISIBLE_RANGES}]"}},
    ),
]
Time = Annotated[datetime, BeforeValidator(_time)]
ClassId = Annotated[Text | Annotated[int, Field(ge=0, le=MAX_INTEGER)], WrapValidator(_class)]
Ids = Annotated[list[Text], Field(max_length=MAX_IDS), FailFast()]
ClassIds = Annotated[list[ClassId], Field(max_length=MAX_IDS), FailFast()]


class _Document(BaseModel):
    """A JSON object of a request: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Identity(_Document):
    """One of the names under which the controller knows the person."""

    # fmt: off
    identity_type: Literal[
        "controller_customer_id", "email", "android_advertising_id", "android_id",
        "fire_advertising_id", "ios_advertising_id", "ios_vendor_id", "microsoft_advertising_id",
        "microsoft_publisher_id", "roku_advertising_id", "roku_publisher_id",
    ]
    # fmt: on
    identity_value: Text
    identity_format: Literal["raw", "sha1", "md5", "sha256"]


class Scope(_Document):
    """What to erase: everything of the subject, these samples, these classes."""

    subject: bool
    sample_ids: Ids = []
    class_ids: ClassIds = []


class ModelRef(_Document):
    """The model that the request is about."""

    name: Text | None = None
    sha256: Annotated[Sha256, Field(pattern=f"^{PATTERN}$")] | None = None


class Extension(_Document):
    """What OpenDSR has no field for."""

    schema_version: Annotated[int, Field(ge=1, le=1)]  # Literal[1] would take true and 1.0
    scope: Scope
    model_ref: ModelRef = ModelRef()
    policy: Text | None = None
    received_time: Time | None = None
    requested_by: Text | None = None
    approved_by_ref: Text | None = None


_WHOLE_SUBJECT: Final = Extension(schema_version=1, scope=Scope(subject=True))


class OpenDsrRequest(_Document):
    """An OpenDSR 2.0 erasure request; without our extension it asks for the whole subject."""

    regulation: Literal["gdpr", "ccpa"]
    subject_request_id: Annotated[str, Field(pattern=_UUID4)]
    subject_request_type: Literal["erasure"]
    submitted_time: Time
    api_version: Text | None = None
    subject_identities: Annotated[list[Identity], Field(max_length=MAX_IDS), FailFast()] = []
    status_callback_urls: Annotated[list[Text], Field(max_length=100)] = []
    extensions: dict[Literal["qmu-edge"], Extension] = {}


class ResearchRequest(_Document):
    """The bare form: lists of what to forget, at least one of them with something in it."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {name: {"minItems": 1}}, "required": [name]}
                for name in ("sample_ids", "class_ids", "subject_ids")
            ]
        }
    )

    request_id: Annotated[str, Field(pattern=_UUID)] | None = None
    sample_ids: Ids = []
    class_ids: ClassIds = []
    subject_ids: Ids = []
    submitted_time: Time | None = None
    requested_by: Text | None = None
    approved_by_ref: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionRequest:
    """A request that parsed. Times are in UTC; ids keep their order, without repetitions.

    Attributes:
        request_id: Lower-case UUID: the sender's, or derived from the content.
        form: Which of the two documents it came as.
        received_time: The document's, or the moment of parsing when the document has none.
        subject_ids: Raw identities. In the "opendsr" form they are all names of one person.
        class_ids: Class names (str) and class indices (int).
        model_sha256, model_name, policy: As written in the extension; checked by the caller.
        body: RFC 8785 form of the document as received. Personal data, like `subject_ids`.
    """

    request_id: str
    form: Literal["opendsr", "research"]
    received_time: datetime
    body: bytes = field(repr=False)
    regulation: str | None = None
    submitted_time: datetime | None = None
    requested_by: str | None = None
    approved_by_ref: str | None = None
    subject_ids: tuple[str, ...] = field(default=(), repr=False)
    sample_ids: tuple[str, ...] = ()
    class_ids: tuple[str | int, ...] = ()
    model_sha256: Sha256 | None = None
    model_name: str | None = None
    policy: str | None = None

    def digest(self, key: bytes) -> Sha256:
        """HMAC-SHA256 of the body: keyed, because a bare hash of a name can be guessed.

        Spacing, the order of keys and the time of reading do not change it.
        """
        return Sha256(hmac.digest(key, self.body, "sha256").hex())


def load_request(path: Path, *, now: datetime | None = None, key: bytes = b"") -> DeletionRequest:
    """Read and parse a request file; see `parse_request`.

    Raises:
        RequestError: The file is absent, unreadable or not regular, or not a valid request.
    """
    data = read_regular(path, limit=MAX_BYTES, error=RequestError)
    return parse_request(data, source=str(path), now=now, key=key)


def parse_request(
    data: bytes, *, source: str, now: datetime | None = None, key: bytes = b""
) -> DeletionRequest:
    """Parse and check a request.

    Args:
        data: The JSON text, UTF-8, at most 1 MiB.
        source: What error messages call it: the path of the file.
        now: The present, with a time zone; by default the clock's.
        key: HMAC key of the store. It enters only a derived `request_id` (research form without
            one); without a key, that id is a hash that can be tested against guessed subjects.

    Raises:
        RequestError: Anything is wrong with it; the message names the field.
    """
    now = datetime.now(UTC) if now is None else now.astimezone(UTC)
    document = parse_object(data, source, RequestError)
    try:
        if document.keys() & (OpenDsrRequest.model_fields.keys() - {"submitted_time"}):
            request = _from_opendsr(document, now)
        else:
            request = _from_research(document, now, key)
        _require_plausible(request, now)
    except ValidationError as error:
        raise RequestError(f"{source}: {_first_problem(error)}") from None
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from None
    return request


def new_request(
    *,
    subject_ids: Sequence[str] = (),
    sample_ids: Sequence[str] = (),
    class_ids: Sequence[str | int] = (),
    regulation: str = "gdpr",
    requested_by: str | None = None,
    approved_by_ref: str | None = None,
    now: datetime | None = None,
) -> dict[str, object]:
    """An OpenDSR document, received now (by default the clock's now), ready for `json.dumps`.

    `subject_ids` are the names of one person; `class_ids` are names or indices; `regulation` is
    "gdpr" or "ccpa"; `requested_by` and `approved_by_ref` are references, like a ticket.

    Raises:
        RequestError: The arguments do not make a valid request.
    """
    now = datetime.now(UTC) if now is None else now.astimezone(UTC)
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    identity = {"identity_type": "controller_customer_id", "identity_format": "raw"}
    lists = {"sample_ids": list(sample_ids), "class_ids": list(class_ids)}
    extension = {
        "schema_version": 1,
        "scope": {"subject": bool(subject_ids), **lists},
        "received_time": stamp,
        "requested_by": requested_by,
        "approved_by_ref": approved_by_ref,
    }
    document: dict[str, object] = {
        "regulation": regulation,
        "subject_request_id": str(uuid.uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": stamp,
        "api_version": "2.0",
        "subject_identities": [identity | {"identity_value": subject} for subject in subject_ids],
        "extensions": {EXTENSION: {k: v for k, v in extension.items() if v is not None}},
    }
    parse_request(json.dumps(document).encode(), source="new request", now=now)
    return document


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12); `schemas/deletion-request.v1.json` is its text.

    It cannot say everything: times in the future, repeated keys, NFC and the sum of all ids are
    checked by `parse_request` only.
    """
    forms = (OpenDsrRequest, ResearchRequest)
    _, parts = models_json_schema([(form, "validation") for form in forms])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "qmu-edge deletion request",
        "anyOf": [{"$ref": f"#/$defs/{form.__name__}"} for form in forms],
        **parts,
    }


def _from_opendsr(document: Mapping[str, object], now: datetime) -> DeletionRequest:
    form = OpenDsrRequest.model_validate(document)
    ours = form.extensions.get(EXTENSION, _WHOLE_SUBJECT)
    return DeletionRequest(
        request_id=form.subject_request_id.lower(),
        form="opendsr",
        received_time=ours.received_time or now,
        body=canonical(document, "request"),
        regulation=form.regulation,
        submitted_time=form.submitted_time,
        requested_by=ours.requested_by,
        approved_by_ref=ours.approved_by_ref,
        subject_ids=_subjects(form.subject_identities) if ours.scope.subject else (),
        sample_ids=tuple(dict.fromkeys(ours.scope.sample_ids)),
        class_ids=tuple(dict.fromkeys(ours.scope.class_ids)),
        model_sha256=ours.model_ref.sha256,
        model_name=ours.model_ref.name,
        policy=ours.policy,
    )


def _from_research(document: Mapping[str, object], now: datetime, key: bytes) -> DeletionRequest:
    form = ResearchRequest.model_validate(document)
    body = canonical(document, "request")
    derived = hmac.digest(key, b"qmu-edge request id\0" + body, "sha256")[:16]
    return DeletionRequest(
        request_id=(form.request_id or str(uuid.UUID(bytes=derived, version=5))).lower(),
        form="research",
        received_time=now,
        body=body,
        submitted_time=form.submitted_time,
        requested_by=form.requested_by,
        approved_by_ref=form.approved_by_ref,
        subject_ids=tuple(dict.fromkeys(form.subject_ids)),
        sample_ids=tuple(dict.fromkeys(form.sample_ids)),
        class_ids=tuple(dict.fromkeys(form.class_ids)),
    )


def _subjects(identities: Sequence[Identity]) -> tuple[str, ...]:
    """The raw identities; a hashed one cannot be matched, so it is refused and not skipped."""
    if not identities:
        raise RequestError("subject_identities: scope.subject is true but no identity is given")
    for i, identity in enumerate(identities):
        if identity.identity_format != "raw":
            raise RequestError(
                f"subject_identities[{i}].identity_format: found {identity.identity_format!r}, "
                "allowed 'raw': a hash cannot be matched with the stored pseudonyms (HMAC)"
            )
    return tuple(dict.fromkeys(identity.identity_value for identity in identities))


def _require_plausible(request: DeletionRequest, now: datetime) -> None:
    """Raise RequestError when nothing is named, too much is, or a time is in the future."""
    total = len(request.subject_ids + request.sample_ids + request.class_ids)
    if total == 0:
        raise RequestError("the request names no subject, no sample and no class")
    if total > MAX_IDS:
        raise RequestError(f"the request names {total} ids, allowed {MAX_IDS}")
    for name in ("submitted_time", "received_time"):
        time = getattr(request, name)
        if time is not None and time > now + CLOCK_SKEW:
            raise RequestError(f"{name}: found {time}, which is in the future (now {now})")


def _first_problem(error: ValidationError) -> str:
    """One line for the first thing pydantic found; values only where they cannot be personal."""
    first = error.errors(include_url=False)[0]
    path = ""
    for part in first["loc"]:
        path = join(path, part) if part != "[key]" else path  # pydantic's mark for a bad key
    known = {"extra_forbidden": "unknown field", "missing": "required, but absent"}
    reason = known.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "literal_error":
        found = f"found {shown(first['input'])}, " if first["loc"][-1] in _SHOWN else ""
        reason = f"{found}allowed {first['ctx']['expected']}"
    return f"{path}: {reason}"
