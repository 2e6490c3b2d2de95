"""Retries: only where asking twice cannot deliver twice, and never for long."""

from __future__ import annotations

import json
import pickle
from datetime import datetime
from typing import Any

import pytest
from acme import (
    BATCHING,
    KEYED,
    A,
    Answer,
    B,
    C,
    Sleeps,
    gone,
    lost,
    mailer,
    message,
    retrying,
    send_many,
    words,
)
from flask import Flask
from scripted import Reply, scripted

from flask_mailesp import MailESP, Message
from flask_mailesp.config import Lookup
from flask_mailesp.delivery import addressed_to, deliver, prepared_for
from flask_mailesp.esp import Esp, HttpRequest, HttpResponse, Settings
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    MailESPError,
    NotSentError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
)
from flask_mailesp.outcomes import retry_after
from flask_mailesp.policies import retries
from flask_mailesp.records import replace
from flask_mailesp.retries import Retries, may_repeat, patient
from flask_mailesp.transport import Transport

LASTING = NotSentError("certificate")
LASTING.may_pass = False
REFUSED = HttpResponse(422)
SLOW = HttpResponse(429)

REPEATABLE: list[tuple[MailESPError, bool, bool]] = [
    (NotSentError(), True, True),
    (LASTING, False, False),
    (RateLimitedError(), True, True),
    (SendUncertainError(), False, True),
    (APIError(), False, False),
    (AuthenticationError(), False, False),
    (RecipientsRefusedError(), False, False),
]


@pytest.mark.parametrize(("error", "plain", "keyed"), REPEATABLE)
def test_what_may_be_tried_again(error: MailESPError, plain: bool, keyed: bool) -> None:
    """The outcome table; doubt only with a key."""
    assert may_repeat(error, keyed=False) is plain
    assert may_repeat(error, keyed=True) is keyed


# --- one request -----------------------------------------------------------------------

SEQUENCES: dict[str, tuple[list[Answer], str, int]] = {
    "not sent, then taken": ([gone()], "accepted", 2),
    "limited, then taken": ([SLOW], "accepted", 2),
    "taken by the third": ([gone(), SLOW], "accepted", 3),
    "three failures": ([gone(), gone(), gone()], "not_sent", 3),
    "three limits": ([SLOW, SLOW, SLOW], "refused", 3),
    "not sent, then refused": ([gone(), REFUSED], "refused", 2),
    "refused": ([REFUSED], "refused", 1),
    "a wrong credential": ([HttpResponse(401)], "refused", 1),
    "uncertain": ([lost()], "uncertain", 1),
    "bare 5xx": ([HttpResponse(503)], "uncertain", 1),
    "not sent, then uncertain": ([gone(), lost()], "uncertain", 2),
    "a certificate that is not trusted": ([LASTING], "not_sent", 1),
    "a rejected recipient": ([{A: "no"}], "refused", 1),
}


@pytest.mark.parametrize(
    ("answers", "outcome", "requests"), SEQUENCES.values(), ids=SEQUENCES.keys()
)
def test_a_sequence_of_answers(answers: list[Answer], outcome: str, requests: int) -> None:
    """The outcome is the last attempt's, and each attempt is in the result, with its time."""
    sleeps = Sleeps()
    acme, transport = mailer(*answers, retries=retrying(sleeps))
    result = deliver(acme, message())
    assert result.outcome == outcome
    assert (result.error is None) is (outcome == "accepted")
    assert len(transport.requests) == len(result.attempts) == requests == len(sleeps) + 1
    starts = [attempt.started for attempt in result.attempts]
    assert starts == sorted(starts)
    assert all(attempt.duration >= 0 for attempt in result.attempts)


def test_without_retries_nothing_is_tried_again() -> None:
    """A mailer of its own, without a configuration, has none."""
    acme, transport = mailer(gone())
    assert deliver(acme, message()).outcome == "not_sent"
    assert len(transport.requests) == 1


def test_the_error_of_an_attempt_that_was_made_up_for_is_not_the_results() -> None:
    """It is that attempt's, for whoever wants to know."""
    acme, _ = mailer(gone(), REFUSED, retries=retrying(Sleeps()))
    result = deliver(acme, message())
    assert type(result.error) is APIError
    assert isinstance(result.attempts[0].error, NotSentError)


# --- doubt -----------------------------------------------------------------------------

