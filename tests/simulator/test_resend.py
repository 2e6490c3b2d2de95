"""Resend's side: what it takes and refuses, what it posts, and what its own library says to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
import resend
from flask import Flask
from resend.exceptions import ResendError

from flask_mailesp import InboundEvent, MailESP, Message, TrackingEvent, signals, svix
from flask_mailesp.esp import WebhookRequest
from flask_mailesp.exceptions import APIError, WebhookRejected
from flask_mailesp.simulator import LocalServer, Simulator

from .conftest import Application, Client, Received

KEY = "re_Simulator_0000000000000001"
SENDING_KEY = "re_Simulator_only_sends_00001"
MAIL: dict[str, Any] = {
    "from": "Shop <shop@example.org>",
    "to": ["Bea <bea@example.com>"],
    "subject": "Hi",
    "text": "Hello",
}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def sim() -> Simulator:
    return Simulator(resend_sending_keys=[SENDING_KEY])


@pytest.fixture
def api(server: LocalServer, session: requests.Session) -> Client:
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": "test"}
    return Client(server.url_for("resend"), headers, session)


@pytest.fixture
def hooked(sim: Simulator, application: Application) -> Application:
    sim.hook(
        "resend",
        tracking=application.hook("/resend/tracking/"),
        inbound=application.hook("/resend/inbound/"),
    )
    return application


@pytest.fixture
def official(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resend's own library, pointed here by its own setting."""
    monkeypatch.setattr(resend, "api_key", KEY)
    monkeypatch.setattr(resend, "api_url", server.url_for("resend"))


# -- sending --------------------------------------------------------------------------------


def test_a_message_is_taken(api: Client, sim: Simulator) -> None:
    answer = api.post("/emails", MAIL | {"cc": "carl@example.net", "reply_to": ["r@example.org"]})

    assert (answer.status_code, list(answer.json())) == (200, ["id"])
    (message,) = sim.messages
    assert message.id == answer.json()["id"]
    assert message.recipients == ["bea@example.com", "carl@example.net"]
    assert (message.subject, message.text, message.reply_to) == ("Hi", "Hello", ["r@example.org"])
    assert answer.headers["ratelimit-policy"] == "5;w=1"


LATER = (datetime.now(timezone.utc) + timedelta(days=31)).isoformat(timespec="milliseconds")
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no sender": ({"from": ""}, 422, "missing_required_field"),
    "no recipient": ({"to": []}, 422, "missing_required_field"),
    "no subject": ({"subject": None}, 422, "missing_required_field"),
    "no body": ({"text": None}, 422, "missing_required_field"),
    "two senders": ({"from": "a@example.org, b@example.org"}, 422, "invalid_from_address"),
    "a bad recipient": ({"to": ["nobody"]}, 422, "validation_error"),
    "two recipients in one": ({"to": "a@x.org, b@x.org"}, 422, "validation_error"),
    "a name unquoted": ({"to": ["Shop, Inc. <a@x.org>"]}, 422, "validation_error"),
    "beyond ASCII": ({"to": ["jörg@example.com"]}, 422, "validation_error"),
    "too many": ({"to": [f"p{n}@example.com" for n in range(51)]}, 422, "validation_error"),
    "a number as header": ({"headers": {"X-A": 1}}, 422, "validation_error"),
    "tags with spaces": ({"tags": [{"name": "a b", "value": "c"}]}, 422, "validation_error"),
    "microseconds": ({"scheduled_at": "2026-12-01T10:00:00.123456Z"}, 422, "invalid_parameter"),
    "a time too far off": ({"scheduled_at": LATER}, 422, "invalid_parameter"),
    "no such time": ({"scheduled_at": "2026-13-01T10:00:00Z"}, 422, "invalid_parameter"),
    "a template with a text": ({"template": {"id": "w"}}, 422, "validation_error"),
    "base64 that is none": (
        {"attachments": [{"filename": "a", "content": "!"}]},
        422,
        "invalid_attachment",
    ),
    "an empty attachment": ({"attachments": [{"filename": "a"}]}, 422, "invalid_attachment"),
}


