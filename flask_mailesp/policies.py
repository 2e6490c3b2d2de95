"""From ``app.config`` to how hard a mailer tries. Read once, in ``init_app``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import (
    _MISSING,
    DEFAULT_TIMEOUT,
    Lookup,
    as_switch,
    is_strategy,
    refuse_unknown,
    timeouts,
)
from .esp import Esp, Veiled
from .exceptions import ConfigurationError
from .limits import Rate
from .records import record
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


# --- strategies ------------------------------------------------------------------------

_OF_A_STRATEGY = frozenset({"FAILOVER", "ROUND_ROBIN", "WEIGHTS", "AMBIGUOUS", "BREAKER"})

Specs = Mapping[str, tuple[str, Veiled]]


@record(frozen=True)
class StrategySpec:
    """A strategy as it was configured; ``weights`` has one for each of ``members``."""

    members: tuple[str, ...]
    in_turn: bool
    weights: tuple[float, ...]
    ambiguous: bool
    failures: int
    seconds: float


def told_apart(specs: Specs) -> tuple[dict[str, tuple[str, Veiled]], dict[str, StrategySpec]]:
    """Part the mailers that send themselves from those that send through others.

    A member that is no mailer is an ESP, with the app's settings: it becomes a mailer.
    """
    plain = {name: spec for name, spec in specs.items() if not is_strategy(spec[1])}
    strategies = {
        name: strategy_spec(place, own) for name, (place, own) in specs.items() if name not in plain
    }
    for name, strategy in strategies.items():
        place = specs[name][0]
        for member in strategy.members:
            if member in strategies:
                raise ConfigurationError(f"{place} names {member!r}, which has members itself.")
            plain.setdefault(member, (place, Veiled({"ESP": member})))
    return plain, strategies


def strategy_spec(place: str, own: Mapping[str, Any]) -> StrategySpec:
    """Check the settings of a strategy."""
    refuse_unknown(own, _OF_A_STRATEGY, f"{place} has no setting")
    if "FAILOVER" in own and "ROUND_ROBIN" in own:
        raise ConfigurationError(f"{place} must be one of failover and round_robin.")
    members = own.get("FAILOVER") or own.get("ROUND_ROBIN")
    if not isinstance(members, list) or not all(isinstance(item, str) for item in members):
        raise ConfigurationError(f"{place} must list the names of mailers or ESPs.")
    if len(set(members)) < len(members):
        raise ConfigurationError(f"{place} lists a member twice; give it a weight instead.")
    failures, pause = _breaker(f"{place}['breaker']", own.get("BREAKER"))
    return StrategySpec(
        tuple(map(str.__str__, members)),
        "ROUND_ROBIN" in own,
        _weights(place, own, len(members)),
        _ambiguous(place, own.get("AMBIGUOUS")),
        failures,
        pause,
    )


def _weights(place: str, own: Mapping[str, Any], count: int) -> tuple[float, ...]:
    weights = own.get("WEIGHTS")
    if weights is None:
        return (1.0,) * count
    if "ROUND_ROBIN" not in own or not isinstance(weights, list) or len(weights) != count:
        raise ConfigurationError(f"{place}['weights'] must have a number for each of round_robin.")
    numbers = tuple(seconds(f"{place}['weights']", item) for item in weights)
    if 0 in numbers:
        raise ConfigurationError(f"{place}['weights'] must be more than 0.")
    return numbers


def _ambiguous(place: str, value: Any) -> bool:
    if value not in (None, "stop", "next"):
        raise ConfigurationError(f'{place}[\'ambiguous\'] must be "stop" or "next".')
    return bool(value == "next")


def _breaker(key: str, value: Any) -> tuple[int, float]:
    """Return after how many failures in a row a breaker opens, and for how many seconds."""
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise ConfigurationError(f'{key} must be a dict such as {{"failures": 5, "seconds": 30}}.')
    refuse_unknown(value, {"failures", "seconds"}, f"{key} has no setting")
    failures = value.get("failures", 5)
    if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
        raise ConfigurationError(f"{key}['failures'] must be a number, 1 or more.")
    return failures, seconds(f"{key}['seconds']", value.get("seconds", 30.0))
