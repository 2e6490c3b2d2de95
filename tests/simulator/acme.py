"""A tiny provider, from a package of its own: what it needs from the house, the simulator gives.

Acme signs webhooks with the time in the signature, posts a probe when a hook is set, gives
each recipient an id, and tells of an incoming mail by an id: the app has to fetch it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from werkzeug.wrappers import Request, Response

from flask_mailesp.esp import (
    Call,
    Esp,
    Fetch,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Secret,
    Setting,
    Settings,
    Webhook,
    WebhookRequest,
)
from flask_mailesp.events import EventType, InboundEvent, TrackingEvent
from flask_mailesp.exceptions import AuthenticationError, FetchError, WebhookRejected
from flask_mailesp.inbound import InboundMessage
from flask_mailesp.message import PreparedMessage
from flask_mailesp.outcomes import accepted, failure, whole_call
from flask_mailesp.results import Status
from flask_mailesp.simulator.records import Hook, Inbound, Post, Schedule, SentMessage, Verdict
from flask_mailesp.simulator.side import Context, Side, base_of
from flask_mailesp.wire import as_object, text

# --- the ESP's room --------------------------------------------------------------------


def several(key: str, value: Any) -> tuple[bytes, ...]:
    """Return keys, of which there may be several for rotation."""
    return tuple(item.encode() for item in ([value] if isinstance(value, str) else value))


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    """Send one request for each recipient."""
    for address in message.recipients:
        body = {"to": address.addr_spec, "from": str(message.sender), "text": message.body}
        headers = {"Authorization": Secret(f"Acme {settings['API_KEY']}")}
        url = f"{settings['API_URL']}/send"
        yield Call(
            HttpRequest("POST", url, headers, json.dumps(body).encode()), (Part((address,)),)
        )


def sign(request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
    """Sign as it is sent."""
    assert isinstance(request.body, bytes)
    proof = digest(settings["API_KEY"].encode(), request.body)
    return replace(request, headers={**request.headers, "X-Proof": proof})


def read(call: Call, response: HttpResponse, settings: Settings) -> Sequence[Reading]:
    """Take 200 for success."""
    number = text(response.json(), "id")
    if response.status != 200:
        return whole_call(call, failure("Acme", response, kind=AuthenticationError))
    return [accepted(part, number, Status.QUEUED) for part in call.parts]


def verify(request: WebhookRequest, settings: Settings, now: datetime) -> None:
    """Check the signature over time and body."""
    given = request.headers.get("X-Acme-Signature") or ""
    sent = request.headers.get("X-Acme-Time") or ""
    for key in settings.require("SIGNING_KEY"):
        if hmac.compare_digest(digest(key, sent.encode() + request.body), given):
            return
    raise WebhookRejected("The signature is wrong.")


def parse(
    request: WebhookRequest, settings: Settings
) -> list[TrackingEvent | InboundEvent | Fetch]:
    """Return the event, or how to come by it."""
    raw = as_object(json.loads(request.body))
    if raw.get("event") != "received":
        kind = EventType(str(raw.get("event")))
        return [TrackingEvent(kind, raw, message_id=text(raw, "id"), recipient=text(raw, "to"))]
    headers = {"Authorization": Secret(f"Acme {settings['API_KEY']}")}
    url = f"{settings['API_URL']}/mails/{raw['id']}"
    return [Fetch(HttpRequest("GET", url, headers), with_link(raw))]


def with_link(raw: dict[str, Any]) -> Any:
    """Return what follows the link to the mail's source, which is text from outside."""

    def follow(response: HttpResponse) -> list[Fetch]:
        if response.status != 200:
            raise FetchError("Acme does not give the mail.")
        request = HttpRequest("GET", str(as_object(response.json())["source"]))
        return [Fetch(request, finish, foreign=True)]

    def finish(response: HttpResponse) -> list[InboundEvent]:
        return [InboundEvent(InboundMessage.from_raw(response.body), raw)]

    return follow


def digest(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, "sha256").hexdigest()


esp = Esp(
    "Acme",
    (
        Setting("API_URL", default="https://api.acme.example", bare=True),
        Setting("API_KEY", required=True, secret=True, bare=True),
        Setting("SIGNING_KEY", convert=several),
        Setting("DERIVED"),
    ),
    frozenset(),
    build,
    read,
    tracking=Webhook(verify, parse),
    inbound=Webhook(verify, parse),
    sign=sign,
    complete=lambda values, name: {"DERIVED": f"{values['API_URL']}/derived"},
)


