"""The extension: apps, mailers, and sending in an app's context."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import CREDENTIALS, MakeApp
from flask import Flask
from scripted import Reply, Request, ScriptedServer, scripted

from flask_mailesp import MailESP, Message, Outcome
from flask_mailesp.exceptions import APIError, ConfigurationError, InvalidMessageError

HELLO: dict[str, Any] = {
    "subject": "Hi",
    "to": "you@example.com",
    "body": "Hi",
    "sender": "me@example.com",
}


def accept(request: Request) -> Reply:
    """Accept a message as Postmark does; the id tells which credential was used.

    In upper case: what repeats a credential is blotted out.
    """
    token = request.headers["x-postmark-server-token"].upper()
    return Reply(200, json.dumps({"ErrorCode": 0, "MessageID": f"id-{token}"}).encode())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Return a server that accepts every message."""
    with scripted(accept) as running:
        yield running


def keys(server: ScriptedServer, token: str = "") -> dict[str, Any]:
    """Return the configuration for sending through a local server."""
    return {
        **CREDENTIALS["postmark"],
        "MAILESP_POSTMARK_API_URL": server.url,
        **({"MAILESP_POSTMARK_SERVER_TOKEN": token} if token else {}),
    }


# --- apps ------------------------------------------------------------------------------


def test_a_message_is_sent_in_the_apps_context(make_app: MakeApp, server: ScriptedServer) -> None:
    """From the message to the id."""
    mail = MailESP()
    with make_app(mail, **keys(server)).app_context():
        result = mail.send(Message(**HELLO))

    assert (result.outcome, result.message_id) == (Outcome.ACCEPTED, "id-TOKEN")
    assert result.recipients["you@example.com"].message_id == "id-TOKEN"
    assert result.esp_name == "Postmark"
    assert len(server.requests) == 1


def test_an_app_may_be_given_at_once() -> None:
    """MailESP(app) is init_app(app)."""
    app = Flask("tests", root_path=".")
    app.config.update(CREDENTIALS["postmark"])
    MailESP(app)

    assert "mailesp" in app.extensions
    assert "mailesp" in app.blueprints


def test_one_object_serves_many_apps_with_their_own_credentials(
    make_app: MakeApp, server: ScriptedServer
) -> None:
    """In turn and nested; nothing is kept on the object."""
    mail = MailESP()
    apps = [make_app(mail, **keys(server, f"t{number}")) for number in range(3)]
    ids = []
    with ExitStack() as stack:
        for app in apps:
            stack.enter_context(app.app_context())
            ids.append(mail.send(Message(**HELLO)).message_id)
    for app in reversed(apps):
        with app.app_context():
            ids.append(mail.send(Message(**HELLO)).message_id)

    assert ids == ["id-T0", "id-T1", "id-T2", "id-T2", "id-T1", "id-T0"]
    assert vars(mail) == {}


def test_an_app_is_initialised_once(app: Flask) -> None:
    """A second time would register the routes twice."""
    with pytest.raises(RuntimeError, match=r"call init_app\(\) once per app"):
        MailESP().init_app(app)


def test_outside_an_apps_context_nothing_can_be_sent() -> None:
    """Flask says so; making a message needs none."""
    with pytest.raises(RuntimeError, match="application context"):
        MailESP().send(Message(**HELLO))


def test_an_app_without_the_extension_says_what_to_call() -> None:
    """Forgetting init_app() is common with app factories."""
    mail = MailESP()
    with Flask("tests", root_path=".").app_context():
        actions: list[Callable[[], object]] = [
            lambda: mail.send(Message(**HELLO)),
            lambda: mail.using("default"),
            lambda: mail.send_many([]),
        ]
        for action in actions:
            with pytest.raises(RuntimeError, match=r"mail.init_app\(app\) first"):
                action()


def test_configuration_is_read_once(make_app: MakeApp, server: ScriptedServer) -> None:
    """What changes later in app.config has no effect."""
    mail = MailESP()
    app = make_app(mail, **keys(server))
    app.config["MAILESP_POSTMARK_SERVER_TOKEN"] = "other"
    with app.app_context():
        assert mail.send(Message(**HELLO)).message_id == "id-TOKEN"


def test_defaults_reach_the_wire(make_app: MakeApp, server: ScriptedServer) -> None:
    """And what a message gives stands before them."""
    mail = MailESP()
    defaults = {"sender": "App <app@example.com>", "tags": "news", "track_opens": True}
    app = make_app(mail, **keys(server), MAILESP_SEND_DEFAULTS=defaults)
    with app.app_context():
        mail.send(Message("Hi", "you@example.com", "Hi", track_opens=False))
        mail.send(Message("Hi", "you@example.com", "Hi", tags=None, track_opens=None))

    one, other = (json.loads(request.body) for request in server.requests)
    assert (one["From"], one["Tag"], one["TrackOpens"]) == ("App <app@example.com>", "news", False)
    assert "Tag" not in other
    assert "TrackOpens" not in other


# --- mailers ---------------------------------------------------------------------------


