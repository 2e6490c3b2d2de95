"""Resend's side: its API for sending, receiving and webhooks.

Sources: https://resend.com/docs/api-reference and
https://resend.com/docs/dashboard/emails/idempotency-keys. One thing is let pass that Resend
refuses: recipients at example.com.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from werkzeug.wrappers import Request, Response

from .mime import bare
from .records import Hook, Inbound, Post, SentMessage
from .resend_received import Mails, told
from .resend_webhooks import (
    EVENTS,
    RECEIVED,
    WIRE_NAMES,
    Endpoints,
    ResendHook,
    new_message_id,
    new_secret,
    payload_of,
    post_to,
    shown,
)
from .resend_wire import (
    ESP,
    ApiError,
    answer,
    attached,
    check_message,
    check_variables,
    invalid,
    is_stuck,
    listed,
    read_json,
    rendered,
    scheduled,
    stamp,
    texts,
)
from .side import Context, Planned, Side, base_of

KEY = "re_Simulator_0000000000000001"
MAX_BATCH = 100
MAX_KEY = 256
DAY = 24 * 60 * 60.0
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
SENDING = frozenset({("POST", "/emails"), ("POST", "/emails/batch")})
# What resend.dev does with what is sent there; a +label makes no difference.
TEST_RECIPIENTS = {
    "delivered": ("sent", "delivered"),
    "bounced": ("sent", "bounced"),
    "complained": ("sent", "delivered", "complained"),
    "suppressed": ("rejected",),
}

Route = Callable[..., Any]


class Resend(Side):
    """One account: its API keys, verified domains, templates and webhooks.

    ``keys`` have full access; ``sending_keys`` may do nothing but send.
    """

    key = ESP
    hook = ResendHook
    signs = True
    ids = "it has UUIDs"
    own_headers = frozenset({"x-metadata", "x-tags"})

    def __init__(
        self, context: Context, keys: Iterable[str] = (KEY,), sending_keys: Iterable[str] = ()
    ) -> None:
        super().__init__(context)
        self._keys = tuple(keys)
        self._sending_keys = frozenset(sending_keys)
        self._endpoints = Endpoints(self.store)
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._routes: list[tuple[str, re.Pattern[str], Route]] = [
            (method, re.compile(path.replace("{}", "([^/]+)")), route)
            for method, path, route in (
                ("POST", "/emails", self._send),
                ("POST", "/emails/batch", self._send_batch),
                ("GET", "/emails", self._list),
                ("GET", "/emails/receiving", self._received_list),
                ("GET", "/emails/receiving/{}", self._received),
                ("GET", "/emails/receiving/{}/attachments", self._files),
                ("GET", "/emails/receiving/{}/attachments/{}", self._file),
                ("GET", "/emails/{}", self._get),
                ("PATCH", "/emails/{}", self._reschedule),
                ("POST", "/emails/{}/cancel", self._cancel),
                ("GET", "/domains", self._domains),
                ("POST", "/webhooks", self._make_webhook),
                ("GET", "/webhooks", self._webhook_list),
                ("GET", "/webhooks/{}", self._webhook),
                ("PATCH", "/webhooks/{}", self._change_webhook),
                ("DELETE", "/webhooks/{}", self._remove_webhook),
                ("POST", "/webhooks/{}/signing-secret/rotate", self._rotate),
            )
        ]

    @property
    def signing_secret(self) -> str:
        """The secret of the endpoint that tracking is posted to."""
        return self.keep("signing secret", new_secret)

    @property
    def inbound_secret(self) -> str:
        """The secret of the endpoint that is told of incoming mail."""
        return self.keep("inbound secret", _new_inbound_secret)

    @property
    def _mails(self) -> Mails:
        return Mails(self.store, self.inbound_secret)

    def settings(self, url: str) -> dict[str, Any]:
        return {
            "API_URL": url,
            "API_KEY": self._keys[0],
            "SIGNING_SECRET": self.signing_secret,
            "INBOUND_SECRET": self.inbound_secret,
        }

    def credentials(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[0]}"}

    def template(
        self,
        id: int | str | None,
        alias: str | None,
        subject: str,
        text: str | None,
        html: str | None,
    ) -> None:
        known = [str(name) for name in (id, alias) if name is not None]
        if not known:
            raise ValueError("a template of Resend has an id or an alias")
        for name in known:
            value = {"subject": subject, "text": text, "html": html}
            self.store.put(ESP, "template", name, value)

    # -- answering ------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        if path.startswith("/received/") and request.method == "GET":
            return self._download(request, path)
        if not request.headers.get("User-Agent"):
            self.refuse(path, 403, "error code: 1010")
            return Response("error code: 1010", 403)
        try:
            return self._result(request, path)
        except ApiError as error:
            self.refuse(path, error.status, error.body)
            return answer(error.body, error.status)

    def _result(self, request: Request, path: str) -> Response:
        self._authenticate(request, path)
        methods = []
        for method, pattern, route in self._routes:
            found = pattern.fullmatch(path)
            if found and method == request.method:
                body = route(request, path, *found.groups())
                return answer(body, 201 if (method, path) == ("POST", "/webhooks") else 200)
            methods += [method] if found else []
        if methods:
            raise ApiError(405, "method_not_allowed", "Method is not allowed for this path.")
        raise ApiError(404, "not_found", "The requested endpoint does not exist.")

    def _authenticate(self, request: Request, path: str) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "missing_api_key", "Missing API Key")
        if key in self._sending_keys:
            if (request.method, path) not in SENDING:
                text = "This API key is restricted to only send emails"
                raise ApiError(401, "restricted_api_key", text)
        elif key not in self._keys:
            raise ApiError(403, "invalid_api_key", "API key is invalid")

    # -- sending --------------------------------------------------------------------------

    def _send(self, request: Request, path: str) -> dict[str, Any]:
        def send(key: str | None) -> dict[str, Any]:
            draft = self._drafted(read_json(request, dict), path, key, batch=False)
            self.take(draft)
            return {"id": draft.id}

        return self._once(request, path, send)

    def _send_batch(self, request: Request, path: str) -> dict[str, Any]:
        mode = request.headers.get("x-batch-validation", "strict")
        if mode not in ("strict", "permissive"):
            raise invalid("The `x-batch-validation` header must be strict or permissive.")

        def send(key: str | None) -> dict[str, Any]:
            return self._taken(read_json(request, list), path, key, mode == "permissive")

        return self._once(request, path, send)

    def _taken(
        self, items: list[Any], path: str, key: str | None, permissive: bool
    ) -> dict[str, Any]:
        """Take the messages of a batch: all of them or, if permissive, the valid ones."""
        if not 1 <= len(items) <= MAX_BATCH:
            raise invalid(f"A batch has 1 to {MAX_BATCH} messages.")
        drafts, errors = [], []
        for index, item in enumerate(items):
            try:
                drafts.append(self._drafted(item, path, key, batch=True))
            except ApiError as error:
                if not permissive:
                    raise
                self.refuse(path, 200, error.body)
                errors.append({"index": index, "message": error.message})
        for draft in drafts:
            self.take(draft)
        data = {"data": [{"id": draft.id} for draft in drafts]}
        return data | {"errors": errors} if permissive else data

    def _once(
        self, request: Request, path: str, send: Callable[[str | None], dict[str, Any]]
    ) -> dict[str, Any]:
        """Answer a request whose key is known as before, without sending anything."""
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return send(None)
        if not 1 <= len(key) <= MAX_KEY:
            text = "The key must be between 1-256 chars."
            raise ApiError(400, "invalid_idempotency_key", text)
        with self._lock:
            if key in self._busy:
                text = "Another request with this idempotency key is in progress."
                raise ApiError(409, "concurrent_idempotent_requests", text)
            self._busy.add(key)
        try:
            return self._known(request, path, key) or self._remembered(request, path, key, send)
        finally:
            with self._lock:
                self._busy.discard(key)

    def _known(self, request: Request, path: str, key: str) -> dict[str, Any] | None:
        known = self.store.get(ESP, "idempotency", key)
        if known is None or time.time() - known["at"] > DAY:
            return None
        if known["request"] != digest_of(request, path):
            text = "This idempotency key has been used with another request body."
            raise ApiError(409, "invalid_idempotent_request", text)
        found: dict[str, Any] = known["answer"]
        return found

    def _remembered(
        self, request: Request, path: str, key: str, send: Callable[[str | None], dict[str, Any]]
    ) -> dict[str, Any]:
        given = send(key)
        known = {"at": time.time(), "request": digest_of(request, path), "answer": given}
        self.store.put(ESP, "idempotency", key, known)
        return given

    def _drafted(self, body: Any, path: str, key: str | None, *, batch: bool) -> SentMessage:
        """The message as it will be recorded."""
        check_message(body, batch=batch)
        self._check_sender(body["from"])
        content, variables = self._content(body)
        to, cc, bcc = (texts(body, field) for field in ("to", "cc", "bcc"))
        recipients = list(dict.fromkeys(bare(item) for item in [*to, *cc, *bcc]))
        number, headers = str(uuid.uuid4()), dict(body.get("headers") or {})
        tags, metadata = customary(headers)
        when = body.get("scheduled_at")
        chosen = body.get("template")
        return SentMessage(
            esp=ESP,
            id=number,
            message_id=f"{uuid.uuid4()}@mail.example.net",
            path=path,
            at=datetime.now(timezone.utc),
            payload=body,
            recipients=recipients,
            ids=dict.fromkeys(recipients, number),
            from_=body["from"],
            to=to,
            cc=cc,
            bcc=bcc,
            reply_to=texts(body, "reply_to"),
            subject=content.get("subject"),
            text=content.get("text"),
            html=content.get("html"),
            headers=list(headers.items()),
            attachments=[attached(item) for item in body.get("attachments") or ()],
            tag=tags[0] if tags else None,
            tags=tags,
            metadata=metadata,
            send_at=None if when is None else scheduled(when),
            idempotency_key=key,
            template=None if chosen is None else str(chosen["id"]),
            variables=variables,
        )

    def _check_sender(self, sender: str) -> None:
        if not self.is_verified(bare(sender)):
            domain = bare(sender).rpartition("@")[2]
            text = f"The {domain} domain is not verified. Please, add and verify your domain."
            raise ApiError(403, "validation_error", text)

    def _content(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Subject and bodies, and the variables they were rendered with."""
        chosen = body.get("template")
        if chosen is None:
            return body, {}
        if not isinstance(chosen, dict) or not isinstance(chosen.get("id"), str):
            raise invalid("The `template` field needs an `id`.")
        template = self.store.get(ESP, "template", chosen["id"])
        if template is None:
            raise ApiError(404, "not_found", "Template not found")
        variables = check_variables(chosen.get("variables"))
        content = {name: rendered(text, variables) for name, text in template.items() if text}
        if body.get("subject") is not None:
            content["subject"] = body["subject"]
        return content, variables

    # -- looking up -----------------------------------------------------------------------

    def _message(self, number: str) -> SentMessage:
        found = self.store.find(number)
        if found is None or found[0].esp != ESP:
            raise ApiError(404, "not_found", "Email not found")
        return found[0]

    def _list(self, _request: Request, _path: str) -> dict[str, Any]:
        messages = [one for one in self.store.messages() if one.esp == ESP]
        return listed([self._shown(one) for one in reversed(messages)])

    def _get(self, _request: Request, _path: str, number: str) -> dict[str, Any]:
        message = self._message(number)
        return {
            "object": "email",
            **self._shown(message),
            "html": message.html,
            "text": message.text,
        }

    def _shown(self, message: SentMessage) -> dict[str, Any]:
        seen = self.store.notes(ESP, "events", message.id)
        last = seen[-1] if seen else "scheduled" if message.send_at else "queued"
        when = self.store.get(ESP, "scheduled", message.id)
        return {
            "id": message.id,
            "message_id": f"<{message.message_id}>",
            "from": message.from_,
            "to": message.to,
            "cc": message.cc,
            "bcc": message.bcc,
            "reply_to": message.reply_to,
            "subject": message.subject,
            "created_at": stamp(message.at),
            "scheduled_at": when or (message.send_at and stamp(message.send_at)),
            "last_event": last,
        }

    def _reschedule(self, request: Request, _path: str, number: str) -> dict[str, Any]:
        message = self._scheduled(number)
        when = read_json(request, dict).get("scheduled_at")
        scheduled(when)
        self.store.put(ESP, "scheduled", number, when, message.id)
        return {"object": "email", "id": number}

    def _cancel(self, _request: Request, _path: str, number: str) -> dict[str, Any]:
        message = self._scheduled(number)
        self.store.note(ESP, "events", number, "canceled", message.id)
        return {"object": "email", "id": number}

    def _scheduled(self, number: str) -> SentMessage:
        message = self._message(number)
        if message.send_at is None or "canceled" in self.store.notes(ESP, "events", number):
            raise invalid("Only a scheduled email can be changed.")
        return message

    def _domains(self, _request: Request, _path: str) -> dict[str, Any]:
        names = sorted(self.context.sender_domains or {"example.org"})
        return listed(
            [
                {
                    "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
                    "name": name,
                    "status": "verified",
                    "created_at": "2026-01-01T00:00:00.000Z",
                    "region": "eu-west-1",
                }
                for name in names
            ]
        )

    # -- webhooks -------------------------------------------------------------------------

    def _make_webhook(self, request: Request, _path: str) -> dict[str, Any]:
        return self._endpoints.create(read_json(request, dict))

    def _webhook_list(self, _request: Request, _path: str) -> dict[str, Any]:
        return listed([shown(one) for one in self._endpoints.all()])

    def _webhook(self, _request: Request, _path: str, number: str) -> dict[str, Any]:
        return shown(self._endpoints.find(number), secret=True)

    def _change_webhook(self, request: Request, _path: str, number: str) -> dict[str, Any]:
        return self._endpoints.update(number, read_json(request, dict))

    def _remove_webhook(self, _request: Request, _path: str, number: str) -> dict[str, Any]:
        return self._endpoints.remove(number)

    def _rotate(self, _request: Request, _path: str, number: str) -> dict[str, Any]:
        return self._endpoints.rotate(number)

    def events(self) -> tuple[str, ...]:
        return tuple(EVENTS)

    def is_id(self, text: str) -> bool:
        return UUID.fullmatch(text) is not None

    def automatic(self, message: SentMessage, events: Sequence[str]) -> Planned:
        """What is stuck is never told of; what is scheduled or suppressed is told as that."""
        if not events or is_stuck(message.attachments):
            return []
        planned: Planned = []
        for recipient in message.recipients:
            names = self._fate(message, recipient, events)
            planned += [(event, recipient, {}) for event in names if event in EVENTS]
        return planned

    def _fate(self, message: SentMessage, recipient: str, events: Sequence[str]) -> Sequence[str]:
        mailbox, _, domain = recipient.lower().rpartition("@")
        if domain == "resend.dev":
            return TEST_RECIPIENTS.get(mailbox.partition("+")[0], events)
        if self.is_suppressed(recipient):
            return ["rejected"]
        later = message.send_at is not None and message.send_at > message.at
        return ["queued"] if later else events

    def is_hooked(self, message: SentMessage, hook: Hook) -> bool:
        return hook.tracking is not None or any(
            one["status"] == "enabled" for one in self._endpoints.all()
        )

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: ResendHook,
    ) -> list[Post]:
        if event not in EVENTS and event not in WIRE_NAMES:
            raise self.unreported(event, "Resend")
        address = self.find_recipient(message, recipient)
        payload = payload_of(message, event, details)
        name: str = payload["type"]
        self.store.note(ESP, "events", message.id, name.removeprefix("email."), message.id)
        if (
            name == "email.complained"
            or payload["data"].get("bounce", {}).get("type") == "Permanent"
        ):
            self.suppress(address)
        posts = self._posts(name, payload, hook.tracking, self.signing_secret)
        return [replace(post, event=event, message=message.id) for post in posts]

    def _posts(
        self, name: str, payload: dict[str, Any], console: str | None, secret: str
    ) -> list[Post]:
        """One request for each endpoint, all with the same id."""
        targets = [(console, [secret])] if console is not None else []
        targets += [(one["endpoint"], one["secrets"]) for one in self._endpoints.wanting(name)]
        message_id = new_message_id()
        return [post_to(url, known, message_id, payload) for url, known in targets]

    # -- inbound --------------------------------------------------------------------------

    def inbound(self, mail: Inbound, hook: ResendHook) -> list[Post]:
        payload = told(self._mails.add(mail, hook.with_source))
        posts = self._posts(RECEIVED, payload, hook.inbound, self.inbound_secret)
        return [replace(post, event="inbound") for post in posts]

    def _received_list(self, _request: Request, _path: str) -> dict[str, Any]:
        return self._mails.all()

    def _received(self, request: Request, path: str, number: str) -> dict[str, Any]:
        html_format = request.args.get("html_format", "data_uri")
        return self._mails.whole(number, base_of(request, path), html_format)

    def _files(self, request: Request, path: str, number: str) -> dict[str, Any]:
        return listed(self._mails.files(number, base_of(request, path)))

    def _file(self, request: Request, path: str, number: str, file: str) -> dict[str, Any]:
        return self._mails.file(number, file, base_of(request, path))

    def _download(self, request: Request, path: str) -> Response:
        try:
            _, _, number, part = path.split("/")
            return self._mails.download(request, number, part)
        except (ValueError, ApiError):
            return Response("No such file.", 404)


def _new_inbound_secret() -> str:
    """A function of its own: what is made once for all is told by what makes it."""
    return new_secret()


def digest_of(request: Request, path: str) -> str:
    return hashlib.sha256(path.encode() + b"\n" + request.get_data()).hexdigest()


def customary(headers: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Tags and metadata, in the headers in which senders put them; Resend has no fields for it."""
    found = {name.lower(): parsed(value) for name, value in headers.items()}
    tags, metadata = found.get("x-tags"), found.get("x-metadata")
    return (
        [str(tag) for tag in tags] if isinstance(tags, list) else [],
        dict(metadata) if isinstance(metadata, dict) else {},
    )


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


side = Resend
