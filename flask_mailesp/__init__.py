"""Send, track and receive email in Flask through email service providers (ESPs).

>>> from flask_mailesp import MailESP, Message
>>> mail = MailESP()  # and mail.init_app(app)

Names are imported when they are first used, so that the command line and the pytest plugin,
which every ``flask`` command and every test run loads, cost nothing where they are not used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import VERSION as __version__

if TYPE_CHECKING:
    from . import exceptions, signals
    from .address import Address
    from .esp import Feature
    from .events import EventType, InboundEvent, RejectReason, TrackingEvent
    from .exceptions import CancelSend, MailESPError
    from .extension import MailESP
    from .message import Attachment, Message
    from .results import Outcome, RecipientStatus, SendResult, Status

_ROOMS = {
    "Address": "address",
    "Attachment": "message",
    "CancelSend": "exceptions",
    "EventType": "events",
    "Feature": "esp",
    "InboundEvent": "events",
    "MailESP": "extension",
    "MailESPError": "exceptions",
    "Message": "message",
    "Outcome": "results",
    "RecipientStatus": "results",
    "RejectReason": "events",
    "SendResult": "results",
    "Status": "results",
    "TrackingEvent": "events",
}

__all__ = [
    "Address",
    "Attachment",
    "CancelSend",
    "EventType",
    "Feature",
    "InboundEvent",
    "MailESP",
    "MailESPError",
    "Message",
    "Outcome",
    "RecipientStatus",
    "RejectReason",
    "SendResult",
    "Status",
    "TrackingEvent",
    "__version__",
    "exceptions",
    "signals",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room, once."""
    if name in ("exceptions", "signals"):
        return import_module(f".{name}", __name__)
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
