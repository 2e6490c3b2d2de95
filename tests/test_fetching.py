"""What a webhook speaks of and does not bring is fetched, by the core, within limits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import pytest
from flask import Flask
from scripted import Drip, Reply, ScriptedServer, scripted

from flask_mailesp import MailESP, signals
from flask_mailesp.esp import (
    Esp,
    Fetch,
    HttpRequest,
    HttpResponse,
    Once,
    Setting,
    Settings,
    Webhook,
    WebhookRequest,
)
from flask_mailesp.events import EventType, TrackingEvent
from flask_mailesp.exceptions import FetchError, NotSentError, WebhookRejected
from flask_mailesp.tokens import TokenMemory
from flask_mailesp.transport import Transport
from flask_mailesp.wire import parse_json

RETRY = 503


def event(name: str) -> TrackingEvent:
    return TrackingEvent(EventType.DELIVERED, {"name": name}, identity=("Courier", name))


def fetch(raw: dict[str, Any], settings: Settings, **options: Any) -> Fetch:
    """What the test's webhooks ask for: a URL, and perhaps more URLs in its answer."""

    def resume(response: HttpResponse) -> Sequence[TrackingEvent | Fetch]:
        if response.status == 404:
            raise FetchError("Courier does not have it yet.")
        found = parse_json(response.body) or {}
        if "url" in found:
            return [fetch(found, settings), event("between")]
        return [event(f"{response.status} {response.text}")]

    return Fetch(
        HttpRequest("GET", raw["url"]), resume, foreign=bool(raw.get("foreign")), **options
    )


def parse(request: WebhookRequest, settings: Settings) -> list[Any]:
    raw = parse_json(request.body)
    return [event("before"), fetch(raw, settings, max_bytes=1000), event("after")]


def verify(request: WebhookRequest, settings: Settings, now: datetime) -> Fetch | None:
    """Authentic is what names a key that can be fetched, and says "yes"."""
    key = request.headers.get("X-Key-Url")
    if key is None:
        return None

    def resume(response: HttpResponse) -> None:
        if response.body != b"yes":
            raise WebhookRejected("The key says no.")

    return Fetch(HttpRequest("GET", key), resume, keep_seconds=3600)


def once(request: WebhookRequest, settings: Settings) -> Once | None:
    token = request.headers.get("X-Token")
    return Once(token, request.body, 3600) if token else None


