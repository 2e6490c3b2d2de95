"""The message a user's app receives: total, lazy, and never trusting.

No accessor raises, whatever the mail: what is missing is empty or None, and what is damaged
is said in ``defects``. Everything in a mail is the sender's word, its From included; only the
envelope and the ESP's verdicts (spam, stripped text) come from elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Literal, SupportsIndex, overload

from .address import Address
from .decoding import Body, Defects, decode_text
from .headers import (
    MAX_ADDRESSES,
    MAX_HEADER_LENGTH,
    header_text,
    limited_fields,
    media_type,
    message_ids,
    one_line,
    parameters,
    read_addresses,
    read_date,
)
from .mime import Mail, Part, read_mail

Addresses = str | Address | Iterable[Address | str]
"""Header text (``"Ann <ann@example.com>, carl@example.net"``) or addresses already apart."""


# --- File names -------------------------------------------------------------------------------

_LONGEST_FILENAME = 150  # bytes of UTF-8
_LONGEST_EXTENSION = 20
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, bidi overrides, lone surrogates
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\..*)?", re.I
)
_EXTENSIONS = {
    "application/gzip": ".gz",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/pgp-signature": ".asc",
    "application/zip": ".zip",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "image/webp": ".webp",
    "message/rfc822": ".eml",
    "text/calendar": ".ics",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/plain": ".txt",
}


def safe_filename(name: str, content_type: str = "") -> str:
    """Return a name that is safe to store a file under, in one directory, on any system.

    The base name only, in NFC, without invisible characters or those Windows forbids, not
    hidden, not a device (``NUL.txt``), at most 150 bytes of UTF-8. What has no name is
    ``attachment`` with an extension by content type.
    """
    name = re.split(r"[/\\]", name[-1000:])[-1]
    name = "".join(char for char in name if unicodedata.category(char) not in _INVISIBLE)
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name))
    name = " ".join(name.split()).lstrip(" .-").rstrip(" .")
    if not name:
        return "attachment" + _EXTENSIONS.get(content_type, ".bin")
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    return _shortened(name)


def _shortened(name: str) -> str:
    if len(name.encode()) <= _LONGEST_FILENAME:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > _LONGEST_EXTENSION:
        stem, dot, extension = name, "", ""
    room = _LONGEST_FILENAME - len((dot + extension).encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(" .") + dot + extension


# --- Values -----------------------------------------------------------------------------------


class _Lazy:
    """A value that pickles what it was given, not what was read from it since."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(type(self), name, None), cached_property)
        }


