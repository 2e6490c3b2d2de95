"""A running simulator, clients that speak to it with requests, and an application to post to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from werkzeug.wrappers import Request, Response

from flask_mailesp.simulator import LocalServer, Simulator

POSTMARK_TOKEN = "POSTMARK-SIMULATOR-TOKEN"
POSTAL_KEY = "PostalSimulatorKey000001"


@dataclass
class Received:
    """One request that arrived at the application."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Application:
    """Stands for the application under test: records every request and answers ``status``.

    A request to a path that begins with /moved is sent on to /here.
    """

    status: int = 200
    url: str = ""
    requests: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.full_path.rstrip("?"), headers, request.get_data())
        with self.lock:
            self.requests.append(received)
        response = Response(b"thanks", self.status)
        if request.path.startswith("/moved"):
            response = Response(b"", 307, {"Location": "/here"})
        return response(environ, start_response)

    def hook(self, path: str, credentials: str = "hook:s3cret") -> str:
        return self.url.replace("://", f"://{credentials}@") + path

    @property
    def last(self) -> Received:
        return self.requests[-1]


@dataclass
class Client:
    """Calls one provider's API over one kept-alive connection."""

    url: str
    headers: dict[str, str]
    session: requests.Session

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        headers = self.headers | options.pop("headers", {})
        if "data" not in options:
            options["json"] = body
        return self.session.post(self.url + path, headers=headers, timeout=10, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        headers = self.headers | options.pop("headers", {})
        return self.session.get(self.url + path, headers=headers, timeout=10, **options)


@pytest.fixture(scope="session")
def private_key() -> str:
    """One RSA key for all tests: making one takes a tenth of a second."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode("ascii")


@pytest.fixture
def sim(private_key: str) -> Simulator:
    return Simulator(postal_private_key=private_key)


@pytest.fixture
def server(sim: Simulator) -> Iterator[LocalServer]:
    with sim.running() as server:
        yield server


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def postmark(server: LocalServer, session: requests.Session) -> Client:
    headers = {"Accept": "application/json", "X-Postmark-Server-Token": POSTMARK_TOKEN}
    return Client(server.url_for("postmark"), headers, session)


@pytest.fixture
def postal(server: LocalServer, session: requests.Session) -> Client:
    return Client(server.url_for("postal"), {"X-Server-API-Key": POSTAL_KEY}, session)


@pytest.fixture
def application() -> Iterator[Application]:
    application = Application()
    server = LocalServer(application)
    application.url = server.url
    yield application
    server.stop()


@pytest.fixture
def hooked(sim: Simulator, application: Application) -> Application:
    """The application, with both providers' hooks set to it."""
    for esp in ("postmark", "postal"):
        sim.hook(
            esp,
            tracking=application.hook(f"/{esp}/tracking/"),
            inbound=application.hook(f"/{esp}/inbound/"),
        )
    return application
