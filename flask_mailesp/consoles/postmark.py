"""Postmark: the server behind the token, and the webhooks of its message streams.

https://postmarkapp.com/developer/api/server-api
https://postmarkapp.com/developer/api/webhooks-api
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    same_path,
    same_place,
    userinfo,
    with_credentials,
)
from ..esp import HttpRequest, HttpResponse, Settings
from ..exceptions import APIError, AuthenticationError, MailESPError
from ..outcomes import failure
from ..wire import as_list, as_object, flag, integer, text

NAME = "Postmark"
TRIGGERS = ("Open", "Click", "Delivery", "Bounce", "SpamComplaint", "SubscriptionChange")
SENDING_STREAMS = frozenset({"Transactional", "Broadcasts"})
TEST_TOKEN = "POSTMARK_API_TEST"  # noqa: S105 - public: Postmark documents it

HINTS = {
    10: "Check MAILESP_POSTMARK_SERVER_TOKEN: Postmark > Servers > your server > API Tokens.",
    606: "It accepts no URL on an internal address: give the public one.",
    1350: "The message stream is archived.",
    1353: "One of the events does not exist on this kind of message stream.",
    1354: "It does not accept the URL: it must be public and begin with https://.",
    1359: "The message stream has as many webhooks as it can: delete one in the console.",
    1364: (
        "It called the URL and was not answered with 200: deploy the app with the same "
        "WEBHOOK_SECRET first, and run `flask mailesp doctor --url` with its address."
    ),
    1480: "This machine's IP address is not on the server's allow-list.",
}


def request(settings: Settings, method: str, path: str, body: Any = None) -> HttpRequest:
    """Return a call to the server's own API."""
    headers = {"X-Postmark-Server-Token": settings["SERVER_TOKEN"]}
    return json_request(method, settings["API_URL"] + path, headers, body)


def problem(response: HttpResponse) -> MailESPError | None:
    """Return what an answer complains about, or None if it is what was asked for."""
    answer = response.json()
    code = integer(as_object(answer).get("ErrorCode")) or 0
    if response.status == 200 and code == 0 and isinstance(answer, dict):
        return None
    kind = AuthenticationError if code in (10, 1480) or response.status == 401 else APIError
    said = str(code) if code else None
    return failure(NAME, response, code=said, hint=HINTS.get(code, ""), kind=kind)


# --- the credential --------------------------------------------------------------------


def check(settings: Settings) -> Talk[list[Finding]]:
    """Ask for the server that the token belongs to."""
    if settings["SERVER_TOKEN"].upper() == TEST_TOKEN:
        return [Finding("credentials", Verdict.WARNING, TEST), SENDER]
    response = yield request(settings, "GET", "/server")
    return [Finding("credentials", *credentials(response)), SENDER]


TEST = (
    "This is Postmark's test token: it accepts every message and sends none. Set "
    "MAILESP_POSTMARK_SERVER_TOKEN to a server's own."
)
SENDER = Finding(
    "sender",
    Verdict.CANNOT_TELL,
    "A server token may not ask which senders are confirmed: look at Postmark > Sender Signatures.",
)


def credentials(response: HttpResponse) -> tuple[Verdict, str]:
    """Read the answer of ``GET /server``."""
    error = problem(response)
    if isinstance(error, AuthenticationError):
        return Verdict.FAILED, str(error)
    if error is not None:
        return Verdict.CANNOT_TELL, str(error)
    server = as_object(response.json())
    name = text(server, "Name") or "without a name"
    if text(server, "DeliveryType") == "Sandbox":
        return Verdict.WARNING, f"The token's server {name!r} is a sandbox: it delivers nothing."
    return Verdict.OK, f"Postmark accepts the token of its server {name!r}."


# --- the webhooks ----------------------------------------------------------------------


def plan(settings: Settings, targets: tuple[HookTarget, ...]) -> Talk[list[Change]]:
    """Compare the webhooks of every stream that sends, and the inbound hook, with the targets."""
    changes: list[Change] = []
    for target in targets:
        if target.kind == "inbound":
            answer = answered((yield request(settings, "GET", "/server")), problem)
            changes.append(inbound_change(settings, target, text(answer, "InboundHookUrl") or ""))
            continue
        for stream in (yield from sending_streams(settings)):
            path = f"/webhooks?MessageStream={quote(stream, safe='')}"
            answer = answered((yield request(settings, "GET", path)), problem)
            hooks = [as_object(item) for item in as_list(answer.get("Webhooks"))]
            changes += stream_changes(settings, target, stream, hooks)
    return changes


def sending_streams(settings: Settings) -> Talk[list[str]]:
    """Return the ids of the streams that send; an inbound stream has no webhooks."""
    path = "/message-streams?MessageStreamType=All&IncludeArchivedStreams=false"
    answer = answered((yield request(settings, "GET", path)), problem)
    streams = [as_object(item) for item in as_list(answer.get("MessageStreams"))]
    return [
        stream_id
        for item in streams
        if text(item, "MessageStreamType") in SENDING_STREAMS
        and (stream_id := text(item, "ID")) is not None
    ]


