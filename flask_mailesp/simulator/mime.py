"""Composing mail for tests and reading mail defensively: RFC 5322 in, RFC 5322 out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import SMTP, default
from email.utils import format_datetime, getaddresses, make_msgid
from typing import Any

from .records import Attached

QUOTE = re.compile(r"^(>|On\b.{0,200}\bwrote:\s*$)", re.MULTILINE | re.DOTALL)


def compose(
    *,
    from_: str,
    to: str | Sequence[str],
    subject: str | None,
    text: str | None,
    html: str | None = None,
    attachments: Sequence[tuple[str, str, bytes]] = (),
    inline: Sequence[tuple[str, str, str, bytes]] = (),
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Write a mail with CRLF line ends, a Date and a Message-ID.

    ``attachments`` are (name, type, bytes), ``inline`` images (content id, name, type, bytes).
    """
    mail = EmailMessage(policy=SMTP)
    mail["From"] = from_
    mail["To"] = to if isinstance(to, str) else ", ".join(to)
    if subject is not None:
        mail["Subject"] = subject
    for name, value in (headers or {}).items():
        mail[name] = value
    if "Date" not in mail:
        mail["Date"] = format_datetime(datetime.now(timezone.utc))
    if "Message-ID" not in mail:
        mail["Message-ID"] = make_msgid(domain="mail.example.com")
    _set_bodies(mail, text, html, inline)
    for filename, content_type, data in attachments:
        maintype, _, subtype = content_type.partition("/")
        mail.add_attachment(data, maintype, subtype, filename=filename)
    return mail.as_bytes()


def _set_bodies(
    mail: EmailMessage,
    text: str | None,
    html: str | None,
    inline: Sequence[tuple[str, str, str, bytes]],
) -> None:
    if text is not None or html is None:
        mail.set_content(text or "")
    if html is None:
        return
    if text is None:
        mail.set_content(html, subtype="html")
    else:
        mail.add_alternative(html, subtype="html")
    related = mail.get_body(("html",)) or mail
    for cid, name, content_type, data in inline:
        maintype, _, subtype = content_type.partition("/")
        related.add_related(
            data, maintype, subtype, filename=name, disposition="inline", cid=f"<{cid}>"
        )


def as_bytes(mail: bytes | EmailMessage) -> bytes:
    return mail if isinstance(mail, bytes) else mail.as_bytes(policy=SMTP)


class Mail:
    """A received mail. No accessor raises, whatever the sender wrote."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._mail: Message = BytesParser(policy=default).parsebytes(raw)
        self.text: str | None = None
        self.html: str | None = None
        self.attachments: list[Attached] = []
        for part in _leaves(self._mail):
            self._take(part)

    def _take(self, part: Message) -> None:
        body = part.get_content_disposition() is None and part.get_filename() is None
        plain = (
            part.get_content_type() == "text/plain" or part.get_content_maintype() == "multipart"
        )
        if body and plain and self.text is None:
            self.text = _text(part)
        elif body and part.get_content_type() == "text/html" and self.html is None:
            self.html = _text(part)
        else:
            self.attachments.append(_attached(part))

    def headers(self) -> list[tuple[str, str]]:
        """All headers in order, decoded and unfolded."""
        return [(name, _decoded(name, value)) for name, value in self._mail.raw_items()]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers() if key.lower() == name.lower()]

    def first(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def last(self, name: str) -> str | None:
        return next(reversed(self.all(name)), None)

    def addresses(self, name: str) -> list[tuple[str, str]]:
        """(display name, address) of every address in all headers of that name."""
        values = [value for key, value in self._mail.raw_items() if key.lower() == name.lower()]
        return [pair for value in values for pair in _addresses(name, value)]

    @property
    def message_id(self) -> str | None:
        """The Message-ID without its brackets."""
        value = self.first("Message-ID")
        return value.strip().strip("<>") if value else None


def _leaves(mail: Message) -> Iterator[Message]:
    """The parts that hold something; an attached mail is one of them, not a branch."""
    if not mail.is_multipart() or mail.get_content_maintype() == "message":
        yield mail
        return
    for part in mail.get_payload():
        if isinstance(part, Message):
            yield from _leaves(part)


def _decoded(name: str, value: Any) -> str:
    with suppress(Exception):  # the header parser fails in many ways on hostile input
        return " ".join(str(default.header_fetch_parse(name, value)).splitlines())
    return " ".join(str(value).splitlines())


def _addresses(name: str, value: Any) -> list[tuple[str, str]]:
    with suppress(Exception):
        parsed = default.header_fetch_parse(name, value).addresses
        return [(one.display_name, one.addr_spec) for one in parsed if one.username]
    return [pair for pair in getaddresses([str(value)]) if pair[1]]


def _text(part: Message) -> str:
    data = _data(part)
    charset = part.get_content_charset("utf-8")
    with suppress(LookupError, UnicodeError):
        return data.decode(charset)
    return data.decode("utf-8", "replace")


def _attached(part: Message) -> Attached:
    cid = part.get("Content-ID")
    name = part.get_filename() or ("mail.eml" if part.is_multipart() else "")
    return Attached(
        name, part.get_content_type(), _data(part), str(cid).strip().strip("<>") if cid else None
    )


def _data(part: Message) -> bytes:
    if part.is_multipart():
        inner = part.get_payload()
        return b"".join(one.as_bytes() for one in inner if isinstance(one, Message))
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def first_link(html: str | None, text: str | None) -> str:
    """What a reader clicks on."""
    link = re.search(r"https?://[^\s\"'<>]+", f"{html or ''} {text or ''}")
    return link[0] if link else "https://example.com/"


def split_reply(text: str | None) -> tuple[str, str]:
    """The new text of a reply and what it quotes, by the English ways of quoting."""
    plain = (text or "").replace("\r\n", "\n")
    quote = QUOTE.search(plain)
    if quote is None:
        return plain, ""
    return plain[: quote.start()].strip(), plain[quote.start() :].strip()


def bare(address: str) -> str:
    """``addr`` of ``addr`` or ``Name <addr>``, as it is written."""
    _, bracket, rest = address.rpartition("<")
    return rest.partition(">")[0].strip() if bracket else address.strip()
