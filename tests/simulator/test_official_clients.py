"""The providers' own client libraries, unmodified, speak to the simulator as to the provider.

That is the proof that it speaks the wire and not a dialect of ours. Both libraries are
pointed here by their own setting for the API's URL; nothing in them is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flask_mailesp.simulator import LocalServer, Simulator

from .conftest import POSTMARK_TOKEN, Application

SENDER = "Shop <shop@example.org>"


# -- postmark-python, Postmark's own ----------------------------------------------------------


@pytest.fixture
def official(server: LocalServer) -> Iterator[Any]:
    library = pytest.importorskip("postmark.sync", reason="postmark-python is not installed")
    url = server.url_for("postmark")
    with library.ServerClient(POSTMARK_TOKEN, retries=0, base_url=url) as client:
        yield client


def letter(**fields: Any) -> dict[str, Any]:
    return {"sender": SENDER, "to": "Bea <bea@example.com>", "subject": "Hi", **fields}


def test_official_send(official: Any, sim: Simulator) -> None:
    content = {"name": "a.txt", "content": "aGk=", "content_type": "text/plain"}
    sent = official.outbound.send(
        letter(text_body="Hello", tag="welcome", metadata={"order": "1"}, attachments=[content])
    )

    (message,) = sim.messages
    assert sent.message_id == message.id
    assert (message.text, message.tag, message.metadata) == ("Hello", "welcome", {"order": "1"})
    assert message.attachments[0].data == b"hi"


def test_official_batch(official: Any) -> None:
    sent = official.outbound.send_batch([letter(text_body="1"), letter(html_body="<p>2</p>")])

    assert [one.error_code for one in sent] == [0, 0]
    assert len({one.message_id for one in sent}) == 2


def test_official_templates(official: Any, sim: Simulator) -> None:
    """Made, changed, listed, sent and removed by the library."""
    made = official.templates.create(
        {
            "name": "Welcome",
            "alias": "welcome",
            "subject": "Hi {{name}}",
            "text_body": "Dear {{name}}",
        }
    )
    official.templates.edit("welcome", {"subject": "Hello {{name}}"})
    model = {"template_alias": "welcome", "template_model": {"name": "Bea"}}
    address = {"sender": SENDER, "to": "bea@example.com"}
    official.outbound.send_with_template(model | address)
    official.outbound.send_batch_with_template([model | address])

    assert official.templates.get("welcome").subject == "Hello {{name}}"
    assert official.templates.list().items[0].template_id == made.template_id
    assert [(one.subject, one.text) for one in sim.messages] == [("Hello Bea", "Dear Bea")] * 2
    assert official.templates.validate({"subject": "{{a}}"}).all_content_is_valid
    assert official.templates.delete("welcome").error_code == 0
    assert official.templates.list().items == []


def test_official_errors(official: Any, sim: Simulator) -> None:
    """The library's own exception for each, with Postmark's code."""
    errors = pytest.importorskip("postmark.exceptions")
    sim.suppress("postmark", "gone@example.net")

    with pytest.raises(errors.ValidationException) as invalid:
        official.outbound.send(letter(to="nobody", text_body="x"))
    with pytest.raises(errors.InactiveRecipientException) as inactive:
        official.outbound.send(letter(to="gone@example.net", text_body="x"))

    assert (invalid.value.error_code, inactive.value.error_code) == (300, 406)


def test_official_wrong_token(server: LocalServer) -> None:
    library = pytest.importorskip("postmark.sync")
    errors = pytest.importorskip("postmark.exceptions")
    url = server.url_for("postmark")

    with (
        library.ServerClient("wrong", retries=0, base_url=url) as client,
        pytest.raises(errors.InvalidAPIKeyException),
    ):
        client.outbound.send(letter(text_body="x"))


def test_official_bounces(official: Any, sim: Simulator) -> None:
    """A fake bounce is listed, counted, looked up and taken back."""
    official.outbound.send(letter(to="HardBounce@bounce-testing.postmarkapp.com", text_body="x"))
    sim.wait()

    (bounce,) = official.bounces.list(inactive=True).items
    assert bounce.type.value == "HardBounce"
    assert official.bounces.get_delivery_stats().bounces[0].count == 1
    assert official.bounces.get(bounce.id).email == bounce.email
    assert "550" in official.bounces.get_dump(bounce.id).body
    assert official.suppressions.dump("outbound")[0].suppression_reason.value == "HardBounce"
    assert not official.bounces.activate(bounce.id).bounce.inactive
    assert official.suppressions.dump("outbound") == []


def test_official_activity(official: Any, sim: Simulator, hooked: Application) -> None:
    sent = official.outbound.send(
        letter(html_body='<a href="https://example.org/">x</a>', metadata={"order": "7"})
    )
    sim.wait()
    for event in ("opened", "clicked", "bounced"):
        sim.emit(sent.message_id, event)

    found = official.outbound.list(metadata={"order": "7"}, recipient="bea@example.com")
    details = official.outbound.get(sent.message_id)
    assert [one.message_id for one in found.items] == [sent.message_id]
    assert found.items[0].to[0].name == "Bea"
    assert [one.type.value for one in details.message_events] == [
        "Delivered",
        "Opened",
        "LinkClicked",
        "Bounced",
    ]
    assert official.outbound.list_opens().total == 1
    assert official.outbound.list_message_clicks(sent.message_id).total == 1
    assert "Subject: Hi" in official.outbound.get_dump(sent.message_id).body


def test_official_streams_and_suppressions(official: Any) -> None:
    results = official.suppressions.create("broadcast", ["gone@example.net", "nobody"])

    assert [one.status for one in results] == ["Suppressed", "Failed"]
    assert official.suppressions.delete("broadcast", ["gone@example.net"])[0].status == "Deleted"
    assert [one.id for one in official.stream.list().items] == ["outbound", "broadcast", "inbound"]
    assert official.stream.get("broadcast").message_stream_type.value == "Broadcasts"
    assert official.server.get().delivery_type.value == "Live"


def test_official_webhooks_are_posted_to(
    official: Any, sim: Simulator, application: Application
) -> None:
    """What the library sets up is where events go, with the credentials it gave."""
    official.webhooks.create(
        application.url + "/hook",
        http_auth={"Username": "hook", "Password": "s3cret"},
        triggers={"Delivery": {"Enabled": True}},
    )
    (webhook,) = official.webhooks.list(message_stream="outbound")
    assert webhook.triggers.delivery.enabled

    official.outbound.send(letter(text_body="x"))
    (delivery,) = sim.wait()

    assert delivery.status == 200
    assert application.last.headers["authorization"].startswith("Basic ")
    assert official.webhooks.delete(webhook.id).error_code == 0


# -- postmarker -----------------------------------------------------------------------------


@pytest.fixture
def community(sim: Simulator) -> Iterator[Any]:
    """A client that takes a host and no path, so that Postmark is served at the root."""
    core = pytest.importorskip("postmarker.core", reason="postmarker is not installed")
    server = LocalServer(sim.provider("postmark"))
    client = core.PostmarkClient(server_token=POSTMARK_TOKEN, root_api_url=server.url)
    yield client
    client.session.close()
    server.stop()


MAIL = {"From": "shop@example.org", "To": "bea@example.com", "Subject": "Hi", "TextBody": "Hello"}


def test_postmarker_send(community: Any, sim: Simulator) -> None:
    sent = community.emails.send(**MAIL, Attachments=[("a.txt", "aGk=", "text/plain")])

    assert sent["MessageID"] == sim.messages[0].id
    assert sim.messages[0].attachments[0].data == b"hi"


def test_postmarker_batch(community: Any) -> None:
    """One bad message does not stop the other, and the answer tells them apart by index."""
    sent = community.emails.send_batch(dict(MAIL), MAIL | {"To": "nobody"})

    assert [one["ErrorCode"] for one in sent] == [0, 300]


def test_postmarker_templates(community: Any, sim: Simulator) -> None:
    """This client sends ``"Subject": null`` beside a template: null is absence."""
    sim.template("postmark", alias="welcome", subject="Hi {{name}}", text="Dear {{name}}")
    filled = {
        "TemplateAlias": "welcome",
        "TemplateModel": {"name": "Bea"},
        "From": "shop@example.org",
        "To": "bea@example.com",
    }
    community.emails.send_with_template(**filled)
    community.emails.send_template_batch(filled)
    made = community.templates.create("Other", "Subject", TextBody="Text")

    assert [one.subject for one in sim.messages] == ["Hi Bea"] * 2
    assert {one.TemplateId for one in community.templates.all()} >= {made.TemplateId}


def test_postmarker_error(community: Any) -> None:
    errors = pytest.importorskip("postmarker.exceptions")

    with pytest.raises(errors.ClientError, match=r"\[300\] Invalid 'To' address: 'nobody'"):
        community.emails.send(**MAIL | {"To": "nobody"})


def test_postmarker_looks_up(community: Any, sim: Simulator) -> None:
    community.emails.send(**MAIL | {"To": "SoftBounce@bounce-testing.postmarkapp.com"})
    sim.wait()
    (message,) = community.messages.outbound.all()
    (bounce,) = community.bounces.all()

    assert message.MessageID == sim.messages[0].id
    assert "Subject: Hi" in community.messages.outbound.get_dump(message.MessageID)
    assert bounce.Type == "SoftBounce"
    assert community.server.get().Name == "Simulator"
