"""Postal's side: its legacy API (v1), its signed webhooks and its HTTP endpoints for mail.

Sources: https://docs.postalserver.io/developer/api, /developer/webhooks and
/developer/http-payloads, and how Postal 3.3 answers. It answers HTTP 200 to everything it
understands; what it does not expect crashes it (500), sometimes after a part was queued.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import string
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import takewhile
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from werkzeug.wrappers import Request, Response

from . import mime
from .codec import make
from .mime import Mail, bare
from .records import (
    Attached,
    Hook,
    Inbound,
    Post,
    Schedule,
    SentMessage,
    Verdict,
)
from .side import Context, Planned, Side
from .signing import Signer, new_key

ESP = "postal"
KEY = "PostalSimulatorKey000001"
VERSION = "3.3.6"
RETURN_PATH = "rp.postal.example.org"
FIRST_ID = 90001
MAX_EACH = 50
MAX_COLUMN = 255
METHODS = ("GET", "POST", "PUT", "PATCH")
OVERWRITTEN = frozenset({"message-id", "from", "sender", "to", "cc", "subject", "reply-to"})
ALPHANUMERIC = string.ascii_letters + string.digits
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SERVER = {
    "uuid": "6f0d9a1c-5b7e-4a3d-9c21-0e8f7a6b5c4d",
    "name": "Simulator",
    "permalink": "simulator",
    "organization": "example",
}


class Refused(Exception):
    """An API-level error: HTTP 200 and what is wrong under `data`."""

    def __init__(self, code: str, message: str | None = None, **more: Any) -> None:
        super().__init__(code)
        text = {} if message is None else {"message": message}
        self.status = "error"
        self.data = {**text, **more, "code": code}


class ParameterMissing(Refused):
    """A required parameter is not there, or is not of its type."""

    def __init__(self, name: str) -> None:
        super().__init__("")
        self.status = "parameter-error"
        self.data = {"message": f"`{name}` parameter is required but is missing"}


class BadRequest(Exception):
    """Malformed JSON: HTTP 400 with an empty page, before anything is looked at."""


class Crash(Exception):
    """What makes a real Postal raise: HTTP 500 with a page."""


@dataclass(frozen=True)
class Row:
    """One message of Postal's database: one recipient of one mail, sent or received.

    ``source`` is the RFC 5322 text where it was given, ``sent`` the id of the `SentMessage`.
    """

    id: int
    token: str
    direction: str
    message_id: str | None
    to: str
    from_: str | None
    subject: str | None
    timestamp: float
    tag: str | None = None
    spam_status: str = "NotChecked"
    bounce: bool = False
    source: bytes | None = None
    sent: str | None = None

    def as_object(self) -> dict[str, Any]:
        """The message object inside webhook payloads."""
        return {
            "id": self.id,
            "token": self.token,
            "direction": self.direction,
            "message_id": self.message_id,
            "to": self.to,
            "from": self.from_,
            "subject": cut(self.subject, 200),
            "timestamp": self.timestamp,
            "spam_status": self.spam_status,
            "tag": self.tag,
        }


class Outcome(NamedTuple):
    """A delivery attempt, as a status payload tells it."""

    event: str
    status: str
    details: str
    output: str = ""
    ssl: bool | None = None
    seconds: float | None = None


OUTCOMES = {
    "delivered": Outcome(
        "MessageSent",
        "Sent",
        "Message for {to} accepted by 203.0.113.9:25 (mx.{domain})",
        "250 2.0.0 Ok: queued as 4XsImul8",
        True,
        0.21,
    ),
    "deferred": Outcome(
        "MessageDelayed",
        "SoftFail",
        "Temporary SMTP delivery error when sending to 203.0.113.9:25 (mx.{domain})",
        "451 4.7.1 Try again later",
        True,
        0.34,
    ),
    "failed": Outcome(
        "MessageDeliveryFailed",
        "HardFail",
        "Maximum number of delivery attempts (18) has been reached.",
    ),
    "rejected": Outcome(
        "MessageHeld",
        "Held",
        "Recipient ({to}) is on the suppression list (reason: too many hard fails)",
    ),
    "queued": Outcome("MessageHeld", "Held", "Server is in development mode."),
    "MessageDeliveryFailed": Outcome(
        "MessageDeliveryFailed",
        "HardFail",
        "Permanent SMTP delivery error when sending to 203.0.113.9:25 (mx.{domain})",
        "550 5.1.1 No such user",
        True,
        0.18,
    ),
}
EVENTS = ("delivered", "deferred", "bounced", "failed", "rejected", "queued", "opened", "clicked")
WIRE_NAMES = {
    "MessageSent": "delivered",
    "MessageDelayed": "deferred",
    "MessageHeld": "queued",
    "MessageBounced": "bounced",
    "MessageLoaded": "opened",
    "MessageLinkClicked": "clicked",
}
INCOMING = "incoming"  # owns the rows of mail that came in
SIGNATURES = ("X-Postal-Signature", "X-Postal-Signature-256")
SERVER_EVENTS = ("DomainDNSError", "SendLimitApproaching", "SendLimitExceeded")


def judge_webhook(status: int | None) -> Verdict:
    """Any 2xx is success; no other status stops the retries."""
    return "done" if status is not None and 200 <= status < 300 else "retry"


def judge_inbound(status: int | None) -> Verdict:
    """A 5xx, or no answer, is a soft fail; anything else but a 2xx a hard one."""
    if status is None or status >= 500:
        return "retry"
    return "done" if 200 <= status < 300 else "dropped"


WEBHOOK_SCHEDULE = Schedule(tuple(60.0 * m for m in (2, 3, 6, 10, 15)), judge_webhook)
INBOUND_SCHEDULE = Schedule(tuple(round(300 * 1.3**n, 3) for n in range(17)), judge_inbound)


@dataclass(frozen=True)
class PostalHook(Hook):
    """What a webhook and an HTTP endpoint are set to in Postal's own web interface.

    ``inbound_format`` is the raw message or the processed one (``hash``), ``inbound_encoding``
    the body's. ``incoming_events`` also reports an inbound mail to the tracking hook, as a
    real Postal does. ``signatures`` are those of the installation: without ``sha256`` it is
    one before Postal 3.2.
    """

    inbound_format: Literal["raw", "hash"] = "raw"
    inbound_encoding: Literal["json", "form"] = "json"
    strip_replies: bool = False
    include_attachments: bool = True
    incoming_events: bool = False
    signatures: tuple[str, ...] = ("sha1", "sha256")

    def __post_init__(self) -> None:
        for name, choices in HOOK_CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")


HOOK_CHOICES = {"inbound_format": ("raw", "hash"), "inbound_encoding": ("json", "form")}


class Postal(Side):
    """One mail server of a Postal installation, its API keys and verified domains.

    ``keys`` are the accepted credentials. ``private_key`` (PEM, RSA) is the key that the
    installation signs with; without one, a 2048-bit key is made when it is first needed.
    """

    key = ESP
    hook = PostalHook
    signs = True
    ids = "it has numbers"
    own_headers = frozenset({"x-postal-tag"})

    def __init__(
        self, context: Context, keys: Iterable[str] = (KEY,), private_key: str | None = None
    ) -> None:
        super().__init__(context)
        self._keys = tuple(keys)
        self._signer = Signer(private_key or self._new_key)
        self._routes: dict[str, Callable[[dict[str, Any], str], Any]] = {
            "/api/v1/send/message": self._send_message,
            "/api/v1/send/raw": self._send_raw,
            "/api/v1/messages/message": self._message,
            "/api/v1/messages/deliveries": self._deliveries,
        }

    def _new_key(self) -> str:
        return self.keep("signing key", new_key)

    @property
    def signer(self) -> Signer:
        """The installation's key."""
        return self._signer

    def settings(self, url: str) -> dict[str, Any]:
        _, _, key = self._signer.dkim_record.partition("p=")
        return {"API_URL": url, "API_KEY": self._keys[0], "WEBHOOK_KEY": key.rstrip(";")}

    def credentials(self) -> dict[str, str]:
        return {"X-Server-API-Key": self._keys[0]}

    # -- answering ------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        if path == "/.well-known/jwks.json" and request.method == "GET":
            return self._key_set()
        if path not in self._routes or request.method not in METHODS:
            return self._page(path, 404, "<h1>Not Found</h1>")
        started = time.perf_counter()
        try:
            params = read_params(request)
            self._authenticate(request)
            data = self._routes[path](params, path)
        except BadRequest:
            return self._page(path, 400, "")
        except Crash:
            return self._page(path, 500, "<h1>We're sorry, but something went wrong.</h1>")
        except Refused as error:
            body = envelope(error.status, error.data, started)
            self.refuse(path, 200, body)
            return json_answer(body)
        return json_answer(envelope("success", data, started))

    def _page(self, path: str, status: int, html: str) -> Response:
        self.refuse(path, status, html)
        return Response(html, status, mimetype="text/html")

    def _key_set(self) -> Response:
        response = json_answer(self._signer.jwks)
        response.headers["Cache-Control"] = "max-age=0, private, must-revalidate"
        response.add_etag()
        return response

    def _authenticate(self, request: Request) -> None:
        key = request.headers.get("X-Server-API-Key", "")
        if not key:
            raise Refused("AccessDenied", "Must be authenticated as a server.")
        if key not in self._keys:
            text = "The API token provided in X-Server-API-Key was not valid."
            raise Refused("InvalidServerAPIKey", text, token=key)

    # -- sending --------------------------------------------------------------------------

    def _send_message(self, params: dict[str, Any], path: str) -> dict[str, Any]:
        to, cc, bcc = (address_list(params.get(name)) for name in ("to", "cc", "bcc"))
        check_recipients(to, cc, bcc)
        check_content(params)
        self._check_from(params)
        check_attachments(params)
        sender = bare(params["from"])
        draft = SentMessage(
            esp=ESP,
            id="",
            message_id=f"{uuid.uuid4()}@{RETURN_PATH}",
            path=path,
            at=datetime.now(timezone.utc),
            payload=params,
            from_=params["from"],
            to=to,
            cc=cc,
            bcc=bcc,
            reply_to=strings(params.get("reply_to")),
            subject=text_or_none(params.get("subject")),
            text=text_or_none(params.get("plain_body")),
            html=text_or_none(params.get("html_body")),
            headers=own_headers(params.get("headers")),
            attachments=[attached(item) for item in attachment_items(params)],
            tag=text_or_none(params.get("tag")),
            tags=strings(params.get("tag")),
        )
        return self._queue(draft, [*to, *cc, *bcc], None if params.get("bounce") else sender)

    def _send_raw(self, params: dict[str, Any], path: str) -> dict[str, Any]:
        check_raw(params)
        mail_from, data = must_be_text(params["mail_from"]), must_be_text(params["data"])
        recipients = list(dict.fromkeys(bare(must_be_text(one)) for one in params["rcpt_to"]))
        mail = Mail(decoded(data))
        sender = next((address for _, address in mail.addresses("From")), "")
        if not self.is_verified(sender):
            raise Refused("UnauthenticatedFromAddress")
        if not recipients:
            return {"message_id": None, "messages": {}}
        draft = SentMessage(
            esp=ESP,
            id="",
            message_id=mail.message_id,
            path=path,
            at=datetime.now(timezone.utc),
            payload=params,
            from_=mail.first("From") or "",
            to=[address for _, address in mail.addresses("To")],
            cc=[address for _, address in mail.addresses("Cc")],
            bcc=[address for _, address in mail.addresses("Bcc")],
            reply_to=mail.all("Reply-To"),
            subject=mail.first("Subject"),
            text=mail.text,
            html=mail.html,
            headers=mail.headers(),
            attachments=mail.attachments,
            tag=mail.first("X-Postal-Tag"),
            tags=mail.all("X-Postal-Tag")[:1],
            raw=mail.raw,
            envelope_sender=mail_from,
        )
        return self._queue(draft, recipients, None if params.get("bounce") else mail_from)

    def _check_from(self, params: dict[str, Any]) -> None:
        if is_blank(params.get("from")):
            raise Refused("FromAddressMissing", "The From address is missing and is required")
        if not self.is_verified(bare(must_be_text(params["from"]))):
            text = "The From address is not authorised to send mail from this server"
            raise Refused("UnauthenticatedFromAddress", text)

    def _queue(
        self, draft: SentMessage, recipients: list[str], mail_from: str | None
    ) -> dict[str, Any]:
        """Store the recipients one after another; what does not fit its column crashes."""
        tagged = fits(draft.tag or "")
        stored = takewhile(lambda recipient: tagged and fits(recipient), recipients)
        rows = [self._new_row(draft, recipient, mail_from) for recipient in stored]
        if rows:
            self._record(draft, rows)
        if len(rows) < len(recipients):
            raise Crash
        messages = {row.to: {"id": row.id, "token": row.token} for row in rows}
        return {"message_id": draft.message_id, "messages": messages}

    def _new_row(self, draft: SentMessage, recipient: str, mail_from: str | None) -> Row:
        return Row(
            id=self.store.next_id(ESP, FIRST_ID),
            token=random_token(),
            direction="outgoing",
            message_id=draft.message_id,
            to=recipient,
            from_=mail_from,
            subject=draft.subject,
            timestamp=timestamp(),
            tag=draft.tag,
            bounce=bool(draft.payload.get("bounce")),
            source=draft.raw,
        )

    def _record(self, draft: SentMessage, rows: list[Row]) -> None:
        ids = {row.to: str(row.id) for row in rows}
        sent = replace(draft, id=str(rows[0].id), recipients=[row.to for row in rows], ids=ids)
        for row in rows:
            self.store.put(ESP, "row", str(row.id), replace(row, sent=sent.id), sent.id)
            self.store.note(ESP, "rows", sent.id, row.id, sent.id)
        self.take(sent)

    # -- looking up -----------------------------------------------------------------------

    def _row(self, params: dict[str, Any]) -> Row:
        number = params.get("id")
        if number is None:
            raise ParameterMissing("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise Crash
        row = self.store.get(ESP, "row", str(number))
        if row is None:
            text = "No message found matching provided ID"
            raise Refused("MessageNotFound", text, id=number)
        return make(Row, row)

    def _message(self, params: dict[str, Any], _path: str) -> dict[str, Any]:
        row = self._row(params)
        wanted = params.get("_expansions")
        return {"id": row.id, "token": row.token} | {
            name: expand(self, row)
            for name, expand in EXPANSIONS.items()
            if wanted is True or (isinstance(wanted, list) and name in wanted)
        }

    def _deliveries(self, params: dict[str, Any], _path: str) -> list[dict[str, Any]]:
        return self.attempts(self._row(params))

    def attempts(self, row: Row) -> list[dict[str, Any]]:
        """The delivery attempts of a row, oldest first."""
        return self.store.notes(ESP, "deliveries", str(row.id))

    def loads_and_clicks(self, row: Row) -> dict[str, Any]:
        kinds = ("loads", "clicks")
        return {kind: self.store.notes(ESP, kind, str(row.id)) for kind in kinds}

    def has_bounced(self, row: Row) -> bool:
        return self.store.get(ESP, "bounced", str(row.id)) is not None

    def source_of(self, row: Row) -> bytes:
        """The RFC 5322 source; for send/message it is written when somebody asks."""
        found = self.store.find(row.sent or "") if row.source is None else None
        if found is None:
            return row.source or b""
        sent, _ = found
        return mime.compose(
            from_=sent.from_,
            to=sent.to or ["undisclosed-recipients:;"],
            subject=sent.subject,
            text=sent.text,
            html=sent.html,
            attachments=[(one.name, one.content_type, one.data) for one in sent.attachments],
            headers={**dict(sent.headers), "Message-ID": f"<{sent.message_id}>"},
        )

    # -- webhooks -------------------------------------------------------------------------

    def events(self) -> tuple[str, ...]:
        return EVENTS

    def is_id(self, text: str) -> bool:
        return text.isascii() and text.isdigit() and len(text) < 16

    def renamed(self, message: SentMessage, number: str) -> SentMessage:
        """Postal's events speak of rows: there is one more, with that number."""
        other = super().renamed(message, number)
        for row in self._rows(message)[:1]:
            named = replace(row, id=int(number), sent=other.id)
            self.store.put(ESP, "row", number, named, message.id)
            self.store.note(ESP, "rows", other.id, named.id, message.id)
        return other

    def automatic(self, message: SentMessage, events: Sequence[str]) -> Planned:
        """For each row: the events asked for; only "held" if the recipient is suppressed."""
        planned: Planned = []
        for row in self._rows(message) if events else ():
            names = ["rejected"] if self.is_suppressed(row.to) else events
            planned += [(event, str(row.id), {}) for event in names if event in EVENTS]
        return planned

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: PostalHook,
    ) -> list[Post]:
        row = self._find_row(message, recipient)
        name = WIRE_NAMES.get(event, event)
        if name in SERVER_EVENTS:
            payload = server_payload(name) | details
        elif name == "bounced":
            name, payload = "MessageBounced", self._bounced(row) | details
        elif name in ("opened", "clicked"):
            payload = self._activity(name, row, message) | details
            name = "MessageLoaded" if name == "opened" else "MessageLinkClicked"
        elif name in OUTCOMES:
            payload = self._attempt(OUTCOMES[name], row) | details
            name = OUTCOMES[name].event
            logged = self._logged(payload)
            self.store.note(ESP, "deliveries", str(row.id), logged, row.sent)
        else:
            raise self.unreported(event, "Postal")
        if hook.tracking is None:
            return []
        post = self._post(hook.tracking, event_body(name, payload), hook)
        return [replace(post, event=event, message=message.id)]

    def _rows(self, message: SentMessage) -> list[Row]:
        numbers = self.store.notes(ESP, "rows", message.id)
        rows = (self.store.get(ESP, "row", str(number)) for number in numbers)
        return [make(Row, row) for row in rows if row is not None]

    def _find_row(self, message: SentMessage, recipient: str | None) -> Row:
        """By address, or by the row's own id: an address given twice has two rows."""
        for row in self._rows(message):
            if recipient is None or recipient.lower() in (row.to.lower(), str(row.id)):
                return row
        raise ValueError("the message has no such recipient")

    def _attempt(self, outcome: Outcome, row: Row) -> dict[str, Any]:
        details = outcome.details.format(to=row.to, domain=row.to.rpartition("@")[2])
        if outcome.status == "HardFail" and self._hard_failed(row, outcome):
            details = (
                f"{details.rstrip('.')}. Recipient added to suppression list (too many hard fails)"
            )
        if outcome.status == "Sent":
            self.store.remove(ESP, "suppression", f"* {row.to.lower()}")
        return {
            "message": row.as_object(),
            "status": outcome.status,
            "details": cut(details, 250),
            "output": outcome.output,
            "sent_with_ssl": outcome.ssl,
            "timestamp": timestamp(),
            "time": outcome.seconds,
        }

    def _hard_failed(self, row: Row, outcome: Outcome) -> bool:
        """Whether this failure suppresses: the second one, or attempts used up."""
        count = self.store.note(ESP, "hard fails", row.to.lower(), row.id, row.sent)
        if count < 2 and outcome.output:
            return False
        self.store.put(ESP, "suppression", f"* {row.to.lower()}", "too many hard fails")
        return True

    def _logged(self, payload: dict[str, Any]) -> dict[str, Any]:
        """An attempt as messages/deliveries tells it."""
        return {
            "id": self.store.next_id("postal deliveries"),
            "status": payload["status"],
            "details": payload["details"],
            "output": payload["output"] or None,
            "sent_with_ssl": payload["sent_with_ssl"],
            "log_id": random_token(8).upper(),
            "time": payload["time"],
            "timestamp": payload["timestamp"],
        }

    def _bounced(self, row: Row) -> dict[str, Any]:
        """A bounce mail comes in: a row of its own, whose source says why."""
        source = mime.compose(
            from_="MAILER-DAEMON@mx.example.com",
            to=f"{row.token}@{RETURN_PATH}",
            subject="Delivery Status Notification (Failure)",
            text=f"<{row.to}>: 550 5.1.1 user unknown",
            headers={
                "Message-ID": f"<dsn-{row.id}@mx.example.com>",
                "Auto-Submitted": "auto-replied",
            },
        )
        bounce = self._incoming(
            source, f"{row.token}@{RETURN_PATH}", None, bounce=True, sent=row.sent
        )
        self.store.put(ESP, "bounced", str(row.id), bounce.id, row.sent)
        return {"original_message": row.as_object(), "bounce": bounce.as_object()}

    def _activity(self, name: str, row: Row, message: SentMessage) -> dict[str, Any]:
        seen = {"ip_address": "198.51.100.23", "user_agent": USER_AGENT}
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        entry = {**seen, "timestamp": moment.replace("+00:00", "Z")}
        if name == "opened":
            self.store.note(ESP, "loads", str(row.id), entry, row.sent)
            return {"message": row.as_object(), **seen}
        url = mime.first_link(message.html, message.text)
        self.store.note(ESP, "clicks", str(row.id), {"url": url, **entry}, row.sent)
        return {"message": row.as_object(), "url": url, "token": random_token(), **seen}

    def _post(
        self, url: str, body: bytes, hook: PostalHook, content_type: str = "application/json"
    ) -> Post:
        """A request with the signature over exactly its bytes."""
        headers = {
            "Content-Type": content_type,
            "User-Agent": f"Postal/{VERSION}",
            "Connection": "close",
            **self._signer.headers(body, hook.signatures),
        }
        return Post(
            url,
            body,
            headers,
            timeout=5,
            decode_userinfo=False,
            esp=ESP,
            schedule=WEBHOOK_SCHEDULE,
            proofs=tuple(name for name in headers if name in SIGNATURES),
        )

    # -- inbound --------------------------------------------------------------------------

    def inbound(self, mail: Inbound, hook: PostalHook) -> list[Post]:
        row = self._incoming(mail.raw, mail.to, mail.mail_from, spam=mail.spam)
        body = raw_body(row, mail) if hook.inbound_format == "raw" else hash_body(row, hook)
        encode = form_encoded if hook.inbound_encoding == "form" else json_encoded
        content_type = CONTENT_TYPES[hook.inbound_encoding]
        post = self._post(hook.inbound or "", encode(body), hook, content_type)
        posts = [replace(post, event="inbound", schedule=INBOUND_SCHEDULE)]
        if hook.incoming_events and hook.tracking:
            payload = self._attempt(OUTCOMES["delivered"], row)
            told = self._post(hook.tracking, event_body("MessageSent", payload), hook)
            posts.append(replace(told, event="delivered"))
        return posts

    def _incoming(
        self,
        source: bytes,
        to: str,
        mail_from: str | None,
        *,
        bounce: bool = False,
        spam: tuple[bool, float] | None = None,
        sent: str | None = None,
    ) -> Row:
        mail = Mail(source)
        row = Row(
            id=self.store.next_id(ESP, FIRST_ID),
            token=random_token(),
            direction="incoming",
            message_id=mail.message_id,
            to=to,
            from_=mail_from,
            subject=mail.first("Subject"),
            timestamp=timestamp(),
            spam_status=spam_status(spam),
            bounce=bounce,
            source=source,
        )
        self.store.put(ESP, "row", str(row.id), row, sent or INCOMING)
        return row


