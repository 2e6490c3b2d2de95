"""Credentials appear nowhere: not in logs, errors, tracebacks with locals, or pickles.

Every credential here is a canary: a text that is nowhere else. What a test collects is
searched for all of them, also in the forms in which they travel.
"""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from flask import Flask
from scripted import Close, Item, Reply, Request, Reset, Stall, scripted
from webhook_kit import KEY, POSTAL_SENT, POSTMARK_DELIVERY, basic, encoded, pem, sha256_only

import flask_mailesp
from flask_mailesp import MailESP, MailESPError, Message
from flask_mailesp.exceptions import ConfigurationError
from flask_mailesp.registry import BUILT_IN

TOKEN = "canary-7c1f-postmark-token"
OTHER_TOKEN = "canary-52aa-token-of-one-message"
API_KEY = "canary0b9dPostalApiKey24"
MAILGUN_KEY = "canary-3aa1-mailgun-key"
RESEND_KEY = "re_canary_77d2_resend_key"
SENDGRID_KEY = "SG.canary-e0b4.sendgrid-key"
AWS_KEY_ID = "AKIACANARY18C4KEYID0"
AWS_SECRET = "canary/64f1+amazon+secret+access+key+long"
SIGNING_KEY = "canary-d1b8-mailgun-signing-key"
SVIX_KEY = base64.b64encode(b"canary-a90e-resend-signing-secret").decode()
PASSWORD = "canary-e34d-hook-password"
OLD_PASSWORD = "canary-90fe-old-hook-password"
HOOK = f"hook:{PASSWORD}"
PRIVATE_PEM = KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
).decode()

CANARIES = [TOKEN, OTHER_TOKEN, API_KEY, PASSWORD, OLD_PASSWORD, PRIVATE_PEM.splitlines()[5]]
CANARIES += [MAILGUN_KEY, RESEND_KEY, SENDGRID_KEY, AWS_KEY_ID, AWS_SECRET, SIGNING_KEY, SVIX_KEY]
PAIRS = (HOOK, f"hook:{OLD_PASSWORD}", f"api:{MAILGUN_KEY}")
TRAVELLING = [base64.b64encode(text.encode()).decode() for text in PAIRS]

PACKAGE = str(Path(flask_mailesp.__file__).parent)


def assert_clean(*texts: str | bytes) -> None:
    """Fail if any of the texts holds a canary."""
    for text in texts:
        searched = text if isinstance(text, str) else text.decode("latin-1")
        found = [canary for canary in CANARIES + TRAVELLING if canary in searched]
        assert not found, f"a credential shows in {searched[:2000]!r}"


def everything_about(error: BaseException) -> Iterator[str | bytes]:
    """All that an error tracker, a log or a queue would keep of an error."""
    yield repr(error)
    yield str(error)
    yield repr(vars(error))
    yield "".join(traceback.format_exception(error))
    yield "".join(
        traceback.TracebackException(
            type(error), error, from_the_package(error.__traceback__), capture_locals=True
        ).format()
    )
    yield pickle.dumps(error)
    yield repr(copy.copy(error))
    result = getattr(error, "result", None)
    yield repr(result)
    if result is not None:
        yield result.response.body if result.response else b""
        yield "".join(entry.description for entry in result.recipients.values())
    for other in (error.__context__, error.__cause__):
        if other is not None and not error.__suppress_context__:
            yield from everything_about(other)