def stream_changes(
    settings: Settings, target: HookTarget, stream: str, hooks: list[dict[str, Any]]
) -> Iterator[Change]:
    """Yield what is to be done on one stream. At most one webhook is made or changed."""
    place = f"message stream {stream!r}"
    ours = [hook for hook in hooks if same_place(text(hook, "Url") or "", target.url)]
    if ours:
        yield update(settings, target, place, ours[0])
    else:
        yield create(settings, target, place, stream)
    for hook in hooks:
        if hook in ours[1:]:
            yield Change(Action.FOREIGN, place, masked(text(hook, "Url") or ""), (DOUBLED,))
        elif hook not in ours:
            yield foreign(place, text(hook, "Url") or "", target)


def foreign(place: str, url: str, target: HookTarget) -> Change:
    """Return the entry for somebody else's webhook."""
    details = ("the same path on another host",) if same_path(url, target.url) else ()
    return Change(Action.FOREIGN, place, masked(url), details)


def create(settings: Settings, target: HookTarget, place: str, stream: str) -> Change:
    """Return the change that makes a webhook for all events of a stream."""
    body = {
        "Url": target.url,
        "MessageStream": stream,
        "HttpAuth": http_auth(settings, target),
        "Triggers": {name: {"Enabled": True} for name in TRIGGERS},
    }
    sent = request(settings, "POST", "/webhooks", body)
    return Change(Action.CREATE, place, target.url, ("for all events",), sent)


def update(settings: Settings, target: HookTarget, place: str, hook: Mapping[str, Any]) -> Change:
    """Return the change that corrects our webhook; what is not wrong is left as it is."""
    url = text(hook, "Url") or ""
    body: dict[str, Any] = {}
    details = list(url_differences(url, target.url))
    if not authenticates(hook, http_auth(settings, target)):
        details.append("other credentials")
    if details:  # one or the other place for credentials, never both
        body |= {"Url": target.url, "HttpAuth": http_auth(settings, target)}
    off = [name for name in TRIGGERS if not is_on(hook, name)]
    if off:
        details.append(f"turns on {', '.join(off)}")
        body["Triggers"] = {name: {"Enabled": True} for name in off}
    unverified = ("not verified: press Verify in the console",) if is_unverified(hook) else ()
    if not body:
        return Change(Action.UNCHANGED, place, masked(url), unverified)
    sent = request(settings, "PUT", f"/webhooks/{integer(hook.get('ID')) or 0}", body)
    return Change(Action.UPDATE, place, target.url, tuple(details), sent)


def url_differences(url: str, wanted: str) -> Iterator[str]:
    """Yield what is wrong with our webhook's URL, credentials apart."""
    given, right = urlsplit(url), urlsplit(wanted)
    if (given.scheme, given.path, given.query) != (right.scheme, right.path, right.query):
        yield f"was {masked(url)}"


def http_auth(settings: Settings, target: HookTarget) -> dict[str, str]:
    """Return the credentials as Postmark keeps them. Raises ConfigurationError without any."""
    secret = target.secret or settings.require("WEBHOOK_SECRET")[0]
    user, _, password = secret.decode().partition(":")
    return {"Username": user, "Password": password}


def authenticates(hook: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Tell whether a webhook brings these credentials, as HttpAuth or in its URL.

    A password that Postmark does not show is taken to be the right one.
    """
    auth = as_object(hook.get("HttpAuth"))
    if auth:
        given = {name: text(auth, name) for name in wanted}
        given["Password"] = given["Password"] or wanted["Password"]
        return given == wanted
    return userinfo(text(hook, "Url") or "") == tuple(wanted.values())


def is_on(hook: Mapping[str, Any], trigger: str) -> bool:
    """Tell whether a webhook reports an event."""
    return flag(as_object(as_object(hook.get("Triggers")).get(trigger)), "Enabled") is True


def is_unverified(hook: Mapping[str, Any]) -> bool:
    """Tell whether Postmark says that it posts nothing to a webhook."""
    return (text(hook, "Status") or "").lower() == "unverified"


def inbound_change(settings: Settings, target: HookTarget, url: str) -> Change:
    """Compare the server's one inbound hook; its credentials can only be in the URL."""
    auth = http_auth(settings, target)
    if url and not same_place(url, target.url):
        return foreign("inbound", url, target)
    if userinfo(url) == tuple(auth.values()) and not list(url_differences(url, target.url)):
        return Change(Action.UNCHANGED, "inbound", masked(url))
    whole = with_credentials(target.url, ":".join(auth.values()).encode())
    sent = request(settings, "PUT", "/server", {"InboundHookUrl": whole})
    action = Action.UPDATE if url else Action.CREATE
    return Change(action, "inbound", target.url, (f"was {masked(url)}",) if url else (), sent)


console = Console(
    check,
    places={
        "tracking": "Postmark > your server > each message stream > Webhooks",
        "inbound": "Postmark > your server > the inbound stream > Settings > Webhook",
    },
    plan=plan,
    problem=problem,
)
