"""Forms as HTTP carries them: read from a webhook's raw bytes, written for a request.

Several ESPs post mail as a form, some of it raw and 8-bit. Web frameworks decode what they
read, refuse large fields and store files on disk; here a form is a list of places in the
body that was authenticated, and every byte of a value is the byte that was sent.

*Reading* is total: for any bytes there is a `Form`, within bounds and in linear time; what
was damaged or left out is said in its ``defects``. *Writing* follows what browsers do.

RFC 7578 and RFC 2046 section 5.1 (multipart), RFC 8187 (``filename*``), and the WHATWG's
``application/x-www-form-urlencoded`` (https://url.spec.whatwg.org/) and form data set
(https://html.spec.whatwg.org/multipage/form-control-infrastructure.html).
"""

from __future__ import annotations

import binascii
import io
import re
import secrets
from collections.abc import Container, Iterable, Iterator
from hashlib import sha256
from itertools import islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlencode

from .decoding import Defects
from .exceptions import InvalidHeaderError, SerializationError
from .patterns import pattern
from .records import field, record

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    from .esp import Body, WebhookRequest

MAX_FIELDS = 10_000
MAX_PARTS = 1_000  # of a multipart body
MAX_PART_HEADERS = 64 * 1024  # bytes of the headers of one part ...
MAX_HEADERS = 1024 * 1024  # ... and of all parts
MAX_BOUNDARY = 200  # characters; RFC 2046 allows 70
MAX_LOOKALIKES = 10_000  # lines that begin like a boundary but are none
MAX_BROKEN_ESCAPES = 100_000  # of a form
_MAX_PARAMETERS = 20  # of one header

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

# Larger data is not copied, neither from the body that was read nor into one that is sent.
_LARGE = 64 * 1024


# --- What was read ---------------------------------------------------------------------


@record(frozen=True)
class FormFile:
    """A file of a form.

    ``name`` is the field's, ``filename`` the sender's word: it may be a path, or empty.
    ``content_type`` is as it was sent, with parameters; empty if it was not. Large ``data``
    is a view of the request's body, so keeping it keeps the body.
    """

    name: str
    filename: str = field(repr=False)
    content_type: str
    data: bytes | memoryview = field(repr=False)


class _Value:
    """Where a field's value is, decoded when it is first asked for."""

    __slots__ = ("_data", "_end", "_escapes", "_source", "_start")

    def __init__(self, source: bytes, start: int, end: int, escapes: _Escapes | None) -> None:
        self._source = source
        self._start = start
        self._end = end
        self._escapes = escapes
        self._data: bytes | None = None

    @property
    def data(self) -> bytes:
        if self._data is None:
            if self._escapes is None:
                self._data = self._source[self._start : self._end]
            else:
                self._data = self._escapes.undo(self._source, self._start, self._end)
        return self._data

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


class Form:
    """A form's fields and files, each in the order they came.

    Values are decoded when they are asked for: looking at a signature costs no more because
    there is a mail beside it. ``defects`` says what was damaged or left out.
    """

    __slots__ = ("_values", "defects", "files")

    def __init__(self) -> None:
        self._values: list[tuple[str, _Value]] = []
        self.files: list[FormFile] = []
        self.defects: Defects = Defects()

    @property
    def fields(self) -> list[tuple[str, bytes]]:
        """All names and values, repeated names included."""
        return [(name, value.data) for name, value in self._values]

    def text(self, name: str) -> str | None:
        """Return the first value of that name as text, None if there is none or it is empty.

        What is not UTF-8 is replaced; for other charsets there is `data`.
        """
        return next((value.text or None for value in self._named(name)), None)

    def data(self, name: str) -> bytes | None:
        """Return the first value of that name as the bytes that were sent, or None."""
        return next((value.data for value in self._named(name)), None)

    def values(self, name: str) -> list[str]:
        """Return all values of that name as text."""
        return [value.text for value in self._named(name)]

    def only(self, name: str) -> str | None:
        """Return the value of a name that has exactly one, else None.

        For what is signed: readers differ in which of several values they take.
        """
        found = self.values(name)
        return found[0] if len(found) == 1 else None

    def file(self, name: str) -> FormFile | None:
        """Return the first file of that name, or None."""
        return next((file for file in self.files if file.name == name), None)

    def digest(self, *, without: Container[str] = (), whole_files: bool = True) -> bytes:
        """Return the SHA-256 of names, values and files as decoded, each with its length.

        Equal for two posts of one form, whose boundaries may differ, and the order of the
        names: only that of the values of one name means something. Leave out, ``without``,
        the fields that differ from post to post. Where ``whole_files`` is False, sizes stand
        for the files: enough to tell mails apart, not to bind a signature to.
        """
        total = sha256()
        for name, value in sorted(self._values, key=itemgetter(0)):
            if name not in without:
                _add(total, b"field", name.encode(), value.data)
        for file in sorted(self.files, key=attrgetter("name")):
            names = (file.name.encode(), file.filename.encode(), file.content_type.encode())
            _add(total, b"file", *names, file.data if whole_files else b"%d" % len(file.data))
        return total.digest()

    def _named(self, name: str) -> Iterator[_Value]:
        return (value for key, value in self._values if key == name)

    def __repr__(self) -> str:
        return f"<Form: {len(self._values)} fields, {len(self.files)} files>"


