"""Amazon's side: what it takes and refuses, what it publishes, and what boto3 says to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
import requests
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from flask import Flask

from flask_mailesp import InboundEvent, MailESP, Message, TrackingEvent, signals
from flask_mailesp.esp import HttpRequest
from flask_mailesp.exceptions import APIError, AuthenticationError
from flask_mailesp.sigv4 import Credentials, signed
from flask_mailesp.simulator import LocalServer, Simulator

from .conftest import Application, Received

KEY = Credentials("AKIASIMULATOR0000001", "SimulatorSecretAccessKey/0123456789+abcd")
ARN = "arn:aws:sns:eu-west-1:123456789012:ses-events"
INBOUND_ARN = "arn:aws:sns:eu-west-1:123456789012:ses-inbound"
SENDER = "Shop <shop@example.org>"


@pytest.fixture
def sim(private_key: str) -> Simulator:
    return Simulator(amazon_ses_private_key=private_key)


# -- Amazon's own library -------------------------------------------------------------------


@pytest.fixture
def url(server: LocalServer) -> str:
    return server.url_for("amazon_ses")


@contextmanager
def official(
    service: str, url: str, secret: str = KEY.secret_access_key, region: str = "eu-west-1"
) -> Iterator[Any]:
    client = boto3.client(
        service,
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=KEY.access_key_id,
        aws_secret_access_key=secret,
        config=Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}
        ),
    )
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def ses(url: str) -> Iterator[Any]:
    with official("sesv2", url) as client:
        yield client


def simple(**fields: Any) -> dict[str, Any]:
    body = {"Text": {"Data": "Hello"}, "Html": {"Data": "<p>Hello</p>"}}
    content = {"Simple": {"Subject": {"Data": "Hi"}, "Body": body}}
    return {
        "FromEmailAddress": SENDER,
        "Destination": {"ToAddresses": ["Bea <bea@example.com>"]},
        "Content": content,
        **fields,
    }


def test_official_simple_message(ses: Any, sim: Simulator) -> None:
    """With everything that such a message has."""
    request = simple(
        ReplyToAddresses=["desk@example.org"],
        FeedbackForwardingEmailAddress="bounces@example.org",
        EmailTags=[{"Name": "kind", "Value": "receipt"}],
        ConfigurationOverrides={"Tracking": {"OpenTrackingEnabled": "DISABLED"}},
    )
    request["Content"]["Simple"] |= {
        "Headers": [{"Name": "X-Tag", "Value": "receipt"}, {"Name": "X-A", "Value": "1"}],
        "Attachments": [{"RawContent": b"\x00\xff", "FileName": "a.bin"}],
    }
    answer = ses.send_email(**request)

    (message,) = sim.messages
    assert answer["MessageId"] == message.id
    assert (message.subject, message.text, message.html) == ("Hi", "Hello", "<p>Hello</p>")
    assert (message.recipients, message.reply_to) == (["bea@example.com"], ["desk@example.org"])
    assert message.envelope_sender == "bounces@example.org"
    assert (message.track_opens, message.track_clicks) == (False, None)
    assert (message.tags, message.attachments[0].data) == (["receipt"], b"\x00\xff")


def test_official_raw_message(ses: Any, sim: Simulator) -> None:
    """Without a destination, the headers say who gets it."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Bcc"] = SENDER, "Béa <bea@example.com>", "b@example.net"
    mail["Subject"], mail["X-Metadata"] = "Raw", '{"order": "7"}'
    mail.set_content("Hello")
    ses.send_email(Content={"Raw": {"Data": mail.as_bytes()}})
    ses.send_email(
        Content={"Raw": {"Data": mail.as_bytes()}},
        Destination={"ToAddresses": ["other@example.com"]},
    )

    first, second = sim.messages
    assert first.recipients == ["bea@example.com", "b@example.net"]
    assert (first.subject, first.from_, first.metadata) == ("Raw", SENDER, {"order": "7"})
    assert (second.recipients, second.to) == (["other@example.com"], ["Béa <bea@example.com>"])


