"""SendGrid's side: what it takes and refuses, what it posts, and Twilio's own library at it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flask import Flask

from flask_mailesp import InboundEvent, MailESP, Message, TrackingEvent, signals
from flask_mailesp.simulator import LocalServer, SentMessage, Simulator
from flask_mailesp.simulator.sendgrid_events import SIGNATURE, TIMESTAMP

from .conftest import Application, Client

KEY = "SG.simulator.SendGridSimulatorKey000001"
SEND = "/v3/mail/send"
BODY: dict[str, Any] = {
    "from": {"email": "shop@example.org", "name": "Shop"},
    "personalizations": [{"to": [{"email": "bea@example.com", "name": "Bea"}]}],
    "subject": "Hi",
    "content": [{"type": "text/plain", "value": "Hello"}],
}
UUIDS = [f"6f0c2d7e-1b1a-4c3d-9e8f-00000000000{number}" for number in range(3)]


@pytest.fixture
def api(server: LocalServer, session: requests.Session) -> Client:
    return Client(server.url_for("sendgrid"), {"Authorization": f"Bearer {KEY}"}, session)


@pytest.fixture
def told(sim: Simulator, application: Application) -> Application:
    """The application, with SendGrid's hooks set to it."""
    sim.auto = ()
    sim.hook(
        "sendgrid",
        tracking=f"{application.url}/sendgrid/tracking/",
        inbound=f"{application.url}/sendgrid/inbound/",
    )
    return application


def people(*names: str) -> list[dict[str, str]]:
    return [{"email": f"{name}@example.com"} for name in names]


def with_entry(**fields: Any) -> dict[str, Any]:
    return BODY | {"personalizations": [{"to": people("bea")} | fields]}


# -- sending ----------------------------------------------------------------------------------


def test_a_message_is_taken_with_202_and_nothing_else(sim: Simulator, api: Client) -> None:
    """The X-Message-Id is what events will begin with."""
    answer = api.post(SEND, BODY | {"categories": ["a", "b"], "custom_args": {"order": "7"}})

    (message,) = sim.messages
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["X-Message-Id"] == message.message_id
    assert message.id.partition(".")[0] == message.message_id
    assert (message.from_, message.to) == ("Shop <shop@example.org>", ["bea@example.com"])
    assert (message.subject, message.text, message.html) == ("Hi", "Hello", None)
    assert (message.tags, message.metadata) == (["a", "b"], {"order": "7"})


def test_each_personalization_is_a_copy(sim: Simulator, api: Client) -> None:
    """Found by the answer's id, and by a UUID of the sender's own."""
    entries = [
        {"to": people("a"), "cc": people("c"), "custom_args": {"id": UUIDS[0], "n": "1"}},
        {"to": people("b"), "subject": "Own", "custom_args": {"id": UUIDS[1]}},
    ]
    answer = api.post(SEND, BODY | {"personalizations": entries, "custom_args": {"n": "0"}})

    first, second = sim.messages
    assert first.recipients == ["a@example.com", "c@example.com"]
    assert (first.metadata["n"], second.metadata["n"]) == ("1", "0")
    assert (first.subject, second.subject) == ("Hi", "Own")
    assert first.message_id == second.message_id == answer.headers["X-Message-Id"]
    assert (sim.message(UUIDS[0]), sim.message(UUIDS[1])) == (first, second)


def test_the_sandbox_takes_nothing(sim: Simulator, api: Client) -> None:
    """Validated, answered 200, and no events follow."""
    sandbox = {"mail_settings": {"sandbox_mode": {"enable": True}}}
    assert api.post(SEND, BODY | sandbox).status_code == 200
    assert api.post(SEND, BODY | sandbox | {"content": []}).status_code == 400

    (message,) = sim.messages
    assert message.test
    with pytest.raises(ValueError, match="sandbox"):
        sim.side("sendgrid").webhooks(message, "delivered", None, {}, None)


