"""From calls to a result: chunks, partial results, order of errors, secrets, the log."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import pytest

from flask_mailesp import Message
from flask_mailesp.address import Address
from flask_mailesp.delivery import (
    Delivery,
    Mailer,
    deliver,
    first_error,
    merged,
    must_raise,
    outcome_of,
)
from flask_mailesp.esp import (
    Call,
    Esp,
    Feature,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Secret,
    Setting,
    Settings,
)
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    InvalidMessageError,
    MailESPError,
    NotSentError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
    SerializationError,
    UnsupportedFeatureError,
)
from flask_mailesp.exchange_log import outline
from flask_mailesp.message import PreparedMessage
from flask_mailesp.outcomes import accepted, failure, same_for_all
from flask_mailesp.results import Outcome, RecipientStatus, SendResult, Status
from flask_mailesp.testing import EspServer
from flask_mailesp.transport import Transport
from flask_mailesp.wire import Base64, Pieces

# --- an ESP as small as can be ---------------------------------------------------------
#
# One request for each recipient. The server answers "ok", "no" or nothing readable.

SECRET = "canary-83d1-key"


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    headers = {
        "Key": settings["KEY"],
        "Own": Secret("canary-own-token"),
        "Authorization": Secret("Basic canary-basic-token"),
    }
    for index, address in enumerate(message.recipients):
        if message.subject == f"unbuildable after {index}":
            raise SerializationError("cannot be sent as JSON")
        if message.subject == f"bug after {index}":
            raise KeyError(index)
        request = HttpRequest("POST", settings["API_URL"] + "/send", headers, b"body")
        yield Call(request, (Part((address,)),))


def read(call: Call, response: HttpResponse, settings: Settings) -> Sequence[Reading]:
    (part,) = call.parts
    if response.text == "ok":
        return [accepted(part, f"id-{part.recipients[0].username}", Status.QUEUED)]
    if response.text == "no":
        return [Reading((RecipientStatus(Status.REJECTED, None, "No."),))]
    if response.text == "bug":
        raise KeyError(response.text)
    if response.text == "miscounted":
        return []
    return [same_for_all(part, failure("Acme", response, message=response.text))]


ACME = Esp(
    "Acme",
    (Setting("KEY", secret=True), Setting("API_URL")),
    frozenset({Feature.NO_TO}),
    build,
    read,
)
PEOPLE = ["a@example.com", "b@example.com", "c@example.com"]
Make = Callable[..., Mailer]


@pytest.fixture
def answers() -> list[HttpResponse | str]:
    """What the server says, one after the other; then always "ok"."""
    return []


@pytest.fixture
def server(answers: list[HttpResponse | str]) -> Iterator[EspServer]:
    def answer(request: HttpRequest) -> HttpResponse:
        reply = answers.pop(0) if answers else "ok"
        return reply if isinstance(reply, HttpResponse) else HttpResponse(200, {}, reply.encode())

    with EspServer(answer) as running:
        yield running


@pytest.fixture
def make(server: EspServer) -> Iterator[Make]:
    """Make a mailer that sends to the server."""
    transport = Transport(connect_timeout=5, total_timeout=5)

    def mailer(**options: Any) -> Mailer:
        settings = Settings({"KEY": Secret(SECRET), "API_URL": server.url}, secret=["KEY"])
        return Mailer("default", ACME, settings, transport, **options)

    yield mailer
    transport.close()


def message(subject: str = "Hi", **fields: Any) -> Message:
    return Message(subject, fields.pop("to", PEOPLE), "Text", sender="me@example.org", **fields)


def statuses(result: SendResult) -> list[str]:
    return [str(entry.status) for entry in result.recipients.values()]


# --- several calls ---------------------------------------------------------------------


def test_every_call_adds_to_the_result(make: Make) -> None:
    """Ids by recipient, an attempt by call, the last response."""
    result = deliver(make(), message())
    assert (result.outcome, result.error, result.status) == ("accepted", None, {"queued"})
    assert result.message_id == {"id-a", "id-b", "id-c"}
    assert [attempt.recipients for attempt in result.attempts] == [1, 1, 1]
    assert all(attempt.status == 200 and attempt.error is None for attempt in result.attempts)
    assert all(attempt.duration >= 0 for attempt in result.attempts)
    assert all(
        attempt.started.tzinfo is timezone.utc and attempt.started <= datetime.now(timezone.utc)
        for attempt in result.attempts
    )
    assert result.response is not None
    assert result.response.body == b"ok"


REFUSAL = HttpResponse(422, {}, b"?")
SEQUENCES: dict[
    str, tuple[list[HttpResponse | str], list[str], str, type[MailESPError] | None, int]
] = {
    "a refusal goes on": (
        ["ok", REFUSAL, "ok"], ["queued", "failed", "queued"], "partial", None, 3,
    ),
    "a rejected recipient goes on": (
        ["no", "ok", "ok"], ["rejected", "queued", "queued"], "partial", None, 3,
    ),
    "uncertainty stops": (
        ["ok", "garbage"], ["queued", "unknown", "failed"], "uncertain", SendUncertainError, 2,
    ),
    "a rate limit stops": (
        ["ok", HttpResponse(429)], ["queued", "failed", "failed"], "partial", None, 2,
    ),
    "a wrong credential stops": (
        [HttpResponse(401)], ["failed"] * 3, "refused", AuthenticationError, 1,
    ),
    "all rejected": (["no"] * 3, ["rejected"] * 3, "refused", RecipientsRefusedError, 3),
    "all refused": ([REFUSAL] * 3, ["failed"] * 3, "refused", APIError, 3),
    "rejected and refused": (
        ["no", REFUSAL, "no"], ["rejected", "failed", "rejected"], "refused", APIError, 3,
    ),
    "a bug in the ESP's room": (
        ["ok", "bug"], ["queued", "unknown", "failed"], "uncertain", SendUncertainError, 2,
    ),
    "an answer read for others": (
        ["miscounted"], ["unknown", "failed", "failed"], "uncertain", SendUncertainError, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "expected", "outcome", "error", "requests"), SEQUENCES.values(), ids=SEQUENCES.keys()
)
def test_a_sequence_of_answers(
    make: Make,
    answers: list[HttpResponse | str],
    server: EspServer,
    said: list[HttpResponse | str],
    expected: list[str],
    outcome: str,
    error: type[MailESPError] | None,
    requests: int,
) -> None:
    """What is known of each recipient, and whether the next call was still worth making."""
    answers += said
    result = deliver(make(), message())
    assert statuses(result) == expected
    assert result.outcome == outcome
    assert type(result.error) is (error or type(None))
    assert (len(server.requests), len(result.attempts)) == (requests, requests)
    if result.error is not None:
        assert (result.error.result, result.error.esp_name) == (result, "Acme")


def test_a_recipient_that_was_not_tried_says_so(make: Make, answers: list[Any]) -> None:
    """It is certainly not sent, and why is in its description."""
    answers.append(HttpResponse(401))
    result = deliver(make(), message())
    assert "Not tried" in result.recipients["c@example.com"].description


def test_attempts_have_errors_of_their_own(make: Make, answers: list[Any]) -> None:
    """A partial result raises nothing; what went wrong is still there."""
    answers += ["ok", HttpResponse(429)]
    result = deliver(make(), message())
    assert [str(attempt.outcome) for attempt in result.attempts] == ["accepted", "refused"]
    assert isinstance(result.attempts[1].error, RateLimitedError)
    assert result.error is None


def test_no_server_is_not_sent(make: Make, server: EspServer) -> None:
    """The first call fails, the others are not tried."""
    mailer = make()
    settings = Settings({"KEY": "k", "API_URL": "http://127.0.0.1:1"})
    result = deliver(Mailer("default", ACME, settings, mailer.transport), message())
    assert (result.outcome, statuses(result)) == ("not_sent", ["failed"] * 3)
    assert isinstance(result.error, NotSentError)
    assert result.error.esp_name == "Acme"
    assert result.response is None
    assert [attempt.status for attempt in result.attempts] == [None]
    assert server.requests == []


def test_every_error_has_the_name_of_its_esp(make: Make) -> None:
    """Those of attempts too, which are never raised."""
    call = Call(HttpRequest("POST", "http://127.0.0.1:1"), (Part((Address("a@example.com"),)),))
    delivery = Delivery(make())
    delivery.exchange(call)
    (attempt,) = delivery.attempts
    assert isinstance(attempt.error, NotSentError)
    assert attempt.error.esp_name == "Acme"


def test_an_unbuildable_message_raises_while_nothing_is_sent(make: Make, server: EspServer) -> None:
    """It carries the ESP's name, and there is no result."""
    with pytest.raises(SerializationError) as caught:
        deliver(make(), message("unbuildable after 0"))
    assert (caught.value.esp_name, caught.value.result) == ("Acme", None)
    assert server.connections == 0