def test_official_templates(ses: Any, sim: Simulator) -> None:
    """Made, changed, listed, sent alone and in bulk, and removed."""
    content = {"Subject": "Hi {{name}}", "Text": "Dear {{name}}", "Html": "<p>{{name}}</p>"}
    ses.create_email_template(TemplateName="my welcome", TemplateContent=content)
    content["Subject"] = "Hello {{name}}"
    ses.update_email_template(TemplateName="my welcome", TemplateContent=content)
    listed = ses.list_email_templates()["TemplatesMetadata"]
    assert [one["TemplateName"] for one in listed] == ["my welcome"]
    found = ses.get_email_template(TemplateName="my welcome")
    assert found["TemplateContent"]["Subject"] == "Hello {{name}}"

    template = {"TemplateName": "my welcome", "TemplateData": '{"name": "you"}'}
    ses.send_email(**simple(Content={"Template": template}))
    answer = ses.send_bulk_email(
        FromEmailAddress=SENDER,
        DefaultContent={"Template": template | {"Headers": [{"Name": "X-N", "Value": "0"}]}},
        BulkEmailEntries=[
            {
                "Destination": {"ToAddresses": ["a@example.com"]},
                "ReplacementEmailContent": {
                    "ReplacementTemplate": {"ReplacementTemplateData": '{"name": "<A>"}'}
                },
                "ReplacementHeaders": [{"Name": "x-n", "Value": "1"}],
            },
            {"Destination": {"ToAddresses": ["b@example.com"]}},
        ],
    )

    subjects = [message.subject for message in sim.messages]
    assert subjects == ["Hello you", "Hello <A>", "Hello you"]
    assert sim.messages[1].html == "<p>&lt;A&gt;</p>"
    assert [dict(m.headers) for m in sim.messages[1:]] == [{"x-n": "1"}, {"X-N": "0"}]
    ids = [one["MessageId"] for one in answer["BulkEmailEntryResults"]]
    assert ids == [message.id for message in sim.messages[1:]]
    ses.delete_email_template(TemplateName="my welcome")
    with pytest.raises(ses.exceptions.NotFoundException):
        ses.get_email_template(TemplateName="my welcome")


def test_official_account(ses: Any) -> None:
    account = ses.get_account()

    assert account["ProductionAccessEnabled"]
    assert account["SendQuota"]["Max24HourSend"] > 0


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_official_errors(ses: Any, url: str, sim: Simulator) -> None:
    """The library's own exception for each, with Amazon's code."""
    with pytest.raises(ses.exceptions.BadRequestException):
        ses.send_email(**simple(Destination={"ToAddresses": ["nobody"]}))
    with pytest.raises(ses.exceptions.NotFoundException):
        ses.send_email(**simple(Content={"Template": {"TemplateName": "x", "TemplateData": "{}"}}))
    with official("sesv2", url, secret="wrong") as other, pytest.raises(ClientError) as wrong:
        other.get_account()
    with official("sesv2", url, region="eu-north-1") as far, pytest.raises(ClientError) as scope:
        far.get_account()

    assert {code_of(wrong), code_of(scope)} == {"InvalidSignatureException"}
    assert sim.messages == []


def test_official_s3(sim: Simulator, url: str, hooked: Application) -> None:
    """The bucket that mail is put into, as the library reads it."""
    sim.hook("amazon_ses", inbound_action="s3")
    sim.receive("amazon_ses", b"Subject: Hi\r\n\r\n\xff", "in@example.com")
    action = message_of(hooked.last)["receipt"]["action"]

    with official("s3", f"{url}/s3") as s3:
        found = s3.get_object(Bucket=action["bucketName"], Key=action["objectKey"])
        assert found["Body"].read() == b"Subject: Hi\r\n\r\n\xff"
        with pytest.raises(s3.exceptions.NoSuchKey):
            s3.get_object(Bucket=action["bucketName"], Key="other + key")
        with pytest.raises(ClientError) as denied:
            s3.get_object(Bucket="other", Key="x")
    assert code_of(denied) == "AccessDenied"