# --- the simulator's side ----------------------------------------------------------------


def judge(status: int | None) -> Verdict:
    """200 alone is success."""
    return "done" if status == 200 else "retry"


class Acme(Side):
    """Acme's side of the wire."""

    key = "acme"
    signs = True
    ids = "it has numbers after A"

    def __init__(self, context: Context, keys: Iterable[str] = ("acme-key",)) -> None:
        super().__init__(context)
        self._keys = tuple(keys)

    @property
    def signing_key(self) -> str:
        return self.keep("signing key", lambda: "an-acme-signing-key")

    def settings(self, url: str) -> dict[str, Any]:
        return {"API_URL": url, "API_KEY": self._keys[0], "SIGNING_KEY": self.signing_key}

    def credentials(self) -> dict[str, str]:
        return {"Authorization": f"Acme {self._keys[0]}"}

    def is_id(self, number: str) -> bool:
        return number.startswith("A") and number[1:].isdigit()

    def respond(self, request: Request, path: str) -> Response:
        if path.startswith("/source/"):  # a signed link: it needs no credential
            return Response(self._mail(path), mimetype="message/rfc822")
        if request.headers.get("Authorization") != f"Acme {self._keys[0]}":
            self.refuse(path, 401, "who?")
            return Response("{}", 401)
        if path.startswith("/mails/"):
            return json_answer({"source": f"{base_of(request, path)}/source/{path[7:]}"})
        if request.headers.get("X-Proof") != digest(self._keys[0].encode(), request.get_data()):
            self.refuse(path, 403, "not signed")
            return Response("{}", 403)
        return json_answer({"id": self._accept(json.loads(request.get_data()), path).id})

    def _mail(self, path: str) -> bytes:
        mail: str = self.store.get(self.key, "mail", path.removeprefix("/source/"))
        return mail.encode("latin-1")

    def _accept(self, body: dict[str, Any], path: str) -> SentMessage:
        number = f"A{self.store.next_id(self.key, 1)}"
        message = SentMessage(
            esp=self.key,
            id=number,
            message_id=number,
            path=path,
            at=datetime.now(timezone.utc),
            payload=body,
            recipients=[body["to"]],
            ids={body["to"]: number},
            from_=body["from"],
            to=[body["to"]],
            text=body["text"],
            aliases=[f"alias-{number}"],
        )
        self.take(message)
        return message

    def events(self) -> tuple[str, ...]:
        return ("delivered", "bounced")

    def webhooks(
        self,
        message: SentMessage,
        event: str,
        recipient: str | None,
        details: dict[str, Any],
        hook: Hook,
    ) -> list[Post]:
        if event not in self.events():
            raise self.unreported(event, "Acme")
        address = self.find_recipient(message, recipient)
        body = {"event": event, "id": message.id, "to": address} | details
        return self._posts(hook.tracking, body, event, message.id)

    def inbound(self, mail: Inbound, hook: Hook) -> list[Post]:
        number = str(self.store.next_id("acme mail", 1))
        self.store.put(self.key, "mail", number, mail.raw.decode("latin-1"))
        return self._posts(hook.inbound, {"event": "received", "id": number}, "inbound", None)

    def hooked(self, hook: Hook, before: Hook) -> list[Post]:
        if hook.tracking == before.tracking:
            return []
        return self._posts(hook.tracking, {"event": "unknown"}, "probe", None)

    def _posts(
        self, url: str | None, body: dict[str, Any], event: str, message: str | None
    ) -> list[Post]:
        if url is None:
            return []
        post = Post(
            url,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "X-Acme-Id": "1"},
            esp=self.key,
            event=event,
            message=message,
            schedule=Schedule((10.0, 20.0), judge),
            proofs=("X-Acme-Signature",),
            sign=self._sign,
        )
        return [post]

    def _sign(self, post: Post, now: datetime) -> Post:
        sent = str(now.timestamp())
        proof = digest(self.signing_key.encode(), sent.encode() + post.body)
        return replace(
            post, headers=post.headers | {"X-Acme-Time": sent, "X-Acme-Signature": proof}
        )


def json_answer(body: Any) -> Response:
    return Response(json.dumps(body), mimetype="application/json")


side = Acme
