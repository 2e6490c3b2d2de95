"""Amazon's account: whether the key is good, and which topics have their subscriptions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from ses_kit import INBOUND_TOPIC, REGION, SECRETS, TOPIC
from test_console import Answers, ask, json_answer

from flask_mailesp.config import Lookup, esp_settings
from flask_mailesp.console import Action, Change, HookTarget, Talk, converse
from flask_mailesp.consoles import amazon_ses
from flask_mailesp.esp import HttpRequest, HttpResponse, SecretBytes, Settings
from flask_mailesp.exceptions import APIError, AuthenticationError, ConfigurationError
from flask_mailesp.registry import require_esp
from flask_mailesp.simulator import LocalServer, Simulator
from flask_mailesp.transport import Transport

TRACKING = HookTarget("tracking", "https://app.example.com/mail-hooks/amazon_ses/tracking/")
INBOUND = HookTarget("inbound", "https://app.example.com/mail-hooks/amazon_ses/inbound/")
SECRET = SecretBytes(b"user:long password")


def settings_of(**own: Any) -> Settings:
    given = {
        "AMAZON_SES_REGION": REGION,
        "AMAZON_SES_CONFIGURATION_SET": "events",
        "AMAZON_SES_TOPIC_ARNS": [TOPIC, INBOUND_TOPIC],
        **SECRETS,
        **{f"AMAZON_SES_{name}": value for name, value in own.items()},
    }
    config = {f"MAILESP_{name}": value for name, value in given.items()}
    return esp_settings(Lookup(config), require_esp("amazon_ses", "here"), sending=True)


# --- the credential --------------------------------------------------------------------

HEALTHY = {
    "SendingEnabled": True,
    "ProductionAccessEnabled": True,
    "EnforcementStatus": "HEALTHY",
}


def refused(code: str, status: int = 403) -> HttpResponse:
    return HttpResponse(status, {"x-amzn-errortype": code}, b'{"message": "?"}')


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (json_answer(HEALTHY), "ok", "may send"),
        (json_answer(HEALTHY | {"ProductionAccessEnabled": False}), "warning", "sandbox"),
        (json_answer(HEALTHY | {"EnforcementStatus": "PROBATION"}), "warning", "PROBATION"),
        (json_answer(HEALTHY | {"SendingEnabled": False}), "failed", "paused"),
        (refused("AccessDeniedException"), "ok", "ses:GetAccount"),
        (refused("UnrecognizedClientException"), "failed", "ACCESS_KEY_ID"),
        (refused("InvalidSignatureException"), "failed", "clock"),
        (HttpResponse(403), "failed", "HTTP 403"),
        (refused("TooManyRequestsException", 429), "cannot tell", "429"),
        (HttpResponse(503), "cannot tell", "HTTP 503"),
        (HttpResponse(200, {}, b"<h1>hello</h1>"), "cannot tell", "not Amazon SES"),
        (HttpResponse(302), "cannot tell", "Redirects"),
    ],
)
def test_the_account_is_examined(answer: HttpResponse, verdict: str, words: str) -> None:
    """By a question that changes nothing; a key that may not ask it may still send."""
    credentials, sender = ask(amazon_ses.check(settings_of()), answer)

    assert (credentials.check, credentials.verdict) == ("credentials", verdict)
    assert words in credentials.text
    assert sender.verdict == "cannot tell"


def test_the_question_is_signed() -> None:
    transport = Answers(json_answer(HEALTHY))
    converse(transport, amazon_ses.check(settings_of()))
    (request,) = transport.requests

    assert (request.method, request.url) == (
        "GET",
        "https://email.eu-west-1.amazonaws.com/v2/email/account",
    )
    assert "/eu-west-1/ses/aws4_request" in request.headers["Authorization"]


def test_without_a_credential_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding says what is missing."""
    for name in SECRETS:
        monkeypatch.delenv(name.replace("AMAZON_SES", "AWS"), raising=False)
    absent: Any = None
    monkeypatch.setitem(sys.modules, "botocore", absent)
    settings = settings_of(ACCESS_KEY_ID=None, SECRET_ACCESS_KEY=None)
    finding, _ = ask(amazon_ses.check(settings))

    assert finding.verdict == "failed"
    assert "Flask-MailESP[ses]" in finding.text


