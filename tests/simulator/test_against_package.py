"""The contract: whatever an ESP's room claims to support, its other side takes and shows.

The package sends over real HTTP; the simulator reads the providers' documentation on its own.
Every ESP that is simulated is run through the same table. What one of them says in its own
way is in `OWN`, `SYNTAX` and `TEMPLATES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from flask import Flask

from flask_mailesp import Attachment, MailESP, Message
from flask_mailesp.esp import Feature
from flask_mailesp.exceptions import RateLimitedError, SendUncertainError
from flask_mailesp.registry import all_esps
from flask_mailesp.simulator import LocalServer, SentMessage, Simulator
from flask_mailesp.simulator.side import names

SPOKEN = [esp for esp in all_esps() if esp.key in names()]
SUPPORTED = [(esp.key, feature) for esp in SPOKEN for feature in Feature if feature in esp.supports]
each_esp = pytest.mark.parametrize("esp", [esp.key for esp in SPOKEN])
PNG = b"\x89PNG\r\n\x1a\n"
LATER = (datetime.now(timezone.utc) + timedelta(hours=2)).replace(microsecond=0)

Shown = Callable[[list[SentMessage]], bool]

# How a template's text names a variable that need not be given, where not as ``{{name}}``.
SYNTAX = {"resend": "{{{name|}}}"}
# The id of a template, where ``welcome`` cannot be one (or is one of another kind).
TEMPLATES = {"sendgrid": "d-welcome"}


@dataclass(frozen=True)
class Case:
    """A message that asks for one feature, and how its presence shows at the provider.

    ``template`` is the subject and the text of the template, where it is not the common one.
    """

    fields: Mapping[str, Any]
    shown: Shown
    template: tuple[str, str] | None = None


def attached(**fields: Any) -> list[Attachment]:
    return [Attachment("a.png", "image/png", PNG, **fields)]


def each(check: Callable[[SentMessage], bool]) -> Shown:
    """Every copy shows it, and there is one."""
    return lambda messages: bool(messages) and all(check(one) for one in messages)


def copies(read: Callable[[SentMessage], Any], *wanted: Any) -> Shown:
    """Every recipient's copy is another, in whatever order they were taken."""
    return lambda messages: sorted(read(one) for one in messages) == sorted(wanted)


def header(name: str) -> Callable[[SentMessage], str]:
    """The value of a header of one's own."""
    return lambda message: {key.lower(): text for key, text in message.headers}.get(name, "")


def offers(content_type: str) -> Callable[[SentMessage], bool]:
    """Whether a reader is offered a body of a type, in the source or in a field."""

    def check(message: SentMessage) -> bool:
        kinds = [kind.partition(";")[0] for kind, _ in message.alternatives]
        return content_type in kinds or content_type.encode() in (message.raw or b"")

    return check


TO = {"to": ["bea@example.com", "carl@example.net"]}
NAMES = {"merge_data": {"bea@example.com": {"name": "Bea"}, "carl@example.net": {"name": "Carl"}}}
TEMPLATE = {"template_id": "welcome", "subject": "", "body": None}