WITH_KEY: dict[str, tuple[list[Answer], str, int]] = {
    "then taken": ([lost()], "accepted", 2),
    "then limited, then taken": ([lost(), SLOW], "accepted", 3),
    "then refused": ([lost(), REFUSED], "uncertain", 2),
    "then not sent": ([lost(), gone(), gone()], "uncertain", 3),
    "for good": ([lost(), lost(), lost()], "uncertain", 3),
    "at last": ([gone(), gone(), lost()], "uncertain", 3),
}


@pytest.mark.parametrize(("answers", "outcome", "requests"), WITH_KEY.values(), ids=WITH_KEY.keys())
def test_doubt_ends_only_with_an_acceptance(
    answers: list[Answer], outcome: str, requests: int
) -> None:
    """A later failure tells nothing about the first attempt. The key is always the same."""
    keyed, transport = mailer(*answers, esp=KEYED, retries=retrying(Sleeps()))
    assert deliver(keyed, message()).outcome == outcome
    assert len(transport.requests) == requests
    assert len({request.body for request in transport.requests}) == 1
    assert transport.sent[0][0]["key"]


def test_what_a_later_attempt_makes_certain_is_certain() -> None:
    """Of several recipients, too: no id is lost."""
    keyed, _ = mailer(lost(), {B: "bad"}, esp=KEYED, retries=retrying(Sleeps()))
    result = deliver(keyed, message(A, B))
    assert (words(result), result.message_id) == (["queued", "unknown"], "id-a")


# --- signing ---------------------------------------------------------------------------


