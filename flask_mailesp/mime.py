"""The structure of mail as it arrives, read within bounds.

Anyone may send us mail, so nothing here may raise, recurse without end or take more than
linear time. The standard library's parser does all three on hostile input, so the structure
is found here by searching the bytes for boundaries: parts are offsets into the source and
are decoded when they are read. What was damaged or cut is said in a `Defects` list.

RFC 2045 and 2046 (MIME), RFC 2183 (disposition).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from .decoding import Body, Defects, is_unencoded
from .headers import (
    MAX_HEADER_FIELDS,
    MAX_HEADER_LENGTH,
    MAX_HEADERS_LENGTH,
    HeaderFields,
    header_text,
    media_type,
    one_line,
    parameters,
)

MAX_DEPTH = 50  # multiparts inside each other
MAX_PARTS = 1_000
MAX_SEARCHED = 256 * 1024 * 1024  # bytes, each counted again for every multipart around it
MAX_LOOKALIKES = 10_000  # lines that begin like a boundary but are none

Role = Literal["text", "html", "inline", "attachment"]

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
        encoded = not is_unencoded(entity.encoding)
        if content_type != "message/rfc822" or encoded:
            return ""
        headers, _ = self.read_headers(start, end)
        subjects = [value for name, value in headers if name.lower() == "subject"]
        return header_text(subjects[0], self.defects) if subjects else ""


def _first_token(value: str) -> str:
    match = _FIRST_TOKEN.search(value[:200])
    return match[0].lower() if match else ""
