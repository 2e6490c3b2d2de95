"""Resend: what the key may do, the verified domains, and the webhook endpoints.

https://resend.com/docs/api-reference/domains/list-domains
https://resend.com/docs/api-reference/webhooks/list-webhooks
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ..console import (
    DOUBLED,
    Action,
    Change,
    Console,
    Finding,
    HookTarget,
    Kind,
    Talk,
    Verdict,
    answered,
    json_request,
    masked,
    same_path,
    same_place,
)
from ..esp import HttpRequest, HttpResponse, Secret, Settings
from ..exceptions import APIError, AuthenticationError, MailESPError
from ..outcomes import failure
from ..wire import as_list, as_object, flag, strings, text

NAME = "Resend"
PAGE = 100
MOST_PAGES = 20

EVENTS: dict[Kind, tuple[str, ...]] = {
    "tracking": (
        "email.sent",
        "email.scheduled",
        "email.delivered",
        "email.delivery_delayed",
        "email.bounced",
        "email.complained",
        "email.opened",
        "email.clicked",
        "email.failed",
        "email.suppressed",
    ),
    "inbound": ("email.received",),
}
SECRETS: dict[Kind, str] = {
    "tracking": "MAILESP_RESEND_SIGNING_SECRET",
    "inbound": "MAILESP_RESEND_INBOUND_SECRET",
}
RESTRICTED = "restricted_api_key"
HINTS = {
    "missing_api_key": "Check MAILESP_RESEND_API_KEY: Resend > API Keys.",
    "invalid_api_key": "Check MAILESP_RESEND_API_KEY: Resend > API Keys.",
    "suspended_api_key": "The key is suspended: Resend > API Keys.",
    RESTRICTED: "This key may only send; managing webhooks needs one with Full access.",
}


def request(settings: Settings, method: str, path: str, body: Any = None) -> HttpRequest:
    """Return a call to the management API."""
    key = Secret(f"Bearer {settings['API_KEY']}")
    return json_request(method, settings["API_URL"] + path, {"Authorization": key}, body)


def problem(response: HttpResponse) -> MailESPError | None:
    """Return what an answer complains about, or None if it is what was asked for."""
    answer = response.json()
    if 200 <= response.status < 300 and isinstance(answer, dict):
        return None
    name = text(answer, "name")
    kind = AuthenticationError if name in HINTS or response.status in (401, 403) else APIError
    return failure(NAME, response, code=name, hint=HINTS.get(name or "", ""), kind=kind)


# --- the credential --------------------------------------------------------------------


def check(settings: Settings) -> Talk[list[Finding]]:
    """Ask for the domains, which a key that may only send is refused by name."""
    response = yield request(settings, "GET", "/domains")
    verdict, said = credentials(response, receives=settings.get("INBOUND_SECRET") is not None)
    return [Finding("credentials", verdict, said), Finding("sender", *sender(response))]


def credentials(response: HttpResponse, *, receives: bool) -> tuple[Verdict, str]:
    """Read the answer of ``GET /domains``."""
    error = problem(response)
    if error is None:
        return Verdict.OK, "Resend accepts the key, which has full access."
    if text(response.json(), "name") == RESTRICTED:
        if receives:
            return Verdict.WARNING, (
                "Resend accepts the key, which may only send: inbound mail is fetched with it, "
                "which needs a key with Full access (Resend > API Keys)."
            )
        return Verdict.OK, "Resend accepts the key, which may only send."
    if isinstance(error, AuthenticationError):
        return Verdict.FAILED, str(error)
    return Verdict.CANNOT_TELL, str(error)


UNTOLD = "Which domains are verified could not be asked: look at Resend > Domains."


def sender(response: HttpResponse) -> tuple[Verdict, str]:
    """Tell the domains that one may send from."""
    if problem(response) is not None:
        return Verdict.CANNOT_TELL, UNTOLD
    domains = [as_object(item) for item in as_list(as_object(response.json()).get("data"))]
    verified = [one for one in domains if text(one, "status") == "verified"]
    names = strings(one.get("name") for one in verified)
    if names:
        return Verdict.OK, f"Verified: {', '.join(sorted(names))}."
    return Verdict.WARNING, "No domain is verified: Resend > Domains."


# --- the webhooks ----------------------------------------------------------------------


def plan(settings: Settings, targets: tuple[HookTarget, ...]) -> Talk[list[Change]]:
    """Compare the account's endpoints with the targets."""
    hooks = yield from endpoints(settings)
    changes: list[Change] = []
    for target in targets:
        changes += target_changes(settings, target, hooks)
    for hook in hooks:
        url = text(hook, "endpoint") or ""
        if not any(same_place(url, target.url) for target in targets):
            changes.append(foreign(url, targets))
    return changes