def test_mailers_have_their_own_credentials_and_settings(
    make_app: MakeApp, server: ScriptedServer
) -> None:
    """By argument or bound; what a mailer does not set is the app's."""
    mail = MailESP()
    bulk = {"server_token": "bulk", "send_defaults": {"tags": "bulk"}}
    app = make_app(mail, **keys(server), MAILESP_MAILERS={"bulk": bulk})
    with app.app_context():
        message = Message(**HELLO)
        ids = [
            mail.send(message).message_id,
            mail.send(message, using="bulk").message_id,
            mail.using("bulk").send(message).message_id,
            mail.using("default").send(message).message_id,
            *(result.message_id for result in mail.send_many([message], using="bulk")),
            *(result.message_id for result in mail.using("bulk").send_many([message])),
        ]

    assert ids[:4] == ["id-TOKEN", "id-BULK", "id-BULK", "id-TOKEN"]
    tokens = [request.headers["x-postmark-server-token"] for request in server.requests]
    assert tokens == ["token", "bulk", "bulk", "token", "bulk", "bulk"]
    tags = [json.loads(request.body).get("Tag") for request in server.requests[:4]]
    assert tags == [None, "bulk", "bulk", None]


def test_an_app_may_have_named_mailers_only(make_app: MakeApp, server: ScriptedServer) -> None:
    """The one named default is used where none is named, and needs no MAILESP_ESP."""
    mail = MailESP()
    spec = {"esp": "postmark", "server_token": "own", "api_url": server.url}
    with make_app(mail, MAILESP_MAILERS={"default": spec}).app_context():
        assert mail.send(Message(**HELLO)).message_id == "id-OWN"


def test_mailers_may_use_different_esps(make_app: MakeApp) -> None:
    """Each with the settings of its own ESP."""
    mailers = {"own": {"esp": "postal"}}
    app = make_app(
        **CREDENTIALS["postmark"],
        MAILESP_POSTAL_API_KEY="key",
        POSTAL_API_URL="https://postal.example.com/api/v1/",
        MAILESP_MAILERS=mailers,
    )
    found = app.extensions["mailesp"].mailers

    assert {name: mailer.esp.name for name, mailer in found.items()} == {
        "default": "Postmark",
        "own": "Postal",
    }
    assert found["own"].settings["API_URL"] == "https://postal.example.com"


def test_an_unknown_mailer_is_named_with_the_nearest_one(make_app: MakeApp) -> None:
    """Before anything is sent."""
    mail = MailESP()
    app = make_app(mail, **CREDENTIALS["postmark"], MAILESP_MAILERS={"bulk": {}})
    with app.app_context():
        uses: list[Callable[[], object]] = [
            lambda: mail.using("bluk"),
            lambda: mail.send(Message(**HELLO), using="bluk"),
            lambda: mail.send_many([], using="bluk"),
        ]
        for use in uses:
            with pytest.raises(ConfigurationError, match="named 'bluk'") as caught:
                use()
            assert "Did you mean 'bulk'?" in str(caught.value)


# --- sending ---------------------------------------------------------------------------


def test_errors_before_the_request_are_raised_and_nothing_is_sent(
    make_app: MakeApp, server: ScriptedServer
) -> None:
    """With the ESP's name; there is no result, since nothing was begun."""
    mail = MailESP()
    with make_app(mail, **keys(server)).app_context():
        with pytest.raises(InvalidMessageError) as caught:
            mail.send(Message("Hi", "you@example.com", "Hi"))
        with pytest.raises(TypeError, match=r"flask_mailesp.Message can be sent, not a dict"):
            mail.send(HELLO)  # type: ignore[arg-type]

    assert (caught.value.esp_name, caught.value.result) == ("Postmark", None)
    assert server.requests == []


def test_a_refusal_is_raised_with_its_result(make_app: MakeApp) -> None:
    """Every error after a request carries what is known about each recipient."""
    mail = MailESP()
    answer = Reply(422, b'{"ErrorCode": 1101, "Message": "no such template"}')
    with (
        scripted(answer) as server,
        make_app(mail, **keys(server)).app_context(),
        pytest.raises(APIError) as caught,
    ):
        mail.send(Message(**HELLO))

    result = caught.value.result
    assert result is not None
    assert (result.error, result.outcome) == (caught.value, Outcome.REFUSED)
    assert result.status == {"failed"}


def test_exchanges_are_logged_where_asked_for(
    make_app: MakeApp, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Sizes and counts; neither the address nor the text nor the credential."""
    mail = MailESP()
    caplog.set_level(logging.DEBUG)
    for debug in (False, True):
        app = make_app(mail, **keys(server, "canary"), MAILESP_DEBUG_API_REQUESTS=debug)
        with app.app_context():
            mail.send(Message(**HELLO))
        ours = [entry.getMessage() for entry in caplog.records if "mailesp" in entry.name]
        assert len(ours) == 2 * debug

    assert ours[0].startswith("Postmark: POST /email, ")
    assert not {"canary", "you@example.com", "Hi"} & set(ours[0].split())
    assert "canary" not in caplog.text
