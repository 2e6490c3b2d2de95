"""Total readers of untrusted data, JSON bodies of known length, base64 and HMAC helpers.

*Total* means: for any input there is a value, never an exception. A reader asked for text
gives text or None, whatever the JSON holds at that place.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs

from .exceptions import SerializationError, WebhookRejected
from .patterns import pattern

# Base64 of up to this many bytes goes into the JSON text; larger data is spliced in while
# the body is sent, so that it is never held twice.
_INLINE = 48 * 1024
_MOST_FIELDS = 10_000
_INTEGER = pattern(r"-?[0-9]{1,18}")
_ISO_TIME = pattern(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,]([0-9]+))?"
    r" ?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
_CHARSET = pattern(r";\s*charset\s*=")
_CHUNK = 57 * 1024  # bytes of data per piece; a multiple of 3, so pieces join without padding


# --- reading ---------------------------------------------------------------------------


def parse_json(body: bytes | str) -> Any:
    """Decode JSON, or return None where it is not JSON (or nested or numbered absurdly)."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a JSON array, or an empty one."""
    return value if isinstance(value, list) else []


def clean(value: str) -> str:
    """Replace lone surrogates, which no database or UTF-8 stream takes."""
    if value.isascii():
        return value
    return value.encode("utf-8", "replace").decode("utf-8")


def as_text(value: Any) -> str | None:
    """Return a string or a number as text, anything else (and "") as None."""
    if type(value) is str:
        return clean(value) or None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number_text(value)
    return None


def _number_text(value: float) -> str | None:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python converts
        return None


def text(raw: Any, key: str) -> str | None:
    """Return ``raw[key]`` as non-empty text, or None."""
    value = raw.get(key) if isinstance(raw, dict) else None
    if type(value) is str and value.isascii():  # nearly always; webhooks ask this ten times each
        return value or None
    return None if value is None else as_text(value)


def flag(raw: Any, key: str) -> bool | None:
    """Return ``raw[key]`` if it is a boolean (or its form-encoded spelling), or None."""
    value = raw.get(key) if isinstance(raw, dict) else None
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value) if isinstance(value, str) else None


def number(raw: Any, key: str) -> float | None:
    """Return ``raw[key]`` as a finite number (from a number or its text), or None."""
    return as_number(raw.get(key)) if isinstance(raw, dict) else None


def as_number(value: Any) -> float | None:
    """Return a finite number (from a number or its text), or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def integer(value: Any) -> int | None:
    """Return an integer (from a number or its text in ASCII digits), or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else None


def from_epoch(raw: Any, key: str) -> datetime | None:
    """Return ``raw[key]``, seconds since 1970, as an aware datetime in UTC, or None."""
    seconds = number(raw, key)
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def from_iso(raw: Any, key: str) -> datetime | None:
    """Return ``raw[key]``, an ISO 8601 time with any number of fraction digits, or None.

    A time without an offset is taken as UTC. Digits beyond microseconds are cut.
    """
    value = raw.get(key) if isinstance(raw, dict) else None
    match = _ISO_TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    date, time, fraction, offset = match.groups("")
    # Python 3.10 reads 0, 3 or 6 fraction digits, offsets with a colon, and no Z.
    zone = "+00:00" if offset in ("", "Z", "z") else f"{offset[:3]}:{offset[-2:]}"
    try:
        return datetime.fromisoformat(f"{date}T{time}.{fraction[:6]:0<6}{zone}")
    except ValueError:
        return None


def strings(values: Iterable[Any]) -> list[str]:
    """Return the non-empty texts among some values."""
    return [found for value in values if (found := as_text(value)) is not None]


