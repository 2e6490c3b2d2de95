"""SendGrid's account: event webhooks, parse hosts and security policies, through its API.

Sources: https://www.twilio.com/docs/sendgrid/api-reference/webhooks,
https://www.twilio.com/docs/sendgrid/api-reference/settings-inbound-parse. What is not
documented (the texts of some errors) is our own.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .hooks import split_credentials
from .records import Hook
from .sendgrid_events import public_key
from .sendgrid_mail import ESP
from .store import Store

SCOPES = (
    "mail.send",
    "mail.batch.create",
    "user.webhooks.event.settings.read",
    "user.webhooks.event.settings.update",
    "user.webhooks.parse.settings.read",
    "user.webhooks.parse.settings.update",
)
SWITCHES = (
    "bounce",
    "click",
    "deferred",
    "delivered",
    "dropped",
    "group_resubscribe",
    "group_unsubscribe",
    "open",
    "processed",
    "spam_report",
    "unsubscribe",
)
MAX_WEBHOOKS = 5


@dataclass(frozen=True)
class SendGridHook(Hook):
    """What SendGrid's console is set to.

    ``signed`` has events signed and ``signed_inbound`` mail; ``send_raw`` posts mail as its
    source, else parsed.
    """

    signed: bool = True
    signed_inbound: bool = True
    send_raw: bool = True


@dataclass(frozen=True)
class Target:
    """Where events go. ``switches`` are the events it wants, None means all of them.

    ``key`` is the name of the key that signs, None where nothing does.
    """

    url: str = field(repr=False)
    switches: frozenset[str] | None = None
    key: str | None = None

    def wants(self, event: str) -> bool:
        switch = "spam_report" if event == "spamreport" else event
        return self.switches is None or switch in self.switches

    @property
    def place(self) -> str:
        """The URL without credentials, to know the same place again."""
        return split_credentials(self.url)[0]


class NotFound(Exception):
    """There is no such thing: 404."""


class Unusable(Exception):
    """What was asked for cannot be done: 400, with this text."""


Answer = tuple[int, Any]
Serve = Callable[["Account", dict[str, Any], tuple[str, ...]], Answer]
ROUTES: list[tuple[str, re.Pattern[str], Serve]] = []


def route(method: str, path: str) -> Callable[[Serve], Serve]:
    """Register what serves a path; ``<>`` stands for one segment."""
    pattern = re.compile(path.replace("<>", "([^/]+)"))

    def register(serve: Serve) -> Serve:
        ROUTES.append((method, pattern, serve))
        return serve

    return register


class Account:
    """What an account has set up, in the store; ``secret`` gives the private key of a name."""

    def __init__(self, store: Store, secret: Callable[[str], str]) -> None:
        self.store = store
        self.secret = secret

    def serve(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        """Answer a request. Raises NotFound and Unusable."""
        for wanted, pattern, serve in ROUTES:
            match = pattern.fullmatch(path)
            if match is not None and wanted == method:
                return serve(self, body, match.groups())
        raise NotFound

    def get(self, kind: str, key: str) -> dict[str, Any]:
        found: dict[str, Any] | None = self.store.get(ESP, kind, key)
        if found is None:
            raise NotFound
        return found

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [value for _, value in self.store.items(ESP, kind)]

    def targets(self, hook: SendGridHook) -> list[Target]:
        """Where events go, each place once; a webhook of the API comes first."""
        found = list(self._own_targets())
        if hook.tracking:
            found.append(Target(hook.tracking, None, "tracking" if hook.signed else None))
        return list({target.place: target for target in reversed(found)}.values())[::-1]

    def _own_targets(self) -> Iterator[Target]:
        for one in self.all("event webhook"):
            if one["enabled"]:
                switches = frozenset(name for name in SWITCHES if one[name])
                yield Target(
                    one["url"], switches, f"webhook {one['id']}" if one["signed"] else None
                )


def shown(account: Account, webhook: Mapping[str, Any]) -> dict[str, Any]:
    """A webhook as the API shows it: the public key only where it signs."""
    found = {name: value for name, value in webhook.items() if name != "signed"}
    if webhook["signed"]:
        found["public_key"] = public_key(account.secret(f"webhook {webhook['id']}"))
    return found


def checked_webhook(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a webhook that were given."""
    known = {**dict.fromkeys((*SWITCHES, "enabled"), bool), "url": str, "friendly_name": str}
    for name, value in body.items():
        if name not in known or not isinstance(value, known[name]):
            raise Unusable(f"invalid field: {name}")
    if not str(body.get("url", "https:")).startswith(("http://", "https:")):
        raise Unusable("url must be a URL")
    return dict(body)


