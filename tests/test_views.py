"""The webhook routes: who gets in, what comes out, and that nothing is lost on the way."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask, Response, jsonify, redirect, request
from flask_wtf import CSRFProtect  # type: ignore[import-untyped]
from webhook_kit import (
    INBOUND,
    POSTAL_SENT,
    POSTMARK_DELIVERY,
    POSTMARK_INBOUND,
    SECRET,
    TRACKING,
    Hooks,
    authentic,
    bare_app,
    basic,
    encoded,
    hooked_app,
    postal_hash,
    postal_raw,
    sha256_only,
)
from werkzeug.serving import make_server

from flask_mailesp import InboundEvent, MailESP, TrackingEvent, signals
from flask_mailesp.esp import Webhook, WebhookRequest
from flask_mailesp.exceptions import ConfigurationError
from flask_mailesp.views import EnvironHeaders

ESPS = ("postal", "postmark")
BODIES = {"postal": encoded(POSTAL_SENT), "postmark": encoded(POSTMARK_DELIVERY)}
MAILS = {"postal": encoded(postal_raw()), "postmark": encoded(POSTMARK_INBOUND)}
each_esp = pytest.mark.parametrize("esp", ESPS)


@pytest.fixture
def hooks() -> Hooks:
    return hooked_app()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "flask_mailesp"]


# --- in and out ----------------------------------------------------------------------------


@each_esp
@pytest.mark.parametrize("slash", ["/", ""])
def test_an_authentic_event_reaches_its_receivers(hooks: Hooks, esp: str, slash: str) -> None:
    """200 exactly, with a tiny body; with or without the URL's last slash."""
    response = hooks.post(esp, BODIES[esp], slash=slash)

    assert (response.status_code, response.data) == (200, b"OK\n")
    assert response.content_type.startswith("text/plain")
    (event,) = hooks.tracking
    assert (event.event_type, event.recipient and event.recipient.lower()) == (
        "delivered",
        "ilse@example.net",
    )
    assert hooks.names == ["Postal" if esp == "postal" else "Postmark"]


@each_esp
@pytest.mark.parametrize("slash", ["/", ""])
def test_an_authentic_mail_reaches_its_receivers(hooks: Hooks, esp: str, slash: str) -> None:
    """On the inbound signal, and on no other."""
    assert hooks.post(esp, MAILS[esp], kind="inbound", slash=slash).status_code == 200
    (event,) = hooks.inbound
    assert str(event.message.from_email).endswith("<ilse@example.net>")
    assert hooks.tracking == []


def test_the_prefix_is_a_setting() -> None:
    """Under a path of the app's choosing, and no longer under the default one."""
    hooks = hooked_app(URL_PREFIX="/in/here/")
    body = BODIES["postal"]
    found = hooks.client.post(
        "/in/here/postal/tracking", data=body, headers=authentic("postal", body)
    )

    assert found.status_code == 200
    assert hooks.post("postal", body).status_code == 404


def test_url_for_gives_the_urls_to_paste(hooks: Hooks) -> None:
    """By the blueprint's name and the ESP's key."""
    with hooks.app.test_request_context(base_url="https://shop.example.org"):
        for kind in ("tracking", "inbound"):
            url = hooks.app.url_for(f"mailesp.{kind}", esp="postal", _external=True)
            assert url == f"https://shop.example.org/mail-hooks/postal/{kind}/"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_another_method_is_a_405(hooks: Hooks, method: str) -> None:
    """Also for a browser that is pointed there."""
    for path in ("/mail-hooks/postal/tracking/", "/mail-hooks/postmark/inbound"):
        assert hooks.client.open(path, method=method).status_code == 405


@pytest.mark.parametrize(
    "path", ["nobody/tracking/", "Postal/tracking/", "postal/sending/", "postal/", "../x", ""]
)
def test_an_unknown_esp_or_kind_is_a_404(hooks: Hooks, path: str) -> None:
    """Whatever the credentials."""
    response = hooks.client.post(f"/mail-hooks/{path}", data=b"{}", headers=basic())

    assert response.status_code == 404


