"""Requests: what is refused, that nothing else can happen, and what the published schema says of it."""

import json
import time
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qmu_edge.request.document
from qmu_edge.errors import RequestError
from qmu_edge.io.json import MAX_BYTES, MAX_INTEGER
from qmu_edge.request.document import MAX_IDS, json_schema, new_request
from tests.request.documents import NOW, OPENDSR, OURS, RESEARCH, SECRET, UUID4, changed, parse

SCHEMA_FILE = Path(qmu_edge.__file__).parent / "schemas" / "deletion-request.v1.json"


def ids(n: int) -> str:
    return ",".join(map(str, range(n)))


DEEP = b'{"sample_ids":' + b"[" * 16 + b"]" * 16 + b"}"


FAR = "2026-11-03T12:05:01Z"


BAD: list[tuple[str, object, str]] = [
    ("empty file", b"", "not JSON"),
    ("not JSON", b"{'sample_ids': ['a']}", "not JSON"),
    ("not UTF-8", b'{"sample_ids": ["\xff"]}', "not UTF-8 at byte 17"),
    ("UTF-16", '{"sample_ids": ["a"]}'.encode("utf-16"), "not UTF-8"),
    ("byte order mark", b'\xef\xbb\xbf{"sample_ids": ["a"]}', "BOM"),
    ("trailing text", b'{"sample_ids": ["a"]} {}', "Extra data"),
    ("too large", b'{"sample_ids": ["a"]}' + b" " * MAX_BYTES, "larger than the allowed"),
    ("too deep", DEEP, "nested deeper than the allowed 16"),
    ("far too deep", b"[" * 900_000, "nested deeper"),
    ("a list", ["a"], "must be a JSON object"),
    ("a string", "a", "must be a JSON object"),
    ("key twice", b'{"sample_ids":["a"],"sample_ids":["b"]}', "'sample_ids' appears twice"),
    (
        "key twice, deep",
        b'{"extensions":{"qmu-edge":{"a":1,"a":1}}}',
        "extensions.qmu-edge: key 'a' appears twice",
    ),
    ("NaN", b'{"class_ids":[NaN]}', r"class_ids\[0\]: NaN"),
    ("infinity", b'{"class_ids":[1,-Infinity]}', r"class_ids\[1\]: -Infinity"),
    ("overflow", b'{"class_ids":[1e999]}', r"class_ids\[0\]: number beyond"),
    ("huge integer", b'{"class_ids":[%d]}' % (MAX_INTEGER + 1), r"class_ids\[0\]: integer beyond"),
    ("endless integer", b'{"class_ids":[' + b"9" * 9999 + b"]}", r"class_ids\[0\]: integer beyond"),
    ("control character", {"sample_ids": ["a\n"]}, r"sample_ids\[0\]: control characters"),
    ("escape sequence", {"requested_by": "\x1b[2J"}, "requested_by: control characters"),
    ("lone surrogate", b'{"sample_ids":["\\ud800"]}', r"sample_ids\[0\]: control characters"),
    ("control in a key", {"a\n": 1}, "a key of the document: control"),
    ("not NFC", {"sample_ids": ["e\u0301"]}, r"sample_ids\[0\]: .*NFC"),
    ("nothing named", {}, "names no subject, no sample and no class"),
    ("nothing named, lists", {"sample_ids": [], "class_ids": []}, "names no subject"),
    ("too many", b'{"class_ids":[' + ids(MAX_IDS + 1).encode() + b"]}", "class_ids: .*100000"),
    (
        "too many together",
        {"class_ids": list(range(90_000)), "sample_ids": [str(i) for i in range(20_000)]},
        "names 110000 ids, allowed 100000",
    ),
    ("unknown field", {"sample_ids": ["a"], "color": 1}, "color: unknown field"),
    ("both forms", OPENDSR | {"sample_ids": ["a"]}, "sample_ids: unknown field"),
    ("id of wrong type", {"sample_ids": [1]}, r"sample_ids\[0\]"),
    ("id empty", {"sample_ids": ["a", ""]}, r"sample_ids\[1\]"),
    ("id too long", {"sample_ids": ["a" * 513]}, r"sample_ids\[0\]"),
    ("ids not a list", {"sample_ids": "a"}, "sample_ids"),
    ("class bool", {"class_ids": [True]}, r"class_ids\[0\]: must be a class name"),
    ("class float", {"class_ids": [1.0]}, r"class_ids\[0\]: must be a class name"),
    ("class negative", {"class_ids": [-1]}, r"class_ids\[0\]: must be a class name"),
    ("class null", {"class_ids": [None]}, r"class_ids\[0\]: must be a class name"),
    ("request id", {"sample_ids": ["a"], "request_id": "1"}, "request_id"),
    ("regulation", changed(OPENDSR, "regulation", to="lgpd"), "found 'lgpd', allowed 'gdpr' or"),
    ("no regulation", changed(OPENDSR, "regulation", to=...), "regulation: required"),
    (
        "access",
        changed(OPENDSR, "subject_request_type", to="access"),
        "subject_request_type: found 'access', allowed 'erasure'",
    ),
    ("UUID v1", changed(OPENDSR, "subject_request_id", to=UUID4[:14] + "1" + UUID4[15:]), "_id"),
    ("UUID braces", changed(OPENDSR, "subject_request_id", to=f"{{{UUID4}}}"), "_id"),
    ("no zone", changed(OPENDSR, "submitted_time", to="2026-11-02T15:00:00"), "RFC 3339"),
    ("seconds", changed(OPENDSR, "submitted_time", to=1790000000), "RFC 3339"),
    ("seconds text", changed(OPENDSR, "submitted_time", to="1790000000"), "RFC 3339"),
    ("no such day", changed(OPENDSR, "submitted_time", to="2026-02-30T15:00:00Z"), "no such date"),
    ("year 1", changed(OPENDSR, "submitted_time", to="0001-01-01T00:00:00+14:00"), "no such date"),
    ("future", changed(OPENDSR, "submitted_time", to=FAR), "submitted_time: found .* future"),
    ("future receipt", changed(OPENDSR, *OURS, "received_time", to=FAR), "received_time: found"),
    ("future research", {"sample_ids": ["a"], "submitted_time": FAR}, "submitted_time: found"),
    ("no identity", changed(OPENDSR, "subject_identities", to=[]), "no identity is given"),
    (
        "hashed identity",
        changed(OPENDSR, "subject_identities", 0, "identity_format", to="sha256"),
        r"subject_identities\[0\].identity_format: found 'sha256', allowed 'raw': a hash cannot",
    ),
    (
        "identity type",
        changed(OPENDSR, "subject_identities", 0, "identity_type", to=SECRET),
        r"subject_identities\[0\].identity_type: allowed 'controller",
    ),
    (
        "identity number",
        changed(OPENDSR, "subject_identities", 0, "identity_value", to=10492),
        r"subject_identities\[0\].identity_value",
    ),
    (
        "other extension",
        changed(OPENDSR, "extensions", "a.org", to={}),
        "extensions.'a.org': allow",
    ),
    ("extension field", changed(OPENDSR, *OURS, "x", to=1), "qmu-edge.x: unknown field"),
    ("scope field", changed(OPENDSR, *OURS, "scope", "x", to=1), "scope.x: unknown field"),
    ("scope subject", changed(OPENDSR, *OURS, "scope", "subject", to=1), "scope.subject"),
    ("no scope", changed(OPENDSR, *OURS, "scope", to=...), "scope: required"),
    ("version 2", changed(OPENDSR, *OURS, "schema_version", to=2), "schema_version"),
    ("version true", changed(OPENDSR, *OURS, "schema_version", to=True), "schema_version"),
    ("version 1.0", changed(OPENDSR, *OURS, "schema_version", to=1.0), "schema_version"),
    ("sha256", changed(OPENDSR, *OURS, "model_ref", "sha256", to="AB" * 32), "model_ref.sha256"),
    ("model field", changed(OPENDSR, *OURS, "model_ref", "x", to=""), "model_ref.x: unknown"),
    ("long key", {"a" * 999: 1, "sample_ids": ["a"]}, r"'a{39}\.\.\.: unknown field"),
]