def test_an_unbuildable_later_call_loses_no_id(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """*Nothing was sent* would be a lie by then."""
    result = deliver(make(), message("unbuildable after 2"))
    assert statuses(result) == ["queued", "queued", "failed"]
    assert result.outcome == "partial"
    assert "could not be built" in caplog.text


def test_a_bug_in_building_a_later_call_loses_no_id(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the first request it is a bug like any other; afterwards ids matter more."""
    with pytest.raises(KeyError):
        deliver(make(), message("bug after 0"))
    result = deliver(make(), message("bug after 2"))
    assert statuses(result) == ["queued", "queued", "failed"]
    assert result.outcome == "partial"
    assert "could not be built" in caplog.text


def test_a_message_that_was_never_tried_is_not_sent(make: Make) -> None:
    """One of many after a failure: nobody refused it."""
    result = Delivery(make()).result([Address("a@example.com")])
    assert (result.outcome, statuses(result)) == ("not_sent", ["failed"])
    assert isinstance(result.error, NotSentError)


def test_an_error_about_several_messages_has_each_ones_result(make: Make) -> None:
    """One request for many messages may fail; each result is its own."""
    error = NotSentError("gone")
    results = []
    for name in PEOPLE[:2]:
        delivery = Delivery(make())
        part = Part((Address(name),))
        delivery.note(part, same_for_all(part, error))
        results.append(delivery.result(part.recipients))
    for name, result in zip(PEOPLE, results, strict=False):
        assert isinstance(result.error, NotSentError)
        assert result.error.result is result
        assert list(result.recipients) == [name]
        assert str(result.error) == "gone"


# --- what is known of several copies ---------------------------------------------------

SENT, FAILED = RecipientStatus(Status.SENT, "1"), RecipientStatus(Status.FAILED, None, "why")
UNKNOWN = RecipientStatus(Status.UNKNOWN)
MERGES = [
    (SENT, RecipientStatus(Status.SENT, "2"), "sent", {"1", "2"}),
    (SENT, SENT, "sent", "1"),
    (SENT, FAILED, "sent", "1"),
    (FAILED, SENT, "sent", "1"),
    (SENT, UNKNOWN, "unknown", "1"),
    (UNKNOWN, FAILED, "unknown", None),
    (FAILED, FAILED, "failed", None),
    (RecipientStatus(Status.SENT, frozenset({"1", "2"})), SENT, "sent", {"1", "2"}),
]


@pytest.mark.parametrize(("one", "other", "status", "message_id"), MERGES)
def test_two_copies_to_one_recipient_lose_no_id(
    one: RecipientStatus, other: RecipientStatus, status: str, message_id: Any
) -> None:
    """Doubt about one copy is doubt about the recipient; else one that was taken counts."""
    both = merged(one, other)
    assert both.status == status
    assert both.message_id == message_id


# --- outcome and error -----------------------------------------------------------------

OUTCOMES: list[tuple[list[Status], list[MailESPError], str]] = [
    ([Status.SENT, Status.QUEUED], [], "accepted"),
    ([Status.SENT, Status.REJECTED], [], "partial"),
    ([Status.SENT, Status.FAILED], [NotSentError()], "partial"),
    ([Status.SENT, Status.UNKNOWN], [], "uncertain"),
    ([Status.FAILED, Status.UNKNOWN], [NotSentError()], "uncertain"),
    ([Status.FAILED], [NotSentError()], "not_sent"),
    ([Status.FAILED], [APIError()], "refused"),
    ([Status.INVALID, Status.REJECTED], [], "refused"),
]


@pytest.mark.parametrize(("words", "errors", "expected"), OUTCOMES)
def test_statuses_sum_up_to_an_outcome(
    words: list[Status], errors: list[MailESPError], expected: str
) -> None:
    """The worst doubt first, then acceptance, then why nothing went out."""
    assert outcome_of(map(RecipientStatus, words), errors) == expected


def test_the_error_that_says_most_is_raised() -> None:
    """Uncertainty, then what was not sent, the credential, the rate; recipients last."""
    ranked: list[MailESPError] = [
        SendUncertainError(),
        NotSentError(),
        AuthenticationError(),
        RateLimitedError(),
        APIError(),
        RecipientsRefusedError(),
    ]
    while ranked:
        assert first_error(list(reversed(ranked))) is ranked[0]
        ranked.pop(0)
    assert first_error([]) is None


def test_an_answer_may_leave_a_recipient_unknown_without_an_error(make: Make) -> None:
    """Silence about a recipient is uncertain as well, and has an error that says so."""
    delivery = Delivery(make())
    part = Part((Address("a@example.com"),))
    delivery.note(part, Reading((RecipientStatus(Status.UNKNOWN),)))
    result = delivery.result(part.recipients)
    assert result.outcome == "uncertain"
    assert isinstance(result.error, SendUncertainError)


def test_refused_recipients_need_not_raise(make: Make, answers: list[Any]) -> None:
    """IGNORE_RECIPIENT_STATUS is for that error alone."""
    answers += ["no"] * 3
    result = deliver(make(), message())
    assert must_raise(make(), result)
    assert not must_raise(make(ignore_recipient_status=True), result)
    answers.append(HttpResponse(401))
    assert must_raise(make(ignore_recipient_status=True), deliver(make(), message()))
    assert not must_raise(make(), deliver(make(), message()))


# --- features --------------------------------------------------------------------------


def test_undeclared_features_are_all_named(make: Make, server: EspServer) -> None:
    """Whoever changes the message needs to know every one."""
    with pytest.raises(UnsupportedFeatureError) as caught:
        deliver(make(), message(tags=["t"], track_opens=True))
    assert str(caught.value) == "Acme cannot express: Tag, Open tracking per message."
    assert server.connections == 0


def test_undeclared_features_can_be_left_out_with_a_warning(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each."""
    result = deliver(make(ignore_unsupported=True), message(tags=["t"], track_opens=True))
    assert result.outcome == "accepted"
    assert [record.getMessage() for record in caplog.records] == [
        "Acme cannot express 'Tag'; left out.",
        "Acme cannot express 'Open tracking per message'; left out.",
    ]


def test_what_makes_another_message_is_refused_even_then(make: Make) -> None:
    """An address cannot be left out."""
    with pytest.raises(UnsupportedFeatureError, match="SMTPUTF8"):
        deliver(make(ignore_unsupported=True), message(to=["jörg@example.com"]))


# --- secrets and the log ---------------------------------------------------------------


@pytest.mark.parametrize("canary", [SECRET, "canary-own-token", "canary-basic-token"])
def test_an_echoed_credential_is_blotted_out(make: Make, answers: list[Any], canary: str) -> None:
    """Those of the settings, and those of one message only, in body and headers."""
    said = f"Your key {canary} is bad, {canary}!"
    answers.append(HttpResponse(422, {"X-Echo": f"<{canary}>", "X-Other": "kept"}, said.encode()))
    result = deliver(make(), message(to="a@example.com"))
    assert isinstance(result.error, APIError)
    assert result.error.message == "Your key *** is bad, ***!"
    assert result.response is not None
    assert result.response.body == b"Your key *** is bad, ***!"
    assert result.response.headers["x-echo"] == "<***>"
    assert result.response.headers["x-other"] == "kept"
    assert canary.encode() not in pickle.dumps(result.error)


def test_the_log_of_exchanges_has_sizes_and_counts_only(
    make: Make, answers: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """No credential, address or content; an exchange without an answer included."""
    answers.append(HttpResponse(422, {}, b"a@example.com"))
    with caplog.at_level(logging.INFO, "flask_mailesp"):
        deliver(make(log_exchanges=True), message("Secret plans", to="a@example.com"))
        settings = Settings({"KEY": SECRET, "API_URL": "http://127.0.0.1:1/canary-path"})
        mailer = Mailer("m", ACME, settings, make().transport, log_exchanges=True)
        deliver(mailer, message(to="a@example.com"))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Acme: POST /send, 4 bytes for 1 recipients: 422 in ")
    assert second.startswith("Acme: POST /canary-path/send, 4 bytes for 1 recipients: no answer")
    for text in ("a@example.com", SECRET, "Secret plans", "canary-own-token"):
        assert text not in caplog.text


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"From": "a@example.com", "To": "b@example.com"}', "{From, To}"),
        (b'[{"To": "a@example.com"}, {"To": "b@example.com"}]', "[2 × {To}]"),
        (b'{"a@example.com": {"id": 1}, "***": 2}', "{…, …}"),
        (b"a@example.com", "no object"),
        (b"[]", "no object"),
        (Pieces([Base64(b"secret")]), "8 bytes"),
    ],
)
def test_of_a_body_the_log_shows_the_names_of_fields_only(body: Any, shown: str) -> None:
    """Not even those, where they might be addresses."""
    assert outline(body) == shown


