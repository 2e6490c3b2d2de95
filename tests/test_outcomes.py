"""From an HTTP answer to an error: shared by every ESP's ``read``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_mailesp.address import Address
from flask_mailesp.esp import Call, HttpRequest, HttpResponse, Part
from flask_mailesp.exceptions import (
    APIError,
    AuthenticationError,
    MailESPError,
    NotSentError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
)
from flask_mailesp.outcomes import (
    accepted,
    failure,
    recipients_refused,
    retry_after,
    same_for_all,
    unreadable,
    whole_call,
)
from flask_mailesp.results import RecipientStatus, Status

A, B = Address("a@example.com"), Address("b@example.com")
BOTH = Part((A, B))

# --- the class of error ----------------------------------------------------------------

BY_STATUS: dict[int, type[MailESPError]] = {
    200: SendUncertainError,
    204: SendUncertainError,
    301: APIError,
    400: APIError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: APIError,
    429: RateLimitedError,
    499: APIError,
    500: SendUncertainError,
    503: SendUncertainError,
    599: SendUncertainError,
}


@pytest.mark.parametrize(("status", "expected"), BY_STATUS.items())
def test_the_status_tells_what_a_failure_means(status: int, expected: type[MailESPError]) -> None:
    """Where the ESP's own code does not say more."""
    error = failure("Acme", HttpResponse(status))
    assert type(error) is expected
    assert error.esp_name == "Acme"
    assert getattr(error, "status", None) == status
    assert f"Acme answered HTTP {status}." in str(error)


def test_the_esps_own_code_can_tell_more() -> None:
    """A kind given by the ESP's room wins over the status."""
    error = failure("Acme", HttpResponse(503), kind=RateLimitedError, code="100", hint="Wait.")
    assert type(error) is RateLimitedError
    assert str(error) == "Acme answered HTTP 503, code 100. Wait."


def test_a_redirect_names_the_setting_to_check() -> None:
    """It is nearly always a wrong URL."""
    assert "API_URL" in str(failure("Acme", HttpResponse(302, {"location": "https://x.example"})))


def test_an_uncertain_failure_says_so() -> None:
    """The person who reads the log must not just send again."""
    text = "The message may or may not have been taken."
    assert text in str(failure("Acme", HttpResponse(500)))
    assert text in str(unreadable("Acme", HttpResponse(200)))


def test_what_the_esp_said_is_kept_apart_from_the_text() -> None:
    """It may quote addresses; the text points to it where there is no better advice."""
    error = failure("Acme", HttpResponse(422), code="7", message="No a@example.com")
    assert isinstance(error, APIError)
    assert (error.code, error.message, error.status) == ("7", "No a@example.com", 422)
    assert "a@example.com" not in str(error) + repr(error)
    assert "error.message" in str(error)


@pytest.mark.parametrize("code", ["", "a b", "a@example.com", "x\r\ny", "7" * 61])
def test_a_code_that_is_none_stays_out_of_the_text(code: str) -> None:
    """It goes into logs: no address, line break or flood can come with it."""
    error = failure("Acme", HttpResponse(422), code=code)
    assert str(error) == "Acme answered HTTP 422."
    assert isinstance(error, APIError)
    assert error.code == code


@pytest.mark.parametrize("status", [200, 422, 429, 500])
def test_the_exchanges_id_is_kept(status: int) -> None:
    """It is what the ESP's support asks for."""
    response = HttpResponse(status, {"x-request-id": "r-1"})
    assert failure("Acme", response).request_id == "r-1"
    assert unreadable("Acme", response).request_id == "r-1"
    assert failure("Acme", HttpResponse(status)).request_id is None


# --- Retry-After -----------------------------------------------------------------------

