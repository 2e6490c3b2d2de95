"""From what the ESP answered to what it means; shared by every ESP's ``read``.

The table of outcomes that these functions implement is in the documentation under
"What happens when things go wrong".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from .esp import Call, HttpResponse, Part, Reading
from .exceptions import (
    APIError,
    AuthenticationError,
    MailESPError,
    RateLimitedError,
    RecipientsRefusedError,
    SendUncertainError,
)
from .results import RecipientStatus, Status

_LONGEST_WAIT = 24 * 60 * 60.0


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
    text = _describe(esp_name, status, code, hint)
    if kind is None and (status >= 500 or status < 300):
        return SendUncertainError(
            f"{text} The message may or may not have been taken.",
            status=status,
            esp_name=esp_name,
        )
    kind = kind or {401: AuthenticationError, 403: AuthenticationError, 429: RateLimitedError}.get(
        status, APIError
    )
    details = {"status": status, "code": code, "message": message, "esp_name": esp_name}
    if issubclass(kind, RateLimitedError):
        return kind(text, retry_after=retry_after(response), **details)  # type: ignore[arg-type]
    if 300 <= status < 400:
        text += " Redirects are never followed: check the API_URL setting."
    return kind(text, **details)  # type: ignore[arg-type]


def _describe(esp_name: str, status: int, code: str | None, hint: str) -> str:
    text = f"{esp_name} answered HTTP {status}"
    if code is not None:
        text += f", code {code}"
    return f"{text}. {hint}".rstrip()


def unreadable(esp_name: str, response: HttpResponse) -> SendUncertainError:
    """Return the error for a success status whose body does not say what was accepted."""
    return SendUncertainError(
        f"{esp_name} answered HTTP {response.status} with a body that could not be read. "
        "The message may or may not have been taken.",
        status=response.status,
        esp_name=esp_name,
    )


def retry_after(response: HttpResponse) -> float | None:
    """Return how long the ESP asks to wait, in seconds from 0 to a day, or None.

    Understands both forms of Retry-After (RFC 9110 section 10.2.3).
    """
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    seconds = float(value) if _is_number(value) else _seconds_until(value, response)
    return None if seconds is None else min(max(seconds, 0.0), _LONGEST_WAIT)


def _is_number(value: str) -> bool:
    return value.isascii() and value.lstrip("-").replace(".", "", 1).isdigit() and len(value) < 300


def _seconds_until(value: str, response: HttpResponse) -> float | None:
    """Measure by the server's own clock where it tells the time."""
    moment = _http_date(value)
    if moment is None:
        return None
    now = _http_date(response.headers.get("date", "")) or datetime.now(timezone.utc)
    return (moment - now).total_seconds()


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def status_for(error: MailESPError) -> Status:
    """Return what is known about a recipient of a request that ended in an error."""
    return Status.UNKNOWN if isinstance(error, SendUncertainError) else Status.FAILED


def same_for_all(part: Part, error: MailESPError, status: Status | None = None) -> Reading:
    """Return a reading in which every recipient of a part shares one fate."""
    description = getattr(error, "message", "") or str(error)
    entry = RecipientStatus(status or status_for(error), None, description)
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
