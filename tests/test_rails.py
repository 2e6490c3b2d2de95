"""Safety rails: in staging, mail goes where it may, and the app is told the truth."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import pytest
from conftest import MakeApp
from flask import Flask
from scripted import Reply, Request, ScriptedServer, scripted

from flask_mailesp import MailESP, Message, SendResult, signals
from flask_mailesp.exceptions import (
    ConfigurationError,
    RecipientsRefusedError,
    SendUncertainError,
    SerializationError,
)

MAIL = MailESP()


def answer(request: Request) -> Reply:
    """Accept whatever comes, as Postmark does."""
    one = {"ErrorCode": 0, "Message": "OK", "MessageID": "id"}
    body = json.loads(request.body)
    items = body.get("Messages") if isinstance(body, dict) else body
    return Reply(200, json.dumps(one if items is None else [one] * len(items)).encode())


def app_for(make_app: MakeApp, server: ScriptedServer, **rails: Any) -> Flask:
    return make_app(
        MAIL,
        MAILESP_ESP="postmark",
        MAILESP_POSTMARK_SERVER_TOKEN="token",
        MAILESP_POSTMARK_API_URL=server.url,
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.org"},
        **{f"MAILESP_{name}": value for name, value in rails.items()},
    )


def send(app: Flask, message: Message, *, many: bool) -> SendResult:
    """Send one message, alone or as one of many: the rails hold for both."""
    with app.app_context():
        if many:
            (result,) = MAIL.send_many([message])
            return result.raise_for_error()
        return MAIL.send(message)


def sent(server: ScriptedServer) -> dict[str, Any]:
    (request,) = server.requests
    body = json.loads(request.body)
    body = body.get("Messages", body) if isinstance(body, dict) else body
    found: dict[str, Any] = body[0] if isinstance(body, list) else body
    return found


both = pytest.mark.parametrize("many", [False, True], ids=["send", "send_many"])


# --- redirect --------------------------------------------------------------------------


@both
def test_redirected_mail_goes_to_one_mailbox(make_app: MakeApp, many: bool) -> None:
    """The app finds its recipients in the result, which says where the mail went instead."""
    message = Message("Hi", "bea@example.com", "Hi", cc="carl@example.net", bcc="d@example.net")
    with scripted(answer) as server:
        app = app_for(make_app, server, REDIRECT_TO="Staging <stage@example.org>")
        result = send(app, message, many=many)

    assert sent(server)["To"] == "Staging <stage@example.org>"
    assert not {"Cc", "Bcc"} & sent(server).keys()
    assert list(result.recipients) == ["bea@example.com", "carl@example.net", "d@example.net"]
    assert (result.outcome, result.message_id) == ("accepted", "id")
    assert "MAILESP_REDIRECT_TO" in result.recipients["bea@example.com"].description


@both
def test_of_a_redirected_batch_one_copy_goes_out(make_app: MakeApp, many: bool) -> None:
    """The first one's, with its own data; a staging mailbox need not get a thousand."""
    rows = {"bea@example.com": {"name": "Bea"}, "carl@example.net": {"name": "Carl"}}
    message = Message(to=list(rows), template_id="welcome", merge_data=rows)
    with scripted(answer) as server:
        result = send(app_for(make_app, server, REDIRECT_TO="s@example.org"), message, many=many)

    assert sent(server)["To"] == "s@example.org"
    assert sent(server)["TemplateModel"] == {"name": "Bea"}
    assert [str(entry.status) for entry in result.recipients.values()] == ["sent", "sent"]