def endpoints(settings: Settings) -> Talk[list[dict[str, Any]]]:
    """Return all endpoints of the account."""
    found: list[dict[str, Any]] = []
    after = ""
    for _ in range(MOST_PAGES):
        path = f"/webhooks?limit={PAGE}{after}"
        answer = answered((yield request(settings, "GET", path)), problem)
        found += [as_object(item) for item in as_list(answer.get("data"))]
        last = text(found[-1], "id") if found else None
        if not flag(answer, "has_more") or last is None:
            break
        after = f"&after={quote(last, safe='')}"
    return found


def target_changes(
    settings: Settings, target: HookTarget, hooks: list[dict[str, Any]]
) -> Iterator[Change]:
    """Yield what is to be done for one target. At most one endpoint is made or changed."""
    ours = [one for one in hooks if same_place(text(one, "endpoint") or "", target.url)]
    if not ours:
        yield create(settings, target)
        return
    yield update(settings, target, ours[0])
    for hook in ours[1:]:
        yield Change(Action.FOREIGN, target.kind, masked(text(hook, "endpoint") or ""), (DOUBLED,))


def create(settings: Settings, target: HookTarget) -> Change:
    """Return the change that makes an endpoint."""
    body = {"endpoint": target.whole_url, "events": list(EVENTS[target.kind])}
    sent = request(settings, "POST", "/webhooks", body)
    note = f"afterwards set {SECRETS[target.kind]} to its Signing Secret: Resend > Webhooks"
    return Change(Action.CREATE, target.kind, target.url, (note,), sent)


def update(settings: Settings, target: HookTarget, hook: Mapping[str, Any]) -> Change:
    """Return the change that corrects our endpoint; what is not wrong is left as it is."""
    url, wanted = text(hook, "endpoint") or "", target.whole_url
    body: dict[str, Any] = {}
    details: list[str] = []
    if url != wanted:
        body["endpoint"] = wanted
        details.append(f"was {masked(url)}" if masked(url) != masked(wanted) else OTHER)
    events = strings(as_list(hook.get("events")))
    off = [name for name in EVENTS[target.kind] if name not in events]
    if off:
        body["events"] = events + off
        details.append(f"turns on {', '.join(off)}")
    if text(hook, "status") == "disabled":
        body["status"] = "enabled"
        details.append("was disabled")
    if not body:
        return Change(Action.UNCHANGED, target.kind, masked(url))
    number = quote(text(hook, "id") or "", safe="")
    sent = request(settings, "PATCH", f"/webhooks/{number}", body)
    return Change(Action.UPDATE, target.kind, target.url, tuple(details), sent)


OTHER = "other credentials"


def foreign(url: str, targets: tuple[HookTarget, ...]) -> Change:
    """Return the entry for somebody else's endpoint."""
    alike = any(same_path(url, target.url) for target in targets)
    details = ("the same path on another host",) if alike else ()
    return Change(Action.FOREIGN, "account", masked(url), details)


console = Console(
    check,
    places={
        "tracking": "Resend > Webhooks > Add Webhook, with all email events but email.received",
        "inbound": "Resend > Webhooks > Add Webhook, with the event email.received alone",
    },
    plan=plan,
    problem=problem,
)