def test_official_sns(sim: Simulator, url: str, hooked: Application) -> None:
    """A token confirms once it was sent; what is subscribed is listed."""
    sim.wait(2)
    token = next(one.json["Token"] for one in hooked.requests if one.json.get("TopicArn") == ARN)
    with official("sns", f"{url}/sns") as sns:
        with pytest.raises(sns.exceptions.InvalidParameterException):
            sns.confirm_subscription(TopicArn=ARN, Token="another")
        confirmed = sns.confirm_subscription(TopicArn=ARN, Token=token)
        listed = sns.list_subscriptions_by_topic(TopicArn=ARN)["Subscriptions"]
        sns.subscribe(TopicArn=ARN, Protocol="https", Endpoint="https://new.example.com/?a=1&b=2")
        urls = [
            one["Endpoint"]
            for one in sns.list_subscriptions_by_topic(TopicArn=ARN)["Subscriptions"]
        ]

    assert confirmed["SubscriptionArn"].startswith(f"{ARN}:")
    assert [one["SubscriptionArn"] for one in listed] == [confirmed["SubscriptionArn"]]
    assert "https://new.example.com/?a=1&b=2" in urls


# -- the wire -------------------------------------------------------------------------------


def ask(
    session: requests.Session, url: str, body: Any, *, path: str = "outbound-emails", **how: Any
) -> requests.Response:
    """One signed request, or what someone makes of it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = HttpRequest(
        "POST", f"{url}/v2/email/{path}", {"Content-Type": "application/json"}, data
    )
    now = how.get("now", datetime.now(timezone.utc))
    proven = signed(request, how.get("key", KEY), service="ses", region="eu-west-1", now=now)
    headers = {name: str(value) for name, value in proven.headers.items()} | how.get("headers", {})
    return session.post(request.url, data=how.get("data", data), headers=headers, timeout=10)


RAW = base64.b64encode(b"From: shop@example.org\r\nSubject: Hi\r\n\r\nHello").decode()
TO = {"ToAddresses": ["bea@example.com"]}


def raw(source: bytes) -> dict[str, Any]:
    return {"Raw": {"Data": base64.b64encode(source).decode()}}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no content", {"Content": {}}, "BadRequestException"),
    ("no object", {"Content": []}, "BadRequestException"),
    ("no recipient", {"Destination": {}}, "BadRequestException"),
    ("51 recipients", {"Destination": {"ToAddresses": [f"a{n}@x.org" for n in range(51)]}}, "Bad"),
    ("recipients of numbers", {"Destination": {"ToAddresses": [1]}}, "SerializationException"),
    ("a mailbox beyond ASCII", {"Destination": {"ToAddresses": ["jö@x.org"]}}, "Bad"),
    ("not base64", {"Content": {"Raw": {"Data": "!"}}}, "SerializationException"),
    ("no data", {"Content": {"Raw": {}}}, "SerializationException"),
    ("twice", {"Content": raw(b"From: a@example.org\r\nDate: x\r\ndate: y\r\n\r\n")}, "Bad"),
    ("tags", {"EmailTags": [{"Name": "a b", "Value": "c"}]}, "BadRequestException"),
    ("tags of nothing", {"EmailTags": [{}]}, "BadRequestException"),
    ("a switch", {"ConfigurationOverrides": {"Tracking": {"OpenTrackingEnabled": 1}}}, "Bad"),
    ("no template", {"Content": {"Template": {"TemplateName": "x"}}}, "NotFoundException"),
    ("template data", {"Content": {"Template": {"TemplateName": "w", "TemplateData": ""}}}, "Bad"),
    (
        "an own header",
        {
            "Content": {
                "Simple": {
                    "Subject": {"Data": "x"},
                    "Body": {"Text": {"Data": "x"}},
                    "Headers": [{"Name": "Reply-To", "Value": "a@x.org"}],
                }
            }
        },
        "BadRequestException",
    ),
    ("a set", {"ConfigurationSetName": "other"}, "NotFoundException"),
]


@pytest.mark.parametrize(
    ("fields", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_wrong_is_refused(
    session: requests.Session, private_key: str, fields: dict[str, Any], code: str
) -> None:
    """With the code in a header, and nothing recorded but that."""
    sim = Simulator(amazon_ses_configuration_sets=["events"])
    sim.template("amazon_ses", id="w", subject="x", text="x")
    with sim.running() as server:
        body = {"Content": {"Raw": {"Data": RAW}}, "Destination": TO} | fields
        answer = ask(session, server.url_for("amazon_ses"), body)

    assert answer.status_code in (400, 404)
    assert answer.headers["x-amzn-ErrorType"].startswith(code)
    assert answer.headers["x-amzn-RequestId"]
    assert (sim.messages, len(sim.rejected)) == ([], 1)


def test_senders_are_verified(session: requests.Session) -> None:
    """In a region: so Amazon says."""
    sim = Simulator(sender_domains=["example.net"])
    with sim.running() as server:
        body = {"Content": {"Raw": {"Data": RAW}}, "Destination": TO}
        answer = ask(session, server.url_for("amazon_ses"), body)

    assert answer.headers["x-amzn-ErrorType"].startswith("MessageRejected")
    assert "EU-WEST-1: shop@example.org" in answer.json()["message"]


def test_signatures_are_checked(session: requests.Session, url: str, sim: Simulator) -> None:
    """Over the time, the headers and the very body."""
    body = {"Content": {"Raw": {"Data": RAW}}, "Destination": TO}
    now = datetime.now(timezone.utc)
    other = Credentials("AKIAOTHER", "x" * 40)
    answers = [
        ask(session, url, body, headers={"Authorization": None}),
        ask(session, url, body, headers={"Authorization": "Bearer x"}),
        ask(session, url, body, key=other),
        ask(session, url, body, key=Credentials(KEY.access_key_id, "x")),
        ask(session, url, body, data=b"{}"),
        ask(session, url, body, headers={"Content-Type": "text/plain"}),
        ask(session, url, body, now=now - timedelta(minutes=6)),
        ask(session, url, body, now=now + timedelta(minutes=6)),
        ask(session, url, body, headers={"X-Amz-Date": ""}),
    ]

    assert {answer.status_code for answer in answers} == {403}
    codes = [answer.headers["x-amzn-ErrorType"].partition("E")[0] for answer in answers]
    assert codes == [
        "MissingAuthenticationToken",
        "IncompleteSignature",
        "UnrecognizedClient",
        *["InvalidSignature"] * 5,
        "IncompleteSignature",
    ]
    assert sim.messages == []
    assert ask(session, url, body).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b"[" * 100_000, b"\xff"], ids=range(5))
def test_a_body_that_is_no_object_is_refused(
    session: requests.Session, url: str, body: bytes
) -> None:
    answer = ask(session, url, body)

    assert answer.headers["x-amzn-ErrorType"].startswith("SerializationException")


def test_unknown_paths_are_refused(session: requests.Session, url: str) -> None:
    assert ask(session, url, {}, path="nothing").status_code == 404
    assert session.get(f"{url}/sns/other.pem", timeout=10).status_code == 404
    assert session.post(f"{url}/sns/", data={"Action": "Delete"}, timeout=10).status_code == 400
    assert session.get(f"{url}/s3/simulator-mail/x", timeout=10).status_code == 403


def test_entries_are_refused_one_by_one(
    session: requests.Session, url: str, sim: Simulator
) -> None:
    """Bad data are one entry's trouble."""
    sim.template("amazon_ses", id="w", subject="x", text="x")
    broken = {"ReplacementTemplate": {"ReplacementTemplateData": "{"}}
    answer = ask(
        session,
        url,
        {
            "FromEmailAddress": SENDER,
            "DefaultContent": {"Template": {"TemplateName": "w", "TemplateData": "{}"}},
            "BulkEmailEntries": [
                {"Destination": TO},
                {"Destination": TO, "ReplacementEmailContent": broken},
                {},
            ],
        },
        path="outbound-bulk-emails",
    )

    statuses = [one["Status"] for one in answer.json()["BulkEmailEntryResults"]]
    assert statuses == ["SUCCESS", "INVALID_PARAMETER", "INVALID_PARAMETER"]
    assert (len(sim.messages), len(sim.rejected)) == (1, 2)