def _add(total: Hash, *items: bytes | memoryview) -> None:
    for item in items:
        total.update(b"%d:" % len(item))
        total.update(item)


def read_form(request: WebhookRequest) -> Form:
    """Read a webhook's form by its content type. Never raises: see ``defects``.

    In a multipart form, a part whose disposition names a file, even with an empty name, is a
    file. A transfer encoding is not undone: forms have had none since RFC 7578 (section 4.7).

    A request's form is read once, however often it is asked for: to verify it, to parse it.
    """
    kept = vars(request)  # the record is frozen, so what was read of it stays true
    if "_form" not in kept:
        kept["_form"] = _read(request)
    form: Form = kept["_form"]
    return form


def _read(request: WebhookRequest) -> Form:
    form = Form()
    given = request.headers.get("Content-Type") or ""
    if request.content_type == URLENCODED:
        _read_urlencoded(form, request.body)
    elif request.content_type == MULTIPART:
        _Multipart(form, request.body).read(_parameters(given).get("boundary", ""))
    else:
        form.defects.note("the content type is not that of a form")
    return form


# --- application/x-www-form-urlencoded -------------------------------------------------

_CHUNK = 64 * 1024  # bytes unescaped at once, in place of a copy of the whole value
_BROKEN_ESCAPE = pattern(rb"%(?![0-9A-Fa-f]{2})")
_AS_QUOTED_PRINTABLE = bytes.maketrans(b"%+", b"= ")


def _read_urlencoded(form: Form, body: bytes) -> None:
    escapes = _Escapes(form.defects)
    start = 0
    for _ in range(MAX_FIELDS):
        end = body.find(b"&", start)
        end = len(body) if end == -1 else end
        if end > start:
            equals = body.find(b"=", start, end)
            equals = end if equals == -1 else equals
            name = _text(escapes.undo(body, start, equals))
            form._values.append((name, _Value(body, min(equals + 1, end), end, escapes)))
        start = end + 1
        if start > len(body):
            return
    form.defects.note("there are too many fields: the rest was left out")


class _Escapes:
    """Percent-encoding undone, and how much nonsense in it is still put up with.

    The decoder of quoted-printable does it, since but for its ``=`` it is the same, and it
    takes a fifteenth of the time and memory that splitting at each escape takes.
    """

    def __init__(self, defects: Defects) -> None:
        self._defects = defects
        self._broken_left = MAX_BROKEN_ESCAPES

    def undo(self, source: bytes, start: int, end: int) -> bytes:
        """Decode; a percent sign that begins no escape stands for itself."""
        decoded = io.BytesIO()
        while start < end and self._broken_left > 0:
            stop = _before_escape(source, min(start + _CHUNK, end), end)
            decoded.write(self._undone(source[start:stop]))
            start = stop
        if start < end:
            self._defects.note("too many escapes are broken: the rest was left as it is")
            decoded.write(source[start:end])
        return decoded.getvalue()

    def _undone(self, chunk: bytes) -> bytes:
        if b"%" not in chunk:
            return chunk.replace(b"+", b" ")
        chunk, broken = _BROKEN_ESCAPE.subn(b"%25", chunk)
        self._broken_left -= broken
        return binascii.a2b_qp(chunk.replace(b"=", b"%3D").translate(_AS_QUOTED_PRINTABLE))


def _before_escape(source: bytes, stop: int, end: int) -> int:
    """Move a cut to before the escape that it would split."""
    percent = source.rfind(b"%", stop - 2, stop) if stop < end else -1
    return stop if percent == -1 else percent


# --- multipart/form-data ---------------------------------------------------------------

