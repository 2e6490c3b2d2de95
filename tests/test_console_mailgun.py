"""Mailgun's account: whether the key is good, and where webhooks and routes go. No I/O."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from test_console import Answers, ask, json_answer

from flask_mailesp.config import Lookup, esp_settings
from flask_mailesp.console import Action, Change, HookTarget, converse
from flask_mailesp.consoles import mailgun
from flask_mailesp.esp import HttpRequest, HttpResponse, SecretBytes, Settings
from flask_mailesp.exceptions import APIError, AuthenticationError, ConfigurationError
from flask_mailesp.registry import require_esp
from flask_mailesp.testing import body_of

URL = "https://app.example.com/mail-hooks/mailgun/tracking/"
INBOUND = "https://app.example.com/mail-hooks/mailgun/inbound/"
OTHER = "https://other.example.com/hook"
SECRET = SecretBytes(b"user:long password")
WITH_SECRET = URL.replace("https://", "https://user:long%20password@")
TARGET = HookTarget("tracking", URL)
API = "https://api.eu.mailgun.net"
BASE = f"{API}/v3/domains/mg.example.org/webhooks"
FORBIDDEN = HttpResponse(401, {}, b"Forbidden")


def settings_of(domain: str | None = "mg.example.org") -> Settings:
    config = {
        "MAILESP_MAILGUN_API_KEY": "canary-key-1",
        "MAILESP_MAILGUN_API_URL": f"{API}/v3",
        "MAILESP_MAILGUN_SENDER_DOMAIN": domain,
    }
    return esp_settings(Lookup(config), require_esp("mailgun", "here"), sending=True)


# --- the credential --------------------------------------------------------------------


def said(*answers: HttpResponse, domain: str | None = "mg.example.org") -> list[tuple[str, str]]:
    found = ask(mailgun.check(settings_of(domain)), *answers)
    return [(f"{item.check} {item.verdict}", item.text) for item in found]


def domain_in(state: str | None) -> HttpResponse:
    return json_answer({"domain": {"name": "mg.example.org", "state": state}})


DOMAINS = json_answer({"items": [], "total_count": 0})


@pytest.mark.parametrize(
    ("answers", "credentials", "sender"),
    [
        ([DOMAINS, domain_in("active")], "ok", "ok"),
        ([DOMAINS, domain_in("unverified")], "ok", "warning"),
        ([DOMAINS, domain_in(None)], "ok", "warning"),
        ([DOMAINS, json_answer({"message": "Domain not found"}, 404)], "ok", "failed"),
        ([DOMAINS, HttpResponse(500)], "ok", "cannot tell"),
        ([HttpResponse(500)], "cannot tell", "cannot tell"),
        ([HttpResponse(200, {}, b"Mailgun Magnificent API")], "cannot tell", "cannot tell"),
        (
            [FORBIDDEN, json_answer({"message": "to parameter is missing"}, 400)],
            "ok",
            "cannot tell",
        ),
        ([FORBIDDEN, FORBIDDEN], "failed", "cannot tell"),
        ([FORBIDDEN, json_answer({"message": "Domain not found"}, 404)], "failed", "cannot tell"),
        ([FORBIDDEN, HttpResponse(503)], "cannot tell", "cannot tell"),
        ([FORBIDDEN, DOMAINS], "cannot tell", "cannot tell"),
    ],
)
def test_the_key_and_the_domain_are_examined(
    answers: list[HttpResponse], credentials: str, sender: str
) -> None:
    """A key that may only send is tried with a message that says nothing."""
    verdicts = [verdict for verdict, _ in said(*answers)]

    assert verdicts == [f"credentials {credentials}", f"sender {sender}"]


def test_without_a_domain_less_can_be_told() -> None:
    assert [verdict for verdict, _ in said(DOMAINS, domain=None)] == [
        "credentials ok",
        "sender cannot tell",
    ]
    (first, text), _ = said(FORBIDDEN, domain=None)
    assert first == "credentials cannot tell"
    assert "sending key" in text


def test_asking_sends_nothing_and_shows_no_key() -> None:
    transport = Answers(FORBIDDEN, FORBIDDEN)
    converse(transport, mailgun.check(settings_of()))
    listing, empty = transport.requests

    assert (listing.method, listing.url) == ("GET", f"{API}/v4/domains?limit=1")
    assert (empty.method, empty.url) == ("POST", f"{API}/v3/mg.example.org/messages")
    assert body_of(empty) == b""
    assert "canary" not in repr(listing) + repr(empty)


# --- webhooks --------------------------------------------------------------------------


def planned(hooks: dict[str, Any], target: HookTarget = TARGET) -> list[Change]:
    answer = json_answer({"webhooks": hooks})
    return converse(Answers(answer), mailgun.plan(settings_of(), (target,)))


def sent(change: Change) -> tuple[str, str, list[tuple[str, str]]]:
    request = change.request
    assert isinstance(request, HttpRequest)
    return request.method, request.url, parse_qsl(body_of(request).decode())


def test_every_type_of_event_gets_a_webhook() -> None:
    changes = planned({})

    assert [change.action for change in changes] == [Action.CREATE] * 8
    assert [sent(change) for change in changes] == [
        ("POST", BASE, [("id", kind), ("url", URL)]) for kind in mailgun.TYPES
    ]


HOOKS: list[tuple[Any, list[str], tuple[str, list[str]] | None]] = [
    ({"urls": [URL]}, ["unchanged"], None),
    ({"url": URL}, ["unchanged"], None),
    ({"urls": [URL.replace("https", "http")]}, ["update"], ("PUT", [URL])),
    ({"urls": [WITH_SECRET]}, ["update"], ("PUT", [URL])),
    ({"urls": [URL, URL[:-1]]}, ["update"], ("PUT", [URL])),
    ({"urls": [OTHER]}, ["create", "foreign"], ("PUT", [OTHER, URL])),
    ({"urls": [OTHER, URL]}, ["unchanged", "foreign"], None),
    ({"urls": [OTHER, OTHER + "2", OTHER + "3"]}, ["foreign"] * 4, None),
    (None, ["create"], ("POST", [URL])),
    ("junk", ["create"], ("POST", [URL])),
    ({"urls": [7, "https://[x"]}, ["create", "foreign"], ("PUT", ["https://[x", URL])),
]


@pytest.mark.parametrize(("hook", "actions", "request_"), HOOKS)
def test_ours_is_made_or_corrected_and_others_stay(
    hook: Any, actions: list[str], request_: tuple[str, list[str]] | None
) -> None:
    changes = [change for change in planned({"clicked": hook}) if "clicked" in change.place]

    assert [change.action for change in changes] == actions
    pending = [sent(change) for change in changes if change.request]
    assert [(method, [v for k, v in fields if k == "url"]) for method, _, fields in pending] == (
        [request_] if request_ else []
    )


def test_credentials_go_into_the_url_and_are_masked() -> None:
    target = HookTarget("tracking", URL, SECRET)
    (change, *_) = planned({"accepted": {"urls": [WITH_SECRET + "x"]}}, target)
    (same, *_) = planned({"accepted": {"urls": [WITH_SECRET]}}, target)

    assert sent(change)[2][-1] == ("url", WITH_SECRET)
    assert (same.action, "long" in same.url) == (Action.UNCHANGED, False)
    assert all("long" not in str(item) for item in (change.url, *change.details))


def test_without_a_domain_there_is_no_plan() -> None:
    with pytest.raises(ConfigurationError, match="MAILESP_MAILGUN_SENDER_DOMAIN"):
        converse(Answers(), mailgun.plan(settings_of(None), (TARGET,)))


# --- routes ----------------------------------------------------------------------------


def routed(*actions: str, secret: SecretBytes | None = None) -> list[Change]:
    route = {"id": "r1", "priority": 3, "description": "help", "expression": "catch_all()"}
    items = [{**route, "actions": list(actions)}] if actions else []
    target = HookTarget("inbound", INBOUND, secret)
    return converse(Answers(json_answer({"items": items})), mailgun.plan(settings_of(), (target,)))


@pytest.mark.parametrize(
    ("action", "details"),
    [
        (f'forward("{INBOUND}mime")', ()),
        (f"forward('{INBOUND}?format=mime')", ()),
        (f'forward("{INBOUND}")', (mailgun.PARSED,)),
        (f'forward("{INBOUND}?a")', (mailgun.PARSED,)),
    ],
)
def test_a_route_that_forwards_here_is_fine(action: str, details: tuple[str, ...]) -> None:
    """In either form that asks for the source; without, the plan says what would ask for it."""
    (change,) = routed(action, "stop()")

    assert (change.action, change.details) == (Action.UNCHANGED, details)


@pytest.mark.parametrize("path", ["inbound/amime", "inboundmime", "inbound/mime/x"])
def test_a_route_to_elsewhere_is_left_alone(path: str) -> None:
    """Only the very paths of the app's own routes are recognised."""
    (change,) = routed(f'forward("{INBOUND.removesuffix("inbound/")}{path}")')

    assert change.action == Action.FOREIGN


