"""What the mailbox shows of a message. All of it is untrusted and may be any text at all."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

from markupsafe import Markup, escape

from . import mime
from .records import Attached, SentMessage

MAX_INLINED = 32 * 1024 * 1024  # characters of data: URIs in one document
MAX_LINKS = 50
MAX_SHOWN = 200_000  # characters of one text or source in a page; the download has all of it
MAX_PREVIEWED = 6_000
MAX_DEPTH = 40
LONG_BASE64 = 160
LONG_TEXT = 20_000
HIDDEN = "••••••••"

CID = re.compile(r"cid:([^\s\"'<>()]+)", re.IGNORECASE)
IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]{1,60}")
# A tag's name stands in the source as it is: it cannot be written in any other way.
TELLTALE_TAG = re.compile(
    "<(link|iframe|frame|object|embed|applet|portal|fencedframe)", re.IGNORECASE | re.ASCII
)
URL = re.compile(r"https?://[^\s\"'<>]{1,2000}", re.IGNORECASE)
INVISIBLE = re.compile(r"<(style|script|head|title)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<[^<>]*>")
BASE64 = re.compile(r"[A-Za-z0-9+/\s_-]+={0,2}\s*")
JSON_TOKEN = re.compile(
    r'(?P<key>"[^"\\]*(?:\\.[^"\\]*)*")(?=\s*:)'
    r'|(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")'
    r"|(?P<word>\b(?:true|false|null)\b|-?\d[\d.eE+-]*)",
    re.DOTALL,
)
UNSAFE_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\\/:\"]")

# Where a provider takes its credential in the body, it is at the top and has such a name.
CREDENTIALS = frozenset(
    {
        "key",
        "apikey",
        "token",
        "apitoken",
        "accesstoken",
        "servertoken",
        "accounttoken",
        "password",
        "secret",
    }
)


# -- the rendered mail --------------------------------------------------------------------


def document(message: SentMessage) -> str:
    """Return the HTML part, with the images it brings itself in place of their ``cid:`` URLs.

    Some tags are disarmed here, since the policy stops what they load and not that a browser
    connects ahead: to where ``<link rel=preconnect>`` points, and to the server of a frame
    it will not load. The rest is the policy's task.
    """
    inlined = _Images(message.attachments).inline(message.html or "")
    return TELLTALE_TAG.sub(r"<x-\1", inlined)


class _Images:
    """Replaces ``cid:`` URLs, within bounds: one image may be named ten thousand times."""

    def __init__(self, attachments: Iterable[Attached]) -> None:
        self._images: dict[str, Attached] = {}
        self._left = MAX_INLINED
        for one in attachments:
            if one.content_id and media_type(one):
                self._images.setdefault(one.content_id, one)  # the first one wins

    def inline(self, text: str) -> str:
        return CID.sub(self._data_uri, text) if self._images else text

    def _data_uri(self, match: re.Match[str]) -> str:
        cid = html.unescape(match[1])
        image = self._images.get(cid) or self._images.get(unquote(cid))
        if image is None or len(image.data) * 4 // 3 > self._left:
            return match[0]
        uri = f"data:{media_type(image)};base64,{base64.b64encode(image.data).decode('ascii')}"
        self._left -= len(uri)
        return uri


def media_type(image: Attached) -> str:
    """Return an image's type if it is one, else nothing."""
    name = image.content_type.partition(";")[0].strip().lower()
    return name if IMAGE_TYPE.fullmatch(name) else ""


def links(message: SentMessage) -> list[str]:
    """Return the web addresses in a message, each once, in order."""
    found = (
        html.unescape(match[0]) if source is message.html else match[0].rstrip(".,;:!?)]")
        for source in (message.html, message.text)
        for match in URL.finditer((source or "")[:1_000_000])
    )
    return list(dict.fromkeys(found))[:MAX_LINKS]


def preview(message: SentMessage) -> str:
    """Return the first words a reader would see."""
    text = message.text
    if not (text or "").strip():
        visible = TAG.sub(" ", INVISIBLE.sub(" ", (message.html or "")[:MAX_PREVIEWED]))
        text = html.unescape(visible)
    return " ".join((text or "")[:1000].split())[:160]


def people(message: SentMessage) -> str:
    """Return who gets a message, shortly."""
    everyone = message.recipients or message.inactive
    more = f" and {len(everyone) - 2} more" if len(everyone) > 2 else ""
    return f"{', '.join(everyone[:2])}{more}"


# -- headers and source -------------------------------------------------------------------