REFUSED: dict[str, tuple[dict[str, Any], str | None]] = {
    "no from": ({"from": None}, "from"),
    "a from that is none": ({"from": {"email": "shop"}}, "from.email"),
    "no personalizations": ({"personalizations": []}, "personalizations"),
    "no to": (with_entry(to=[]), "personalizations.0.to"),
    "a bad address": (with_entry(to=[{"email": "bea"}]), "personalizations.0.to.0.email"),
    "a mailbox beyond ASCII": (
        with_entry(to=[{"email": "béa@example.com"}]),
        "personalizations.0.to.0.email",
    ),
    "an address twice": (with_entry(cc=people("BEA")), "personalizations.0"),
    "no object": (with_entry(cc=["bea@example.com"]), "personalizations.0.cc.0"),
    "too many": (
        with_entry(cc=people(*(f"c{number}" for number in range(1000)))),
        "personalizations",
    ),
    "no subject": ({"subject": None}, "subject"),
    "an empty subject": ({"subject": ""}, "subject"),
    "no content": ({"content": []}, "content"),
    "an empty text": ({"content": [{"type": "text/plain", "value": ""}]}, "content.0.value"),
    "a type with parameters": (
        {"content": [{"type": "text/plain; charset=utf-8", "value": "x"}]},
        "content.0.type",
    ),
    "HTML before text": (
        {
            "content": [
                {"type": "text/html", "value": "x"},
                {"type": "text/plain", "value": "x"},
            ]
        },
        "content",
    ),
    "both kinds of reply-to": (
        {"reply_to": people("a")[0], "reply_to_list": people("b")},
        "reply_to_list",
    ),
    "a reply-to twice": ({"reply_to_list": people("a", "a")}, "reply_to_list"),
    "a reserved header": ({"headers": {"Reply-To": "a@example.com"}}, "headers.Reply-To"),
    "a number as header": (with_entry(headers={"X-N": 7}), "personalizations.0.headers"),
    "a number as argument": ({"custom_args": {"order": 7}}, None),
    "no arguments": (with_entry(custom_args={}), None),
    "too long arguments": ({"custom_args": {"a": "x" * 10_000}}, None),
    "eleven categories": ({"categories": [str(number) for number in range(11)]}, "categories"),
    "a category twice": ({"categories": ["a", "a"]}, "categories"),
    "a category beyond ASCII": ({"categories": ["é"]}, "categories"),
    "a time as text": ({"send_at": "tomorrow"}, "send_at"),
    "a time too far": ({"send_at": int(time.time()) + 80 * 3600}, "send_at"),
    "what is no base64": (
        {"attachments": [{"content": "!", "filename": "a"}]},
        "attachments.0.content",
    ),
    "no filename": ({"attachments": [{"content": "aGk="}]}, "attachments.0.filename"),
    "substitutions of a dynamic template": (
        with_entry(substitutions={"a": "b"}) | {"template_id": "d-1"},
        "personalizations.0.substitutions",
    ),
    "data without a dynamic template": (
        with_entry(dynamic_template_data={"a": 1}),
        "template_id",
    ),
    "a number as substitution": (
        with_entry(substitutions={"a": 1}),
        "personalizations.0.substitutions",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "field"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_said_with_its_place(
    sim: Simulator, api: Client, change: dict[str, Any], field: str | None
) -> None:
    """One fault refuses the whole request."""
    body = {name: value for name, value in (BODY | change).items() if value is not None}
    answer = api.post(SEND, body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field
    assert sim.messages == []
    assert [(one.status, one.path) for one in sim.rejected] == [(400, "/mail/send")]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"headers": {"Authorization": "Bearer wrong"}, "data": b"{}"}, 401),
        ({"headers": {"Content-Type": "text/plain"}, "data": b"{}"}, 415),
        ({"headers": {"Content-Type": "application/json"}, "data": b"{"}, 400),
        ({"headers": {"Content-Type": "application/json"}, "data": b"[1]"}, 400),
        ({"headers": {"Content-Type": "application/json"}, "data": b"[" * 100_000}, 400),
    ],
)
def test_a_request_that_is_none_has_its_status(
    api: Client, options: dict[str, Any], status: int
) -> None:
    answer = api.post(SEND, **options)
    assert answer.status_code == status
    assert answer.json()["errors"]