def test_fields_are_logged_at_debug(
    make: Make, answers: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Names of what went out and came back, to find out what an ESP did not understand."""
    answers.append(HttpResponse(422, {}, b'{"error": "a@example.com"}'))
    with caplog.at_level(logging.DEBUG, "flask_mailesp"):
        deliver(make(log_exchanges=True), message("Secret plans", to="a@example.com"))

    assert caplog.records[1].getMessage() == "Acme: sent no object; got {error}"
    assert "a@example.com" not in caplog.text


def test_exchanges_are_logged_only_on_request(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """DEBUG_API_REQUESTS is off by default."""
    with caplog.at_level(logging.DEBUG, "flask_mailesp"):
        deliver(make(), message())
    assert caplog.records == []


def test_a_mailer_shows_no_credential(make: Make) -> None:
    """Nor does it show defaults, which may be addresses."""
    shown = repr(make(defaults={"sender": "me@example.org"}))
    assert SECRET not in shown
    assert "example.org" not in shown


def test_invalid_messages_raise_before_anything(make: Make, server: EspServer) -> None:
    """Each with the ESP's name."""
    with pytest.raises(InvalidMessageError) as caught:
        deliver(make(), message("a\r\nb"))
    assert caught.value.esp_name == "Acme"
    assert server.connections == 0


def test_outcome_words_are_those_of_the_documentation() -> None:
    """Apps compare them with plain text."""
    assert {str(item) for item in Outcome} == {
        "accepted",
        "partial",
        "refused",
        "not_sent",
        "uncertain",
        "cancelled",
    }
