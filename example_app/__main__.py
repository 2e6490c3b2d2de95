"""``python -m example_app``: serve the app on this machine until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from flask import Flask
from werkzeug.serving import make_server

from flask_mailesp.exceptions import ConfigurationError

from . import create_app, offline
from .providers import name_of

DEFAULT_PORT = 5000
TRIES = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Start; return the exit status: 0, or 1 if it could not start."""
    options = parser().parse_args(arguments)
    try:
        listener = listen(options.host, options.port)
    except OSError as error:
        port = options.port or DEFAULT_PORT
        reason = (error.strerror or str(error)).partition(" (")[0]
        return fail(f"Cannot listen on {options.host}, port {port}: {reason}. Try another --port.")
    with listener:
        try:
            app = create_app()
        except ConfigurationError as error:
            return fail(str(error))
        if options.port is None and listener.getsockname()[1] != DEFAULT_PORT:
            say(f"Port {DEFAULT_PORT} is taken, so this is the next free one.")
        serve(app, listener)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m example_app", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--port", type=port_number, help="default: 5000, or the next free one")
    return parser


def port_number(text: str) -> int:
    """Read a port; argparse reports the ValueError."""
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError
    return port


def listen(host: str, port: int | None) -> socket.socket:
    """Open the port that was asked for, or else the first free one from 5000.

    Raises OSError if there is none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port is not None:
        return socket.create_server((host, port), family=family, backlog=128)
    for port in range(DEFAULT_PORT, DEFAULT_PORT + TRIES):
        try:
            return socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            reason = error
    raise reason


def serve(app: Flask, listener: socket.socket) -> None:
    """Serve until Ctrl-C (or SIGTERM), then stop what was started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the page asks every second
    host, port = listener.getsockname()[:2]
    server = make_server(host, port, app, threaded=True, fd=listener.fileno())
    try:
        with suppress(KeyboardInterrupt):  # it may come before the server listens for it
            greet(app, host, port)
            server.serve_forever()  # returns at Ctrl-C
    finally:
        offline.stop(app)
    say("Stopped.")


def greet(app: Flask, host: str, port: int) -> None:
    """Say where the app is and whom it talks to."""
    place = f"[{host}]" if ":" in host else host
    simulated = offline.simulator_of(app) is not None
    how = "simulated on this machine: no mail leaves it" if simulated else "for real"
    say(f"Open http://{place}:{port}/ in a browser. Ctrl-C stops the app.")
    say(f"It sends through {name_of(app.config)}, {how}.")


def say(text: str) -> None:
    """Print one line at once, even into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def fail(text: str) -> int:
    """Print why it could not start; return the exit status."""
    sys.stderr.write(f"{text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
