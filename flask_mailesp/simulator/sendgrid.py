"""SendGrid's side: ``mail/send``, the account's webhooks, and what is posted to them.

Source: https://www.twilio.com/docs/sendgrid/api-reference. The modules beside it have what is
refused (`sendgrid_mail`), what is posted (`sendgrid_events`) and set up (`sendgrid_account`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from werkzeug.wrappers import Request, Response

from .records import Inbound, Post, SentMessage
from .sendgrid_account import Account, NotFound, SendGridHook, Target, Unusable
from .sendgrid_events import (
    BY_WIRE_NAME,
    EVENTS,
    SIGNATURE,
    SUPPRESSING,
    Wire,
    event_body,
    events_post,
    inbound_post,
    new_inbound_key,
    new_key,
    new_tracking_key,
    public_key,
    signer,
)
from .sendgrid_mail import ESP, Problem, drafts, is_sandboxed, problems
from .side import Context, Planned, Side

KEY = "SG.simulator.SendGridSimulatorKey000001"
MAX_PAYLOAD = 30_000_000
MAKERS = {"tracking": new_tracking_key, "inbound": new_inbound_key}
SENDER = (
    "The from address does not match a verified Sender Identity. Mail cannot be sent until this "
    "error is resolved."
)
HTML_413 = "<html><head><title>413 Request Entity Too Large</title></head></html>"


class SendGrid(Side):
    """One SendGrid account. ``keys`` are the accepted API keys."""

    key = ESP
    hook = SendGridHook
    signs = True
    ids = "it has texts, or the UUID that the app has put into a custom argument"

    def __init__(self, context: Context, keys: Iterable[str] = (KEY,)) -> None:
        super().__init__(context)
        self._keys = sorted(keys)
        self._account = Account(context.store, self._pem)

    def settings(self, url: str) -> dict[str, Any]:
        return {
            "API_URL": f"{url}/v3",
            "API_KEY": self._keys[0],
            "WEBHOOK_VERIFICATION_KEY": [public_key(self._pem("tracking")), *self._own_keys()],
            "INBOUND_VERIFICATION_KEY": public_key(self._pem("inbound")),
        }

    def _own_keys(self) -> list[str]:
        """The public keys of the webhooks that were made through the API."""
        return [
            public_key(self._pem(target.key))
            for target in self._account.targets(SendGridHook())
            if target.key is not None
        ]

    def _pem(self, name: str) -> str:
        """The private key of a name, made when it is first needed."""
        return self.keep(f"{name} key", MAKERS.get(name, new_key))

    def credentials(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[0]}"}

    def suppress(self, address: str, stream: str | None = None) -> None:
        self._suppress(address, "Unsubscribed Address")

    def _suppress(self, address: str, reason: str) -> None:
        self.store.put(ESP, "suppression", f"* {address.lower()}", reason)

    def template(
        self,
        id: int | str | None,
        alias: str | None,
        subject: str,
        text: str | None,
        html: str | None,
    ) -> None:
        """A dynamic template if its id begins with ``d-``; SendGrid has no aliases."""
        template = {"subject": subject, "text": text, "html": html}
        self.store.put(ESP, "template", str(id if id is not None else alias), template)

    # -- answering ------------------------------------------------------------------------

    def respond(self, request: Request, path: str) -> Response:
        path = path.removeprefix("/v3").rstrip("/")
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._keys:
            text = "The provided authorization grant is invalid, expired, or revoked"
            return self._refused(path, 401, [(text, None)])
        if len(request.get_data()) > MAX_PAYLOAD:
            self.refuse(path, 413, HTML_413)
            return Response(HTML_413, 413, mimetype="text/html")
        if request.get_data() and not request.is_json:
            return self._refused(path, 415, [("Content-Type should be application/json.", None)])
        body = read_json(request)
        if (request.method, path) == ("POST", "/mail/send"):
            return self._send(body, path)
        return self._manage(request.method, path, body)

    def _send(self, body: Any, path: str) -> Response:
        found = list(problems(body))
        if found:
            return self._refused(path, 400, found)
        if not self.is_verified(body["from"]["email"]):
            return self._refused(path, 403, [(SENDER, "from")])
        copies = drafts(body, path, self._template(body))
        for message in copies:
            self.take(message)
        if is_sandboxed(body):
            return Response(b"", 200)
        return Response(b"", 202, {"X-Message-Id": copies[0].message_id or ""})

    def _template(self, body: dict[str, Any]) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.store.get(ESP, "template", str(body.get("template_id")))
        return found

    def _manage(self, method: str, path: str, body: Any) -> Response:
        try:
            given = body if isinstance(body, dict) else {}
            status, answer = self._account.serve(method, path, given)
        except NotFound:
            return self._refused(path, 404, [("resource not found", None)])
        except Unusable as error:
            return self._refused(path, 400, [(str(error), None)])
        return json_answer(status, answer)

    def _refused(self, path: str, status: int, found: Sequence[Problem]) -> Response:
        errors = [{"message": text, "field": field, "help": None} for text, field in found]
        body = {"errors": errors}
        self.refuse(path, status, body)
        return json_answer(status, body)

    # -- webhooks -------------------------------------------------------------------------

    def events(self) -> tuple[str, ...]:
        return tuple(EVENTS)

    def renamed(self, message: SentMessage, number: str) -> SentMessage:
        """The app may have put its own id among the custom arguments, where it looks for it."""
        own = {
            name: number if text in message.aliases else text
            for name, text in message.metadata.items()
        }
        return replace(super().renamed(message, number), metadata=own)

    def automatic(self, message: SentMessage, events: Sequence[str]) -> Planned:
        """A suppressed recipient, or a template that is not there, has the copy dropped."""
        if message.test or not events:
            return []
        planned: Planned = []
        for recipient in message.recipients:
            reason = self._why_dropped(message, recipient)
            names = ["rejected"] if reason else [name for name in events if name in EVENTS]
            details = {"reason": reason} if reason else {}
            planned += [(name, recipient, dict(details)) for name in names]
        return planned

    def _why_dropped(self, message: SentMessage, recipient: str) -> str | None:
        if message.template and self.store.get(ESP, "template", message.template) is None:
            return "Invalid SMTPAPI header"
        reason: str | None = self.store.get(ESP, "suppression", f"* {recipient.lower()}")
        return reason

    def is_hooked(self, message: SentMessage, hook: SendGridHook) -> bool:
        return bool(self._account.targets(hook))

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: SendGridHook,
    ) -> list[Post]:
        if message.test:
            raise ValueError("SendGrid reports no events in sandbox mode")
        wire = self._wire_event(event)
        address = self.find_recipient(message, recipient)
        body = event_body(message, wire, address, details)
        self._remember(address, body)
        return [
            self._to(target, message, event, body)
            for target in self._account.targets(hook)
            if target.wants(wire.name)
        ]

    def _wire_event(self, event: str) -> Wire:
        wire = EVENTS.get(event) or BY_WIRE_NAME.get(event)
        if wire is None:
            raise self.unreported(event, "SendGrid")
        return wire

    def _remember(self, address: str, body: dict[str, Any]) -> None:
        """Keep the suppression list in step with an event."""
        if body["event"] == "group_resubscribe":
            self.store.remove(ESP, "suppression", f"* {address.lower()}")
        elif body["event"] in SUPPRESSING and body.get("type") != "blocked":
            self._suppress(address, SUPPRESSING[body["event"]])

    def _to(self, target: Target, message: SentMessage, event: str, body: dict[str, Any]) -> Post:
        post = events_post(target.url, [body])
        return self._signed(replace(post, event=event, message=message.id), target.key)

    def _signed(self, post: Post, key: str | None) -> Post:
        """Have a post signed at each attempt."""
        if key is None:
            return post
        return replace(post, sign=signer(self._pem(key)), proofs=(SIGNATURE,))

    # -- inbound --------------------------------------------------------------------------

    def inbound(self, mail: Inbound, hook: SendGridHook) -> list[Post]:
        post = inbound_post(hook.inbound or "", mail, raw=hook.send_raw or mail.raw_email)
        return [self._signed(post, "inbound" if hook.signed_inbound else None)]


def read_json(request: Request) -> Any:
    try:
        return json.loads(request.get_data() or b"{}")
    except (ValueError, RecursionError):
        return None


def json_answer(status: int, body: Any) -> Response:
    data = b"" if body is None else json.dumps(body).encode("utf-8")
    return Response(data, status, mimetype="application/json")


side = SendGrid
