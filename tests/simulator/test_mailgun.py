"""Mailgun's side: what it takes and refuses, what it posts, and its own client library."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import pytest
import requests
from flask import Flask

from flask_mailesp import EventType, InboundEvent, MailESP, Message, TrackingEvent, signals
from flask_mailesp.simulator import LocalServer, SentMessage, Simulator

from .conftest import Application, Client

DOMAIN = "mg.example.org"
SEND = f"/v3/{DOMAIN}/messages"
LETTER = {"from": "Shop <shop@mg.example.org>", "to": "bea@example.com", "text": "Hello"}


@pytest.fixture
def mailgun(sim: Simulator, server: LocalServer, session: requests.Session) -> Client:
    return Client(server.url_for("mailgun"), sim.side("mailgun").credentials(), session)


@pytest.fixture
def hooked(sim: Simulator, application: Application) -> Application:
    """The application, with Mailgun's webhook and route set to it."""
    sim.auto = ()
    sim.hook(
        "mailgun",
        tracking=application.url + "/mailgun/tracking/",
        inbound=application.url + "/mailgun/inbound/",
    )
    return application


def posted(client: Client, **changes: Any) -> requests.Response:
    form = {key: value for key, value in {**LETTER, **changes}.items() if value is not None}
    return client.post(SEND, data=form)


# -- sending ----------------------------------------------------------------------------------


def test_a_message_is_taken_and_shown(sim: Simulator, mailgun: Client) -> None:
    """Every option of a form is where a reader of the mailbox looks for it."""
    answer = posted(
        mailgun,
        **{
            "to": ["Bea <bea@example.com>", '"Lind, Carl" <carl@example.net>, dan@example.org'],
            "cc": "cc@example.com",
            "subject": "Hi ✓",
            "html": "<p>Hi</p>",
            "amp-html": "<html ⚡4email></html>",
            "h:Reply-To": "desk@example.org",
            "h:X-Order": "7",
            "v:order": "7",
            "o:tag": ["a", "b"],
            "o:tracking-opens": "yes",
            "o:tracking-clicks": "no",
            "o:deliverytime": "Thu, 09 Oct 2031 08:53:20 +0000",
        },
    ).json()

    (message,) = sim.messages
    assert answer == {"id": message.id, "message": "Queued. Thank you."}
    assert message.id.startswith("<")
    assert message.id.endswith(f"@{DOMAIN}>")
    assert message.recipients == [
        "bea@example.com",
        "carl@example.net",
        "dan@example.org",
        "cc@example.com",
    ]
    assert set(message.ids.values()) == {message.id}
    assert (message.subject, message.text, message.html) == ("Hi ✓", "Hello", "<p>Hi</p>")
    assert message.alternatives == [("text/x-amp-html", "<html ⚡4email></html>")]
    assert (message.headers, message.reply_to) == ([("X-Order", "7")], ["desk@example.org"])
    assert (message.tags, message.metadata) == (["a", "b"], {"order": "7"})
    assert (message.track_opens, message.track_clicks) == (True, False)
    assert str(message.send_at) == "2031-10-09 08:53:20+00:00"


def test_files_are_kept_and_a_nameless_one_is_dropped(sim: Simulator, mailgun: Client) -> None:
    """As Mailgun does it, silently."""
    files = [
        ("attachment", ("Größe.txt", b"\x00\xff", "text/plain; charset=utf-8")),
        ("inline", ("logo@x", b"PNG", "image/png")),
        ("attachment", ("", b"lost", "text/plain")),
    ]
    mailgun.post(SEND, data=LETTER, files=files)

    found = [
        (one.name, one.content_type, one.data, one.content_id)
        for one in sim.messages[0].attachments
    ]
    assert found == [
        ("Größe.txt", "text/plain; charset=utf-8", b"\x00\xff", None),
        ("logo@x", "image/png", b"PNG", "logo@x"),
    ]


