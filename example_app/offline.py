"""Working without an account: a provider on this machine.

Nothing in here is needed to send mail. It starts the simulator, which speaks the provider's
own protocol over HTTP, and points the app's ordinary settings at it: the app cannot tell.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flask import Flask, current_app, request, url_for

from flask_mailesp.simulator import Simulator
from flask_mailesp.simulator.mailbox import attach

from .providers import esp_key, is_set, provider_of

ADDRESS = "app@example.com"
DELAY = 0.8  # seconds until a message is delivered, so that one can watch it

# The buttons, in order, where the provider can report such a thing.
BUTTONS = {
    "delivered": "Deliver",
    "deferred": "Defer",
    "bounced": "Bounce",
    "opened": "Open",
    "clicked": "Click",
    "complained": "Complain",
}


@dataclass
class Offline:
    """The simulator of one app. ``secret`` (user:password) is new at every start.

    ``mailbox`` is the URL of the page that shows all mail.
    """

    esp: str
    sim: Simulator
    secret: str = field(default_factory=lambda: f"example:{secrets.token_urlsafe(24)}", repr=False)
    hooked: bool = False
    address: str = ADDRESS
    mailbox: str = ""

    # What the forms are filled with, so that one click shows something.
    letter: ClassVar = {
        "to": "ann@example.net\nJo Doe <jo@example.org>",
        "subject": "Hello from Flask",
        "body": "Hello!\n\nThis went through the provider's own API.",
        "with_image": "on",
    }
    note: ClassVar = {
        "from": "Ann <ann@example.net>",
        "subject": "Re: Hello from Flask",
        "text": "Thank you, it has arrived.",
    }

    @property
    def buttons(self) -> dict[str, str]:
        """The events this provider can report, with their labels."""
        known = self.sim.events(self.esp)
        return {event: label for event, label in BUTTONS.items() if event in known}

    def settings(self) -> dict[str, Any]:
        """Return what points the app at the simulator, which is running."""
        own = {**self.sim.settings(self.esp), "WEBHOOK_SECRET": self.secret}
        return {f"MAILESP_{self.esp.upper()}_{name}": value for name, value in own.items()}


def has_credential(config: Mapping[str, Any]) -> bool:
    """Tell whether there is a credential; a provider we do not know is not simulated."""
    provider = provider_of(config)
    return provider is None or any(is_set(config, name) for name in provider.account)


def init_app(app: Flask) -> None:
    """Start the simulator and point the settings at it."""
    esp = esp_key(app.config)
    offline = app.extensions["offline"] = Offline(esp, Simulator(delay=DELAY))
    attach(offline.sim)
    server = offline.sim.start()
    offline.mailbox = f"{server.url}/_mailbox/"
    app.config.update(offline.settings())
    defaults = app.config.get("MAILESP_SEND_DEFAULTS", {})
    app.config["MAILESP_SEND_DEFAULTS"] = {"sender": f"Example app <{ADDRESS}>", **defaults}
    app.before_request(hook)


def stop(app: Flask) -> None:
    """Stop the simulator, if there is one."""
    if "offline" in app.extensions:
        app.extensions["offline"].sim.stop()


def simulator_of(app: Flask) -> Offline | None:
    """Return an app's simulator, or None if it talks to the real provider."""
    offline: Offline | None = app.extensions.get("offline")
    return offline


def hook() -> None:
    """Tell the simulator where to post, as one does in a provider's console.

    The first request knows the port; it is taken from the server, as the Host header is the
    visitor's word.
    """
    offline = simulator_of(current_app)
    if offline is None or offline.hooked:
        return
    offline.hooked = True
    host: str = request.environ["SERVER_NAME"]
    port: str = request.environ["SERVER_PORT"]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    base = f"http://{offline.secret}@{f'[{host}]' if ':' in host else host}:{port}"
    offline.sim.hook(
        offline.esp,
        tracking=base + url_for("mailesp.tracking", esp=offline.esp),
        inbound=base + url_for("mailesp.inbound", esp=offline.esp),
    )