@dataclass(frozen=True, eq=False, repr=False)
class InboundAttachment(_Lazy):
    """A file that came with a mail, decoded when ``data`` is first read.

    Make one with `from_bytes` or `from_base64`. It never writes to disk: ``filename`` is safe
    to store it under, but consider a name of your own.
    """

    filename: str
    """A safe base name, never empty; see `safe_filename`."""
    original_filename: str
    """The name as sent, which may be a path, or anything else; empty if there was none."""
    content_type: str
    """``image/png``: lower case, as the sender says; ``application/octet-stream`` for nonsense."""
    content_id: str | None
    """What ``cid:`` links in the HTML refer to, without angle brackets."""
    disposition: Literal["attachment", "inline"]
    charset: str | None
    """The declared charset, not checked."""
    _body: Body

    @classmethod
    def from_bytes(
        cls,
        data: bytes | memoryview,
        *,
        filename: str = "",
        content_type: str = "",
        content_id: str | None = None,
        disposition: Literal["attachment", "inline"] = "attachment",
        charset: str | None = None,
    ) -> InboundAttachment:
        """Make an attachment of decoded data. ``content_type`` may carry parameters.

        A view is not copied until ``data`` is read, and keeps what it is a view of.
        """
        return cls._of(Body(data), filename, content_type, content_id, disposition, charset)

    @classmethod
    def from_base64(
        cls,
        data: str | bytes,
        *,
        filename: str = "",
        content_type: str = "",
        content_id: str | None = None,
        disposition: Literal["attachment", "inline"] = "attachment",
        charset: str | None = None,
    ) -> InboundAttachment:
        """Make an attachment of base64 text, line breaks allowed, that is decoded when read."""
        body = Body(data, "base64")
        return cls._of(body, filename, content_type, content_id, disposition, charset)

    @classmethod
    def _of(
        cls,
        body: Body,
        filename: str,
        content_type: str,
        content_id: str | None,
        disposition: Literal["attachment", "inline"],
        charset: str | None,
    ) -> InboundAttachment:
        main = media_type(content_type) or "application/octet-stream"
        given = parameters(content_type[:1000], Defects())
        filename = filename or given.get("name", "")
        return cls(
            filename=safe_filename(filename, main),
            original_filename=filename,
            content_type=main,
            content_id=one_line(content_id or "").strip("<> \t") or None,
            disposition=disposition,
            charset=charset or given.get("charset") or None,
            _body=body,
        )

    @classmethod
    def _of_part(cls, part: Part) -> InboundAttachment:
        name = part.filename
        if not name and part.content_type == "message/rfc822":
            name = _FORBIDDEN.sub("_", part.subject or "message") + ".eml"
        inline = part.disposition == "inline" or (part.role == "inline" and not part.disposition)
        return cls(
            filename=safe_filename(name, part.content_type),
            original_filename=part.filename,
            content_type=part.content_type,
            content_id=part.content_id or None,
            disposition="inline" if inline else "attachment",
            charset=part.charset or None,
            _body=part.body,
        )

    @cached_property
    def _defects(self) -> Defects:
        return Defects()

    @cached_property
    def data(self) -> bytes:
        """The decoded bytes; as much as could be decoded."""
        return self._body.decode(self._defects)

    @cached_property
    def text(self) -> str:
        """The data decoded by its charset, whatever the content type and however badly."""
        return decode_text(self.data, self.charset, Defects())

    @property
    def size(self) -> int:
        """Bytes of data."""
        return len(self.data)

    @property
    def defects(self) -> list[str]:
        """What was damaged, as far as the attachment has been read."""
        return list(self._defects)

    def __repr__(self) -> str:
        return f"<InboundAttachment {self.content_type} {self.disposition}>"


class Inlines(list[InboundAttachment]):
    """The attachments shown within the HTML, which also looks them up by content id.

    The first of a content id wins; the others are still in the list.
    """

    def get(
        self, content_id: str, default: InboundAttachment | None = None
    ) -> InboundAttachment | None:
        """Return the attachment of a content id (``logo@x``, ``<logo@x>``, ``cid:logo@x``)."""
        wanted = content_id.strip("<> ").removeprefix("cid:")
        return next((inline for inline in self if inline.content_id == wanted), default)

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> InboundAttachment: ...

    @overload
    def __getitem__(self, key: slice, /) -> list[InboundAttachment]: ...

    @overload
    def __getitem__(self, key: str, /) -> InboundAttachment: ...

    def __getitem__(self, key: Any, /) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: object, /) -> bool:
        if isinstance(key, str):
            return self.get(key) is not None
        return super().__contains__(key)

    def __repr__(self) -> str:
        return f"<Inlines {len(self)}>"


class InboundHeaders(Mapping[str, str]):
    """The headers of a mail, in order; names in any case; values decoded and on one line.

    ``headers["Received"]`` is the first of that name and `get_all` has them all. Iteration
    yields every name once; ``items()`` yields every field, repeated names included.
    """

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self._fields = [(one_line(name).strip(), value) for name, value in fields]
        self._values: dict[str, list[str]] = {}
        for name, value in self._fields:
            self._values.setdefault(name.lower(), []).append(value)

    def get_all(self, name: str) -> list[str]:
        """Return the values of every field of that name, in order; an empty list if none."""
        return [header_text(value, Defects()) for value in self._raw(name)]

    def _raw(self, name: str) -> list[str]:
        """The values as they came: folded, with encoded words."""
        return self._values.get(name.lower(), [])

    def __getitem__(self, name: str) -> str:
        return header_text(self._values[name.lower()][0], Defects())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        seen: set[str] = set()
        for name, _ in self._fields:
            if name.lower() not in seen:
                seen.add(name.lower())
                yield name

    def __len__(self) -> int:
        return len(self._values)

    def items(self) -> ItemsView[str, str]:
        """All fields in order, repeated names included."""
        return _AllFields(self)

    def __repr__(self) -> str:
        return f"<InboundHeaders {len(self._fields)}>"


