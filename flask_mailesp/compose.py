"""A prepared message as RFC 5322 source, for the ESPs that take raw MIME.

The standard library can write mail too; this module exists because the result is needed
exactly: no line over 998 octets, no name or subject damaged by folding, no header that a
value could start, and a 20 MB attachment that is held once.
"""

from __future__ import annotations

import binascii
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeAlias

from .address import CONTROLS, Address, parse_address
from .exceptions import InvalidAddressError, InvalidHeaderError, SerializationError
from .message import Alternative, Attachment, PreparedMessage
from .prepare import split_addresses

_LIMIT = 998  # octets in a line without its CRLF (RFC 5322 section 2.1.1)
_FOLD = 78  # characters in a line that SHOULD not be exceeded (the same section)
_FOLD_ENCODED = 76  # ... where the line has an encoded word (RFC 2047 section 2)
_WORD = 75  # characters in one encoded word (the same section)
_LEAST_ROOM = 24  # an encoded word of one character fits: =?utf-8?q?=F0=9F=98=80?=
_BLOCK = 57 * 1024  # bytes of an attachment per piece: a thousand lines
_OVERLONG = 900  # an unbroken text of this length cannot stay as it is

_HEADER_NAME = re.compile(r"[!-9;-~]+")
_MESSAGE_ID_DOMAIN = re.compile(r"[^\s<>@\\\"]+")
_TOKENS = re.compile(r"[ \t]*[^ \t]+")
# What a reader would not see as it is: text beyond ASCII, text that looks like an encoded
# word, and words too long for a line.
_TO_ENCODE = re.compile(rf"[^\t -~]|=\?|.{{{_OVERLONG}}}")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/^_`{|}~-]+)*")
_SIMPLE_VALUE = re.compile(r"[A-Za-z0-9._-]+")
_PARAMETER = re.compile(r";\s*([^\s=;\"]+)\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^;]*)")
_LONG_LINE = re.compile(rb"[^\n]{%d}" % (_LIMIT + 1))

# b2a_qp forgets to count the white space it encodes at the end of a line.
_OVERLONG_QP = re.compile(rb"([^\n]{74,75})(=20|=09)(?=\n|\Z)")

# RFC 2047 section 5 (3): what stands for itself in an encoded word, wherever that is.
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
# RFC 2231 section 7: attribute-char, without a few that readers are known to trip over.
_2231_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-._~")

# Headers made of addresses: only their display names may be encoded (RFC 2047 section 5).
_ADDRESS_HEADER = re.compile(
    r"(?:resent-)?(?:from|sender|to|cc|reply-to)"
    r"|disposition-notification-to|return-receipt-to|errors-to|mail-followup-to",
    re.IGNORECASE,
)
# Headers that programs read, where an encoded word would be taken literally.
_MACHINE_HEADER = re.compile(
    r"(?:resent-)?(?:message-id|date)|in-reply-to|references|return-path|received"
    r"|list-(?:unsubscribe(?:-post)?|help|subscribe|post|owner|archive)"
    r"|dkim-signature|auto-submitted",
    re.IGNORECASE,
)
# Headers that this module writes from fields of their own.
_OWN_HEADER = re.compile(r"from|to|cc|bcc|reply-to|subject|mime-version|content-.*")


def compose(
    message: PreparedMessage,
    *,
    date: datetime,
    message_id: str,
    extra_headers: Iterable[tuple[str, str]] = (),
    show_bcc: bool = False,
) -> bytearray:
    """Return the message as RFC 5322 source with CRLF line ends.

    ``date`` and ``message_id`` (with its angle brackets) are used unless the message's own
    headers hold a Date or Message-ID. ``extra_headers`` follow all others; Bcc is written
    only with ``show_bcc``. User names beyond ASCII are raw UTF-8 (RFC 6532), the rest of the
    header is ASCII. Template, merge, tracking and metadata fields are not looked at.

    Raises InvalidHeaderError for a value that no header can hold (a line break, a control
    character, an unbroken text of 1,000 octets where it may not be encoded) and for a header
    that would contradict another one; SerializationError for a body with a lone surrogate.
    """
    head = b"".join(_headers(message, date, message_id, tuple(extra_headers), show_bcc))
    return _assembled([head, *_content(message).pieces])


def make_message_id(domain: str) -> str:
    """Return a new RFC 5322 msg-id, ``<...@domain>``, with 128 random bits.

    Raises InvalidHeaderError if ``domain`` cannot stand there.
    """
    if CONTROLS.search(domain) or not _MESSAGE_ID_DOMAIN.fullmatch(domain):
        raise InvalidHeaderError("The domain of a Message-ID is malformed.")
    return f"<{secrets.token_hex(16)}@{domain}>"


# --- the message's header --------------------------------------------------------------


def _headers(
    message: PreparedMessage,
    date: datetime,
    message_id: str,
    extra_headers: tuple[tuple[str, str], ...],
    show_bcc: bool,
) -> Iterator[bytes]:
    given = _given_names([*message.headers, *extra_headers])
    yield _address_header("From", (message.sender,))
    yield from (_custom_header(name, value) for name, value in message.headers)
    yield _address_header("To", message.to)
    yield _address_header("Cc", message.cc)
    if show_bcc:
        yield _address_header("Bcc", message.bcc)
    yield _address_header("Reply-To", message.reply_to)
    yield _text_header("Subject", message.subject)
    if "date" not in given:
        yield _raw_header("Date", _date(date))
    if "message-id" not in given:
        yield _raw_header("Message-ID", message_id)
    yield b"MIME-Version: 1.0\r\n"
    yield from (_custom_header(name, value) for name, value in extra_headers)


def _given_names(headers: list[tuple[str, str]]) -> list[str]:
    """Return the lower-cased names; refuse those that would contradict another header."""
    names = [name.lower() for name, _ in headers]
    for name in names:
        if _OWN_HEADER.fullmatch(name):
            raise InvalidHeaderError(f"The header {name!r} is written from a field of its own.")
    for name in ("date", "message-id"):
        if names.count(name) > 1:
            raise InvalidHeaderError(f"The header {name!r} is given twice (RFC 5322 section 3.6).")
    return names


def _custom_header(name: str, value: str) -> bytes:
    if not _HEADER_NAME.fullmatch(name):
        raise InvalidHeaderError("A header name is malformed (RFC 5322 section 2.2).")
    if _MACHINE_HEADER.fullmatch(name):
        return _raw_header(name, value)
    if _ADDRESS_HEADER.fullmatch(name) and _TO_ENCODE.search(value):
        # What is no address list still arrives, as plain text.
        return _address_header(name, _addresses(value)) or _text_header(name, value)
    return _text_header(name, value)


def _addresses(value: str) -> list[Address]:
    """Read an address list, or return nothing where it is not one throughout."""
    try:
        return [parse_address(item) for item in split_addresses(value)]
    except InvalidAddressError:
        return []


def _address_header(name: str, addresses: Sequence[Address]) -> bytes:
    """Write an address list; nothing where there is no address."""
    if not addresses:
        return b""
    field = _Field(name)
    for address in addresses[:-1]:
        field.address(address, ",")
    field.address(addresses[-1], "")
    return field.source()


def _text_header(name: str, value: str) -> bytes:
    field = _Field(name)
    field.text(value)
    return field.source()


def _raw_header(name: str, value: str) -> bytes:
    field = _Field(name)
    field.words(value)
    return field.source()


def _date(date: datetime) -> str:
    """Write a date-time (RFC 5322 section 3.3), whose zone has no seconds."""
    from email.utils import format_datetime

    offset = date.utcoffset()
    if offset is not None and offset.total_seconds() % 60:
        date = date.astimezone(timezone.utc)
    return format_datetime(date)


class _Field:
    """One header field while it is written and folded (RFC 5322 section 2.2.3)."""

    __slots__ = ("_column", "_empty", "_name", "_pieces")

    def __init__(self, name: str) -> None:
        self._name = name
        self._pieces = [name, ":"]
        self._column = len(name) + 1
        self._empty = True

    def source(self) -> bytes:
        """Return the field's lines as UTF-8."""
        if self._empty:
            self._pieces.append(" ")
        source = "".join([*self._pieces, "\r\n"]).encode("utf-8")
        if len(source) > _LIMIT and max(map(len, source.split(b"\r\n"))) > _LIMIT:
            raise InvalidHeaderError(f"{self._name} has an unbroken text of over {_LIMIT} octets.")
        return source

    def text(self, value: str) -> None:
        """Write unstructured text: encoded from the first word in need of it to the last."""
        tokens = _TOKENS.findall(value)
        unsafe = [index for index, token in enumerate(tokens) if _TO_ENCODE.search(token)]
        if not unsafe:
            self.words(value)
            return
        first, end = unsafe[0], unsafe[-1] + 1
        self.words("".join(tokens[:first]))
        self._encoded("".join(tokens[first:end]))
        self.words("".join(tokens[end:]))

    def words(self, value: str) -> None:
        """Write text as it is; its own white space is where it may be folded."""
        for token in _TOKENS.findall(value):
            word = token.lstrip(" \t")
            self.word(word, token[: len(token) - len(word)] or " ")

    def word(self, word: str, gap: str = " ") -> None:
        """Write what may not be broken, after the white space ``gap``."""
        _refuse(self._name, word)
        if self._empty:
            gap = " "  # white space at the start of a value means nothing
        elif self._column + len(gap) + len(word) > _FOLD:
            self._fold()
        self._append(gap + word)

    def address(self, address: Address, comma: str) -> None:
        """Write one mailbox (RFC 5322 section 3.4)."""
        if not address.display_name:
            self.word(address.addr_spec + comma)
            return
        self._phrase(address.display_name)
        self.word(f"<{address.addr_spec}>{comma}")

    def _phrase(self, name: str) -> None:
        if not _is_plain(name):
            self._encoded(name)  # never in quotes, where it would be literal
        else:
            self.words(name if _ATOMS.fullmatch(name) else _quoted(name))

    def _encoded(self, text: str) -> None:
        """Write text as encoded words, whose separating white space readers drop."""
        _refuse(self._name, text)
        gap = text[0] if text[0] in " \t" and not self._empty else ""
        text = text[len(gap) :]
        pack = _shorter_packing(text)
        while text:
            gap = gap or " "
            if self._column + len(gap) + _LEAST_ROOM > _FOLD_ENCODED:
                self._fold()
            room = min(_WORD, _FOLD_ENCODED - self._column - len(gap))
            word, text = pack(text, room - len("=?utf-8?q??="))
            self._append(f"{gap}{word}")
            gap = " "

    def _fold(self) -> None:
        self._pieces.append("\r\n")
        self._column = 0

    def _append(self, text: str) -> None:
        self._pieces.append(text)
        self._column += len(text)
        self._empty = False


def _refuse(field: str, text: str) -> None:
    """Refuse what could end a line and start another header, though `prepare` did so before."""
    if CONTROLS.search(text):
        raise InvalidHeaderError(f"{field} holds a line break or another control character.")


def _is_plain(text: str) -> bool:
    """Tell whether text can stand in quotes as it is."""
    return "\t" not in text and not _TO_ENCODE.search(_quoted(text))


def _quoted(text: str) -> str:
    """Write a quoted-string (RFC 5322 section 3.2.4)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- encoded words (RFC 2047) ----------------------------------------------------------

_Packing: TypeAlias = Callable[[str, int], tuple[str, str]]


def _shorter_packing(text: str) -> _Packing:
    data = text.encode("utf-8")
    q_size = sum(1 if byte in _Q_SAFE or byte == 0x20 else 3 for byte in data)
    return _pack_q if q_size <= (len(data) + 2) // 3 * 4 else _pack_b


def _pack_q(text: str, room: int) -> tuple[str, str]:
    """Encode as many characters as ``room`` holds; return the word and the rest of the text."""
    packed = ""
    for index, char in enumerate(text):
        encoded = "".join(map(_q_byte, char.encode("utf-8")))
        if len(packed) + len(encoded) > room:
            return f"=?utf-8?q?{packed}?=", text[index:]
        packed += encoded
    return f"=?utf-8?q?{packed}?=", ""


def _q_byte(byte: int) -> str:
    if byte == 0x20:
        return "_"
    return chr(byte) if byte in _Q_SAFE else f"={byte:02X}"


def _pack_b(text: str, room: int) -> tuple[str, str]:
    """As `_pack_q`. No character is cut in two (RFC 2047 section 5)."""
    most = room // 4 * 3
    packed = b""
    for index, char in enumerate(text):
        encoded = char.encode("utf-8")
        if len(packed) + len(encoded) > most:
            return _b_word(packed), text[index:]
        packed += encoded
    return _b_word(packed), ""


def _b_word(packed: bytes) -> str:
    return f"=?utf-8?b?{binascii.b2a_base64(packed, newline=False).decode('ascii')}?="


# --- parameters (RFC 2045 section 5.1, RFC 2231) ---------------------------------------

_Parameters: TypeAlias = list[tuple[str, str]]


def _parameter_header(name: str, value: str, parameters: Iterable[tuple[str, str]]) -> bytes:
    """Write a header such as Content-Type, with a fold between parameters where needed."""
    words = [value, *(word for pair in parameters for word in _parameter(*pair))]
    field = _Field(name)
    for word in words[:-1]:
        field.word(f"{word};")
    field.word(words[-1])
    return field.source()


def _parameter(name: str, value: str) -> list[str]:
    """Write one parameter: as one word where it is printable ASCII, else in the way of RFC 2231.

    An encoded word in quotes would be decoded by many readers, so what looks like one is
    not left there.
    """
    _refuse(name, value)
    if name.endswith("*"):
        return [f"{name}={value}"]  # encoded by the caller
    if _is_plain(value):
        return [f"{name}={value if _SIMPLE_VALUE.fullmatch(value) else _quoted(value)}"]
    whole = f"{name}*=utf-8''{_percent(value)}"
    return [whole] if len(whole) < _FOLD - 1 else list(_sections(name, value))


def _sections(name: str, value: str) -> Iterator[str]:
    """Split a long value into continuations (RFC 2231 section 3), between characters."""
    number, section = 0, "utf-8''"
    for char in value:
        encoded = _percent(char)
        if len(name) + len(section) + len(encoded) > _FOLD - 10:
            yield f"{name}*{number}*={section}"
            number, section = number + 1, ""
        section += encoded
    yield f"{name}*{number}*={section}"


def _percent(text: str) -> str:
    return "".join(
        chr(byte) if byte in _2231_SAFE else f"%{byte:02X}" for byte in text.encode("utf-8")
    )


def _filename(filename: str) -> _Parameters:
    """Return the filename and, where it needs RFC 2231, a plain one for readers without it.

    The plain one comes last: readers that take the first of two take the true one.
    """
    if _is_plain(filename):
        return [("filename", filename)]
    return [("filename", filename), ("filename", _plain_filename(filename))]


def _plain_filename(filename: str) -> str:
    """Return a short ASCII likeness: ``Café.pdf`` as ``Cafe.pdf``, other scripts as ``_``."""
    letters = unicodedata.normalize("NFKD", filename)
    bare = "".join(char for char in letters if not unicodedata.combining(char))
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", bare)
    stem, dot, extension = plain.rpartition(".")
    return f"{stem[:40]}{dot}{extension[-16:]}" if stem else plain[:40]


def _media_type(content_type: str) -> tuple[str, _Parameters]:
    """Split a Content-Type into the bare type and its parameters, unquoted."""
    _refuse("A content type", content_type)
    media_type, semicolon, rest = content_type.partition(";")
    parameters = [
        (name, re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value.strip())
        for name, value in _PARAMETER.findall(semicolon + rest)
    ]
    return media_type.strip(), parameters


# --- bodies and attachments ------------------------------------------------------------


class _Base64Lines:
    """Bytes that stand in the source as base64, in lines of 76 characters (RFC 2045 6.8)."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        encoded = (len(self._data) + 2) // 3 * 4
        return encoded + max(encoded - 1, 0) // 76 * 2

    def blocks(self) -> Iterator[bytes]:
        """Yield the lines, a thousand at a time; the line break is before all but the first."""
        data = memoryview(self._data)
        gap = b""
        for start in range(0, len(data), _BLOCK):
            block = binascii.b2a_base64(data[start : start + _BLOCK], newline=False)
            yield gap + b"\r\n".join([block[at : at + 76] for at in range(0, len(block), 76)])
            gap = b"\r\n"


_Piece: TypeAlias = "bytes | _Base64Lines"


def _assembled(pieces: list[_Piece]) -> bytearray:
    """Join the pieces in a buffer of the right size from the start: it is never moved."""
    source = bytearray(sum(map(len, pieces)))
    end = 0
    with memoryview(source) as view:
        for piece in pieces:
            for block in (piece,) if isinstance(piece, bytes) else piece.blocks():
                start, end = end, end + len(block)
                view[start:end] = block
    return source


@dataclass(frozen=True, slots=True)
class _Entity:
    """A MIME entity (RFC 2045 section 2.4): its header, an empty line and its content."""

    pieces: list[_Piece]
    is_8bit: bool = False


def _content(message: PreparedMessage) -> _Entity:
    """Nest the message's parts: mixed(alternative(text, related(html, images)), files)."""
    html = message.html or None
    inlines = [item for item in message.attachments if item.is_inline and html is not None]
    files = [item for item in message.attachments if not (item.is_inline and html is not None)]
    bodies = [_text_entity("text/plain", message.body)] if message.body else []
    if html is not None:
        images = map(_attachment, inlines)
        bodies.append(_related([_text_entity("text/html", html), *images]))
    bodies += map(_alternative, message.alternatives)
    if not bodies and not files:
        bodies = [_text_entity("text/plain", "")]
    parts = [_alternatives(bodies)] if bodies else []
    return _multipart("mixed", [*parts, *map(_attachment, files)]) if files else parts[0]


def _related(parts: list[_Entity]) -> _Entity:
    if len(parts) == 1:
        return parts[0]
    return _multipart("related", parts, ("type", "text/html"))  # RFC 2387 section 3.1


def _alternatives(parts: list[_Entity]) -> _Entity:
    return parts[0] if len(parts) == 1 else _multipart("alternative", parts)


def _multipart(subtype: str, parts: list[_Entity], *parameters: tuple[str, str]) -> _Entity:
    """Join parts by a boundary of 128 random bits, which no text can have foreseen."""
    boundary = f"=_{secrets.token_hex(16)}"
    is_8bit = any(part.is_8bit for part in parts)
    pieces: list[_Piece] = [
        _parameter_header(
            "Content-Type", f"multipart/{subtype}", [*parameters, ("boundary", boundary)]
        ),
        # A part's encoding shows in what contains it (RFC 2045 section 6.4).
        b"Content-Transfer-Encoding: 8bit\r\n" if is_8bit else b"",
    ]
    delimiter = f"\r\n--{boundary}".encode("ascii")
    for part in parts:
        pieces += [delimiter, b"\r\n", *part.pieces]
    pieces += [delimiter, b"--\r\n"]
    return _Entity(pieces, is_8bit)


def _alternative(alternative: Alternative) -> _Entity:
    media_type = _media_type(alternative.content_type)[0].lower()
    if media_type.startswith("text/"):
        return _text_entity(alternative.content_type, alternative.content)
    return _data_entity(alternative.content_type, _utf8(alternative.content))


def _text_entity(content_type: str, text: str) -> _Entity:
    """Write text as UTF-8 with the encoding that is shortest, 7bit where that is possible."""
    media_type, parameters = _media_type(content_type)
    others = [pair for pair in parameters if pair[0].lower() != "charset"]
    data = _utf8(text.replace("\r\n", "\n").replace("\r", "\n"))
    encoding, content = _encoded_text(data)
    return _entity(media_type, [("charset", "utf-8"), *others], encoding, content)


def _encoded_text(data: bytes) -> tuple[str, _Piece]:
    """Choose the transfer encoding of text whose lines end in LF."""
    if data.isascii() and b"\0" not in data and not _LONG_LINE.search(data):
        return "7bit", data.replace(b"\n", b"\r\n")
    quoted = _OVERLONG_QP.sub(rb"\1=\n\2", binascii.b2a_qp(data)).replace(b"\n", b"\r\n")
    base64 = _Base64Lines(data.replace(b"\n", b"\r\n"))
    return ("quoted-printable", quoted) if len(quoted) <= len(base64) else ("base64", base64)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise SerializationError(
            "A body holds a lone surrogate, which UTF-8 cannot carry."
        ) from None


def _attachment(attachment: Attachment) -> _Entity:
    disposition = "inline" if attachment.is_inline else "attachment"
    headers = _parameter_header("Content-Disposition", disposition, _filename(attachment.filename))
    if attachment.content_id is not None:
        headers += _raw_header("Content-ID", f"<{attachment.content_id}>")
    return _data_entity(attachment.content_type, attachment.data, attachment.charset, headers)


def _data_entity(
    content_type: str, data: bytes, charset: str | None = None, headers: bytes = b""
) -> _Entity:
    """Write bytes as base64, or a message as it is (RFC 2046 section 5.2.1 forbids base64)."""
    media_type, parameters = _media_type(content_type)
    encoding = "base64"
    content: _Piece = _Base64Lines(data)
    if _is_composite(media_type):
        lines = _as_lines(data)
        if lines is None:
            # Lines that no mail may have. The bytes must arrive, so they go as a plain file.
            media_type, parameters = "application/octet-stream", []
        else:
            encoding, content = "7bit" if lines.isascii() else "8bit", lines
    if charset and media_type.lower().startswith("text/"):
        parameters = _with_charset(parameters, charset)
    return _entity(media_type, parameters, encoding, content, headers)


def _with_charset(parameters: _Parameters, charset: str) -> _Parameters:
    """Add a charset, unless the content type has told one."""
    if any(name.lower() == "charset" for name, _ in parameters):
        return parameters
    return [("charset", charset), *parameters]


def _entity(
    media_type: str, parameters: _Parameters, encoding: str, content: _Piece, headers: bytes = b""
) -> _Entity:
    head = (
        _parameter_header("Content-Type", media_type, parameters)
        + f"Content-Transfer-Encoding: {encoding}\r\n".encode("ascii")
        + headers
        + b"\r\n"
    )
    return _Entity([head, content], is_8bit=encoding == "8bit")


def _is_composite(media_type: str) -> bool:
    """Tell the types that may not be encoded; message/global may (RFC 6532 section 3.7)."""
    lowered = media_type.lower()
    return lowered.startswith(("multipart/", "message/")) and lowered != "message/global"


def _as_lines(data: bytes) -> bytes | None:
    """Return a message with CRLF line ends, or None where 8bit (RFC 2045 2.8) cannot carry it."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\0" in lines or _LONG_LINE.search(lines):
        return None
    return lines.replace(b"\n", b"\r\n")
