"""Mailgun's side: messages as forms, signed webhooks, routes, and a little of the account.

Sources: https://documentation.mailgun.com (API reference, webhooks, receive-http) and how
Mailgun answers. Whatever is not its API it answers with 200 and a friendly line of text.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Request, Response

from . import forms, mustache
from .mime import Mail, bare, first_link, split_reply
from .records import Attached, Hook, Inbound, Post, Schedule, SentMessage, Verdict
from .side import Context, Planned, Side

ESP = "mailgun"
KEY = "key-mailgun-simulator-0001"
SIGNING_KEY = "mailgun-simulator-signing-key"
MOST_RECIPIENTS = 1000
MOST_OPTIONS = 16 * 1024  # bytes of all o:, h:, v: and t: fields together
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
ADDRESS = re.compile(r'[^\s@<>,;"()]+@[^\s@<>,;"()]+')
PLACEHOLDER = re.compile(r"%recipient\.([^%\s]+)%")


class Refused(Exception):
    """An error of the API: a status and what it says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


# -- events ---------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """A Mailgun event: its name, and what of it is not the same for all events."""

    event: str
    more: Mapping[str, Any] = MappingProxyType({})


def attempt(code: int, message: str, description: str = "", **more: Any) -> dict[str, Any]:
    """The fields of a delivery attempt."""
    status = {"code": code, "message": message, "description": description, "attempt-no": 1}
    return {"delivery-status": {**status, "mx-host": "mx.example.com", **more}}


def failure(severity: str, reason: str, **status: Any) -> Outcome:
    """A ``failed`` event."""
    return Outcome("failed", {"severity": severity, "reason": reason, **attempt(**status)})


OUTCOMES = {
    "queued": Outcome("accepted", {"method": "HTTP"}),
    "delivered": Outcome("delivered", attempt(250, "OK")),
    "deferred": failure(
        "temporary",
        "greylisted",
        code=451,
        message="4.7.1 Try again later",
        **{"retry-seconds": 600},
    ),
    "bounced": failure("permanent", "bounce", code=550, message="5.1.1 No such user"),
    "rejected": failure(
        "permanent",
        "suppress-bounce",
        code=605,
        message="",
        description="Not delivering to previously bounced address",
    ),
    "complained": Outcome("complained"),
    "opened": Outcome("opened"),
    "clicked": Outcome("clicked"),
    "unsubscribed": Outcome("unsubscribed"),
}
WIRE_NAMES = {
    "accepted": OUTCOMES["queued"],
    "failed": failure("permanent", "generic", code=602, message="", description="Gave up"),
}
READERS = frozenset({"opened", "clicked", "unsubscribed"})  # a person's doing, with a browser
IN_STATUS = frozenset({"code", "message", "description", "attempt-no", "retry-seconds"})


def judge(status: int | None) -> Verdict:
    """200 alone is success, and 406 alone stops it."""
    return {200: "done", 406: "dropped"}.get(status or 0, "retry")  # type: ignore[return-value]


HOURS = tuple(3600.0 * hours for hours in (1, 2, 4))
SCHEDULE = Schedule((300.0, 600.0, 900.0, *HOURS), judge)
INBOUND_SCHEDULE = Schedule((600.0, 900.0, 1800.0, *HOURS), judge)


@dataclass(frozen=True)
class MailgunHook(Hook):
    """What routes and webhooks are set to.

    A route whose URL ends in ``mime`` posts the mail's source; ``inbound_raw`` has any URL get
    it. ``store`` makes it a route that stores the mail and brings links. ``legacy`` posts
    events as they were before 2018.
    """

    inbound_raw: bool = False
    store: bool = False
    legacy: bool = False