def test_recipient_variables_make_private_copies(sim: Simulator, mailgun: Client) -> None:
    """One id for all; placeholders without a value stay as they are."""
    rows = {"bea@example.com": {"name": "Bea", "v:n": "1"}, "carl@example.net": {"name": "Carl"}}
    posted(
        mailgun,
        **{
            "to": ["bea@example.com", "Carl <carl@example.net>"],
            "cc": "cc@example.com",
            "subject": "Hi %recipient.name%",
            "v:n": "%recipient.v:n%",
            "h:X-Name": "%recipient.name%",
            "recipient-variables": json.dumps(rows),
        },
    )

    first, second = sim.messages
    assert [first.subject, second.subject] == ["Hi Bea", "Hi Carl"]
    assert (first.metadata, second.metadata) == ({"n": "1"}, {"n": "%recipient.v:n%"})
    assert second.headers == [("X-Name", "Carl")]
    assert first.recipients == ["bea@example.com", "cc@example.com"]
    assert second.recipients == ["carl@example.net", "cc@example.com"]
    assert first.message_id == second.message_id
    assert set(first.ids.values()) == set(second.ids.values()) == {first.message_id}


def test_a_template_is_filled_in(sim: Simulator, mailgun: Client) -> None:
    """By t:variables, by metadata, or by a recipient's variables through metadata."""
    sim.template("mailgun", id="hello", subject="Hi {{name}}", html="<b>{{shop.name}}</b>")
    variables = json.dumps({"name": "Bea", "shop": {"name": "A & B"}})
    posted(mailgun, **{"text": None, "template": "hello", "t:variables": variables})
    rows = {"bea@example.com": {"who": "Ann"}}
    posted(
        mailgun,
        **{
            "text": None,
            "template": "hello",
            "v:name": "%recipient.who%",
            "recipient-variables": json.dumps(rows),
        },
    )

    assert [one.subject for one in sim.messages] == ["Hi Bea", "Hi Ann"]
    assert sim.messages[0].html == "<b>A &amp; B</b>"


def test_a_source_is_taken_as_it_is(sim: Simulator, mailgun: Client) -> None:
    source = b"From: a@mg.example.org\r\nSubject: Raw\r\nMessage-ID: <own@x>\r\n\r\nHi"
    files = {"message": ("message.mime", source)}
    answer = mailgun.post(f"{SEND}.mime", data={"to": "bea@example.com"}, files=files)

    (message,) = sim.messages
    assert answer.json()["id"] == message.id == "<own@x>"
    assert (message.raw, message.subject, message.text) == (source, "Raw", "Hi")


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"to": None}, "to parameter is missing"),
    ({"from": None}, "from parameter is missing"),
    ({"to": "nobody"}, "'to' parameter is not a valid address"),
    ({"cc": "a@b@c"}, "'cc' parameter is not a valid address"),
    ({"text": None}, "Need at least one of"),
    ({"html": "x", "template": "t"}, "mutually exclusive"),
    ({"text": None, "template": "unknown"}, "not found"),
    ({"o:deliverytime": "tomorrow"}, "Invalid delivery time"),
    ({"recipient-variables": "[1]"}, "not valid JSON"),
    ({"to": [f"p{number}@example.com" for number in range(1001)]}, "Too many recipients"),
    ({"v:long": "x" * 17_000}, "16 KB"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSALS)
def test_what_mailgun_refuses(
    sim: Simulator, mailgun: Client, changes: dict[str, Any], said: str
) -> None:
    """One malformed address is enough; nothing is taken."""
    answer = posted(mailgun, **changes)

    assert answer.status_code == 400
    assert said in answer.json()["message"]
    assert (sim.messages, len(sim.rejected)) == ([], 1)


def test_a_wrong_key_is_forbidden_and_another_domain_unknown(
    server: LocalServer, session: requests.Session, private_key: str
) -> None:
    sim = Simulator(postal_private_key=private_key, sender_domains=["mg.example.org"])
    with sim.running() as own:
        good = Client(own.url_for("mailgun"), sim.side("mailgun").credentials(), session)
        wrong = Client(good.url, {"Authorization": "Basic YXBpOndyb25n"}, session)
        refused = wrong.post(SEND, data=LETTER)
        unknown = good.post("/v3/other.example/messages", data=LETTER)
    sim.close()

    assert (refused.status_code, refused.text) == (401, "Forbidden")
    assert (unknown.status_code, unknown.json()) == (
        404,
        {"message": "Domain not found: other.example"},
    )