def parse_form(body: bytes) -> dict[str, list[str]]:
    """Decode an ``application/x-www-form-urlencoded`` body; what is not UTF-8 is replaced."""
    try:
        return parse_qs(
            body.decode("ascii", "replace"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:  # more fields than any ESP sends
        return {}


# --- authentication --------------------------------------------------------------------


def decode_base64(value: str) -> bytes:
    """Decode strict base64 (RFC 4648). Raises WebhookRejected if it is malformed."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise WebhookRejected("A credential or signature is not base64.") from None


def verify_basic(authorization: str | None, accepted: tuple[bytes, ...]) -> None:
    """Check an ``Authorization: Basic`` header (RFC 7617) against ``user:password`` pairs.

    They are compared as base64, so that nothing has to be decoded; and with every pair, so
    that time tells nothing about which one nearly matched. Raises WebhookRejected.
    """
    scheme, _, credentials = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        raise WebhookRejected("The webhook has no Basic credentials.")
    given = credentials.strip(" ").encode("utf-8", "replace")
    matches = [
        hmac.compare_digest(given, binascii.b2a_base64(pair, newline=False)) for pair in accepted
    ]
    if True not in matches:
        raise WebhookRejected("The webhook's Basic credentials are wrong.")


# --- writing ---------------------------------------------------------------------------


def with_charset(content_type: str, charset: str | None) -> str:
    """Return the content type of a text with its charset, unless it tells one itself."""
    kind = content_type.lower()
    if not charset or not kind.startswith("text/") or _CHARSET.search(kind):
        return content_type
    return f"{content_type}; charset={charset}"


def merged(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``extra`` into a copy of JSON, objects within objects included."""
    result = dict(base)
    for key, value in extra.items():
        inner = result.get(key)
        both = isinstance(inner, dict) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


class Base64:
    """Bytes that stand in a JSON payload as their base64 text (RFC 4648 section 4)."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"<Base64 of {len(self.data)} bytes>"

    def __len__(self) -> int:
        return (len(self.data) + 2) // 3 * 4

    def __iter__(self) -> Iterator[bytes]:
        view = memoryview(self.data)
        for start in range(0, len(view), _CHUNK):
            yield binascii.b2a_base64(view[start : start + _CHUNK], newline=False)


class Pieces:
    """A request body made of bytes and `Base64` data, encoded anew on each iteration."""

    __slots__ = ("_length", "segments")

    def __init__(self, segments: list[bytes | Base64]) -> None:
        self.segments = segments
        self._length = sum(map(len, segments))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for segment in self.segments:
            if isinstance(segment, bytes):
                yield segment
            else:
                yield from segment

    def __bytes__(self) -> bytes:
        return b"".join(self)


def joined(items: Iterable[bytes | Pieces], head: bytes, tail: bytes) -> bytes | Pieces:
    """Join encoded JSON values with commas between ``head`` and ``tail``."""
    segments: list[bytes | Base64] = []
    for item in items:
        segments += [b",", *(item.segments if isinstance(item, Pieces) else [item])]
    return _compact([head, *segments[1:], tail])


def _compact(segments: list[bytes | Base64]) -> bytes | Pieces:
    """Melt neighbouring bytes into one, so that each piece is worth a system call."""
    melted: list[bytes | Base64] = []
    run: list[bytes] = []
    for segment in segments:
        if isinstance(segment, bytes):
            run.append(segment)
        else:
            melted += [b"".join(run), segment]
            run = []
    tail = b"".join(run)
    return Pieces([*melted, tail]) if melted else tail


def _unserialisable(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


class _Splicer:
    """Puts a token where `Base64` data belongs, and afterwards cuts the text there.

    The token is random, so that no text in the message can be taken for it.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)
        self.found: list[Base64] = []

    def default(self, value: object) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        if not isinstance(value, Base64):
            return _unserialisable(value)
        if len(value.data) <= _INLINE:
            return binascii.b2a_base64(value.data, newline=False).decode("ascii")
        self.found.append(value)
        return self.token

    def cut(self, encoded: bytes) -> bytes | Pieces:
        if not self.found:
            return encoded
        first, *rest = encoded.split(self.token.encode("ascii"))
        segments: list[bytes | Base64] = [first]
        for data, following in zip(self.found, rest, strict=True):
            segments += [data, following]
        return Pieces(segments)


_encode: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_unserialisable
).encode


def json_body(payload: Any) -> bytes | Pieces:
    """Encode a payload as UTF-8 JSON; large `Base64` data is encoded only while it is sent.

    Raises SerializationError, naming the type, for what JSON or UTF-8 cannot carry.
    """
    try:
        return _encode(payload).encode("utf-8")
    except TypeError:
        pass  # Base64 data, or something unserialisable: the slower way tells them apart
    except (ValueError, RecursionError) as error:
        raise _serialization_error(error) from None
    splicer = _Splicer()
    encode = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=splicer.default
    ).encode
    try:
        return splicer.cut(encode(payload).encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        raise _serialization_error(error) from None


def _serialization_error(error: Exception) -> SerializationError:
    if isinstance(error, UnicodeEncodeError):
        reason = "a text holds a lone surrogate, which UTF-8 cannot carry"
    elif isinstance(error, RecursionError):
        reason = "a value is nested too deeply or contains itself"
    else:
        reason = str(error)
    return SerializationError(
        f"The message cannot be sent as JSON: {reason}. "
        "Convert such values (dates, Decimals, lazy strings) to str or numbers first."
    )
