"""Postmark's webhooks API: the webhooks of a stream, and their verification.

Source: https://postmarkapp.com/developer/api/webhooks-api
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import hooks
from .postmark_account import Account, Call, has_types, is_url, route
from .postmark_events import webhook
from .postmark_wire import ESP, ApiError
from .records import Hook, Post

MAX_WEBHOOKS = 10
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
TRIGGERS: dict[str, dict[str, bool]] = {
    "Open": {"Enabled": False, "PostFirstOpenOnly": False},
    "Click": {"Enabled": False},
    "Delivery": {"Enabled": False},
    "Bounce": {"Enabled": False, "IncludeContent": False},
    "SpamComplaint": {"Enabled": False, "IncludeContent": False},
    "SubscriptionChange": {"Enabled": False},
}


@dataclass(frozen=True)
class PostmarkHook(Hook):
    """What a webhook of Postmark's own console is set to.

    With ``include_content`` bounces carry their source; with ``subscription_changes`` hard
    bounces and complaints are followed by the SubscriptionChange that they cause.
    """

    include_content: bool = False
    subscription_changes: bool = False


@dataclass(frozen=True)
class Target:
    """Where webhooks of a stream go: a webhook of the API, or a hook of the simulator.

    ``triggers`` are the record types it wants; None means all of them.
    """

    url: str = field(repr=False)
    triggers: frozenset[str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    include_content: bool = False
    first_open_only: bool = False
    subscription_changes: bool = True

    def wants(self, body: Mapping[str, Any]) -> bool:
        if self.first_open_only and body.get("FirstOpen") is False:
            return False
        return self.triggers is None or body["RecordType"] in self.triggers

    @property
    def place(self) -> str:
        """The URL without credentials, to know the same place again."""
        return hooks.split_credentials(self.url)[0]


def targets(account: Account, stream: str, hook: PostmarkHook) -> list[Target]:
    """Where a stream's webhooks go, each place once; a webhook of the API comes first."""
    own = [target_of(one) for one in all_webhooks(account) if is_active(one, stream)]
    if hook.tracking:
        own.append(
            Target(
                hook.tracking,
                include_content=hook.include_content,
                subscription_changes=hook.subscription_changes,
            )
        )
    return list({target.place: target for target in reversed(own)}.values())[::-1]


def all_webhooks(account: Account) -> list[dict[str, Any]]:
    return [value for _, value in account.store.items(ESP, "webhook")]


def find_webhook(account: Account, number: int) -> dict[str, Any]:
    found: dict[str, Any] | None = account.store.get(ESP, "webhook", str(number))
    if found is None:
        raise ApiError(1352, "The webhook was not found.")
    return found


WEBHOOK_FIELDS: dict[str, type] = {
    "Url": str,
    "MessageStream": str,
    "HttpAuth": dict,
    "HttpHeaders": list,
    "Triggers": dict,
    "Verify": bool,
}


def is_active(one: Mapping[str, Any], stream: str) -> bool:
    return bool(one["MessageStream"] == stream and one["Status"] == "verified")


def target_of(one: Mapping[str, Any]) -> Target:
    triggers = one["Triggers"]
    enabled = frozenset(name for name in TRIGGERS if triggers[name]["Enabled"])
    headers = {item["Name"]: item["Value"] for item in one.get("HttpHeaders") or ()}
    return Target(
        one["Url"],
        enabled,
        headers | basic_auth(one.get("HttpAuth") or {}),
        include_content=triggers["Bounce"]["IncludeContent"],
        first_open_only=triggers["Open"]["PostFirstOpenOnly"],
    )


def basic_auth(auth: Mapping[str, str]) -> dict[str, str]:
    if not auth:
        return {}
    pair = f"{auth.get('Username', '')}:{auth.get('Password', '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"}


@route("GET", "/webhooks")
def list_webhooks(account: Account, call: Call) -> dict[str, Any]:
    stream = call.query.get("messagestream")
    found = [one for one in all_webhooks(account) if stream in (None, one["MessageStream"])]
    return {"Webhooks": found}


@route("GET", "/webhooks/<id>")
def get_webhook(account: Account, call: Call) -> dict[str, Any]:
    return find_webhook(account, call.number)


@route("POST", "/webhooks")
def post_webhook(account: Account, call: Call) -> dict[str, Any]:
    body = checked_webhook(call.body())
    stream = body.get("MessageStream") or "outbound"
    check_webhook_stream(account, stream)
    if not is_url(body.get("Url")):
        raise ApiError(1354, "A webhook needs a valid Url.")
    if sum(one["MessageStream"] == stream for one in all_webhooks(account)) >= MAX_WEBHOOKS:
        raise ApiError(1359, f"A stream can have at most {MAX_WEBHOOKS} webhooks.")
    number = account.store.next_id("postmark webhook", 1)
    blank = {"ID": number, "MessageStream": stream, "Status": "unverified", "Triggers": TRIGGERS}
    return saved_webhook(account, merged_webhook(blank, body), body.get("Verify", True))