CASES: dict[Feature, Case] = {
    Feature.ATTACHMENTS: Case(
        {"attachments": attached()}, each(lambda m: m.attachments[0].data == PNG)
    ),
    Feature.INLINE_IMAGES: Case(
        {
            "html": '<img src="cid:logo">',
            "attachments": attached(content_id="logo", disposition="inline"),
        },
        each(lambda m: m.attachments[0].content_id == "logo"),
    ),
    Feature.AMP: Case(
        {"html": "<p>Hi</p>", "alternatives": [("<html amp4email>", "text/x-amp-html")]},
        each(offers("text/x-amp-html")),
    ),
    Feature.ALTERNATIVES: Case(
        {"alternatives": [("BEGIN:VCALENDAR", "text/calendar")]}, each(offers("text/calendar"))
    ),
    Feature.HEADERS: Case(
        {"headers": {"X-Order": "7"}}, each(lambda m: header("x-order")(m) == "7")
    ),
    Feature.MANY_REPLY_TO: Case(
        {"reply_to": ["a@example.org", "b@example.org"]},
        each(lambda m: "b@example.org" in ", ".join(m.reply_to)),
    ),
    Feature.NO_TO: Case(
        {"to": None, "bcc": ["bea@example.com"]},
        each(lambda m: m.recipients == ["bea@example.com"]),
    ),
    Feature.NON_ASCII_MAILBOX: Case(
        {"to": ["béa@example.com"]}, each(lambda m: m.recipients == ["béa@example.com"])
    ),
    Feature.ENVELOPE_SENDER: Case(
        {"envelope_sender": "bounces@example.org"},
        each(lambda m: m.envelope_sender == "bounces@example.org"),
    ),
    Feature.METADATA: Case(
        {"metadata": {"order": "7"}}, each(lambda m: m.metadata["order"] == "7")
    ),
    Feature.TAGS: Case({"tags": ["welcome"]}, each(lambda m: m.tag == "welcome")),
    Feature.MANY_TAGS: Case(
        {"tags": ["welcome", "new"]}, each(lambda m: m.tags == ["welcome", "new"])
    ),
    Feature.TRACK_CLICKS: Case({"track_clicks": True}, each(lambda m: m.track_clicks is True)),
    Feature.TRACK_OPENS: Case({"track_opens": True}, each(lambda m: m.track_opens is True)),
    Feature.SEND_AT: Case({"send_at": LATER}, each(lambda m: m.send_at == LATER)),
    Feature.TEMPLATES: Case(TEMPLATE, each(lambda m: m.subject == "Hello ")),
    Feature.TEMPLATE_SUBJECT: Case(
        {**TEMPLATE, "subject": "My own"}, each(lambda m: m.subject == "My own")
    ),
    Feature.TEMPLATE_BODY: Case(
        {**TEMPLATE, "body": "My own"}, each(lambda m: "My own" in (m.text or ""))
    ),
    Feature.MERGE_DATA: Case(
        {**TO, **TEMPLATE, **NAMES}, copies(lambda m: m.subject, "Hello Bea", "Hello Carl")
    ),
    Feature.MERGE_GLOBAL_DATA: Case(
        {**TEMPLATE, "merge_global_data": {"name": "all"}},
        each(lambda m: m.subject == "Hello all"),
    ),
    Feature.MERGE_INTO_BODY: Case(
        {**TO, **NAMES, "body": "Dear {{name}}"}, copies(lambda m: m.text, "Dear Bea", "Dear Carl")
    ),
    Feature.MERGE_METADATA: Case(
        {**TO, "merge_metadata": {"bea@example.com": {"n": "1"}, "carl@example.net": {"n": "2"}}},
        copies(lambda m: m.metadata.get("n"), "1", "2"),
    ),
    Feature.MERGE_HEADERS: Case(
        {
            **TO,
            "merge_headers": {"bea@example.com": {"X-N": "1"}, "carl@example.net": {"X-N": "2"}},
        },
        copies(header("x-n"), "1", "2"),
    ),
    Feature.IDEMPOTENCY_KEY: Case(
        {"idempotency_key": "order-7"}, each(lambda m: m.idempotency_key == "order-7")
    ),
}