def sign(request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
    return request


HOOK = Webhook(verify, parse, RETRY, once)
COURIER = Esp(
    "Courier",
    (Setting("API_URL", default="https://api.courier.invalid"),),
    frozenset(),
    lambda message, settings: (),
    lambda call, response, settings: (),
    tracking=HOOK,
)


class Hooked:
    """An app that receives Courier's webhooks."""

    def __init__(self, api_url: str) -> None:
        self.app = Flask("shop")
        self.app.config.update(
            TESTING=True,
            MAILESP_MAILERS={"default": {"esp": COURIER, "api_url": api_url}},
            MAILESP_REQUESTS_TIMEOUT=5,
        )
        MailESP(self.app)
        self.names: list[str] = []
        signals.tracking.connect(self._on_tracking, sender=self.app)

    def _on_tracking(self, app: Flask, event: TrackingEvent, esp_name: str) -> None:
        self.names.append(event.esp_event["name"])

    def post(self, raw: Any, **headers: str) -> int:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.app.test_client().post(
            "/mail-hooks/courier/tracking/", json=raw, headers=names
        )
        return answer.status_code


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted(Reply(200, b"the mail")) as server:
        yield server


@pytest.fixture
def hooked(server: ScriptedServer) -> Iterator[Hooked]:
    hooked = Hooked(server.url)
    yield hooked
    hooked.app.extensions["mailesp"].transport.close()


# --- for parse -----------------------------------------------------------------------------


def test_what_is_fetched_stands_where_the_fetch_stood(
    hooked: Hooked, server: ScriptedServer
) -> None:
    assert hooked.post({"url": f"{server.url}/mails/1"}) == 200
    assert hooked.names == ["before", "200 the mail", "after"]
    assert [request.target for request in server.requests] == ["/mails/1"]


def test_an_answer_may_lead_to_further_fetches() -> None:
    with scripted(lambda request: again(here, request.target)) as here:
        hooked = Hooked(here.url)
        assert hooked.post({"url": f"{here.url}/first"}) == 200
        hooked.app.extensions["mailesp"].transport.close()

    assert hooked.names == ["before", "200 the end", "between", "after"]


def again(server: ScriptedServer, target: str) -> Reply:
    if target == "/first":
        return Reply(200, f'{{"url": "{server.url}/second"}}'.encode())
    return Reply(200, b"the end")


def test_fetches_that_never_end_are_ended() -> None:
    """An answer that leads to itself would else keep the worker for ever."""
    with scripted(lambda request: again(here, "/first")) as here:
        hooked = Hooked(here.url)
        assert hooked.post({"url": f"{here.url}/first"}) == RETRY
        hooked.app.extensions["mailesp"].transport.close()

    assert 2 <= len(here.requests) <= 300
    assert hooked.names == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, b""),
        Reply(200, b"x" * 1001),
        Reply(200, b"x", headers={"Content-Length": "9"}, close=True),
    ],
    ids=["not there yet", "too large", "broken off"],
)
def test_what_cannot_be_fetched_is_posted_again_by_the_esp(
    reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is delivered in part: all of it comes with the next attempt."""
    with scripted(reply) as server:
        hooked = Hooked(server.url)
        status = hooked.post({"url": f"{server.url}/mails/1"})
        hooked.app.extensions["mailesp"].transport.close()

    assert status == RETRY
    assert hooked.names == []
    assert "A webhook of Courier was put off" in caplog.text
    assert "/mails/1" not in caplog.text


def test_a_server_that_is_down_is_asked_at_the_next_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        hooked = Hooked(url)
        assert hooked.post({"url": f"{url}/mails/1"}) == RETRY
    assert "could not be reached" in caplog.text
    assert "Nothing was sent" not in caplog.text


def test_a_slow_server_does_not_keep_the_worker() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
    with scripted(Drip(b"x" * 900, first=head)) as server:
        transport = Transport(total_timeout=30)
        request = HttpRequest("GET", server.url)
        response = transport.fetch(request, max_bytes=10_000, seconds=0.5)
        transport.close()

    assert not response.complete


# --- foreign URLs --------------------------------------------------------------------------

PRIVATE = [
    "https://127.0.0.1/",
    "https://[::1]/",
    "https://localhost/",
    "https://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/",
    "https://192.168.1.1/",
    "https://172.16.0.1/",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fe80::1]/",
    "https://[fd00::1]/",
    "https://[::127.0.0.1]/",
    "https://224.0.0.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://127.1/",
    "https://0x7f000001/",
    "https://[fec0::1]/",
    "https://[64:ff9b:1::7f00:1]/",
    "https://[::ffff:0:127.0.0.1]/",
]


@pytest.mark.parametrize("url", [*PRIVATE, "http://example.com/", "ftp://example.com/", "/x", ""])
def test_a_strangers_url_reaches_nothing_but_public_https(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No service of this machine or its network can be reached by a webhook's text."""
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("connected"))
    transport = Transport(trust_env=False)
    with pytest.raises(NotSentError):
        transport.fetch(HttpRequest("GET", url), max_bytes=10, public=True)


@pytest.mark.parametrize("url", [*PRIVATE, "https://intranet/", "https://db.localdomain/"])
def test_neither_does_it_through_a_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("connected"))
    transport = Transport()
    with pytest.raises(NotSentError, match="not a public one"):
        transport.fetch(HttpRequest("GET", url), max_bytes=10, public=True)


