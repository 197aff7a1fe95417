"""Two valid requests that the tests of requests change."""

import copy
import json
from datetime import UTC, datetime
from typing import Any

from qmu_edge.request.document import DeletionRequest, parse_request

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)


UUID4 = "a7551968-d5d6-44b2-9831-815ac9017798"


SECRET = "c-10492"  # an identity: no error message may contain it


OPENDSR: dict[str, Any] = {
    "regulation": "gdpr",
    "subject_request_id": UUID4,
    "subject_request_type": "erasure",
    "submitted_time": "2026-11-02T15:00:00Z",
    "api_version": "2.0",
    "subject_identities": [
        {
            "identity_type": "controller_customer_id",
            "identity_value": SECRET,
            "identity_format": "raw",
        }
    ],
    "status_callback_urls": ["https://example.org/callback"],
    "extensions": {
        "qmu-edge": {
            "schema_version": 1,
            "scope": {"subject": True, "sample_ids": ["img-1", "img-1"], "class_ids": [3, "cat"]},
            "model_ref": {"name": "doorcam", "sha256": "ab" * 32},
            "policy": "ci-default",
            "received_time": "2026-11-02T16:04:11+01:00",
            "requested_by": "dpo-queue",
            "approved_by_ref": "TICKET-812",
        }
    },
}


RESEARCH: dict[str, Any] = {
    "request_id": UUID4.upper(),
    "sample_ids": ["a", "b"],
    "class_ids": ["cat", 3],
    "subject_ids": [SECRET],
    "submitted_time": "2026-11-02t15:00:00.25z",
    "requested_by": "me",
    "approved_by_ref": "you",
}


OURS = "extensions", "qmu-edge"


def parse(document: object, key: bytes = b"") -> DeletionRequest:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_request(data, source="req.json", now=NOW, key=key)


def changed(document: dict[str, Any], *path: str | int, to: object = None) -> dict[str, Any]:
    """A copy with the value at `path` replaced, or removed when `to` is `...`."""
    result = copy.deepcopy(document)
    place: Any = result
    for part in path[:-1]:
        place = place[part]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return result