# -- requests and answers -----------------------------------------------------------------


def read_params(request: Request) -> dict[str, Any]:
    """JSON, or a form whose `params` holds JSON; any other body counts as empty."""
    text: bytes | str = b""
    if request.mimetype == "application/json":
        text = request.get_data()
    elif request.mimetype == "application/x-www-form-urlencoded":
        text = request.form.get("params", "")
    try:
        params = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        raise BadRequest from None
    return params if isinstance(params, dict) else {}


def envelope(status: str, data: Any, started: float) -> dict[str, Any]:
    seconds = round(time.perf_counter() - started, 3)
    return {"status": status, "time": seconds, "flags": {}, "data": data}


def json_answer(body: Any) -> Response:
    return Response(json_encoded(body), mimetype="application/json")


ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
ESCAPES = str.maketrans(ESCAPED)


def json_encoded(body: Any) -> bytes:
    """JSON as Rails writes it: raw UTF-8, with what could harm an HTML page escaped."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.translate(ESCAPES).encode("utf-8", "replace")


def cut(text: str | None, limit: int) -> str | None:
    return None if text is None else text[:limit]


def timestamp() -> float:
    """Seconds since 1970, to the microsecond."""
    return round(time.time(), 6)


def random_token(length: int = 16) -> str:
    return "".join(secrets.choice(ALPHANUMERIC) for _ in range(length))


# -- validation ---------------------------------------------------------------------------


def must_be_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Crash
    return value


def fits(text: str) -> bool:
    """Whether the database has room for it."""
    return len(text) <= MAX_COLUMN


def is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def strings(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [str(item) for item in items if item]


def address_list(value: Any) -> list[str]:
    """The bare addresses of an array, or of a string split at every comma."""
    if value is None:
        return []
    items = value if isinstance(value, list) else must_be_text(value).split(",")
    if items == [""] and not isinstance(value, list):
        return []
    return [bare(must_be_text(item)) for item in items]


def check_recipients(to: list[str], cc: list[str], bcc: list[str]) -> None:
    if not (to or cc or bcc):
        text = "There are no recipients defined to receive this message"
        raise Refused("NoRecipients", text)
    for name, addresses in (("To", to), ("CC", cc), ("BCC", bcc)):
        if len(addresses) > MAX_EACH:
            text = f"The maximum number of {name} addresses has been reached (maximum {MAX_EACH})"
            raise Refused(f"TooMany{name}Addresses", text)


def check_raw(params: dict[str, Any]) -> None:
    if not params.get("mail_from"):
        raise ParameterMissing("mail_from")
    if not isinstance(params.get("rcpt_to"), list):
        raise ParameterMissing("rcpt_to")
    if not params.get("data"):
        raise ParameterMissing("data")


def check_content(params: dict[str, Any]) -> None:
    if is_blank(params.get("plain_body")) and is_blank(params.get("html_body")):
        raise Refused("NoContent", "There is no content defined for this e-mail")


def attachment_items(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Only objects in an array count; the rest is ignored."""
    items = params.get("attachments")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def check_attachments(params: dict[str, Any]) -> None:
    for item in attachment_items(params):
        if is_blank(item.get("name")):
            raise Refused("AttachmentMissingName", "An attachment is missing a name")
        if is_blank(item.get("data")):
            raise Refused("AttachmentMissingData", "An attachment is missing data")