def test_a_name_is_looked_up_once_and_every_address_must_be_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that is public at the first look and private at the second gains nothing."""
    looks: list[str] = []

    def answers(host: str, port: int, **_: Any) -> list[Any]:
        looks.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("93.184.216.34", "169.254.169.254")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("connected"))
    with pytest.raises(NotSentError, match="not a public one"):
        Transport(trust_env=False).fetch(
            HttpRequest("GET", "https://rebinding.example/"), max_bytes=10, public=True
        )
    assert looks == ["rebinding.example"]


def test_a_public_address_is_connected_to_as_it_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connected: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError(111, "refused")

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(NotSentError, match="could not be reached"):
        Transport(trust_env=False).fetch(
            HttpRequest("GET", "https://files.example/"), max_bytes=10, public=True
        )
    assert connected == [("93.184.216.34", 443)]


def test_a_foreign_url_on_the_apis_own_origin_is_the_apis(
    hooked: Hooked, server: ScriptedServer
) -> None:
    """A simulator on this machine serves its own downloads."""
    assert hooked.post({"url": f"{server.url}/raw", "foreign": True}) == 200
    assert hooked.names[1] == "200 the mail"


def test_a_foreign_url_elsewhere_on_this_machine_is_not_fetched(hooked: Hooked) -> None:
    with scripted(Reply(200, b"internal")) as other:
        assert hooked.post({"url": f"{other.url}/raw", "foreign": True}) == RETRY
        assert other.connections == 0


# --- for verify ----------------------------------------------------------------------------


def test_a_key_is_fetched_once_and_remembered(hooked: Hooked) -> None:
    with scripted(Reply(200, b"yes")) as keys:
        for _ in range(3):
            assert hooked.post({"url": f"{hooked_url(hooked)}/m"}, X_Key_Url=f"{keys.url}/k") == 200
    assert len(keys.requests) == 1


def hooked_url(hooked: Hooked) -> str:
    url: str = hooked.app.extensions["mailesp"].mailers["default"].settings["API_URL"]
    return url


def test_a_key_that_says_no_rejects(hooked: Hooked) -> None:
    with scripted(Reply(200, b"no")) as keys:
        assert hooked.post({"url": "x"}, X_Key_Url=keys.url) == 401
    assert hooked.names == []


def test_an_answer_that_is_no_success_is_not_remembered(hooked: Hooked) -> None:
    with scripted(Reply(404, b""), Reply(200, b"yes")) as keys:
        url = f"{hooked_url(hooked)}/m"
        assert hooked.post({"url": url}, X_Key_Url=keys.url) == 401
        assert hooked.post({"url": url}, X_Key_Url=keys.url) == 200


def test_neither_is_one_that_did_not_help(hooked: Hooked) -> None:
    """What once answered with junk is asked again, and not only the next day."""
    with scripted(Reply(200, b"no"), Reply(200, b"yes")) as keys:
        url = f"{hooked_url(hooked)}/m"
        assert hooked.post({"url": url}, X_Key_Url=keys.url) == 401
        assert hooked.post({"url": url}, X_Key_Url=keys.url) == 200


def test_strangers_cannot_have_much_fetched(hooked: Hooked) -> None:
    """Whoever is not authentic yet must not make this app hammer somebody else's server."""
    with scripted(Reply(404, b"")) as keys:
        statuses = [hooked.post({}, X_Key_Url=f"{keys.url}/{number}") for number in range(50)]
    assert len(keys.requests) == 10
    assert statuses == [401] * 10 + [RETRY] * 40


# --- tokens --------------------------------------------------------------------------------


def test_a_token_brings_one_content_only(hooked: Hooked, server: ScriptedServer) -> None:
    """For signatures that do not cover the body: replayed as it was, or rejected."""
    mine, forged = {"url": f"{server.url}/1"}, {"url": f"{server.url}/2"}
    assert hooked.post(mine, X_Token="t1") == 200
    assert hooked.post(forged, X_Token="t1") == 401
    assert hooked.post(mine, X_Token="t1") == 200
    assert hooked.post(forged, X_Token="t2") == 200