@pytest.mark.parametrize("form", ["mime", "?format=mime", "mime?a=1", "?a=1", ""])
def test_a_routes_url_is_corrected_and_the_rest_kept(form: str) -> None:
    http = INBOUND.replace("https", "http")
    (change,) = routed(f'forward("{http}{form}")', "stop()", secret=SECRET)
    wanted = INBOUND.replace("https://", "https://user:long%20password@")

    assert sent(change) == (
        "PUT",
        f"{API}/v3/routes/r1",
        [
            ("priority", "3"),
            ("description", "help"),
            ("expression", "catch_all()"),
            ("action", f'forward("{wanted}{form}")'),
            ("action", "stop()"),
        ],
    )
    assert "long" not in change.url


@pytest.mark.parametrize("actions", [(), ('forward("https://elsewhere.example/x")',), ("stop()",)])
def test_no_route_is_made(actions: tuple[str, ...]) -> None:
    """It would have to say whose mail it takes."""
    (change,) = routed(*actions)

    assert (change.action, change.request) == (Action.FOREIGN, None)
    assert "Receiving > Routes" in change.details[0]


# --- answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (json_answer({"message": "Webhook has been created"}), None),
        (json_answer({"message": "limit"}, 400), APIError),
        (FORBIDDEN, AuthenticationError),
        (HttpResponse(200, {}, b"Mailgun Magnificent API"), APIError),
        (HttpResponse(200, {}, json.dumps([1]).encode()), APIError),
    ],
)
def test_an_answer_to_a_change_is_read(
    response: HttpResponse, kind: type[Exception] | None
) -> None:
    assert type(mailgun.problem(response)) is (kind or type(None))


def test_a_plan_that_cannot_be_made_says_why() -> None:
    with pytest.raises(AuthenticationError, match="MAILESP_MAILGUN_API_KEY"):
        converse(Answers(FORBIDDEN), mailgun.plan(settings_of(), (TARGET,)))