def test_too_large_a_request_is_answered_with_a_page(api: Client) -> None:
    """From in front of the API: no JSON."""
    answer = api.post(SEND, BODY | {"x": "x" * 30_000_000})
    assert (answer.status_code, answer.text[:6]) == (413, "<html>")


def test_an_unverified_sender_is_forbidden(session: requests.Session) -> None:
    sim = Simulator(sender_domains=["shop.example"])
    with sim.running() as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = Client(server.url_for("sendgrid"), headers, session).post(SEND, BODY)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (403, "from")


def test_a_dynamic_template_is_rendered(sim: Simulator, api: Client) -> None:
    """Its subject wins; a variable nobody gave is nothing; HTML is escaped."""
    text = "{{#items}}{{.}} {{/items}}{{x}}"
    html = "<b>{{name}}</b>"
    sim.template("sendgrid", id="d-1", subject="Hi {{name}}", text=text, html=html)
    entry = with_entry(dynamic_template_data={"name": "<Bea>", "items": [1, 2]})
    api.post(SEND, {**entry, "template_id": "d-1", "subject": "Own"})

    (message,) = sim.messages
    assert (message.subject, message.text) == ("Hi <Bea>", "1 2 ")
    assert message.html == "<b>&lt;Bea&gt;</b>"


def test_a_legacy_template_has_places_for_subject_and_body(sim: Simulator, api: Client) -> None:
    """Then texts are put in place of others, wherever they stand."""
    sim.template("sendgrid", id="old", subject="Shop: <%subject%>", text="Dear -name-,\n<%body%>")
    entry = with_entry(substitutions={"-name-": "Bea", "Hello": None})
    api.post(SEND, {**entry, "template_id": "old", "subject": "for -name-"})

    (message,) = sim.messages
    assert (message.subject, message.text) == ("Shop: for Bea", "Dear Bea,\n")


# -- events -----------------------------------------------------------------------------------


def sent(sim: Simulator, api: Client, **fields: Any) -> SentMessage:
    entry = {"to": people("bea", "carl"), "custom_args": {"id": UUIDS[0], "order": "7"}}
    api.post(SEND, {**BODY, "personalizations": [entry], "categories": ["t1"], **fields})
    return sim.messages[-1]


def test_an_event_is_posted_in_a_list_with_a_last_line_break(
    sim: Simulator, api: Client, told: Application
) -> None:
    """Custom arguments stand among the event's own fields."""
    message = sent(sim, api)
    assert sim.emit(UUIDS[0], "delivered", recipient="carl@example.com").status == 200

    assert told.last.body.endswith(b"]\r\n")
    (event,) = told.last.json
    assert (event["event"], event["email"]) == ("delivered", "carl@example.com")
    assert event["sg_message_id"] == message.id
    assert (event["id"], event["order"], event["category"]) == (UUIDS[0], "7", ["t1"])
    assert {"timestamp", "smtp-id", "sg_event_id", "response"} <= set(event)


def test_every_attempt_is_signed_anew(sim: Simulator, api: Client, told: Application) -> None:
    """With the time it is made at; a forgery is not."""
    sent(sim, api)
    told.status, sim.time_scale = 500, 0
    sim.emit(UUIDS[0], "opened")
    attempts = sim.wait()

    assert [one.verdict for one in attempts] == ["retry"] * 9 + ["exhausted"]
    signatures = {one.headers[SIGNATURE.lower()] for one in told.requests}
    assert len(signatures) == 10
    assert len({one.body for one in told.requests}) == 1
    assert all(len(one.headers[TIMESTAMP.lower()]) == 10 for one in told.requests)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("bounced", "Bounced Address"),
        ("complained", "Spam Reporting Address"),
        ("unsubscribed", "Unsubscribed Address"),
        ("group_unsubscribe", "Unsubscribed Address"),
    ],
)
def test_later_mail_to_a_suppressed_address_is_dropped(
    sim: Simulator, api: Client, told: Application, event: str, reason: str
) -> None:
    """Accepted with 202 all the same: only the event tells."""
    sim.emit(sent(sim, api), event)
    sim.auto = ("delivered",)
    sent(sim, api)
    sim.wait()

    events = [one.json[0] for one in told.requests[-2:]]
    assert {one["email"]: one["event"] for one in events} == {
        "bea@example.com": "dropped",
        "carl@example.com": "delivered",
    }
    assert [one["reason"] for one in events if one["event"] == "dropped"] == [reason]


