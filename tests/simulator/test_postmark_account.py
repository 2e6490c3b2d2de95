"""Postmark's endpoints around sending: server, streams, suppressions, webhooks and look-ups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flask_mailesp.simulator import LocalServer, Simulator

from .conftest import POSTMARK_TOKEN, Application, Client

MESSAGE = {"From": "shop@example.org", "To": "bea@example.com", "TextBody": "Hi"}
ALL_TRIGGERS = {
    name: {"Enabled": True}
    for name in ("Open", "Click", "Delivery", "Bounce", "SpamComplaint", "SubscriptionChange")
}


def call(client: Client, method: str, path: str, body: Any = None) -> Any:
    """The status and the decoded answer of one request."""
    answer = client.session.request(
        method, client.url + path, json=body, headers=client.headers, timeout=10
    )
    return answer.status_code, answer.json()


def ok(client: Client, method: str, path: str, body: Any = None) -> Any:
    status, answer = call(client, method, path, body)
    assert status == 200, answer
    return answer


def code(client: Client, method: str, path: str, body: Any = None) -> tuple[int, int]:
    status, answer = call(client, method, path, body)
    return status, answer["ErrorCode"]


# -- server ---------------------------------------------------------------------------------


def test_the_server_shows_and_takes_its_inbound_hook(
    postmark: Client, sim: Simulator, application: Application
) -> None:
    """InboundHookUrl is where inbound mail goes, whoever set it."""
    url = application.hook("/inbound/")

    changed = ok(postmark, "PUT", "/server", {"InboundHookUrl": url, "Name": "Shop"})
    sim.receive("postmark", b"From: a@example.com\r\n\r\nHi", to="help@example.org")

    assert (changed["InboundHookUrl"], changed["Name"]) == (url, "Shop")
    assert changed == ok(postmark, "GET", "/server")
    assert changed["ApiTokens"] == [POSTMARK_TOKEN]
    assert application.last.path == "/inbound/"
    assert ok(postmark, "PUT", "/server", {"InboundHookUrl": ""})["InboundHookUrl"] == ""


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ({"InboundHookUrl": "nowhere"}, 606),
        ({"InboundHookUrl": "http://[/"}, 606),
        ({"TrackOpens": "yes"}, 603),
        ({"DeliveryType": "Sandbox"}, 603),
        ({"Unknown": 1}, 603),
    ],
)
def test_what_the_server_does_not_take(postmark: Client, body: Any, number: int) -> None:
    assert code(postmark, "PUT", "/server", body) == (422, number)


@pytest.mark.parametrize("path", ["/server", "/bounces", "/webhooks", "/message-streams"])
def test_the_test_token_belongs_to_no_server(postmark: Client, path: str) -> None:
    postmark.headers = postmark.headers | {"X-Postmark-Server-Token": "POSTMARK_API_TEST"}

    assert code(postmark, "GET", path) == (401, 10)


def test_every_endpoint_wants_the_token(postmark: Client) -> None:
    postmark.headers = postmark.headers | {"X-Postmark-Server-Token": "wrong"}

    assert code(postmark, "GET", "/messages/outbound") == (401, 10)


def test_paths_are_matched_in_any_case(postmark: Client) -> None:
    assert ok(postmark, "GET", "/Server")["Name"] == "Simulator"
    assert ok(postmark, "GET", "/message-Streams/")["TotalCount"] == 3


# -- streams --------------------------------------------------------------------------------


def test_a_stream_is_made_used_archived_and_brought_back(postmark: Client) -> None:
    body = {"ID": "news", "Name": "News", "MessageStreamType": "Broadcasts"}
    made = ok(postmark, "POST", "/message-streams", body)
    mail = MESSAGE | {"MessageStream": "news"}

    assert made["SubscriptionManagementConfiguration"] == {"UnsubscribeHandlingType": "Postmark"}
    assert ok(postmark, "POST", "/email", mail)["ErrorCode"] == 0
    assert ok(postmark, "PATCH", "/message-streams/news", {"Name": "Other"})["Name"] == "Other"
    assert ok(postmark, "POST", "/message-streams/news/archive")["ID"] == "news"
    assert code(postmark, "POST", "/email", mail) == (422, 1235)
    assert ok(postmark, "GET", "/message-streams")["TotalCount"] == 3
    assert ok(postmark, "GET", "/message-streams?IncludeArchivedStreams=true")["TotalCount"] == 4
    assert ok(postmark, "POST", "/message-streams/news/unarchive")["ArchivedAt"] is None
    assert ok(postmark, "POST", "/email", mail)["ErrorCode"] == 0


def test_streams_are_listed_by_type(postmark: Client) -> None:
    found = ok(postmark, "GET", "/message-streams?MessageStreamType=Broadcasts")

    assert [one["ID"] for one in found["MessageStreams"]] == ["broadcast"]


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ({"ID": "Bad Name", "MessageStreamType": "Broadcasts"}, 1221),
        ({"MessageStreamType": "Broadcasts"}, 1221),
        ({"ID": "more", "MessageStreamType": "Inbound"}, 1228),
        ({"ID": "broadcast", "MessageStreamType": "Broadcasts"}, 1225),
    ],
)
def test_what_no_stream_is(postmark: Client, body: Any, number: int) -> None:
    assert code(postmark, "POST", "/message-streams", body) == (422, number)


def test_an_unknown_stream(postmark: Client) -> None:
    assert code(postmark, "GET", "/message-streams/else") == (422, 1226)


# -- suppressions ---------------------------------------------------------------------------

LIST = "/message-streams/outbound/suppressions"


def entries(*addresses: Any) -> dict[str, Any]:
    return {"Suppressions": [{"EmailAddress": one} for one in addresses]}


def test_a_suppression_of_one_stream_is_not_one_of_another(
    postmark: Client, sim: Simulator
) -> None:
    ok(postmark, "POST", LIST, entries("Gone@Example.net"))
    sim.suppress("postmark", "everywhere@example.net")

    assert code(postmark, "POST", "/email", MESSAGE | {"To": "gone@example.net"}) == (422, 406)
    other = MESSAGE | {"To": "gone@example.net", "MessageStream": "broadcast"}
    assert ok(postmark, "POST", "/email", other)["Message"] == "OK"
    dumped = ok(postmark, "GET", f"{LIST}/dump")["Suppressions"]
    assert [one["EmailAddress"] for one in dumped] == ["gone@example.net", "everywhere@example.net"]
    assert ok(postmark, "GET", f"{LIST}/dump?EmailAddress=gone@example.net")["Suppressions"] == [
        dumped[0]
    ]


def test_a_suppression_is_deleted_unless_it_was_a_complaint(
    postmark: Client, sim: Simulator, hooked: Application
) -> None:
    postmark.post("/email", MESSAGE)
    sim.emit(sim.messages[0], "complained")

    deleted = ok(postmark, "POST", f"{LIST}/delete", entries("bea@example.com", "new@example.com"))

    assert [one["Status"] for one in deleted["Suppressions"]] == ["Failed", "Deleted"]
    assert code(postmark, "POST", "/email", MESSAGE) == (422, 406)


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ({}, 1409),
        ({"Suppressions": "a@example.com"}, 1409),
        ({"Suppressions": ["a@example.com"]}, 1409),
        (entries(*["a@example.com"] * 51), 1410),
    ],
)
def test_what_no_suppressions_are(postmark: Client, body: Any, number: int) -> None:
    assert code(postmark, "POST", LIST, body) == (422, number)


# -- webhooks -------------------------------------------------------------------------------


def make_webhook(postmark: Client, url: str, **fields: Any) -> Any:
    return ok(postmark, "POST", "/webhooks", {"Url": url, "Triggers": ALL_TRIGGERS, **fields})


def test_a_webhook_is_told_what_it_asked_for(
    postmark: Client, sim: Simulator, application: Application
) -> None:
    """Its trigger, its stream, its credentials and its own headers."""
    make_webhook(
        postmark,
        application.url + "/opens",
        Triggers={"Open": {"Enabled": True, "PostFirstOpenOnly": True}},
        HttpAuth={"Username": "hook", "Password": "s3cret"},
        HttpHeaders=[{"Name": "X-Key", "Value": "7"}],
    )
    make_webhook(postmark, application.url + "/news", MessageStream="broadcast")
    postmark.post("/email", MESSAGE)
    (message,) = sim.messages

    sim.wait()
    sim.emit(message, "opened")
    with pytest.raises(LookupError, match="no webhook of this message's stream"):
        sim.emit(message, "opened")
    with pytest.raises(LookupError, match="'bounced'"):
        sim.emit(message, "bounced")

    (opened,) = application.requests
    assert opened.path == "/opens"
    assert opened.headers["authorization"] == "Basic aG9vazpzM2NyZXQ="
    assert opened.headers["x-key"] == "7"


def test_a_hard_bounce_and_what_it_changes_go_to_whoever_wants_them(
    postmark: Client, sim: Simulator, application: Application
) -> None:
    make_webhook(
        postmark,
        application.url + "/all",
        Triggers=ALL_TRIGGERS | {"Bounce": {"Enabled": True, "IncludeContent": True}},
    )
    postmark.post("/email", MESSAGE)
    sim.wait()

    sim.emit(sim.messages[0], "bounced")

    bounce, change = [one.json for one in application.requests[-2:]]
    assert (bounce["RecordType"], change["RecordType"]) == ("Bounce", "SubscriptionChange")
    assert "Content" in bounce
    assert change["SuppressionReason"] == "HardBounce"


def test_the_same_place_is_told_once(
    postmark: Client, sim: Simulator, application: Application
) -> None:
    """A hook of the simulator and a webhook of the API that lead to one URL."""
    sim.hook("postmark", tracking=application.hook("/hook"))
    make_webhook(postmark, application.hook("/hook"))

    postmark.post("/email", MESSAGE)

    assert len(sim.wait()) == 1


def test_a_forgery_lacks_the_secret_header(
    postmark: Client, sim: Simulator, application: Application
) -> None:
    headers = [{"Name": "X-Key", "Value": "s3cret"}]
    make_webhook(postmark, application.url + "/hook", HttpHeaders=headers)
    sim.fault(webhook="forged")

    postmark.post("/email", MESSAGE)
    sim.wait()

    assert [one.headers["x-key"] for one in application.requests] == ["terc3s", "s3cret"]


def test_a_webhook_is_changed_in_part(postmark: Client) -> None:
    made = make_webhook(postmark, "https://app.example.org/a")
    path = f"/webhooks/{made['ID']}"
    body = {
        "ID": made["ID"],
        "Url": "https://app.example.org/b",
        "Triggers": {"Open": {"Enabled": False}},
    }

    changed = ok(postmark, "PUT", path, body)

    assert changed == ok(postmark, "GET", path)
    assert changed["Url"] == "https://app.example.org/b"
    assert not changed["Triggers"]["Open"]["Enabled"]
    assert changed["Triggers"]["Click"]["Enabled"]


def test_a_webhook_is_listed_by_its_stream_and_removed(postmark: Client) -> None:
    made = make_webhook(postmark, "https://app.example.org/", MessageStream="broadcast")

    assert ok(postmark, "GET", "/webhooks")["Webhooks"] == [made]
    assert ok(postmark, "GET", "/webhooks?MessageStream=outbound")["Webhooks"] == []
    assert ok(postmark, "DELETE", f"/webhooks/{made['ID']}")["ErrorCode"] == 0
    assert code(postmark, "DELETE", f"/webhooks/{made['ID']}") == (422, 1352)


GOOD = {"Url": "https://app.example.org/"}


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ({}, 1355),
        (GOOD | {"ID": 7}, 1356),
        (GOOD | {"Status": "verified"}, 1362),
        (GOOD | {"Colour": "red"}, 1361),
        (GOOD | {"Triggers": []}, 1361),
        (GOOD | {"HttpHeaders": [{"Name": "no good", "Value": "x"}]}, 1358),
        (GOOD | {"HttpHeaders": [{"Name": "X-A", "Value": 1}]}, 1358),
        (GOOD | {"HttpHeaders": ["X-A"]}, 1358),
        (GOOD | {"Triggers": {"Unsubscribe": {"Enabled": True}}}, 1353),
        (GOOD | {"Triggers": {"Open": {"Enabled": "yes"}}}, 1353),
        (GOOD | {"MessageStream": "inbound"}, 1351),
        (GOOD | {"MessageStream": "else"}, 1226),
        ({"Url": "ftp://app.example.org/"}, 1354),
        ({"HttpAuth": {"Username": "a"}}, 1354),
    ],
)
def test_what_no_webhook_is(postmark: Client, body: Any, number: int) -> None:
    assert code(postmark, "POST", "/webhooks", body) == (422, number)


@pytest.mark.parametrize(
    ("body", "number"),
    [({"ID": 99}, 1357), ({"MessageStream": "broadcast"}, 1357), ({"Url": ""}, 1354)],
)
def test_what_no_change_of_a_webhook_is(postmark: Client, body: Any, number: int) -> None:
    made = make_webhook(postmark, "https://app.example.org/")

    assert code(postmark, "PUT", f"/webhooks/{made['ID']}", body) == (422, number)


def test_an_archived_stream_takes_no_webhooks(postmark: Client) -> None:
    ok(postmark, "POST", "/message-streams/broadcast/archive")

    body = GOOD | {"MessageStream": "broadcast"}
    assert code(postmark, "POST", "/webhooks", body) == (422, 1350)


def test_a_stream_has_ten_webhooks_at_most(postmark: Client) -> None:
    for number in range(10):
        make_webhook(postmark, f"https://app.example.org/{number}")

    assert code(postmark, "POST", "/webhooks", GOOD) == (422, 1359)


@pytest.fixture
def verifying(private_key: str, postmark: Client) -> Iterator[Simulator]:
    """A simulator that probes webhooks; `postmark` speaks to it."""
    sim = Simulator(verify_webhooks=True, postal_private_key=private_key)
    with sim.running() as server:
        postmark.url = server.url_for("postmark")
        yield sim
    sim.close()


def test_a_webhook_is_probed_once_for_each_trigger(
    verifying: Simulator, postmark: Client, application: Application
) -> None:
    made = make_webhook(postmark, application.hook("/hook"))

    assert made["Status"] == "verified"
    assert {one.json["RecordType"] for one in application.requests} == set(ALL_TRIGGERS)


@pytest.mark.parametrize("status", [204, 401, 500])
def test_a_probe_must_be_answered_with_exactly_200(
    verifying: Simulator, postmark: Client, application: Application, status: int
) -> None:
    application.status = status
    body = {"Url": application.hook("/hook"), "Triggers": {"Open": {"Enabled": True}}}

    answer, error = call(postmark, "POST", "/webhooks", body)

    assert (answer, error["ErrorCode"]) == (422, 1364)
    assert error["Results"][0]["StatusCode"] == status
    assert ok(postmark, "GET", "/webhooks")["Webhooks"] == []


def test_an_unverified_webhook_gets_nothing_until_it_is_verified(
    verifying: Simulator, postmark: Client, application: Application
) -> None:
    made = make_webhook(postmark, application.hook("/hook"), Verify=False)
    postmark.post("/email", MESSAGE)
    verifying.wait()
    assert (made["Status"], application.requests) == ("unverified", [])

    report = ok(postmark, "POST", f"/webhooks/{made['ID']}/verify")

    assert report["Success"]
    assert len(report["Results"]) == 6
    assert ok(postmark, "GET", f"/webhooks/{made['ID']}")["Status"] == "verified"


def test_a_failed_verification_is_told_with_200(
    verifying: Simulator, postmark: Client, application: Application
) -> None:
    made = make_webhook(postmark, "http://127.0.0.1:1/hook", Verify=False)

    report = ok(postmark, "POST", f"/webhooks/{made['ID']}/verify")

    assert not report["Success"]
    assert report["Results"][0]["StatusCode"] is None


# -- templates ------------------------------------------------------------------------------


def test_a_template_is_made_and_sent(postmark: Client, sim: Simulator) -> None:
    body = {"Name": "Welcome", "Alias": "welcome", "Subject": "Hi {{name}}", "TextBody": "x"}
    made = ok(postmark, "POST", "/templates", body)
    ok(postmark, "PUT", f"/templates/{made['TemplateId']}", {"Alias": "hello"})
    mail = {"From": "a@example.org", "To": "b@example.com", "TemplateModel": {"name": "Bea"}}

    ok(postmark, "POST", "/email/withTemplate", mail | {"TemplateAlias": "hello"})
    ok(postmark, "POST", "/email/withTemplate", mail | {"TemplateId": made["TemplateId"]})

    assert [one.subject for one in sim.messages] == ["Hi Bea"] * 2
    assert code(postmark, "GET", "/templates/welcome") == (422, 1101)
    assert ok(postmark, "GET", "/templates/hello")["Subject"] == "Hi {{name}}"


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ({"Subject": "x"}, 1120),
        ({"Name": "x", "Alias": "1 x"}, 1122),
        ({"Name": "x", "Alias": "taken"}, 1122),
        ({"Name": "x", "Colour": "red"}, 1122),
    ],
)
def test_what_no_template_is(postmark: Client, sim: Simulator, body: Any, number: int) -> None:
    sim.template("postmark", alias="taken", subject="x", text="x")

    assert code(postmark, "POST", "/templates", body) == (422, number)


def test_a_template_without_alias(postmark: Client) -> None:
    made = ok(postmark, "POST", "/templates", {"Name": "x", "Subject": "s", "TextBody": "t"})
    path = f"/templates/{made['TemplateId']}"

    assert ok(postmark, "PUT", path, {"Subject": "other"})["Alias"] is None
    assert ok(postmark, "DELETE", path)["ErrorCode"] == 0
    assert ok(postmark, "GET", "/templates")["TotalCount"] == 0


def test_a_template_is_tried_out(postmark: Client) -> None:
    body = {"Subject": "{{a}}", "HtmlBody": "<b>{{a}}</b>", "TestRenderModel": {"a": "<"}}

    found = ok(postmark, "POST", "/templates/validate", body)

    assert found["HtmlBody"]["RenderedContent"] == "<b>&lt;</b>"
    assert found["TextBody"] is None


# -- bounces and messages -------------------------------------------------------------------


@pytest.fixture
def history(postmark: Client, sim: Simulator, server: LocalServer) -> list[str]:
    """Three messages, one of which bounced; events happen although nobody is told."""
    mails: list[dict[str, Any]] = [
        {"Subject": "Order 1", "Tag": "order", "Metadata": {"order": "1"}},
        {"Subject": "Order 2", "To": "HardBounce@bounce-testing.postmarkapp.com"},
        {"Subject": "News", "MessageStream": "broadcast", "From": "News <news@example.org>"},
    ]
    ids = [postmark.post("/email", MESSAGE | mail).json()["MessageID"] for mail in mails]
    sim.wait()
    return ids


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [2, 1, 0]),
        ("?count=1", [2]),
        ("?count=5&offset=2", [0]),
        ("?tag=order", [0]),
        ("?subject=order", [1, 0]),
        ("?recipient=BEA@example.com", [2, 0]),
        ("?fromemail=news@example.org", [2]),
        ("?messagestream=broadcast", [2]),
        ("?metadata_order=1", [0]),
        ("?metadata_order=2", []),
        ("?status=queued", []),
        ("?fromdate=2001-01-01", [2, 1, 0]),
        ("?todate=2001-01-01", []),
        ("?fromdate=2999-01-01", []),
    ],
)
def test_messages_are_looked_for(
    postmark: Client, history: list[str], query: str, found: list[int]
) -> None:
    answer = ok(postmark, "GET", f"/messages/outbound{query}")

    assert [one["MessageID"] for one in answer["Messages"]] == [history[n] for n in found]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 1),
        ("?type=HardBounce&inactive=true", 1),
        ("?type=SoftBounce", 0),
        ("?inactive=false", 0),
        ("?emailFilter=bounce-testing", 1),
        ("?emailFilter=else", 0),
        ("?messagestream=broadcast", 0),
    ],
)
def test_bounces_are_looked_for(
    postmark: Client, history: list[str], query: str, count: int
) -> None:
    assert ok(postmark, "GET", f"/bounces{query}")["TotalCount"] == count


def test_a_bounce_without_a_hook_suppresses_all_the_same(
    postmark: Client, history: list[str]
) -> None:
    """And is activated once: the second time there is nothing to activate."""
    (bounce,) = ok(postmark, "GET", "/bounces")["Bounces"]
    mail = MESSAGE | {"To": bounce["Email"]}
    path = f"/bounces/{bounce['ID']}/activate"

    assert code(postmark, "POST", "/email", mail) == (422, 406)
    assert ok(postmark, "GET", "/deliverystats")["InactiveMails"] == 1
    assert not ok(postmark, "PUT", path)["Bounce"]["Inactive"]
    assert code(postmark, "PUT", path) == (422, 1003)
    assert ok(postmark, "POST", "/email", mail)["Message"] == "OK"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/bounces?count=501", 700),
        ("/bounces?count=0", 700),
        ("/bounces?count=many", 700),
        ("/messages/outbound?count=500&offset=9501", 700),
        ("/bounces/1", 1001),
        ("/messages/outbound/nobody/details", 701),
    ],
)
def test_what_cannot_be_looked_up(postmark: Client, path: str, number: int) -> None:
    assert code(postmark, "GET", path) == (422, number)


def test_a_transient_bounce_and_a_change_are_events_of_the_message(
    postmark: Client, sim: Simulator, hooked: Application
) -> None:
    postmark.post("/email", MESSAGE)
    sim.wait()
    (message,) = sim.messages
    for event in ("deferred", "complained", "subscribed"):
        sim.emit(message, event)

    details = ok(postmark, "GET", f"/messages/outbound/{message.id}/details")

    assert [one["Type"] for one in details["MessageEvents"]] == [
        "Delivered",
        "Transient",
        "Bounced",
        "SubscriptionChanged",
    ]
    assert ok(postmark, "POST", "/email", MESSAGE)["Message"] == "OK"  # subscribed again


def test_a_message_of_the_test_token_has_no_activity(postmark: Client, sim: Simulator) -> None:
    headers = {"X-Postmark-Server-Token": "POSTMARK_API_TEST"}
    number = postmark.post("/email", MESSAGE, headers=headers).json()["MessageID"]

    assert ok(postmark, "GET", "/messages/outbound")["TotalCount"] == 0
    assert code(postmark, "GET", f"/messages/outbound/{number}/dump") == (422, 701)


def test_a_source_nobody_can_write_is_empty(postmark: Client) -> None:
    """A line break in the subject: Postmark's own business, and no reason to fail."""
    number = postmark.post("/email", MESSAGE | {"Subject": "a\r\nb"}).json()["MessageID"]

    assert ok(postmark, "GET", f"/messages/outbound/{number}/dump") == {"Body": ""}
