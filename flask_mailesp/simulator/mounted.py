"""The mailbox inside an app, for ``MAILESP_MAILBOX``: in debug, and only when asked for.

All mail of the app goes over real HTTP to a simulator on a port of this machine, and the
simulator's webhooks come back to the app's own routes, authenticated like an ESP's. The page
is served in front of the app, not by a view of it: so no login wall or CSRF check of the app
stands in its way, and no header the app adds to its answers replaces those that keep a
stranger's mail from running scripts.
"""

from __future__ import annotations

import atexit
import logging
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flask import Flask

from flask_mailesp.config import General
from flask_mailesp.console import stands_in_a_url, with_credentials
from flask_mailesp.esp import Esp, SecretBytes, Settings
from flask_mailesp.exceptions import ConfigurationError
from flask_mailesp.webhooks_admin import hook_path, kinds_of, secret_of

from . import mailbox
from .app import Simulator
from .database import DatabaseError
from .side import names

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from flask_mailesp.extension import State

logger = logging.getLogger("flask_mailesp")

DELAY = 0.5  # seconds until "delivered": an app has stored a message's id by then
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to call such a server


class MountedMailbox:
    """The simulator of one app, and the mailbox page under the webhooks' prefix.

    ``settings`` are what the app sends with instead of its own, by their full names.

    Raises ConfigurationError for an ESP that is not simulated and for a database file that
    cannot be used.
    """

    def __init__(self, general: General, esps: Sequence[Esp]) -> None:
        self.esps = tuple(dict.fromkeys(esp.key for esp in esps))
        self.prefix = general.url_prefix
        self.page_path = f"{self.prefix}/{mailbox.NAME}"
        self.simulator = _simulator(general, esps)
        self._token = general.mailbox_token
        self._address: tuple[str, str] | None = None
        atexit.register(self.stop)
        self.simulator.start()
        self.settings: dict[str, Any] = {
            f"{key.upper()}_{name}": value
            for key in self.esps
            for name, value in self.simulator.settings(key).items()
        }

    def stop(self) -> None:
        """Stop the server and close the database. May be called again."""
        atexit.unregister(self.stop)
        self.simulator.close()

    def mount(self, app: Flask, state: State) -> None:
        """Have the app accept the simulator's webhooks, and serve the page in front of it."""
        for key in self.esps:
            self._trust(state, key)
        page = mailbox.mount(
            self.simulator, self.page_path, token=self._token and str.__str__(self._token)
        )
        front: Any = self._in_front(app.wsgi_app, page, state)
        app.wsgi_app = front  # type: ignore[method-assign]
        logger.warning(
            "Mail goes to the mailbox at %s/ of this app; none leaves this machine.",
            self.page_path,
        )

    def _trust(self, state: State, key: str) -> None:
        """Have a secret for an ESP that needs one, and one that its URLs can carry.

        The app's own is used if it can be, and else a random one accepted beside it.
        """
        esp, settings = _hook_of(state, key)
        own = secret_of(settings)
        if stands_in_a_url(own) if own else self.simulator.side(key).signs:
            return
        new = SecretBytes(f"mailbox:{secrets.token_urlsafe(24)}".encode())
        accepted = (new, *(settings["WEBHOOK_SECRET"] or ()))
        state.hooks[key] = esp, settings.changed({"WEBHOOK_SECRET": accepted})

    def _in_front(
        self, app: WSGIApplication, page: WSGIApplication, state: State
    ) -> WSGIApplication:
        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            ours = mailbox.below(self.page_path, path) is not None
            # A webhook's request tells nothing: `flask mailesp simulate` posts some from a
            # server that is gone a moment later.
            if ours or mailbox.below(self.prefix, path) is None:
                self._hook(state, environ, again=ours)
            return (page if ours else app)(environ, start_response)

        return answer

    def _hook(self, state: State, environ: WSGIEnvironment, *, again: bool) -> None:
        """Tell the simulator where the app is, as one does in an ESP's console.

        At the first request, and where the address has changed; ``again`` in any case, as
        another process may have told the shared database otherwise.
        """
        address = address_of(environ)
        if address == self._address and not again:
            return
        self._address = address
        for key in self.esps:
            esp, settings = _hook_of(state, key)
            base = "".join(address)
            urls: dict[str, Any] = {
                kind: _hook_url(base + hook_path(state, esp, kind), secret_of(settings))
                for kind in kinds_of(esp)
            }
            self.simulator.hook(key, **urls)


def address_of(environ: WSGIEnvironment) -> tuple[str, str]:
    """Return the app's address on this machine: its server, and the path it is mounted at.

    It is taken from the server: the Host header is the visitor's word, and what a proxy says
    is about other machines.
    """
    own: WSGIEnvironment = environ.get("werkzeug.proxy_fix.orig") or environ
    host = str(own["SERVER_NAME"])
    host = ANY_ADDRESS.get(host, host)
    place = f"[{host}]" if ":" in host else host
    server = f"{own['wsgi.url_scheme']}://{place}:{own['SERVER_PORT']}"
    return server, str(own.get("SCRIPT_NAME", "")).rstrip("/")


def _simulator(general: General, esps: Iterable[Esp]) -> Simulator:
    spoken = names()
    for esp in esps:
        if esp.key not in spoken:
            raise ConfigurationError(
                f"MAILESP_MAILBOX cannot be used with {esp.name}: only {', '.join(spoken)} "
                "are simulated."
            )
    try:
        return Simulator(
            database=None if general.mailbox is True else str(general.mailbox),
            esps=dict.fromkeys(esp.key for esp in esps),
            delay=DELAY,
        )
    except DatabaseError as error:
        raise ConfigurationError(f"MAILESP_MAILBOX cannot be used: {error}") from error


def _hook_of(state: State, key: str) -> tuple[Esp, Settings]:
    hook = state.hook(key)
    assert hook is not None  # noqa: S101 - it is the ESP of a mailer
    return hook


def _hook_url(url: str, secret: SecretBytes | None) -> str:
    return url if secret is None else with_credentials(url, secret, encode=False)