@route("PUT", "/webhooks/<id>")
def put_webhook(account: Account, call: Call) -> dict[str, Any]:
    old, body = find_webhook(account, call.number), dict(call.body())
    same = {name: body.pop(name, old[name]) == old[name] for name in ("ID", "MessageStream")}
    if not all(same.values()):
        raise ApiError(1357, "The ID and the MessageStream of a webhook cannot change.")
    checked_webhook(body)
    if not is_url(body.get("Url", old["Url"])):
        raise ApiError(1354, "A webhook needs a valid Url.")
    return saved_webhook(account, merged_webhook(old, body), body.get("Verify", True))


@route("DELETE", "/webhooks/<id>")
def delete_webhook(account: Account, call: Call) -> dict[str, Any]:
    find_webhook(account, call.number)
    account.store.remove(ESP, "webhook", str(call.number))
    return {"ErrorCode": 0, "Message": f"Webhook {call.number} removed."}


@route("POST", "/webhooks/<id>/verify")
def verify_webhook(account: Account, call: Call) -> dict[str, Any]:
    one = find_webhook(account, call.number)
    report = probe(one)
    status = "verified" if report["Success"] else "unverified"
    account.store.put(ESP, "webhook", str(one["ID"]), one | {"Status": status})
    return report


def checked_webhook(body: dict[str, Any]) -> dict[str, Any]:
    for wrong, code, text in (
        (not body, 1355, "The body is empty."),
        ("ID" in body, 1356, "A new webhook has no ID."),
        ("Status" in body, 1362, "The Status cannot be set."),
        (not has_types(body, WEBHOOK_FIELDS), 1361, "A field does not exist, or is ill-typed."),
        (not are_headers(body.get("HttpHeaders")), 1358, "A header needs a name that is one."),
        (not are_triggers(body.get("Triggers") or {}), 1353, "A trigger is not supported."),
    ):
        if wrong:
            raise ApiError(code, text)
    return body


def are_headers(items: Any) -> bool:
    return all(
        isinstance(item, dict)
        and HEADER_NAME.fullmatch(str(item.get("Name") or ""))
        and isinstance(item.get("Value"), str)
        for item in items or ()
    )


def are_triggers(triggers: Mapping[str, Any]) -> bool:
    return all(
        name in TRIGGERS
        and isinstance(options, dict)
        and has_types(options, dict.fromkeys(TRIGGERS[name], bool))
        for name, options in triggers.items()
    )


def check_webhook_stream(account: Account, name: str) -> None:
    stream = account.stream(name)
    if stream["MessageStreamType"] == "Inbound":
        raise ApiError(1351, "An inbound stream has no webhooks: set the InboundHookUrl.")
    if stream["ArchivedAt"]:
        raise ApiError(1350, "The message stream is archived.")


def merged_webhook(old: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields given replace the old ones; of Triggers only what is given changes."""
    given = body.get("Triggers") or {}
    triggers = {
        name: options | (given.get(name) or {}) for name, options in old["Triggers"].items()
    }
    fields = {
        name: body[name]
        for name in ("Url", "HttpAuth", "HttpHeaders")
        if body.get(name) is not None
    }
    return {**old, **fields, "Triggers": triggers}


def saved_webhook(account: Account, one: dict[str, Any], verify: bool | None) -> dict[str, Any]:
    """Probe first if the simulator is told to; without probing every webhook is verified."""
    status = "verified"
    if account.verify and verify is False:
        status = "unverified"
    elif account.verify:
        report = probe(one)
        if not report["Success"]:
            error = ApiError(1364, "The webhook did not answer 200 to every probe.")
            error.body["Results"] = report["Results"]
            raise error
    saved = one | {"Status": status}
    account.store.put(ESP, "webhook", str(one["ID"]), saved)
    return saved


def probe(one: Mapping[str, Any]) -> dict[str, Any]:
    """Post a sample for every enabled trigger; exactly 200 is wanted."""
    target = target_of(one)
    results = [probe_one(target, name) for name in sorted(target.triggers or ())]
    success = all(result["Success"] for result in results)
    text = "The webhook is verified." if success else "The webhook is not verified."
    head = {"Id": one["ID"], "Url": one["Url"], "Success": success}
    return head | {"Results": results, "Message": text}


def probe_one(target: Target, trigger: str) -> dict[str, Any]:
    sample = {"RecordType": trigger, "MessageID": str(uuid.UUID(int=0)), "Metadata": {}}
    request: Post = webhook(target.url, sample, headers=target.headers)
    answer = hooks.post(request)
    return {
        "TriggerType": trigger,
        "Success": answer.status == 200,
        "StatusCode": answer.status,
        "Message": answer.error or "",
    }
