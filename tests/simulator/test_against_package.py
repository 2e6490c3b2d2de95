"""The contract: whatever an ESP's room claims to support, its other side takes and shows.

The package sends over real HTTP; the simulator reads the providers' documentation on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask

from flask_mailesp import Attachment, MailESP, Message
from flask_mailesp.esp import Feature
from flask_mailesp.exceptions import RateLimitedError, SendUncertainError
from flask_mailesp.registry import all_esps
from flask_mailesp.simulator import LocalServer, SentMessage, Simulator

from .conftest import POSTAL_KEY, POSTMARK_TOKEN

CREDENTIALS = {
    "postmark": {"MAILESP_POSTMARK_SERVER_TOKEN": POSTMARK_TOKEN},
    "postal": {"MAILESP_POSTAL_API_KEY": POSTAL_KEY},
}
SUPPORTED = [
    (esp.key, feature) for esp in all_esps() for feature in Feature if feature in esp.supports
]
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Case:
    """A message that asks for one feature, and how its presence shows at the provider."""

    fields: dict[str, Any]
    shown: Callable[[list[SentMessage]], bool]


def attached(**fields: Any) -> list[Attachment]:
    return [Attachment("a.png", "image/png", PNG, **fields)]


def all_have(check: Callable[[SentMessage], bool]) -> Callable[[list[SentMessage]], bool]:
    return lambda messages: bool(messages) and all(check(one) for one in messages)


def header(name: str, value: str) -> Callable[[list[SentMessage]], bool]:
    wanted = (name.lower(), value)
    return all_have(lambda m: wanted in [(key.lower(), text) for key, text in m.headers])


def opened(message: SentMessage) -> bool:
    return message.payload.get("TrackOpens") is True


def clicked(message: SentMessage) -> bool:
    return bool(message.payload.get("TrackLinks") == "HtmlAndText")


TO = {"to": ["bea@example.com", "carl@example.net"]}
CASES = {
    Feature.ATTACHMENTS: Case(
        {"attachments": attached()}, all_have(lambda m: m.attachments[0].data == PNG)
    ),
    Feature.INLINE_IMAGES: Case(
        {
            "html": '<img src="cid:logo">',
            "attachments": attached(content_id="logo", disposition="inline"),
        },
        all_have(lambda m: m.attachments[0].content_id == "logo"),
    ),
    Feature.ALTERNATIVES: Case(
        {"alternatives": [("BEGIN:VCALENDAR", "text/calendar")]},
        all_have(lambda m: m.raw is not None and b"text/calendar" in m.raw),
    ),
    Feature.HEADERS: Case({"headers": {"X-Order": "7"}}, header("X-Order", "7")),
    Feature.MANY_REPLY_TO: Case(
        {"reply_to": ["a@example.org", "b@example.org"]},
        all_have(lambda m: "b@example.org" in ", ".join(m.reply_to)),
    ),
    Feature.NO_TO: Case(
        {"to": None, "bcc": ["bea@example.com"]},
        all_have(lambda m: m.recipients == ["bea@example.com"]),
    ),
    Feature.NON_ASCII_MAILBOX: Case(
        {"to": ["béa@example.com"]}, all_have(lambda m: m.recipients == ["béa@example.com"])
    ),
    Feature.ENVELOPE_SENDER: Case(
        {"envelope_sender": "bounces@example.org"},
        all_have(lambda m: m.payload.get("mail_from") == "bounces@example.org"),
    ),
    Feature.METADATA: Case(
        {"metadata": {"order": "7"}}, all_have(lambda m: m.metadata == {"order": "7"})
    ),
    Feature.TAGS: Case({"tags": ["welcome"]}, all_have(lambda m: m.tag == "welcome")),
    Feature.TRACK_CLICKS: Case({"track_clicks": True}, all_have(clicked)),
    Feature.TRACK_OPENS: Case({"track_opens": True}, all_have(opened)),
    Feature.TEMPLATES: Case(
        {"template_id": "welcome", "subject": "", "body": None},
        all_have(lambda m: m.subject == "Hello "),
    ),
    Feature.MERGE_DATA: Case(
        {
            **TO,
            "template_id": "welcome",
            "subject": "",
            "body": None,
            "merge_data": {
                "bea@example.com": {"name": "Bea"},
                "carl@example.net": {"name": "Carl"},
            },
        },
        lambda messages: {one.subject for one in messages} == {"Hello Bea", "Hello Carl"},
    ),
    Feature.MERGE_GLOBAL_DATA: Case(
        {
            "template_id": "welcome",
            "subject": "",
            "body": None,
            "merge_global_data": {"name": "all"},
        },
        all_have(lambda m: m.subject == "Hello all"),
    ),
    Feature.MERGE_METADATA: Case(
        {**TO, "merge_metadata": {"bea@example.com": {"n": "1"}, "carl@example.net": {"n": "2"}}},
        lambda messages: [one.metadata.get("n") for one in messages] == ["1", "2"],
    ),
    Feature.MERGE_HEADERS: Case(
        {
            **TO,
            "merge_headers": {"bea@example.com": {"X-N": "1"}, "carl@example.net": {"X-N": "2"}},
        },
        lambda messages: [dict(one.headers).get("X-N") for one in messages] == ["1", "2"],
    ),
}


def make_app(server: LocalServer, esp: str) -> Flask:
    app = Flask("contract", root_path=".")
    app.config.update(
        TESTING=True,
        MAILESP_ESP=esp,
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.org"},
        **{f"MAILESP_{esp.upper()}_API_URL": server.url_for(esp)},
        **CREDENTIALS[esp],
    )
    MailESP(app)
    return app


@pytest.fixture
def send(server: LocalServer) -> Iterator[Callable[..., Any]]:
    """Send a message through one ESP, from an app of its own."""
    apps: list[Flask] = []

    def send_one(esp: str, **fields: Any) -> Any:
        app = make_app(server, esp)
        apps.append(app)
        message = Message(**{"subject": "Hi", "to": ["bea@example.com"], "body": "Hello"} | fields)
        with app.app_context():
            return MailESP().send(message)

    yield send_one
    for app in apps:
        app.extensions["mailesp"].transport.close()


@pytest.mark.parametrize(("esp", "feature"), SUPPORTED)
def test_what_a_room_supports_arrives(
    sim: Simulator, send: Callable[..., Any], esp: str, feature: Feature
) -> None:
    """Accepted, for every recipient, with an id the provider knows, and visible there."""
    case = CASES[feature]
    sim.template("postmark", alias="welcome", subject="Hello {{name}}", text="Dear {{name}}")

    result = send(esp, **case.fields)

    assert sim.rejected == []
    assert case.shown(sim.messages)
    known = {number for one in sim.messages for number in one.ids.values()}
    ids = {str(one.message_id) for one in result.recipients.values()}
    assert ids <= known | {str(one.message_id) for one in sim.messages}


@pytest.mark.parametrize("esp", sorted(CREDENTIALS))
def test_a_text_with_anything_in_it_arrives_unchanged(
    sim: Simulator, send: Callable[..., Any], esp: str
) -> None:
    body = "Zażółć gęślą jaźń, \N{PARTY POPPER} <b>&amp;\u2028 \x7f"

    send(esp, body=body, subject="Ünïcödé")

    assert (sim.messages[0].text, sim.messages[0].subject) == (body, "Ünïcödé")


@pytest.mark.parametrize("esp", sorted(CREDENTIALS))
@pytest.mark.parametrize(
    ("fault", "error", "accepted"),
    [
        ({"reset": "after"}, SendUncertainError, 1),
        ({"drop": "after"}, SendUncertainError, 1),
        ({"answer": "garbage"}, SendUncertainError, 1),
        ({"answer": "truncated"}, SendUncertainError, 1),
        ({"reset": "before"}, SendUncertainError, 0),
        ({"status": 503}, SendUncertainError, 0),
        ({"status": 429, "retry_after": "3600", "times": None}, RateLimitedError, 0),
    ],
)
def test_the_package_tells_the_truth_about_a_fault(
    sim: Simulator,
    send: Callable[..., Any],
    esp: str,
    fault: dict[str, Any],
    error: type[Exception],
    accepted: int,
) -> None:
    """The simulator knows whether the message was taken; the package must not claim more."""
    sim.fault(**fault)

    with pytest.raises(error):
        send(esp)

    assert len(sim.messages) == accepted
