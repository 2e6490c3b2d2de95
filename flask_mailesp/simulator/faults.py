"""Faults on demand: reading them from text, and doing to a request what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from werkzeug.wrappers import Response

from .records import Fault

HEADER = "X-Simulator-Fault"
MAX_DELAY = 600.0
GARBAGE = b"\x00\xff<!doctype html><title>Not what you expected</title>{]"
CHOICES: dict[str, tuple[str, ...]] = {
    "drop": ("before", "after"),
    "reset": ("before", "after"),
    "answer": ("garbage", "truncated"),
    "webhook": ("lost", "doubled", "late", "reordered", "forged"),
}
NAMES = tuple(field.name for field in fields(Fault) if field.name != "id")


def checked(fault: Fault) -> Fault:
    """The same fault. Raises ValueError, one sentence, if one of its values makes no sense."""
    for name, choices in CHOICES.items():
        value = getattr(fault, name)
        if value is not None and value not in choices:
            raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")
    for fine, rule in (
        (fault.status is None or 100 <= fault.status <= 599, "status is from 100 to 599"),
        (0 <= fault.delay <= MAX_DELAY, f"delay is from 0 to {MAX_DELAY:g} seconds"),
        (fault.times is None or fault.times >= 1, "times is 1 or more, or null for always"),
        (0 <= fault.probability <= 1, "probability is from 0 to 1"),
    ):
        if not fine:
            raise ValueError(rule)
    return fault


def read_fault(values: Mapping[str, Any]) -> Fault:
    """A fault from JSON, or from texts. Raises ValueError, one sentence."""
    unknown = [name for name in values if name not in NAMES]
    if unknown:
        raise ValueError(f"a fault has no {unknown[0]!r}; it has {', '.join(NAMES)}")
    return checked(Fault(**{name: read(name, value) for name, value in values.items()}))


def read(name: str, value: Any) -> Any:
    reader: Callable[[Any], Any] = _READERS.get(name, _text)
    try:
        return reader(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} cannot be {value!r}") from None


def _text(value: Any) -> str | None:
    if isinstance(value, (dict, list)):
        raise TypeError
    return None if value is None else str(value)


def _number(value: Any) -> int | None:
    return None if value in (None, "", "always") else int(value)


def _headers(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in dict(value).items()}


_READERS: dict[str, Callable[[Any], Any]] = {
    "status": _number,
    "times": _number,
    "delay": float,
    "probability": float,
    "headers": _headers,
    "body": lambda value: str(value).encode("utf-8", "surrogatepass"),
}


def read_header(text: str) -> Fault:
    """The fault in ``status=503;retry-after=5``. Raises ValueError, one sentence."""
    pairs = (item.partition("=") for item in text.split(";") if item.strip())
    values = {name.strip().lower().replace("-", "_"): value.strip() for name, _, value in pairs}
    return read_fault(values)


def to_json(fault: Fault) -> dict[str, Any]:
    """What `read_fault` reads, and the id; only what differs from no fault at all."""
    plain = Fault()
    shown = {
        name: getattr(fault, name)
        for name in NAMES
        if getattr(fault, name) != getattr(plain, name) or name == "times"
    }
    if "body" in shown:
        shown["body"] = fault.body.decode("utf-8", "replace")
    return {"id": fault.id, **shown}


def for_request(esp: str, path: str) -> Callable[[Fault], bool]:
    """Whether a fault is for this API request."""

    def fit(fault: Fault) -> bool:
        ours = fault.esp in (None, esp) and (fault.path or "").lower() in path.lower()
        return fault.webhook is None and ours

    return fit


def given_answer(fault: Fault) -> Response | None:
    """The answer that a fault gives by itself; ``retry_after`` alone means 429."""
    if fault.status is None and fault.retry_after is None:
        return None
    response = Response(fault.body, fault.status or 429)
    response.headers.update(fault.headers)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = fault.retry_after
    return response


def spoiled(fault: Fault, response: Response) -> Response:
    """The answer to a message that was taken, as it arrives."""
    if fault.answer == "garbage":
        response.set_data(GARBAGE)
    elif fault.answer == "truncated":
        body = response.get_data()
        response.set_data(body[: len(body) // 2])
        response.headers["Content-Length"] = str(len(body))
    return response