@pytest.mark.parametrize(("document", "message"), [bad[1:] for bad in BAD], ids=[b[0] for b in BAD])
def test_bad_request_is_refused_in_one_line(document: object, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse(document)
    text = str(caught.value)
    assert text.startswith("req.json: ")
    assert text.isprintable() and len(text) < 400
    assert SECRET not in text


def test_limits_are_reached_not_missed() -> None:
    assert parse({"sample_ids": ["a" * 512], "class_ids": [MAX_INTEGER]})
    assert parse(b'{"sample_ids": ["a"]}'.ljust(MAX_BYTES))
    assert len(parse(b'{"class_ids":[' + ids(MAX_IDS).encode() + b"]}").class_ids) == MAX_IDS
    assert parse(changed(OPENDSR, "submitted_time", to="2026-11-03T12:05:00Z"))
    with pytest.raises(RequestError, match="sample_ids"):  # depth 16 is read, then refused as a list
        parse(DEEP.replace(b"[]", b""))
    assert parse({"sample_ids": ["[" * 500 + '\\"[[']}).sample_ids  # brackets in text do not nest


@pytest.mark.parametrize(
    "data",
    [
        b'{"sample_ids":["' + rb"\"" * 500_000,
        b"[]" * 500_000,
        b'"' * 1_000_000,
        b'{"class_ids":[' + b",".join([b'""'] * 99_000) + b"]}",
    ],
    ids=["open string", "brackets", "quotes", "many errors"],
)
def test_hostile_size_is_refused_quickly(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(RequestError):
        parse(data)
    assert time.process_time() - start < 10  # quadratic work would take minutes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


KEYS = sorted({*OPENDSR, *RESEARCH, *OPENDSR["extensions"]["qmu-edge"], "scope", "qmu-edge"})


def outcome(data: bytes) -> None:
    """Parse, or fail with the one error in one line; anything else propagates."""
    try:
        request = parse(data)
    except RequestError as error:
        assert str(error).isprintable()
    else:
        assert request.digest(b"key") == parse(data).digest(b"key")


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    outcome(data)


@given(JSON | st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_json(document: object) -> None:
    outcome(json.dumps(document).encode())


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items: Any = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@given(st.sampled_from([OPENDSR, RESEARCH]), st.data())
def test_valid_request_with_one_value_replaced(document: dict[str, Any], data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(places(document)[1:]))
    outcome(json.dumps(changed(document, *place, to=data.draw(JSON | st.just(...)))).encode())


@given(st.sampled_from([OPENDSR, RESEARCH]), st.data())
def test_valid_request_with_one_byte_replaced(document: dict[str, Any], data: st.DataObject) -> None:
    text = bytearray(json.dumps(document).encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(text))


def test_published_schema_is_current() -> None:
    assert json.loads(SCHEMA_FILE.read_text()) == json_schema()
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_schema_accepts_what_parses() -> None:
    for document in (OPENDSR, RESEARCH, {"class_ids": [0]}, new_request(sample_ids=["a"], now=NOW)):
        assert parse(document)
        jsonschema.Draft202012Validator(json_schema()).validate(document)


NOT_IN_SCHEMA = {
    "not NFC",
    "too many together",
    "class float",  # 1.0 is an integer to JSON Schema
    "version 1.0",
    "no zone",  # "format" is an annotation there
    "seconds text",
    "no such day",
    "year 1",
    "future",
    "future receipt",
    "future research",
    "no identity",
    "hashed identity",
}


# Bytes that are no JSON are below what a schema sees.
@pytest.mark.parametrize(("name", "document"), [bad[:2] for bad in BAD if not isinstance(bad[1], bytes)])
def test_schema_refuses_what_it_can_express(name: str, document: object) -> None:
    valid = jsonschema.Draft202012Validator(json_schema()).is_valid(document)
    assert valid == (name in NOT_IN_SCHEMA)