def test_an_esp_without_inbound_mail_has_no_inbound_route(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ESP may lack one of the two webhooks."""
    from dataclasses import replace

    state = hooks.app.extensions["mailesp"]
    esp, settings = state.hook("postal")
    monkeypatch.setitem(state.hooks, "postal", (replace(esp, inbound=None), settings))

    assert hooks.post("postal", MAILS["postal"], kind="inbound").status_code == 404
    assert hooks.post("postal", BODIES["postal"]).status_code == 200


def test_headers_are_found_in_any_case() -> None:
    """As HTTP has it (RFC 9110 section 5.1)."""
    headers = EnvironHeaders({"HTTP_X_A": "1", "CONTENT_TYPE": "text/x", "CONTENT_LENGTH": "3"})

    assert [headers.get(name) for name in ("X-A", "x-a", "X-a", "X-B")] == ["1", "1", "1", None]
    assert (headers.get("content-type"), headers.get("Content-Length")) == ("text/x", "3")


# --- who gets in ---------------------------------------------------------------------------

FORGERIES: list[tuple[str, dict[str, str]]] = [
    ("nothing", {}),
    ("wrong", basic("hook:wrong")),
    ("user only", basic("hook:")),
    ("prefix", basic(SECRET[:-1])),
    ("longer", basic(SECRET + "x")),
    ("no colon", basic("hook")),
    ("non-ASCII", basic("hook:přes")),
    ("other scheme", {"Authorization": "Bearer " + SECRET}),
    ("scheme only", {"Authorization": "Basic"}),
    ("not base64", {"Authorization": "Basic !!!"}),
    ("plain", {"Authorization": f"Basic {SECRET}"}),
    ("empty", {"Authorization": ""}),
    ("two", {"Authorization": "Basic QQ== QQ=="}),
    ("raw bytes", {"Authorization": "Basic h\xe9\xff"}),
    ("signature of nothing", {"X-Postal-Signature-256": "AAAA"}),
]


@each_esp
@pytest.mark.parametrize(
    "headers", [row[1] for row in FORGERIES], ids=[row[0] for row in FORGERIES]
)
def test_who_cannot_prove_it_is_turned_away(
    hooks: Hooks, esp: str, headers: dict[str, str]
) -> None:
    """Missing, malformed and wrong credentials get the same 401, and nothing is parsed."""
    response = hooks.post(esp, BODIES[esp], headers)

    assert (response.status_code, response.data) == (401, b"Not authentic.\n")
    assert hooks.events == []


@each_esp
def test_a_forgery_is_not_parsed(hooks: Hooks, esp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's bytes never reach a parser."""
    from dataclasses import replace

    parsed: list[bytes] = []

    def parse(request: WebhookRequest, settings: Any) -> list[Any]:
        parsed.append(request.body)
        return []

    state = hooks.app.extensions["mailesp"]
    record, settings = state.hook(esp)
    watched = replace(record, tracking=Webhook(record.tracking.verify, parse))
    monkeypatch.setitem(state.hooks, esp, (watched, settings))

    assert hooks.post(esp, BODIES[esp], {}).status_code == 401
    assert parsed == []
    assert hooks.post(esp, BODIES[esp]).status_code == 200
    assert parsed == [BODIES[esp]]


def test_credentials_may_be_rotated() -> None:
    """A list holds the old and the new ones."""
    hooks = hooked_app(POSTMARK_WEBHOOK_SECRET=["old:one", "new:two"])

    for credentials, status in (("old:one", 200), ("new:two", 200), ("old:two", 401)):
        response = hooks.post("postmark", BODIES["postmark"], basic(credentials))
        assert response.status_code == status


def test_5000_forgeries_fill_no_log(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    """A handful of lines, and none with what was sent."""
    client = hooks.client
    headers = basic("hook:Guessed-Pa55")
    for number in range(5000):
        esp = ESPS[number % 2]
        client.post(f"/mail-hooks/{esp}/tracking/", data=b"{ilse@example.net", headers=headers)

    assert 2 <= len(lines(caplog)) <= 6
    assert all("was rejected" in line for line in lines(caplog))
    for word in ("Guessed", "ilse", headers["Authorization"][6:], SECRET):
        assert word not in caplog.text


def test_the_log_says_how_many_lines_it_kept_back(
    hooks: Hooks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an attack is visible; and one ESP's rejections do not silence another's."""
    monkeypatch.setattr("flask_mailesp.views._LOG_EVERY", 0.0)
    hooks.post("postal", b"{}", {})
    monkeypatch.setattr("flask_mailesp.views._LOG_EVERY", 1e9)
    for _ in range(4):
        hooks.post("postal", b"{}", {})
    hooks.post("postmark", b"{}", {})
    log = hooks.app.extensions["mailesp"].webhook_log
    log._next["Postal"] = 0.0
    hooks.post("postal", b"{}", {})

    assert [line.partition(" was")[0] for line in lines(caplog)] == [
        "A webhook of Postal",
        "A webhook of Postal",
        "A webhook of Postmark",
        "A webhook of Postal",
    ]
    assert lines(caplog)[-1].endswith("(3 more since the last such line)")


@pytest.mark.parametrize(
    ("esp", "key"), [("postal", "MAILESP_POSTAL_WEBHOOK_KEY"), ("postmark", "WEBHOOK_SECRET")]
)
def test_without_a_key_nobody_gets_in(esp: str, key: str, caplog: pytest.LogCaptureFixture) -> None:
    """And the log names the key to set. No request is waved through for want of one."""
    hooks = Hooks(bare_app())

    assert hooks.post(esp, BODIES[esp], {}).status_code == 401
    assert hooks.post(esp, BODIES[esp], authentic(esp, BODIES[esp])).status_code == 401
    assert hooks.events == []
    assert key in lines(caplog)[0]


@pytest.mark.parametrize(("mode", "status"), [("DEBUG", 200), ("TESTING", 200), (None, 401)])
@each_esp
def test_allow_insecure_counts_in_debug_and_testing_only(
    esp: str, mode: str | None, status: int
) -> None:
    """Left on in production it does nothing."""
    app = Flask("shop")
    if mode:
        app.config[mode] = True
    app.config["MAILESP_ESP"] = "postmark"
    app.config["POSTMARK_SERVER_TOKEN"] = "t"
    app.config["MAILESP_WEBHOOK_ALLOW_INSECURE"] = True
    MailESP(app)
    hooks = Hooks(app)

    assert hooks.post(esp, BODIES[esp], {}).status_code == status
    assert len(hooks.tracking) == (status == 200)


def test_allow_insecure_does_not_open_what_is_locked() -> None:
    """Where credentials are set they are required, in testing too."""
    app = Flask("shop")
    app.testing = True
    app.config["MAILESP"] = {
        "ESP": "postmark",
        "POSTMARK_SERVER_TOKEN": "t",
        "WEBHOOK_ALLOW_INSECURE": True,
        "WEBHOOK_SECRET": SECRET,
    }
    MailESP(app)

    assert Hooks(app).post("postmark", BODIES["postmark"], {}).status_code == 401


def test_a_broken_setting_of_an_esp_that_does_not_send_is_a_401_and_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Settings of other ESPs are read at their first webhook."""
    hooks = Hooks(bare_app(ESP="postmark", POSTAL_WEBHOOK_KEY="oops"))

    assert hooks.post("postal", BODIES["postal"]).status_code == 401
    assert "POSTAL_WEBHOOK_KEY" in lines(caplog)[0]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), UnicodeError("x"), ConfigurationError("set X")]
)
def test_a_check_that_crashes_proves_nothing(
    hooks: Hooks, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """401, not a 500 that strangers can provoke, and certainly not a 200."""
    from dataclasses import replace

    def verify(*_: Any) -> None:
        raise error

    state = hooks.app.extensions["mailesp"]
    esp, settings = state.hook("postal")
    broken = replace(esp, tracking=Webhook(verify, esp.tracking.parse))
    monkeypatch.setitem(state.hooks, "postal", (broken, settings))

    assert hooks.post("postal", BODIES["postal"]).status_code == 401


# --- sizes ---------------------------------------------------------------------------------


def form_of(size: int) -> bytes:
    return b"id=1&token=t&rcpt_to=a%40example.org&plain_body=" + b"x" * size


def test_a_big_mail_is_not_refused_by_the_app_s_own_limits(hooks: Hooks) -> None:
    """Flask's limits are meant for browsers: 500 kB of form fields by default."""
    hooks.app.config["MAX_CONTENT_LENGTH"] = 1000
    hooks.app.config["MAX_FORM_MEMORY_SIZE"] = 1000
    body = form_of(600_000)
    response = hooks.post(
        "postal",
        body,
        kind="inbound",
        content_type="application/x-www-form-urlencoded",
    )
    assert response.status_code == 200
    assert len(hooks.inbound[0].message.text) == 600_000

    mail = b"Subject: big\r\n\r\n" + b"x" * 15_000_000
    big = encoded(postal_raw(mail))
    assert len(big) > 20_000_000
    assert hooks.post("postal", big, kind="inbound").status_code == 200
    assert hooks.inbound[1].message.raw == mail


def test_the_app_s_limits_still_hold_for_its_other_views(hooks: Hooks) -> None:
    """Only the webhooks are lifted above them."""
    hooks.app.config["MAX_CONTENT_LENGTH"] = 1000
    hooks.app.add_url_rule("/own", view_func=lambda: str(len(request.get_data())), methods=["POST"])

    assert hooks.post("postal", BODIES["postal"] + b" " * 2000, {}).status_code == 401
    assert hooks.client.post("/own", data=b"x" * 2000).status_code == 413


@each_esp
def test_the_package_s_own_limit_answers_413(esp: str) -> None:
    """By its Content-Length, before anything is read."""
    hooks = hooked_app(WEBHOOK_MAX_BYTES=2000)

    assert hooks.post(esp, b" " * 2001, {}).status_code == 413
    assert hooks.post(esp, b" " * 2000, {}).status_code == 401
    assert hooks.post(esp, BODIES[esp]).status_code == 200


def test_a_chunked_body_is_limited_too() -> None:
    """It has no Content-Length to go by; the server marks where it ends."""
    hooks = hooked_app(WEBHOOK_MAX_BYTES=2000)

    def post(body: bytes) -> int:
        environ = {
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "HTTP_TRANSFER_ENCODING": "chunked",
            "HTTP_X_POSTAL_SIGNATURE_256": sha256_only(body)["X-Postal-Signature-256"],
        }
        response = hooks.client.post("/mail-hooks/postal/tracking/", environ_overrides=environ)
        return response.status_code

    assert post(BODIES["postal"]) == 200
    assert post(b"x" * 2001) == 413


# --- receivers -----------------------------------------------------------------------------


@contextmanager
def connected(app: Flask, *receivers: Any, signal: Any = signals.tracking) -> Iterator[None]:
    for receiver in receivers:
        signal.connect(receiver, sender=app)
    try:
        yield
    finally:
        for receiver in receivers:
            signal.disconnect(receiver, sender=app)


@each_esp
def test_a_receiver_that_fails_keeps_the_event_from_nobody(
    hooks: Hooks, esp: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All others run; the answer makes the ESP try again later; the failure is logged."""
    called: list[str] = []

    def make(name: str, error: Exception | None) -> Any:
        def receiver(app: Flask, **extra: Any) -> None:
            called.append(name)
            if error:
                raise error

        return receiver

    receivers = [make(str(n), ValueError("in the shop") if n % 2 else None) for n in range(4)]
    with connected(hooks.app, *receivers):
        response = hooks.post(esp, BODIES[esp])

    assert response.status_code == 503
    assert sorted(called) == ["0", "1", "2", "3"]
    assert len(hooks.tracking) == 1
    assert caplog.text.count("ValueError: in the shop") == 2
    assert hooks.post(esp, BODIES[esp]).status_code == 200


def test_a_receiver_cannot_answer_for_the_app(hooks: Hooks) -> None:
    """An abort(404) in a receiver is a failure like any other: else the event were lost."""

    def receiver(app: Flask, **extra: Any) -> None:
        from flask import abort

        abort(404)

    with connected(hooks.app, receiver):
        assert hooks.post("postal", BODIES["postal"]).status_code == 503


def test_a_receiver_may_be_async(hooks: Hooks) -> None:
    """Flask runs it to its end before the answer goes out."""
    got: list[Any] = []

    async def receiver(app: Flask, event: TrackingEvent, esp_name: str, **extra: Any) -> None:
        await asyncio.sleep(0)
        got.append((app, event.event_type, esp_name))

    with connected(hooks.app, receiver):
        assert hooks.post("postal", BODIES["postal"]).status_code == 200
    assert got == [(hooks.app, "delivered", "Postal")]


def test_an_async_receiver_that_fails_is_a_failure(hooks: Hooks) -> None:
    """Its exception is not lost in a loop."""

    async def receiver(app: Flask, **extra: Any) -> None:
        raise ValueError

    with connected(hooks.app, receiver):
        assert hooks.post("postal", BODIES["postal"]).status_code == 503


def test_an_async_receiver_that_cannot_be_run_is_a_failure(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flask needs an extra to run it; the other receivers run without."""
    monkeypatch.setitem(sys.modules, "asgiref.sync", None)

    async def receiver(app: Flask, **extra: Any) -> None: ...

    with connected(hooks.app, receiver):
        assert hooks.post("postal", BODIES["postal"]).status_code == 503
    assert len(hooks.tracking) == 1


def test_a_receiver_defined_in_a_function_is_not_forgotten(hooks: Hooks) -> None:
    """blinker would drop it silently at the end of the function."""
    got: list[str] = []

    def set_up() -> None:
        @signals.tracking.connect_via(hooks.app)
        def on_tracking(app: Flask, event: TrackingEvent, **extra: Any) -> None:
            got.append(event.event_type)

    import gc

    set_up()
    gc.collect()
    hooks.post("postal", BODIES["postal"])

    assert got == ["delivered"]


def test_the_sender_is_the_app_itself() -> None:
    """Not the current_app proxy; and connect_via(app) hears of that app only."""
    one, two = hooked_app(), hooked_app()
    seen: list[Any] = []

    def everywhere(app: Flask, **extra: Any) -> None:
        seen.append(app)

    signals.tracking.connect(everywhere)
    try:
        one.post("postal", BODIES["postal"])
        two.post("postal", BODIES["postal"])
    finally:
        signals.tracking.disconnect(everywhere)

    assert seen[0] is one.app
    assert seen[1] is two.app
    assert (len(one.tracking), len(two.tracking)) == (1, 1)


def test_an_event_that_nobody_hears_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """For each signal; the ESP is told 200, since trying again would not help."""
    app = hooked_app().app
    signals.tracking._clear_state()
    client = app.test_client()
    for _ in range(3):
        for kind, bodies in (("tracking", BODIES), ("inbound", MAILS)):
            headers = authentic("postal", bodies["postal"])
            path = f"/mail-hooks/postal/{kind}/"
            signals.inbound._clear_state()
            response = client.post(path, data=bodies["postal"], headers=headers)
            assert response.status_code == 200

    assert [line.partition(":")[0] for line in lines(caplog)] == [
        "No receiver is connected to mailesp-tracking",
        "No receiver is connected to mailesp-inbound",
    ]


# --- content -------------------------------------------------------------------------------


@each_esp
def test_what_comes_to_the_wrong_url_is_treated_as_what_it_is(
    hooks: Hooks, esp: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning: two URLs are easily confused in a console."""
    for _ in range(2):
        assert hooks.post(esp, BODIES[esp], kind="inbound").status_code == 200
        assert hooks.post(esp, MAILS[esp], kind="tracking").status_code == 200

    assert (len(hooks.tracking), len(hooks.inbound)) == (2, 2)
    warnings = [line for line in lines(caplog) if "correct the URL" in line]
    assert [line.partition(" URL")[0].split()[-1] for line in warnings] == ["inbound", "tracking"]


BAD_INPUT: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("null", b"null"),
    ("true", b"true"),
    ("number", b"42"),
    ("string", b'"MessageSent"'),
    ("list", b"[]"),
    ("list of events", b"[" + BODIES["postal"] + b"]"),
    ("empty object", b"{}"),
    ("cut off", BODIES["postal"][:-1]),
    ("two values", b"{}{}"),
    ("depth of lists", b"[" * 100_000 + b"]" * 100_000),
    ("depth of objects", b'{"event":' * 100_000),
    ("long integer", b'{"event":"MessageSent","payload":{},"timestamp":' + b"9" * 5000 + b"}"),
    ("NaN", b'{"event":"MessageSent","payload":{"timestamp":NaN},"timestamp":NaN}'),
    ("Infinity", b'{"event":"MessageSent","payload":{"timestamp":-Infinity}}'),
    ("1e400", b'{"event":"MessageSent","payload":{},"timestamp":1e400}'),
    ("huge time", b'{"event":"MessageSent","payload":{},"timestamp":1e18}'),
    ("lone surrogate", b'{"event":"\\ud800","payload":{},"uuid":"\\udfff"}'),
    ("NUL", b'{"event":"\\u0000","payload":{},"uuid":"\\u0000"}'),
    ("raw NUL", b"\x00"),
    ("UTF-16", b'{"event":1,"payload":2}'.decode().encode("utf-16")),
    ("UTF-32", b'{"event":1,"payload":2}'.decode().encode("utf-32")),
    ("BOM", b"\xef\xbb\xbf{}"),
    ("Latin-1", b'{"event":"caf\xe9","payload":{}}'),
    ("gzip", gzip.compress(BODIES["postal"])),
    ("form", b"event=MessageSent&payload=1"),
    ("multipart", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--"),
    ("duplicate keys", b'{"event":"x","event":"MessageSent","payload":{},"payload":{"message":1}}'),
    ("RecordType odd", b'{"RecordType":["Bounce"],"Type":{},"ID":[]}'),
    ("RecordType unknown", b'{"RecordType":"Painted","MessageID":7}'),
    ("everything null", b'{"RecordType":null,"event":null,"payload":null,"message":null}'),
]
CONTENT_TYPES = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain; charset=utf-16",
    "",
]


@pytest.mark.parametrize("body", [row[1] for row in BAD_INPUT], ids=[row[0] for row in BAD_INPUT])
@pytest.mark.parametrize("kind", ["tracking", "inbound"])
@each_esp
def test_authentic_nonsense_is_an_unknown_event(
    hooks: Hooks, esp: str, kind: str, body: bytes
) -> None:
    """200, never a 500 that would come back for hours; what came is kept, decoded or raw."""
    for content_type in CONTENT_TYPES:
        response = hooks.post(esp, body, kind=kind, content_type=content_type)
        assert response.status_code == 200

    assert len(hooks.tracking) == len(CONTENT_TYPES)
    for event in hooks.tracking:
        assert event.event_type == "unknown"
        assert event.esp_event == body or isinstance(event.esp_event, dict)
        assert len(event.key) == 64


@each_esp
def test_what_cannot_be_read_is_logged_without_its_content(
    hooks: Hooks, esp: str, caplog: pytest.LogCaptureFixture
) -> None:
    """How much it was, so that it can be found at the ESP."""
    hooks.post(esp, b"ilse@example.net")

    assert lines(caplog) == [
        f"A webhook of {'Postal' if esp == 'postal' else 'Postmark'} is not readable (16 bytes)."
    ]


def test_a_parser_that_crashes_loses_nothing(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Parsers promise not to; if one does, its bytes are an unknown event."""
    from dataclasses import replace

    def parse(*_: Any) -> list[Any]:
        raise ZeroDivisionError

    state = hooks.app.extensions["mailesp"]
    esp, settings = state.hook("postal")
    broken = replace(esp, tracking=Webhook(esp.tracking.verify, parse))
    monkeypatch.setitem(state.hooks, "postal", (broken, settings))

    assert hooks.post("postal", BODIES["postal"]).status_code == 200
    assert hooks.post("postal", BODIES["postal"]).status_code == 200
    assert [event.esp_event for event in hooks.tracking] == [BODIES["postal"]] * 2
    assert len({event.key for event in hooks.tracking}) == 1
    assert "could not be read" in caplog.text


def test_the_raw_body_is_read_even_if_the_app_has_read_it_before(hooks: Hooks) -> None:
    """An app's own before_request may keep the body; the bytes stay the same."""
    hooks.app.before_request(lambda: (request.get_data(cache=True), None)[1])

    assert hooks.post("postal", BODIES["postal"]).status_code == 200


# --- other extensions ----------------------------------------------------------------------


@pytest.mark.parametrize("csrf_first", [True, False], ids=["csrf first", "mail first"])
@each_esp
def test_csrf_protection_does_not_stop_webhooks(esp: str, csrf_first: bool) -> None:
    """Whichever extension comes first; the app's own forms stay protected."""
    app = Flask("shop")
    app.secret_key = "k"
    app.config["MAILESP"] = {
        "ESP": "postmark",
        "POSTMARK_SERVER_TOKEN": "t",
        "POSTMARK_WEBHOOK_SECRET": SECRET,
        "POSTAL_WEBHOOK_KEY": hooked_key(),
    }
    extensions = [CSRFProtect(), MailESP()]
    for extension in extensions if csrf_first else reversed(extensions):
        extension.init_app(app)
    app.add_url_rule("/form", view_func=lambda: "saved", methods=["POST"])
    hooks = Hooks(app)

    for _ in range(2):
        assert hooks.post(esp, BODIES[esp]).status_code == 200
        assert hooks.post(esp, MAILS[esp], kind="inbound").status_code == 200
        assert hooks.post(esp, BODIES[esp], {}).status_code == 401
        assert hooks.client.post("/form").status_code == 400
    assert len(hooks.events) == 4


def hooked_key() -> str:
    from webhook_kit import pem

    return pem()


def test_an_app_s_own_login_wall_must_let_the_blueprint_through(hooks: Hooks) -> None:
    """A before_request of the app comes first; it knows webhooks by ``request.blueprint``."""
    walls = {"open": False}

    @hooks.app.before_request
    def wall() -> Any:
        if walls["open"] and request.blueprint == "mailesp":
            return None
        return redirect("/login")

    assert hooks.post("postal", BODIES["postal"]).status_code == 302
    assert hooks.events == []
    walls["open"] = True
    assert hooks.post("postal", BODIES["postal"]).status_code == 200
    assert hooks.client.get("/").status_code == 302


def test_an_app_s_error_pages_do_not_change_the_status(hooks: Hooks) -> None:
    """Handlers for 401 or 503 are for people."""
    for code in (401, 503):
        hooks.app.register_error_handler(code, lambda error: ("pretty", 200))

    assert hooks.post("postal", BODIES["postal"], {}).status_code == 401


# --- a real server -------------------------------------------------------------------------


@contextmanager
def serving(app: Flask) -> Iterator[tuple[str, int]]:
    """Werkzeug's threaded server, which also takes chunked bodies."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield "127.0.0.1", server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_over_a_real_server(hooks: Hooks) -> None:
    """The same answers over HTTP, chunked bodies and non-ASCII headers included."""
    limited = hooked_app(WEBHOOK_MAX_BYTES=100_000)
    path = "/mail-hooks/postal/tracking/"
    body = BODIES["postal"]
    signed = sha256_only(body)

    def ask(method: str, data: Any, headers: dict[str, str], chunked: bool = False) -> int:
        connection = http.client.HTTPConnection(address[0], address[1], timeout=10)
        try:
            connection.request(method, path, data, headers, encode_chunked=chunked)
            return connection.getresponse().status
        finally:
            connection.close()

    with serving(limited.app) as address:
        assert ask("POST", body, signed) == 200
        assert ask("POST", iter([body[:50], body[50:]]), signed, chunked=True) == 200
        assert ask("POST", body, {"X-Postal-Signature-256": "\xe9\xff"}) == 401
        assert ask("POST", body, {}) == 401
        assert ask("GET", None, {}) == 405
        assert ask("PUT", body, signed) == 405
        assert ask("POST", iter([b"x" * 60_000] * 2), {}, chunked=True) == 413
    assert [event.event_type for event in limited.tracking] == ["delivered"] * 2


@each_esp
def test_all_samples_pass_through_the_view(hooks: Hooks, esp: str) -> None:
    """Every payload of the kit is one event of its kind."""
    for payload in TRACKING[esp]:
        assert hooks.post(esp, encoded(payload)).status_code == 200
    for payload in INBOUND[esp]:
        assert hooks.post(esp, encoded(payload), kind="inbound").status_code == 200

    assert len(hooks.tracking) == len(TRACKING[esp])
    assert len(hooks.inbound) == len(INBOUND[esp])
    assert "unknown" not in [event.event_type for event in hooks.tracking]


def test_a_receiver_sees_everything_while_the_request_lasts(hooks: Hooks) -> None:
    """It runs inside the app and request context, so it may use the app's database."""
    seen: list[str] = []

    def receiver(app: Flask, event: InboundEvent, **extra: Any) -> None:
        seen.append(f"{request.path} {len(jsonify(event.esp_event).get_data()) > 100}")

    with connected(hooks.app, receiver, signal=signals.inbound):
        hooks.post("postal", encoded(postal_hash()), kind="inbound")

    assert seen == ["/mail-hooks/postal/inbound/ True"]
    assert json.loads(encoded(postal_hash())) == hooks.inbound[0].esp_event


def test_the_answer_is_a_plain_response(hooks: Hooks) -> None:
    """After-request hooks of the app may add their headers."""

    @hooks.app.after_request
    def add(response: Response) -> Response:
        response.headers["X-Frame-Options"] = "DENY"
        return response

    assert hooks.post("postal", BODIES["postal"]).headers["X-Frame-Options"] == "DENY"


@each_esp
def test_a_hook_that_reads_the_form_first_takes_nothing_away(hooks: Hooks, esp: str) -> None:
    """Werkzeug's form parser uses the stream up; the event must arrive all the same."""
    left: list[int] = []

    @hooks.app.before_request
    def look() -> None:
        request.values.get("lang")

    @hooks.app.after_request
    def audit(response: Response) -> Response:
        left.append(len(request.get_data()))
        return response

    body = BODIES[esp]
    response = hooks.app.test_client().post(
        f"/mail-hooks/{esp}/tracking/",
        data=body,
        headers=authentic(esp, body),
        content_type="application/x-www-form-urlencoded",
    )

    assert response.status_code == 200
    assert len(hooks.tracking) == 1
    assert left == [len(body)]


def test_the_body_of_a_request_to_no_esp_is_not_read(hooks: Hooks) -> None:
    response = hooks.app.test_client().post("/mail-hooks/nobody/tracking/", data=b"x" * 100)

    assert response.status_code == 404
