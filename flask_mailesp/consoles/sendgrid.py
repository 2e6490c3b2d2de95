"""SendGrid: what an API key may do, its event webhooks, and the hosts of inbound mail.

https://www.twilio.com/docs/sendgrid/api-reference/api-key-permissions
https://www.twilio.com/docs/sendgrid/api-reference/webhooks
https://www.twilio.com/docs/sendgrid/api-reference/settings-inbound-parse
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from ..console import (
    DOUBLED,
    Action,
    Change,
    Console,
    Finding,
    HookTarget,
    Talk,
    Verdict,
    answered,
    json_request,
    masked,
    same_place,
    userinfo,
)
from ..esp import HttpRequest, HttpResponse, Settings
from ..exceptions import APIError, AuthenticationError, MailESPError
from ..outcomes import failure
from ..wire import as_list, as_object, flag, strings, text

NAME = "SendGrid"
EVENT_WEBHOOKS = "/user/webhooks/event/settings"
PARSE_HOSTS = "/user/webhooks/parse/settings"
EVENTS = (
    "processed",
    "deferred",
    "delivered",
    "bounce",
    "dropped",
    "open",
    "click",
    "spam_report",
    "unsubscribe",
    "group_unsubscribe",
    "group_resubscribe",
)

HINTS = {
    401: "Check MAILESP_SENDGRID_API_KEY: SendGrid > Settings > API Keys.",
    403: "The API key lacks the permission for this: SendGrid > Settings > API Keys.",
}


def request(settings: Settings, method: str, path: str, body: Any = None) -> HttpRequest:
    """Return a call to SendGrid's API."""
    headers = {"Authorization": f"Bearer {settings['API_KEY']}"}
    return json_request(method, settings["API_URL"] + path, headers, body)


def problem(response: HttpResponse) -> MailESPError | None:
    """Return what an answer complains about, or None if it is what was asked for."""
    answer = response.json()
    if response.status in (200, 201) and isinstance(answer, dict):
        return None
    errors = (text(item, "message") for item in as_list(as_object(answer).get("errors")))
    said, hint = "; ".join(strings(errors)), HINTS.get(response.status, "")
    kind = None if response.status in (401, 403, 429) else APIError
    return failure(NAME, response, message=said, hint=hint, kind=kind)


# --- the credential --------------------------------------------------------------------


def check(settings: Settings) -> Talk[list[Finding]]:
    """Ask what the API key may do."""
    response = yield request(settings, "GET", "/scopes")
    return [Finding("credentials", *credentials(response)), SENDER]


SENDER = Finding(
    "sender",
    Verdict.CANNOT_TELL,
    "A key for sending may not ask which senders are verified: look at SendGrid > Settings > "
    "Sender Authentication.",
)


def credentials(response: HttpResponse) -> tuple[Verdict, str]:
    """Read the answer of ``GET /scopes``."""
    error = problem(response)
    if isinstance(error, AuthenticationError):
        return Verdict.FAILED, str(error)
    if error is not None:
        return Verdict.CANNOT_TELL, str(error)
    scopes = strings(as_list(as_object(response.json()).get("scopes")))
    if "mail.send" not in scopes:
        return Verdict.FAILED, "SendGrid accepts the API key, but without the permission Mail Send."
    return Verdict.OK, "SendGrid accepts the API key, and for sending."


# --- the webhooks ----------------------------------------------------------------------


def plan(settings: Settings, targets: tuple[HookTarget, ...]) -> Talk[list[Change]]:
    """Compare the event webhooks and the parse hosts with the targets."""
    changes: list[Change] = []
    for target in targets:
        if target.kind == "tracking":
            answer = answered((yield request(settings, "GET", f"{EVENT_WEBHOOKS}/all")), problem)
            hooks = [as_object(item) for item in as_list(answer.get("webhooks"))]
            changes += event_changes(settings, target, hooks)
        else:
            answer = answered((yield request(settings, "GET", PARSE_HOSTS)), problem)
            hosts = [as_object(item) for item in as_list(answer.get("result"))]
            changes += host_changes(settings, target, hosts)
    return changes


def is_same(url: str, target: HookTarget) -> bool:
    """Tell whether a URL is the very one that SendGrid should have, credentials included."""
    given, wanted = urlsplit(url), urlsplit(target.whole_url)
    return (given.scheme, given.path, given.query, userinfo(url)) == (
        wanted.scheme,
        wanted.path,
        wanted.query,
        userinfo(target.whole_url),
    )


# --- event webhooks --------------------------------------------------------------------


