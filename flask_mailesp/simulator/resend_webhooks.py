"""Resend's webhooks: the endpoints, the payloads, and how Svix signs and repeats them.

Sources: https://resend.com/docs/webhooks/event-types, /webhooks/retries-and-replays,
https://docs.svix.com/receiving/verifying-payloads/how-manual and https://docs.svix.com/retries.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from .mime import first_link
from .records import Hook, Post, Schedule, SentMessage, Verdict
from .resend_wire import ESP, ApiError, invalid, missing, stamp
from .store import Store

USER_AGENT = "Svix-Webhooks/1.84.0 (+https://www.svix.com/http-sender/)"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
RECEIVED = "email.received"

EVENTS = {
    "queued": "email.scheduled",
    "sent": "email.sent",
    "delivered": "email.delivered",
    "deferred": "email.delivery_delayed",
    "bounced": "email.bounced",
    "soft_bounced": "email.bounced",
    "rejected": "email.suppressed",
    "failed": "email.failed",
    "complained": "email.complained",
    "opened": "email.opened",
    "clicked": "email.clicked",
}
WIRE_NAMES = {name: event for event, name in EVENTS.items() if event != "soft_bounced"}
ALL_EVENTS = frozenset({*WIRE_NAMES, RECEIVED})
OTHERS = ("contact.", "domain.", "suppression.", "topic.", "inbox.")


@dataclass(frozen=True)
class ResendHook(Hook):
    """What the endpoints are, and how Resend's inbound is set up.

    Without ``with_source`` it is as if Resend had no source of the mails that come in.
    """

    with_source: bool = True


def judge(status: int | None) -> Verdict:
    """Any 2xx is success; no other status stops the retries."""
    return "done" if status is not None and 200 <= status < 300 else "retry"


SCHEDULE = Schedule((5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0), judge)


# -- signatures -----------------------------------------------------------------------------


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode("ascii")


def signature(secret: str, message_id: str, seconds: str, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b".".join([message_id.encode("ascii"), seconds.encode("ascii"), body])
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode("ascii")


def signed(with_secrets: tuple[str, ...], post: Post, now: datetime) -> Post:
    """The request with the time and the signatures of this very attempt."""
    seconds = str(int(now.timestamp()))
    message_id = post.headers["svix-id"]
    found = [signature(secret, message_id, seconds, post.body) for secret in with_secrets]
    headers = {"svix-timestamp": seconds, "svix-signature": " ".join(found)}
    return replace(post, headers=post.headers | headers)


def post_to(
    url: str, with_secrets: Iterable[str], message_id: str, payload: Mapping[str, Any]
) -> Post:
    """The request that tells one endpoint; each attempt at it is signed anew."""
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "svix-id": message_id,
    }
    return Post(
        url,
        body.encode("utf-8", "replace"),
        headers,
        timeout=15,
        esp=ESP,
        schedule=SCHEDULE,
        proofs=("svix-signature",),
        sign=partial(signed, tuple(with_secrets)),
    )


def new_message_id() -> str:
    return f"msg_{uuid.uuid4().hex}"


# -- endpoints made by the API --------------------------------------------------------------


class Endpoints:
    """The webhooks of the account that were made through the API."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[dict[str, Any]]:
        return [value for _, value in self._store.items(ESP, "webhook")]

    def wanting(self, event: str) -> list[dict[str, Any]]:
        """Those that are told of an event."""
        return [one for one in self.all() if one["status"] == "enabled" and event in one["events"]]

    def find(self, number: str) -> dict[str, Any]:
        found: dict[str, Any] | None = self._store.get(ESP, "webhook", number)
        if found is None:
            raise ApiError(404, "not_found", "Webhook not found")
        return found

    def keep(self, one: dict[str, Any]) -> None:
        self._store.put(ESP, "webhook", one["id"], one)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        for field in ("endpoint", "events"):
            if not body.get(field):
                raise missing(field)
        one = {
            "id": str(uuid.uuid4()),
            "created_at": stamp(),
            "status": "enabled",
            "secrets": [new_secret()],
            **checked(body),
        }
        self.keep(one)
        return {"object": "webhook", "id": one["id"], "signing_secret": one["secrets"][0]}

    def update(self, number: str, body: dict[str, Any]) -> dict[str, Any]:
        self.keep(self.find(number) | checked(body))
        return {"object": "webhook", "id": number}

    def rotate(self, number: str) -> dict[str, Any]:
        """Make a new secret; the old one signs beside it, as it does for a day."""
        one = self.find(number)
        self.keep(one | {"secrets": [new_secret(), one["secrets"][0]]})
        return {
            "object": "webhook",
            "id": number,
            "signing_secret": self.find(number)["secrets"][0],
        }

    def remove(self, number: str) -> dict[str, Any]:
        self.find(number)
        self._store.remove(ESP, "webhook", number)
        return {"object": "webhook", "id": number, "deleted": True}


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """What may be chosen of an endpoint."""
    found: dict[str, Any] = {
        name: body[name] for name in ("endpoint", "events", "status") if name in body
    }
    url, events = found.get("endpoint", "https://"), found.get("events", [])
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise invalid("The `endpoint` field must be a URL.")
    if not isinstance(events, list) or not all(map(is_event, events)):
        raise invalid("The `events` field names an event that does not exist.")
    if found.get("status", "enabled") not in ("enabled", "disabled"):
        raise invalid("The `status` field must be enabled or disabled.")
    return found


