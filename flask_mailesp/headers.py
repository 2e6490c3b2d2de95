"""Headers of mail as it arrives: words, parameters, dates, message ids, addresses.

Everything is read leniently, in linear time and within limits; the standard library's
readers raise, recurse or take quadratic time on hostile headers.

RFC 5322 (headers), RFC 2047 (encoded words), RFC 2231 (parameters).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from .address import CONTROLS, Address
from .decoding import Defects, decode_base64, decode_text

MAX_HEADER_LENGTH = 64 * 1024  # bytes of one header
MAX_HEADERS_LENGTH = 1024 * 1024  # bytes of all headers of a mail, those of its parts included
MAX_HEADER_FIELDS = 10_000
MAX_ADDRESSES = 1_000
MAX_PARAMETERS = 100

HeaderFields = list[tuple[str, str]]


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