def test_a_template_that_is_not_there_drops_the_mail_later(
    sim: Simulator, api: Client, told: Application
) -> None:
    """SendGrid does not look for it before it answers."""
    sim.auto = ("delivered",)
    sent(sim, api, template_id="d-404")
    sim.wait()
    assert {one.json[0]["reason"] for one in told.requests} == {"Invalid SMTPAPI header"}


def test_a_resubscribed_address_gets_mail_again(
    sim: Simulator, api: Client, told: Application
) -> None:
    message = sent(sim, api)
    sim.emit(message, "unsubscribed")
    assert sim.side("sendgrid").is_suppressed("BEA@example.com")
    sim.emit(message, "subscribed")
    assert not sim.side("sendgrid").is_suppressed("bea@example.com")


def test_an_event_it_does_not_have_is_an_error(
    sim: Simulator, api: Client, told: Application
) -> None:
    with pytest.raises(ValueError, match="SendGrid cannot report 'autoresponded'"):
        sim.emit(sent(sim, api), "autoresponded")


# -- with the package -------------------------------------------------------------------------


class Shop:
    """An app that sends through SendGrid and is posted to, served over HTTP."""

    def __init__(self, sim: Simulator, server: LocalServer) -> None:
        self.app = Flask("shop", root_path=".")
        self.app.testing = True
        self.app.config["MAILESP"] = {
            "ESP": "sendgrid",
            "SEND_DEFAULTS": {"sender": "shop@example.org"},
            **{f"SENDGRID_{name}": value for name, value in self.settings(sim, server).items()},
        }
        self.mail = MailESP(self.app)
        self.events: list[Any] = []
        signals.tracking.connect(self._receive, sender=self.app)
        signals.inbound.connect(self._receive, sender=self.app)
        self.server = LocalServer(self.app)
        url = f"{self.server.url}/mail-hooks/sendgrid"
        sim.hook("sendgrid", tracking=f"{url}/tracking/", inbound=f"{url}/inbound/")

    @staticmethod
    def settings(sim: Simulator, server: LocalServer) -> dict[str, Any]:
        return sim.settings("sendgrid", server.url_for("sendgrid"))

    def _receive(self, app: Flask, event: Any, esp_name: str) -> None:
        self.events.append(event)

    def send(self, **fields: Any) -> Any:
        message = Message(**{"subject": "Hi", "to": ["bea@example.com"], "body": "Hello"} | fields)
        with self.app.app_context():
            return self.mail.send(message)

    def stop(self) -> None:
        self.server.stop()
        self.app.extensions["mailesp"].transport.close()


@pytest.fixture
def shop(sim: Simulator, server: LocalServer) -> Iterator[Shop]:
    sim.auto = ()
    shop = Shop(sim, server)
    yield shop
    shop.stop()


REPORTED = {
    "queued": ("queued", None),
    "delivered": ("delivered", None),
    "deferred": ("deferred", None),
    "bounced": ("bounced", "bounced"),
    "soft_bounced": ("bounced", "blocked"),
    "rejected": ("rejected", "bounced"),
    "complained": ("complained", "spam"),
    "opened": ("opened", None),
    "clicked": ("clicked", None),
    "unsubscribed": ("unsubscribed", None),
    "subscribed": ("subscribed", None),
    "group_unsubscribe": ("unsubscribed", None),
}