def signing(*trouble: Exception | None) -> tuple[Esp, list[datetime]]:
    """Return an ESP whose requests are signed, with trouble in turn, and when they were."""
    times: list[datetime] = []

    def sign(request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
        times.append(now)
        error = trouble[len(times) - 1] if len(times) <= len(trouble) else None
        if error is not None:
            raise error
        return replace(request, headers={**request.headers, "X-Signature": now.isoformat()})

    return replace(KEYED, sign=sign), times


def test_each_attempt_is_signed_anew() -> None:
    """A signature holds the time, and is good for some minutes."""
    esp, times = signing()
    acme, transport = mailer(gone(), SLOW, esp=esp, retries=retrying(Sleeps()))
    result = deliver(acme, message())
    assert [attempt.started for attempt in result.attempts] == times
    headers = [request.headers for request in transport.requests]
    assert headers == [{"X-Signature": now.isoformat()} for now in times]


def test_a_request_that_cannot_be_signed_now_was_not_sent() -> None:
    """Such as while a role's credentials cannot be renewed; it may be, at the next attempt."""
    esp, _ = signing(NotSentError("No credentials."))
    acme, transport = mailer(esp=esp)
    result = deliver(acme, message())
    assert (result.outcome, result.esp_name) == ("not_sent", "Keyed")
    assert isinstance(result.error, NotSentError)
    assert (len(result.attempts), transport.requests) == (1, [])
    esp, _ = signing(NotSentError("No credentials."))
    acme, transport = mailer(esp=esp, retries=retrying(Sleeps()))
    assert deliver(acme, message()).outcome == "accepted"


def test_what_keeps_a_request_from_being_made_again_does_not_hide_the_first() -> None:
    """It is in doubt as before."""
    esp, _ = signing(None, ConfigurationError("No key."))
    acme, _ = mailer(lost(), esp=esp, retries=retrying(Sleeps()))
    result = deliver(acme, message())
    assert (result.outcome, len(result.attempts)) == ("uncertain", 1)


# --- part of a message, part of a batch ------------------------------------------------


def test_only_the_recipients_that_were_not_accepted_are_tried_again() -> None:
    """Neither those that have it nor those the ESP has judged."""
    acme, transport = mailer({B: "slow", C: "no"}, retries=retrying(Sleeps()))
    result = deliver(acme, message(A, B, C))
    assert transport.recipients == [[A, B, C], [B]]
    assert (words(result), result.outcome) == (["queued", "queued", "rejected"], "partial")
    assert [attempt.recipients for attempt in result.attempts] == [3, 1]


def test_a_recipient_that_stays_limited_is_given_up() -> None:
    """After as many attempts as a whole request gets."""
    acme, transport = mailer(*[{B: "slow"}] * 9, retries=retrying(Sleeps()))
    result = deliver(acme, message(A, B))
    assert transport.recipients == [[A, B], [B], [B]]
    assert (words(result), result.outcome) == (["queued", "failed"], "partial")


def test_a_narrowed_message_has_another_key_and_always_the_same() -> None:
    """With the first one's key, the ESP would answer as it did then."""
    keyed, transport = mailer(*[{B: "slow"}] * 2, esp=KEYED, retries=retrying(Sleeps()))
    deliver(keyed, message(A, B, idempotency_key="order-17"))
    first, second, third = (sent[0]["key"] for sent in transport.sent)
    assert first == "order-17" != second
    assert second == third


def test_every_copy_of_a_batch_keeps_its_cc() -> None:
    """Whoever is tried again gets the message as it was meant."""
    prepared = prepared_for(mailer()[0], message(A, B, cc=C))
    batch = addressed_to(type(prepared)(**{**vars(prepared), "is_batch": True}), {B.lower()})
    assert batch is not None
    assert [item.addr_spec for item in batch.recipients] == [B, C]
    narrowed = addressed_to(prepared, {A, C})
    assert narrowed is not None
    assert [item.addr_spec for item in narrowed.recipients] == [A, C]
    assert addressed_to(prepared, set()) is None


def test_of_many_messages_only_the_ones_not_accepted_are_tried_again() -> None:
    """In one more batch."""
    acme, transport = mailer(
        {B: "slow", C: "bad"}, esp=BATCHING, retries=retrying(Sleeps(), max_wait=60.0)
    )
    results = list(send_many(acme, map(message, [A, B, C]), 8))
    assert transport.recipients == [[A, B, C], [B]]
    assert [str(result.outcome) for result in results] == ["accepted", "accepted", "refused"]
    assert [len(result.attempts) for result in results] == [1, 2, 1]


def test_a_batch_that_was_not_sent_is_tried_again_as_it_is() -> None:
    """Each of its messages tells of every attempt."""
    acme, transport = mailer(gone(), esp=BATCHING, retries=retrying(Sleeps()))
    results = list(send_many(acme, map(message, [A, B]), 8))
    assert transport.recipients == [[A, B], [A, B]]
    assert [result.outcome for result in results] == ["accepted", "accepted"]
    assert [len(result.attempts) for result in results] == [2, 2]


# --- waiting ---------------------------------------------------------------------------


def test_pauses_double_with_jitter_up_to_the_longest() -> None:
    """Clients that failed together do not come back together."""
    policy = Retries(attempts=9, first_pause=0.25, max_wait=1.0)
    for attempt, whole in enumerate([0.25, 0.5, 1.0, 2.0, 4.0], 1):
        pauses = {policy.pause(gone(), attempt, keyed=False) for _ in range(50)}
        assert len(pauses) > 1 or whole > 1.0
        for pause in pauses:
            assert pause is not None
            assert min(whole / 2, 1.0) <= pause <= min(whole, 1.0)


ASKED: list[tuple[str | None, float | None]] = [
    ("0", 0.0),
    ("1", 1.0),
    ("0.5", 0.5),
    ("-3", 0.0),
    ("soon", 0.0),
    ("", 0.0),
    (None, 0.0),
    ("2", None),
    ("1000000000", None),
    ("Fri, 31 Dec 2100 23:59:59 GMT", None),
    ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
]


@pytest.mark.parametrize(("value", "least"), ASKED)
def test_retry_after_is_honoured_if_it_is_short(value: str | None, least: float | None) -> None:
    """Who would have to wait longer than max_wait is told so at once."""
    headers = {} if value is None else {"retry-after": value}
    error = RateLimitedError(retry_after=retry_after(HttpResponse(429, headers)))
    pause = Retries(attempts=3, max_wait=1.0).pause(error, 1, keyed=False)
    if least is None:
        assert pause is None
    else:
        assert pause is not None
        assert least <= pause <= 1.0


def test_a_long_retry_after_is_for_the_caller_to_keep() -> None:
    """Nothing has waited, nothing was tried again."""
    sleeps = Sleeps()
    acme, _ = mailer(HttpResponse(429, {"retry-after": "17"}), retries=retrying(sleeps))
    error = deliver(acme, message()).error
    assert isinstance(error, RateLimitedError)
    assert (error.retry_after, sleeps) == (17.0, [])


def test_many_messages_may_wait_longer() -> None:
    """Nobody waits for them at a browser."""
    sleeps = Sleeps()
    acme, _ = mailer(HttpResponse(429, {"retry-after": "17"}), retries=retrying(sleeps))
    [result] = send_many(acme, [message()], 1)
    assert (result.outcome, sleeps) == ("accepted", [17.0])
    assert patient(Retries(max_wait=90.0)).max_wait == 90.0


def test_no_attempt_outlives_the_deadline() -> None:
    """It gets what is left of it; if nothing is left there is none."""
    acme, transport = mailer(gone(), gone(), retries=retrying(Sleeps(), deadline=5.0))
    deliver(acme, message())
    first, second, _ = transport.within
    assert first is None
    assert second is not None
    assert 0 < second <= 5
    acme, transport = mailer(gone(), retries=retrying(Sleeps(), deadline=0.0))
    assert deliver(acme, message()).outcome == "not_sent"
    assert len(transport.requests) == 1


def test_the_transport_keeps_the_shorter_time_out() -> None:
    """An unreachable address would take 30 seconds."""
    transport = Transport()
    with scripted(*[Reply(200, b"ok")]) as server:
        assert transport.send(HttpRequest("POST", server.url), 5.0).body == b"ok"
        with pytest.raises(NotSentError, match="no connection within"):
            transport.send(HttpRequest("POST", server.url.replace("http", "https")), 1e-9)
    transport.close()


# --- what is not mended by waiting -----------------------------------------------------


def test_an_impossible_request_stays_impossible() -> None:
    """The error says so, also after pickling."""
    transport = Transport()
    with pytest.raises(NotSentError) as caught:
        transport.send(HttpRequest("POST", "ftp://example.com"))
    assert caught.value.may_pass is False
    assert pickle.loads(pickle.dumps(caught.value)).may_pass is False
    transport.close()
    assert NotSentError("x").may_pass


# --- configuration ---------------------------------------------------------------------

CONFIGURED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"attempts": 1, "max_wait": 1.0, "deadline": 30.0}),
    ({"MAILESP_REQUESTS_TIMEOUT": (3, 12)}, {"deadline": 12.0}),
    ({"MAILESP_RETRIES": 5}, {"attempts": 6}),
    ({"MAILESP_RETRIES": 0}, {"attempts": 1}),
    ({"MAILESP_RETRIES": False}, {"attempts": 1}),
    ({"MAILESP_RETRIES": True}, {"attempts": 3}),
    ({"MAILESP_RETRIES": "off"}, {"attempts": 1}),
    ({"MAILESP_RETRIES": {"attempts": 4, "deadline": 9}}, {"attempts": 4, "deadline": 9.0}),
    ({"MAILESP_RETRIES": "2"}, {"attempts": 3}),
    ({"MAILESP_RETRIES": {}}, {"attempts": 3}),
    ({"MAILESP_MAX_WAIT": 0.5}, {"attempts": 1, "max_wait": 0.5}),
    ({"MAILESP_MAX_WAIT": 0.5, "MAILESP_RETRIES": {"max_wait": 3}}, {"max_wait": 3.0}),
]


