"""Send, track and receive email in Flask through email service providers (ESPs).

>>> from flask_mailesp import MailESP, Message
>>> mail = MailESP()  # and mail.init_app(app)
"""

from __future__ import annotations

from . import exceptions, signals
from ._version import VERSION as __version__
from .address import Address
from .esp import Feature
from .events import EventType, InboundEvent, RejectReason, TrackingEvent
from .exceptions import CancelSend, MailESPError
from .extension import MailESP
from .message import Attachment, Message
from .results import Outcome, RecipientStatus, SendResult, Status

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