# -- webhooks -------------------------------------------------------------------------------


@pytest.fixture
def hooked(sim: Simulator, application: Application) -> Application:
    sim.hook(
        "amazon_ses",
        tracking=application.hook("/amazon_ses/tracking/"),
        inbound=application.hook("/amazon_ses/inbound/"),
    )
    sim.wait(2)
    return application


def message_of(received: Received) -> dict[str, Any]:
    """What SES says inside what SNS posts."""
    said: dict[str, Any] = json.loads(received.json["Message"])
    return said


def sent(ses: Any, sim: Simulator, **fields: Any) -> str:
    sim.auto = ()
    return str(ses.send_email(**simple(**fields))["MessageId"])


EVENTS = {
    "sent": ("Send", "send"),
    "delivered": ("Delivery", "delivery"),
    "deferred": ("DeliveryDelay", "deliveryDelay"),
    "bounced": ("Bounce", "bounce"),
    "soft_bounced": ("Bounce", "bounce"),
    "rejected": ("Reject", "reject"),
    "failed": ("Rendering Failure", "failure"),
    "complained": ("Complaint", "complaint"),
    "opened": ("Open", "open"),
    "clicked": ("Click", "click"),
    "unsubscribed": ("Subscription", "subscription"),
    "subscribed": ("Subscription", "subscription"),
}


