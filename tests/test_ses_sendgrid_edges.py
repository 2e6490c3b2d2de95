"""Amazon SES and SendGrid where things meet: rails, roles, signatures, certificates, ids."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_sendgrid as sg
from flask import Flask
from scripted import Reply, Reset, scripted
from ses_kit import (
    BOUNCED,
    CLICKED,
    INBOUND_TOPIC,
    SETTINGS,
    TOPIC,
    confirmation,
    event,
    mail,
    notification,
    stored,
)
from test_amazon_ses import accept, answering, hooked, mailer_of, post, ses_app

from flask_mailesp import InboundEvent, MailESP, Message, TrackingEvent, fetching
from flask_mailesp.delivery import prepared_for
from flask_mailesp.esp import WebhookRequest
from flask_mailesp.esps import amazon_ses, sendgrid
from flask_mailesp.exceptions import (
    ConfigurationError,
    InvalidMessageError,
    NotSentError,
    RecipientsRefusedError,
    SendUncertainError,
)

BASE: dict[str, Any] = {"sender": "shop@example.com", "body": "Hi"}


# --- credentials -------------------------------------------------------------------------

DENIED = Reply(
    403,
    b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>",
    {"Content-Type": "text/xml"},
)
NO_KEYS: dict[str, Any] = {"ACCESS_KEY_ID": None, "SECRET_ACCESS_KEY": None}


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """AWS STS refuses the role that the AWS configuration names."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    role = "[default]\nrole_arn=arn:aws:iam::123456789012:role/mail\nsource_profile=own\n"
    (tmp_path / "config").write_text(role + "region=eu-west-1\n")
    keys = "[own]\naws_access_key_id=AKIACANARY\naws_secret_access_key=canary\n"
    (tmp_path / "credentials").write_text(keys)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with scripted(DENIED) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        yield


@pytest.mark.usefixtures("denied")
def test_a_role_that_is_refused_is_an_error_of_ours_with_a_result() -> None:
    """Whatever botocore raises, nothing was sent, and every recipient is told so."""
    with answering(accept, **NO_KEYS) as (mail_esp, server):
        with pytest.raises(NotSentError, match="AccessDenied") as caught:
            mail_esp.send(Message("Hi", to="a@example.com", **BASE))
        assert server.requests == []
    assert caught.value.esp_name == "Amazon SES"
    assert caught.value.result is not None
    assert caught.value.result.outcome == "not_sent"
    assert caught.value.result.status == {"failed"}


@pytest.mark.usefixtures("denied")
def test_a_mail_in_s3_is_put_off_while_the_role_is_refused() -> None:
    """503: answered with 200 it would be lost."""
    with hooked(**NO_KEYS) as (hooks, _):
        assert post(hooks, notification(stored(), TopicArn=INBOUND_TOPIC), "inbound") == 503
    assert hooks.events == []


# --- esp_extra ---------------------------------------------------------------------------

OUTSIDE = {"ToAddresses": ["customer@example.org"]}


@pytest.mark.parametrize(
    "fields",
    [
        {"body": "Hi", "esp_extra": {"Destination": OUTSIDE}},
        {
            "template_id": "order",
            "esp_extra": {"BulkEmailEntries": [{"Destination": OUTSIDE}]},
        },
    ],
    ids=["SendEmail", "SendBulkEmail"],
)
@pytest.mark.parametrize(
    "rails", [{"REDIRECT_TO": "dev@example.com"}, {"ALLOW_RECIPIENTS": ["*@example.com"]}]
)
def test_the_rails_hold_what_amazon_calls_recipients(
    fields: dict[str, Any], rails: dict[str, Any]
) -> None:
    """Nobody outside gets mail from staging, whatever is in esp_extra."""
    with scripted(accept) as server:
        app = Flask(__name__)
        given = SETTINGS | {"AMAZON_SES_API_URL": server.url} | rails
        app.config.update({f"MAILESP_{name}": value for name, value in given.items()})
        mail_esp = MailESP(app)
        with app.app_context():
            mail_esp.send(Message(sender="shop@example.com", to="dev@example.com", **fields))
        app.extensions["mailesp"].transport.close()
        assert b"customer@example.org" not in server.requests[0].body


@pytest.mark.parametrize("name", ["Destination", "BulkEmailEntries"])
def test_recipients_are_attributes_of_the_message(name: str) -> None:
    """The result would name people to whom nothing went."""
    mailer = mailer_of(ses_app())
    message = Message("Hi", to="a@example.com", esp_extra={name: OUTSIDE}, **BASE)
    with pytest.raises(InvalidMessageError, match="give recipients"):
        mailer.esp.build(prepared_for(mailer, message), mailer.settings)