@pytest.mark.parametrize("path", ["/", "/v3/a/b/messages", "/v3/a%2Fb/messages", "/v2/x/messages"])
def test_whatever_else_is_asked_it_is_magnificent(
    sim: Simulator, mailgun: Client, path: str
) -> None:
    """A 200 that sent nothing: the trap for those who look at the status only."""
    answer = mailgun.post(path, data=LETTER)

    assert (answer.status_code, answer.text) == (200, "Mailgun Magnificent API")
    assert sim.messages == []


# -- webhooks ---------------------------------------------------------------------------------

EVENTS: list[tuple[str, str, str | None, str | None]] = [
    ("queued", "accepted", None, None),
    ("delivered", "delivered", None, None),
    ("deferred", "failed", "temporary", "greylisted"),
    ("bounced", "failed", "permanent", "bounce"),
    ("rejected", "failed", "permanent", "suppress-bounce"),
    ("complained", "complained", None, None),
    ("opened", "opened", None, None),
    ("clicked", "clicked", None, None),
    ("unsubscribed", "unsubscribed", None, None),
]


@pytest.fixture
def message(sim: Simulator, mailgun: Client, hooked: Application) -> SentMessage:
    posted(mailgun, **{"to": ["bea@example.com", "carl@example.net"], "o:tag": "t", "v:order": "7"})
    return sim.messages[-1]


def is_signed(signed: dict[str, str], key: str) -> bool:
    text = f"{signed['timestamp']}{signed['token']}".encode()
    made = hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
    return hmac.compare_digest(made, signed["signature"]) and len(signed["token"]) == 50


def test_all_events_are_covered(sim: Simulator) -> None:
    assert sim.events("mailgun") == tuple(row[0] for row in EVENTS)


@pytest.mark.parametrize(("event", "name", "severity", "reason"), EVENTS)
def test_each_event_is_posted_signed(
    sim: Simulator,
    message: SentMessage,
    hooked: Application,
    event: str,
    name: str,
    severity: str | None,
    reason: str | None,
) -> None:
    sim.emit(message, event, recipient="CARL@example.net")

    body = hooked.last.json
    data = body["event-data"]
    assert is_signed(body["signature"], "mailgun-simulator-signing-key")
    assert (data["event"], data.get("severity"), data.get("reason")) == (name, severity, reason)
    assert data["recipient"] == "carl@example.net"
    assert (data["tags"], data["user-variables"]) == (["t"], {"order": "7"})
    assert f"<{data['message']['headers']['message-id']}>" == message.id


