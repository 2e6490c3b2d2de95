"""What can be made to go wrong from the mailbox, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .records import Fault


class Choice(NamedTuple):
    """One fault to choose: what it is called, and the fields of the `Fault` it makes."""

    label: str
    fields: Mapping[str, Any]


SENDING = {
    "slow": Choice("The answer takes 3 seconds", {"delay": 3.0}),
    "limited": Choice("429, Retry-After 5 seconds", {"status": 429, "retry_after": "5"}),
    "error": Choice("500 Internal Server Error", {"status": 500, "body": b"error"}),
    "unavailable": Choice("503 Service Unavailable", {"status": 503, "body": b"busy"}),
    "reset-before": Choice("Connection reset, message not taken", {"reset": "before"}),
    "reset-after": Choice("Connection reset, message taken", {"reset": "after"}),
    "garbage": Choice("Garbage for an answer, message taken", {"answer": "garbage"}),
    "truncated": Choice("Half an answer, message taken", {"answer": "truncated"}),
}
WEBHOOKS = {
    "lost": Choice("Lost", {"webhook": "lost"}),
    "doubled": Choice("Posted twice", {"webhook": "doubled"}),
    "late": Choice("10 seconds late", {"webhook": "late", "delay": 10.0}),
    "reordered": Choice("Out of order", {"webhook": "reordered", "delay": 10.0}),
    "forged": Choice("Preceded by a forged one", {"webhook": "forged"}),
}
GROUPS = {"When the app sends": SENDING, "When a webhook is posted": WEBHOOKS}
CHOICES = SENDING | WEBHOOKS
TIMES = {"1": 1, "3": 3, "0": None}


def fields(kind: str, esp: str, times: str) -> dict[str, Any]:
    """Return the fields of the fault that was chosen; KeyError if there is no such choice."""
    limits = {"esp": esp} if esp else {}
    return {**CHOICES[kind].fields, **limits, "times": TIMES[times]}


def describe(fault: Fault) -> str:
    """Return a fault in words, one made elsewhere too."""
    what = next((label for label, own in CHOICES.values() if _is(fault, own)), "") or _told(fault)
    where = f", {fault.esp} only" if fault.esp else ""
    often = "until removed" if fault.times is None else f"{fault.times} ×"
    kind = "Webhook: " if fault.webhook else ""
    return f"{kind}{what}{where} ({often})"


def _is(fault: Fault, own: Mapping[str, Any]) -> bool:
    plain = Fault(**own, esp=fault.esp, times=fault.times, id=fault.id)
    return fault == plain


def _told(fault: Fault) -> str:
    told = {
        "delay": f"{fault.delay:g} s later" if fault.delay else "",
        "status": f"HTTP {fault.status}" if fault.status else "",
        "drop": f"connection closed {fault.drop}" if fault.drop else "",
        "reset": f"connection reset {fault.reset}" if fault.reset else "",
        "answer": f"{fault.answer} answer" if fault.answer else "",
        "webhook": fault.webhook or "",
        "path": f"path with {fault.path}" if fault.path else "",
        "event": f"event {fault.event}" if fault.event else "",
        "probability": f"{fault.probability:.0%}" if fault.probability < 1 else "",
    }
    return ", ".join(text for text in told.values() if text) or "nothing"
