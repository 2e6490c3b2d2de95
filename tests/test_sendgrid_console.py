"""What SendGrid's management calls ask, and how their answers are read: no I/O here."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flask_mailesp.config import Lookup, esp_settings
from flask_mailesp.console import Change, Finding, HookTarget, console_of, converse
from flask_mailesp.consoles import sendgrid
from flask_mailesp.esp import HttpRequest, HttpResponse, SecretBytes, Settings
from flask_mailesp.exceptions import APIError, AuthenticationError, RateLimitedError
from flask_mailesp.registry import require_esp
from flask_mailesp.simulator import Simulator
from flask_mailesp.testing import body_of

KEY = "SG.canary-key-1"
PUBLIC = base64.b64encode(
    ec.derive_private_key(7, ec.SECP256R1())
    .public_key()
    .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()
URL = "https://app.example.com/mail-hooks/sendgrid/tracking/"
MAIL_URL = "https://app.example.com/mail-hooks/sendgrid/inbound/"
SIGNED = HookTarget("tracking", URL)
WITH_SECRET = HookTarget("tracking", URL, SecretBytes(b"user:long password"))
INBOUND = HookTarget("inbound", MAIL_URL)
OURS: dict[str, Any] = {
    "id": "w/1",
    "friendly_name": "shop",
    "url": URL,
    "public_key": PUBLIC,
    **dict.fromkeys(("enabled", *sendgrid.EVENTS), True),
}
HOST: dict[str, Any] = {
    "url": MAIL_URL,
    "hostname": "parse.example.com",
    "send_raw": True,
    "security_policy": "p1",
}


def settings_of(**own: Any) -> Settings:
    config = {"MAILESP_SENDGRID_API_KEY": KEY} | {
        f"MAILESP_SENDGRID_{name}": value for name, value in own.items()
    }
    return esp_settings(Lookup(config), require_esp("sendgrid", "here"), sending=True)


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


# --- the credential --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "verdict", "words"),
    [
        (answer({"scopes": ["mail.send", "alerts.read"]}), "ok", "for sending"),
        (answer({"scopes": ["alerts.read"]}), "failed", "Mail Send"),
        (answer({"scopes": 7}), "failed", "Mail Send"),
        (answer({"errors": [{"message": "no"}]}, 401), "failed", "MAILESP_SENDGRID_API_KEY"),
        (answer({"errors": [{"message": "no"}]}, 403), "failed", "permission"),
        (HttpResponse(429, {}, b""), "cannot tell", "429"),
        (HttpResponse(503, {}, b"<h1>later</h1>"), "cannot tell", "503"),
        (HttpResponse(200, {}, b"<h1>hello</h1>"), "cannot tell", "HTTP 200"),
        (HttpResponse(302, {}, b""), "cannot tell", "Redirects are never followed"),
    ],
)
def test_the_answer_about_the_key(response: HttpResponse, verdict: str, words: str) -> None:
    """Only what is said about the key itself is a failure of it."""
    transport = Answers(response)
    finding, sender = converse(transport, sendgrid.check(settings_of()))

    assert isinstance(finding, Finding)
    assert (finding.check, finding.verdict) == ("credentials", verdict)
    assert words in finding.text
    assert KEY not in finding.text
    assert sender.verdict == "cannot tell"
    assert transport.requests[0].url == "https://api.sendgrid.com/v3/scopes"


def test_the_console_is_found_by_the_esps_name() -> None:
    assert console_of(require_esp("sendgrid", "here")) is sendgrid.console
    assert set(sendgrid.console.places) == {"tracking", "inbound"}


# --- event webhooks --------------------------------------------------------------------


def planned(target: HookTarget, items: list[Any], **own: Any) -> list[Change]:
    name = "webhooks" if target.kind == "tracking" else "result"
    talk = sendgrid.plan(settings_of(**own), (target,))
    return converse(Answers(answer({name: items})), talk)


def sent(change: Change) -> tuple[str, str, Any]:
    assert change.request is not None
    path = change.request.url.removeprefix("https://api.sendgrid.com/v3/user/webhooks/")
    return change.request.method, path, json.loads(body_of(change.request))


def test_a_missing_webhook_is_created_for_all_events() -> None:
    """Credentials go into the URL; without any, a second run has it signed."""
    (change,) = planned(WITH_SECRET, [])
    method, path, body = sent(change)
    assert (change.action, method, path) == ("create", "POST", "event/settings")
    assert body["url"] == URL.replace("://", "://user:long%20password@")
    assert all(body[name] is True for name in ("enabled", *sendgrid.EVENTS))
    assert "password" not in change.url + "".join(change.details)

    (change,) = planned(SIGNED, [])
    assert sent(change)[2]["url"] == URL
    assert "once more" in change.details[-1]


def test_a_webhook_as_it_should_be_is_left_alone() -> None:
    """Its key is told where the app does not know it."""
    (change,) = planned(SIGNED, [OURS], WEBHOOK_VERIFICATION_KEY=PUBLIC)
    assert (change.action, change.details, change.request) == ("unchanged", (), None)
    (change,) = planned(SIGNED, [OURS])
    assert PUBLIC in change.details[0]
    assert "MAILESP_SENDGRID_WEBHOOK_VERIFICATION_KEY" in change.details[0]


@pytest.mark.parametrize(
    ("hook", "path", "body"),
    [
        (OURS | {"public_key": None}, "event/settings/signed/w%2F1", {"enabled": True}),
        (
            OURS | {"open": False, "enabled": False},
            "event/settings/w%2F1",
            {"enabled": True, "open": True},
        ),
        (OURS | {"url": URL.rstrip("/")}, "event/settings/w%2F1", {"url": URL}),
        (OURS | {"url": URL.replace("https", "http")}, "event/settings/w%2F1", {"url": URL}),
        (
            OURS | {"url": URL.replace("://", "://a:b@")},
            "event/settings/w%2F1",
            {"url": URL},
        ),
    ],
)
def test_what_is_wrong_with_our_webhook_is_corrected(
    hook: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    """And nothing else of it; credentials are shown nowhere."""
    (change,) = planned(SIGNED, [hook], WEBHOOK_VERIFICATION_KEY=PUBLIC)
    assert change.action == "update"
    assert sent(change) == ("PATCH", path, body)
    assert "a:b" not in change.url + "".join(change.details)


def test_switches_and_signature_are_corrected_both() -> None:
    changes = planned(SIGNED, [OURS | {"public_key": None, "click": False}])
    assert [sent(change)[2] for change in changes] == [{"click": True}, {"enabled": True}]


def test_the_webhooks_of_others_are_left_alone() -> None:
    """A second one of ours is told, since it doubles every event."""
    foreign = OURS | {"url": "https://u:p@other.example/hook?token=x"}
    changes = planned(SIGNED, [foreign, OURS, dict(OURS)], WEBHOOK_VERIFICATION_KEY=PUBLIC)
    assert [change.action for change in changes] == ["foreign", "unchanged", "foreign"]
    assert "second time" in changes[2].details[0]
    assert "u:p" not in changes[0].url
    assert "token" not in changes[0].url


@pytest.mark.parametrize("item", [None, 7, {}, {"url": 7}, {"url": "http://["}, {"url": "//x:y"}])
@pytest.mark.parametrize("target", [SIGNED, INBOUND], ids=["tracking", "inbound"])
def test_odd_answers_are_somebody_elses(target: HookTarget, item: Any) -> None:
    assert "foreign" in {str(change.action) for change in planned(target, [item])}


# --- inbound parse ---------------------------------------------------------------------


def test_a_parse_host_as_it_should_be_is_left_alone() -> None:
    (change,) = planned(INBOUND, [HOST])
    assert (change.action, change.details) == ("unchanged", ())


def test_a_parse_host_sends_the_raw_message_to_our_url() -> None:
    """That its mail is not signed is told: a policy is the owner's to make."""
    host = HOST | {"send_raw": False, "url": MAIL_URL.rstrip("/"), "security_policy": ""}
    (change,) = planned(INBOUND, [host])
    assert sent(change) == (
        "PATCH",
        "parse/settings/parse.example.com",
        {"url": MAIL_URL, "send_raw": True},
    )
    assert "security policy" in change.details[-1]