@route("GET", "/scopes")
def get_scopes(_account: Account, _body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    return 200, {"scopes": list(SCOPES)}


@route("POST", "/mail/batch")
def post_batch(_account: Account, _body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    return 201, {"batch_id": secrets.token_urlsafe(48)}


@route("GET", "/user/webhooks/event/settings/all")
def list_webhooks(account: Account, _body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    found = [shown(account, one) for one in account.all("event webhook")]
    return 200, {"max_allowed": MAX_WEBHOOKS, "webhooks": found}


@route("POST", "/user/webhooks/event/settings")
def post_webhook(account: Account, body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    given = checked_webhook(body)
    if "url" not in given:
        raise Unusable("url is required")
    if len(account.all("event webhook")) >= MAX_WEBHOOKS:
        raise Unusable("maximum number of webhooks reached")
    blank = {"enabled": True, "friendly_name": "", **dict.fromkeys(SWITCHES, False)}
    webhook = {**blank, **given, "id": str(uuid.uuid4()), "signed": False}
    account.store.put(ESP, "event webhook", webhook["id"], webhook)
    return 201, shown(account, webhook)


@route("GET", "/user/webhooks/event/settings/<>")
def get_webhook(account: Account, _body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    return 200, shown(account, account.get("event webhook", args[0]))


@route("PATCH", "/user/webhooks/event/settings/<>")
def patch_webhook(account: Account, body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    webhook = account.get("event webhook", args[0]) | checked_webhook(body)
    account.store.put(ESP, "event webhook", args[0], webhook)
    return 200, shown(account, webhook)


@route("DELETE", "/user/webhooks/event/settings/<>")
def delete_webhook(account: Account, _body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    account.get("event webhook", args[0])
    account.store.remove(ESP, "event webhook", args[0])
    return 204, None


@route("GET", "/user/webhooks/event/settings/signed/<>")
def get_signed(account: Account, _body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    webhook = account.get("event webhook", args[0])
    return 200, {"id": args[0], "public_key": shown(account, webhook).get("public_key", "")}


@route("PATCH", "/user/webhooks/event/settings/signed/<>")
def patch_signed(account: Account, body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    webhook = account.get("event webhook", args[0])
    if not isinstance(body.get("enabled"), bool):
        raise Unusable("enabled must be a boolean")
    account.store.put(ESP, "event webhook", args[0], webhook | {"signed": body["enabled"]})
    return get_signed(account, {}, args)


# -- inbound parse ------------------------------------------------------------------------

HOST = {"url": "", "hostname": "", "spam_check": False, "send_raw": False, "security_policy": ""}


def keep_host(account: Account, host: dict[str, Any]) -> Answer:
    """Keep a host, and have incoming mail posted where it says."""
    policy = host["security_policy"]
    if policy:
        account.get("policy", policy)
    account.store.put(ESP, "parse host", host["hostname"], host)
    hook = account.store.get(ESP, "hook", "*") or {}
    hook |= {"inbound": host["url"], "send_raw": host["send_raw"], "signed_inbound": bool(policy)}
    account.store.put(ESP, "hook", "*", hook)
    return 200, host


def checked_host(body: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in body.items():
        if name not in HOST or not isinstance(value, type(HOST[name])):
            raise Unusable(f"invalid field: {name}")
    return dict(body)


@route("GET", "/user/webhooks/parse/settings")
def list_hosts(account: Account, _body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    return 200, {"result": account.all("parse host")}


@route("POST", "/user/webhooks/parse/settings")
def post_host(account: Account, body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    host = HOST | checked_host(body)
    if not host["url"] or not host["hostname"]:
        raise Unusable("url and hostname are required")
    status, found = keep_host(account, host)
    return status + 1, found


@route("GET", "/user/webhooks/parse/settings/<>")
def get_host(account: Account, _body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    return 200, account.get("parse host", args[0])


@route("PATCH", "/user/webhooks/parse/settings/<>")
def patch_host(account: Account, body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    return keep_host(account, account.get("parse host", args[0]) | checked_host(body))


@route("DELETE", "/user/webhooks/parse/settings/<>")
def delete_host(account: Account, _body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    account.get("parse host", args[0])
    account.store.remove(ESP, "parse host", args[0])
    hook = account.store.get(ESP, "hook", "*") or {}
    account.store.put(ESP, "hook", "*", hook | {"inbound": None})
    return 204, None


def policy_of(account: Account, policy: Mapping[str, Any]) -> dict[str, Any]:
    """A policy as the API shows it, with the key that the simulator signs all mail with."""
    found: dict[str, Any] = {"id": policy["id"], "name": policy["name"]}
    if policy["signed"]:
        found["signature"] = {"public_key": public_key(account.secret("inbound"))}
    return {"policy": found}


@route("GET", "/user/webhooks/security/policies")
def list_policies(account: Account, _body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    found = [policy_of(account, one)["policy"] for one in account.all("policy")]
    return 200, {"policies": found}


@route("POST", "/user/webhooks/security/policies")
def post_policy(account: Account, body: dict[str, Any], _args: tuple[str, ...]) -> Answer:
    signature = body.get("signature")
    if not isinstance(body.get("name"), str) or not isinstance(signature, dict):
        raise Unusable("name and one of signature or oauth are required")
    signed = signature.get("enabled") is True
    policy = {"id": str(uuid.uuid4()), "name": body["name"], "signed": signed}
    account.store.put(ESP, "policy", policy["id"], policy)
    return 201, policy_of(account, policy)


@route("GET", "/user/webhooks/security/policies/<>")
def get_policy(account: Account, _body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    return 200, policy_of(account, account.get("policy", args[0]))


@route("DELETE", "/user/webhooks/security/policies/<>")
def delete_policy(account: Account, _body: dict[str, Any], args: tuple[str, ...]) -> Answer:
    account.get("policy", args[0])
    account.store.remove(ESP, "policy", args[0])
    return 204, None