# What an ESP says in its own way: instead of the case in the table above.
OWN: dict[tuple[str, Feature], Case] = {
    # Its domain alone: the rest of the envelope's sender is Mailgun's own.
    ("mailgun", Feature.ENVELOPE_SENDER): Case(
        {"envelope_sender": "bounces@mail.example.org"},
        each(lambda m: m.path.startswith("/v3/mail.example.org/")),
    ),
    ("mailgun", Feature.MERGE_INTO_BODY): Case(
        {**TO, **NAMES, "body": "Dear %recipient.name%"},
        copies(lambda m: m.text, "Dear Bea", "Dear Carl"),
    ),
    # A legacy template has places for both; a dynamic one has its own words.
    ("sendgrid", Feature.TEMPLATE_SUBJECT): Case(
        {**TEMPLATE, "subject": "My own"},
        each(lambda m: m.subject == "My own"),
        ("<%subject%>", "Hello"),
    ),
    ("sendgrid", Feature.TEMPLATE_BODY): Case(
        {**TEMPLATE, "body": "My own"},
        each(lambda m: m.text == "Hello. My own"),
        ("Hello", "Hello. <%body%>"),
    ),
    ("sendgrid", Feature.MERGE_INTO_BODY): Case(
        {**TO, **NAMES, "body": "Dear -name-", "esp_extra": {"merge_field_format": "-{}-"}},
        copies(lambda m: m.text, "Dear Bea", "Dear Carl"),
    ),
}


def case_for(sim: Simulator, esp: str, feature: Feature) -> Case:
    """The ESP's own case, or the common one; the provider knows the template of either."""
    case = OWN.get((esp, feature)) or CASES[feature]
    number = case.fields.get("template_id")
    if number is None:
        return case
    if case.template is None:
        number, name = TEMPLATES.get(esp, number), SYNTAX.get(esp, "{{name}}")
        case = replace(case, template=(f"Hello {name}", f"Dear {name}"))
    subject, text = case.template or ("", "")
    sim.template(esp, id=number, subject=subject, text=text)
    return replace(case, fields={**case.fields, "template_id": number})


def make_app(sim: Simulator, server: LocalServer, esp: str) -> Flask:
    app = Flask("contract", root_path=".")
    app.config["TESTING"] = True
    app.config["MAILESP"] = {
        "ESP": esp,
        "SEND_DEFAULTS": {"sender": "shop@example.org"},
        **{
            f"{esp.upper()}_{name}": value
            for name, value in sim.settings(esp, server.url_for(esp)).items()
        },
    }
    MailESP(app)
    return app


@pytest.fixture
def send(sim: Simulator, server: LocalServer) -> Iterator[Callable[..., Any]]:
    """Send a message through one ESP, from an app of its own."""
    apps: list[Flask] = []

    def send_one(esp: str, **fields: Any) -> Any:
        app = make_app(sim, server, esp)
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
    case = case_for(sim, esp, feature)

    result = send(esp, **case.fields)

    assert sim.rejected == []
    assert case.shown(sim.messages)
    assert all(sim.message(str(one.message_id)) for one in result.recipients.values())


@each_esp
def test_a_text_with_anything_in_it_arrives_unchanged(
    sim: Simulator, send: Callable[..., Any], esp: str
) -> None:
    body = "Zażółć gęślą jaźń, \N{PARTY POPPER} <b>&amp;\u2028 \x7f"

    send(esp, body=body, subject="Ünïcödé")

    assert (sim.messages[0].text, sim.messages[0].subject) == (body, "Ünïcödé")


FAULTS: list[tuple[dict[str, Any], type[Exception], int]] = [
    ({"reset": "after"}, SendUncertainError, 1),
    ({"drop": "after"}, SendUncertainError, 1),
    ({"answer": "garbage"}, SendUncertainError, 1),
    ({"answer": "truncated"}, SendUncertainError, 1),
    ({"reset": "before"}, SendUncertainError, 0),
    ({"status": 503}, SendUncertainError, 0),
    ({"status": 429, "retry_after": "3600", "times": None}, RateLimitedError, 0),
]
# Those that answer a success without a body, which cannot break off.
WORDLESS = {"sendgrid"}
FAULTED = [
    (esp.key, *row)
    for esp in SPOKEN
    for row in FAULTS
    if not (esp.key in WORDLESS and row[0].get("answer") == "truncated")
]


@pytest.mark.parametrize(("esp", "fault", "error", "accepted"), FAULTED)
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