class _AllFields(ItemsView[str, str]):
    _mapping: InboundHeaders

    def __len__(self) -> int:
        return len(self._mapping._fields)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self._mapping._fields:
            yield name, header_text(value, Defects())

    def __contains__(self, item: object) -> bool:
        return any(item == pair for pair in self)


@dataclass(frozen=True, repr=False)
class _Given:
    """What an ESP gave apart from the source; what is None is read from headers or source."""

    headers: tuple[tuple[str, str], ...] | None = None
    from_: Addresses | None = None
    to: Addresses | None = None
    cc: Addresses | None = None
    bcc: Addresses | None = None
    reply_to: Addresses | None = None
    subject: str | None = None
    date: str | datetime | None = None
    text: str | None = None
    html: str | None = None
    attachments: tuple[InboundAttachment, ...] | None = None
    message_id: str | None = None
    defects: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class InboundMessage(_Lazy):
    """A mail that arrived. Make one with `from_raw` or `from_fields`.

    Everything is read when first asked for, and no accessor raises.
    """

    raw: bytes | None
    """The RFC 5322 source, where the ESP gave it."""
    envelope_sender: str | None
    """The SMTP sender: an empty string is the null sender of bounces, None is unknown."""
    envelope_recipient: str | None
    """The SMTP recipient: whose mailbox this is, whatever ``to`` says."""
    stripped_text: str | None
    """The text without quoted replies, where the ESP gives that."""
    stripped_html: str | None
    """The HTML without quoted replies, where the ESP gives that."""
    spam_detected: bool | None
    """The ESP's verdict, None where it gives none."""
    spam_score: float | None
    """The ESP's score, on its own scale."""
    _given: _Given

    @classmethod
    def from_raw(
        cls,
        raw: bytes,
        *,
        bcc: Addresses = (),
        envelope_sender: str | None = None,
        envelope_recipient: str | None = None,
        stripped_text: str | None = None,
        stripped_html: str | None = None,
        spam_detected: bool | None = None,
        spam_score: float | None = None,
        defects: Iterable[str] = (),
    ) -> InboundMessage:
        """Make a message of its RFC 5322 source, as bytes: it need not be UTF-8.

        ``bcc`` is for ESPs that know blind copies, which are not in the source.
        """
        given = _Given(bcc=_kept(bcc) or None, defects=tuple(defects))
        return cls(
            raw=bytes(raw),
            envelope_sender=envelope_sender,
            envelope_recipient=envelope_recipient,
            stripped_text=stripped_text,
            stripped_html=stripped_html,
            spam_detected=spam_detected,
            spam_score=spam_score,
            _given=given,
        )

    @classmethod
    def from_fields(
        cls,
        *,
        headers: Iterable[tuple[str, str]] = (),
        from_: Addresses | None = None,
        to: Addresses | None = None,
        cc: Addresses | None = None,
        bcc: Addresses | None = None,
        reply_to: Addresses | None = None,
        subject: str | None = None,
        date: str | datetime | None = None,
        text: str | None = None,
        html: str | None = None,
        attachments: Iterable[InboundAttachment] = (),
        message_id: str | None = None,
        raw: bytes | None = None,
        envelope_sender: str | None = None,
        envelope_recipient: str | None = None,
        stripped_text: str | None = None,
        stripped_html: str | None = None,
        spam_detected: bool | None = None,
        spam_score: float | None = None,
        defects: Iterable[str] = (),
    ) -> InboundMessage:
        """Make a message of what an ESP has parsed.

        What is None (addresses, subject, date, message_id) is read from ``headers``. ``raw``
        is only kept. Attachments with a content id and an inline disposition are inlines.
        """
        given = _Given(
            headers=tuple(headers),
            from_=_kept(from_),
            to=_kept(to),
            cc=_kept(cc),
            bcc=_kept(bcc),
            reply_to=_kept(reply_to),
            subject=subject,
            date=date,
            text=text or "",
            html=html or "",
            attachments=tuple(attachments),
            message_id=message_id,
            defects=tuple(defects),
        )
        return cls(
            raw=raw,
            envelope_sender=envelope_sender,
            envelope_recipient=envelope_recipient,
            stripped_text=stripped_text,
            stripped_html=stripped_html,
            spam_detected=spam_detected,
            spam_score=spam_score,
            _given=given,
        )

    # Headers

    @cached_property
    def headers(self) -> InboundHeaders:
        """All headers; an ESP that parses mail may have left some out."""
        if self._given.headers is None:
            return InboundHeaders(self._mail.headers)
        return InboundHeaders(limited_fields(self._given.headers, self._noted))

    @cached_property
    def from_email(self) -> Address | None:
        """The first mailbox of From, which anyone can forge."""
        found = self._addresses("From", self._given.from_)
        return found[0] if found else None

    @cached_property
    def to(self) -> list[Address]:
        """The mailboxes of To."""
        return self._addresses("To", self._given.to)

    @cached_property
    def cc(self) -> list[Address]:
        """The mailboxes of Cc."""
        return self._addresses("Cc", self._given.cc)

    @cached_property
    def bcc(self) -> list[Address]:
        """Blind copies, where the ESP knows them or the sender forgot to hide them."""
        return self._addresses("Bcc", self._given.bcc)

    @cached_property
    def reply_to(self) -> list[Address]:
        """The mailboxes of Reply-To."""
        return self._addresses("Reply-To", self._given.reply_to)

    @cached_property
    def subject(self) -> str:
        """The subject on one line, or an empty string."""
        subject = self._given.subject
        return header_text(self._first("Subject") if subject is None else subject, self._noted)

    @cached_property
    def date(self) -> datetime | None:
        """When the sender says it was written: aware, UTC if its zone is unknown."""
        date = self._given.date
        if isinstance(date, datetime):
            return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return read_date(self._first("Date") if date is None else date, self._noted)

    @cached_property
    def message_id(self) -> str | None:
        """The Message-ID without angle brackets."""
        given = self._given.message_id
        return _first_id(self._first("Message-ID") if given is None else given)

    @cached_property
    def in_reply_to(self) -> str | None:
        """The id of the message this one answers, without angle brackets."""
        return _first_id(self._first("In-Reply-To"))

    @cached_property
    def references(self) -> list[str]:
        """The ids of the thread so far, oldest first, without angle brackets."""
        return message_ids(one_line(self._first("References")))

    @cached_property
    def is_auto_reply(self) -> bool:
        """Whether a machine sent this, so that a machine must not answer it (RFC 3834)."""
        return self.envelope_sender == "" or _is_automatic(self.headers)

    # Content

    @cached_property
    def text(self) -> str:
        """The plain text, or an empty string."""
        return self._body("text") if self._given.text is None else self._given.text

    @cached_property
    def html(self) -> str:
        """The HTML as the sender wrote it, scripts and all, or an empty string."""
        return self._body("html") if self._given.html is None else self._given.html

    @cached_property
    def attachments(self) -> list[InboundAttachment]:
        """The files, in order, without those shown within the HTML."""
        return [file for file, inline in self._files if not inline]

    @cached_property
    def inlines(self) -> Inlines:
        """The files shown within the HTML."""
        return Inlines(file for file, inline in self._files if inline)

    @property
    def defects(self) -> list[str]:
        """What was damaged or cut, for people to read; the damage of files once they were read."""
        _ = (
            self.headers,
            self.from_email,
            self.to,
            self.cc,
            self.bcc,
            self.reply_to,
        )  # each notes its own
        _ = self.subject, self.date, self.text, self.html
        own = [*self._given.defects, *self._structure_defects, *self._noted]
        files = [defect for file, _ in self._files for defect in file.defects]
        return list(dict.fromkeys(own + files))

    def __repr__(self) -> str:
        return f"<InboundMessage {len(self.attachments)} attachments, {len(self.inlines)} inlines>"

    # Reading

    @cached_property
    def _mail(self) -> Mail:
        return read_mail(self.raw or b"")

    @cached_property
    def _noted(self) -> Defects:
        return Defects()

    @property
    def _structure_defects(self) -> list[str]:
        return self._mail.defects if self._given.headers is None else []

    def _first(self, name: str) -> str:
        found = self.headers._raw(name)
        return found[0] if found else ""

    def _addresses(self, name: str, given: Addresses | None) -> list[Address]:
        if given is None:
            given = ",".join(self.headers._raw(name))
        found: list[Address] = []
        room = MAX_HEADER_LENGTH
        for item in [given] if isinstance(given, (str, Address)) else given:
            if len(found) >= MAX_ADDRESSES or room < 0:
                self._noted.note("there are too many addresses: the rest was left out")
                break
            room -= len(item) if isinstance(item, str) else 0
            found += [item] if isinstance(item, Address) else read_addresses(item, self._noted)
        return found[:MAX_ADDRESSES]

    def _body(self, role: Literal["text", "html"]) -> str:
        """Join the parts that mail clients show one after the other."""
        bodies = [
            decode_text(part.body.decode(self._noted), part.charset, self._noted)
            for part in self._mail.parts
            if part.role == role
        ]
        texts = [body.replace("\r\n", "\n") for body in bodies if body]
        return "\n".join([*(text.removesuffix("\n") for text in texts[:-1]), *texts[-1:]])

    @cached_property
    def _files(self) -> list[tuple[InboundAttachment, bool]]:
        """All files, and whether each is shown within the HTML."""
        if self._given.attachments is not None:
            return [
                (file, file.content_id is not None and file.disposition == "inline")
                for file in self._given.attachments
            ]
        return [
            (InboundAttachment._of_part(part), part.role == "inline")
            for part in self._mail.parts
            if part.role in ("attachment", "inline")
        ]