def attached(item: dict[str, Any]) -> Attached:
    content_type = str(item.get("content_type") or "application/octet-stream")
    return Attached(str(item["name"]), content_type, decoded(str(item["data"])))


def decoded(data: str) -> bytes:
    """Base64 as Ruby reads it: what is not of the alphabet is skipped, nothing is refused."""
    kept = re.sub(r"[^A-Za-z0-9+/]", "", data)
    kept = kept[: len(kept) - (len(kept) % 4 == 1)]
    return base64.b64decode(kept + "=" * (-len(kept) % 4))


def own_headers(headers: Any) -> list[tuple[str, str]]:
    """Custom headers, without those Postal overwrites; anything but an object is ignored."""
    if not isinstance(headers, dict):
        return []
    pairs = ((name, str(value)) for name, value in headers.items())
    return [(name, value) for name, value in pairs if name.lower() not in OVERWRITTEN]


# -- message look-up ----------------------------------------------------------------------


def status_of(postal: Postal, row: Row) -> dict[str, Any]:
    attempts = postal.attempts(row)
    status = attempts[-1]["status"] if attempts else "Pending"
    return {
        "status": "Bounced" if postal.has_bounced(row) else status,
        "last_delivery_attempt": attempts[-1]["timestamp"] if attempts else None,
        "held": status == "Held",
        "hold_expiry": attempts[-1]["timestamp"] + 7 * 86400 if status == "Held" else None,
    }