@pytest.mark.parametrize(("config", "expected"), CONFIGURED)
def test_the_configuration_of_retries(config: dict[str, Any], expected: dict[str, Any]) -> None:
    """Off, on, a number, or each thing by its name."""
    policy = retries(Lookup(config))
    assert {name: getattr(policy, name) for name in expected} == expected


@pytest.mark.parametrize(
    "value",
    [-1, 10, "often", 2.5, {"attempts": 0}, {"attempts": True}, {"tries": 3}, {"max_wait": -1}],
)
def test_a_configuration_that_means_nothing_is_refused(value: Any) -> None:
    """By the name of the key."""
    with pytest.raises(ConfigurationError, match="MAILESP_RETRIES"):
        retries(Lookup({"MAILESP_RETRIES": value}))


def test_each_mailer_has_its_own() -> None:
    """Sent over real connections: one is patient, the other is not."""
    with scripted(
        Reply(429), Reply(429), Reply(200, json.dumps({"ErrorCode": 0, "MessageID": "1"}).encode())
    ) as server:
        app = Flask("tests")
        app.config.update(
            MAILESP_ESP="postmark",
            MAILESP_POSTMARK_SERVER_TOKEN="token",
            MAILESP_POSTMARK_API_URL=server.url,
            MAILESP_RETRIES={"first_pause": 0.001},
            MAILESP_MAILERS={"once": {"esp": "postmark", "retries": False}},
        )
        mail = MailESP(app)
        mailing = Message("Hi", A, "Text", sender="me@example.org")
        with app.app_context():
            with pytest.raises(RateLimitedError):
                mail.using("once").send(mailing)
            assert len(server.requests) == 1
            assert len(mail.send(mailing).attempts) == 2
        app.extensions["mailesp"].transport.close()