def event_changes(
    settings: Settings, target: HookTarget, hooks: Sequence[dict[str, Any]]
) -> Iterator[Change]:
    """Yield what is to be done about the event webhooks. Others are left alone."""
    ours = [hook for hook in hooks if same_place(text(hook, "url") or "", target.url)]
    if not ours:
        body = {"url": target.whole_url, "enabled": True, "friendly_name": "Flask-MailESP"}
        sent = request(settings, "POST", EVENT_WEBHOOKS, body | dict.fromkeys(EVENTS, True))
        details = ("for all events", *UNSIGNED[target.secret is None])
        yield Change(Action.CREATE, "event webhooks", target.url, details, sent)
    for number, hook in enumerate(hooks):
        url = text(hook, "url") or ""
        if ours and hook is ours[0]:
            yield from update(settings, target, hook)
        elif hook in ours:
            yield Change(Action.FOREIGN, _name(hook, number), masked(url), (DOUBLED,))
        else:
            yield Change(Action.FOREIGN, _name(hook, number), masked(url))


# SendGrid gives a webhook its key only afterwards.
UNSIGNED = {True: ("unsigned at first: run this once more to have it signed",), False: ()}


def _name(hook: Mapping[str, Any], number: int = 0) -> str:
    name = text(hook, "friendly_name") or text(hook, "id") or str(number + 1)
    return f"event webhook {name!r}"


def update(settings: Settings, target: HookTarget, hook: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the changes that correct our webhook; what is not wrong is left as it is."""
    body: dict[str, Any] = {}
    url, place = text(hook, "url") or "", _name(hook)
    path = quote(text(hook, "id") or "", safe="")
    details = []
    if not is_same(url, target):
        body["url"] = target.whole_url
        details.append(f"was {masked(url)}")
    off = [name for name in ("enabled", *EVENTS) if flag(hook, name) is not True]
    if off:
        body |= dict.fromkeys(off, True)
        details.append(f"turns on {', '.join(off)}")
    if body:
        sent = request(settings, "PATCH", f"{EVENT_WEBHOOKS}/{path}", body)
        yield Change(Action.UPDATE, place, target.url, tuple(details), sent)
    key = text(hook, "public_key")
    if key is None and target.secret is None:
        sent = request(settings, "PATCH", f"{EVENT_WEBHOOKS}/signed/{path}", {"enabled": True})
        yield Change(Action.UPDATE, place, target.url, ("has it signed",), sent)
    elif not body:
        yield Change(Action.UNCHANGED, place, masked(url), tuple(unknown_key(settings, key)))


def unknown_key(settings: Settings, key: str | None) -> Iterator[str]:
    """Yield the webhook's key where the app does not know it yet."""
    if key is not None and key not in map(_spki, settings.get("WEBHOOK_VERIFICATION_KEY") or ()):
        yield f"its key is to be put into MAILESP_SENDGRID_WEBHOOK_VERIFICATION_KEY: {key}"


def _spki(key: Any) -> str:
    """Return a loaded public key as SendGrid shows it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode("ascii")


# --- inbound parse ---------------------------------------------------------------------


def host_changes(
    settings: Settings, target: HookTarget, hosts: Sequence[dict[str, Any]]
) -> Iterator[Change]:
    """Yield what is to be done about the parse hosts. Only you know a new one's name."""
    ours = [host for host in hosts if same_place(text(host, "url") or "", target.url)]
    for host in hosts:
        url, name = text(host, "url") or "", text(host, "hostname") or ""
        if host in ours:
            yield update_host(settings, target, url, name, host)
        else:
            yield Change(Action.FOREIGN, f"parse host {name!r}", masked(url))
    if not ours:
        yield Change(Action.FOREIGN, "inbound parse", target.url, (NO_HOST,))


NO_HOST = "no host posts here: add one in the console (Settings > Inbound Parse)"
UNPROTECTED = "has no security policy, and its mail is not signed: see the documentation"


def update_host(
    settings: Settings, target: HookTarget, url: str, name: str, host: Mapping[str, Any]
) -> Change:
    """Return the change that has a host post the whole mail to exactly our URL."""
    body: dict[str, Any] = {}
    details = []
    if not is_same(url, target):
        body["url"] = target.whole_url
        details.append(f"was {masked(url)}")
    if flag(host, "send_raw") is not True:
        body["send_raw"] = True
        details.append("sends the raw message")
    if target.secret is None and text(host, "security_policy") is None:
        details.append(UNPROTECTED)
    place = f"parse host {name!r}"
    if not body:
        return Change(Action.UNCHANGED, place, masked(url), tuple(details))
    sent = request(settings, "PATCH", f"{PARSE_HOSTS}/{quote(name, safe='')}", body)
    return Change(Action.UPDATE, place, target.url, tuple(details), sent)


console = Console(
    check,
    places={
        "tracking": "SendGrid > Settings > Mail Settings > Event Webhooks",
        "inbound": "SendGrid > Settings > Inbound Parse > Add Host & URL",
    },
    plan=plan,
    problem=problem,
)
