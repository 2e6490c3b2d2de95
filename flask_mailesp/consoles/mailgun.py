"""Mailgun: the key, the domain, its webhooks for each type of event, and the routes.

https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/domain-webhooks
https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/routes
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ..console import (
    Action,
    Change,
    Console,
    Finding,
    HookTarget,
    Talk,
    Verdict,
    answered,
    masked,
    same_place,
)
from ..esp import HttpRequest, HttpResponse, Settings
from ..esps.mailgun import HINTS, NAME, basic_auth, words
from ..exceptions import APIError, AuthenticationError, MailESPError
from ..forms import form_body
from ..outcomes import failure
from ..wire import as_list, as_object, integer, text

TYPES = (
    "accepted",
    "delivered",
    "opened",
    "clicked",
    "unsubscribed",
    "complained",
    "permanent_fail",
    "temporary_fail",
)
MOST_URLS = 3  # of one type of event
_FORWARD = re.compile(r"""(?s)\s*forward\(\s*(["'])(.*)\1\s*\)\s*""")

Fields = Iterable[tuple[str, str]]


def request(settings: Settings, method: str, url: str, fields: Fields | None = None) -> HttpRequest:
    """Return a call to Mailgun's API."""
    headers = {"Authorization": basic_auth(settings["API_KEY"]), "Accept": "application/json"}
    if fields is None:
        return HttpRequest(method, url, headers)
    headers["Content-Type"], body = form_body(fields)
    return HttpRequest(method, url, headers, body)


def root_of(settings: Settings) -> str:
    """Return the API's address without the version: some calls have another one."""
    return str(settings["API_URL"]).removesuffix("/v3")


def problem(response: HttpResponse) -> MailESPError | None:
    """Return what an answer complains about, or None if it is what was asked for."""
    if response.status == 200 and isinstance(response.json(), dict):
        return None
    kind = APIError if response.status == 200 else None
    hint = HINTS.get(404 if response.status == 200 else response.status, "")
    return failure(NAME, response, message=words(response), hint=hint, kind=kind)


# --- the credential --------------------------------------------------------------------


def check(settings: Settings) -> Talk[list[Finding]]:
    """Ask for a domain; of a key that may only send, ask by a message without recipients."""
    domain = settings["SENDER_DOMAIN"]
    response = yield request(settings, "GET", f"{root_of(settings)}/v4/domains?limit=1")
    error = problem(response)
    if not isinstance(error, AuthenticationError):
        finding = Finding("credentials", *credentials(error))
        if error is not None or domain is None:
            return [finding, SENDER]
        path = f"/v4/domains/{quote(domain, safe='')}"
        response = yield request(settings, "GET", root_of(settings) + path)
        return [finding, Finding("sender", *sender(response, domain))]
    if domain is None:
        return [Finding("credentials", Verdict.CANNOT_TELL, RESTRICTED), SENDER]
    url = f"{settings['API_URL']}/{quote(domain, safe='')}/messages"
    response = yield request(settings, "POST", url, ())  # refused: it says nothing
    return [Finding("credentials", *sending_key(response)), SENDER]


RESTRICTED = (
    "The key may not list domains: it is wrong, or a sending key of one domain. Set "
    "MAILESP_MAILGUN_SENDER_DOMAIN to have the latter tried."
)
SENDER = Finding(
    "sender",
    Verdict.CANNOT_TELL,
    "Which domains are verified is shown in Mailgun > Sending > Domains. "
    "MAILESP_MAILGUN_SENDER_DOMAIN and an account key let this be examined.",
)


def credentials(error: MailESPError | None) -> tuple[Verdict, str]:
    """Tell what the answer to a request for domains means."""
    if error is None:
        return Verdict.OK, "Mailgun accepts the key."
    return Verdict.CANNOT_TELL, str(error)


def sending_key(response: HttpResponse) -> tuple[Verdict, str]:
    """Read the answer to a message without recipients: 400 means that the key may send."""
    if response.status == 400:
        return Verdict.OK, "Mailgun accepts the key, which may only send from its one domain."
    error = problem(response)
    known = isinstance(error, AuthenticationError) or response.status == 404
    return Verdict.FAILED if known else Verdict.CANNOT_TELL, str(error or "Mailgun said nothing.")


def sender(response: HttpResponse, domain: str) -> tuple[Verdict, str]:
    """Read what Mailgun says of the domain."""
    error = problem(response)
    if error is not None:
        return Verdict.FAILED if response.status == 404 else Verdict.CANNOT_TELL, str(error)
    state = text(as_object(as_object(response.json()).get("domain")), "state")
    if state == "active":
        return Verdict.OK, f"The domain {domain} is verified."
    return Verdict.WARNING, (
        f"The domain {domain} is {state or 'in an unknown state'}: look at Mailgun > Sending > "
        "Domains."
    )


# --- the webhooks ----------------------------------------------------------------------


def plan(settings: Settings, targets: tuple[HookTarget, ...]) -> Talk[list[Change]]:
    """Compare the webhooks of the domain, and the routes, with the targets."""
    changes: list[Change] = []
    for target in targets:
        if target.kind == "inbound":
            url = f"{settings['API_URL']}/routes?limit=1000"
            routes = as_list(answered((yield request(settings, "GET", url)), problem).get("items"))
            changes += route_changes(settings, target, [as_object(item) for item in routes])
            continue
        url = webhooks_url(settings)
        hooks = as_object(answered((yield request(settings, "GET", url)), problem).get("webhooks"))
        for kind in TYPES:
            changes += webhook_changes(settings, target, kind, urls_of(hooks.get(kind)))
    return changes


def webhooks_url(settings: Settings) -> str:
    """Return where the webhooks of the domain are. Raises ConfigurationError without one."""
    domain = settings.require("SENDER_DOMAIN")
    return f"{settings['API_URL']}/domains/{quote(domain, safe='')}/webhooks"


def urls_of(hook: Any) -> list[str]:
    """Return the URLs of one type of event: a list, or a single one as it was before."""
    urls = [url for url in as_list(as_object(hook).get("urls")) if isinstance(url, str)]
    single = text(hook, "url")
    return urls or ([single] if single else [])


def webhook_changes(
    settings: Settings, target: HookTarget, kind: str, urls: list[str]
) -> Iterator[Change]:
    """Yield what is to be done for one type of event; the URLs of others are kept."""
    place = f"webhook {kind!r}"
    wanted = target.whole_url
    others = [url for url in urls if not same_place(url, target.url)]
    ours = [url for url in urls if same_place(url, target.url)]
    if ours == [wanted]:
        yield Change(Action.UNCHANGED, place, masked(wanted))
    elif len(others) >= MOST_URLS:
        details = (f"has its {MOST_URLS} URLs already: delete one in the console",)
        yield Change(Action.FOREIGN, place, target.url, details)
    else:
        yield change(settings, place, kind, target, ours, others)
    for url in others:
        yield Change(Action.FOREIGN, place, masked(url))


def change(
    settings: Settings,
    place: str,
    kind: str,
    target: HookTarget,
    ours: list[str],
    others: list[str],
) -> Change:
    """Return the change that makes or corrects our URL of one type of event."""
    fields = [("url", url) for url in (*others, target.whole_url)]
    details = tuple(f"was {masked(url)}" for url in ours)
    if ours or others:
        sent = request(settings, "PUT", f"{webhooks_url(settings)}/{kind}", fields)
    else:
        sent = request(settings, "POST", webhooks_url(settings), [("id", kind), *fields])
    return Change(Action.UPDATE if ours else Action.CREATE, place, target.url, details, sent)


def route_changes(
    settings: Settings, target: HookTarget, routes: Iterable[Mapping[str, Any]]
) -> Iterator[Change]:
    """Yield what is to be done about routes: none is made, since it says whose mail it takes."""
    ours = [route for route in routes if any(leads_to(url, target) for url in forwards(route))]
    for route in ours:
        yield route_change(settings, target, route)
    if not ours:
        yield Change(Action.FOREIGN, "routes", target.url, (NO_ROUTE,))


NO_ROUTE = (
    "no route forwards here: make one in Mailgun > Receiving > Routes, for the recipients that "
    "you choose, to this URL with mime at the end"
)
PARSED = "posts the mail as Mailgun has parsed it; with mime at the end of its URL, the source"


def forwards(route: Mapping[str, Any]) -> Iterator[str]:
    """Yield the URLs that a route forwards to."""
    for action in as_list(route.get("actions")):
        match = _FORWARD.fullmatch(action) if isinstance(action, str) else None
        if match:
            yield match[2]


def leads_to(url: str, target: HookTarget) -> bool:
    """Tell whether a route's URL is ours, in whichever form the mail is posted to it."""
    return same_place(asked_form(url)[0], target.url)


def asked_form(url: str) -> tuple[str, str]:
    """Split a route's URL before what chooses the form of the mail: ``mime`` at the end.

    ``/inbound/mime`` is a path of its own, in ``/inbound/?format=mime`` the query ends so.
    """
    path, mark, query = url.partition("?")
    base = path.removesuffix(SOURCE)
    if base != path and base.endswith("/"):
        return base, SOURCE + mark + query
    return path, mark + query


SOURCE = "mime"


def route_change(settings: Settings, target: HookTarget, route: Mapping[str, Any]) -> Change:
    """Return the change that corrects our URL in a route; the form of the mail stays."""
    place = f"route {text(route, 'description') or text(route, 'expression') or '(nameless)'!r}"
    actions = [item for item in as_list(route.get("actions")) if isinstance(item, str)]
    wanted = [corrected(action, target) for action in actions]
    if wanted == actions:
        sources = all(url.endswith(SOURCE) for url in forwards(route) if leads_to(url, target))
        return Change(Action.UNCHANGED, place, target.url, () if sources else (PARSED,))
    fields = [
        ("priority", str(integer(route.get("priority")) or 0)),
        ("description", text(route, "description") or ""),
        ("expression", text(route, "expression") or ""),
        *(("action", action) for action in wanted),
    ]
    url = f"{settings['API_URL']}/routes/{quote(text(route, 'id') or '', safe='')}"
    sent = request(settings, "PUT", url, fields)
    return Change(Action.UPDATE, place, target.url, ("other credentials or scheme",), sent)


def corrected(action: str, target: HookTarget) -> str:
    """Return a route's action with our URL as it should be."""
    match = _FORWARD.fullmatch(action)
    if match is None or not leads_to(match[2], target):
        return action
    wanted = target.whole_url + asked_form(match[2])[1]
    return action if match[2] == wanted else f'forward("{wanted}")'


console = Console(
    check,
    places={
        "tracking": "Mailgun > Sending > Webhooks, for each type of event",
        "inbound": "Mailgun > Receiving > Routes > a route > Forward, with mime at its end",
    },
    plan=plan,
    problem=problem,
)