class Mailgun(Side):
    """One account: its API keys, its webhook signing key, templates, webhooks and routes.

    ``keys`` are the accepted credentials, ``signing_key`` signs.
    """

    key = ESP
    hook = MailgunHook
    signs = True
    ids = "it has Message-IDs in angle brackets"
    own_headers = frozenset({"reply-to"})

    def __init__(
        self, context: Context, keys: Iterable[str] = (KEY,), signing_key: str = SIGNING_KEY
    ) -> None:
        super().__init__(context)
        self._keys = tuple(keys)
        self._signing_key = signing_key

    def settings(self, url: str) -> dict[str, Any]:
        return {
            "API_URL": f"{url}/v3",
            "API_KEY": self._keys[0],
            "WEBHOOK_SIGNING_KEY": self._signing_key,
        }

    def credentials(self) -> dict[str, str]:
        pair = base64.b64encode(f"api:{self._keys[0]}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}

    # -- answering ------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        found = (
            (match, method) for pattern, method in ROUTES if (match := pattern.fullmatch(path))
        )
        match, method = next(found, (None, None))
        if match is None or method is None:
            return Response("Mailgun Magnificent API", 200, mimetype="text/plain")
        try:
            self._authenticate(request)
            body = method(self, request, *match.groups())
        except Refused as error:
            return self._refusal(path, error)
        return Response(encoded(body), mimetype="application/json")

    def _refusal(self, path: str, error: Refused) -> Response:
        if error.status == 401:
            self.refuse(path, 401, error.message)
            return Response(error.message, 401, mimetype="text/plain")
        body = {"message": error.message}
        self.refuse(path, error.status, body)
        return Response(encoded(body), error.status, mimetype="application/json")

    def _authenticate(self, request: Request) -> None:
        given = request.authorization
        if given is None or given.username != "api" or given.password not in self._keys:
            raise Refused(401, "Forbidden")

    def _check_domain(self, domain: str) -> None:
        if not self.is_verified(f"any@{domain}"):
            raise Refused(404, f"Domain not found: {domain}")

    # -- sending --------------------------------------------------------------------------

    def _messages(self, request: Request, domain: str) -> Any:
        form = Form(request)
        self._check_domain(domain)
        check_message(form)
        draft = self._draft(request, form, domain, make_id(domain))
        return self._accept(draft, form)

    def _mime(self, request: Request, domain: str) -> Any:
        form = Form(request)
        self._check_domain(domain)
        if not form.to or not form.source:
            raise Refused(400, f"{'message' if form.to else 'to'} parameter is missing")
        check_addresses(form)
        return self._accept(self._draft_of_source(request, form, domain), form)

    def _accept(self, draft: SentMessage, form: Form) -> dict[str, str]:
        """Take the message, or one copy for each ``to`` of a batch; all have one id."""
        copies = [draft]
        if form.rows is not None:
            copies = [self._copy(draft, form, number) for number in range(len(form.to))]
        for copy in copies:
            ids = dict.fromkeys(copy.recipients, draft.id)
            for address in copy.recipients:
                name = f"{draft.id} {address.lower()}"
                self.store.put(ESP, "copy", name, copy.id, copy.id)
            self.take(replace(copy, ids=ids))
        return {"id": draft.id, "message": "Queued. Thank you."}

    def _copy(self, draft: SentMessage, form: Form, number: int) -> SentMessage:
        """One recipient's copy, with its placeholders filled in."""
        to = form.to[number]
        row = (form.rows or {}).get(bare(to), {})
        text, html = (fill(part, row) for part in (draft.text, draft.html))
        filled = replace(
            draft,
            id=f"{draft.id}:{number + 1}",  # for the mailbox only
            to=[to],
            recipients=[bare(item) for item in (to, *draft.cc, *draft.bcc)],
            subject=fill(draft.subject, row),
            text=text,
            html=html,
            headers=[(name, fill(value, row) or "") for name, value in draft.headers],
            reply_to=[fill(item, row) or "" for item in draft.reply_to],
            metadata={key: fill(value, row) or "" for key, value in draft.metadata.items()},
            variables={**draft.variables, **row},
        )
        return self._rendered(filled, form)

    def _draft(self, request: Request, form: Form, domain: str, message_id: str) -> SentMessage:
        draft = SentMessage(
            esp=ESP,
            id=message_id,
            message_id=message_id,
            path=f"/v3/{domain}/messages",
            at=datetime.now(timezone.utc),
            payload=form.payload(),
            recipients=[bare(item) for item in form.everybody],
            from_=form.first("from") or "",
            to=form.to,
            cc=form.all("cc"),
            bcc=form.all("bcc"),
            reply_to=form.all("h:Reply-To"),
            subject=form.first("subject"),
            text=form.first("text"),
            html=form.first("html"),
            headers=form.headers(),
            attachments=form.attachments(),
            tag=next(iter(form.all("o:tag")), None),
            tags=form.all("o:tag"),
            metadata=form.metadata(),
            track_opens=switch(form.first("o:tracking-opens")),
            track_clicks=switch(form.first("o:tracking-clicks")),
            send_at=moment(form.first("o:deliverytime")),
            template=form.first("template"),
            variables=form.variables(),
            alternatives=[("text/x-amp-html", text) for text in form.all("amp-html")],
            content_type=request.mimetype,
        )
        return draft if form.rows is not None else self._rendered(draft, form)

    def _draft_of_source(self, request: Request, form: Form, domain: str) -> SentMessage:
        mail = Mail(form.source or b"")
        message_id = f"<{mail.message_id}>" if mail.message_id else make_id(domain)
        return replace(
            self._draft(request, form, domain, message_id),
            path=f"/v3/{domain}/messages.mime",
            from_=mail.first("From") or "",
            subject=mail.first("Subject"),
            text=mail.text,
            html=mail.html,
            attachments=mail.attachments,
            reply_to=mail.all("Reply-To"),
            raw=mail.raw,
        )

    def _rendered(self, message: SentMessage, form: Form) -> SentMessage:
        """The message with its template filled in; a subject of its own stays."""
        if message.template is None:
            return message
        found = self.store.get(ESP, "template", message.template)
        if found is None:
            raise Refused(400, f"template '{message.template}' not found")
        data = {**message.metadata, **message.variables}
        subject = message.subject or mustache.render(found["subject"] or "", data)
        text = found["text"] and mustache.render(found["text"], data)
        html = found["html"] and mustache.render(found["html"], data, escape=True)
        return replace(message, subject=subject, text=text, html=html)

    def template(
        self,
        id: int | str | None,
        alias: str | None,
        subject: str,
        text: str | None,
        html: str | None,
    ) -> None:
        """Keep a template under its name."""
        name = str(id or alias or "template")
        self.store.put(ESP, "template", name, {"subject": subject, "text": text, "html": html})

    # -- the account ----------------------------------------------------------------------

    def _domains(self, _request: Request) -> Any:
        names = sorted(self.context.sender_domains or {"example.org"})
        items = [{"name": name, "state": "active", "type": "custom"} for name in names]
        return {"items": items, "total_count": len(items)}

    def _domain(self, _request: Request, domain: str) -> Any:
        self._check_domain(domain)
        return {"domain": {"name": domain, "state": "active", "type": "custom"}}

    def _signing(self, _request: Request) -> Any:
        return {"message": "success", "http_signing_key": self._signing_key}

    def _webhooks(self, request: Request, domain: str) -> Any:
        """List the webhooks of a domain, or make one: up to three URLs of a type of event."""
        self._check_domain(domain)
        if request.method == "GET":
            return {"webhooks": {name: self._urls_of(domain, name) for name in TYPES}}
        name = request.form.get("id", "")
        if self._urls_of(domain, name) is not None:
            raise Refused(400, f"Webhook {name} already exists")
        return self._set_webhook(request, domain, name, "Webhook has been created")

    def _webhook(self, request: Request, domain: str, name: str) -> Any:
        self._check_domain(domain)
        found = self._urls_of(domain, name)
        if found is None:
            raise Refused(404, "Webhook not found")
        if request.method == "GET":
            return {"webhook": found}
        if request.method == "DELETE":
            self.store.remove(ESP, "webhook", f"{domain} {name}")
            return {"message": "Webhook has been deleted", "webhook": found}
        return self._set_webhook(request, domain, name, "Webhook has been updated")

    def _set_webhook(self, request: Request, domain: str, name: str, said: str) -> Any:
        urls = request.form.getlist("url")
        if name not in TYPES:
            raise Refused(400, f"Invalid webhook type: {name}")
        if not 1 <= len(urls) <= 3 or not all(urlsplit(url).hostname for url in urls):
            raise Refused(400, "url parameter is missing or invalid")
        self.store.put(ESP, "webhook", f"{domain} {name}", urls)
        return {"message": said, "webhook": {"urls": urls}}

    def _urls_of(self, domain: str, name: str) -> dict[str, Any] | None:
        urls = self.store.get(ESP, "webhook", f"{domain} {name}")
        return None if urls is None else {"urls": urls}

    def _routes(self, request: Request) -> Any:
        if request.method == "GET":
            items = [item for _, item in self.store.items(ESP, "route")]
            return {"items": items, "total_count": len(items)}
        route = {"id": uuid.uuid4().hex[:24], **route_of(request)}
        self.store.put(ESP, "route", route["id"], route)
        return {"message": "Route has been created", "route": route}

    def _route(self, request: Request, number: str) -> Any:
        found = self.store.get(ESP, "route", number)
        if found is None:
            raise Refused(404, "Route not found")
        if request.method == "DELETE":
            self.store.remove(ESP, "route", number)
            return {"message": "Route has been deleted", "id": number}
        if request.method == "PUT":
            found = {**found, **route_of(request)}
            self.store.put(ESP, "route", number, found)
            return {"message": "Route has been updated", **found}
        return {"route": found}

    # -- webhooks -------------------------------------------------------------------------

    def events(self) -> tuple[str, ...]:
        return tuple(OUTCOMES)

    def is_id(self, text: str) -> bool:
        return re.fullmatch(r"<?[^\s<>@]+@[^\s<>@]+>?", text) is not None

    def automatic(self, message: SentMessage, events: Sequence[str]) -> Planned:
        """The events asked for; suppressed recipients are accepted and then rejected."""
        if test_mode(message):
            events = [event for event in events if event == "queued"]
        planned = super().automatic(message, events)
        refused = {item for item in message.recipients if self.is_suppressed(item)}
        return [
            *(item for item in planned if item[1] not in refused),
            *(("rejected", item, {}) for item in message.recipients if events and item in refused),
        ]

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: MailgunHook,
    ) -> list[Post]:
        outcome = OUTCOMES.get(event) or WIRE_NAMES.get(event)
        if outcome is None:
            raise self.unreported(event, "Mailgun")
        message = self._copy_for(message, recipient)
        address = self.find_recipient(message, recipient)
        data = event_data(outcome, message, address, details)
        self.store.note(ESP, "events", message.id, data, message.id)
        if hook.tracking is None:
            return []
        if hook.legacy:
            kind, body = forms.urlencoded(legacy_fields(data) + list(self.proof().items()))
        else:
            kind, body = (
                "application/json",
                encoded({"signature": self.proof(), "event-data": data}),
            )
        return [self._post(hook.tracking, kind, body, event, message.id)]

    def _copy_for(self, message: SentMessage, recipient: str | None) -> SentMessage:
        """The copy of a batch that went to a recipient; all copies have one id."""
        name = f"{message.message_id} {(recipient or '').lower()}"
        copy_id = self.store.get(ESP, "copy", name)
        if copy_id is None or copy_id == message.id:
            return message
        found = self.store.find(str(copy_id))
        return message if found is None else found[0]

    def proof(self) -> dict[str, str]:
        """A timestamp and a token, and the signature over both."""
        timestamp, token = str(int(time.time())), secrets.token_hex(25)
        signed = hmac.new(
            self._signing_key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256
        )
        return {"timestamp": timestamp, "token": token, "signature": signed.hexdigest()}

    def _post(
        self, url: str, kind: str, body: bytes, event: str, message: str | None = None
    ) -> Post:
        """A request that is repeated as it is: it is not known to be signed anew."""
        headers = {"Content-Type": kind, "User-Agent": "mailgun/treq-24.9.1"}
        schedule = INBOUND_SCHEDULE if message is None else SCHEDULE
        return Post(
            url,
            body,
            headers,
            esp=ESP,
            event=event,
            message=message,
            schedule=schedule,
            forge=forged,
        )

    # -- inbound --------------------------------------------------------------------------

    def inbound(self, mail: Inbound, hook: MailgunHook) -> list[Post]:
        """The post of a route: the source, or what is parsed of it."""
        if hook.inbound is None:
            return []
        proof = list(self.proof().items())
        if hook.inbound_raw or mail.raw_email or hook.inbound.endswith("mime"):
            kind, body = forms.urlencoded([*raw_fields(mail), *proof])
        else:
            fields, files = parsed_fields(mail, hook)
            pairs: list[tuple[str, str | bytes]] = [*fields, *proof]
            kind, body = forms.multipart(pairs, files) if files else forms.urlencoded(pairs)
        return [self._post(hook.inbound, kind, body, "inbound")]


