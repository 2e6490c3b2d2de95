"""What the app does with the events that its provider reports: it remembers them.

This is where an app of yours would stop mailing an address that bounced, or open a ticket
for a mail that came in.
"""

from __future__ import annotations

from typing import Any

from flask import Flask

from flask_mailesp import InboundEvent, TrackingEvent, signals

from .history import history_of


def connect(app: Flask) -> None:
    """Connect the receivers for this app."""

    # Receivers get keyword arguments and ignore those they do not know (**extra), so that a
    # later version can tell more. If one raises, the provider is asked to try again later.
    @signals.tracking.connect_via(app)
    def on_tracking(app: Flask, event: TrackingEvent, esp_name: str, **extra: Any) -> None:
        history_of(app).add_event(event, esp_name)

    @signals.inbound.connect_via(app)
    def on_inbound(app: Flask, event: InboundEvent, esp_name: str, **extra: Any) -> None:
        history_of(app).add_mail(event, esp_name)
