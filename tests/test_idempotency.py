"""Idempotency keys: given, made up where the ESP takes one, refused where it does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from conftest import MakeApp

from flask_mailesp import MailESP, Message, SendResult
from flask_mailesp.config import Lookup, send_defaults
from flask_mailesp.delivery import Mailer, deliver, prepared_for
from flask_mailesp.esp import Call, Esp, Feature, HttpRequest, HttpResponse, Part, Reading, Settings
from flask_mailesp.esps import postal, postmark
from flask_mailesp.exceptions import (
    ConfigurationError,
    InvalidHeaderError,
    SendUncertainError,
    UnsupportedFeatureError,
)
from flask_mailesp.message import PreparedMessage
from flask_mailesp.outcomes import accepted
from flask_mailesp.results import Status
from flask_mailesp.simulator import Simulator

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Answering:
    """A transport that has every request accepted, and remembers it."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        self.requests.append(request)
        return HttpResponse(200)

    def fetch(
        self, request: HttpRequest, *, max_bytes: int, public: bool = False, seconds: float = 10.0
    ) -> HttpResponse:
        raise AssertionError("Nothing is fetched to send a message.")


def build(message: PreparedMessage, settings: Settings) -> list[Call]:
    headers = {"Idempotency-Key": str(message.idempotency_key)}
    request = HttpRequest("POST", "https://keyed.example.com", headers)
    return [Call(request, (Part(message.recipients),))]


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    return [accepted(part, "id", Status.QUEUED) for part in call.parts]


KEYED = Esp("Keyed", (), frozenset({Feature.IDEMPOTENCY_KEY}), build, read)


def mailer(esp: Esp = KEYED, **options: Any) -> Mailer:
    return Mailer("default", esp, Settings({}), Answering(), **options)


def message(**fields: Any) -> Message:
    return Message("Hi", "you@example.com", "Text", sender="me@example.org", **fields)


def keys_sent(mailer: Mailer) -> list[str]:
    assert isinstance(mailer.transport, Answering)
    return [request.headers["Idempotency-Key"] for request in mailer.transport.requests]


def test_a_given_key_is_passed_on() -> None:
    """As it is."""
    keyed = mailer()
    deliver(keyed, message(idempotency_key="order-17"))
    assert keys_sent(keyed) == ["order-17"]


def test_each_send_gets_a_key_of_its_own_where_the_esp_takes_one() -> None:
    """Sending a message object twice is two messages, unless the user says otherwise."""
    keyed = mailer()
    twice = message()
    deliver(keyed, twice)
    deliver(keyed, twice)
    first, second = keys_sent(keyed)
    assert first != second
    assert len(first) == 32
    assert not twice.is_given("idempotency_key")


@pytest.mark.parametrize("esp", [postmark.esp, postal.esp], ids=lambda esp: esp.key)
def test_an_esp_without_keys_refuses_one_that_was_given(esp: Esp) -> None:
    """It would not protect from anything."""
    with pytest.raises(UnsupportedFeatureError, match="Idempotency key"):
        prepared_for(mailer(esp), message(idempotency_key="order-17"))


@pytest.mark.parametrize("esp", [postmark.esp, postal.esp], ids=lambda esp: esp.key)
def test_an_esp_without_keys_gets_none(esp: Esp) -> None:
    """Nothing is named as unsupported that nobody asked for."""
    assert prepared_for(mailer(esp), message()).idempotency_key is None


def test_a_key_can_be_left_out_with_the_other_unsupported_features() -> None:
    """IGNORE_UNSUPPORTED_FEATURES says so."""
    prepared = prepared_for(mailer(postmark.esp, ignore_unsupported=True), message(tags=["a"]))
    lenient = mailer(postmark.esp, ignore_unsupported=True)
    assert prepared_for(lenient, message(tags=["a"], idempotency_key="order-17")) == prepared


@pytest.mark.parametrize("key", ["", " ", "two words", "a\nb", "é", "k" * 256, 17, b"key", True])
def test_a_key_that_cannot_travel_in_a_header_is_refused(key: Any) -> None:
    """Printable ASCII, one word, at most 255 characters."""
    with pytest.raises(InvalidHeaderError, match="idempotency_key"):
        prepared_for(mailer(), message(idempotency_key=key))