@pytest.mark.parametrize(("event", "names"), EVENTS.items())
def test_every_event_is_published(
    ses: Any, sim: Simulator, hooked: Application, event: str, names: tuple[str, str]
) -> None:
    """In SES's words, wrapped and signed by SNS."""
    number = sent(ses, sim)
    sim.emit(number, event)
    said = message_of(hooked.last)

    assert (said["eventType"], said["mail"]["messageId"]) == (names[0], number)
    assert names[1] in said
    assert ("headers" in said["mail"]) == (event not in ("deferred", "failed"))
    assert set(sim.events("amazon_ses")) == set(EVENTS)
    headers = hooked.last.headers
    assert headers["content-type"] == "text/plain; charset=UTF-8"
    assert headers["x-amz-sns-topic-arn"] == ARN


def test_details_replace_fields(ses: Any, sim: Simulator, hooked: Application) -> None:
    number = sent(ses, sim)
    sim.emit(number, "Click", url="https://example.com/x", user_agent="Lynx")
    said = message_of(hooked.last)["click"]

    assert (said["link"], said["userAgent"]) == ("https://example.com/x", "Lynx")
    with pytest.raises(ValueError, match="Amazon SES cannot report"):
        sim.emit(number, "autoresponded")


@pytest.mark.parametrize("version", ["1", "2"])
def test_what_is_posted_is_signed(
    ses: Any, sim: Simulator, hooked: Application, url: str, version: str, session: requests.Session
) -> None:
    """With the key of the certificate that is served below /sns/."""
    sim.hook("amazon_ses", signature_version=version)
    sim.emit(sent(ses, sim), "opened")
    fields = hooked.last.json
    name = fields["SigningCertURL"].rpartition("/")[2]
    pem = session.get(f"{url}/sns/{name}", timeout=10).content
    key = x509.load_pem_x509_certificate(pem).public_key()
    names = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
    text = "".join(f"{name}\n{fields[name]}\n" for name in names)

    assert isinstance(key, RSAPublicKey)
    algorithm = hashes.SHA256() if version == "2" else hashes.SHA1()  # noqa: S303
    key.verify(base64.b64decode(fields["Signature"]), text.encode(), padding.PKCS1v15(), algorithm)
    assert fields["SignatureVersion"] == version


def test_the_simulated_mailboxes_have_their_fates(
    ses: Any, sim: Simulator, hooked: Application
) -> None:
    """Whatever follows all others."""
    boxes = ["success", "bounce+7", "complaint", "suppressionlist"]
    to = [f"{box}@simulator.amazonses.com" for box in boxes]
    before = len(hooked.requests)
    ses.send_email(**simple(Destination={"ToAddresses": to}))
    sim.wait()

    said = [message_of(one) for one in hooked.requests[before:]]
    assert [one["eventType"] for one in said] == ["Delivery", "Bounce", "Complaint", "Bounce"]
    assert said[3]["bounce"]["bounceSubType"] == "OnAccountSuppressionList"


def test_who_bounced_is_suppressed(ses: Any, sim: Simulator, hooked: Application) -> None:
    """The next mail is taken, and bounces by itself."""
    sim.emit(sent(ses, sim), "bounced")
    sim.auto = ("delivered",)
    ses.send_email(**simple())
    sim.wait()

    assert message_of(hooked.last)["bounce"]["bounceSubType"] == "OnAccountSuppressionList"
    sim.clear()
    ses.put_suppressed_destination(EmailAddress="carl@example.net", Reason="BOUNCE")
    assert sim.side("amazon_ses").is_suppressed("carl@example.net")