def header_rows(message: SentMessage) -> list[tuple[str, str]]:
    """Return the headers of the source; for a JSON send, those that its fields become."""
    if message.raw is not None:
        return list(message.headers)
    rows = [
        ("From", message.from_),
        *_joined("To", message.to),
        *_joined("Cc", message.cc),
        *_joined("Reply-To", message.reply_to),
        ("Subject", message.subject or ""),
    ]
    return rows + list(message.headers)


def _joined(name: str, values: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, ", ".join(values))] if values else []


def source(message: SentMessage) -> bytes | None:
    """Return the RFC 5322 source: as it was sent, or composed; None if it cannot be."""
    if message.raw is not None:
        return message.raw
    try:
        return _composed(message)
    except Exception:  # the email package fails in many ways on what strangers write
        return None


def _composed(message: SentMessage) -> bytes:
    images = [one for one in message.attachments if one.content_id and message.html is not None]
    files = [one for one in message.attachments if one not in images]
    return mime.compose(
        from_=message.from_,
        to=message.to or "undisclosed-recipients:;",
        subject=message.subject,
        text=message.text,
        html=message.html,
        attachments=[(one.name, plain_type(one.content_type), one.data) for one in files],
        inline=[
            (str(one.content_id), one.name, plain_type(one.content_type), one.data)
            for one in images
        ],
        headers={"Cc": ", ".join(message.cc), **dict(message.headers)}
        if message.cc
        else dict(message.headers),
    )


def plain_type(content_type: str) -> str:
    """Return a media type that any part may have."""
    name = content_type.partition(";")[0].strip().lower()
    fits = re.fullmatch(r"[a-z0-9.+-]+/[a-z0-9.+-]+", name)
    structured = name.startswith(("multipart/", "message/"))
    return name if fits and not structured else "application/octet-stream"


# -- JSON ---------------------------------------------------------------------------------


def pretty(value: Any) -> Markup:
    """Return JSON to read, coloured: credentials hidden, base64 and long texts shortened."""
    text = json.dumps(_shortened(_veiled(value)), indent=2, ensure_ascii=False, default=repr)
    rest = f"\n… ({len(text):,} characters)" if len(text) > MAX_SHOWN else ""
    return Markup("".join(_coloured(text[:MAX_SHOWN]))) + rest  # noqa: S704 - all of it is escaped


def pretty_body(body: bytes) -> Markup:
    """Return a webhook's body to read: JSON laid out, anything else as it is."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return escape(_short_text(text))
    return pretty(value)


def _veiled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: HIDDEN if _is_credential(name) else item for name, item in value.items()}


def _is_credential(name: object) -> bool:
    return re.sub(r"[^a-z]", "", str(name).lower()) in CREDENTIALS


def _shortened(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {str(name): _shortened(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shortened(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        return _short_text(value.decode("utf-8", "replace"))
    return _short_text(value) if isinstance(value, str) else value


def _short_text(text: str) -> str:
    if len(text) > LONG_BASE64 and BASE64.fullmatch(text) and " " not in text:
        return f"{text[:48]}… ({len(text):,} characters of base64, {size(len(text) * 3 // 4)})"
    if len(text) > LONG_TEXT:
        return f"{text[:LONG_TEXT]}… ({len(text):,} characters)"
    return text


def _coloured(text: str) -> Iterator[str]:
    """Yield pieces of HTML, each escaped."""
    end = 0
    for match in JSON_TOKEN.finditer(text):
        yield html.escape(text[end : match.start()])
        yield f'<span class="j-{match.lastgroup}">{html.escape(match[0])}</span>'
        end = match.end()
    yield html.escape(text[end:])


def hidden_headers(headers: dict[str, str]) -> list[tuple[str, str]]:
    """Return a webhook's headers without its password."""
    return [
        (name, f"{value.partition(' ')[0]} {HIDDEN}" if name.lower() == "authorization" else value)
        for name, value in headers.items()
    ]


# -- files --------------------------------------------------------------------------------


def size(number: int) -> str:
    """Return a number of bytes in words."""
    if number < 1000:
        return f"{number} bytes"
    return f"{number / 1000:.1f} kB" if number < 1_000_000 else f"{number / 1_000_000:.1f} MB"


def file_name(name: str, default: str) -> str:
    """Return a name that is one, without paths, control and direction characters."""
    clean = UNSAFE_IN_NAMES.sub("_", name).strip(" .")
    return clean[:120] or default


def disposition(name: str) -> str:
    """Return a Content-Disposition that makes any browser save a file (RFC 6266)."""
    ascii_name = re.sub(r"[^A-Za-z0-9 ._-]", "_", name)
    encoded = quote(name.encode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{encoded}"