def test_esp_extra_joins_what_the_message_asks_for() -> None:
    """Objects within objects are merged: a switch of the message is not lost."""
    mailer = mailer_of(ses_app())
    extra = {"ConfigurationOverrides": {"Tracking": {"CustomRedirectDomain": "t.example.com"}}}
    message = Message("Hi", to="a@example.com", track_opens=False, esp_extra=extra, **BASE)
    (call,) = mailer.esp.build(prepared_for(mailer, message), mailer.settings)
    assert isinstance(call.request.body, bytes)
    assert json.loads(call.request.body)["ConfigurationOverrides"] == {
        "Tracking": {"OpenTrackingEnabled": "DISABLED", "CustomRedirectDomain": "t.example.com"}
    }


# --- Amazon SES --------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["ThrottlingException", "MessageRejected"])
def test_a_server_error_never_says_that_nothing_was_taken(code: str) -> None:
    """Whatever its code: it is uncertain."""
    answer = Reply(503, b'{"message": "Busy."}', {"x-amzn-ErrorType": code})
    with answering(answer) as (mail_esp, _), pytest.raises(SendUncertainError) as caught:
        mail_esp.send(Message("Hi", to="a@example.com", **BASE))
    assert "nothing was taken" not in str(caught.value)
    assert "error.message" not in str(caught.value)  # such an error has none
    assert "may or may not" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "detail", "listed"),
    [
        ("Bounce", "bounce", "bouncedRecipients"),
        ("Complaint", "complaint", "complainedRecipients"),
        ("DeliveryDelay", "deliveryDelay", "delayedRecipients"),
        ("Delivery", "delivery", "recipients"),
    ],
)
def test_nobody_is_accused_for_having_been_among_the_recipients(
    kind: str, detail: str, listed: str
) -> None:
    """Where the list is empty or damaged, the event is about nobody in particular."""
    raw = event(
        kind, detail, {listed: []}, mail=mail(destination=["a@example.com", "b@example.com"])
    )
    request = WebhookRequest({}, json.dumps(notification(raw)).encode())
    (found,) = amazon_ses.parse(request, mailer_of(ses_app()).settings)
    assert found.recipient is None  # type: ignore[union-attr]


def test_a_confirmation_left_to_people_brings_what_they_need() -> None:
    """The URL to open is in the event: it is nowhere else."""
    with hooked(AUTO_CONFIRM_SNS=False) as (hooks, server):
        assert post(hooks, confirmation()) == 200
        assert len(server.requests) == 1  # the certificate
    (found,) = hooks.events
    assert (found.event_type, "SubscribeURL" in found.esp_event) == ("unknown", True)


# --- certificates ------------------------------------------------------------------------


