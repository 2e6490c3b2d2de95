"""The one RSA key of a Postal installation, and what it signs.

The signature is RSA PKCS#1 v1.5 over the raw body; the key id is the hexadecimal SHA-256 of
the PKCS#1 DER public key, which is not RFC 7638's thumbprint.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Signer:
    """Signs with a private key, given as PEM or by a function that is called at first use."""

    def __init__(self, private_key: str | Callable[[], str]) -> None:
        self._lock = threading.Lock()
        self._source = private_key
        self._key = _load(private_key) if isinstance(private_key, str) else None

    @property
    def key(self) -> rsa.RSAPrivateKey:
        with self._lock:
            if self._key is None:
                self._key = _load(self._source if isinstance(self._source, str) else self._source())
            return self._key

    def headers(self, body: bytes, signatures: tuple[str, ...]) -> dict[str, str]:
        """The signature headers of one request body. Without "sha256": as before Postal 3.2."""
        headers = {}
        if "sha1" in signatures:
            headers["X-Postal-Signature"] = self._sign(body, hashes.SHA1())  # noqa: S303
        if "sha256" in signatures:
            headers["X-Postal-Signature-256"] = self._sign(body, hashes.SHA256())
            headers["X-Postal-Signature-KID"] = self.kid
        return headers

    def _sign(self, body: bytes, algorithm: hashes.HashAlgorithm) -> str:
        return base64.b64encode(self.key.sign(body, padding.PKCS1v15(), algorithm)).decode("ascii")

    @property
    def kid(self) -> str:
        return hashlib.sha256(self._public(Encoding.DER, PublicFormat.PKCS1)).hexdigest()

    @property
    def public_pem(self) -> str:
        return self._public(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")

    @property
    def dkim_record(self) -> str:
        """What ``postal default-dkim-record`` prints."""
        spki = self._public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; t=s; h=sha256; p={base64.b64encode(spki).decode('ascii')};"

    @property
    def jwks(self) -> dict[str, Any]:
        """The key set served at ``/.well-known/jwks.json`` (RFC 7517)."""
        numbers = self.key.public_key().public_numbers()
        key = {
            "kty": "RSA",
            "n": _base64url(numbers.n),
            "e": _base64url(numbers.e),
            "use": "sig",
            "alg": "RS256",
            "kid": self.kid,
        }
        return {"keys": [key]}

    def _public(self, encoding: Encoding, form: PublicFormat) -> bytes:
        return self.key.public_key().public_bytes(encoding, form)


def new_key() -> str:
    """A 2048-bit RSA key, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def _load(pem: str) -> rsa.RSAPrivateKey:
    """Load a key of the caller's own: checking its primes would cost every test 50 ms."""
    key = serialization.load_pem_private_key(
        pem.encode("ascii"), password=None, unsafe_skip_rsa_key_validation=True
    )
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("Postal signs with an RSA key; this PEM holds another kind")
    return key


def _base64url(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
