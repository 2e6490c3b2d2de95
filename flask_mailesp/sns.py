"""The signed messages of Amazon SNS, and of services that speak like it. Pure.

Such a message is a JSON object with a signature in it. Whose certificate it may be checked
with is for the caller to decide: anybody can have one.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .esp import Headers, HttpResponse
from .exceptions import FetchError, WebhookRejected
from .records import field, record
from .wire import decode_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import Certificate

MOST_BYTES = 1024 * 1024  # SNS itself stops at 256 kB

_CONFIRMATION = (
    "Message",
    "MessageId",
    "SubscribeURL",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
)
# What is signed, in this order; a Subject only where there is one.
SIGNED_FIELDS = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": _CONFIRMATION,
    "UnsubscribeConfirmation": _CONFIRMATION,
}
# Headers that nobody signs; where they are there, they must say the same.
REPEATED = {
    "x-amz-sns-message-type": "Type",
    "x-amz-sns-message-id": "MessageId",
    "x-amz-sns-topic-arn": "TopicArn",
}


@record(frozen=True)
class Envelope:
    """One message with its signature, not checked yet.

    ``fields`` are as they were decoded; all signed ones are text. ``to_check`` is what the
    ``signature`` must fit, by SHA-256 in ``version`` 2 and by SHA-1 in version 1, which SNS
    uses unless the topic says otherwise.
    """

    fields: Mapping[str, Any] = field(repr=False)
    to_check: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    version: str


def open_envelope(body: bytes, headers: Headers) -> Envelope:
    """Read a message strictly, so that no two bodies mean the same signed text.

    Raises WebhookRejected for whatever is not the message of an SNS topic: one that was
    delivered raw, with keys that come twice or with headers that contradict it included.
    """
    if is_raw(headers):
        raise WebhookRejected(
            "Raw message delivery has no signature: switch it off in the SNS subscription."
        )
    fields = strict_object(body)
    to_check = string_to_sign(fields)
    for name, key in REPEATED.items():
        if headers.get(name) not in (None, fields[key]):
            raise WebhookRejected(f"The header {name} contradicts the body.")
    version = fields.get("SignatureVersion")
    if version not in ("1", "2"):
        raise WebhookRejected("The webhook's signature is of an unknown version.")
    return Envelope(fields, to_check, canonical_base64(fields.get("Signature")), version)


def is_raw(headers: Headers) -> bool:
    """Tell a message that was delivered without its envelope, and so without a signature."""
    return (headers.get("x-amz-sns-rawdelivery") or "").lower() == "true"


def strict_object(body: bytes) -> dict[str, Any]:
    """Decode a JSON object in which no key comes twice. Raises WebhookRejected.

    Strangers can post here: what is larger than any message of SNS is not even decoded.
    """
    if len(body) > MOST_BYTES:
        raise WebhookRejected("The webhook is larger than any message of Amazon SNS.")
    try:
        found = json.loads(body, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WebhookRejected("The webhook is not a message of Amazon SNS.")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def string_to_sign(fields: Mapping[str, Any]) -> bytes:
    """Return what SNS signs: names and values, each with a line feed.

    Only the message itself may have line feeds of its own: elsewhere a value could contain
    what is another field's, and the signature would still fit. Raises WebhookRejected.
    """
    kind = fields.get("Type")
    names = SIGNED_FIELDS.get(kind) if isinstance(kind, str) else None
    if names is None:
        raise WebhookRejected("The webhook is not a message of Amazon SNS.")
    lines = []
    for name in names:
        value = fields.get(name)
        if value is None and name == "Subject":
            continue
        if not isinstance(value, str) or ("\n" in value and name != "Message"):
            raise WebhookRejected(f"The {name} of the SNS message is missing or malformed.")
        lines.append(f"{name}\n{value}\n")
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError:
        raise WebhookRejected("The SNS message holds a lone surrogate.") from None


def canonical_base64(value: Any) -> bytes:
    """Decode base64 that is written in its one proper way. Raises WebhookRejected."""
    data = decode_base64(value) if isinstance(value, str) else b""
    if not data or base64.b64encode(data).decode() != value:
        raise WebhookRejected("The webhook's signature is missing or malformed.")
    return data


def verify_signature(envelope: Envelope, now: datetime, response: HttpResponse) -> None:
    """Check a message with the certificate that was fetched.

    Raises WebhookRejected, or FetchError where the certificate cannot be had at present.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    algorithm = hashes.SHA256() if envelope.version == "2" else hashes.SHA1()  # noqa: S303
    key = public_key(read_certificate(response), now)
    try:
        key.verify(envelope.signature, envelope.to_check, PKCS1v15(), algorithm)
    except InvalidSignature:
        raise WebhookRejected("The webhook's signature is wrong.") from None


def read_certificate(response: HttpResponse) -> Certificate:
    """Return the certificate. One that SNS does not know (400 to 499) is not its own."""
    from cryptography.x509 import load_pem_x509_certificate

    status = response.status
    if 400 <= status < 500 and status not in (408, 429):
        raise WebhookRejected(f"Amazon SNS has no such certificate (HTTP {status}).")
    if status != 200:
        raise FetchError(f"The certificate of Amazon SNS could not be fetched (HTTP {status}).")
    try:
        return load_pem_x509_certificate(response.body)
    except ValueError:
        raise FetchError("The certificate of Amazon SNS could not be read.") from None


def public_key(certificate: Certificate, now: datetime) -> RSAPublicKey:
    """Return the RSA key of a certificate that is valid now. Raises WebhookRejected."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise WebhookRejected("The certificate of Amazon SNS is not valid at this time.")
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise WebhookRejected("The certificate of Amazon SNS has no RSA key.")
    return key
