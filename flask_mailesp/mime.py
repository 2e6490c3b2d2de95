"""Mail as it arrives, read within bounds: structure, encodings, charsets, addresses.

Anyone may send us mail, so nothing here may raise, recurse without end or take more than
linear time. The standard library's parser does all three on hostile input, so the structure
is found here by searching the bytes for boundaries: parts are offsets into the source and
are decoded when they are read. What was damaged or cut is said in a `Defects` list.

RFC 5322 (headers), RFC 2045 to 2047 (MIME), RFC 2231 (parameters), RFC 2183 (disposition).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from .address import CONTROLS, Address

MAX_DEPTH = 50  # multiparts inside each other
MAX_PARTS = 1_000
MAX_HEADER_LENGTH = 64 * 1024  # bytes of one header
MAX_HEADERS_LENGTH = 1024 * 1024  # bytes of all headers of a mail, those of its parts included
MAX_HEADER_FIELDS = 10_000
MAX_ADDRESSES = 1_000
MAX_PARAMETERS = 100
MAX_SEARCHED = 256 * 1024 * 1024  # bytes, each counted again for every multipart around it
MAX_LOOKALIKES = 10_000  # lines that begin like a boundary but are none
MAX_UUENCODED_LINES = 500_000

HeaderFields = list[tuple[str, str]]
Role = Literal["text", "html", "inline", "attachment"]


class Defects(list[str]):
    """What was damaged or cut, each said once, in the order it was found."""

    def note(self, text: str) -> None:
        """Add a defect; never with anything of the mail in it."""
        if text not in self:
            self.append(text)


# --- Charsets ---------------------------------------------------------------------------------

# Only these are ever decoded: some codecs Python knows are bombs (punycode), disguises (utf-7)
# or no charsets at all (zip). Codecs are tried in order; the later ones are the supersets
# that mailers really mean. Keys are names without punctuation.
_CODECS: dict[str, tuple[str, ...]] = {
    **{f"iso8859{n}": (f"iso8859-{n}",) for n in (*range(1, 12), 13, 14, 15, 16)},
    **{f"windows{n}": (f"cp{n}",) for n in (874, *range(1250, 1259))},
    **{f"cp{n}": (f"cp{n}",) for n in (437, 850, 852, 855, 858, 862, 866, 874, *range(1250, 1259))},
    **{f"ibm{n}": (f"cp{n}",) for n in (437, 850, 852, 855, 858, 862, 866)},
    **{f"iso2022jp{v}": (f"iso2022_jp_{v}",) for v in ("1", "2", "3", "2004", "ext")},
    "usascii": ("ascii", "utf-8"),
    "ascii": ("ascii", "utf-8"),
    "ansix341968": ("ascii", "utf-8"),
    "utf8": ("utf-8",),
    "utf16": ("utf-16",),
    "utf16le": ("utf-16-le",),
    "utf16be": ("utf-16-be",),
    "latin1": ("iso8859-1",),
    "latin2": ("iso8859-2",),
    "latin9": ("iso8859-15",),
    "iso88598i": ("iso8859-8",),
    "iso88598e": ("iso8859-8",),
    "koi8r": ("koi8-r",),
    "koi8u": ("koi8-u",),
    "koi8t": ("koi8-t",),
    "macintosh": ("mac-roman",),
    "macroman": ("mac-roman",),
    "tis620": ("tis-620",),
    "big5": ("big5", "cp950"),
    "big5hkscs": ("big5hkscs",),
    "gb2312": ("gb2312", "gb18030"),
    "gbk": ("gbk", "gb18030"),
    "gb18030": ("gb18030",),
    "cp936": ("gbk", "gb18030"),
    "shiftjis": ("shift_jis", "cp932"),
    "sjis": ("shift_jis", "cp932"),
    "xsjis": ("shift_jis", "cp932"),
    "cp932": ("cp932",),
    "windows31j": ("cp932",),
    "iso2022jp": ("iso2022_jp", "iso2022_jp_ext"),
    "iso2022kr": ("iso2022_kr",),
    "eucjp": ("euc_jp",),
    "euckr": ("euc_kr", "cp949"),
    "ksc56011987": ("euc_kr", "cp949"),
    "ksc5601": ("euc_kr", "cp949"),
    "cp949": ("cp949",),
    "uhc": ("cp949",),
}
_NOT_IN_CHARSET_KEY = re.compile(r"[^a-z0-9]+")


def decode_text(data: bytes, charset: str | None, defects: Defects) -> str:
    """Decode bytes by a declared charset, whatever it says and whatever they are.

    Undeclared or US-ASCII text with 8-bit bytes is UTF-8 if it can be, else Latin-1. An
    unknown or unsafe charset is read as Latin-1. Bytes the charset lacks become U+FFFD.
    """
    name = (charset or "us-ascii").partition(" ")[0]  # a comment may follow
    codecs = _CODECS.get(_NOT_IN_CHARSET_KEY.sub("", name[:64].lower()))
    if codecs is None:
        defects.note("a charset is unknown or unsafe: read as Latin-1")
        return data.decode("latin-1")
    for codec in codecs:
        try:
            return data.decode(codec)
        except UnicodeDecodeError:
            continue
    if codecs[0] == "ascii":
        defects.note("8-bit text without a charset is not UTF-8: read as Latin-1")
        return data.decode("latin-1")
    defects.note("text has bytes that its charset lacks")
    return data.decode(codecs[-1], "replace")


# --- Transfer encodings -----------------------------------------------------------------------

_NOT_BASE64 = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)
_UU_LINE = re.compile(rb"[^\r\n]+")


def decode_base64(source: bytes | memoryview | str, defects: Defects) -> bytes:
    """Decode what can be decoded; line breaks and other characters are skipped (RFC 2045 6.8).

    Text is taken as it is, since encoding it first would copy it.
    """
    try:
        decoded = binascii.a2b_base64(source)
    except ValueError:  # binascii.Error, and text beyond ASCII
        defects.note("base64 is truncated or invalid")
        return _decode_what_is_base64(source)
    if len(decoded) != _regular_base64(source) and len(decoded) != _irregular_base64(source):
        defects.note("base64 has characters that do not belong there, or goes on after its end")
    return decoded


def _decode_what_is_base64(source: bytes | memoryview | str) -> bytes:
    clean = _ascii(source).translate(None, _NOT_BASE64)
    return binascii.a2b_base64(clean[: len(clean) - (len(clean) % 4 == 1)] + b"===")


def _ascii(source: bytes | memoryview | str) -> bytes:
    return source.encode("ascii", "ignore") if isinstance(source, str) else bytes(source)


def _regular_base64(source: bytes | memoryview | str) -> int:
    """Return how much base64 decodes to if all its lines are as long as the first.

    Nearly all base64 is like that, and counting its line breaks takes a third of the time
    that decoding takes.
    """
    head, tail = _ascii(source[:1000]), _ascii(source[-1000:])
    length = len(source) - len(tail) + len(tail.rstrip(b"=\r\n"))
    line = head.find(b"\n") + 1
    if line:
        length -= length // line * (2 if head[:line].endswith(b"\r\n") else 1)
    return length * 3 // 4


def _irregular_base64(source: bytes | memoryview | str) -> int:
    """Return how much base64 decodes to if nothing but white space and padding is between."""
    text = _ascii(source)
    return (len(text) - sum(map(text.count, (b"\r", b"\n", b"\t", b" ", b"=")))) * 3 // 4


def decode_quoted_printable(source: bytes | memoryview, defects: Defects) -> bytes:
    """Decode quoted-printable; what is no escape stays as it is."""
    return binascii.a2b_qp(source)


def decode_uuencoded(source: bytes | memoryview, defects: Defects) -> bytes:
    """Decode the lines between ``begin`` and ``end``; damaged lines are skipped."""
    decoded: list[bytes] = []
    begun = False
    for count, line in enumerate(_UU_LINE.finditer(bytes(source))):
        if not begun:
            begun = line[0].startswith(b"begin ")
        elif line[0].strip() == b"end":
            return b"".join(decoded)
        else:
            decoded.append(_uu_line(line[0], defects))
        if count >= MAX_UUENCODED_LINES:
            break
    defects.note("uuencoded data has no begin, has no end or is too long")
    return b"".join(decoded)


def _uu_line(line: bytes, defects: Defects) -> bytes:
    try:
        return binascii.a2b_uu(line)
    except binascii.Error:
        defects.note("uuencoded data is damaged")
        return b""


def _identity(source: bytes | memoryview, defects: Defects) -> bytes:
    return bytes(source)


_DECODERS = {
    "base64": decode_base64,
    "quoted-printable": decode_quoted_printable,
    **dict.fromkeys(("x-uuencode", "uuencode", "x-uue", "uue"), decode_uuencoded),
    **dict.fromkeys(("", "7bit", "8bit", "binary"), _identity),
}


@dataclass(frozen=True, eq=False, repr=False)
class Body:
    """Some bytes of a source and how they are encoded, decoded only when asked."""

    source: bytes | str
    encoding: str = ""
    start: int = 0
    end: int | None = None

    def decode(self, defects: Defects) -> bytes:
        """Return the decoded bytes; text sources must be base64."""
        if isinstance(self.source, str):
            return decode_base64(self.source, defects)
        decoder = _DECODERS.get(self.encoding)
        if decoder is None:
            defects.note("a transfer encoding is unknown: read as it is")
            decoder = _identity
        with memoryview(self.source) as whole, whole[self.start : self.end] as view:
            return decoder(view, defects)

    def __reduce__(self) -> tuple[type[Body], tuple[bytes | str, str]]:
        """Pickle these bytes only, not the mail around them."""
        return Body, (self.source[self.start : self.end], self.encoding)


# --- Header values ----------------------------------------------------------------------------

_WORD_HEAD = re.compile(r"=\?([\w.:-]{1,64})(?:\*[\w-]{0,32})?\?([BbQq])\?", re.ASCII)


def one_line(text: str) -> str:
    """Put a space for every line break, control character and lone surrogate."""
    return CONTROLS.sub(" ", text)


def header_text(value: str, defects: Defects) -> str:
    """Return a header value as a person reads it: words decoded, on one line."""
    return one_line(decode_words(limited(value, defects), defects)).strip()


def limited(value: str, defects: Defects) -> str:
    """Cut a header value that is longer than any header may be."""
    if len(value) > MAX_HEADER_LENGTH:
        defects.note("a header is too long: cut")
    return value[:MAX_HEADER_LENGTH]


def limited_fields(fields: Iterable[tuple[str, str]], defects: Defects) -> HeaderFields:
    """Cut headers that someone else has split to what `read_mail` would take."""
    kept: HeaderFields = []
    left = MAX_HEADERS_LENGTH
    for name, value in fields:
        left -= len(name) + len(value)
        if left < 0 or len(kept) >= MAX_HEADER_FIELDS:
            defects.note("there are too many headers: the rest was left out")
            break
        kept.append((name, value))
    return kept


def decode_words(text: str, defects: Defects) -> str:
    """Decode the encoded words of RFC 2047, wherever they stand.

    White space between two words goes away; a character split over two words is put together.
    """
    decoded: list[str] = []
    run: list[bytes] = []
    run_charset, done = "", 0
    for start, end, charset, data in _encoded_words(text):
        gap = text[done:start] if not run or text[done:start].strip() else ""
        if run and (gap or charset != run_charset):
            decoded.append(decode_text(b"".join(run), run_charset, defects))
            run = []
        decoded.append(gap)
        run.append(data)
        run_charset, done = charset, end
    if run:
        decoded.append(decode_text(b"".join(run), run_charset, defects))
    return "".join(decoded) + text[done:]


def _encoded_words(text: str) -> Iterator[tuple[int, int, str, bytes]]:
    """Yield start, end, charset and bytes of each encoded word."""
    start = text.find("=?")
    while start != -1:
        head = _WORD_HEAD.match(text, start)
        end = start
        if head is not None:
            close = text.find("?=", head.end())
            if close == -1:
                return
            end = close
            yield start, end + 2, head[1].lower(), _word_bytes(head[2], text[head.end() : close])
        start = text.find("=?", end + 2)


def _word_bytes(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if encoding in "Bb":
        return decode_base64(data, Defects())
    return binascii.a2b_qp(data, header=True)


_PARAMETER = re.compile(
    r'([^=;\s"]+)\s*=\s*(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^;]*))',
    re.DOTALL,
)
_SECTION = re.compile(r"([^*]+)\*(?:(\d{1,3})(\*)?)?", re.ASCII)
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}(?=[\s;(,]|$)", re.ASCII)


def media_type(value: str) -> str | None:
    """Return the ``type/subtype`` a header value begins with, in lower case, or None."""
    match = _MEDIA_TYPE.match(value.strip())
    return match[0].lower() if match else None


def parameters(value: str, defects: Defects) -> dict[str, str]:
    """Read what follows the first ``;``: names in lower case, the first of a name wins.

    Continuations and charsets (RFC 2231) are put together and win over the plain form, which
    is there for older readers. Encoded words in the plain form, which do not belong there but
    are common, are decoded too.
    """
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[str, bool]]] = {}
    for name, text in _raw_parameters(one_line(value), defects):
        section = _SECTION.fullmatch(name)
        if section is None:
            plain.setdefault(name, text)
            continue
        encoded = section[2] is None or section[3] is not None
        found = sections.setdefault(section[1], {})
        found.setdefault(int(section[2] or 0), (text, encoded))
    joined = {name: one_line(_joined(found, defects)) for name, found in sections.items()}
    return {name: header_text(text, defects) for name, text in plain.items()} | joined


def _raw_parameters(value: str, defects: Defects) -> Iterator[tuple[str, str]]:
    rest = value.partition(";")[2]
    for _ in range(MAX_PARAMETERS):
        rest = rest.lstrip("; \t")
        if not rest:
            return
        match = _PARAMETER.match(rest)
        if match is not None:
            quoted = match[2] is not None
            yield match[1].lower(), _unescaped(match[2]) if quoted else match[3].strip(' \t"')
            rest = rest[match.end() :]
        rest = rest.partition(";")[2]
    defects.note("a header has too many parameters")


def _unescaped(text: str) -> str:
    # Not every backslash: unescaped Windows paths are more common than other escapes.
    return text.replace("\\\\", "\\").replace('\\"', '"')


def _joined(sections: dict[int, tuple[str, bool]], defects: Defects) -> str:
    from urllib.parse import unquote_to_bytes

    first, encoded = sections.get(0, ("", False))
    charset = None
    if encoded and first.count("'") >= 2:
        charset, _, first = first.split("'", 2)
        sections = {**sections, 0: (first, True)}
    data = [
        unquote_to_bytes(text) if encoded else text.encode()
        for _, (text, encoded) in sorted(sections.items())
    ]
    return decode_text(b"".join(data), charset, defects)


def read_date(value: str, defects: Defects) -> datetime | None:
    """Return a Date header as an aware datetime; without a known zone it is UTC."""
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value[:200])
        date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        date.astimezone(timezone.utc)  # within a day of year 1 or 9999 this overflows
    except Exception:  # the parser's errors are not documented
        if value.strip():
            defects.note("the date is unreadable")
        return None
    return date


_BRACKETED = re.compile(r"<([^<>]*)>")


def message_ids(value: str) -> list[str]:
    """Return the message ids of a header, without brackets; at most 1,000."""
    found = _BRACKETED.findall(value) or value.split()
    ids = ("".join(text.strip("<>").split()) for text in found[:1000])
    return [text for text in ids if text]


# --- Addresses --------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<word>=\?[\w.:*-]{1,97}\?[BbQq]\?[^?\s]*\?=)"
    r"|(?P<special>[<>,;:()\"])"
    r"|(?P<text>\[[^\[\]<>\s]{0,200}\]|[^<>,;:()\"\[=]+|[\[=])",
    re.ASCII,
)
_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_PAREN_OR_ESCAPE = re.compile(r"\\.|[()]", re.DOTALL)
_AROUND_DOT_OR_AT = re.compile(r" ?([.@]) ?")
_ADDR_SPEC = re.compile(
    r'(?:"[^"\\]*(?:\\.[^"\\]*)*"|[^\s"(),:;<>@\[\]\\]+)'
    r"@(?:[^\s\"(),:;<>@\[\]\\]+|\[[^\[\]\s<>]+\])"
)
_LONGEST_ADDRESS = 998  # a line of mail


def read_addresses(value: str, defects: Defects) -> list[Address]:
    """Read the mailboxes of an address header, leniently, in linear time.

    Only the first 64 kB are read.

    Groups are flattened; comments, routes and what is no address are left out. The structure
    is read before encoded words are decoded, so that no name can turn into an address.
    """
    reader = _AddressReader(limited(value, defects), defects)
    reader.read()
    return reader.found


class _AddressReader:
    """One pass over an address header; a state machine over its tokens."""

    def __init__(self, value: str, defects: Defects) -> None:
        self.value = value
        self.defects = defects
        self.found: list[Address] = []
        self.position = 0
        self.quotes_close = self.comments_close = True
        self._begin()

    def _begin(self) -> None:
        self.phrase: list[str] = []  # as written
        self.name: list[str] = []  # without quotes
        self.angle: list[str] | None = None  # between < and >
        self.closed = False  # after >

    def read(self) -> None:
        while (token := _TOKEN.match(self.value, self.position)) is not None:
            if len(self.found) >= MAX_ADDRESSES:
                self.defects.note("there are too many addresses: the rest was left out")
                return
            self.position = token.end()
            self._take(token[0], special=token["special"] is not None)
        self._end()

    def _take(self, text: str, *, special: bool) -> None:
        if not special:
            self._add(text, text)
        elif text == '"':
            self._quoted()
        elif text == "(":
            self._comment()
        elif text == "<":
            self._open()
        elif text == ">":
            self._close()
        elif self._inside_angle(text):
            self._add(text, text)
        elif text == ":":
            self._begin()  # the name of a group
        elif text in ",;":
            self._end()

    def _inside_angle(self, text: str) -> bool:
        """Say whether a colon or comma belongs to the address: a route has both."""
        if self.angle is None:
            return False
        return text == ":" or (text == "," and "".join(self.angle[:1]).lstrip().startswith("@"))

    def _add(self, written: str, plain: str) -> None:
        if self.angle is not None:
            self.angle.append(written)
        else:
            self.phrase.append(written)
            self.name.append(plain)

    def _quoted(self) -> None:
        match = _QUOTED.match(self.value, self.position - 1) if self.quotes_close else None
        if match is None:
            self.quotes_close = False  # nor will any later one: never search again
            self.defects.note("an address has an unbalanced quote")
            return
        self._add(match[0], re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL))
        self.position = match.end()

    def _comment(self) -> None:
        end = self._comment_end() if self.comments_close else None
        if end is None:
            self.comments_close = False
            self.defects.note("an address has an unbalanced parenthesis")
            return
        self._add(" ", " ")
        self.position = end

    def _comment_end(self) -> int | None:
        depth = 1
        for match in _PAREN_OR_ESCAPE.finditer(self.value, self.position):
            depth += {"(": 1, ")": -1}.get(match[0], 0)
            if depth == 0:
                return match.end()
        return None

    def _open(self) -> None:
        if self.angle is not None and "".join(self.angle).strip():
            self.defects.note("an address has unbalanced brackets")
        self.angle = []
        self.closed = False

    def _close(self) -> None:
        if self.angle is None:
            self.defects.note("an address has unbalanced brackets")
            return
        self._found("".join(self.angle), "".join(self.name))
        self._begin()
        self.closed = True

    def _end(self) -> None:
        phrase = "".join(self.phrase)
        if self.angle is not None:
            self.defects.note("an address has unbalanced brackets")
            self._found("".join(self.angle), "".join(self.name))
        elif self.closed and phrase.strip():
            self.defects.note("text after an address was left out")
        elif phrase.strip():
            self._bare(phrase)
        self._begin()

    def _bare(self, phrase: str) -> None:
        words = phrase.split()
        addresses = [word for word in words if "@" in word]
        if _addr_spec(phrase) is None and len(addresses) == 1 and _addr_spec(addresses[0]):
            self.defects.note("an address has no brackets around it")
            words.remove(addresses[0])
            self._found(addresses[0], " ".join(words))
        else:
            self._found(phrase, "")

    def _found(self, written: str, name: str) -> None:
        addr_spec = _addr_spec(written)
        if addr_spec is not None:
            name = " ".join(header_text(name, self.defects).split())
            self.found.append(Address(addr_spec, name))
        elif written.strip():
            self.defects.note("what is no address was left out")


def _addr_spec(text: str) -> str | None:
    text = text.strip()
    if text.startswith("@"):  # a route, <@relay.example:user@example.com>, is obsolete
        text = text.rpartition(":")[2].strip()
    if text[:7].lower() == "mailto:":
        text = text[7:]
    if not _ADDR_SPEC.fullmatch(text):
        text = _AROUND_DOT_OR_AT.sub(r"\1", " ".join(text.split()))
    if len(text) > _LONGEST_ADDRESS or CONTROLS.search(text) or not _ADDR_SPEC.fullmatch(text):
        return None
    return text


# --- Structure --------------------------------------------------------------------------------

_BLANK_LINE = re.compile(rb"\n\r?\n|\r\r")
_HEADER_LINE = re.compile(rb"([!-9;-~]+)[ \t]*:")
_AFTER_BOUNDARY = re.compile(rb"(--)?[ \t]*(?:\r\n|\r|\n|\Z)")
_FIRST_TOKEN = re.compile(r"[\w.-]+", re.ASCII)
_BODY_ROLES: dict[str, Role] = {"text/plain": "text", "text/html": "html"}


@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """A leaf of the mail: what its headers say, and where its bytes are."""

    role: Role
    content_type: str
    body: Body
    charset: str | None = None
    filename: str = ""
    content_id: str = ""
    disposition: str = ""
    subject: str = ""  # of a mail within the mail


@dataclass(frozen=True, eq=False, repr=False)
class Mail:
    """A mail's headers, as they were written but unfolded, and its leaves in order."""

    headers: HeaderFields
    parts: list[Part]
    defects: Defects