def test_a_new_host_is_only_told_about() -> None:
    """Nobody but its owner knows the name of the domain."""
    other, ours = planned(INBOUND, [HOST | {"url": "https://other.example/"}])
    assert (other.action, ours.action, ours.request) == ("foreign", "foreign", None)
    assert "add one" in ours.details[0]


# --- answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (answer({"id": "x"}, 201), None),
        (answer({"errors": [{"message": "maximum reached"}]}, 400), APIError),
        (answer({}, 401), AuthenticationError),
        (HttpResponse(429, {}, b""), RateLimitedError),
        (HttpResponse(500, {}, b""), APIError),
        (HttpResponse(200, {}, b"<h1>"), APIError),
    ],
)
def test_the_answer_to_a_change(response: HttpResponse, error: type[Exception] | None) -> None:
    assert type(sendgrid.problem(response)) is (error or type(None))


def test_a_refused_question_is_an_error() -> None:
    with pytest.raises(APIError):
        converse(Answers(answer({}, 404)), sendgrid.plan(settings_of(), (SIGNED,)))


def test_a_plan_carried_out_twice_leaves_a_signed_webhook() -> None:
    """With the simulator at the other end: created, then signed, then as it should be."""
    from flask_mailesp.transport import Transport

    sim = Simulator()
    with sim.running() as server:
        told = sim.settings("sendgrid", server.url_for("sendgrid"))
        settings = settings_of(**told)
        transport = Transport()
        actions = []
        for _ in range(3):
            for change in converse(transport, sendgrid.plan(settings, (SIGNED,))):
                actions.append(str(change.action))
                if change.request is not None:
                    assert sendgrid.problem(transport.send(change.request)) is None
        transport.close()
    assert actions == ["create", "update", "unchanged"]