def is_event(name: Any) -> bool:
    return isinstance(name, str) and (name in ALL_EVENTS or name.startswith(OTHERS))


def shown(one: dict[str, Any], *, secret: bool = False) -> dict[str, Any]:
    """An endpoint as the API tells it; a list does without the secrets."""
    known = {name: one[name] for name in ("id", "created_at", "status", "endpoint", "events")}
    return known | ({"object": "webhook", "signing_secret": one["secrets"][0]} if secret else {})


# -- payloads -------------------------------------------------------------------------------


def payload_of(message: SentMessage, event: str, details: dict[str, Any]) -> dict[str, Any]:
    """The body for an event; ``details`` replace fields of its data."""
    name = EVENTS.get(event, event)
    data = data_of(message) | own_data(message, "bounced" if event == name else event, name)
    for field, value in details.items():
        put(data, name, field, value)
    return {"type": name, "created_at": stamp(), "data": data}


# Details that people give, and where the payload has them.
FRIENDLY = {
    "url": ("click", "link"),
    "link": ("click", "link"),
    "user_agent": ("click", "userAgent"),
    "ip_address": ("click", "ipAddress"),
}
INNER = {
    "email.bounced": "bounce",
    "email.clicked": "click",
    "email.failed": "failed",
    "email.suppressed": "suppressed",
}


def put(data: dict[str, Any], name: str, field: str, value: Any) -> None:
    """Replace a field of the data, or of what it says of this kind of event."""
    inner = INNER.get(name, "")
    if field in FRIENDLY and FRIENDLY[field][0] == inner:
        data[inner] = {**data[inner], FRIENDLY[field][1]: value}
    elif inner and field in data[inner]:
        data[inner] = {**data[inner], field: value}
    elif field == inner and isinstance(value, dict):
        data[inner] = {**data[inner], **value}
    else:
        data[field] = value


def data_of(message: SentMessage) -> dict[str, Any]:
    """What every event says of a message. It lists all of To, whoever it is about."""
    payload = message.payload if isinstance(message.payload, dict) else {}
    data: dict[str, Any] = {
        "email_id": message.id,
        "message_id": f"<{message.message_id}>",
        "created_at": stamp(message.at),
        "from": message.from_,
        "to": message.to,
        "subject": message.subject or "",
    }
    if message.headers:
        data["headers"] = [{"name": name, "value": value} for name, value in message.headers]
    tags = payload.get("tags")
    if isinstance(tags, list):
        data["tags"] = {item["name"]: item["value"] for item in tags}
    if message.template is not None:
        data["template_id"] = message.template
    return data


BOUNCES = {
    "bounced": {
        "type": "Permanent",
        "subType": "General",
        "message": "The recipient's email provider sent a hard bounce message.",
        "diagnosticCode": ["smtp; 550 5.1.1 no such user"],
    },
    "soft_bounced": {
        "type": "Transient",
        "subType": "MailboxFull",
        "message": "The recipient's inbox is full: its provider sent a bounce message.",
        "diagnosticCode": ["smtp; 452 4.2.2 mailbox full"],
    },
}


def own_data(message: SentMessage, event: str, name: str) -> dict[str, Any]:
    """What one kind of event says besides."""
    if name == "email.bounced":
        return {"bounce": BOUNCES[event]}
    if name == "email.clicked":
        return {
            "click": {
                "ipAddress": "198.51.100.23",
                "link": first_link(message.html, message.text),
                "timestamp": stamp(),
                "userAgent": BROWSER,
            }
        }
    if name == "email.failed":
        return {"failed": {"reason": "reached_daily_quota"}}
    if name == "email.suppressed":
        return {
            "suppressed": {
                "type": "OnAccountSuppressionList",
                "reason": "previous_bounce",
                "message": "The recipient is on the account's suppression list.",
            }
        }
    return {}