def test_a_forged_content_that_comes_at_the_same_time_gets_in_at_most_once() -> None:
    memory = TokenMemory()
    barrier, accepted = threading.Barrier(16), []

    def try_in(number: int) -> None:
        barrier.wait()
        if memory.accepts("Courier", Once("token", b"%d" % number, 60)):
            accepted.append(number)

    threads = [threading.Thread(target=try_in, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(accepted) == 1


def test_tokens_of_two_esps_are_two(hooked: Hooked) -> None:
    memory = TokenMemory()
    assert memory.accepts("One", Once("token", b"a", 60))
    assert memory.accepts("Other", Once("token", b"b", 60))


def test_tokens_are_forgotten_when_they_expire_and_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flask_mailesp.tokens._MOST", 100)
    memory = TokenMemory()
    assert memory.accepts("Courier", Once("expired", b"a", -1))
    for number in range(1000):
        assert memory.accepts("Courier", Once(f"{number}", b"a", 60))
    assert len(memory._seen) <= 100
    assert memory.accepts("Courier", Once("expired", b"b", 60))
    assert not memory.accepts("Courier", Once("999", b"b", 60))


# --- settings that complete each other -----------------------------------------------------


def test_an_esp_completes_its_settings() -> None:
    def complete(values: Any, name: Any) -> dict[str, Any]:
        assert name("REGION") == "MAILESP_COURIER_REGION"
        return {"API_URL": f"https://{values['REGION']}.courier.invalid"}

    settings = (Setting("REGION"), Setting("API_URL"))
    esp = Esp("Courier", settings, frozenset(), COURIER.build, COURIER.read, complete=complete)
    app = Flask("shop")
    app.config.update(MAILESP_MAILERS={"default": {"esp": esp, "region": "eu"}})
    MailESP(app)
    assert (
        app.extensions["mailesp"].mailer(None).settings["API_URL"] == "https://eu.courier.invalid"
    )


def test_environment_variables_are_looked_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the provider's own tools read."""
    setting = Setting("REGION", env=("COURIER_REGION", "COURIER_DEFAULT_REGION"))
    esp = Esp("Courier", (setting,), frozenset(), COURIER.build, COURIER.read)

    def region(**own: Any) -> Any:
        app = Flask("shop")
        app.config.update(MAILESP_MAILERS={"default": {"esp": esp, **own}})
        MailESP(app)
        return app.extensions["mailesp"].mailer(None).settings["REGION"]

    assert region() is None
    monkeypatch.setenv("COURIER_DEFAULT_REGION", "eu")
    assert region() == "eu"
    monkeypatch.setenv("COURIER_REGION", "us")
    assert region() == "us"
    assert region(region="asia") == "asia"


def test_a_request_is_signed_just_before_it_is_sent(server: ScriptedServer) -> None:
    """For signatures that hold the time."""
    seen: list[datetime] = []

    def signed(request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
        seen.append(now)
        return HttpRequest(request.method, request.url, {"X-Signed": "yes"}, request.body)

    def parse_signed(request: WebhookRequest, settings: Settings) -> list[Any]:
        item = fetch(parse_json(request.body), settings, sign=signed)
        return [item]

    hook = Webhook(verify, parse_signed, RETRY)
    esp = Esp("Courier", COURIER.settings, frozenset(), COURIER.build, COURIER.read, tracking=hook)
    app = Flask("shop")
    app.config.update(MAILESP_MAILERS={"default": {"esp": esp, "api_url": server.url}})
    MailESP(app)
    answer = app.test_client().post(
        "/mail-hooks/courier/tracking/", json={"url": f"{server.url}/1"}
    )
    app.extensions["mailesp"].transport.close()

    assert answer.status_code == 200
    assert server.requests[0].headers["x-signed"] == "yes"
    assert abs((seen[0] - datetime.now(timezone.utc)).total_seconds()) < 60
