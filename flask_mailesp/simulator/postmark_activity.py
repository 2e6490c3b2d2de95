"""What Postmark tells about mail it has taken: messages, opens, clicks and bounces.

Sources: https://postmarkapp.com/developer/api/messages-api,
https://postmarkapp.com/developer/api/bounce-api
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from . import mime
from .postmark_account import Account, Call, in_time, matches, paged, route
from .postmark_events import BOUNCE_TYPES
from .postmark_wire import ESP, NAMED, ApiError, split, stamp
from .records import SentMessage
from .store import Store


def record_event(store: Store, message: SentMessage, body: Mapping[str, Any]) -> None:
    """Keep what a webhook tells, so that it can be looked up."""
    store.note(ESP, "events", message.id, dict(body), message.id)
    if "BouncedAt" in body:
        store.put(ESP, "bounce", str(body["ID"]), dict(body), message.id)


def all_messages(store: Store) -> list[SentMessage]:
    """The messages in the activity, newest first: those of the test token have none."""
    return [one for one in reversed(store.messages()) if one.esp == ESP and not one.test]


def find_message(store: Store, number: str) -> SentMessage:
    found = store.find(number)
    if found is None or found[0].esp != ESP or found[0].test:
        raise ApiError(701, "The message was not found.")
    return found[0]


BOUNCE_FILTERS = {
    "Type": "type",
    "Tag": "tag",
    "MessageID": "messageid",
    "MessageStream": "messagestream",
    "Inactive": "inactive",
}


def bounce_object(body: Mapping[str, Any]) -> dict[str, Any]:
    hidden = ("RecordType", "Metadata", "Content")
    return {name: value for name, value in body.items() if name not in hidden}


def all_bounces(account: Account) -> list[dict[str, Any]]:
    return [bounce_object(body) for _, body in reversed(account.store.items(ESP, "bounce"))]


def one_bounce(account: Account, call: Call) -> dict[str, Any]:
    body = account.store.get(ESP, "bounce", str(call.number))
    if body is None:
        raise ApiError(1001, "The bounce was not found.")
    return bounce_object(body)


@route("GET", "/deliverystats")
def delivery_stats(account: Account, _call: Call) -> dict[str, Any]:
    found = all_bounces(account)
    counts = [
        {
            "Name": kind.name,
            "Type": name,
            "TypeCode": kind.code,
            "Count": sum(one["Type"] == name for one in found),
        }
        for name, kind in BOUNCE_TYPES.items()
    ]
    inactive = {key.partition(" ")[2] for key, _ in account.store.items(ESP, "suppression")}
    return {"InactiveMails": len(inactive), "Bounces": [one for one in counts if one["Count"]]}


@route("GET", "/bounces")
def list_bounces(account: Account, call: Call) -> dict[str, Any]:
    part = call.query.get("emailfilter", "").lower()
    found = [
        one
        for one in all_bounces(account)
        if matches(one, call.query, BOUNCE_FILTERS)
        and part in one["Email"].lower()
        and in_time(one["BouncedAt"], call.query)
    ]
    return paged(call, "Bounces", found)


@route("GET", "/bounces/<id>")
def get_bounce(account: Account, call: Call) -> dict[str, Any]:
    return one_bounce(account, call)


@route("GET", "/bounces/<id>/dump")
def dump_bounce(account: Account, call: Call) -> dict[str, Any]:
    one = one_bounce(account, call)
    return {"Body": f"Received: by simulator\r\nTo: {one['Email']}\r\n\r\n{one['Details']}\r\n"}


@route("PUT", "/bounces/<id>/activate")
def activate_bounce(account: Account, call: Call) -> dict[str, Any]:
    one = one_bounce(account, call)
    if not one["CanActivate"]:
        raise ApiError(1003, "This bounce cannot be activated.")
    account.reactivate(one["Email"], one["MessageStream"])
    changed = {"Inactive": False, "CanActivate": False}
    body = account.store.get(ESP, "bounce", str(one["ID"]))
    account.store.put(ESP, "bounce", str(one["ID"]), body | changed)
    return {"Message": "OK", "Bounce": one | changed}


# -- messages -------------------------------------------------------------------------------


def person(item: str) -> dict[str, str | None]:
    match = NAMED.fullmatch(item.strip())
    if match is None:
        return {"Email": item.strip(), "Name": None}
    return {"Email": match["address"].strip(), "Name": match["name"].strip('"') or None}


def people(message: SentMessage, name: str) -> list[dict[str, str | None]]:
    text = message.payload.get(name) if isinstance(message.payload, dict) else None
    return [person(item) for item in split(text or "") if item.strip()]


def message_object(message: SentMessage) -> dict[str, Any]:
    payload = message.payload if isinstance(message.payload, dict) else {}
    return {
        "Tag": message.tag,
        "MessageID": message.id,
        "MessageStream": message.stream,
        **{name: people(message, name) for name in ("To", "Cc", "Bcc")},
        "Recipients": message.recipients,
        "ReceivedAt": stamp(message.at),
        "From": message.from_,
        "Subject": message.subject or "",
        "Attachments": [one.name for one in message.attachments],
        "Status": "Sent",
        "TrackOpens": bool(payload.get("TrackOpens")),
        "TrackLinks": payload.get("TrackLinks") or "None",
        "Metadata": message.metadata,
        "Sandboxed": False,
    }


@route("GET", "/messages/outbound")
def list_messages(account: Account, call: Call) -> dict[str, Any]:
    found = [
        message_object(one) for one in all_messages(account.store) if is_wanted(one, call.query)
    ]
    return paged(call, "Messages", found)


def is_wanted(message: SentMessage, query: Mapping[str, str]) -> bool:
    recipient, sender = query.get("recipient", "").lower(), query.get("fromemail", "").lower()
    metadata = {name[9:]: value for name, value in query.items() if name.startswith("metadata_")}
    own = {name.lower(): value for name, value in message.metadata.items()}
    status = query.get("status", "sent").lower()
    return (
        query.get("tag") in (None, message.tag)
        and query.get("messagestream") in (None, message.stream)
        and query.get("subject", "").lower() in (message.subject or "").lower()
        and (not recipient or recipient in (one.lower() for one in message.recipients))
        and sender in message.from_.lower()
        and status in ("sent", "processed")
        and all(own.get(name) == value for name, value in metadata.items())
        and in_time(stamp(message.at), query)
    )


@route("GET", "/messages/outbound/opens")
def list_opens(account: Account, call: Call) -> dict[str, Any]:
    return activity(account, call, "Open", "Opens")


@route("GET", "/messages/outbound/clicks")
def list_clicks(account: Account, call: Call) -> dict[str, Any]:
    return activity(account, call, "Click", "Clicks")


@route("GET", "/messages/outbound/opens/<name>")
def list_message_opens(account: Account, call: Call) -> dict[str, Any]:
    return activity(account, call, "Open", "Opens", call.args[0])


@route("GET", "/messages/outbound/clicks/<name>")
def list_message_clicks(account: Account, call: Call) -> dict[str, Any]:
    return activity(account, call, "Click", "Clicks", call.args[0])


def activity(
    account: Account, call: Call, kind: str, name: str, message: str | None = None
) -> dict[str, Any]:
    filters = {"Recipient": "recipient", "Tag": "tag", "MessageStream": "messagestream"}
    found = [
        body
        for body in reversed(account.store.notes(ESP, "events", message))
        if body["RecordType"] == kind
        and matches(body, call.query, filters | {"Platform": "platform"})
    ]
    return paged(call, name, found)


@route("GET", "/messages/outbound/<name>/details")
def message_details(account: Account, call: Call) -> dict[str, Any]:
    message = find_message(account.store, call.args[0])
    more = {
        "TextBody": message.text or "",
        "HtmlBody": message.html or "",
        "Body": source_of(message),
        "MessageEvents": [
            message_event(body) for body in account.store.notes(ESP, "events", message.id)
        ],
    }
    return message_object(message) | more


@route("GET", "/messages/outbound/<name>/dump")
def message_dump(account: Account, call: Call) -> dict[str, Any]:
    return {"Body": source_of(find_message(account.store, call.args[0]))}


def source_of(message: SentMessage) -> str:
    """The RFC 5322 source as Postmark may have written it; empty where it cannot be written."""
    with suppress(ValueError, LookupError):
        raw = mime.compose(
            from_=message.from_,
            to=message.to or ["undisclosed-recipients:;"],
            subject=message.subject,
            text=message.text,
            html=message.html,
            attachments=[(one.name, one.content_type, one.data) for one in message.attachments],
            headers={"X-PM-Message-Id": message.id},
        )
        return raw.decode("utf-8", "replace")
    return ""


def message_event(body: Mapping[str, Any]) -> dict[str, Any]:
    kind, time, details = EVENT_ROWS[body["RecordType"]]
    if body.get("Type") == "Transient":
        kind = "Transient"
    return {
        "Recipient": body.get("Recipient") or body.get("Email"),
        "Type": kind,
        "ReceivedAt": body[time],
        "Details": {name: str(body.get(source, "")) for name, source in details.items()},
    }


_BOUNCED = ("Bounced", "BouncedAt", {"Summary": "Details", "BounceID": "ID"})
EVENT_ROWS: dict[str, tuple[str, str, dict[str, str]]] = {
    "Delivery": ("Delivered", "DeliveredAt", {"DeliveryMessage": "Details"}),
    "Bounce": _BOUNCED,
    "SpamComplaint": _BOUNCED,
    "Open": ("Opened", "ReceivedAt", {"Summary": "UserAgent"}),
    "Click": (
        "LinkClicked",
        "ReceivedAt",
        {"Link": "OriginalLink", "ClickLocation": "ClickLocation"},
    ),
    "SubscriptionChange": (
        "SubscriptionChanged",
        "ChangedAt",
        {"Origin": "Origin", "SuppressSending": "SuppressSending"},
    ),
}