def test_every_event_is_what_the_app_is_told(sim: Simulator, shop: Shop) -> None:
    """From message to event: authentic, of the right type, under the id of the result."""
    to = ["bea@example.com", "carl@example.com"]
    result = shop.send(to=to, merge_data={}, metadata={"order": "7"}, tags=["t1"])
    number = result.recipients["carl@example.com"].message_id
    for event in REPORTED:
        assert sim.emit(number, event).status == 200

    assert set(REPORTED) >= set(sim.side("sendgrid").events())
    told = [(str(one.event_type), one.reject_reason) for one in shop.events]
    assert told == list(REPORTED.values())
    for one in shop.events:
        assert isinstance(one, TrackingEvent)
        assert (one.message_id, one.recipient) == (number, "carl@example.com")
        assert (one.metadata, one.tags) == ({"order": "7"}, ["t1"])


def test_a_forged_event_is_rejected(sim: Simulator, shop: Shop) -> None:
    """The same post with another signature comes first; only the real one is told."""
    result = shop.send()
    sim.fault(webhook="forged")
    assert sim.emit(result.message_id, "opened").status == 200

    forged, real = sim.deliveries[-2:]
    assert (forged.forged, forged.status, real.status) == (True, 401, 200)
    assert len(shop.events) == 1


MAIL = (
    b"From: Ana <ana@example.net>\r\nTo: in@parse.example.org\r\n"
    b"Subject: =?utf-8?q?P=C5=99=C3=A1n=C3=AD?=\r\nMessage-ID: <7@example.net>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=iso-8859-2\r\n\r\nP\xf8\xedli\xb9\r\n"
    b"--b\r\nContent-Type: image/png; name=a.png\r\nContent-ID: <c1>\r\n"
    b"Content-Disposition: attachment; filename=a.png\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"iVBORw==\r\n--b--\r\n"
)


@pytest.mark.parametrize("send_raw", [True, False], ids=["raw", "parsed"])
def test_mail_arrives_in_either_form(sim: Simulator, shop: Shop, send_raw: bool) -> None:
    """Text in the charset of its sender, files, envelope and score."""
    sim.hook("sendgrid", send_raw=send_raw)
    answer = sim.receive("sendgrid", MAIL, "in@parse.example.org", spam=(False, 1.5))

    (event,) = shop.events
    assert answer.status == 200
    assert isinstance(event, InboundEvent)
    mail = event.message
    assert (str(mail.from_email), mail.subject) == ("Ana <ana@example.net>", "Přání")
    assert mail.text.strip() == "Příliš"
    assert [(file.filename, file.data) for file in mail.attachments] == [("a.png", b"\x89PNG")]
    assert mail.attachments[0].content_id == "c1"
    assert (mail.envelope_sender, mail.envelope_recipient) == (
        "ana@example.net",
        "in@parse.example.org",
    )
    assert (mail.spam_score, mail.message_id) == (1.5, "7@example.net")
    assert mail.raw == (MAIL if send_raw else None)
    assert mail.defects == []


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "done"), (204, "done"), (302, "dropped"), (401, "dropped"), (413, "dropped"),
     (500, "retry"), (503, "retry")],
)  # fmt: skip
def test_mail_is_lost_after_anything_but_a_5xx(
    sim: Simulator, told: Application, status: int, verdict: str
) -> None:
    told.status = status
    assert sim.receive("sendgrid", MAIL, "in@parse.example.org").verdict == verdict


# -- the account ------------------------------------------------------------------------------

EVENT = "/v3/user/webhooks/event/settings"
PARSE = "/v3/user/webhooks/parse/settings"


