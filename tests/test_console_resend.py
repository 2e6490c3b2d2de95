"""Resend's management calls: what the key may do, and which endpoints there are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_mailesp.config import Lookup, esp_settings
from flask_mailesp.console import Action, Change, HookTarget, Verdict, console_of, converse
from flask_mailesp.consoles import resend
from flask_mailesp.esp import HttpRequest, HttpResponse, SecretBytes, Settings
from flask_mailesp.exceptions import APIError, AuthenticationError
from flask_mailesp.registry import require_esp
from flask_mailesp.simulator import Simulator
from flask_mailesp.transport import Transport

KEY = "re_canary_5512_key"
URL = "https://app.example.com/mail-hooks/resend/tracking/"
INBOUND_URL = "https://app.example.com/mail-hooks/resend/inbound/"
TARGET = HookTarget("tracking", URL)
WITH_SECRET = HookTarget("tracking", URL, SecretBytes(b"user:long password"))
IN_URL = URL.replace("://", "://user:long%20password@")
ALL = list(resend.EVENTS["tracking"])
OURS: dict[str, Any] = {"id": "w-1", "endpoint": URL, "events": ALL, "status": "enabled"}


def settings(**own: Any) -> Settings:
    config = {"MAILESP_RESEND_API_KEY": KEY, **own}
    return esp_settings(Lookup(config), require_esp("resend", "here"), sending=True)


SETTINGS = settings()


def answer(body: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(status, {}, json.dumps(body).encode())


class Answers:
    """A transport that has its answers ready."""

    def __init__(self, *answers: HttpResponse) -> None:
        self.answers = list(answers)
        self.requests: list[HttpRequest] = []

    def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return self.answers.pop(0)


def domains(*names: str, status: str = "verified") -> HttpResponse:
    return answer({"data": [{"name": name, "status": status} for name in names]})


def refused(status: int, name: str) -> HttpResponse:
    return answer({"statusCode": status, "name": name, "message": "?"}, status)


# --- the credential --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "verdict", "words", "sender"),
    [
        (domains("b.example", "a.example"), "ok", "full access", "ok"),
        (domains("a.example", status="pending"), "ok", "full access", "warning"),
        (domains(), "ok", "full access", "warning"),
        (refused(401, "restricted_api_key"), "ok", "may only send", "cannot tell"),
        (refused(403, "invalid_api_key"), "failed", "MAILESP_RESEND_API_KEY", "cannot tell"),
        (refused(401, "missing_api_key"), "failed", "MAILESP_RESEND_API_KEY", "cannot tell"),
        (refused(403, "suspended_api_key"), "failed", "suspended", "cannot tell"),
        (HttpResponse(403, {}, b"error code: 1010"), "failed", "HTTP 403", "cannot tell"),
        (refused(429, "rate_limit_exceeded"), "cannot tell", "HTTP 429", "cannot tell"),
        (HttpResponse(502, {}, b"<h1>Sorry</h1>"), "cannot tell", "HTTP 502", "cannot tell"),
        (HttpResponse(200, {}, b"<h1>Hello</h1>"), "cannot tell", "HTTP 200", "cannot tell"),
    ],
)
def test_the_answer_about_the_key(
    response: HttpResponse, verdict: str, words: str, sender: str
) -> None:
    """Only what is said about the key itself is a failure of it."""
    transport = Answers(response)
    key, domain = converse(transport, resend.check(SETTINGS))

    assert (key.check, key.verdict) == ("credentials", verdict)
    assert words in key.text
    assert (domain.check, domain.verdict) == ("sender", sender)
    assert KEY not in key.text + domain.text
    (request,) = transport.requests
    assert (request.method, request.url) == ("GET", "https://api.resend.com/domains")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(dict(request.headers))


def test_the_verified_domains_are_told() -> None:
    _, sender = converse(Answers(domains("b.example", "a.example")), resend.check(SETTINGS))
    assert sender.text == "Verified: a.example, b.example."


def test_a_key_that_may_only_send_is_a_warning_where_mail_is_received() -> None:
    """It sends well, and every inbound webhook would be put off."""
    receives = settings(MAILESP_RESEND_INBOUND_SECRET="whsec_" + "QUFB" * 8)
    key, _ = converse(Answers(refused(401, "restricted_api_key")), resend.check(receives))
    assert key.verdict is Verdict.WARNING
    assert "Full access" in key.text


# --- the webhooks ----------------------------------------------------------------------


def plan(*hooks: dict[str, Any], targets: tuple[HookTarget, ...] = (TARGET,)) -> list[Change]:
    return converse(Answers(answer({"data": list(hooks)})), resend.plan(SETTINGS, targets))


def body_of(change: Change) -> Any:
    assert change.request is not None
    assert isinstance(change.request.body, bytes)
    return json.loads(change.request.body)


def test_an_account_without_our_endpoints_gets_them() -> None:
    """One for tracking, one for mail, each with its own events and secret."""
    tracking, inbound = plan(targets=(TARGET, HookTarget("inbound", INBOUND_URL)))

    assert (tracking.action, inbound.action) == (Action.CREATE, Action.CREATE)
    assert tracking.request is not None
    assert (tracking.request.method, tracking.request.url) == (
        "POST",
        "https://api.resend.com/webhooks",
    )
    assert body_of(tracking) == {"endpoint": URL, "events": ALL}
    assert body_of(inbound) == {"endpoint": INBOUND_URL, "events": ["email.received"]}
    assert "MAILESP_RESEND_SIGNING_SECRET" in tracking.details[0]
    assert "MAILESP_RESEND_INBOUND_SECRET" in inbound.details[0]


def test_credentials_go_into_the_url_where_there_are_some() -> None:
    """They are not shown."""
    (change,) = plan(targets=(WITH_SECRET,))
    assert body_of(change)["endpoint"] == IN_URL
    assert "long" not in repr(change)


def test_every_event_of_the_room_is_asked_for() -> None:
    from flask_mailesp.esps import resend as room

    assert set(ALL) == set(room.EVENT_TYPES)


@pytest.mark.parametrize(
    ("hook", "target"),
    [
        (OURS, TARGET),
        (OURS | {"events": [*ALL, "contact.created"]}, TARGET),
        (OURS | {"status": None}, TARGET),
        (OURS | {"endpoint": IN_URL}, WITH_SECRET),
    ],
)
def test_what_works_is_left_as_it_is(hook: dict[str, Any], target: HookTarget) -> None:
    (change,) = plan(hook, targets=(target,))
    assert (change.action, change.request) == (Action.UNCHANGED, None)


@pytest.mark.parametrize(
    ("hook", "target", "sent", "details"),
    [
        (
            OURS | {"events": ALL[:-2]},
            TARGET,
            {"events": ALL},
            ("turns on email.failed, email.suppressed",),
        ),
        (OURS | {"status": "disabled"}, TARGET, {"status": "enabled"}, ("was disabled",)),
        (
            OURS | {"endpoint": URL.replace("https", "http").rstrip("/")},
            TARGET,
            {"endpoint": URL},
            ("was http://app.example.com/mail-hooks/resend/tracking",),
        ),
        (OURS | {"endpoint": URL + "?key=1"}, TARGET, {"endpoint": URL}, (f"was {URL}?***",)),
        (
            OURS | {"endpoint": IN_URL.replace("long", "old")},
            WITH_SECRET,
            {"endpoint": IN_URL},
            ("other credentials",),
        ),
    ],
)
def test_only_what_is_wrong_is_corrected(
    hook: dict[str, Any], target: HookTarget, sent: dict[str, Any], details: tuple[str, ...]
) -> None:
    (change,) = plan(hook, targets=(target,))
    assert (change.action, change.details) == (Action.UPDATE, details)
    assert change.request is not None
    assert (change.request.method, change.request.url[-13:]) == ("PATCH", "/webhooks/w-1")
    assert body_of(change) == sent


@pytest.mark.parametrize(
    ("url", "shown", "details"),
    [
        ("https://crm.example.net/r?key=s3cret", "https://crm.example.net/r?***", ()),
        ("https://u:s3cret@app.example.com/other", "https://***@app.example.com/other", ()),
        (
            URL.replace("app.", "old."),
            URL.replace("app.", "old."),
            ("the same path on another host",),
        ),
        (URL.replace(".com", ".com:8443"), None, ("the same path on another host",)),
        ("https://[broken/x", "(not a URL)", ()),
        ("", "", ()),
    ],
)
def test_other_endpoints_are_never_touched(
    url: str, shown: str | None, details: tuple[str, ...]
) -> None:
    """They are listed, without what may be a credential, and ours is made beside them."""
    ours, other = plan({"id": "x", "endpoint": url})
    assert ours.action is Action.CREATE
    assert (other.action, other.request, other.details) == (Action.FOREIGN, None, details)
    assert other.url == (url if shown is None else shown)


def test_a_second_endpoint_to_the_same_place_is_pointed_out() -> None:
    first, second = plan(OURS, OURS | {"id": "w-2"})
    assert first.action is Action.UNCHANGED
    assert second.action is Action.FOREIGN
    assert "a second time" in second.details[0]


def test_all_pages_of_endpoints_are_read() -> None:
    """A hundred at a time; ours may be on the last."""
    transport = Answers(
        answer({"has_more": True, "data": [{"id": "a/b", "endpoint": "https://x.example/"}]}),
        answer({"has_more": False, "data": [OURS]}),
    )
    changes = converse(transport, resend.plan(SETTINGS, (TARGET,)))
    assert [change.action for change in changes] == [Action.UNCHANGED, Action.FOREIGN]
    assert transport.requests[1].url.endswith("/webhooks?limit=100&after=a%2Fb")


def test_pages_without_end_end() -> None:
    endless = answer({"has_more": True, "data": [{"id": "a", "endpoint": "https://x.example/"}]})
    transport = Answers(*[endless] * 50)
    converse(transport, resend.plan(SETTINGS, (TARGET,)))
    assert len(transport.requests) == resend.MOST_PAGES


def test_a_key_that_may_only_send_cannot_manage_webhooks() -> None:
    with pytest.raises(AuthenticationError, match="Full access"):
        converse(Answers(refused(401, "restricted_api_key")), resend.plan(SETTINGS, (TARGET,)))


def test_the_answer_to_a_change_is_read() -> None:
    assert resend.problem(answer({"id": "w", "signing_secret": "whsec_x"}, 201)) is None
    error = resend.problem(refused(422, "validation_error"))
    assert type(error) is APIError
    assert error.code == "validation_error"


def test_a_plan_is_carried_out_at_the_simulator() -> None:
    """Afterwards everything is as it should be."""
    sim = Simulator()
    with sim.running() as server:
        own = {f"MAILESP_RESEND_{k}": v for k, v in sim.settings("resend").items()}
        there = settings(**own)
        transport = Transport()
        console = console_of(require_esp("resend", "here"))
        assert console is not None
        assert console.plan is not None
        assert console.problem is not None
        targets = (TARGET, HookTarget("inbound", INBOUND_URL))
        for change in converse(transport, console.plan(there, targets)):
            assert change.request is not None
            assert console.problem(transport.send(change.request)) is None
        again = converse(transport, console.plan(there, targets))
        key, sender = converse(transport, console.check(there))
        transport.close()
        assert server.url in there["API_URL"]
    assert [change.action for change in again] == [Action.UNCHANGED] * 2
    assert (key.verdict, sender.verdict) == (Verdict.OK, Verdict.OK)
