"""From ``app.config`` to how hard a mailer tries. Read once, in ``init_app``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import _MISSING, DEFAULT_TIMEOUT, Lookup, as_switch, refuse_unknown, timeouts
from .esp import Esp
from .exceptions import ConfigurationError
from .limits import Rate
from .retries import FIRST_PAUSE, Retries

_OF_RETRIES = frozenset({"attempts", "max_wait", "deadline", "first_pause"})
_MOST_ATTEMPTS = 10


def seconds(key: str, value: Any) -> float:
    """Return a number of seconds, 0 to a day."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 86_400:
        raise ConfigurationError(f"{key} must be a number of seconds.")
    return number


# --- retries ---------------------------------------------------------------------------


def retries(lookup: Lookup) -> Retries:
    """Return how often requests are tried again, and how long a send may wait.

    Not at all by default: one send is one request, and more is for the user to ask for. The
    deadline is by default the time that one request may take: a send takes no longer with
    retries than without.
    """
    key, value = lookup.get("RETRIES", False)
    if isinstance(value, Mapping):
        refuse_unknown(value, _OF_RETRIES, f"{key} has no setting")
    else:
        value = {"attempts": 1 + _more_attempts(key, value)}
    max_wait = seconds(*lookup.get("MAX_WAIT", 1.0))
    _, total = timeouts(*lookup.get("REQUESTS_TIMEOUT", DEFAULT_TIMEOUT))
    return Retries(
        attempts=_attempts(f"{key}['attempts']", value.get("attempts", 3)),
        max_wait=seconds(f"{key}['max_wait']", value.get("max_wait", max_wait)),
        deadline=seconds(f"{key}['deadline']", value.get("deadline", total)),
        first_pause=seconds(f"{key}['first_pause']", value.get("first_pause", FIRST_PAUSE)),
    )


def _more_attempts(key: str, value: Any) -> int:
    """Read a number of retries, or a switch."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _attempts(key, value + 1) - 1
    return 2 if as_switch(key, value) else 0


def _attempts(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_ATTEMPTS:
        raise ConfigurationError(f"{key} must be a number; at most {_MOST_ATTEMPTS} attempts.")
    return value


# --- rate limits -----------------------------------------------------------------------

_PERIODS = {"": 1.0, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}


def rate_limit(lookup: Lookup, esp: Esp) -> Rate | None:
    """Return how many requests a mailer's credential may make; the ESP's own key comes first."""
    key, value = lookup.find(f"{esp.key.upper()}_RATE_LIMIT", short="RATE_LIMIT")
    if value is _MISSING:
        key, value = lookup.find("RATE_LIMIT")
    return None if value is _MISSING or value is None else as_rate(key, value)


def as_rate(key: str, value: Any) -> Rate:
    """Read ``50`` (a second) or ``"600/minute"``."""
    count, _, unit = str(value).partition("/")
    try:
        rate = Rate(float(count), _PERIODS[unit.strip().lower()])
        if isinstance(value, bool) or not 0 < rate.requests < 1e9:
            raise ValueError
    except (KeyError, ValueError):
        raise ConfigurationError(
            f'{key} must be a number of requests a second, or such as "600/minute".'
        ) from None
    # Less than one in a period is one in a longer period.
    return rate if rate.requests >= 1 else Rate(1.0, rate.seconds / rate.requests)