def details_of(postal: Postal, row: Row) -> dict[str, Any]:
    return {
        "rcpt_to": row.to,
        "mail_from": row.from_,
        "subject": cut(row.subject, 200),
        "message_id": row.message_id,
        "timestamp": row.timestamp,
        "direction": row.direction,
        "size": str(len(postal.source_of(row))),
        "bounce": row.bounce,
        "bounce_for_id": 0,
        "tag": row.tag,
        "received_with_ssl": None,
    }


def inspection_of(_postal: Postal, row: Row) -> dict[str, Any]:
    return {
        "inspected": row.spam_status != "NotChecked",
        "spam": row.spam_status == "Spam",
        "spam_score": 0.0,
        "threat": False,
        "threat_details": None,
    }


def plain_body_of(postal: Postal, row: Row) -> str | None:
    return Mail(postal.source_of(row)).text


def html_body_of(postal: Postal, row: Row) -> str | None:
    return Mail(postal.source_of(row)).html


def attachments_of(postal: Postal, row: Row) -> list[dict[str, Any]]:
    return [
        file_object(part) | {"hash": hashlib.sha1(part.data).hexdigest()}  # noqa: S324
        for part in Mail(postal.source_of(row)).attachments
    ]


def headers_of(postal: Postal, row: Row) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in Mail(postal.source_of(row)).headers():
        headers.setdefault(name.lower(), []).append(value)
    return headers