def call(api: Client, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = api.session.request(method, api.url + path, json=body, headers=api.headers, timeout=10)
    return answer.status_code, answer.json() if answer.content else None


def test_webhooks_made_by_the_api_are_posted_to(
    sim: Simulator, api: Client, application: Application
) -> None:
    """The chosen events only; signed with a key of its own once that is switched on."""
    sim.auto = ()
    url = f"{application.url}/here"
    status, made = call(api, "POST", EVENT, {"url": url, "delivered": True, "open": False})
    assert (status, made["enabled"], "public_key" in made) == (201, True, False)
    sim.emit(sent(sim, api), "delivered")
    assert SIGNATURE.lower() not in application.last.headers
    with pytest.raises(LookupError):
        sim.emit(UUIDS[0], "opened")

    _, signed = call(api, "PATCH", f"{EVENT}/signed/{made['id']}", {"enabled": True})
    call(api, "PATCH", f"{EVENT}/{made['id']}", {"open": True})
    sim.emit(UUIDS[0], "opened")
    assert SIGNATURE.lower() in application.last.headers
    _, listed = call(api, "GET", f"{EVENT}/all")
    assert [one["public_key"] for one in listed["webhooks"]] == [signed["public_key"]]
    assert signed["public_key"] in sim.settings("sendgrid")["WEBHOOK_VERIFICATION_KEY"]
    assert call(api, "GET", f"{EVENT}/signed/{made['id']}") == (200, signed)
    assert call(api, "DELETE", f"{EVENT}/{made['id']}") == (204, None)
    assert call(api, "GET", f"{EVENT}/{made['id']}")[0] == 404


def test_a_parse_host_made_by_the_api_is_posted_to(
    sim: Simulator, api: Client, application: Application
) -> None:
    """Signed if a policy says so."""
    _, made = call(
        api,
        "POST",
        "/v3/user/webhooks/security/policies",
        {"name": "p", "signature": {"enabled": True}},
    )
    policy = made["policy"]
    assert policy["signature"]["public_key"] == sim.settings("sendgrid")["INBOUND_VERIFICATION_KEY"]
    host = {"url": f"{application.url}/mail", "hostname": "parse.example.org", "send_raw": True}
    assert call(api, "POST", PARSE, host)[0] == 201
    sim.receive("sendgrid", MAIL, "in@parse.example.org")
    assert SIGNATURE.lower() not in application.last.headers

    change = {"security_policy": policy["id"]}
    status, kept = call(api, "PATCH", f"{PARSE}/parse.example.org", change)
    assert (status, kept["security_policy"]) == (200, policy["id"])
    sim.receive("sendgrid", MAIL, "in@parse.example.org")
    assert SIGNATURE.lower() in application.last.headers
    assert call(api, "GET", PARSE)[1]["result"] == [kept]
    assert call(api, "GET", "/v3/user/webhooks/security/policies")[1]["policies"] == [policy]
    assert call(api, "DELETE", f"{PARSE}/parse.example.org")[0] == 204
    with pytest.raises(LookupError):
        sim.receive("sendgrid", MAIL, "in@parse.example.org")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v3/scopes", None, 200),
        ("POST", "/v3/mail/batch", None, 201),
        ("GET", "/v3/nowhere", None, 404),
        ("PATCH", f"{EVENT}/none", {}, 404),
        ("PATCH", f"{EVENT}/signed/none", {"enabled": True}, 404),
        ("POST", EVENT, {}, 400),
        ("POST", EVENT, {"url": "shop"}, 400),
        ("POST", EVENT, {"url": "https://a.example", "open": "yes"}, 400),
        ("POST", PARSE, {"url": "https://a.example"}, 400),
        ("POST", PARSE, {"url": "https://a.example", "hostname": "a", "security_policy": "x"}, 404),
        ("POST", "/v3/user/webhooks/security/policies", {"name": "p"}, 400),
        ("DELETE", f"{PARSE}/none", None, 404),
        ("DELETE", "/v3/user/webhooks/security/policies/none", None, 404),
    ],
)
def test_the_rest_of_the_api(api: Client, method: str, path: str, body: Any, status: int) -> None:
    assert call(api, method, path, body)[0] == status


def test_an_account_has_five_webhooks(api: Client) -> None:
    answers = [call(api, "POST", EVENT, {"url": f"https://a.example/{n}"})[0] for n in range(6)]
    assert answers == [201] * 5 + [400]


# -- Twilio's own library ---------------------------------------------------------------------


@pytest.fixture
def official(server: LocalServer) -> Any:
    library = pytest.importorskip("sendgrid", reason="sendgrid is not installed")
    return library.SendGridAPIClient(KEY, host=server.url_for("sendgrid"))