def test_missing_data_are_a_rendering_failure(
    ses: Any, sim: Simulator, hooked: Application
) -> None:
    """Taken with an id, and not sent."""
    sim.template("amazon_ses", id="w", subject="Hi {{name}}", text="x")
    template = {"TemplateName": "w", "TemplateData": "{}"}
    ses.send_email(**simple(Content={"Template": template}))
    sim.wait()

    assert message_of(hooked.last)["eventType"] == "Rendering Failure"


def test_consoles_options(ses: Any, sim: Simulator, hooked: Application) -> None:
    """Headers left out, raw delivery, and nothing to those who have not confirmed."""
    number = sent(ses, sim)
    sim.hook("amazon_ses", include_headers=False)
    sim.emit(number, "opened")
    assert "headers" not in message_of(hooked.last)["mail"]

    sim.hook("amazon_ses", raw_delivery=True)
    sim.emit(number, "opened")
    assert hooked.last.json["eventType"] == "Open"
    assert hooked.last.headers["x-amz-sns-rawdelivery"] == "true"

    sim.hook("amazon_ses", confirmed_only=True)
    with pytest.raises(LookupError):
        sim.emit(number, "opened")
    with pytest.raises(ValueError, match="signature_version"):
        sim.hook("amazon_ses", signature_version="3")


@pytest.mark.parametrize(("status", "attempts"), [(200, 1), (401, 1), (404, 1), (503, 4)])
def test_sns_tries_again_after_a_5xx_only(
    ses: Any, sim: Simulator, hooked: Application, status: int, attempts: int
) -> None:
    """The same bytes, three times more."""
    sim.time_scale = 0
    hooked.status = status
    number = sent(ses, sim)
    before = len(sim.deliveries)
    sim.emit(number, "opened")
    made = sim.wait(before + attempts)[before:]

    assert len(made) == attempts
    assert len({delivery.request_body for delivery in made}) == 1
    assert made[-1].verdict == {200: "done", 503: "exhausted"}.get(status, "dropped")


def test_mail_comes_in_through_sns_or_s3(sim: Simulator, hooked: Application) -> None:
    """As large as it is."""
    small, large = b"Subject: S\r\n\r\nx", b"Subject: L\r\n\r\n" + b"x" * 200_000
    sim.receive("amazon_ses", small, "in@example.com", None, spam=(True, 9.0))
    told = message_of(hooked.last)
    sim.receive("amazon_ses", large, "in@example.com", "a@example.net")
    stored = message_of(hooked.last)

    assert base64.b64decode(told["content"]) == small
    assert (told["mail"]["source"], told["receipt"]["spamVerdict"]) == ("", {"status": "FAIL"})
    assert stored["receipt"]["action"]["type"] == "S3"
    assert "content" not in stored
    assert hooked.last.json["TopicArn"] == INBOUND_ARN
    sim.hook("amazon_ses", inbound_action="sns", inbound_encoding="UTF8")
    sim.receive("amazon_ses", small, "in@example.com")
    assert message_of(hooked.last)["content"] == small.decode()
    with pytest.raises(ValueError, match="150 kB"):
        sim.receive("amazon_ses", large, "in@example.com")


def test_keys_and_mail_are_kept_in_the_database(tmp_path: Any, application: Application) -> None:
    """Another process signs with the same key, and finds the same objects."""
    first = Simulator(database=tmp_path / "sim.db")
    second = Simulator(database=tmp_path / "sim.db")
    names = []
    for sim in (first, second):
        sim.hook("amazon_ses", inbound=application.hook("/in/"), inbound_action="s3")
        sim.receive("amazon_ses", b"Subject: x\r\n\r\n", "in@example.com")
        names.append(application.last.json["SigningCertURL"])
    first.close()
    second.close()

    assert len(set(names)) == 1


# -- the package against it -----------------------------------------------------------------