def test_details_replace_fields_and_the_words_of_all_providers_work(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    sim.emit(message, "clicked", url="https://example.org/x", user_agent="Thunder/1")
    clicked = hooked.last.json["event-data"]
    sim.emit(message, "failed", severity="permanent", reason="old", code=602)
    failed = hooked.last.json["event-data"]

    assert (clicked["url"], clicked["client-info"]["user-agent"]) == (
        "https://example.org/x",
        "Thunder/1",
    )
    assert (failed["reason"], failed["delivery-status"]["code"]) == ("old", 602)
    with pytest.raises(ValueError, match="Mailgun cannot report 'subscribed'"):
        sim.emit(message, "subscribed")
    with pytest.raises(ValueError, match="no such recipient"):
        sim.emit(message, "opened", recipient="nobody@example.com")


def test_an_event_of_a_batch_is_of_the_recipients_copy(
    sim: Simulator, mailgun: Client, hooked: Application
) -> None:
    """All copies have one id; the recipient tells which is meant."""
    rows = {"bea@example.com": {"n": "1"}, "carl@example.net": {"n": "2"}}
    batch = {
        "to": list(rows),
        "v:n": "%recipient.n%",
        "recipient-variables": json.dumps(rows),
    }
    number = posted(mailgun, **batch).json()["id"]

    for address, row in rows.items():
        sim.emit(number, "opened", recipient=address)
        data = hooked.last.json["event-data"]
        assert (data["recipient"], data["user-variables"]) == (address, row)


def test_a_suppressed_recipient_is_accepted_and_then_rejected(
    sim: Simulator, mailgun: Client, hooked: Application
) -> None:
    sim.auto = ("delivered",)
    sim.suppress("mailgun", "gone@example.net")
    posted(mailgun, to=["bea@example.com", "gone@example.net"])
    sim.wait()

    events = [item.json["event-data"] for item in hooked.requests]
    assert sorted((item["recipient"], item["event"]) for item in events) == [
        ("bea@example.com", "delivered"),
        ("gone@example.net", "failed"),
    ]


@pytest.mark.parametrize(("status", "verdict"), [(200, "done"), (406, "dropped"), (204, "retry")])
def test_200_is_success_406_stops_and_the_rest_is_repeated(
    sim: Simulator,
    message: SentMessage,
    hooked: Application,
    status: int,
    verdict: str,
) -> None:
    hooked.status = status

    delivery = sim.emit(message, "delivered")

    assert delivery.verdict == verdict
    assert delivery.retry_in == (300 if verdict == "retry" else None)


# -- against the package ----------------------------------------------------------------------


class Package:
    """An app with the package in it, whose webhooks the simulator posts to."""

    def __init__(self, sim: Simulator, server: LocalServer) -> None:
        self.events: list[TrackingEvent | InboundEvent] = []
        self.app = Flask("shop", root_path=".")
        self.app.config["MAILESP"] = {
            "ESP": "mailgun",
            **{
                f"MAILGUN_{name}": value
                for name, value in sim.settings("mailgun", server.url_for("mailgun")).items()
            },
        }
        self.mail = MailESP(self.app)
        signals.tracking.connect(self._receive, self.app)
        signals.inbound.connect(self._receive, self.app)
        self.server = LocalServer(self.app.wsgi_app)

    def _receive(self, app: Flask, event: Any, **_: Any) -> None:
        self.events.append(event)

    def send(self, **fields: Any) -> str:
        message = Message(
            **{
                "subject": "Hi",
                "to": ["bea@example.com"],
                "body": "x",
                "sender": "s@mg.example.org",
            }
            | fields
        )
        with self.app.app_context():
            return str(self.mail.send(message).message_id)


@pytest.fixture
def package(sim: Simulator, server: LocalServer) -> Iterator[Package]:
    found = Package(sim, server)
    sim.auto = ()
    base = f"{found.server.url}/mail-hooks/mailgun"
    sim.hook("mailgun", tracking=f"{base}/tracking/", inbound=f"{base}/inbound/")
    yield found
    found.server.stop()
    found.app.extensions["mailesp"].transport.close()


@pytest.mark.parametrize("event", [row[0] for row in EVENTS])
def test_the_package_understands_every_event(sim: Simulator, package: Package, event: str) -> None:
    """Authentic, and of the type it was asked for."""
    number = package.send(tags=["t"], metadata={"order": "7"})

    assert sim.emit(number, event).status == 200
    (found,) = package.events
    assert isinstance(found, TrackingEvent)
    assert found.event_type == event
    assert (found.message_id, found.recipient) == (number, "bea@example.com")
    assert (found.tags, found.metadata) == (["t"], {"order": "7"})


def test_a_forged_webhook_is_refused_and_a_doubled_one_has_the_same_key(
    sim: Simulator, package: Package
) -> None:
    number = package.send()
    sim.fault(webhook="forged")
    sim.emit(number, "delivered")
    sim.fault(webhook="doubled")
    sim.emit(number, "opened")
    sim.wait()

    assert [one.status for one in sim.deliveries if one.forged] == [401]
    opened = [event for event in package.events if event.event_type == EventType.OPENED]
    assert len(opened) == 2
    assert opened[0].key == opened[1].key


def mail_parts(**more: Any) -> dict[str, Any]:
    return {
        "from_": "Ilse Größe <ilse@example.net>",
        "subject": "Paket ✓",
        "text": "Where?\n\nOn Friday, Shop wrote:\n> Hi",
        "html": '<p>Where? <img src="cid:foto@x"></p>',
        "attachments": [("a.bin", "application/x-a", b"\x00\xff")],
        "inline": [("foto@x", "foto.png", "image/png", b"\x89PNG")],
        **more,
    }


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("spam", [None, (True, 9.5)])
def test_the_package_reads_inbound_mail(
    sim: Simulator,
    package: Package,
    compose: Callable[..., bytes],
    raw: bool,
    spam: tuple[bool, float] | None,
) -> None:
    """Parsed with files, or the source, byte for byte."""
    sim.hook("mailgun", inbound_raw=raw)
    source = compose(to="help@mg.example.org", **mail_parts())
    delivery = sim.receive("mailgun", source, to="help@mg.example.org", spam=spam)

    assert delivery.status == 200
    (event,) = package.events
    assert isinstance(event, InboundEvent)
    message = event.message
    assert str(message.from_email) == "Ilse Größe <ilse@example.net>"
    assert (message.subject, message.envelope_recipient) == ("Paket ✓", "help@mg.example.org")
    assert message.text.startswith("Where?")
    assert [file.data for file in message.attachments] == [b"\x00\xff"]
    assert message.inlines["foto@x"].data == b"\x89PNG"
    assert (message.spam_detected, message.spam_score) == (spam or (None, None))
    assert (message.raw is not None and message.raw.endswith(source)) is raw
    assert (message.stripped_text == "Where?") is not raw


@pytest.fixture
def compose() -> Callable[..., bytes]:
    from flask_mailesp.simulator import mime

    return mime.compose


@pytest.mark.parametrize("option", ["legacy", "store"])
def test_the_package_refuses_what_it_does_not_read(
    sim: Simulator, package: Package, compose: Callable[..., bytes], option: str
) -> None:
    """Legacy events and stored mail are authentic, and yet of no use."""
    options: dict[str, Any] = {option: True}
    sim.hook("mailgun", **options)
    if option == "legacy":
        delivery = sim.emit(package.send(), "delivered")
    else:
        source = compose(to="help@mg.example.org", **mail_parts())
        delivery = sim.receive("mailgun", source, to="help@mg.example.org")

    assert (delivery.status, delivery.verdict) == (401, "retry")
    assert package.events == []


@pytest.mark.parametrize("form", ["mime", "?format=mime"])
def test_a_route_whose_url_ends_in_mime_gets_the_source(
    form: str, sim: Simulator, hooked: Application, compose: Callable[..., bytes]
) -> None:
    sim.hook("mailgun", inbound=f"{hooked.url}/inbound/{form}")
    source = compose(from_="a@example.net", to="help@mg.example.org", subject="Hi", text="Hi")
    sim.receive("mailgun", source, to="help@mg.example.org", mail_from="a@example.net")

    fields = dict(parse_qsl(hooked.last.body.decode()))
    assert hooked.last.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(hooked.last.body, encoding="latin-1")
    assert fields["body-mime"].encode() == source
    assert (fields["recipient"], fields["sender"]) == ("help@mg.example.org", "a@example.net")


# -- the account ------------------------------------------------------------------------------


def test_webhooks_and_routes_are_kept(mailgun: Client) -> None:
    base = f"/v3/domains/{DOMAIN}/webhooks"
    url = "https://app.example.org/mail-hooks/mailgun/tracking/"

    assert mailgun.post(base, data={"id": "opened", "url": url}).status_code == 200
    assert mailgun.post(base, data={"id": "opened", "url": url}).status_code == 400
    assert mailgun.post(base, data={"id": "nothing", "url": url}).status_code == 400
    assert mailgun.post(base, data={"id": "clicked"}).status_code == 400
    assert mailgun.get(base).json()["webhooks"]["opened"] == {"urls": [url]}
    assert mailgun.get(f"{base}/clicked").status_code == 404
    assert mailgun.get(f"{base}/opened").json() == {"webhook": {"urls": [url]}}

    route = {"expression": "catch_all()", "action": f'forward("{url}")', "priority": "0"}
    number = mailgun.post("/v3/routes", data=route).json()["route"]["id"]
    assert mailgun.get("/v3/routes").json()["items"][0]["actions"] == [route["action"]]
    assert mailgun.get(f"/v3/routes/{number}").json()["route"]["expression"] == "catch_all()"
    assert mailgun.post("/v3/routes", data={}).status_code == 400
    assert mailgun.get("/v3/routes/unknown").status_code == 404


# -- mailgun, the official client -------------------------------------------------------------


@pytest.fixture
def official(sim: Simulator) -> Iterator[Any]:
    library = pytest.importorskip(
        "mailgun.client", reason="mailgun is not installed", exc_type=ImportError
    )
    server = LocalServer(sim.provider("mailgun"))
    key = sim.settings("mailgun", server.url)["API_KEY"]
    with library.Client(auth=("api", key), api_url=server.url) as client:
        yield client
    server.stop()


def test_official_send(official: Any, sim: Simulator) -> None:
    """Without files a form, with files multipart: the library chooses."""
    data = {**LETTER, "subject": "Hi ✓", "o:tag": ["a", "b"], "v:order": "7"}
    one = official.messages.create(data=data, domain=DOMAIN)
    files = [("attachment", ("a.txt", b"hi", "text/plain")), ("inline", ("logo", b"PNG"))]
    two = official.messages.create(data=data, files=files, domain=DOMAIN)

    first, second = sim.messages
    assert [one.json()["id"], two.json()["id"]] == [first.id, second.id]
    assert first.content_type == "application/x-www-form-urlencoded"
    assert second.content_type == "multipart/form-data"
    assert (first.subject, first.tags, first.metadata) == ("Hi ✓", ["a", "b"], {"order": "7"})
    assert [item.content_id for item in second.attachments] == [None, "logo"]


def test_official_batch(official: Any, sim: Simulator) -> None:
    rows = {"bea@example.com": {"name": "Bea"}, "carl@example.net": {"name": "Carl"}}
    data = {
        **LETTER,
        "to": list(rows),
        "subject": "Hi %recipient.name%",
        "recipient-variables": json.dumps(rows),
    }
    official.messages.create(data=data, domain=DOMAIN)

    assert [one.subject for one in sim.messages] == ["Hi Bea", "Hi Carl"]


def test_official_mime(official: Any, sim: Simulator) -> None:
    files = {"message": b"From: shop@mg.example.org\r\nSubject: Raw\r\n\r\nHi"}
    official.mimemessage.create(data={"to": "bea@example.com"}, files=files, domain=DOMAIN)

    assert (sim.messages[0].subject, sim.messages[0].text) == ("Raw", "Hi")


def test_official_errors(official: Any, sim: Simulator) -> None:
    answer = official.messages.create(data={**LETTER, "to": "nobody"}, domain=DOMAIN)

    assert answer.status_code == 400
    assert "not a valid address" in answer.json()["message"]


def test_official_account(official: Any) -> None:
    """Domains, webhooks and routes."""
    assert official.ping()
    url = "https://app.example.org/x"
    hooks = official.domains_webhooks
    assert hooks.create(domain=DOMAIN, data={"id": "clicked", "url": [url]}).status_code == 200
    assert hooks.get(domain=DOMAIN).json()["webhooks"]["clicked"] == {"urls": [url]}
    put = hooks.put(domain=DOMAIN, webhook_name="clicked", data={"url": [url + "y"]})
    assert put.json()["webhook"] == {"urls": [url + "y"]}
    assert hooks.delete(domain=DOMAIN, webhook_name="clicked").status_code == 200
    assert hooks.get(domain=DOMAIN, webhook_name="clicked").status_code == 404
    route = {"priority": 0, "expression": "catch_all()", "action": ["stop()"], "description": "d"}
    number = official.routes.create(data=route).json()["route"]["id"]
    changed = official.routes.put(data={**route, "description": "e"}, route_id=number)
    assert changed.json()["description"] == "e"
    assert official.routes.delete(route_id=number).status_code == 200
    assert official.routes.get().json()["items"] == []
