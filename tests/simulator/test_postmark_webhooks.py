"""Postmark's webhooks, as an application receives them."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from flask_mailesp.simulator import SentMessage, Simulator

from .conftest import Application, Client

MESSAGE: dict[str, Any] = {
    "From": "Shop <shop@example.org>",
    "To": "bea@example.com, carl@example.com",
    "Subject": "Your order",
    "HtmlBody": '<a href="https://example.org/?a=1&b=2">see</a>',
    "Tag": "receipt",
    "Metadata": {"order": "7"},
    "MessageStream": "broadcast",
}
BOUNCE = (
    "RecordType MessageStream ID Type TypeCode Name Tag MessageID Metadata ServerID Description "
    "Details Email From BouncedAt DumpAvailable Inactive CanActivate Subject"
)
READER = "Recipient MessageID ReceivedAt Tag Platform UserAgent"
CHANGE = (
    "RecordType MessageID ServerID MessageStream ChangedAt Recipient Origin SuppressSending "
    "SuppressionReason Tag Metadata"
)
FIELDS = {
    "Delivery": "RecordType ServerID MessageStream MessageID Recipient Tag DeliveredAt Details "
    "Metadata",
    "Bounce": BOUNCE,
    "SpamComplaint": BOUNCE,
    "Open": f"RecordType MessageStream FirstOpen {READER} ReadSeconds Client OS Geo Metadata",
    "Click": f"RecordType MessageStream ClickLocation OriginalLink {READER} Client OS Geo Metadata",
    "SubscriptionChange": CHANGE,
}
EVENTS = [
    ("delivered", "Delivery", None, None),
    ("deferred", "Bounce", "Transient", 2),
    ("bounced", "Bounce", "HardBounce", 1),
    ("soft_bounced", "Bounce", "SoftBounce", 4096),
    ("complained", "SpamComplaint", "SpamComplaint", 100001),
    ("opened", "Open", None, None),
    ("clicked", "Click", None, None),
    ("unsubscribed", "SubscriptionChange", None, None),
    ("subscribed", "SubscriptionChange", None, None),
    ("autoresponded", "Bounce", "AutoResponder", 64),
    ("rejected", "Bounce", "Blocked", 100006),
    ("failed", "Bounce", "TemplateRenderingFailed", 100010),
]


@pytest.fixture
def message(sim: Simulator, postmark: Client, hooked: Application) -> SentMessage:
    sim.auto = ()
    postmark.post("/email", MESSAGE)
    return sim.messages[-1]


def test_all_events_are_covered(sim: Simulator) -> None:
    assert sim.events("postmark") == tuple(row[0] for row in EVENTS)


@pytest.mark.parametrize(("event", "record_type", "kind", "code"), EVENTS)
def test_each_event_has_the_documented_fields(
    sim: Simulator,
    message: SentMessage,
    hooked: Application,
    event: str,
    record_type: str,
    kind: str | None,
    code: int | None,
) -> None:
    delivery = sim.emit(message, event, recipient="CARL@example.com")

    body = hooked.last.json
    assert delivery.request_body == hooked.last.body
    assert list(body) == FIELDS[record_type].split()
    assert body["RecordType"] == record_type
    assert (body.get("Type"), body.get("TypeCode")) == (kind, code)
    assert body["MessageStream"] == "broadcast"
    assert body.get("Recipient", body.get("Email")) == "carl@example.com"


@pytest.mark.parametrize("event", [row[0] for row in EVENTS if row[0] != "subscribed"])
def test_each_event_carries_what_the_message_carried(
    sim: Simulator, message: SentMessage, hooked: Application, event: str
) -> None:
    sim.emit(message, event)

    body = hooked.last.json
    assert (body["MessageID"], body["Tag"]) == (message.id, "receipt")
    assert body["Metadata"] == {"order": "7"}


def test_a_reactivation_belongs_to_no_message(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    sim.emit(message, "subscribed")

    body = hooked.last.json
    assert (body["MessageID"], body["Tag"], body["Metadata"]) == (None, None, {})
    assert (body["SuppressSending"], body["SuppressionReason"]) == (False, None)


def test_dates_have_seven_fraction_digits(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    sim.emit(message, "delivered")

    stamp = hooked.last.json["DeliveredAt"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", stamp)


def test_the_credentials_of_the_url_become_the_basic_header(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    """Percent-encoded characters stand for themselves."""
    sim.hook("postmark", tracking=hooked.hook("/t?key=1", "user:p%40ss"))

    delivery = sim.emit(message, "delivered")

    scheme, _, token = hooked.last.headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(token)) == ("Basic", b"user:p@ss")
    assert hooked.last.path == "/t?key=1"
    assert hooked.last.headers["content-type"] == "application/json"
    assert delivery.url == hooked.url + "/t?key=1"
    assert delivery.request_headers["Authorization"] == hooked.last.headers["authorization"]


def test_without_credentials_no_authorization_is_sent(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    sim.hook("postmark", tracking=hooked.url + "/open")

    sim.emit(message, "delivered")

    assert "authorization" not in hooked.last.headers


def test_each_event_has_its_trace_id(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    first = sim.emit(message, "opened")
    sim.emit(message, "opened")
    sim.redeliver(first)

    traces = [one.headers["x-pm-webhook-trace-id"] for one in hooked.requests]
    assert traces[0] != traces[1]
    assert traces[0] == traces[2]


def test_only_the_first_open_is_the_first(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    """It is counted for each recipient."""
    for recipient in ("bea@example.com", "bea@example.com", "carl@example.com"):
        sim.emit(message, "opened", recipient)

    assert [one.json["FirstOpen"] for one in hooked.requests] == [True, False, True]


def test_details_replace_fields(sim: Simulator, message: SentMessage, hooked: Application) -> None:
    sim.emit(message, "clicked", url="https://example.org/x", user_agent="Curl", Geo={"IP": "::1"})

    body = hooked.last.json
    assert (body["OriginalLink"], body["UserAgent"]) == ("https://example.org/x", "Curl")
    assert body["Geo"] == {"IP": "::1"}


def test_a_click_is_on_the_messages_first_link(
    sim: Simulator, message: SentMessage, postmark: Client, hooked: Application
) -> None:
    sim.emit(message, "clicked")
    postmark.post("/email", MESSAGE | {"HtmlBody": None, "TextBody": "no link"})
    sim.emit(sim.messages[-1], "clicked")

    links = [(one.json["ClickLocation"], one.json["OriginalLink"]) for one in hooked.requests]
    assert links == [
        ("HTML", "https://example.org/?a=1&b=2"),
        ("Text", "https://example.com/"),
    ]


@pytest.mark.parametrize(
    ("kind", "code", "inactive"),
    [
        ("DMARCPolicy", 100009, False),
        ("BadEmailAddress", 100000, True),
        ("Unheard", 2048, False),
    ],
)
def test_any_bounce_type_can_be_asked_for(
    sim: Simulator,
    message: SentMessage,
    hooked: Application,
    kind: str,
    code: int,
    inactive: bool,
) -> None:
    sim.emit(message, "Bounce", Type=kind)

    body = hooked.last.json
    assert (body["RecordType"], body["Type"], body["TypeCode"]) == ("Bounce", kind, code)
    assert body["Inactive"] is inactive


def test_a_hard_bounce_suppresses_until_the_address_is_reactivated(
    sim: Simulator, message: SentMessage, postmark: Client
) -> None:
    """On the stream of the message, as Postmark keeps its lists."""
    one = MESSAGE | {"To": "bea@example.com"}

    sim.emit(message, "bounced")
    assert postmark.post("/email", one).json()["ErrorCode"] == 406
    assert postmark.post("/email", one | {"MessageStream": "outbound"}).status_code == 200

    sim.emit(message, "subscribed")
    assert postmark.post("/email", one).json()["ErrorCode"] == 0


@pytest.mark.parametrize(
    ("event", "reason"), [("bounced", "HardBounce"), ("complained", "SpamComplaint")]
)
def test_a_deactivation_is_followed_by_its_subscription_change_on_request(
    sim: Simulator, message: SentMessage, hooked: Application, event: str, reason: str
) -> None:
    sim.hook("postmark", subscription_changes=True)

    sim.emit(message, event)

    first, second = (one.json for one in hooked.requests)
    assert first["Inactive"] is True
    assert (second["RecordType"], second["SuppressSending"]) == ("SubscriptionChange", True)
    assert second["SuppressionReason"] == reason
    assert len(sim.deliveries) == 2


def test_bounces_carry_their_source_on_request(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    sim.hook("postmark", include_content=True)

    sim.emit(message, "bounced")
    sim.emit(message, "delivered")

    assert ["Content" in one.json for one in hooked.requests] == [True, False]


def test_a_hook_can_belong_to_one_stream(
    sim: Simulator, message: SentMessage, hooked: Application
) -> None:
    sim.hook("postmark", tracking=hooked.hook("/broadcast"), stream="broadcast")

    sim.emit(message, "delivered")

    assert hooked.last.path == "/broadcast"


@pytest.mark.parametrize(
    ("recipient", "headers", "kind"),
    [
        ("SoftBounce@bounce-testing.postmarkapp.com", {}, "SoftBounce"),
        ("soft_bounce@bounce-testing.postmarkapp.com", {}, "SoftBounce"),
        ("SpamComplaint@bounce-testing.postmarkapp.com", {}, "HardBounce"),
        ("anything@bounce-testing.postmarkapp.com", {}, "HardBounce"),
        ("any@bounce-testing.postmarkapp.com", {"X-PM-Bounce-Type": "DnsError"}, "DnsError"),
    ],
)
def test_bounce_testing_addresses_bounce(
    sim: Simulator,
    postmark: Client,
    hooked: Application,
    recipient: str,
    headers: dict[str, str],
    kind: str,
) -> None:
    pairs = [{"Name": name, "Value": value} for name, value in headers.items()]

    postmark.post("/email", MESSAGE | {"To": recipient, "Headers": pairs})
    sim.wait()

    assert [(one.json["RecordType"], one.json["Type"]) for one in hooked.requests] == [
        ("Bounce", kind)
    ]


def test_the_black_hole_is_silent(sim: Simulator, postmark: Client, hooked: Application) -> None:
    postmark.post("/email", MESSAGE | {"To": "test@blackhole.postmarkapp.com"})

    assert sim.wait() == []


def test_the_test_token_has_no_webhooks(
    sim: Simulator, postmark: Client, hooked: Application
) -> None:
    headers = {"X-Postmark-Server-Token": "POSTMARK_API_TEST"}
    postmark.post("/email", MESSAGE, headers=headers)

    assert sim.wait() == []
    with pytest.raises(ValueError, match="test token"):
        sim.emit(sim.messages[0], "delivered")


def test_redirects_are_followed(sim: Simulator, message: SentMessage, hooked: Application) -> None:
    """Postmark does; the answer of where the webhook is sent on to counts."""
    sim.hook("postmark", tracking=hooked.hook("/moved"))

    assert sim.emit(message, "delivered").status == 200
    assert [one.path for one in hooked.requests] == ["/moved", "/here"]
