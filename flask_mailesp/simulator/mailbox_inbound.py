"""Mail that a person writes in the mailbox, or uploads, to arrive at the application."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from werkzeug.datastructures import FileStorage
from werkzeug.wrappers import Request

from . import mime
from .mailbox_content import file_name, plain_type

MAX_EML = 35_000_000
FIRST_HEADER = re.compile(rb"(?:From [^\n]*\r?\n)?[!-9;-~]{1,100}:[ \t\r\n]*[^\r\n]")
BLANK_LINE = re.compile(rb"\r?\n\r?\n")
TELLTALE = re.compile(
    rb"^(from|to|cc|subject|date|received|return-path|message-id):", re.IGNORECASE | re.MULTILINE
)
ADDRESS = re.compile(r"[^\s@<>,]+@[^\s@<>,]+")

NOT_A_MAIL = (
    "This file is not a mail: an .eml begins with header lines such as From, To and Subject. "
    "Nothing was sent."
)


class NotAMail(ValueError):
    """What was given is not a mail that could arrive; the text says why."""


@dataclass(frozen=True)
class Arriving:
    """A mail's source, and the address it arrives at."""

    raw: bytes
    to: str


def read(request: Request) -> Arriving:
    """Return the mail of the form, or of the file if one was chosen.

    Raises NotAMail, with a sentence to show, if there is none in it.
    """
    upload = request.files.get("eml")
    if upload is not None and upload.filename:
        return _uploaded(upload.stream.read(MAX_EML + 1), request.form.get("eml_to", ""))
    if "eml" in request.files or request.form.get("kind") == "eml":
        raise NotAMail("Choose an .eml file first. Nothing was sent.")
    return _written(request)


def is_mail(raw: bytes) -> bool:
    """Tell whether bytes look like a mail: a header block, with a header that mails have."""
    head = BLANK_LINE.split(raw[:65536], maxsplit=1)[0]
    return bool(FIRST_HEADER.match(raw) and TELLTALE.search(head)) and b"\x00" not in head


def _uploaded(raw: bytes, to: str) -> Arriving:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) > MAX_EML:
        raise NotAMail("The file is larger than 35 MB: no provider takes such a mail.")
    if not is_mail(raw):
        raise NotAMail(NOT_A_MAIL)
    return Arriving(raw, _address(to, "To") if to.strip() else _first_recipient(raw))


def _first_recipient(raw: bytes) -> str:
    mail = mime.Mail(raw)
    for header in ("Delivered-To", "X-Original-To", "To", "Cc"):
        for _, address in mail.addresses(header):
            if ADDRESS.fullmatch(address):
                return address
    raise NotAMail("The mail names no recipient: say which address it arrives at.")


def _written(request: Request) -> Arriving:
    form = request.form
    to = _address(form.get("to", ""), "To")
    _address(form.get("from", ""), "From")
    text, html = form.get("text", ""), form.get("html", "")
    if not text.strip() and not html.strip():
        raise NotAMail("Write a text, or HTML, or both.")
    try:
        raw = mime.compose(
            from_=form["from"].strip(),
            to=form["to"].strip(),
            subject=form.get("subject", ""),
            text=text if text.strip() else None,
            html=html if html.strip() else None,
            attachments=_files(request.files.getlist("files")),
        )
    except Exception as error:  # the email package fails in many ways on what people write
        raise NotAMail(f"This cannot be written as a mail: {error}") from None
    return Arriving(raw, to)


def _address(text: str, field: str) -> str:
    """Return the bare address of a field that must hold exactly one."""
    address = mime.bare(text)
    if not ADDRESS.fullmatch(address) or any(ord(character) < 32 for character in text.strip()):
        raise NotAMail(f"{field}: enter one email address, such as ann@example.net.")
    return address


def _files(files: Iterable[FileStorage]) -> list[tuple[str, str, bytes]]:
    return [
        (file_name(one.filename, "file"), plain_type(one.content_type or ""), one.stream.read())
        for one in files
        if one.filename
    ]