@both
def test_esp_extra_is_no_way_past_the_rails(
    make_app: MakeApp, many: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is merged into the request last; recipients in it are left out, and that is logged."""
    extra = {"Bcc": "real@example.com", "MessageStream": "broadcast"}
    message = Message("Hi", "bea@example.com", "Hi", esp_extra=extra)
    with scripted(answer) as server:
        send(app_for(make_app, server, REDIRECT_TO="s@example.org"), message, many=many)

    assert "Bcc" not in sent(server)
    assert sent(server)["MessageStream"] == "broadcast"
    assert "esp_extra" in caplog.text
    assert "real@example.com" not in caplog.text


# --- allowed recipients ----------------------------------------------------------------


@both
def test_mail_goes_to_allowed_recipients_only(make_app: MakeApp, many: bool) -> None:
    """The others are reported as refused; the ESP never hears of them."""
    to = ["bea@Example.com", "carl@example.net"]
    message = Message("Hi", to, "Hi", cc="evil@example.com.example.net", bcc="qa@example.org")
    allow = ["*@example.com", "QA@example.org"]
    with scripted(answer) as server:
        result = send(app_for(make_app, server, ALLOW_RECIPIENTS=allow), message, many=many)

    assert (sent(server)["To"], sent(server)["Bcc"]) == ("bea@Example.com", "qa@example.org")
    assert b"example.net" not in server.requests[0].body
    assert result.outcome == "partial"
    assert {address: str(entry.status) for address, entry in result.recipients.items()} == {
        "bea@Example.com": "sent",
        "carl@example.net": "rejected",
        "evil@example.com.example.net": "rejected",
        "qa@example.org": "sent",
    }


@both
@pytest.mark.parametrize("merge", [None, {}], ids=["plain", "batch"])
def test_a_message_to_nobody_allowed_is_refused(
    make_app: MakeApp, many: bool, merge: dict[str, Any] | None
) -> None:
    """Without a request. Of a batch, a cc alone gets no copy."""
    cc = None if merge is None else "bea@example.com"
    message = Message("Hi", "carl@example.net", "Hi", cc=cc, merge_metadata=merge)
    with scripted(answer) as server:
        app = app_for(make_app, server, ALLOW_RECIPIENTS="*@example.com")
        with pytest.raises(RecipientsRefusedError, match="MAILESP_ALLOW_RECIPIENTS") as caught:
            send(app, message, many=many)

    result = caught.value.result
    assert result is not None
    assert (result.outcome, result.error) == ("refused", caught.value)
    assert {str(status) for status in result.status} == {"rejected"}
    assert server.connections == 0


def test_an_error_tells_of_those_who_were_held_back_too(make_app: MakeApp) -> None:
    """error.result is the result, with everybody in it."""
    message = Message("Hi", ["bea@example.com", "carl@example.net"], "Hi")
    with scripted(Reply(500, b"oops")) as server:
        app = app_for(make_app, server, ALLOW_RECIPIENTS=["*@example.com"])
        with app.app_context():
            (result,) = MAIL.send_many([message])

    assert isinstance(result.error, SendUncertainError)
    assert result.error.result is result
    assert [str(entry.status) for entry in result.recipients.values()] == ["unknown", "rejected"]


# --- suppressed ------------------------------------------------------------------------


@both
def test_suppressed_mail_is_built_and_goes_nowhere(
    make_app: MakeApp, many: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is reported as accepted, nothing is raised; the first one says so in the log."""
    heard: list[SendResult] = []

    def after(app: Flask, result: SendResult, **extra: Any) -> None:
        heard.append(result)

    caplog.set_level(logging.WARNING, "flask_mailesp")
    with scripted(answer) as server:
        app = app_for(make_app, server, SUPPRESS_SEND=True)
        with signals.post_send.connected_to(after, app):
            results = [
                send(app, Message("Hi", "bea@example.com", "Hi"), many=many) for _ in range(3)
            ]

    assert server.connections == 0
    assert {result.outcome for result in results} == {"cancelled"}
    assert results[0].recipients["bea@example.com"].status == "failed"
    assert "MAILESP_SUPPRESS_SEND" in results[0].recipients["bea@example.com"].description
    assert heard == results
    assert [record.message for record in caplog.records] == [
        "MAILESP_SUPPRESS_SEND is on: this and further mail is not sent."
    ]


@both
def test_suppressed_mail_fails_where_it_could_not_be_built(make_app: MakeApp, many: bool) -> None:
    """Everything but the network runs."""
    message = Message("Hi", "bea@example.com", "Hi", esp_extra={"odd": object()})
    with scripted(answer) as server:
        app = app_for(make_app, server, SUPPRESS_SEND=True)
        with pytest.raises(SerializationError):
            send(app, message, many=many)


def test_the_outbox_of_tests_has_what_rails_changed(make_app: MakeApp) -> None:
    """As the ESP would have got it; what is suppressed was not sent there either."""
    with scripted(answer) as server:
        redirected = app_for(make_app, server, REDIRECT_TO="s@example.org")
        suppressed = app_for(make_app, server, SUPPRESS_SEND=True)
        for app, count in ((redirected, 1), (suppressed, 0)):
            with app.app_context(), MAIL.record_messages() as outbox:
                MAIL.send(Message("Hi", "bea@example.com", "Hi"))
            assert [str(message.to[0]) for message in outbox] == ["s@example.org"] * count

    assert server.connections == 0


# --- through strategies ----------------------------------------------------------------

TWO = ["one", "two"]
strategies = pytest.mark.parametrize(
    "strategy", [{"failover": TWO}, {"round_robin": TWO}], ids=["failover", "round robin"]
)
# With and without batches, and one of each.
esps = pytest.mark.parametrize(
    "esps",
    [("postmark", "postmark"), ("postal", "postal"), ("postmark", "postal")],
    ids=" and ".join,
)


def answer_each(request: Request) -> Reply:
    """Accept whatever comes, as Postmark or Postal does."""
    if not request.target.startswith("/api/v1/"):
        return answer(request)
    to = json.loads(request.body)["to"]
    data = {"message_id": "m", "messages": {item: {"id": 1, "token": "t"} for item in to}}
    return Reply(200, json.dumps({"status": "success", "data": data}).encode())


def strategic(
    make_app: MakeApp,
    servers: tuple[ScriptedServer, ScriptedServer],
    strategy: dict[str, Any],
    esps: tuple[str, str],
    **rails: Any,
) -> Flask:
    """Make an app that sends through a strategy over two members, each with its own server."""
    members = {
        name: {"esp": esp, "api_url": server.url}
        for name, esp, server in zip(TWO, esps, servers, strict=True)
    }
    return make_app(
        MAIL,
        MAILESP_POSTMARK_SERVER_TOKEN="token",
        MAILESP_POSTAL_API_KEY="key",
        MAILESP_SEND_DEFAULTS={"sender": "shop@example.org"},
        MAILESP_MAILERS={"default": strategy, **members},
        **{f"MAILESP_{name}": value for name, value in rails.items()},
    )


def three(app: Flask, *, many: bool) -> list[SendResult]:
    """Send three messages to two people, one at a time or all at once."""
    to = ["bea@example.com", "carl@example.net"]
    messages = [Message("Hi", to, "Hi") for _ in range(3)]
    with app.app_context():
        if many:
            return list(MAIL.send_many(messages))
        return [told(message) for message in messages]


def told(message: Message) -> SendResult:
    """Send one message; return its result, be it in an error."""
    try:
        return MAIL.send(message)
    except RecipientsRefusedError as error:
        return cast("SendResult", error.result)


@both
@esps
@strategies
def test_no_member_gets_what_is_suppressed(
    make_app: MakeApp,
    strategy: dict[str, Any],
    esps: tuple[str, str],
    many: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the first nor whoever stands in for it; the log tells of it once."""
    with scripted(answer_each) as one, scripted(answer_each) as two:
        app = strategic(make_app, (one, two), strategy, esps, SUPPRESS_SEND=True)
        results = three(app, many=many)

    assert (one.connections, two.connections) == (0, 0)
    assert [(str(result.outcome), result.attempts) for result in results] == [("cancelled", ())] * 3
    assert "MAILESP_SUPPRESS_SEND" in results[0].recipients["bea@example.com"].description
    assert len(caplog.records) == 1


@both
@esps
@strategies
def test_no_member_gets_what_may_go_to_nobody(
    make_app: MakeApp, strategy: dict[str, Any], esps: tuple[str, str], many: bool
) -> None:
    """What the first may not send is not for the second either."""
    with scripted(answer_each) as one, scripted(answer_each) as two:
        app = strategic(make_app, (one, two), strategy, esps, ALLOW_RECIPIENTS=["*@example.org"])
        results = three(app, many=many)

    assert (one.connections, two.connections) == (0, 0)
    assert [str(result.outcome) for result in results] == ["refused"] * 3
    assert {type(result.error) for result in results} == {RecipientsRefusedError}
    assert list(results[0].recipients) == ["bea@example.com", "carl@example.net"]


@both
@esps
@strategies
@pytest.mark.parametrize(
    ("rails", "target", "rejected"),
    [
        ({"REDIRECT_TO": "s@example.org"}, "s@example.org", []),
        ({"ALLOW_RECIPIENTS": ["bea@*"]}, "bea@example.com", ["carl@example.net"]),
    ],
    ids=["redirect", "allow"],
)
def test_what_moves_on_keeps_within_the_rails(
    make_app: MakeApp,
    strategy: dict[str, Any],
    esps: tuple[str, str],
    many: bool,
    rails: dict[str, Any],
    target: str,
    rejected: list[str],
) -> None:
    """The second member gets what the first would have sent; the app hears of its recipients."""
    with scripted(Reply(401, b"{}")) as one, scripted(answer_each) as two:
        app = strategic(make_app, (one, two), strategy, esps, **rails)
        results = three(app, many=many)

    assert one.requests
    assert two.requests
    bodies = [request.body.decode() for request in (*one.requests, *two.requests)]
    for address in ("bea@example.com", "carl@example.net", "s@example.org"):
        assert [address in body for body in bodies] == [address == target] * len(bodies)
    for result in results:
        assert result.outcome == ("partial" if rejected else "accepted")
        assert list(result.recipients) == ["bea@example.com", "carl@example.net"]
        held = [name for name, entry in result.recipients.items() if entry.status == "rejected"]
        assert held == rejected


# --- configuration ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"REDIRECT_TO": "nobody"}, "MAILESP_REDIRECT_TO"),
        ({"REDIRECT_TO": "a@example.com, b@example.com"}, "MAILESP_REDIRECT_TO"),
        ({"ALLOW_RECIPIENTS": ["example.com"]}, "MAILESP_ALLOW_RECIPIENTS"),
        ({"ALLOW_RECIPIENTS": 7}, "MAILESP_ALLOW_RECIPIENTS"),
        ({"SUPPRESS_SEND": "perhaps"}, "MAILESP_SUPPRESS_SEND"),
        (
            {"REDIRECT_TO": "s@example.org", "ALLOW_RECIPIENTS": ["*@example.com"]},
            "does not allow the address in MAILESP_REDIRECT_TO",
        ),
    ],
)
def test_rails_that_make_no_sense_keep_the_app_from_starting(
    make_app: MakeApp, config: dict[str, Any], text: str
) -> None:
    """A rail that silently does nothing is worse than none."""
    with scripted(answer) as server, pytest.raises(ConfigurationError, match=text):
        app_for(make_app, server, **config)