def raw_message_of(postal: Postal, row: Row) -> str:
    return ruby_base64(postal.source_of(row))


EXPANSIONS: dict[str, Callable[[Postal, Row], Any]] = {
    "status": status_of,
    "details": details_of,
    "inspection": inspection_of,
    "plain_body": plain_body_of,
    "html_body": html_body_of,
    "attachments": attachments_of,
    "headers": headers_of,
    "raw_message": raw_message_of,
    "activity_entries": Postal.loads_and_clicks,
}


def file_object(part: Attached) -> dict[str, Any]:
    return {
        "filename": part.name,
        "content_type": part.content_type,
        "size": len(part.data),
        "data": ruby_base64(part.data),
    }


def ruby_base64(data: bytes) -> str:
    """A line break after every 60 characters, and at the end."""
    lines = (base64.b64encode(data[at : at + 45]) for at in range(0, len(data), 45))
    return "".join(line.decode("ascii") + "\n" for line in lines)


# -- webhook bodies -----------------------------------------------------------------------


def event_body(name: str, payload: dict[str, Any]) -> bytes:
    body = {
        "event": name,
        "timestamp": timestamp(),
        "payload": payload,
        "uuid": str(uuid.uuid4()),
    }
    return json_encoded(body)


def server_payload(name: str) -> dict[str, Any]:
    """The payloads that speak of no message."""
    if name != "DomainDNSError":
        return {"server": SERVER, "volume": 95, "limit": 100}
    checks = {"spf": "OK", "dkim": "Invalid", "mx": "Missing", "return_path": "OK"}
    payload: dict[str, Any] = {
        "server": SERVER,
        "domain": "example.org",
        "uuid": str(uuid.uuid4()),
        "dns_checked_at": timestamp(),
    }
    for check, status in checks.items():
        payload[f"{check}_status"] = status
        payload[f"{check}_error"] = None if status == "OK" else f"The record is {status.lower()}."
    return payload


