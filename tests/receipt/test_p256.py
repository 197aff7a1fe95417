"""The P-256 key beside an Ed25519 key: the same again, another for another key, read back from its PEM."""

from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from qmu_edge.errors import ConfigError
from qmu_edge.receipt import p256
from qmu_edge.receipt.envelope import to_pem
from tests.receipt.test_receipt import KEY, OTHER, PUBLIC

RECORDED = "03d75a5b45c6b51dfad4037df7614cb03afd095090fa33a4bdbb5ee55570a5aefd"


def test_a_key_has_one_p256_key_beside_it_which_never_changes() -> None:
    """Recorded: another derivation would be another key than the one that was given to those who verify."""
    public = p256.public_half(p256.beside(KEY))
    assert public.hex() == RECORDED
    assert p256.public_half(p256.beside(OTHER)) != public and len(public) == 33


def test_its_order_is_that_of_the_curve() -> None:
    """The largest private key is one less than the order; the order itself is none."""
    ec.derive_private_key(p256.ORDER - 1, ec.SECP256R1())
    with pytest.raises(ValueError):
        ec.derive_private_key(p256.ORDER, ec.SECP256R1())


def test_neither_half_of_one_key_is_in_the_other() -> None:
    scalar = p256.beside(KEY).private_numbers().private_value.to_bytes(32, "big")
    assert scalar != KEY.private_bytes_raw() and PUBLIC not in p256.public_half(p256.beside(KEY))


def test_signatures_are_the_same_again_and_hold_for_their_key_only() -> None:
    key = p256.beside(KEY)
    mark, public = p256.sign(b"bytes", key), p256.public_half(key)
    assert mark == p256.sign(b"bytes", key) != p256.sign(b"other", key)
    key.public_key().verify(mark, b"bytes", ec.ECDSA(SHA256()))
    assert p256.holds(mark, b"bytes", public)
    assert not p256.holds(mark, b"other", public)
    assert not p256.holds(mark, b"bytes", p256.public_half(p256.beside(OTHER)))
    assert not p256.holds(b"no signature", b"bytes", public) and not p256.holds(mark, b"bytes", b"no key")


def test_an_openssl_that_cannot_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def sign(self, *_: object) -> bytes:
            raise UnsupportedAlgorithm("deterministic")

    with pytest.raises(ConfigError, match=r"OpenSSL 3\.2 or newer"):
        p256.sign(b"", Old())  # type: ignore[arg-type]


def test_pem_is_read_back_and_another_kind_is_none(tmp_path: Path) -> None:
    public, file = p256.public_half(p256.beside(KEY)), tmp_path / "key.pem"
    file.write_text(p256.to_pem(public))
    assert p256.read_public_key(file) == public
    assert isinstance(load_pem_public_key(file.read_bytes()), ec.EllipticCurvePublicKey)
    larger = ec.generate_private_key(ec.SECP384R1()).public_key()
    for other in (
        to_pem(PUBLIC).encode(), larger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        b"-----BEGIN PUBLIC KEY-----\nnothing\n", PUBLIC,
    ):  # fmt: skip
        file.write_bytes(other)
        assert p256.read_public_key(file) is None
    with pytest.raises(ConfigError, match="no such file"):
        p256.read_public_key(tmp_path / "absent")
