"""The simulator as a program: ``flask mailesp simulator``."""

from __future__ import annotations

import ipaddress
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from flask_mailesp.registry import load_esp, load_plugin

from .app import Simulator
from .database import DatabaseError
from .mailbox_guard import SHORTEST_TOKEN
from .server import LocalServer
from .side import names

Echo = Callable[[str], None]

FAILED = 1
USAGE = 2


def run(
    *,
    host: str,
    port: int,
    database: str | None,
    esps: tuple[str, ...],
    tracking: Mapping[str, str],
    inbound: Mapping[str, str],
    time_scale: float,
    auto: bool,
    echo: Echo,
    until: threading.Event | None = None,
    mailbox_token: str | None = None,
) -> int:
    """Serve the simulator until Ctrl-C, SIGTERM or ``until``; return the exit code.

    ``esps`` are the providers to speak, none for all. ``tracking`` and ``inbound`` give each
    provider's hook URLs. ``auto`` posts "delivered" after each acceptance. A
    ``mailbox_token`` opens the mailbox from other machines. What cannot be done is told in
    one sentence by ``echo``: 1 for a taken port or a database that cannot be used, 2 for a
    wrong argument.
    """
    problem = wrong_argument(port, esps, tracking, inbound) or wrong_token(mailbox_token)
    if problem:
        return tell(echo, problem, USAGE)
    try:
        simulator = Simulator(
            database=database,
            esps=esps or None,
            auto=("delivered",) if auto else (),
            time_scale=time_scale,
        )
    except DatabaseError as error:
        return tell(echo, str(error), FAILED)
    except ValueError as error:
        return tell(echo, f"{error}.", USAGE)
    try:
        return serve(simulator, host, port, tracking, inbound, echo, until, mailbox_token)
    finally:
        simulator.close()


def tell(echo: Echo, problem: str, code: int) -> int:
    echo(problem)
    return code


def wrong_argument(
    port: int, esps: tuple[str, ...], tracking: Mapping[str, str], inbound: Mapping[str, str]
) -> str | None:
    """What is wrong, in one sentence."""
    known = names()
    spoken = esps or known
    unknown = [esp for esp in spoken if esp not in known]
    if unknown:
        return f"The simulator speaks {', '.join(known)}, not {unknown[0]!r}."
    if not 0 <= port <= 65535:
        return f"A port is a number from 0 to 65535, not {port}."
    for kind, urls in (("tracking", tracking), ("inbound", inbound)):
        for esp, url in urls.items():
            if esp not in spoken:
                return f"There is a {kind} URL for {esp!r}, which is not simulated."
            if not is_url(url):
                return f"The {kind} URL of {esp} is not an http:// or https:// URL."
    return None


def wrong_token(token: str | None) -> str | None:
    """What is wrong with the mailbox's token, in one sentence."""
    if token is None or (len(token) >= SHORTEST_TOKEN and token.isprintable()):
        return None
    return f"A mailbox token has at least {SHORTEST_TOKEN} characters, all of them printable."


def is_url(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    return False


def serve(
    simulator: Simulator,
    host: str,
    port: int,
    tracking: Mapping[str, str],
    inbound: Mapping[str, str],
    echo: Echo,
    until: threading.Event | None,
    mailbox_token: str | None = None,
) -> int:
    """Start, say what to set, and wait."""
    from .mailbox import attach

    attach(simulator, token=mailbox_token, hosts=() if is_loopback(host) else (host,))
    for esp in simulator.esps:
        simulator.hook(esp, tracking=tracking.get(esp), inbound=inbound.get(esp))
    try:
        server = simulator.start(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        return tell(echo, f"The simulator cannot listen on {host}:{port}: {reason}.", FAILED)
    for line in introduction(simulator, server, host):
        echo(line)
    with ending(until or threading.Event()) as ended, suppress(KeyboardInterrupt):
        while not ended.wait(1.0):  # in steps: some systems deliver Ctrl-C between waits only
            pass
    simulator.stop()
    return 0


@contextmanager
def ending(event: threading.Event) -> Iterator[threading.Event]:
    """An event that SIGTERM sets, where signals can be heard: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def end(_number: int, _frame: Any) -> None:
        event.set()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def introduction(simulator: Simulator, server: LocalServer, host: str) -> Iterator[str]:
    """What a person needs to know to use it."""
    yield f"The simulator is listening at {server.url} (Ctrl-C ends it)."
    yield f"Mailbox: {server.url}/_mailbox/"
    if not is_loopback(host):
        yield "Whoever reaches this address can send, and read what was sent through the API."
    for esp in simulator.esps:
        yield ""
        yield f"For {spelling(esp)}, set in the environment of an app that reads it:"
        for name, value in simulator.settings(esp, server.url_for(esp)).items():
            yield f"  FLASK_MAILESP_{esp.upper()}_{name}={as_variable(value)}"


def spelling(key: str) -> str:
    """A provider's own spelling of its name."""
    esp = load_esp(key) or load_plugin(key)
    return key if esp is None else esp.name


def as_variable(value: Any) -> str:
    """A setting as ``app.config.from_prefixed_env()`` reads it: text, or JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