# -- inbound bodies -----------------------------------------------------------------------

CONTENT_TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}


def spam_status(spam: tuple[bool, float] | None) -> str:
    if spam is None:
        return "NotChecked"
    return "Spam" if spam[0] else "NotSpam"


def raw_body(row: Row, mail: Inbound) -> dict[str, Any]:
    source = spam_headers(mail.spam) + mail.raw
    return {
        "id": row.id,
        "rcpt_to": row.to,
        "mail_from": row.from_,
        "message": ruby_base64(source),
        "base64": True,
        "size": len(mail.raw),
    }


def spam_headers(spam: tuple[bool, float] | None) -> bytes:
    """What Postal writes at the very top when it inspected the mail."""
    if spam is None:
        return b""
    flag, score = spam
    lines = (
        f"X-Postal-Spam: {'yes' if flag else 'no'}",
        "X-Postal-Spam-Threshold: 5.0",
        f"X-Postal-Spam-Score: {score}",
        "X-Postal-Threat: no",
    )
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def hash_body(row: Row, hook: PostalHook) -> dict[str, Any]:
    """The processed format: no other headers, no Content-IDs, no source."""
    mail = Mail(row.source or b"")
    text, quoted = mime.split_reply(mail.text) if hook.strip_replies else (mail.text, None)
    body: dict[str, Any] = {
        "id": row.id,
        "rcpt_to": row.to,
        "mail_from": row.from_,
        "token": row.token,
        "subject": cut(row.subject, 200),
        "message_id": row.message_id,
        "timestamp": row.timestamp,
        "size": str(len(mail.raw)),
        "spam_status": row.spam_status,
        "bounce": row.bounce,
        "received_with_ssl": None,
        "to": mail.last("To"),
        "cc": mail.last("Cc"),
        "from": mail.last("From"),
        "date": mail.last("Date"),
        "in_reply_to": mail.last("In-Reply-To"),
        "references": mail.last("References"),
        "html_body": mail.html,
        "attachment_quantity": len(mail.attachments),
        "auto_submitted": mail.last("Auto-Submitted"),
        "reply_to": mail.all("Reply-To") or None,
        "plain_body": text,
    }
    if hook.strip_replies:
        body["replies_from_plain_body"] = quoted or None
    if hook.include_attachments:
        body["attachments"] = [file_object(part) for part in mail.attachments]
    return body


def form_encoded(body: dict[str, Any]) -> bytes:
    pairs = [pair for name, value in body.items() for pair in form_pairs(name, value)]
    return urlencode(pairs).encode("ascii")


def form_pairs(name: str, value: Any) -> list[tuple[str, str]]:
    """null is empty, a list repeats its name, attachments are numbered."""
    if name == "attachments":
        return [
            (f"attachments[{number}][{key}]", str(item))
            for number, one in enumerate(value)
            for key, item in one.items()
        ]
    if isinstance(value, list):
        return [(name, str(item)) for item in value]
    if isinstance(value, bool):
        return [(name, str(value).lower())]
    return [(name, "" if value is None else str(value))]


side = Postal
