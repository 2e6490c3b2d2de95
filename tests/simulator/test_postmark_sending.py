"""Postmark's send endpoints: what is accepted, what is refused, and with which words."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from flask_mailesp.simulator import Attached, Refusal, Simulator

from .conftest import Client

MESSAGE: dict[str, Any] = {
    "From": "Shop <shop@example.org>",
    "To": "Bea Buyer <bea@example.com>",
    "Subject": "Your order",
    "TextBody": "Hi",
}
TEMPLATED = {"From": "shop@example.org", "To": "bea@example.com", "TemplateModel": {}}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in MESSAGE.items() if name not in names}


def attachment(name: str, content: str = "") -> dict[str, str]:
    return {"Name": name, "Content": content, "ContentType": "application/octet-stream"}


def test_an_accepted_message_has_an_id_and_echoes_its_to(sim: Simulator, postmark: Client) -> None:
    answer = postmark.post("/email", MESSAGE)

    result = answer.json()
    assert answer.status_code == 200
    assert list(result) == ["To", "SubmittedAt", "MessageID", "ErrorCode", "Message"]
    assert (result["To"], result["ErrorCode"], result["Message"]) == (MESSAGE["To"], 0, "OK")
    assert len(result["MessageID"]) == 36
    assert len(result["SubmittedAt"].partition(".")[2]) == len("1234567Z")
    assert "X-PM-ApiErrorCode" not in answer.headers


def test_without_a_to_the_answer_has_none(postmark: Client) -> None:
    """Cc alone is enough; the key is absent rather than empty."""
    result = postmark.post("/email", without("To") | {"Cc": "carl@example.net"}).json()

    assert "To" not in result
    assert result["ErrorCode"] == 0


def test_everything_a_message_carries_is_recorded(sim: Simulator, postmark: Client) -> None:
    image = base64.b64encode(b"png").decode()
    body = MESSAGE | {
        "Cc": "carl@example.net, BEA@example.com",
        "Bcc": "dan@example.net",
        "ReplyTo": "help@example.org",
        "HtmlBody": "<p>Hi</p>",
        "Headers": [{"Name": "X-A", "Value": "1"}, {"Name": "X-A", "Value": "2"}],
        "Tag": "receipt",
        "Metadata": {"order": "7"},
        "TrackOpens": False,
        "TrackLinks": "HtmlOnly",
        "MessageStream": "broadcast",
        "Attachments": [attachment("logo.png", image) | {"ContentID": "cid:logo"}],
        "TemplateModel": {"ignored": "silently"},
    }

    result = postmark.post("/email", body).json()

    (message,) = sim.messages
    assert message.id == message.message_id == result["MessageID"]
    assert (message.esp, message.path, message.test) == ("postmark", "/email", False)
    assert message.payload == body
    assert message.recipients == [
        "bea@example.com",
        "carl@example.net",
        "BEA@example.com",
        "dan@example.net",
    ]
    assert message.ids == dict.fromkeys(message.recipients, message.id)
    assert (message.to, message.bcc) == (["bea@example.com"], ["dan@example.net"])
    assert (message.from_, message.reply_to) == (MESSAGE["From"], ["help@example.org"])
    assert (message.subject, message.text, message.html) == ("Your order", "Hi", "<p>Hi</p>")
    assert message.headers == [("X-A", "1"), ("X-A", "2")]
    assert (message.tag, message.metadata, message.stream) == (
        "receipt",
        {"order": "7"},
        "broadcast",
    )
    assert message.attachments == [Attached("logo.png", "application/octet-stream", b"png", "logo")]


@pytest.mark.parametrize("path", ["/email", "/EMAIL", "/email/"])
def test_paths_are_matched_loosely(postmark: Client, path: str) -> None:
    assert postmark.post(path, MESSAGE).status_code == 200


@pytest.mark.parametrize("path", ["", "/", "/emails", "/email/batch/1"])
def test_other_paths_are_404(postmark: Client, path: str) -> None:
    assert postmark.post(path, MESSAGE).status_code == 404


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("no from", without("From"), 300, "Invalid 'From' value."),
    ("blank from", MESSAGE | {"From": " "}, 300, "Invalid 'From' value."),
    (
        "from without @",
        MESSAGE | {"From": "shop(at)example.org"},
        300,
        "Invalid 'From' address: 'shop(at)example.org'.",
    ),
    (
        "two senders",
        MESSAGE | {"From": "a@example.org, b@example.org"},
        300,
        "Invalid 'From' address: 'a@example.org, b@example.org'.",
    ),
    ("long from", MESSAGE | {"From": "a" * 256 + "@example.org"}, 300, "'From' can have"),
    ("no recipient", without("To"), 300, "Zero recipients specified"),
    ("to without @", MESSAGE | {"To": "nobody"}, 300, "Invalid 'To' address: 'nobody'."),
    (
        "cc without @",
        MESSAGE | {"Cc": "nobody"},
        300,
        "Error parsing 'Cc': Illegal email address 'nobody'. It must contain the '@' symbol.",
    ),
    (
        "international domain not in punycode",
        MESSAGE | {"Bcc": "a@příklad.example"},
        300,
        "Error parsing 'Bcc': Illegal email domain 'příklad.example' "
        "in address 'a@příklad.example'.",
    ),
    (
        "mailbox not ASCII",
        MESSAGE | {"To": "béa@example.com"},
        300,
        "Invalid 'To' address: 'béa@example.com'.",
    ),
    ("unquoted comma", MESSAGE | {"To": "Doe, J <j@example.com>"}, 300, "address: 'Doe'."),
    ("unquoted dot", MESSAGE | {"To": "J. Doe <j@example.com>"}, 300, "Invalid 'To' address"),
    ("unquoted brackets", MESSAGE | {"To": "J (home) <j@example.com>"}, 300, "Invalid 'To'"),
    ("line break in a name", MESSAGE | {"To": "J\r\nD <j@example.com>"}, 300, "Invalid 'To'"),
    ("trailing comma", MESSAGE | {"To": "j@example.com,"}, 300, "Invalid 'To' address: ''."),
    ("bad reply-to", MESSAGE | {"ReplyTo": "nobody"}, 300, "Invalid 'ReplyTo' address"),
    (
        "51 recipients",
        MESSAGE | {"Cc": ",".join(f"r{n}@example.com" for n in range(50))},
        300,
        "at most 50",
    ),
    ("no body", without("TextBody"), 300, "Provide either email TextBody or HtmlBody or both."),
    (
        "an attachment is not a body",
        without("TextBody") | {"Attachments": [attachment("a.txt")]},
        300,
        "Provide either email TextBody or HtmlBody or both.",
    ),
    ("long body", MESSAGE | {"TextBody": "x" * 5_000_001}, 300, "at most 5 MB"),
    ("long subject", MESSAGE | {"Subject": "x" * 2001}, 300, "'Subject' can have at most 2000"),
    ("UTF-16 counts", MESSAGE | {"Subject": "😀" * 1001}, 300, "'Subject' can have at most"),
    ("long tag", MESSAGE | {"Tag": "x" * 1001}, 300, "'Tag' can have at most 1000"),
    (
        "many metadata",
        MESSAGE | {"Metadata": {str(n): "" for n in range(11)}},
        300,
        "Invalid metadata content.",
    ),
    ("metadata key", MESSAGE | {"Metadata": {"k" * 21: ""}}, 300, "Invalid metadata content."),
    ("empty metadata key", MESSAGE | {"Metadata": {"": ""}}, 300, "Invalid metadata content."),
    ("metadata value", MESSAGE | {"Metadata": {"k": "v" * 81}}, 300, "Invalid metadata content."),
    ("metadata number", MESSAGE | {"Metadata": {"k": 1}}, 300, "Invalid metadata content."),
    ("metadata twice", MESSAGE | {"Metadata": {"k": "", "K": ""}}, 300, "Invalid metadata"),
    ("unknown field", MESSAGE | {"Colour": "red"}, 403, "Invalid request field(s): Colour."),
    ("boolean as text", MESSAGE | {"TrackOpens": "yes"}, 403, "field(s): TrackOpens."),
    ("list of recipients", MESSAGE | {"To": ["a@example.com"]}, 403, "field(s): To."),
    ("headers", MESSAGE | {"Headers": [{"Name": "X"}]}, 403, "field(s): Headers."),
    ("attachments", MESSAGE | {"Attachments": ["x"]}, 403, "field(s): Attachments."),
    ("link tracking", MESSAGE | {"TrackLinks": "All"}, 403, "field(s): TrackLinks."),
    ("template fields", MESSAGE | {"TemplateId": 1}, 403, "field(s): TemplateId."),
    ("forbidden type", MESSAGE | {"Attachments": [attachment("a.EXE")]}, 411, "a.EXE"),
    ("not base64", MESSAGE | {"Attachments": [attachment("a.txt", "*")]}, 300, "base64"),
    (
        "unknown stream",
        MESSAGE | {"MessageStream": "news"},
        1235,
        "The stream provided: 'news' does not exist on this server.",
    ),
    ("a stream that cannot send", MESSAGE | {"MessageStream": "inbound"}, 1236, "cannot send"),
]


@pytest.mark.parametrize(
    ("body", "code", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_broken_rule_is_422_with_its_code(
    sim: Simulator, postmark: Client, body: dict[str, Any], code: int, text: str
) -> None:
    answer = postmark.post("/email", body)

    error = answer.json()
    assert (answer.status_code, error["ErrorCode"]) == (422, code)
    assert text in error["Message"]
    assert answer.headers["X-PM-ApiErrorCode"] == str(code)
    assert sim.messages == []
    assert sim.rejected == [Refusal("postmark", "/email", 422, error)]


ACCEPTED: list[dict[str, Any]] = [
    MESSAGE | {"To": '"Doe, \\"J.\\" (home)" <j@example.com>'},
    MESSAGE | {"To": "Žofie O'Neill <j@example.com>, k@xn--pklad-zsa96e.example"},
    MESSAGE | {"To": "a.b+c!#$%&'`*/=^_{}|~-@example.com"},
    MESSAGE | {"Cc": ",".join(f"r{n}@example.com" for n in range(49))},
    MESSAGE | {"Subject": "😀" * 1000},
    MESSAGE | {"Tag": "x" * 1000, "Metadata": {"k" * 20: "v" * 80}},
    MESSAGE | {"HtmlBody": None, "Cc": "", "Attachments": None, "TrackOpens": None},
    MESSAGE | {"Attachments": [attachment("exe"), attachment("a.exe.txt", "aGk=")]},
    without("TextBody") | {"HtmlBody": "<p>Hi</p>"},
]


@pytest.mark.parametrize("body", ACCEPTED)
def test_what_lies_within_the_limits_is_accepted(postmark: Client, body: dict[str, Any]) -> None:
    assert postmark.post("/email", body).json()["Message"] == "OK"


@pytest.mark.parametrize("token", ["", "wrong", "ünknown"])
def test_a_bad_token_is_401(postmark: Client, token: str) -> None:
    headers = {"X-Postmark-Server-Token": token.encode()}

    answer = postmark.post("/email", MESSAGE, headers=headers)

    assert (answer.status_code, answer.json()["ErrorCode"]) == (401, 10)


def test_a_token_is_matched_whatever_its_case(postmark: Client) -> None:
    headers = {"x-postmark-server-token": "postmark-simulator-token"}

    assert postmark.post("/email", MESSAGE, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{"Accept": "*/*"}, {"Content-Type": "text/plain"}])
def test_json_must_be_announced_and_asked_for(postmark: Client, headers: dict[str, str]) -> None:
    assert postmark.post("/email", MESSAGE, headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/email", b""),
        ("/email", b"{"),
        ("/email", b'{"Tag": NaN}'),
        ("/email", b'"\xff"'),
        ("/email", b"[" * 100_000),
        ("/email", b"[]"),
        ("/email/batch", b"{}"),
        ("/email/batchWithTemplates", b"[]"),
    ],
)
def test_invalid_json_is_402(postmark: Client, path: str, data: bytes) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}

    answer = postmark.post(path, data=data, headers=headers)

    assert (answer.status_code, answer.json()["ErrorCode"]) == (422, 402)


@pytest.mark.parametrize(("path", "megabytes"), [("/email", 10), ("/email/batch", 50)])
def test_a_payload_over_the_limit_is_413_without_json(
    sim: Simulator, postmark: Client, path: str, megabytes: int
) -> None:
    """Not to be confused with ErrorCode 413, an account that may not send."""
    data = b" " * (megabytes * 1_000_000 + 1)

    answer = postmark.post(path, data=data, headers={"Content-Type": "application/json"})

    assert answer.status_code == 413
    assert answer.headers["Content-Type"].startswith("text/html")
    assert sim.rejected[-1].status == 413


def test_the_test_token_validates_and_sends_nothing(sim: Simulator, postmark: Client) -> None:
    headers = {"X-Postmark-Server-Token": "POSTMARK_API_TEST"}

    accepted = postmark.post("/email", MESSAGE, headers=headers).json()
    refused = postmark.post("/email", without("To"), headers=headers).json()

    assert (accepted["ErrorCode"], accepted["Message"]) == (0, "Test job accepted")
    assert refused["ErrorCode"] == 300
    assert [message.test for message in sim.messages] == [True]


def test_an_unverified_sender_is_refused(private_key: str, postmark: Client) -> None:
    sim = Simulator(sender_domains={"Example.NET"}, postal_private_key=private_key)
    with sim.running() as server:
        client = Client(server.url_for("postmark"), postmark.headers, postmark.session)

        refused = client.post("/email", MESSAGE).json()
        accepted = client.post("/email", MESSAGE | {"From": "a@EXAMPLE.net"}).json()

    assert (refused["ErrorCode"], accepted["ErrorCode"]) == (400, 0)


def test_a_message_to_inactive_recipients_alone_is_406(sim: Simulator, postmark: Client) -> None:
    sim.suppress("postmark", "Gone@example.net")

    answer = postmark.post("/email", MESSAGE | {"To": "GONE@example.net"})

    assert answer.status_code == 422
    assert answer.json() == {
        "ErrorCode": 406,
        "Message": "You tried to send to a recipient that has been marked as inactive. Found "
        "inactive addresses: gone@example.net. Inactive recipients are ones that have generated "
        "a hard bounce, a spam complaint, or a manual suppression. ",
    }


def test_partly_inactive_recipients_are_named_in_the_result(
    sim: Simulator, postmark: Client
) -> None:
    """The message goes to the others, with ErrorCode 0."""
    for address in ("a@example.com", "b@example.com"):
        sim.suppress("postmark", address)

    body = MESSAGE | {"Cc": "A@example.com", "Bcc": "b@example.com"}
    result = postmark.post("/email", body).json()

    assert result["ErrorCode"] == 0
    assert result["Message"].startswith(
        "Message OK, but will not deliver to these inactive addresses: "
        "a@example.com, b@example.com. "
    )
    (message,) = sim.messages
    assert message.recipients == ["bea@example.com"]
    assert message.inactive == ["A@example.com", "b@example.com"]


def test_every_stream_has_its_own_suppression_list(sim: Simulator, postmark: Client) -> None:
    sim.suppress("postmark", "bea@example.com", stream="broadcast")

    codes = [
        postmark.post("/email", MESSAGE | {"MessageStream": stream}).json()["ErrorCode"]
        for stream in ("outbound", "broadcast")
    ]

    assert codes == [0, 406]


def test_a_batch_answers_200_with_a_result_for_each_index(sim: Simulator, postmark: Client) -> None:
    batch = [MESSAGE, MESSAGE | {"To": "nobody"}, "not a message", MESSAGE]

    answer = postmark.post("/email/batch", batch)

    results = answer.json()
    assert answer.status_code == 200
    assert [result["ErrorCode"] for result in results] == [0, 300, 402, 0]
    assert list(results[1]) == ["ErrorCode", "Message"]
    assert [one.id for one in sim.messages] == [results[0]["MessageID"], results[3]["MessageID"]]
    assert [(one.status, one.body["ErrorCode"]) for one in sim.rejected] == [(200, 300), (200, 402)]


def test_a_batch_of_failures_is_still_200(postmark: Client) -> None:
    answer = postmark.post("/email/batch", [without("From")] * 2)

    assert answer.status_code == 200
    assert [result["ErrorCode"] for result in answer.json()] == [300, 300]


def test_a_message_of_a_batch_is_limited_to_10_mb(postmark: Client) -> None:
    content = base64.b64encode(bytes(7_500_000)).decode()
    batch = [MESSAGE | {"Attachments": [attachment("a.bin.txt", content)]}, MESSAGE]

    results = postmark.post("/email/batch", batch).json()

    assert [result["ErrorCode"] for result in results] == [300, 0]


@pytest.mark.parametrize(("size", "status"), [(500, 200), (501, 422)])
def test_a_batch_holds_500_messages(postmark: Client, size: int, status: int) -> None:
    answer = postmark.post("/email/batch", [{}] * size)

    assert answer.status_code == status
    assert status == 200 or answer.json()["ErrorCode"] == 410


def test_a_template_is_found_by_id_or_alias_and_rendered(sim: Simulator, postmark: Client) -> None:
    """The id wins where both are given."""
    sim.template("postmark", id=7, alias="welcome", subject="Hi {{name}}", html="<p>{{name}}</p>")
    sim.template("postmark", alias="other", text="other")
    body = TEMPLATED | {"TemplateModel": {"name": "A & B"}, "InlineCss": False}

    postmark.post("/email/withTemplate", body | {"TemplateId": 7, "TemplateAlias": "other"})
    postmark.post("/email/withTemplate", body | {"TemplateAlias": "welcome"})

    for message in sim.messages:
        assert message.subject == "Hi A & B"
        assert (message.text, message.html) == (None, "<p>A &amp; B</p>")


REFUSED_TEMPLATES: list[tuple[str, dict[str, Any], int]] = [
    ("no template named", TEMPLATED, 1101),
    ("unknown id", TEMPLATED | {"TemplateId": 8}, 1101),
    ("an id is not an alias", TEMPLATED | {"TemplateAlias": "7"}, 1101),
    ("no model", {"From": "a@example.org", "To": "b@example.com", "TemplateId": 7}, 1120),
    ("reserved key", TEMPLATED | {"TemplateId": 7, "TemplateModel": {"pm": {}}}, 1122),
    ("empty subject", TEMPLATED | {"TemplateId": 7, "Subject": ""}, 1123),
    ("body", TEMPLATED | {"TemplateId": 7, "HtmlBody": "x"}, 1123),
    ("id is text", TEMPLATED | {"TemplateId": "7"}, 403),
    ("id is boolean", TEMPLATED | {"TemplateId": True}, 403),
    ("model is a list", TEMPLATED | {"TemplateId": 7, "TemplateModel": []}, 403),
]


@pytest.mark.parametrize(
    ("body", "code"),
    [row[1:] for row in REFUSED_TEMPLATES],
    ids=[row[0] for row in REFUSED_TEMPLATES],
)
def test_a_templated_message_has_rules_of_its_own(
    sim: Simulator, postmark: Client, body: dict[str, Any], code: int
) -> None:
    sim.template("postmark", id=7, subject="Hi", text="Hi")

    answer = postmark.post("/email/withTemplate", body)

    assert (answer.status_code, answer.json()["ErrorCode"]) == (422, code)


def test_the_test_token_has_no_templates(sim: Simulator, postmark: Client) -> None:
    sim.template("postmark", id=7, text="Hi")
    headers = {"X-Postmark-Server-Token": "POSTMARK_API_TEST"}

    answer = postmark.post("/email/withTemplate", TEMPLATED | {"TemplateId": 7}, headers=headers)

    assert answer.json()["ErrorCode"] == 1101


def test_a_template_batch_is_an_object_with_messages(sim: Simulator, postmark: Client) -> None:
    sim.template("postmark", alias="welcome", text="Hi {{name}}")
    messages = [
        TEMPLATED | {"TemplateAlias": "welcome", "TemplateModel": {"name": name}}
        for name in ("Ann", "Bob")
    ]

    body = {"Messages": [*messages, TEMPLATED]}
    results = postmark.post("/email/batchWithTemplates", body).json()

    assert [result["ErrorCode"] for result in results] == [0, 0, 1101]
    assert [message.text for message in sim.messages] == ["Hi Ann", "Hi Bob"]
    assert postmark.post("/email/batchWithTemplates", {"Items": []}).json()["ErrorCode"] == 403


def test_the_bulk_api_needs_approval(postmark: Client) -> None:
    answer = postmark.post("/email/bulk", {})

    assert (answer.status_code, answer.json()["ErrorCode"]) == (422, 14)


def test_the_server_can_be_asked_for(postmark: Client) -> None:
    """What a configuration check reads: the name, the delivery type, or 401."""
    server = postmark.get("/server").json()
    with_test_token = {"X-Postmark-Server-Token": "POSTMARK_API_TEST"}

    assert (server["Name"], server["DeliveryType"]) == ("Simulator", "Live")
    assert postmark.get("/server", headers=with_test_token).status_code == 401