def test_strangers_cannot_use_up_what_a_known_certificate_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is fetched again when its time is over, however many others are asked for."""
    with hooked() as (hooks, _):
        assert post(hooks, notification(BOUNCED)) == 200
        clock = time.monotonic
        monkeypatch.setattr(fetching, "monotonic", lambda: clock() + 86_401)
        for number in range(11):
            name = f"SimpleNotificationService-{number:032x}.pem"
            url = f"https://sns.eu-west-1.amazonaws.com/{name}"
            assert post(hooks, notification(BOUNCED, SigningCertURL=url)) in (401, 503)
        assert post(hooks, notification(CLICKED)) == 200


# --- configuration -----------------------------------------------------------------------

SES = {
    "esp": "amazon_ses",
    "region": "eu-west-1",
    "access_key_id": "AKIAX",
    "secret_access_key": "x",
}
SENDGRID = {"esp": "sendgrid", "api_key": "SG.canary"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            SES | {"topic_arns": TOPIC},
            SES | {"topic_arns": INBOUND_TOPIC},
        ),
        (
            SENDGRID | {"inbound_verification_key": sg.PUBLIC},
            SENDGRID | {"inbound_verification_key": sg.INBOUND_PUBLIC},
        ),
    ],
    ids=["topics", "inbound keys"],
)
def test_mailers_of_one_esp_share_all_that_webhooks_are_checked_with(
    one: dict[str, str], other: dict[str, str]
) -> None:
    """One of two would be rejected for ever, and its mail lost."""
    app = Flask(__name__)
    app.config["MAILESP_MAILERS"] = {"default": one, "bulk": other}
    with pytest.raises(ConfigurationError, match="share one webhook URL"):
        MailESP(app)


# --- SendGrid: sending -------------------------------------------------------------------


def sendgrid_app(url: str, **changes: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(
        MAILESP_ESP="sendgrid",
        MAILESP_SENDGRID_API_KEY="SG.canary",
        MAILESP_SENDGRID_API_URL=url,
        **changes,
    )
    MailESP(app)
    return app


@pytest.mark.parametrize("item", [Reply(503, b"upstream"), Reset(after="request")])
def test_an_uncertain_copy_keeps_the_id_that_events_will_bring(item: Any) -> None:
    """So that they can tell what became of it."""
    with scripted(item) as server:
        app = sendgrid_app(server.url)
        message = Message("Hi", to=["a@example.com", "b@example.com"], merge_data={}, **BASE)
        with app.app_context(), pytest.raises(SendUncertainError) as caught:
            MailESP().send(message)
        app.extensions["mailesp"].transport.close()
        copies = json.loads(server.requests[0].body)["personalizations"]
    result = caught.value.result
    assert result is not None
    assert [status.message_id for status in result.recipients.values()] == [
        copy["custom_args"]["mailesp_id"] for copy in copies
    ]


def test_what_nobody_got_for_one_bad_address_is_raised_all_the_same() -> None:
    """IGNORE_RECIPIENT_STATUS is for the bad address, not for the others."""
    error = {"message": "Bad.", "field": "personalizations.0.to.1.email"}
    with scripted(Reply(400, json.dumps({"errors": [error]}).encode())) as server:
        app = sendgrid_app(server.url, MAILESP_IGNORE_RECIPIENT_STATUS=True)
        with app.app_context(), pytest.raises(RecipientsRefusedError):
            MailESP().send(Message("Hi", to=["a@example.com", "b@example.com"], **BASE))
        app.extensions["mailesp"].transport.close()


# --- SendGrid: webhooks ------------------------------------------------------------------

_FORGED = 'x&email=From: boss@example.com%0a%0aPay&envelope={"from":"boss@example.com"}&y='
_EVENTS = json.dumps([{"event": "open", "email": "a@example.com", "useragent": _FORGED}]).encode()
_HIDDEN = (
    b"From: mallory@example.org\r\n\r\n"
    b'--evil\r\nContent-Disposition: form-data; name="email"\r\n\r\n'
    b"From: boss@example.com\r\n\r\nPay\r\n--evil--\r\n" + _FORGED.encode()
)
_MAIL = sg.form(*sg.SPOKEN, ("email", _HIDDEN))
_OTHER_TYPES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=evil",
    "multipart/form-data",
    "text/plain",
    "",
)


@pytest.mark.parametrize("content_type", _OTHER_TYPES)
def test_nobody_signs_the_content_type_so_it_decides_nothing(content_type: str) -> None:
    """A signed post with another one is still the same events, the same mail."""
    (opened,) = sendgrid.parse(WebhookRequest({"Content-Type": content_type}, _EVENTS), sg.KNOWN)
    (arrived,) = sendgrid.parse(WebhookRequest({"Content-Type": content_type}, _MAIL), sg.KNOWN)
    assert isinstance(opened, TrackingEvent)
    assert isinstance(arrived, InboundEvent)
    assert (opened.event_type, opened.recipient) == ("opened", "a@example.com")
    assert str(arrived.message.from_email) == "mallory@example.org"


def parsed_mail(html: str, *content_ids: str, **info: str) -> Any:
    names = {f"attachment{number}": cid for number, cid in enumerate(content_ids)}
    infos = {name: {"type": "text/plain", "content-id": cid, **info} for name, cid in names.items()}
    files = [(name, "a.txt", "text/plain; charset=iso-8859-2", b"P\xf8\xe1n\xed") for name in names]
    body = sg.form(
        ("headers", b"From: a@example.org\r\n"),
        ("envelope", sg.ENVELOPE),
        ("html", html),
        ("attachment-info", json.dumps(infos)),
        *files,
    )
    (found,) = sendgrid.parse(WebhookRequest({"Content-Type": sg.MULTIPART}, body), sg.KNOWN)
    return found.message  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("html", "inline"),
    [
        ('<img src="cid:image10">', ["image10"]),
        ("<img src=cid:image1>", ["image1"]),
        ("<p style=\"background:url('cid:image1')\">", ["image1"]),
        ('<p style="background:url(&quot;cid:image1&quot;)">', ["image1"]),
        ('<img src="CID:logo%40example.org">', ["logo@example.org"]),
        ('<img src="cid:plan(1)">', ["plan(1)"]),
        ("<p>cid: image1</p>", []),
    ],
)
def test_a_file_is_inline_where_the_html_names_its_whole_id(html: str, inline: list[str]) -> None:
    """One whose id another's begins with stays among the attachments."""
    found = parsed_mail(html, "image1", "image10", "logo@example.org", "plan(1)")
    assert [file.content_id for file in found.inlines] == inline


def test_the_charset_of_a_file_is_what_info_or_part_says() -> None:
    assert parsed_mail("", "c1").attachments[0].text == "Přání"
    assert parsed_mail("", "c1", charset="iso-8859-1").attachments[0].text == "Pøání"


def test_a_stranger_can_have_a_known_certificate_fetched_once_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What has helped before and is still the same is remembered, whoever asked for it."""
    with hooked() as (hooks, server):
        assert post(hooks, notification(BOUNCED)) == 200
        clock = time.monotonic
        monkeypatch.setattr(fetching, "monotonic", lambda: clock() + 86_401)
        for _ in range(20):
            assert post(hooks, notification(BOUNCED) | {"Subject": "forged"}) == 401
        assert len(server.requests) == 2