NOW = datetime.now(timezone.utc)
DATE = "Sat, 21 Nov 2026 10:00:00 GMT"
RETRY_AFTER: dict[str, tuple[dict[str, str], float | None]] = {
    "seconds": ({"retry-after": "17"}, 17.0),
    "a fraction": ({"retry-after": " 1.5 "}, 1.5),
    "zero": ({"retry-after": "0"}, 0.0),
    "negative": ({"retry-after": "-5"}, 0.0),
    "twice negative": ({"retry-after": "--5"}, None),
    "too long": ({"retry-after": "1000000000"}, 86_400.0),
    "too long, written short": ({"retry-after": "1e9"}, 86_400.0),
    "infinite": ({"retry-after": "inf"}, None),
    "not a number": ({"retry-after": "nan"}, None),
    "nonsense": ({"retry-after": "soon"}, None),
    "empty": ({"retry-after": ""}, None),
    "missing": ({}, None),
    "a date, by the server's clock": (
        {"retry-after": "Sat, 21 Nov 2026 10:01:30 GMT", "date": DATE},
        90.0,
    ),
    "a date in the past": ({"retry-after": DATE, "date": "Sat, 21 Nov 2026 10:01:30 GMT"}, 0.0),
    "a date without a zone": (
        {"retry-after": "Sat, 21 Nov 2026 10:01:30 -0000", "date": DATE},
        90.0,
    ),
    "an impossible date": ({"retry-after": "Sat, 99 Nov 2026 10:01:30 GMT", "date": DATE}, None),
    "a date, by a broken clock": (
        {"retry-after": format_datetime(NOW + timedelta(days=9)), "date": "?"},
        86_400.0,
    ),
}


@pytest.mark.parametrize(("headers", "expected"), RETRY_AFTER.values(), ids=RETRY_AFTER.keys())
def test_retry_after_is_seconds_from_0_to_a_day(
    headers: dict[str, str], expected: float | None
) -> None:
    """Both forms of RFC 9110 section 10.2.3; what is neither is None."""
    response = HttpResponse(429, headers)
    assert retry_after(response) == expected
    error = failure("Acme", response)
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == expected


@given(st.text(max_size=60), st.text(max_size=60))
@example("Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 2024 00:00:00 +99999999", "")
def test_retry_after_never_raises(value: str, date: str) -> None:
    """Whatever a proxy writes there, the result of the send must not be lost over it."""
    seconds = retry_after(HttpResponse(429, {"retry-after": value, "date": date}))
    assert seconds is None or 0 <= seconds <= 86_400


# --- readings --------------------------------------------------------------------------

FATES: list[tuple[MailESPError, Status]] = [
    (SendUncertainError("?"), Status.UNKNOWN),
    (NotSentError("?"), Status.FAILED),
    (APIError("?"), Status.FAILED),
    (RateLimitedError("?"), Status.FAILED),
]


@pytest.mark.parametrize(("error", "expected"), FATES)
def test_an_error_for_all_tells_each_recipients_status(
    error: MailESPError, expected: Status
) -> None:
    """Only an uncertain one leaves a recipient unknown."""
    reading = same_for_all(BOTH, error)
    assert [entry.status for entry in reading.statuses] == [expected, expected]
    assert reading.error is error


def test_the_description_is_what_the_esp_said() -> None:
    """Else it is what the error says."""
    said = same_for_all(BOTH, APIError("text", message="Said")).statuses[0]
    silent = same_for_all(BOTH, NotSentError("text")).statuses[0]
    assert (said.description, silent.description) == ("Said", "text")


def test_a_status_can_be_given() -> None:
    """For ESPs that say why the recipients were refused."""
    reading = same_for_all(BOTH, APIError("?"), Status.REJECTED)
    assert {entry.status for entry in reading.statuses} == {Status.REJECTED}


def test_a_whole_call_has_a_reading_for_each_part() -> None:
    """With one status for each of the part's recipients."""
    call = Call(HttpRequest("POST", "https://x.example"), (BOTH, Part((A,), 1)))
    readings = whole_call(call, NotSentError("?"))
    assert [len(reading.statuses) for reading in readings] == [2, 1]


def test_accepted_recipients_share_an_id() -> None:
    """And there is no error."""
    reading = accepted(BOTH, "id-1", Status.SENT)
    assert reading.statuses == (RecipientStatus(Status.SENT, "id-1"),) * 2
    assert reading.error is None


@pytest.mark.parametrize("status", [200, 422])
def test_refused_recipients_keep_their_own_reasons(status: int) -> None:
    """The error tells where to look for them."""
    statuses = [RecipientStatus(Status.REJECTED), RecipientStatus(Status.INVALID)]
    options: dict[str, Any] = {"code": "406", "message": "Said"}
    reading = recipients_refused("Acme", HttpResponse(status), statuses, **options)
    assert reading.statuses == tuple(statuses)
    assert isinstance(reading.error, RecipientsRefusedError)
    assert (reading.error.code, reading.error.message) == ("406", "Said")
    assert "result.recipients" in str(reading.error)