@pytest.mark.parametrize(("fields", "status", "name"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_refused(
    api: Client, sim: Simulator, fields: dict[str, Any], status: int, name: str
) -> None:
    answer = api.post("/emails", MAIL | fields)

    assert (answer.status_code, answer.json()["name"]) == (status, name)
    assert answer.json()["statusCode"] == status
    assert sim.messages == []
    assert sim.rejected[0].body == answer.json()


def test_keys_and_paths_are_checked(api: Client) -> None:
    def name(headers: dict[str, str], path: str = "/domains") -> str:
        return str(api.get(path, headers=headers).json()["name"])

    assert name({"Authorization": ""}) == "missing_api_key"
    assert name({"Authorization": "Bearer re_wrong"}) == "invalid_api_key"
    assert name({"Authorization": f"Bearer {SENDING_KEY}"}) == "restricted_api_key"
    assert name({}, "/nothing") == "not_found"
    assert name({}, "/emails/batch/x") == "not_found"
    assert api.post("/domains", {}).json()["name"] == "method_not_allowed"
    assert api.get("/domains", headers={"User-Agent": ""}).status_code == 403
    sending = {"Authorization": f"Bearer {SENDING_KEY}"}
    assert api.post("/emails", MAIL, headers=sending).status_code == 200


def test_only_verified_domains_send(session: requests.Session) -> None:
    sim = Simulator(sender_domains=["example.org"])
    with sim.running() as server:
        client = Client(server.url_for("resend"), {"Authorization": f"Bearer {KEY}"}, session)
        assert client.post("/emails", MAIL).status_code == 200
        answer = client.post("/emails", MAIL | {"from": "me@elsewhere.example"})
        assert (answer.status_code, answer.json()["name"]) == (403, "validation_error")


def test_a_strict_batch_is_all_or_nothing(api: Client, sim: Simulator) -> None:
    answer = api.post("/emails/batch", [MAIL, MAIL | {"to": "nobody"}])
    assert (answer.status_code, sim.messages) == (422, [])

    answer = api.post("/emails/batch", [MAIL, MAIL])
    assert [list(item) for item in answer.json()["data"]] == [["id"], ["id"]]
    assert "errors" not in answer.json()
    assert [one.id for one in sim.messages] == [one["id"] for one in answer.json()["data"]]


def test_a_permissive_batch_sends_the_valid_ones(api: Client, sim: Simulator) -> None:
    items = [MAIL, MAIL | {"to": "nobody"}, MAIL, "?", MAIL | {"attachments": []}]
    answer = api.post("/emails/batch", items, headers={"x-batch-validation": "permissive"}).json()

    assert [one["id"] for one in answer["data"]] == [one.id for one in sim.messages]
    assert [one["index"] for one in answer["errors"]] == [1, 3, 4]


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_1_to_100_messages(api: Client, count: int) -> None:
    assert api.post("/emails/batch", [MAIL] * count).status_code == 422


def test_a_key_makes_a_request_happen_once(api: Client, sim: Simulator) -> None:
    """The same request: the same answer. Another one: a conflict."""
    headers = {"Idempotency-Key": "order-7"}
    first, again = (api.post("/emails", MAIL, headers=headers) for _ in range(2))
    other = api.post("/emails", MAIL | {"text": "Other"}, headers=headers)

    assert first.json() == again.json()
    assert len(sim.messages) == 1
    assert sim.messages[0].idempotency_key == "order-7"
    assert (other.status_code, other.json()["name"]) == (409, "invalid_idempotent_request")
    long = api.post("/emails", MAIL, headers={"Idempotency-Key": "k" * 257})
    assert (long.status_code, long.json()["name"]) == (400, "invalid_idempotency_key")


def test_what_was_refused_can_be_sent_with_the_same_key(api: Client) -> None:
    headers = {"Idempotency-Key": "order-8"}
    assert api.post("/emails", MAIL | {"to": []}, headers=headers).status_code == 422
    assert api.post("/emails", MAIL, headers=headers).status_code == 200


def test_a_key_in_use_is_a_conflict(api: Client, sim: Simulator) -> None:
    """While the first request has not been answered."""
    side: Any = sim.side("resend")
    side._busy.add("order-9")
    answer = api.post("/emails", MAIL, headers={"Idempotency-Key": "order-9"})
    assert (answer.status_code, answer.json()["name"]) == (409, "concurrent_idempotent_requests")


def test_what_is_not_there_is_not_found(api: Client, sim: Simulator) -> None:
    paths = ["/emails/x", "/emails/receiving/x", "/emails/receiving/x/attachments", "/webhooks/x"]
    for path in paths:
        answer = api.get(path)
        assert (answer.status_code, answer.json()["name"]) == (404, "not_found")
    assert api.get("/received/x").status_code == 404
    assert api.session.get(f"{api.url}/received/x/raw", timeout=10).status_code == 403
    with pytest.raises(ValueError, match="id or an alias"):
        sim.template("resend", subject="Hi")


@pytest.mark.parametrize(
    "body",
    [
        {"endpoint": "https://x.example/"},
        {"endpoint": "ftp://x.example/", "events": ["email.sent"]},
        {"endpoint": "https://x.example/", "events": ["email.teleported"]},
        {"endpoint": "https://x.example/", "events": ["email.sent"], "status": "asleep"},
    ],
)
def test_a_webhook_must_make_sense(api: Client, body: dict[str, Any]) -> None:
    assert api.post("/webhooks", body).status_code == 422
    events = ["email.sent", "contact.created"]
    answer = api.post("/webhooks", {"endpoint": "https://x.example/", "events": events})
    assert answer.status_code == 201


@pytest.mark.parametrize("mode", ["lenient", ""])
def test_a_batch_is_strict_or_permissive(api: Client, mode: str) -> None:
    answer = api.post("/emails/batch", [MAIL], headers={"x-batch-validation": mode})
    assert answer.status_code == 422


def test_a_template_is_filled_in(api: Client, sim: Simulator) -> None:
    """Variables, fallbacks, and a subject of one's own."""
    sim.template("resend", id="w", subject="Hi {{{NAME}}}", text="{{{NAME}}}: {{{N|none}}}")
    body = {**MAIL, "text": None, "subject": None}
    template = {"id": "w", "variables": {"NAME": "Bea", "N": 7}}
    assert api.post("/emails", body | {"template": template}).status_code == 200
    own = {"template": {"id": "w", "variables": {"NAME": "Bea"}}, "subject": "Own"}
    assert api.post("/emails", body | own).status_code == 200

    assert [(one.subject, one.text) for one in sim.messages] == [
        ("Hi Bea", "Bea: 7"),
        ("Own", "Bea: none"),
    ]
    assert sim.messages[0].template == "w"
    for chosen in ({"id": "w"}, {"id": "other"}, {"id": "w", "variables": {"NAME": ["x"]}}):
        assert api.post("/emails", body | {"template": chosen}).status_code in (404, 422)


@pytest.mark.parametrize(
    ("filename", "content_type"), [("", "text/plain"), ("data.txt", "text/csv")]
)
def test_some_attachments_keep_a_message_back_for_ever(
    api: Client, sim: Simulator, hooked: Application, filename: str, content_type: str
) -> None:
    """Taken with an id; no event ever tells of it."""
    file = {"filename": filename, "content": "eA==", "content_type": content_type}
    answer = api.post("/emails", MAIL | {"attachments": [file]})
    sim.wait()

    assert answer.status_code == 200
    assert hooked.requests == []
    assert api.get(f"/emails/{answer.json()['id']}").json()["last_event"] == "queued"


def test_a_scheduled_message_is_changed_and_cancelled(api: Client, sim: Simulator) -> None:
    when = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat(timespec="milliseconds")
    number = api.post("/emails", MAIL | {"scheduled_at": when}).json()["id"]
    new = when.replace("+00:00", "Z")
    url = f"{api.url}/emails/{number}"
    changed = api.session.patch(url, json={"scheduled_at": new}, headers=api.headers, timeout=10)

    assert changed.json() == {"object": "email", "id": number}
    assert api.get(f"/emails/{number}").json()["scheduled_at"] == new
    assert api.post(f"/emails/{number}/cancel").status_code == 200
    assert api.get(f"/emails/{number}").json()["last_event"] == "canceled"
    assert api.post(f"/emails/{number}/cancel").status_code == 422
    assert sim.messages[0].send_at is not None


# -- webhooks -------------------------------------------------------------------------------


def verified(received: Received, secret: str) -> dict[str, Any]:
    """Check a webhook with Resend's own library, and return what it tells."""
    resend.Webhooks.verify(
        {
            "payload": received.body.decode(),
            "headers": {
                "id": received.headers["svix-id"],
                "timestamp": received.headers["svix-timestamp"],
                "signature": received.headers["svix-signature"],
            },
            "webhook_secret": secret,
        }
    )
    told: dict[str, Any] = received.json
    return told


def secret_of(sim: Simulator, name: str = "SIGNING_SECRET") -> str:
    return str(sim.settings("resend", "http://localhost")[name])


EXPECTED = {
    "queued": ("email.scheduled", None),
    "sent": ("email.sent", None),
    "delivered": ("email.delivered", None),
    "deferred": ("email.delivery_delayed", None),
    "bounced": ("email.bounced", "bounce"),
    "soft_bounced": ("email.bounced", "bounce"),
    "rejected": ("email.suppressed", "suppressed"),
    "failed": ("email.failed", "failed"),
    "complained": ("email.complained", None),
    "opened": ("email.opened", None),
    "clicked": ("email.clicked", "click"),
}


@pytest.mark.parametrize(("event", "expected"), EXPECTED.items())
def test_every_event_is_posted_and_signed(
    api: Client, sim: Simulator, hooked: Application, event: str, expected: tuple[str, str | None]
) -> None:
    """The library that Resend gives its customers finds it authentic."""
    sim.auto = ()
    headers = {"X-Tags": '["order"]'}
    tags = [{"name": "kind", "value": "order"}]
    number = api.post("/emails", MAIL | {"headers": headers, "tags": tags}).json()["id"]

    delivery = sim.emit(number, event)

    assert (delivery.status, delivery.verdict) == (200, "done")
    told = verified(hooked.last, secret_of(sim))
    name, detail = expected
    assert told["type"] == name
    assert told["data"]["email_id"] == number
    assert told["data"]["to"] == ["Bea <bea@example.com>"]
    assert told["data"]["headers"] == [{"name": "X-Tags", "value": '["order"]'}]
    assert told["data"]["tags"] == {"kind": "order"}
    assert detail is None or detail in told["data"]
    assert hooked.last.path == "/resend/tracking/"
    assert api.get(f"/emails/{number}").json()["last_event"] == name.removeprefix("email.")


def test_details_replace_what_is_told(api: Client, sim: Simulator, hooked: Application) -> None:
    sim.auto = ()
    number = api.post("/emails", MAIL).json()["id"]

    sim.emit(number, "clicked", url="https://example.org/a", user_agent="Agent/7")
    click = hooked.last.json["data"]["click"]
    assert (click["link"], click["userAgent"]) == ("https://example.org/a", "Agent/7")
    sim.emit(number, "email.bounced", subType="NoEmail", bounce={"message": "Gone"})
    bounce = hooked.last.json["data"]["bounce"]
    assert (bounce["subType"], bounce["message"]) == ("NoEmail", "Gone")
    with pytest.raises(ValueError, match="Resend cannot report"):
        sim.emit(number, "unsubscribed")


def test_a_retry_has_the_same_id_and_a_signature_of_its_own(
    api: Client, sim: Simulator, hooked: Application
) -> None:
    sim.auto = ()
    sim.time_scale = 0.001
    number = api.post("/emails", MAIL).json()["id"]
    hooked.status = 500
    first = sim.emit(number, "delivered")
    hooked.status = 200
    sim.wait(2)

    assert (first.verdict, first.retry_in) == ("retry", 5.0)
    one, two = hooked.requests
    assert one.headers["svix-id"] == two.headers["svix-id"]
    assert one.body == two.body
    for received in (one, two):
        verified(received, secret_of(sim))


def test_a_forged_webhook_is_no_longer_authentic(
    api: Client, sim: Simulator, hooked: Application
) -> None:
    """The fault precedes the true one by one that the package must reject."""
    sim.auto = ()
    number = api.post("/emails", MAIL).json()["id"]
    sim.fault(webhook="forged")
    sim.emit(number, "delivered")

    forged, true = hooked.requests
    secrets, now = (secret_of(sim),), datetime.now(timezone.utc)
    svix.verify(WebhookRequest(true.headers, true.body), secrets, now)
    with pytest.raises(WebhookRejected):
        svix.verify(WebhookRequest(forged.headers, forged.body), secrets, now)


@pytest.mark.parametrize(
    ("recipient", "events"),
    [
        ("delivered+a@resend.dev", ["email.sent", "email.delivered"]),
        ("bounced@resend.dev", ["email.sent", "email.bounced"]),
        ("complained@resend.dev", ["email.sent", "email.delivered", "email.complained"]),
        ("suppressed@resend.dev", ["email.suppressed"]),
        ("gone@example.com", ["email.suppressed"]),
    ],
)
def test_some_recipients_have_a_fate_of_their_own(
    api: Client, sim: Simulator, hooked: Application, recipient: str, events: list[str]
) -> None:
    sim.suppress("resend", "gone@example.com")
    api.post("/emails", MAIL | {"to": recipient})
    sim.wait()

    assert [received.json["type"] for received in hooked.requests] == events


def test_a_bounce_suppresses(api: Client, sim: Simulator, hooked: Application) -> None:
    sim.auto = ()
    for event in ("soft_bounced", "bounced"):
        number = api.post("/emails", MAIL).json()["id"]
        sim.emit(number, event)
    sim.auto = ("delivered",)
    api.post("/emails", MAIL)
    sim.wait()

    assert hooked.last.json["type"] == "email.suppressed"


# -- the package, in an app -----------------------------------------------------------------


class Shop:
    """An app that sends here and is posted to from here, over HTTP."""

    def __init__(self, sim: Simulator, server: LocalServer, **more: Any) -> None:
        self.app = Flask("shop")
        settings = sim.settings("resend", server.url_for("resend")) | more
        self.app.config["MAILESP"] = {
            "ESP": "resend",
            "SEND_DEFAULTS": {"sender": "shop@example.org"},
            **{f"RESEND_{name}": value for name, value in settings.items()},
        }
        self.mail = MailESP(self.app)
        self.seen: list[TrackingEvent | InboundEvent] = []
        for signal in (signals.tracking, signals.inbound):
            signal.connect(self._receive, sender=self.app)
        self.server = LocalServer(self.app)

    def _receive(self, app: Flask, event: Any, esp_name: str) -> None:
        self.seen.append(event)

    def hook(self, sim: Simulator, **options: Any) -> None:
        url = f"{self.server.url}/mail-hooks/resend"
        sim.hook("resend", tracking=f"{url}/tracking/", inbound=f"{url}/inbound/", **options)

    def send(self, *args: Any, **fields: Any) -> Any:
        with self.app.app_context():
            return self.mail.send(Message(*args, **fields))

    def stop(self) -> None:
        self.server.stop()
        self.app.extensions["mailesp"].transport.close()


@pytest.fixture
def shop(sim: Simulator, server: LocalServer) -> Iterator[Shop]:
    shop = Shop(sim, server)
    shop.hook(sim)
    yield shop
    shop.stop()


def test_the_package_is_told_what_it_sent(sim: Simulator, shop: Shop) -> None:
    """Sent, delivered, and told by an authentic webhook: with its tags and metadata."""
    result = shop.send(
        "Hi", "Bea <bea@example.com>", "Hello", tags=["a", "ö"], metadata={"order": 7}
    )
    sim.wait()

    event = shop.seen[-1]
    assert isinstance(event, TrackingEvent)
    assert (event.event_type, event.message_id) == ("delivered", result.message_id)
    assert (event.recipient, event.tags) == ("bea@example.com", ["a", "ö"])
    assert event.metadata == {"order": 7}


SOURCE = (
    b"From: Ann <ann@example.com>\r\nTo: Help <help@in.example.org>\r\nSubject: Hi\r\n"
    b"Message-ID: <7@mail.example.com>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe\r\n"
)


def received(sim: Simulator, shop: Shop, mail: bytes) -> InboundEvent:
    delivery = sim.receive("resend", mail, "help@in.example.org")
    assert delivery.status == 200
    (event,) = shop.seen
    assert isinstance(event, InboundEvent)
    return event


def test_the_package_fetches_the_source_of_a_mail(sim: Simulator, shop: Shop) -> None:
    """Byte for byte, though it is not UTF-8."""
    event = received(sim, shop, SOURCE)

    assert event.message.raw == SOURCE
    assert event.message.text == "Grüße\n"
    assert event.message.envelope_recipient == "help@in.example.org"


def test_the_package_fetches_the_files_of_a_mail_without_a_source(
    sim: Simulator, shop: Shop
) -> None:
    shop.hook(sim, with_source=False)
    mail = sim.compose(
        "resend",
        from_="Ann <ann@example.com>",
        to="Help <help@in.example.org>",
        subject="Žluté krabice",
        text="One is missing.",
        html='<img src="cid:logo">',
        attachments=[("box.txt", "text/plain", b"box 2")],
        inline=[("logo", "logo.png", "image/png", PNG)],
        headers={"Message-ID": "<7@mail.example.com>", "References": "<1@example.org>"},
    )
    message = received(sim, shop, mail).message

    assert message.raw is None
    assert (message.subject, message.message_id) == ("Žluté krabice", "7@mail.example.com")
    assert str(message.from_email) == "Ann <ann@example.com>"
    assert (message.text.strip(), message.html.strip()) == (
        "One is missing.",
        '<img src="cid:logo">',
    )
    assert message.inlines["logo"].data == PNG
    assert [(file.filename, file.data) for file in message.attachments] == [("box.txt", b"box 2")]
    assert message.references == ["1@example.org"]
    assert message.defects == []


def test_a_key_that_may_only_send_cannot_fetch(
    sim: Simulator, server: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The webhook is put off, and the log says which key is needed; then it comes again."""
    shop = Shop(sim, server, API_KEY=SENDING_KEY)
    shop.hook(sim)
    try:
        delivery = sim.receive("resend", SOURCE, "help@in.example.org")
        assert (delivery.status, delivery.verdict) == (500, "retry")
        assert "RESEND_API_KEY may only send. Inbound mail is fetched with it" in caplog.text
        assert shop.seen == []
    finally:
        sim.stop()
        shop.stop()


def test_an_uncertain_message_can_be_sent_again_with_its_key(sim: Simulator, shop: Shop) -> None:
    """The answer was lost, the message was not: the second try finds it."""
    sim.fault(drop="after")
    fields: dict[str, Any] = {"idempotency_key": "order-9"}
    with pytest.raises(Exception, match="may or may not"):
        shop.send("Hi", "bea@example.com", "Hello", **fields)
    result = shop.send("Hi", "bea@example.com", "Hello", **fields)

    (message,) = sim.messages
    assert result.message_id == message.id


def test_a_merge_and_many_messages_keep_every_id(sim: Simulator, shop: Shop) -> None:
    to = [f"p{number}@example.com" for number in range(120)]
    result = shop.send("Hi", to, "Hello", merge_metadata={})
    assert result.message_id == {one.id for one in sim.messages}
    assert len(sim.messages) == 120

    with shop.app.app_context():
        messages = [Message("Hi", address, "Hello") for address in to[:5]]
        messages[2].attach("a.txt", "text/plain", b"x")
        results = list(shop.mail.send_many(messages))
    assert {one.message_id for one in results} == {one.id for one in sim.messages[120:]}
    assert {one.path for one in sim.messages[120:]} == {"/emails", "/emails/batch"}


def test_a_bad_message_among_many_is_the_only_one_refused(sim: Simulator, shop: Shop) -> None:
    """What Resend refuses of a permissive batch."""
    messages = [Message("Hi", f"p{number}@example.com", "Hello") for number in range(3)]
    messages[1].esp_extra = {"tags": [{"name": "not a name", "value": "x"}]}
    with shop.app.app_context():
        results = list(shop.mail.send_many(messages))

    assert [str(one.outcome) for one in results] == ["accepted", "refused", "accepted"]
    assert isinstance(results[1].error, APIError)
    assert [one.message_id for one in results if one.message_id] == [one.id for one in sim.messages]


# -- Resend's own library -------------------------------------------------------------------

pytest_official = pytest.mark.usefixtures("official")


@pytest_official
def test_official_send(sim: Simulator) -> None:
    sent = resend.Emails.send(
        {
            **MAIL,  # type: ignore[typeddict-item]
            "attachments": [{"filename": "a.txt", "content": list(b"hi")}],
            "tags": [{"name": "kind", "value": "order"}],
        },
        {"idempotency_key": "order-1"},
    )

    (message,) = sim.messages
    assert sent["id"] == message.id
    assert message.attachments[0].data == b"hi"
    assert message.idempotency_key == "order-1"
    email = resend.Emails.get(message.id)
    assert (email["subject"], email["text"]) == ("Hi", "Hello")
    assert resend.Emails.list()["data"][0]["id"] == message.id


@pytest_official
def test_official_schedule() -> None:
    when = (datetime.now(timezone.utc) + timedelta(hours=3)).isoformat(timespec="milliseconds")
    sent = resend.Emails.send({**MAIL, "scheduled_at": when})  # type: ignore[typeddict-item]
    assert resend.Emails.update({"id": sent["id"], "scheduled_at": when})["id"] == sent["id"]
    assert resend.Emails.cancel(sent["id"])["id"] == sent["id"]


@pytest_official
def test_official_batch(sim: Simulator) -> None:
    items: Any = [MAIL, MAIL | {"to": "nobody"}, MAIL]
    sent = resend.Batch.send(items, {"batch_validation": "permissive"})

    assert [one["id"] for one in sent["data"]] == [one.id for one in sim.messages]
    assert [one["index"] for one in sent["errors"]] == [1]
    with pytest.raises(ResendError) as error:
        resend.Batch.send(items)
    assert error.value.code == 422


@pytest_official
def test_official_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own exceptions."""
    with pytest.raises(ResendError) as missing:
        resend.Emails.send({**MAIL, "subject": None})  # type: ignore[typeddict-item]
    assert (missing.value.code, missing.value.error_type) == (422, "missing_required_field")
    monkeypatch.setattr(resend, "api_key", "re_wrong")
    with pytest.raises(ResendError) as wrong:
        resend.Emails.send(MAIL)  # type: ignore[arg-type]
    assert (wrong.value.code, wrong.value.error_type) == (403, "invalid_api_key")


@pytest_official
def test_official_receiving(sim: Simulator, hooked: Application) -> None:
    """A mail is told, listed, looked up and downloaded; the download refuses the key."""
    mail = sim.compose(
        "resend",
        from_="ann@example.com",
        to="help@in.example.org",
        subject="Hi",
        text="Hello",
        html='<img src="cid:logo">',
        inline=[("logo", "logo.png", "image/png", PNG)],
    )
    sim.receive("resend", mail, "help@in.example.org")
    told = verified(hooked.last, secret_of(sim, "INBOUND_SECRET"))
    number = told["data"]["email_id"]

    assert resend.Emails.Receiving.list()["data"][0]["id"] == number
    found = resend.Emails.Receiving.get(number)
    data = base64.b64encode(PNG).decode()
    assert (found["html"] or "").strip() == f'<img src="data:image/png;base64,{data}">'
    kept: Any = resend.Emails.Receiving.get(number, {"html_format": "cid"})
    assert kept["html"].strip() == '<img src="cid:logo">'
    (file,) = resend.Emails.Receiving.Attachments.list(number)["data"]
    assert resend.Emails.Receiving.Attachments.get(number, file["id"])["size"] == len(PNG)
    assert requests.get(file["download_url"], timeout=10).content == PNG
    url = kept["raw"]["download_url"]
    assert requests.get(url, timeout=10).content == mail
    key = {"Authorization": f"Bearer {KEY}"}
    assert requests.get(url, headers=key, timeout=10).status_code == 400
    assert requests.get(url.partition("?")[0], timeout=10).status_code == 403


@pytest_official
def test_official_webhooks_are_posted_to(sim: Simulator, application: Application) -> None:
    """What the library sets up is where events go, signed with the secret it was given."""
    made = resend.Webhooks.create(
        {"endpoint": application.url + "/hook", "events": ["email.sent", "email.delivered"]}
    )
    secret = made["signing_secret"]
    assert resend.Webhooks.list()["data"][0]["id"] == made["id"]
    assert resend.Webhooks.get(made["id"])["signing_secret"] == secret

    number = resend.Emails.send(MAIL)["id"]  # type: ignore[arg-type]
    sim.wait()
    told = [verified(one, secret)["type"] for one in application.requests]
    assert set(told) <= {"email.sent", "email.delivered"}
    assert "email.delivered" in told

    new = resend.Webhooks.rotate_signing_secret(made["id"])["signing_secret"]
    sim.emit(number, "sent")
    for both in (secret, new):
        verified(application.last, both)
    with pytest.raises(LookupError, match="is told of"):
        sim.emit(number, "clicked")
    resend.Webhooks.update({"webhook_id": made["id"], "status": "disabled"})
    with pytest.raises(LookupError, match="no tracking hook"):
        sim.emit(number, "sent")
    assert resend.Webhooks.remove(made["id"])["deleted"]
    assert resend.Webhooks.list()["data"] == []


@pytest_official
def test_official_domains() -> None:
    assert [one["name"] for one in resend.Domains.list()["data"]] == ["example.org"]


def test_answers_are_json(api: Client) -> None:
    """Raw UTF-8, as a lone surrogate would not be."""
    answer = api.post("/emails", data=json.dumps(MAIL | {"to": "\ud800"}).encode())
    assert answer.status_code == 422
    assert api.post("/emails", data=b"{").status_code == 400
    assert api.post("/emails", data=b"[" * 100_000).status_code == 400