_AFTER_FIRST = pattern(rb"(--)?[ \t]*(\r?\n|\Z)")
_AFTER = {
    b"\r\n": pattern(rb"(--)?[ \t]*(\r\n|\Z)"),
    b"\n": pattern(rb"(--)?[ \t]*(\n|\Z)"),
}
_DISPOSITION = pattern(rb"^content-disposition[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.I | re.M)
_CONTENT_TYPE = pattern(rb"^content-type[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.I | re.M)
# The quote that ends a value is the first before a semicolon or the end: browsers put no
# other quotes in, some clients do, with a backslash or without.
_PARAMETER = pattern(
    r';[ \t]*([^=;\s"]+)[ \t]*=[ \t]*(?:"(.*?)"(?=[ \t]*(?:;|\Z))|([^;]*))', re.DOTALL
)
_EXTENDED = pattern(r"([\w-]{1,40})'[\w-]{0,40}'(.*)", re.ASCII | re.DOTALL)


class _Multipart:
    """The walk over one body, and what is left of its limits."""

    def __init__(self, form: Form, body: bytes) -> None:
        self.form = form
        self.body = body
        self.defects = form.defects
        self.line_break = b"\r\n"
        self.header_bytes_left = MAX_HEADERS
        self.lookalikes_left = MAX_LOOKALIKES

    def read(self, boundary: str) -> None:
        """Read all parts into the form."""
        if not 0 < len(boundary) <= MAX_BOUNDARY or not boundary.isprintable():
            self.defects.note("the boundary is missing or nonsense")
            return
        parts = self._parts(b"--" + boundary.encode("latin-1", "replace"))
        for number, (start, end) in enumerate(parts):
            if number >= MAX_PARTS or self.header_bytes_left <= 0:
                self.defects.note("there are too many parts: the rest was left out")
                return
            self._read_part(start, end)

    def _parts(self, delimiter: bytes) -> Iterator[tuple[int, int]]:
        """Yield where the parts, their headers included, begin and end."""
        place = self._first(delimiter)
        while place is not None:
            begin, closing = place[1:]
            if closing:
                return
            place = self._next(delimiter, begin)
            yield begin, max(begin, place[0]) if place else len(self.body)
        self.defects.note("the form has no end")

    def _first(self, delimiter: bytes) -> tuple[int, int, bool] | None:
        """Find the first delimiter, at the start or after a preamble; learn the line breaks."""
        at = 0 if self.body.startswith(delimiter) else self._line(delimiter, 0)
        while at is not None and self.lookalikes_left > 0:
            after = _AFTER_FIRST.match(self.body, at + len(delimiter))
            if after is not None:
                self.line_break = after[2] or b"\r\n"
                return at, after.end(), after[1] is not None
            self.lookalikes_left -= 1
            at = self._line(delimiter, at)
        return None

    def _line(self, delimiter: bytes, start: int) -> int | None:
        found = self.body.find(b"\n" + delimiter, start)
        return None if found == -1 else found + 1

    def _next(self, delimiter: bytes, start: int) -> tuple[int, int, bool] | None:
        """Find the next delimiter: where its line break begins, where it ends, if it closes.

        The search is linear: a line break, with which it begins, is nowhere else in it.
        """
        needle = self.line_break + delimiter
        # The line break that ended the last delimiter may begin this one.
        at = self.body.find(needle, start - len(self.line_break))
        while at != -1 and self.lookalikes_left > 0:
            after = _AFTER[self.line_break].match(self.body, at + len(needle))
            if after is not None:
                return at, after.end(), after[1] is not None
            self.lookalikes_left -= 1
            at = self.body.find(needle, at + len(needle))
        if at != -1:
            self.defects.note("too many lines look like a boundary: the rest was not split")
        return None

    def _read_part(self, start: int, end: int) -> None:
        """Read a part into the form's fields or files."""
        width = len(self.line_break)
        # The blank line may be the first of the part, or run into the delimiter.
        most = min(end + width, start + min(MAX_PART_HEADERS, self.header_bytes_left))
        blank = self.body.find(self.line_break * 2, start - width, most)
        if blank == -1:
            self.header_bytes_left -= min(MAX_PART_HEADERS, end - start)
            self.defects.note("a part has no end of its headers, or too long ones: left out")
            return
        headers = self.body[start : max(start, blank)]
        self.header_bytes_left -= len(headers)
        self._add(headers, min(blank + 2 * width, end), end)

    def _add(self, headers: bytes, start: int, end: int) -> None:
        given = _parameters(_header(_DISPOSITION, headers))
        name = given.get("name")
        if name is None:
            self.defects.note("a part has no name")
        if "filename" in given or "filename*" in given:
            content_type = _header(_CONTENT_TYPE, headers)
            data = _data(self.body, start, end)
            self.form.files.append(FormFile(name or "", _filename(given), content_type, data))
        else:
            self.form._values.append((name or "", _Value(self.body, start, end, None)))


def _data(body: bytes, start: int, end: int) -> bytes | memoryview:
    return body[start:end] if end - start < _LARGE else memoryview(body)[start:end]


def _text(data: bytes) -> str:
    """Decode a name: UTF-8 or, where it is not, Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _header(header: re.Pattern[bytes], headers: bytes) -> str:
    """Return the first header of a name, unfolded, or an empty text."""
    found = header.search(headers)
    if found is None:
        return ""
    return _text(found[1].replace(b"\r", b"").replace(b"\n", b"")).strip(" \t")


def _parameters(value: str) -> dict[str, str]:
    """Read a header's parameters, names in lower case; the first of a name wins."""
    found: dict[str, str] = {}
    for match in islice(_PARAMETER.finditer(value), _MAX_PARAMETERS):
        name, quoted, token = match.groups()
        found.setdefault(name.lower(), token.strip(' \t"') if quoted is None else _unquoted(quoted))
    return found


def _unquoted(text: str) -> str:
    """Undo what browsers (``%22``) and other clients (a backslash) do to a quote."""
    text = text.replace('\\"', '"')
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _filename(given: dict[str, str]) -> str:
    """Return the file's name; the form with a charset, made for other than ASCII, wins."""
    match = _EXTENDED.fullmatch(given.get("filename*", ""))
    if match is None:
        return given.get("filename", given.get("filename*", ""))
    data = unquote_to_bytes(match[2])
    return data.decode("latin-1") if match[1].lower() == "iso-8859-1" else _text(data)


# --- Writing ---------------------------------------------------------------------------


@record(frozen=True)
class FilePart:
    """A file to send in a form. ``content_type`` may have parameters."""

    name: str
    filename: str = field(repr=False)
    content_type: str
    data: bytes = field(repr=False)


class _Pieces:
    """A body in pieces, large ones being the very bytes that were given."""

    __slots__ = ("_length", "_pieces")

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._length = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


def form_body(fields: Iterable[tuple[str, str]]) -> tuple[str, bytes]:
    """Return the content type and body of a urlencoded form, its fields in order.

    Raises SerializationError for a lone surrogate, which UTF-8 cannot carry.
    """
    try:
        return URLENCODED, urlencode(list(fields)).encode("ascii")
    except UnicodeEncodeError:
        raise _lone_surrogate() from None


def multipart_body(
    fields: Iterable[tuple[str, str]], files: Iterable[FilePart] = ()
) -> tuple[str, Body]:
    """Return the content type and body of a multipart form: the fields, then the files.

    Names are raw UTF-8; values are sent as they are. Large data is not copied.

    Raises SerializationError for a lone surrogate, InvalidHeaderError for a control
    character in a content type.
    """
    # 128 random bits, drawn when all content is there already: that nobody could put them
    # into it is surer than a search of the content would be, and costs nothing.
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    try:
        for name, value in fields:
            pieces.append(f"--{boundary}\r\n{_field_header(name)}\r\n\r\n{value}\r\n".encode())
        for file in files:
            pieces += [f"--{boundary}\r\n{_file_header(file)}\r\n\r\n".encode(), file.data, b"\r\n"]
    except UnicodeEncodeError:
        raise _lone_surrogate() from None
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"{MULTIPART}; boundary={boundary}", _Pieces(_melted(pieces))


def _field_header(name: str) -> str:
    return f'Content-Disposition: form-data; name="{_quoted(name)}"'


def _file_header(file: FilePart) -> str:
    if not file.content_type.isprintable():
        raise InvalidHeaderError("An attachment's content type has a control character.")
    return (
        f'{_field_header(file.name)}; filename="{_quoted(file.filename)}"\r\n'
        f"Content-Type: {file.content_type or 'application/octet-stream'}"
    )


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _melted(pieces: list[bytes]) -> list[bytes]:
    """Join small neighbours, so that each piece is worth a system call."""
    melted: list[bytes] = []
    run: list[bytes] = []
    for piece in pieces:
        if len(piece) < _LARGE:
            run.append(piece)
        else:
            melted += [b"".join(run), piece]
            run = []
    return [*melted, b"".join(run)]


def _lone_surrogate() -> SerializationError:
    return SerializationError(
        "The message cannot be sent as a form: a text holds a lone surrogate, "
        "which UTF-8 cannot carry."
    )