# --- the plan --------------------------------------------------------------------------


def destinations(*topics: str, enabled: bool = True) -> HttpResponse:
    found = [{"Enabled": enabled, "SnsDestination": {"TopicArn": topic}} for topic in topics]
    return json_answer({"EventDestinations": [{"KinesisFirehoseDestination": {}}, *found, None]})


def subscriptions(*items: tuple[str, str], following: str = "") -> HttpResponse:
    members = "".join(
        f"<member><Endpoint>{url.replace('&', '&amp;')}</Endpoint>"
        f"<SubscriptionArn>{arn}</SubscriptionArn></member>"
        for url, arn in items
    )
    more = f"<NextToken>{following}</NextToken>" if following else ""
    return HttpResponse(200, {}, f"<R><Subscriptions>{members}</Subscriptions>{more}</R>".encode())


def planned(*answers: HttpResponse, **own: Any) -> list[Change]:
    targets = own.pop("targets", (TRACKING,))
    return converse(Answers(*answers), amazon_ses.plan(settings_of(**own), targets))


def fields(request: HttpRequest | None) -> dict[str, str]:
    assert request is not None
    assert isinstance(request.body, bytes)
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


CONFIRMED = f"{TOPIC}:8d2c"
MASKED = TRACKING.url.replace("https://", "https://user:****@").rstrip("/")


@pytest.mark.parametrize(
    ("items", "action"),
    [
        ([], "create"),
        ([("https://elsewhere.example.com/", CONFIRMED)], "create"),
        ([(TRACKING.url, CONFIRMED)], "unchanged"),
        ([(MASKED, CONFIRMED)], "unchanged"),
        ([(TRACKING.url, "PendingConfirmation")], "update"),
        ([(TRACKING.url, "PendingConfirmation"), (MASKED, CONFIRMED)], "unchanged"),
        ([("mailto:ops@example.com", CONFIRMED), ("https://[", CONFIRMED)], "create"),
    ],
)
def test_the_topic_of_the_events_gets_a_subscription(
    items: list[tuple[str, str]], action: str
) -> None:
    """Others are shown, and left alone."""
    first, *others = planned(destinations(TOPIC), subscriptions(*items))

    assert (first.action, first.place) == (action, "topic 'ses-events'")
    assert all(change.action is Action.FOREIGN for change in others)
    assert (first.request is None) == (action == "unchanged")
    if first.request is not None:
        assert fields(first.request) == {
            "Action": "Subscribe",
            "TopicArn": TOPIC,
            "Version": "2010-03-31",
            "Protocol": "https",
            "Endpoint": TRACKING.url,
        }
        assert first.request.url == "https://sns.eu-west-1.amazonaws.com/"
        assert "/eu-west-1/sns/aws4_request" in first.request.headers["Authorization"]


def test_credentials_stand_in_the_endpoint() -> None:
    """Where the app wants them besides the signature; and nowhere are they shown."""
    target = HookTarget("tracking", TRACKING.url, SECRET)
    (given,) = planned(destinations(TOPIC), subscriptions(), targets=(target,))
    (own,) = planned(destinations(TOPIC), subscriptions(), WEBHOOK_SECRET="me:secret")

    assert fields(given.request)["Endpoint"].startswith("https://user:long%20password@app.")
    assert fields(own.request)["Endpoint"].startswith("https://me:secret@app.")
    assert "secret" not in f"{own!r}{given!r}"


def test_the_other_topics_are_for_inbound_mail() -> None:
    """What the configuration set does not publish to."""
    changes = planned(
        destinations(TOPIC), subscriptions(), subscriptions(), targets=(TRACKING, INBOUND)
    )

    assert [fields(change.request)["TopicArn"] for change in changes] == [TOPIC, INBOUND_TOPIC]
    assert fields(changes[1].request)["Endpoint"] == INBOUND.url


def test_long_lists_are_read_to_their_end() -> None:
    """Page by page; a page that names itself is the last."""
    page = subscriptions(("https://a.example.com/?a=1&b=2", CONFIRMED), following="n&amp;1")
    (change, other, again) = planned(destinations(TOPIC), page, page)

    assert change.action is Action.CREATE
    assert other.url == again.url == "https://a.example.com/?***"


