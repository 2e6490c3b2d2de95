"""The mailbox's words: what events are called, and what an answer of the application means."""

from __future__ import annotations

from urllib.parse import urlsplit

from .records import Delivery

EVENTS = {
    "delivered": "Delivered",
    "deferred": "Deferred",
    "bounced": "Hard bounce",
    "soft_bounced": "Soft bounce",
    "complained": "Spam complaint",
    "opened": "Open",
    "clicked": "Click",
    "unsubscribed": "Unsubscribe",
    "subscribed": "Subscribe",
    "autoresponded": "Auto-reply",
    "rejected": "Rejected",
    "failed": "Failed",
    "queued": "Held",
}
GOOD = frozenset({"delivered", "opened", "clicked", "subscribed"})
BAD = frozenset({"bounced", "complained", "rejected", "failed"})

ANSWERS = {
    400: "The app calls it a bad request. A CSRF check may stand before its webhook route.",
    401: (
        "The app does not believe it. Compare the user and password in the hook's URL with "
        "the app's WEBHOOK_SECRET, and the key it checks signatures with."
    ),
    403: "The app forbids it. A CSRF check or a login wall may stand before its webhook route.",
    404: "The app has no such route. Is the hook's URL right, with the app's own prefix?",
    405: "The app's route takes no POST. Is the hook's URL right?",
    413: "The app calls it too large: its limit for request bodies is below this mail's size.",
}


def event_label(event: str) -> str:
    return EVENTS.get(event, event)


def event_tone(event: str) -> str:
    """``good``, ``bad`` or nothing."""
    return "good" if event in GOOD else "bad" if event in BAD else ""


def arrived(delivery: Delivery) -> bool:
    """Tell whether the application took the webhook."""
    return delivery.status is not None and 200 <= delivery.status < 300


def outcome(delivery: Delivery) -> str:
    """Return in a sentence what came of a webhook."""
    status = delivery.status
    if status is None:
        return _no_answer(delivery)
    if arrived(delivery):
        return f"The app took it ({status})."
    if 300 <= status < 400:
        return f"The app redirects ({status}): set the hook to where it leads."
    if status >= 500:
        return f"The app failed on it ({status}); a real provider would try again."
    return f"{ANSWERS.get(status, 'The app refuses it.')} ({status})"


def _no_answer(delivery: Delivery) -> str:
    error = (delivery.error or "").lower()
    host = urlsplit(delivery.url).netloc
    if "fault" in error:
        return f"Not posted: {delivery.error}."
    if "refused" in error:
        return f"Nothing listens at {host} (connection refused). Is the app running?"
    if "timeout" in error or "timed out" in error:
        return (
            f"{host} did not answer in time. An app with a single thread cannot answer a "
            "webhook while it waits for this page."
        )
    return f"{host} could not be reached."


def no_hook(esp_name: str, kind: str) -> str:
    return (
        f"Nothing was sent: no {kind} URL is set for {esp_name}. Tell the simulator where the "
        f"app's {kind} webhook route is."
    )