def from_the_package(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of the caller, who knows the credentials."""
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(PACKAGE):
        trace = trace.tb_next
    return trace


@pytest.fixture
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Search what all loggers said, at every level, once the test has ended."""
    caplog.set_level(logging.DEBUG)
    yield
    assert_clean(caplog.text, *(repr(vars(record)) for record in caplog.records))


pytestmark = pytest.mark.usefixtures("clean_log")


def app_for(esp: str, url: str, **more: Any) -> tuple[Flask, MailESP]:
    app = Flask("shop")
    app.config["MAILESP"] = {
        "ESP": esp,
        "POSTMARK_SERVER_TOKEN": TOKEN,
        "POSTMARK_API_URL": url,
        "POSTAL_API_KEY": API_KEY,
        "POSTAL_API_URL": url,
        "POSTAL_WEBHOOK_KEY": pem(),
        "MAILGUN_API_KEY": MAILGUN_KEY,
        "MAILGUN_API_URL": url,
        "MAILGUN_WEBHOOK_SIGNING_KEY": SIGNING_KEY,
        "RESEND_API_KEY": RESEND_KEY,
        "RESEND_API_URL": url,
        "RESEND_SIGNING_SECRET": f"whsec_{SVIX_KEY}",
        "SENDGRID_API_KEY": SENDGRID_KEY,
        "SENDGRID_API_URL": url,
        "AMAZON_SES_API_URL": url,
        "AMAZON_SES_REGION": "eu-west-1",
        "AMAZON_SES_ACCESS_KEY_ID": AWS_KEY_ID,
        "AMAZON_SES_SECRET_ACCESS_KEY": AWS_SECRET,
        "AMAZON_SES_TOPIC_ARNS": "arn:aws:sns:eu-west-1:123456789012:events",
        "WEBHOOK_SECRET": [HOOK, f"hook:{OLD_PASSWORD}"],
        "REQUESTS_TIMEOUT": 0.3,
        "DEBUG_API_REQUESTS": True,
        **more,
    }
    mail = MailESP(app)
    return app, mail


def a_message(**fields: Any) -> Message:
    return Message("Hi", to=["bo@example.com"], body="Hi", sender="post@example.org", **fields)


# --- sending -------------------------------------------------------------------------------


def echo(status: int) -> Callable[[Request], Reply]:
    """Answer with everything that came, as a debugging proxy does."""

    def answer(request: Request) -> Reply:
        said = repr(dict(request.headers)).encode() + request.body
        return Reply(status, said, {"X-Echo": repr(dict(request.headers))})

    return answer


def credential_in(request: Request) -> str:
    """What a request is authenticated with, in the form in which it travels."""
    names = ("x-server-api-key", "x-postmark-server-token", "authorization")
    return next(request.headers[name] for name in names if name in request.headers)


def refuse(request: Request) -> Reply:
    """Refuse in all ESPs' words, repeating the credential in every field."""
    key = credential_in(request)
    body = {
        "name": f"invalid {key}",
        "message": f"No {key}",
        "errors": [{"message": f"No {key}", "field": key}],
        "__type": f"InvalidClientTokenId {key}",
        "status": "error",
        "data": {"code": "InvalidServerAPIKey", "message": f"No {key}", "token": key},
        "ErrorCode": 10,
        "Message": f"No {key}",
    }
    return Reply(200 if "x-server-api-key" in request.headers else 401, encoded(body))


def elsewhere(request: Request) -> Reply:
    key = credential_in(request)
    return Reply(302, b"", {"Location": f"https://elsewhere.example/?key={key}"})


FAULTS: list[tuple[str, Item]] = [
    ("refused", refuse),
    ("401 echo", echo(401)),
    ("422 echo", echo(422)),
    ("429 echo", echo(429)),
    ("500 echo", echo(500)),
    ("200 echo", echo(200)),
    ("redirect", elsewhere),
    ("garbage", Reply(200, b"{")),
    ("no HTTP", b"canary? no HTTP at all\r\n\r\n"),
    ("reset", Reset(after="request")),
    ("reset early", Reset(after="headers")),
    ("closed", Close(after="request")),
    ("silence", Stall()),
    ("half a header", Stall(first=b"HTTP/1.1 200 OK\r\nContent-")),
]
every_esp = pytest.mark.parametrize("esp", BUILT_IN)
each_esp = pytest.mark.parametrize("esp", ["postal", "postmark"])


@every_esp
@pytest.mark.parametrize("fault", [row[1] for row in FAULTS], ids=[row[0] for row in FAULTS])
@pytest.mark.parametrize("token", [None, OTHER_TOKEN], ids=["configured", "own token"])
def test_no_failure_of_the_esp_shows_the_credential(
    esp: str, fault: Item, token: str | None
) -> None:
    """Whatever it answers, repeats, or fails to answer; a message's own token included."""
    extra = {"server_token": token} if token and esp == "postmark" else {}
    with scripted(fault) as server:
        app, mail = app_for(esp, server.url)
        with app.app_context(), pytest.raises(MailESPError) as caught:
            mail.send(a_message(esp_extra=extra))
        app.extensions["mailesp"].transport.close()

    assert_clean(*everything_about(caught.value), repr(app.extensions))


@every_esp
def test_an_esp_that_is_not_there_shows_nothing(esp: str) -> None:
    """Connection refused, and a name that does not resolve."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "https://no-such-host.invalid"):
        app, mail = app_for(esp, url)
        with app.app_context(), pytest.raises(MailESPError) as caught:
            mail.send(a_message())
        app.extensions["mailesp"].transport.close()
        assert_clean(*everything_about(caught.value))


OWN_TOKEN = {"server_token": OTHER_TOKEN}
INVALID: list[tuple[str, dict[str, Any]]] = [
    ("header", {"headers": {"X-A": "a\r\nb"}}),
    ("object", {"esp_extra": {"x": object()}}),
    ("surrogate", {"esp_extra": {"x": "\ud800"}}),
    ("unsupported", {"envelope_sender": "a@example.com", "idempotency_key": "k"}),
]


@every_esp
@pytest.mark.parametrize("fields", [row[1] for row in INVALID], ids=[row[0] for row in INVALID])
def test_an_invalid_message_shows_nothing(esp: str, fields: dict[str, Any]) -> None:
    """The credential may be at hand already when the message turns out to be unsendable."""
    app, mail = app_for(esp, "http://127.0.0.1:9")
    if esp == "postmark":
        fields = {**fields, "esp_extra": {**fields.get("esp_extra", {}), **OWN_TOKEN}}
    with app.app_context(), pytest.raises(MailESPError) as caught:
        mail.send(a_message(**fields))

    assert_clean(*everything_about(caught.value))


@every_esp
def test_a_message_that_was_sent_shows_nothing(esp: str) -> None:
    """Not in the result either, though the answer repeats the credential."""
    echoed = {
        "postmark": f"{TOKEN} {OTHER_TOKEN}",
        "postal": API_KEY,
        "mailgun": f"Basic {TRAVELLING[-1]}",
        "resend": RESEND_KEY,
        "sendgrid": SENDGRID_KEY,
        "amazon_ses": AWS_KEY_ID,
    }
    body = {
        "ErrorCode": 0,
        "MessageID": "m-1",
        "MessageId": "m-1",
        "id": "0c9f6b1e-1111-4222-8333-abcdefabcdef",
        "message": "Queued. Thank you.",
        "Message": f"OK {echoed[esp]}",
        "status": "success",
        "data": {"message_id": echoed[esp], "messages": {"bo@example.com": {"id": 7}}},
    }
    status = 202 if esp == "sendgrid" else 200
    with scripted(Reply(status, encoded(body), {"X-Message-Id": "m-1"})) as server:
        app, mail = app_for(esp, server.url)
        extra = OWN_TOKEN if esp == "postmark" else {}
        with app.app_context():
            result = mail.send(a_message(esp_extra=extra))
        app.extensions["mailesp"].transport.close()

    assert result.outcome == "accepted"
    assert result.response is not None
    assert_clean(repr(result), pickle.dumps(result), result.response.body)


# --- configuration -------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("token with a space", {"POSTMARK_SERVER_TOKEN": f"{TOKEN} x"}),
    ("token with a line break", {"POSTMARK_SERVER_TOKEN": f"{TOKEN}\nx"}),
    ("token not ASCII", {"POSTMARK_SERVER_TOKEN": f"{TOKEN}é"}),
    ("token in a list", {"POSTMARK_SERVER_TOKEN": [TOKEN]}),
    ("token in a dict", {"POSTMARK_SERVER_TOKEN": {"token": TOKEN}}),
    ("key as bytes", {"ESP": "postal", "POSTAL_API_KEY": API_KEY.encode()}),
    ("password in the URL", {"POSTMARK_API_URL": f"https://u:{PASSWORD}@api.example.com"}),
    ("token in the URL", {"POSTMARK_API_URL": f"https://api.example.com/?token={TOKEN}"}),
    ("secret without a colon", {"WEBHOOK_SECRET": PASSWORD}),
    ("secret without a user", {"WEBHOOK_SECRET": f":{PASSWORD}"}),
    ("secret as a dict", {"WEBHOOK_SECRET": {"hook": PASSWORD}}),
    ("one secret of two", {"POSTMARK_WEBHOOK_SECRET": [HOOK, OLD_PASSWORD]}),
    ("secret as bytes", {"WEBHOOK_SECRET": HOOK.encode()}),
    ("private key", {"ESP": "postal", "POSTAL_WEBHOOK_KEY": PRIVATE_PEM}),
    ("private keys", {"ESP": "postal", "POSTAL_WEBHOOK_KEY": [pem(), PRIVATE_PEM]}),
    ("unknown key", {"POSTMARK_TOKEN": TOKEN}),
    ("mailer's token", {"MAILERS": {"default": {"esp": "postmark", "server_token": f"{TOKEN} x"}}}),
    ("mailer's unknown key", {"MAILERS": {"bulk": {"esp": "postmark", "token": TOKEN}}}),
    ("mailer without an ESP", {"ESP": None, "MAILERS": {"bulk": {"server_token": TOKEN}}}),
    ("another key", {"REQUESTS_TIMEOUT": "never"}),
    ("another ESP", {"ESP": "postmrk"}),
]


@pytest.mark.parametrize("settings", [row[1] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_setting_is_not_quoted(settings: dict[str, Any]) -> None:
    """The value that is wrong may be nearly right: the key's name is enough."""
    with pytest.raises(ConfigurationError) as caught:
        app_for("postmark", "https://api.example.com", **settings)

    assert_clean(*everything_about(caught.value))


def test_what_the_app_keeps_shows_nothing() -> None:
    """Its state is what a debugger's page or an error tracker would print."""
    app, mail = app_for("postmark", "https://api.example.com")
    state = app.extensions["mailesp"]
    shown = [app.extensions, state, vars(state), state.mailers, state.mailer(None), mail]
    for esp in BUILT_IN:
        record, settings = state.hook(esp)
        shown += [record, settings, dict(settings), list(settings.items())]

    assert_clean(*map(repr, shown), *map(str, shown))


# --- webhooks ------------------------------------------------------------------------------


@every_esp
def test_a_rejected_webhook_shows_nothing(esp: str) -> None:
    """Neither what was sent nor what was expected."""
    app, _ = app_for(esp, "https://api.example.com")
    client = app.test_client()
    body = encoded(POSTAL_SENT if esp == "postal" else POSTMARK_DELIVERY)
    for headers in (
        {},
        basic(f"wrong:{PASSWORD}"),
        basic(f"{HOOK}x"),
        {"Authorization": f"Basic {PASSWORD}"},
        {"Authorization": f"Bearer {PASSWORD}"},
        {"X-Postal-Signature-256": PASSWORD},
        {"svix-id": "m-1", "svix-timestamp": "1795250000", "svix-signature": f"v1,{SVIX_KEY}"},
        {"X-Twilio-Email-Event-Webhook-Signature": PASSWORD},
        basic(HOOK),  # not enough where signatures are checked
    ):
        if headers == basic(HOOK) and esp in ("postmark", "sendgrid"):  # for want of a key
            continue
        app.extensions["mailesp"].webhook_log.__init__()  # each of them gets a line
        response = client.post(f"/mail-hooks/{esp}/tracking/", data=body, headers=headers)
        assert response.status_code == 401
        assert_clean(response.data, str(response.headers))


@each_esp
def test_an_accepted_webhook_shows_nothing(esp: str) -> None:
    """Its event holds what was posted, not how it was authenticated."""
    from flask_mailesp import signals

    app, _ = app_for(esp, "https://api.example.com")
    events: list[Any] = []

    def receiver(app: Flask, event: Any, **extra: Any) -> None:
        events.append(event)
        raise ValueError("in the shop")

    signals.tracking.connect(receiver, sender=app)
    for body in (encoded(POSTAL_SENT if esp == "postal" else POSTMARK_DELIVERY), b"{"):
        headers = basic(HOOK) | sha256_only(body)
        response = app.test_client().post(
            f"/mail-hooks/{esp}/tracking/", data=body, headers=headers
        )
        assert response.status_code == 503
    assert_clean(*map(repr, events), *map(pickle.dumps, events))
    assert len(events) == 2
