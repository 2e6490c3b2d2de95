"""A local email service provider: the other side of the wire, for development and tests.

One small WSGI application speaks what the providers speak: it validates a send as the
provider documents it, answers with the provider's statuses and error bodies, and posts the
provider's webhooks back, with real Basic credentials or a real signature over the exact
bytes, as the provider does it. Nothing leaves the machine, and the application under test
runs its production code path: only the API's URL and the credentials differ. ::

    from flask_mailesp.simulator import Simulator

    sim = Simulator()
    sim.hook("postmark", tracking="http://user:pass@127.0.0.1:5000/mail-hooks/postmark/tracking/")

    with sim.running() as server:
        sim.settings("postmark")              # what points the application here: API_URL, ...
        ...                                   # the application sends a message
        sim.wait()                            # its "delivered" webhook has been answered
        message = sim.messages[-1]
        sim.emit(message, "opened")           # post one more, now; returns the Delivery

        mail = sim.compose("postmark", from_="ann@example.com", to="help@in.example.org",
                           subject="Hello", text="Hi")
        sim.receive("postmark", mail, to="help@in.example.org")     # inbound mail

It remembers everything in a SQLite database: in memory, or in a file that several processes
share (``Simulator(database="mail.db")``). A webhook that is not answered as the provider
wants it is posted again on the provider's own schedule; ``time_scale=0`` does so at once.
``flask mailesp simulator`` runs it as a program, with a mailbox page.

What goes wrong at a provider can go wrong here, on demand::

    sim.fault(status=429, retry_after="5")              # the next request
    sim.fault(reset="after", times=None, probability=0.1)   # a tenth of all requests
    sim.fault(webhook="forged", esp="postal")               # a webhook

by the header ``X-Simulator-Fault: status=503;retry-after=5`` of a request, or by HTTP: see
`flask_mailesp.simulator.control`. The fields are those of `Fault`.

Every provider lives under its own prefix of one base URL: ``{base}/postmark/email``,
``{base}/postal/api/v1/send/message``, ``{base}/postal/.well-known/jwks.json``.

Each is one module of this package, named like the ESP: see `flask_mailesp.simulator.side`.

The simulator reads the providers' documentation on its own and shares no code with the rest
of the package, so that a mistake on one side shows on the other. Production code never
imports it.
"""

from __future__ import annotations

from .app import Simulator
from .database import DatabaseError
from .records import Attached, Delivery, Fault, Hook, Pending, Refusal, SentMessage
from .server import LocalServer

__all__ = [
    "Attached",
    "DatabaseError",
    "Delivery",
    "Fault",
    "Hook",
    "LocalServer",
    "Pending",
    "Refusal",
    "SentMessage",
    "Simulator",
]
