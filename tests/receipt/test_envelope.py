"""An envelope is standard DSSE, has one form, and no byte of it can change."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from qmu_edge.errors import ConfigError, LedgerError
from qmu_edge.receipt import envelope

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
PAYLOAD = b'{"a":1}'


def opened(data: bytes) -> envelope.Envelope:
    signed = envelope.read(data, "x.json")
    envelope.verify(signed, "x.json")
    return signed


def test_anybody_who_knows_dsse_can_check_it() -> None:
    document = json.loads(envelope.sign(PAYLOAD, KEY))
    assert document["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(document["payload"])
    (signature,) = document["signatures"]
    signed = b"DSSEv1 28 application/vnd.in-toto+json 7 " + payload
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(base64.b64decode(signature["sig"]), signed)
    assert payload == PAYLOAD and signature["keyid"] == PUBLIC.hex()


@given(st.binary(max_size=300))
def test_what_is_signed_is_read_and_the_same_again(payload: bytes) -> None:
    data = envelope.sign(payload, KEY)
    assert opened(data) == envelope.Envelope(payload, PUBLIC, opened(data).signature)
    assert envelope.sign(payload, KEY) == data


def test_every_bit_of_an_envelope_counts() -> None:
    data = envelope.sign(PAYLOAD, KEY)
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(LedgerError, match=r"x\.json: "):
            opened(bytes(flipped))


def _with(**changes: Any) -> bytes:
    document = {**json.loads(envelope.sign(PAYLOAD, KEY)), **changes}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


SIGNATURE = json.loads(envelope.sign(PAYLOAD, KEY))["signatures"][0]
BAD: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "huge": b" " * (2**20 + 1),
    "newline": envelope.sign(PAYLOAD, KEY) + b"\n",
    "bare payload": PAYLOAD,
    "another payload": _with(payload=base64.b64encode(b'{"a":2}').decode()),
    "another type": _with(payloadType="text/plain"),
    "unknown field": _with(more=1),
    "no signature": _with(signatures=[]),
    "two signatures": _with(signatures=[SIGNATURE, SIGNATURE]),
    "signature is text": _with(signatures="yes"),
    "payload is a number": _with(payload=7),
    "payload is no base64": _with(payload="====" * 3),
    "payload beyond ASCII": _with(payload="\u00e9\u00e9\u00e9\u00e9"),
    "url-safe base64": _with(payload="-_-_"),
    "short key": _with(signatures=[{**SIGNATURE, "keyid": "00"}]),
    "null key": _with(signatures=[{**SIGNATURE, "keyid": None}]),
    "another key": _with(signatures=[{**SIGNATURE, "keyid": "11" * 32}]),
    "key in capitals": _with(signatures=[{**SIGNATURE, "keyid": PUBLIC.hex().upper()}]),
    "short signature": _with(signatures=[{**SIGNATURE, "sig": "AAAA"}]),
    "no sig": _with(signatures=[{"keyid": PUBLIC.hex()}]),
}


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(LedgerError, match=r"^x\.json: "):
        opened(BAD[name])


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b'{"payload":"","payloadType":"","signatures":[]}')
def test_any_bytes_are_refused_the_same_way(data: bytes) -> None:
    with pytest.raises(LedgerError):
        opened(data)


def test_a_signature_over_the_payload_alone_is_none() -> None:
    """DSSE signs the type too; a signature that some other protocol made must not pass."""
    bare = base64.b64encode(KEY.sign(PAYLOAD)).decode()
    with pytest.raises(LedgerError, match="signature does not hold for key 56475aa75463474c"):
        opened(_with(signatures=[{**SIGNATURE, "sig": bare}]))


@pytest.mark.parametrize("content", [PUBLIC, PUBLIC.hex().encode() + b"\n", envelope.to_pem(PUBLIC).encode()])
def test_a_public_key_is_read_in_three_forms(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert envelope.read_public_key(tmp_path / "key") == PUBLIC


EC = generate_private_key(SECP256R1()).public_key()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no key", b"00" * 31, b"\xff" * 64, b"0" * 10_000, b"-----BEGIN PUBLIC KEY-----\nAAAA\n",
        EC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), None,
    ],
)  # fmt: skip
def test_what_is_no_ed25519_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=f"{tmp_path / 'key'}: "):
        envelope.read_public_key(tmp_path / "key")