def test_official_send(official: Any, sim: Simulator) -> None:
    """A message made with its helpers: everything they can say arrives."""
    mail = pytest.importorskip("sendgrid.helpers.mail")
    message = mail.Mail(
        from_email=("shop@example.org", "Shop"),
        to_emails=[("bea@example.com", "Bea"), "carl@example.com"],
        subject="Hi",
        plain_text_content="Hello",
        html_content="<p>Hello</p>",
        is_multiple=True,
    )
    message.add_category(mail.Category("welcome"))
    message.add_custom_arg(mail.CustomArg("order", "7"))
    message.reply_to = "desk@example.org"
    message.tracking_settings = mail.TrackingSettings(
        click_tracking=mail.ClickTracking(True, False), open_tracking=mail.OpenTracking(False)
    )
    message.add_attachment(
        mail.Attachment(
            mail.FileContent(base64.b64encode(b"hi").decode()),
            mail.FileName("a.txt"),
            mail.FileType("text/plain"),
            mail.Disposition("attachment"),
        )
    )
    answer = official.send(message)

    assert answer.status_code == 202
    assert {one.message_id for one in sim.messages} == {answer.headers["X-Message-Id"]}
    assert sorted(one.to for one in sim.messages) == [["bea@example.com"], ["carl@example.com"]]
    first = sim.messages[0]
    assert (first.text, first.html, first.tag) == ("Hello", "<p>Hello</p>", "welcome")
    assert (first.metadata, first.reply_to) == ({"order": "7"}, ["desk@example.org"])
    assert (first.track_clicks, first.track_opens) == (True, False)
    assert first.attachments[0].data == b"hi"


def test_official_dynamic_template(official: Any, sim: Simulator) -> None:
    mail = pytest.importorskip("sendgrid.helpers.mail")
    sim.template("sendgrid", id="d-1", subject="Hi {{name}}", text="Dear {{name}}")
    message = mail.Mail(from_email="shop@example.org", to_emails="bea@example.com")
    message.dynamic_template_data = {"name": "Bea"}
    message.template_id = "d-1"
    official.send(message)

    assert [(one.subject, one.text) for one in sim.messages] == [("Hi Bea", "Dear Bea")]


def test_official_errors(official: Any, server: LocalServer) -> None:
    """The library's own exceptions, with the errors that SendGrid sends."""
    library = pytest.importorskip("sendgrid")
    errors = pytest.importorskip("python_http_client.exceptions")
    mail = pytest.importorskip("sendgrid.helpers.mail")
    message = mail.Mail("shop@example.org", "bea@example.com", "Hi")
    with pytest.raises(errors.BadRequestsError) as bad:
        official.send(message)
    stranger = library.SendGridAPIClient("SG.wrong", host=server.url_for("sendgrid"))
    with pytest.raises(errors.UnauthorizedError):
        stranger.send(message)

    assert bad.value.to_dict["errors"][0]["field"] == "content"


def test_official_account(official: Any) -> None:
    """Fluent calls to the rest of the API."""
    settings = official.client.user.webhooks.event.settings
    made = json.loads(settings.post(request_body={"url": "https://a.example/hook"}).body)
    signed = settings.signed._(made["id"]).patch(request_body={"enabled": True})
    assert json.loads(signed.body)["public_key"].startswith("MFkw")
    assert settings._(made["id"]).delete().status_code == 204
    assert "mail.send" in json.loads(official.client.scopes.get().body)["scopes"]


def test_official_verification(sim: Simulator, api: Client, told: Application) -> None:
    """Its verifier accepts what the simulator signs: the bytes, the time, the key's form."""
    library = pytest.importorskip("sendgrid.helpers.eventwebhook")
    sent(sim, api)
    sim.emit(UUIDS[0], "opened")
    key = sim.settings("sendgrid")["WEBHOOK_VERIFICATION_KEY"][0]
    verifier = library.EventWebhook(key)
    got = told.last
    proof = (got.headers[SIGNATURE.lower()], got.headers[TIMESTAMP.lower()])

    assert verifier.verify_signature(got.body.decode(), *proof)
    assert not verifier.verify_signature(got.body.decode().strip(), *proof)
