"""Form bodies as providers post them, from fields that may hold any bytes at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlencode

Fields = Iterable[tuple[str, str | bytes]]


class FormFile(NamedTuple):
    """A file of a multipart form (RFC 7578)."""

    name: str
    filename: str
    content_type: str
    data: bytes


def urlencoded(fields: Fields) -> tuple[str, bytes]:
    """A content type and a body; bytes that are no UTF-8 are kept."""
    pairs = [(name, as_bytes(value)) for name, value in fields]
    return "application/x-www-form-urlencoded", urlencode(pairs).encode("ascii")


def multipart(fields: Fields, files: Iterable[FormFile] = ()) -> tuple[str, bytes]:
    """A content type with its boundary, and a body."""
    boundary = secrets.token_hex(16)
    parts = [
        *(head(name) + as_bytes(value) for name, value in fields),
        *(head(one.name, one) + one.data for one in files),
    ]
    dashes = f"--{boundary}".encode("ascii")
    body = b"".join(dashes + b"\r\n" + part + b"\r\n" for part in parts)
    return f"multipart/form-data; boundary={boundary}", body + dashes + b"--\r\n"


def head(name: str, file: FormFile | None = None) -> bytes:
    """The header lines of a part, and the empty one."""
    lines = f'Content-Disposition: form-data; name="{quoted(name)}"'
    if file is not None:
        lines += f'; filename="{quoted(file.filename)}"\r\nContent-Type: {file.content_type}'
    return f"{lines}\r\n\r\n".encode("utf-8", "replace")


def quoted(text: str) -> str:
    """As browsers write it (https://html.spec.whatwg.org/#multipart-form-data)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