@dataclass(frozen=True)
class _Place:
    """Where an entity stands: what its parents say about it."""

    depth: int = 0
    default_type: str = "text/plain"
    related: bool = False  # within a multipart/related …
    root: bool = True  # … as the part the others are related to


@dataclass(frozen=True)
class _Entity:
    """The MIME headers of a part, read."""

    content_type: str | None
    type_parameters: dict[str, str]
    disposition: str
    filename: str
    content_id: str
    encoding: str


def read_mail(source: bytes) -> Mail:
    """Find the headers and parts of a mail; nothing is decoded yet."""
    reader = _Reader(source)
    start = 3 if source.startswith(b"\xef\xbb\xbf") else 0
    headers, body = reader.read_headers(start, len(source))
    reader.read_entity(headers, body, len(source), _Place())
    return Mail(headers, reader.parts, reader.defects)


@dataclass
class _Reader:
    """The walk over one mail, and what is left of its limits."""

    source: bytes
    parts: list[Part] = field(default_factory=list)
    defects: Defects = field(default_factory=Defects)
    entities_left: int = MAX_PARTS
    header_bytes_left: int = MAX_HEADERS_LENGTH
    header_fields_left: int = MAX_HEADER_FIELDS
    lookalikes_left: int = MAX_LOOKALIKES
    search_left: int = MAX_SEARCHED

    # Headers

    def read_headers(self, start: int, end: int) -> tuple[HeaderFields, int]:
        """Return the header fields from start on, and where the body begins."""
        first = self.source[start : min(end, start + 2)]
        if first[:1] in (b"\r", b"\n"):
            return [], start + (2 if first == b"\r\n" else 1)
        blank = _BLANK_LINE.search(self.source, start, end)
        stop, body = (blank.start() + 1, blank.end()) if blank else (end, end)
        allowed = min(stop, start + self.header_bytes_left)
        lines = self.source[start:allowed].splitlines(keepends=True)
        if allowed < stop and len(lines) > 1:
            allowed -= len(lines.pop())  # cut somewhere in its middle
        self.header_bytes_left -= allowed - start
        fields, used = self._fields(lines)
        if used < allowed - start:
            return fields, start + used
        if allowed < stop:
            self.defects.note("the headers are too long: the rest was left out")
        return fields, body

    def _fields(self, lines: list[bytes]) -> tuple[HeaderFields, int]:
        """Unfold header lines; return the fields and how many bytes were headers."""
        unfolded: list[tuple[str, list[bytes]]] = []
        used = 0
        for number, line in enumerate(lines):
            match = _HEADER_LINE.match(line)
            if line[:1] in (b" ", b"\t"):
                self._continue(unfolded, line)
            elif match is not None and len(unfolded) >= self.header_fields_left:
                self.defects.note("there are too many headers: the rest was left out")
            elif match is not None:
                unfolded.append((match[1].decode("ascii"), [line[match.end() :]]))
            elif not self._is_skipped(number, line, lines):
                self.defects.note("the headers are not set apart from the body")
                break
            used += len(line)
        self.header_fields_left -= len(unfolded)
        return [(name, self._value(pieces)) for name, pieces in unfolded], used

    def _continue(self, unfolded: list[tuple[str, list[bytes]]], line: bytes) -> None:
        if unfolded:
            unfolded[-1][1].append(line)
        else:
            self.defects.note("the headers begin with a continuation: left out")

    def _is_skipped(self, number: int, line: bytes, lines: list[bytes]) -> bool:
        """Say whether a line that is no header stands among headers, or begins the body."""
        if number == 0 and line.startswith((b"From ", b">From ")):
            return True  # a mailbox file's separator
        following = lines[number + 1] if number + 1 < len(lines) else b""
        if not _HEADER_LINE.match(following):
            return False
        self.defects.note("a line among the headers is no header: left out")
        return True

    def _value(self, pieces: list[bytes]) -> str:
        value = b"".join(piece.rstrip(b"\r\n") for piece in pieces).strip()
        if len(value) > MAX_HEADER_LENGTH:
            self.defects.note("a header is too long: cut")
            value = value[:MAX_HEADER_LENGTH]
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            self.defects.note("a header has 8-bit characters that are not UTF-8: read as Latin-1")
            return value.decode("latin-1")

    # Entities

    def read_entity(self, headers: HeaderFields, start: int, end: int, place: _Place) -> None:
        """Add the leaves of the entity whose body lies from start to end."""
        self.entities_left -= 1
        entity = self._entity(headers)
        content_type = entity.content_type or place.default_type
        if content_type.startswith("multipart/"):
            self.search_left -= end - start
            if place.depth >= MAX_DEPTH or self.search_left < 0:
                self.defects.note("multiparts are nested too deeply: left in one piece")
            elif self._read_multipart(entity, content_type, start, end, place):
                return
            else:
                self.defects.note("a multipart has no parts: read as text")
                content_type = "text/plain"
        self._add_leaf(entity, content_type, start, end, place)

    def _entity(self, headers: HeaderFields) -> _Entity:
        found: dict[str, str] = {}
        for name, value in headers:
            found.setdefault(name.lower(), value)
        given = found.get("content-type", "")
        type_parameters = parameters(given, self.defects)
        disposition = found.get("content-disposition", "")
        disposition_parameters = parameters(disposition, self.defects)
        filename = disposition_parameters.get("filename") or type_parameters.get("name", "")
        content_type = media_type(given)
        if given and content_type is None:
            self.defects.note("a content type is nonsense")
            content_type = "application/octet-stream" if disposition or filename else None
        return _Entity(
            content_type=content_type,
            type_parameters=type_parameters,
            disposition=_first_token(disposition),
            filename=filename,
            content_id=one_line(found.get("content-id", "")).strip("<> \t"),
            encoding=_first_token(found.get("content-transfer-encoding", "")),
        )

    def _read_multipart(
        self, entity: _Entity, content_type: str, start: int, end: int, place: _Place
    ) -> bool:
        """Read the parts; return False if there are none."""
        boundary = entity.type_parameters.get("boundary", "").encode("utf-8")
        regions = self._regions(boundary, start, end) if boundary else []
        default = "message/rfc822" if content_type == "multipart/digest" else "text/plain"
        for number, (part_start, part_end) in enumerate(regions):
            if self.entities_left <= 0:
                self.defects.note("there are too many parts: the rest was left out")
                break
            headers, body = self.read_headers(part_start, part_end)
            related = place.related or content_type == "multipart/related"
            root = place.root and not (content_type == "multipart/related" and number > 0)
            self.read_entity(
                headers, body, part_end, _Place(place.depth + 1, default, related, root)
            )
        return bool(regions)

    def _regions(self, boundary: bytes, start: int, end: int) -> list[tuple[int, int]]:
        """Return where the parts between a multipart's delimiter lines begin and end."""
        regions: list[tuple[int, int]] = []
        begin: int | None = None
        for delimiter_start, delimiter_end, closing in self._delimiters(boundary, start, end):
            if begin is not None:
                regions.append((begin, max(begin, delimiter_start)))
            elif closing:
                self.defects.note("a multipart has no parts: read as text")
                regions.append((start, delimiter_start))
            if closing or len(regions) > self.entities_left:
                return regions
            begin = delimiter_end
        if begin is not None:
            self.defects.note("a multipart has no end")
            regions.append((begin, end))
        return regions

    def _delimiters(self, boundary: bytes, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield where each delimiter begins (its line break included) and ends, and if it closes.

        Only bare carriage returns end the lines of very old mail.
        """
        delimiter = b"--" + boundary
        line_break = b"\n" if self.source.find(b"\n", start, end) != -1 else b"\r"
        at_start = self.source.startswith(delimiter, start, end)
        position = start if at_start else self._next_line(line_break + delimiter, start, end)
        while position is not None:
            following = position
            after = _AFTER_BOUNDARY.match(self.source, position + len(delimiter), end)
            if after is not None:
                yield self._before_break(position, start), after.end(), after[1] is not None
                following = after.end() - 1
            elif self._is_lookalike_too_much():
                return
            position = self._next_line(line_break + delimiter, following, end)

    def _next_line(self, needle: bytes, start: int, end: int) -> int | None:
        found = self.source.find(needle, start, end)
        return None if found == -1 else found + 1

    def _before_break(self, position: int, start: int) -> int:
        """Leave out the line break before a delimiter: it belongs to the delimiter."""
        crlf = self.source[max(position - 2, 0) : position] == b"\r\n"
        return max(start, position - (2 if crlf else 1))

    def _is_lookalike_too_much(self) -> bool:
        self.lookalikes_left -= 1
        if self.lookalikes_left > 0:
            return False
        self.defects.note("too many lines look like a boundary: the rest was not split")
        return True

    def _add_leaf(
        self, entity: _Entity, content_type: str, start: int, end: int, place: _Place
    ) -> None:
        self.parts.append(
            Part(
                role=self._role(entity, content_type, place),
                content_type=content_type,
                body=Body(self.source, entity.encoding, start, end),
                charset=entity.type_parameters.get("charset"),
                filename=entity.filename,
                content_id=entity.content_id,
                disposition=entity.disposition,
                subject=self._subject(entity, content_type, start, end),
            )
        )

    def _role(self, entity: _Entity, content_type: str, place: _Place) -> Role:
        """Say what a leaf is for: text without a name is read, everything else is a file.

        The first part is what the sender wrote, even if it has a name.
        """
        attached = entity.disposition == "attachment"
        beside_root = bool(entity.content_id) and not place.root
        named = bool(entity.filename) and (bool(self.parts) or bool(entity.disposition))
        if content_type in _BODY_ROLES and not (attached or beside_root or named):
            return _BODY_ROLES[content_type]
        shown = place.related or entity.disposition == "inline"
        if entity.content_id and shown and not attached:
            return "inline"
        return "attachment"

    def _subject(self, entity: _Entity, content_type: str, start: int, end: int) -> str:
        encoded = _DECODERS.get(entity.encoding) is not _identity
        if content_type != "message/rfc822" or encoded:
            return ""
        headers, _ = self.read_headers(start, end)
        subjects = [value for name, value in headers if name.lower() == "subject"]
        return header_text(subjects[0], self.defects) if subjects else ""


def _first_token(value: str) -> str:
    match = _FIRST_TOKEN.search(value[:200])
    return match[0].lower() if match else ""
