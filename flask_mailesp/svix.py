"""Standard Webhooks: how Svix, and the ESPs that send through it, sign a webhook.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .exceptions import ConfigurationError, WebhookRejected
from .patterns import pattern

if TYPE_CHECKING:
    from .esp import WebhookRequest

TOLERANCE = 300.0  # seconds, into the past and the future

_PREFIX = "whsec_"
_SHORTEST_KEY = 16  # bytes; Svix makes 24 or 32
_MOST_SIGNATURES = 20  # of one webhook; while a secret is rotated there are two
# What is signed is joined with full stops, so neither part may have one: a digit must not be
# able to slide from one into the other.
_ID = pattern(r"[!-\-/-~]{1,255}")
_SECONDS = pattern(r"[0-9]{10}")
_ENTRY = pattern(r"v[0-9a-z]{1,9},[!-~]{1,500}")  # a version and its signature


# --- secrets ---------------------------------------------------------------------------


def secrets(name: str, value: Any) -> tuple[str, ...]:
    """Read a setting: a signing secret ``whsec_…`` or, for rotation, a list of them.

    Raises ConfigurationError, naming the setting and showing nothing of its value.
    """
    items = value if isinstance(value, list) else [value]
    if not items or not all(map(_is_secret, items)):
        raise ConfigurationError(
            f'{name} must be a signing secret such as "{_PREFIX}…" as the console shows it, '
            "whole, or a list of such texts."
        )
    # A text that hides itself keeps doing so.
    return tuple(type(item)(item.strip()) for item in items)


def _is_secret(item: Any) -> bool:
    if not isinstance(item, str) or not item.strip().startswith(_PREFIX):
        return False
    try:
        return len(key_of(item.strip())) >= _SHORTEST_KEY
    except ValueError:
        return False


def key_of(secret: str) -> bytes:
    """Return the key that a secret is the text of. Raises ValueError if it is not base64."""
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)


# --- signatures ------------------------------------------------------------------------


def signature(secret: str, message_id: str, seconds: str, body: bytes) -> str:
    """Return ``v1,`` and the base64 of the HMAC-SHA256 over id, timestamp and raw body."""
    digest = hmac.new(key_of(secret), f"{message_id}.{seconds}.".encode("ascii"), "sha256")
    digest.update(body)
    return "v1," + binascii.b2a_base64(digest.digest(), newline=False).decode("ascii")


def verify(
    request: WebhookRequest, secrets: Iterable[str], now: datetime, *, prefix: str = "svix"
) -> None:
    """Check that one of the secrets signed this request within five minutes of ``now``.

    The id stays the same when a webhook is repeated or replayed; the timestamp (seconds
    since 1970) and with it the signature are made anew for each attempt. ``prefix`` is that
    of the three headers: the specification's own is ``webhook``.

    Raises WebhookRejected if anything is missing, malformed, stale or wrong.
    """
    message_id = request.headers.get(f"{prefix}-id") or ""
    seconds = request.headers.get(f"{prefix}-timestamp") or ""
    if not _ID.fullmatch(message_id) or not _SECONDS.fullmatch(seconds):
        raise WebhookRejected("The webhook's id or timestamp is missing or malformed.")
    if abs(now.timestamp() - int(seconds)) > TOLERANCE:
        raise WebhookRejected(
            "The webhook's timestamp is not of now; is this machine's clock right?"
        )
    given = list(_signatures(request.headers.get(f"{prefix}-signature") or ""))
    expected = [signature(item, message_id, seconds, request.body).encode() for item in secrets]
    # As texts, since more than one text decodes to the same bytes; and all with all, so that
    # time does not tell which one nearly matched.
    matches = [hmac.compare_digest(own, item) for own in expected for item in given]
    if True not in matches:
        raise WebhookRejected("The webhook's signature is wrong.")


def _signatures(header: str) -> Iterator[bytes]:
    """Yield the entries of a signature header; those of other versions never match."""
    items = header.split(" ", _MOST_SIGNATURES)[:_MOST_SIGNATURES]
    if not all(map(_ENTRY.fullmatch, items)):
        raise WebhookRejected("The webhook's signature is missing or malformed.")
    for item in items:
        yield item.encode("ascii")
