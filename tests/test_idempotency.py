"""Idempotency keys: given, made up where the ESP takes one, refused where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from flask_mailesp import Message
from flask_mailesp.config import Lookup, send_defaults
from flask_mailesp.delivery import Mailer, deliver, prepared_for
from flask_mailesp.esp import Call, Esp, Feature, HttpRequest, HttpResponse, Part, Reading, Settings
from flask_mailesp.esps import postal, postmark
from flask_mailesp.exceptions import ConfigurationError, InvalidHeaderError, UnsupportedFeatureError
from flask_mailesp.message import PreparedMessage
from flask_mailesp.outcomes import accepted
from flask_mailesp.results import Status


class Answering:
    """A transport that has every request accepted, and remembers it."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        self.requests.append(request)
        return HttpResponse(200)

    def fetch(self, request: HttpRequest, **options: Any) -> HttpResponse:
        raise NotImplementedError  # only webhooks need it


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