def test_a_key_survives_json() -> None:
    """So that a queue's second try is recognised."""
    data = message(idempotency_key="order-17").to_dict()
    assert data["idempotency_key"] == "order-17"
    assert Message.from_dict(data).idempotency_key == "order-17"


def test_a_key_is_no_default() -> None:
    """All messages but the first would be duplicates."""
    with pytest.raises(ConfigurationError, match="idempotency_key"):
        send_defaults(Lookup({"MAILESP_SEND_DEFAULTS": {"idempotency_key": "k"}}), KEYED)


# --- from end to end, with Resend's simulator ------------------------------------------


class Resend(Simulator):
    """Resend, and the key that each request brought."""

    def __init__(self) -> None:
        super().__init__(auto=(), esps=["resend"])
        self.keys: list[str | None] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.keys.append(environ.get("HTTP_IDEMPOTENCY_KEY"))
        return super().__call__(environ, start_response)


@pytest.fixture
def resend() -> Iterator[Resend]:
    simulator = Resend()
    with simulator.running():
        yield simulator


def send(
    make_app: MakeApp, resend: Resend, messages: list[Message], *, many: bool, **config: Any
) -> list[SendResult]:
    """Send through Resend; return what became of each message."""
    mail = MailESP()
    own = {f"MAILESP_RESEND_{name}": value for name, value in resend.settings("resend").items()}
    with make_app(mail, MAILESP_ESP="resend", **own, **config).app_context():
        return list(mail.send_many(messages)) if many else [told(mail, one) for one in messages]


def told(mail: MailESP, message: Message) -> SendResult:
    """Send a message; return its result, be it in an error."""
    try:
        return mail.send(message)
    except SendUncertainError as error:
        return cast("SendResult", error.result)


RETRIES = {"attempts": 3, "first_pause": 0}
FAULTS = [{"drop": "after"}, {"reset": "after"}, {"answer": "garbage"}, {"status": 503}]
in_doubt = pytest.mark.parametrize("fault", FAULTS, ids=str)
both = pytest.mark.parametrize("many", [False, True], ids=["send", "send_many"])


@both
@in_doubt
@pytest.mark.parametrize("key", ["order-17", None], ids=["given", "made up"])
def test_doubt_is_resolved_by_asking_again_with_the_same_key(
    make_app: MakeApp, resend: Resend, fault: dict[str, Any], key: str | None, many: bool
) -> None:
    """Where retries are on: one mail, however often it was asked for."""
    fields = {} if key is None else {"idempotency_key": key}
    resend.fault(times=2, **fault)
    (result,) = send(make_app, resend, [message(**fields)], many=many, MAILESP_RETRIES=RETRIES)

    outcomes = [str(attempt.outcome) for attempt in result.attempts]
    assert outcomes == ["uncertain", "uncertain", "accepted"]
    (taken,) = resend.messages
    assert (result.outcome, result.message_id) == ("accepted", taken.id)
    assert resend.keys == [taken.idempotency_key] * 3
    assert key in (None, taken.idempotency_key)


@in_doubt
def test_a_batch_in_doubt_is_asked_for_again_as_it_is(
    make_app: MakeApp, resend: Resend, fault: dict[str, Any]
) -> None:
    """With one key for all of it: none of its messages goes out twice."""
    resend.fault(times=2, **fault)
    messages = [message() for _ in range(3)]
    results = send(make_app, resend, messages, many=True, MAILESP_RETRIES=RETRIES)

    assert [str(result.outcome) for result in results] == ["accepted"] * 3
    assert [result.message_id for result in results] == [taken.id for taken in resend.messages]
    assert (len(resend.keys), len(set(resend.keys))) == (3, 1)


@both
@in_doubt
def test_doubt_stays_where_retries_are_off(
    make_app: MakeApp, resend: Resend, fault: dict[str, Any], many: bool
) -> None:
    """Which they are by default."""
    resend.fault(times=2, **fault)
    (result,) = send(make_app, resend, [message()], many=many)

    assert (result.outcome, len(result.attempts), len(resend.keys)) == ("uncertain", 1, 1)
    assert len(resend.messages) == ("status" not in fault)