def _kept(addresses: Addresses | None) -> Addresses | None:
    """Keep what an iterator would lose."""
    if addresses is None or isinstance(addresses, (str, Address)):
        return addresses
    return tuple(addresses)


def _first_id(value: str) -> str | None:
    ids = message_ids(one_line(value))
    return ids[0] if ids else None


_LIST_OR_BULK = {"bulk", "junk", "list", "auto_reply"}
_AUTO_REPLY_HEADERS = ("List-Id", "X-Autoreply", "X-Autorespond")
_SUPPRESS = re.compile(r"\b(?:all|oof|autoreply)\b", re.I)


def _is_automatic(headers: InboundHeaders) -> bool:
    submitted = headers.get("Auto-Submitted", "no").partition(";")[0].partition("(")[0]
    return (
        submitted.strip().lower() not in ("no", "")
        or headers.get("Precedence", "").lower() in _LIST_OR_BULK
        or any(headers.get(name, "no").lower() != "no" for name in _AUTO_REPLY_HEADERS)
        or _SUPPRESS.search(headers.get("X-Auto-Response-Suppress", "")) is not None
        or media_type(headers.get("Content-Type", "")) == "multipart/report"
    )


__all__ = [
    "Addresses",
    "InboundAttachment",
    "InboundHeaders",
    "InboundMessage",
    "Inlines",
    "safe_filename",
]