@pytest.fixture
def app(sim: Simulator, server: LocalServer) -> Iterator[Flask]:
    """An app with all its webhooks, served over real HTTP and subscribed."""
    app = Flask("shop", root_path=".")
    app.config["TESTING"] = True
    app.config["MAILESP"] = {
        "ESP": "amazon_ses",
        "SEND_DEFAULTS": {"sender": SENDER},
        **{f"AMAZON_SES_{key}": value for key, value in sim.settings("amazon_ses").items()},
    }
    MailESP(app)
    mine = LocalServer(app)
    hooks = f"{mine.url}/mail-hooks/amazon_ses"
    sim.hook(
        "amazon_ses",
        tracking=f"{hooks}/tracking/",
        inbound=f"{hooks}/inbound/",
        confirmed_only=True,
    )
    sim.wait(2)
    yield app
    mine.stop()
    app.extensions["mailesp"].transport.close()


def test_the_package_subscribes_sends_and_hears(app: Flask, sim: Simulator) -> None:
    """Everything over real HTTP: token, certificate, signature, events of both recipients."""
    heard: list[TrackingEvent] = []

    def on_tracking(app: Flask, event: TrackingEvent, esp_name: str) -> None:
        heard.append(event)

    assert [delivery.status for delivery in sim.deliveries] == [200, 200]
    with signals.tracking.connected_to(on_tracking, app), app.app_context():
        message = Message("Hi", ["a@example.com", "Bé <b@example.com>"], "Grüße")
        message.tags, message.metadata = ["receipt", "år"], {"order": "1042", "note": "ö" * 300}
        result = MailESP().send(message)
        sim.wait()

    assert [event.event_type for event in heard] == ["delivered", "delivered"]
    assert {event.message_id for event in heard} == {result.message_id}
    assert {event.recipient for event in heard} == {"a@example.com", "b@example.com"}
    assert heard[0].tags == ["receipt", "år"]
    assert heard[0].metadata == {"order": "1042", "note": "ö" * 300}


@pytest.mark.parametrize("action", ["sns", "s3"])
def test_the_package_receives_mail(app: Flask, sim: Simulator, action: str) -> None:
    """Octet by octet, through either action."""
    heard: list[InboundEvent] = []

    def on_inbound(app: Flask, event: InboundEvent, esp_name: str) -> None:
        heard.append(event)

    source = b"From: a@example.net\r\nSubject: caf\xc3\xa9\r\n\r\nGr\xfc\xdfe"
    sim.hook("amazon_ses", inbound_action=action)
    with signals.inbound.connected_to(on_inbound, app):
        delivery = sim.receive("amazon_ses", source, "in@example.com", spam=(False, 0.0))

    assert delivery.status == 200
    (event,) = heard
    assert event.message.raw == source
    assert (event.message.envelope_sender, event.message.spam_detected) == ("a@example.net", False)


def test_the_package_refuses_forgeries(app: Flask, sim: Simulator) -> None:
    """And takes the event itself after one."""
    heard: list[TrackingEvent] = []

    def on_tracking(app: Flask, event: TrackingEvent, esp_name: str) -> None:
        heard.append(event)

    sim.auto = ()
    with app.app_context():
        number = MailESP().send(Message("Hi", "a@example.com", "x")).message_id
    sim.fault(webhook="forged")
    with signals.tracking.connected_to(on_tracking, app):
        sim.emit(str(number), "opened")

    statuses = [(one.forged, one.status) for one in sim.deliveries[-2:]]
    assert statuses == [(True, 401), (False, 200)]
    assert len(heard) == 1


def test_the_package_is_told_why(app: Flask, sim: Simulator) -> None:
    """A template that is not there; a credential that is not known."""
    with app.app_context():
        with pytest.raises(APIError, match="No such template") as missing:
            MailESP().send(Message(to="a@example.com", template_id="gone"))
        app.config["MAILESP"]["AMAZON_SES_SECRET_ACCESS_KEY"] = "another-secret-key"
    other = Flask("other", root_path=".")
    other.config.update(app.config)
    MailESP(other)
    with other.app_context(), pytest.raises(AuthenticationError, match="SECRET_ACCESS_KEY"):
        MailESP().send(Message("Hi", "a@example.com", "x"))
    other.extensions["mailesp"].transport.close()

    assert missing.value.code == "NotFoundException"
