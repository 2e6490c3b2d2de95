"""Mail that Resend has received: how it is told, looked up and downloaded.

Sources: https://resend.com/docs/webhooks/emails/received and
https://resend.com/docs/api-reference/emails/retrieve-received-email.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from werkzeug.wrappers import Request, Response

from .codec import make
from .mime import Mail
from .records import Inbound
from .resend_webhooks import RECEIVED
from .resend_wire import ESP, ApiError, listed, stamp
from .store import Store

OWNER = "received"  # owns the mails that came in
EXPIRES = timedelta(hours=1)


@dataclass(frozen=True)
class Received:
    """One mail that came in. Without ``with_source``, Resend does not give its source."""

    id: str
    at: datetime
    to: str
    raw: bytes
    with_source: bool


class Mails:
    """The mails that came in. ``salt`` makes the signatures of their download URLs."""

    def __init__(self, store: Store, salt: str) -> None:
        self._store = store
        self._salt = salt

    def add(self, mail: Inbound, with_source: bool) -> Received:
        now = datetime.now(timezone.utc)
        one = Received(str(uuid.uuid4()), now, mail.to, mail.raw, with_source)
        self._store.put(ESP, "received", one.id, one, OWNER)
        return one

    def find(self, number: str) -> Received:
        found = self._store.get(ESP, "received", number)
        if found is None:
            raise ApiError(404, "not_found", "Email not found")
        return make(Received, found)

    def all(self) -> dict[str, Any]:
        mails = [make(Received, value) for _, value in self._store.items(ESP, "received")]
        return listed([summary(mail) for mail in reversed(mails)])

    # -- answers --------------------------------------------------------------------------

    def whole(self, number: str, base: str, html_format: str) -> dict[str, Any]:
        """What ``GET /emails/receiving/{id}`` answers."""
        one = self.find(number)
        mail = Mail(one.raw)
        html = mail.html if html_format == "cid" else with_images(mail)
        raw = self._link(one, "raw", base) if one.with_source else None
        return {
            "object": "email",
            **summary(one),
            "headers": headers_of(mail),
            "html": html,
            "html_format": html_format,
            "text": mail.text,
            "raw": raw,
        }

    def files(self, number: str, base: str) -> list[dict[str, Any]]:
        """The attachments, with where they can be downloaded."""
        one = self.find(number)
        return [{**file, **self._link(one, file["id"], base)} for file in files_of(one)]

    def file(self, number: str, file: str, base: str) -> dict[str, Any]:
        for found in self.files(number, base):
            if found["id"] == file:
                return {"object": "attachment", **found}
        raise ApiError(404, "not_found", "Attachment not found")

    def _link(self, one: Received, part: str, base: str) -> dict[str, Any]:
        url = f"{base}/received/{one.id}/{part}?signature={self._proof(one.id, part)}"
        expires = datetime.now(timezone.utc) + EXPIRES
        return {"download_url": url, "expires_at": stamp(expires)}

    def _proof(self, number: str, part: str) -> str:
        return hashlib.sha256(f"{self._salt} {number} {part}".encode()).hexdigest()[:32]

    def download(self, request: Request, number: str, part: str) -> Response:
        """What a signed URL leads to. It wants no other credentials, and refuses them."""
        if "Authorization" in request.headers:
            return Response("Only one auth mechanism is allowed.", 400)
        if request.args.get("signature") != self._proof(number, part):
            return Response("Access denied.", 403)
        one = self.find(number)
        if part == "raw":
            return Response(one.raw, mimetype="message/rfc822")
        for file, known in zip(Mail(one.raw).attachments, files_of(one), strict=True):
            if known["id"] == part:
                return Response(file.data, mimetype=file.content_type)
        return Response("No such file.", 404)


def summary(one: Received) -> dict[str, Any]:
    """What a list and a webhook tell of a mail."""
    mail = Mail(one.raw)
    return {
        "id": one.id,
        "from": mail.first("From") or "",
        "to": people(mail, "To"),
        "cc": people(mail, "Cc"),
        "bcc": people(mail, "Bcc"),
        "reply_to": people(mail, "Reply-To"),
        "received_for": [one.to],
        "subject": mail.first("Subject") or "",
        "message_id": mail.first("Message-ID") or "",
        "created_at": stamp(one.at),
        "attachments": files_of(one),
    }


def told(one: Received) -> dict[str, Any]:
    """The webhook, which brings no content and no sizes."""
    data = summary(one)
    data["email_id"] = data.pop("id")
    data["attachments"] = [
        {name: value for name, value in file.items() if name != "size"}
        for file in data["attachments"]
    ]
    return {"type": RECEIVED, "created_at": stamp(), "data": data}


def people(mail: Mail, name: str) -> list[str]:
    return [
        f"{display} <{address}>" if display else address
        for display, address in mail.addresses(name)
    ]


def files_of(one: Received) -> list[dict[str, Any]]:
    return [
        {
            "id": str(uuid.uuid5(uuid.UUID(one.id), str(index))),
            "filename": file.name or None,
            "content_type": file.content_type,
            "content_disposition": "inline" if file.content_id else "attachment",
            "content_id": file.content_id,
            "size": len(file.data),
        }
        for index, file in enumerate(Mail(one.raw).attachments)
    ]


def headers_of(mail: Mail) -> dict[str, str | list[str]]:
    """An object by names in lower case; a name that repeats has an array."""
    found: dict[str, list[str]] = {}
    for name, value in mail.headers():
        found.setdefault(name.lower(), []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def with_images(mail: Mail) -> str | None:
    """The HTML with its images inside, as it is given by default."""
    html = mail.html
    for file in mail.attachments if html else ():
        if file.content_id:
            data = base64.b64encode(file.data).decode("ascii")
            html = (html or "").replace(
                f"cid:{file.content_id}", f"data:{file.content_type};base64,{data}"
            )
    return html