def test_events_are_published_where_there_is_one_topic() -> None:
    """A destination for all events, and the subscription."""
    made, subscribed = planned(destinations(), subscriptions(), TOPIC_ARNS=TOPIC)

    assert (made.action, subscribed.action) == (Action.CREATE, Action.CREATE)
    assert made.request is not None
    assert made.request.url.endswith("/v2/email/configuration-sets/events/event-destinations")
    body = json.loads(bytes(made.request.body))  # type: ignore[arg-type]
    assert body["EventDestination"]["SnsDestination"] == {"TopicArn": TOPIC}
    assert len(body["EventDestination"]["MatchingEventTypes"]) == 10


@pytest.mark.parametrize("answer", [destinations(), destinations(TOPIC, enabled=False)])
def test_among_several_topics_a_person_chooses(answer: HttpResponse) -> None:
    """Which of them is for tracking is not to be guessed; nor which is for mail, therefore."""
    (change,) = planned(answer, targets=(TRACKING, INBOUND))

    assert (change.action, change.request) == (Action.FOREIGN, None)
    assert "TOPIC_ARNS" in change.details[0]


@pytest.mark.parametrize("missing", ["TOPIC_ARNS", "CONFIGURATION_SET"])
def test_what_is_needed_for_a_plan_is_named(missing: str) -> None:
    with pytest.raises(ConfigurationError, match=missing):
        planned(**{missing: None})


def test_mail_alone_needs_no_configuration_set() -> None:
    changes = planned(subscriptions(), subscriptions(), targets=(INBOUND,), CONFIGURATION_SET=None)

    assert [change.action for change in changes] == [Action.CREATE] * 2


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        ([refused("NotFoundException", 404)], APIError, "CONFIGURATION_SET"),
        ([refused("AccessDeniedException")], AuthenticationError, "IAM policy"),
        (
            [
                destinations(TOPIC),
                HttpResponse(403, {}, b"<E><Error><Code>AuthorizationError</Code></Error></E>"),
            ],
            AuthenticationError,
            "sns:Subscribe",
        ),
        (
            [destinations(TOPIC), HttpResponse(404, {}, b"<E><Code>NotFound</Code></E>")],
            APIError,
            "TOPIC_ARNS",
        ),
        ([destinations(TOPIC), HttpResponse(500)], APIError, "HTTP 500"),
    ],
)
def test_what_amazon_refuses_is_told(
    answers: list[HttpResponse], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        planned(*answers)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"EventDestinations": {"a": 1}}', b"<x>"])
def test_damaged_lists_are_empty(body: bytes) -> None:
    """Nothing is taken for granted."""
    answer = HttpResponse(200, {}, body)
    (change,) = planned(answer, answer)

    assert change.action is Action.FOREIGN


# --- against the simulator -------------------------------------------------------------


@pytest.fixture
def amazon() -> Iterator[LocalServer]:
    with Simulator().running() as server:
        yield server


def test_a_plan_that_was_carried_out_has_nothing_left_to_do(amazon: LocalServer) -> None:
    """But to wait for the confirmation; over real HTTP, with signatures that are checked."""
    topic = TOPIC
    url = amazon.url_for("amazon_ses")
    simulated = {
        "API_URL": url,
        "SNS_URL": f"{url}/sns",
        "ACCESS_KEY_ID": "AKIASIMULATOR0000001",
        "SECRET_ACCESS_KEY": "SimulatorSecretAccessKey/0123456789+abcd",
        "TOPIC_ARNS": topic,
    }
    settings = settings_of(**simulated)
    transport = Transport()

    def plan() -> Talk[list[Change]]:
        return amazon_ses.plan(settings, (TRACKING,))

    first = converse(transport, plan())
    for change in first:
        assert change.request is not None
        assert amazon_ses.problem(transport.send(change.request)) is None
    second = converse(transport, plan())
    transport.close()

    assert [change.action for change in first] == [Action.CREATE, Action.CREATE]
    assert [change.action for change in second] == [Action.UPDATE]
