"""From what the ESP answered to what it means; shared by every ESP's ``read``.

The table of outcomes that these functions implement is in the documentation under
"What happens when things go wrong".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from .esp import Call, HttpResponse, Part, Reading
from .exceptions import (
    APIError,
    AuthenticationError,
    MailESPError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
)
from .patterns import pattern
from .results import RecipientStatus, Status
from .wire import as_number

_DOUBT = "The message may or may not have been taken."
_CODE = pattern(r"[\w.-]{1,60}")
_LONGEST_WAIT = 24 * 60 * 60.0  # seconds
_BY_STATUS: dict[int, type[APIError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    429: RateLimitedError,
}


def failure(
    esp_name: str,
    response: HttpResponse,
    *,
    code: str | None = None,
    message: str = "",
    hint: str = "",
    kind: type[APIError] | None = None,
) -> MailESPError:
    """Return the error for an answer that is not an acceptance.

    ``code`` and ``message`` are the ESP's own, ``hint`` tells the user what to do, and
    ``kind`` is the class of error where the ESP's code says more than the HTTP status.
    """
    status = response.status
    is_uncertain = kind is None and (status >= 500 or status < 300)
    if message and not hint:
        place = "result.response" if is_uncertain else "error.message or result.response"
        hint = f"What it said is in {place}."
    text = _describe(esp_name, response, code, hint)
    known = {"status": status, "esp_name": esp_name, "request_id": request_id(response)}
    if is_uncertain:
        return SendUncertainError(f"{text} {_DOUBT}", **known)  # type: ignore[arg-type]
    kind = kind or _BY_STATUS.get(status, APIError)
    details = {**known, "code": code, "message": message}
    if issubclass(kind, RateLimitedError):
        details["retry_after"] = retry_after(response)
    return kind(text, **details)  # type: ignore[arg-type]


def _describe(esp_name: str, response: HttpResponse, code: str | None, hint: str) -> str:
    """Say what was answered and what to do; the ESP's own words may quote addresses."""
    text = f"{esp_name} answered HTTP {response.status}"
    if code is not None and _CODE.fullmatch(code):
        text += f", code {code}"
    if 300 <= response.status < 400:
        hint = "Redirects are never followed: check the API_URL setting."
    return f"{text}. {hint}".rstrip()


def request_id(response: HttpResponse) -> str | None:
    """Return the ESP's id of the exchange, where a header gives one."""
    headers = response.headers
    return headers.get("x-request-id") or headers.get("x-amzn-requestid")


def unreadable(
    esp_name: str, response: HttpResponse, what: str = "with a body that could not be read"
) -> SendUncertainError:
    """Return the error for an answer that does not say what was accepted."""
    return SendUncertainError(
        f"{esp_name} answered HTTP {response.status} {what}. {_DOUBT}",
        status=response.status,
        esp_name=esp_name,
        request_id=request_id(response),
    )


WITHOUT_EVERY_RECIPIENT = "without a word on every recipient"


def retry_after(response: HttpResponse) -> float | None:
    """Return how long the ESP asks to wait, in seconds from 0 to a day, or None.

    Understands both forms of Retry-After (RFC 9110 section 10.2.3).
    """
    value = response.headers.get("retry-after", "").strip()
    seconds = as_number(value)
    if seconds is None:
        seconds = _seconds_until(value, response)
    return None if seconds is None else min(max(seconds, 0.0), _LONGEST_WAIT)


def _seconds_until(value: str, response: HttpResponse) -> float | None:
    """Measure by the server's own clock where it tells the time."""
    moment = _http_date(value)
    if moment is None:
        return None
    now = _http_date(response.headers.get("date", "")) or datetime.now(timezone.utc)
    return (moment - now).total_seconds()


def _http_date(value: str) -> datetime | None:
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def status_for(error: MailESPError) -> Status:
    """Return what is known about a recipient of a request that ended in an error."""
    return Status.UNKNOWN if isinstance(error, SendUncertainError) else Status.FAILED


def same_for_all(part: Part, error: MailESPError, status: Status | None = None) -> Reading:
    """Return a reading in which every recipient of a part shares one fate.

    Where that is uncertain, an id that we gave the copy is kept: events may bring it back.
    """
    description = getattr(error, "message", "") or str(error)
    status = status or status_for(error)
    message_id = part.id if status is Status.UNKNOWN else None
    entry = RecipientStatus(status, message_id, description)
    return Reading((entry,) * len(part.recipients), error)


def whole_call(call: Call, error: MailESPError) -> list[Reading]:
    """Return readings in which every part of a call shares one fate."""
    return [same_for_all(part, error) for part in call.parts]


def accepted(part: Part, message_id: str | None, status: Status) -> Reading:
    """Return a reading in which every recipient was accepted under one id."""
    return Reading((RecipientStatus(status, message_id),) * len(part.recipients))


def recipients_refused(
    esp_name: str,
    response: HttpResponse,
    statuses: Sequence[RecipientStatus],
    *,
    code: str | None = None,
    message: str = "",
) -> Reading:
    """Return a reading for a part that was refused because of its recipients."""
    error = failure(
        esp_name,
        response,
        code=code,
        message=message,
        kind=RecipientsRefusedError,
        hint="It refused the recipients; result.recipients tells why.",
    )
    return Reading(tuple(statuses), error)