# -- a message's form -----------------------------------------------------------------------


class FormFile(NamedTuple):
    """A file of a form; its type has parameters."""

    name: str
    filename: str
    kind: str
    data: bytes


OCTETS = "application/octet-stream"


class Form:
    """What a request to one of the messages endpoints says."""

    def __init__(self, request: Request) -> None:
        self._fields: MultiDict[str, str] = request.form
        self._files = [
            FormFile(name, file.filename or "", file.content_type or OCTETS, file.read())
            for name, file in request.files.items(multi=True)
        ]

    def all(self, name: str) -> list[str]:
        """Every value of a field. Addresses stand one by one, or with commas."""
        values = self._fields.getlist(name)
        if name in ("to", "cc", "bcc"):
            return [item for value in values for item in split_list(value)]
        return values

    def first(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    @property
    def to(self) -> list[str]:
        return self.all("to")

    @property
    def everybody(self) -> list[str]:
        """All recipients; whoever is there twice counts once."""
        found = {
            bare(item).lower(): item for name in ("bcc", "cc", "to") for item in self.all(name)
        }
        return [
            item
            for name in ("to", "cc", "bcc")
            for item in dict.fromkeys(self.all(name))
            if found[bare(item).lower()] == item
        ]

    @property
    def rows(self) -> dict[str, dict[str, Any]] | None:
        """The recipient-variables, whose presence makes a batch."""
        text = self.first("recipient-variables")
        return None if text is None else json_object("recipient-variables", text)

    @property
    def source(self) -> bytes | None:
        """The MIME source, as a file or as a field."""
        for name, _, _, data in self._files:
            if name == "message":
                return data
        text = self.first("message")
        return None if text is None else text.encode()

    def options_size(self) -> int:
        """Bytes of all o:, h:, v: and t: fields."""
        pairs = self._fields.items(multi=True)
        return sum(len(f"{k}{v}".encode()) for k, v in pairs if k[:2] in ("o:", "h:", "v:", "t:"))

    def headers(self) -> list[tuple[str, str]]:
        pairs = self._fields.items(multi=True)
        return [(k[2:], v) for k, v in pairs if k.startswith("h:") and k not in TAKEN_HEADERS]

    def metadata(self) -> dict[str, str]:
        return {k[2:]: v for k, v in self._fields.items() if k.startswith("v:")}

    def variables(self) -> dict[str, Any]:
        """What a template is filled in with, metadata apart."""
        found: dict[str, Any] = {}
        for name in ("h:X-Mailgun-Variables", "t:variables"):
            found |= json_object(name, self.first(name) or "{}")
        return found

    def attachments(self) -> list[Attached]:
        """The files; one without a name is dropped, an inline one is named by its id."""
        return [
            Attached(filename, kind, data, filename if name == "inline" else None)
            for name, filename, kind, data in self._files
            if filename and name in ("attachment", "inline")
        ]

    def payload(self) -> dict[str, Any]:
        """The fields, and of the files what can be shown."""
        shown: dict[str, Any] = {
            name: found[0] if len(found) == 1 else found for name, found in self._fields.lists()
        }
        for name, filename, kind, data in self._files:
            about = {"filename": filename, "content_type": kind, "size": len(data)}
            shown.setdefault(name, []).append(about)
        return shown


TAKEN_HEADERS = frozenset({"h:Reply-To", "h:X-Mailgun-Variables"})


def split_list(value: str) -> list[str]:
    """The addresses of a list; a comma within quotes is part of a name."""
    parts = re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+', value)
    return [part.strip() for part in parts if part.strip()]


def check_message(form: Form) -> None:
    """What Mailgun wants of a message."""
    if not form.to:
        raise Refused(400, "to parameter is missing")
    if not form.first("from") and not form.first("template"):
        raise Refused(400, "from parameter is missing")
    check_addresses(form)
    if not any(form.first(name) is not None for name in BODIES):
        names = ", ".join(f"'{name}'" for name in BODIES)
        raise Refused(400, f"Need at least one of {names} parameters specified")
    if form.first("template") is not None and form.first("html") is not None:
        raise Refused(400, "'html' and 'template' parameters are mutually exclusive")
    if form.options_size() > MOST_OPTIONS:
        raise Refused(400, "Total size of o:, h:, v: and t: parameters exceeds 16 KB")
    moment(form.first("o:deliverytime"))


BODIES = ("text", "html", "amp-html", "template")


def check_addresses(form: Form) -> None:
    if len(form.everybody) > MOST_RECIPIENTS:
        raise Refused(400, f"Too many recipients (maximum {MOST_RECIPIENTS})")
    for name in ("from", "to", "cc", "bcc"):
        for item in form.all(name):
            if not ADDRESS.fullmatch(bare(item)):
                said = f"'{name}' parameter is not a valid address. please check documentation"
                raise Refused(400, said)


def json_object(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(400, f"'{name}' parameter is not valid JSON")
    return found


def moment(text: str | None) -> datetime | None:
    """An RFC 2822 date with a zone, as ``o:deliverytime`` has it."""
    try:
        return None if text is None else parsedate_to_datetime(text).astimezone(timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise Refused(400, "Invalid delivery time") from None


def switch(word: str | None) -> bool | None:
    return None if word is None else word.lower() in ("yes", "true", "htmlonly")


def fill(text: str | None, row: Mapping[str, Any]) -> str | None:
    """A text with a recipient's variables; one that it does not have stays as it is."""
    if text is None:
        return None
    return PLACEHOLDER.sub(lambda match: str(row.get(match[1], match[0])), text)


def make_id(domain: str) -> str:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d%H%M%S")
    return f"<{stamp}.{secrets.randbelow(10)}.{secrets.token_hex(8).upper()}@{domain}>"


def route_of(request: Request) -> dict[str, Any]:
    actions = request.form.getlist("action")
    expression = request.form.get("expression", "")
    if not actions or not expression:
        raise Refused(400, "expression and action parameters are required")
    return {
        "priority": int(request.form.get("priority", "0")),
        "description": request.form.get("description", ""),
        "expression": expression,
        "actions": actions,
    }


# -- webhook bodies -------------------------------------------------------------------------


def test_mode(message: SentMessage) -> bool:
    return isinstance(message.payload, dict) and message.payload.get("o:testmode") == "yes"


def event_data(
    outcome: Outcome, message: SentMessage, address: str, details: Mapping[str, Any]
) -> dict[str, Any]:
    """An event as Mailgun posts it; ``details`` replace fields of it, or of its parts."""
    short_id = (message.message_id or "").strip("<>")
    data: dict[str, Any] = {
        "event": outcome.event,
        "id": secrets.token_urlsafe(16),
        "timestamp": round(time.time(), 6),
        "log-level": "info",
        "recipient": address,
        "recipient-domain": address.rpartition("@")[2],
        "tags": list(message.tags),
        "user-variables": dict(message.metadata),
        "flags": {"is-test-mode": test_mode(message)},
        "message": {"headers": message_headers(outcome.event, message, short_id)},
        **deepcopy(dict(outcome.more)),
    }
    if outcome.event in READERS:
        data |= reader(details)
    if outcome.event == "clicked":
        data["url"] = first_link(message.html, message.text)
    for name, value in details.items():
        place = data.setdefault("delivery-status", {}) if name in IN_STATUS else data
        if name != "user_agent":
            place[name] = value
    return data


def message_headers(event: str, message: SentMessage, short_id: str) -> dict[str, str]:
    """The headers in an event: a reader's events have the id only."""
    if event in READERS:
        return {"message-id": short_id}
    return {
        "to": ", ".join(message.to),
        "from": message.from_,
        "subject": message.subject or "",
        "message-id": short_id,
    }


def reader(details: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ip": "192.0.2.77",
        "geolocation": {"country": "NO", "region": "Unknown", "city": "Unknown"},
        "client-info": {
            "client-type": "browser",
            "client-name": "Firefox",
            "client-os": "Linux",
            "device-type": "desktop",
            "user-agent": details.get("user_agent", USER_AGENT),
            "bot": "",
        },
    }


def legacy_fields(data: Mapping[str, Any]) -> list[tuple[str, str | bytes]]:
    """An event as it was before 2018."""
    headers = data["message"]["headers"]
    return [
        ("event", data["event"]),
        ("recipient", data["recipient"]),
        ("domain", data["recipient-domain"]),
        ("message-headers", json.dumps(list(headers.items()))),
        ("Message-Id", f"<{headers['message-id']}>"),
    ]


PROOF = re.compile(rb"(signature\W+)([0-9a-f]{64})")


def forged(post: Post) -> Post:
    """The same request with a signature of the right form, and wrong."""
    body = PROOF.sub(lambda match: match[1] + match[2][::-1], post.body)
    return replace(post, body=body)


def encoded(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")


# -- inbound bodies -------------------------------------------------------------------------

Fields = list[tuple[str, str | bytes]]


def spam_headers(spam: tuple[bool, float] | None) -> list[tuple[str, str]]:
    """What the spam filter writes at the top."""
    if spam is None:
        return []
    flag, score = spam
    return [("X-Mailgun-Sflag", "Yes" if flag else "No"), ("X-Mailgun-Sscore", str(score))]


def envelope_fields(inbound: Inbound, mail: Mail) -> Fields:
    return [
        ("recipient", inbound.to),
        ("sender", inbound.mail_from or ""),
        ("from", mail.first("From") or ""),
        ("subject", mail.first("Subject") or ""),
    ]


def raw_fields(inbound: Inbound) -> Fields:
    """The source, with Mailgun's headers above it."""
    lines = [f"{name}: {value}\r\n" for name, value in spam_headers(inbound.spam)]
    source = "".join(lines).encode("ascii") + inbound.raw
    return [*envelope_fields(inbound, Mail(inbound.raw)), ("body-mime", source)]


def parsed_fields(inbound: Inbound, hook: MailgunHook) -> tuple[Fields, list[forms.FormFile]]:
    """What Mailgun makes of a mail: its headers are fields as well."""
    mail = Mail(inbound.raw)
    text = mail.text if mail.text is not None else without_tags(mail.html or "")
    stripped, _ = split_reply(text)
    headers = [*spam_headers(inbound.spam), *mail.headers()]
    fields = [
        *envelope_fields(inbound, mail),
        *headers,
        ("body-plain", text),
        ("stripped-text", stripped),
        ("message-headers", json.dumps(headers)),
    ]
    if mail.html is not None:
        fields += [("body-html", mail.html), ("stripped-html", mail.html)]
    named = [(f"attachment-{number}", part) for number, part in enumerate(mail.attachments, 1)]
    fields.append(("attachment-count", str(len(named))))
    if hook.store:
        return [*fields, ("attachments", json.dumps([link(*one) for one in named]))], []
    ids = {f"<{part.content_id}>": name for name, part in named if part.content_id}
    if ids:
        fields.append(("content-id-map", json.dumps(ids)))
    files = [forms.FormFile(name, p.name or name, p.content_type, p.data) for name, p in named]
    return fields, files


def link(name: str, part: Attached) -> dict[str, Any]:
    """What a route that stores the mail says of a file."""
    url = f"https://storage.example.net/{name}"
    return {
        "url": url,
        "name": part.name,
        "content-type": part.content_type,
        "size": len(part.data),
    }


def without_tags(html: str) -> str:
    """A text made of HTML."""
    return re.sub(r"<[^>]*>", "", html).strip()


# -- routes ---------------------------------------------------------------------------------

TYPES = (
    "accepted",
    "delivered",
    "opened",
    "clicked",
    "unsubscribed",
    "complained",
    "permanent_fail",
    "temporary_fail",
)
_DOMAIN = r"([^/%]+)"
ROUTES: list[tuple[re.Pattern[str], Callable[..., Any]]] = [
    (re.compile(rf"/v3/{_DOMAIN}/messages"), Mailgun._messages),
    (re.compile(rf"/v3/{_DOMAIN}/messages\.mime"), Mailgun._mime),
    (re.compile(r"/v[34]/domains"), Mailgun._domains),
    (re.compile(rf"/v[34]/domains/{_DOMAIN}"), Mailgun._domain),
    (re.compile(rf"/v3/domains/{_DOMAIN}/webhooks"), Mailgun._webhooks),
    (re.compile(rf"/v3/domains/{_DOMAIN}/webhooks/(\w+)"), Mailgun._webhook),
    (re.compile(r"/v3/routes"), Mailgun._routes),
    (re.compile(r"/v3/routes/(\w+)"), Mailgun._route),
    (re.compile(r"/v5/accounts/http_signing_key"), Mailgun._signing),
]

side = Mailgun
