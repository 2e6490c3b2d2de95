"""Header injection: no field of a message lets a line break through to the ESP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import CREDENTIALS, MakeApp
from flask import Flask

from flask_mailesp import Address, Attachment, MailESP, Message
from flask_mailesp.exceptions import InvalidMessageError, SerializationError
from flask_mailesp.prepare import PrepareOptions, prepare

BREAKS = ["\r\n", "\n", "\r", "\0", "\v", "\x85", "\u2028", "\u2029", "\ud800", "\udfff"]
PLACES = ["a{}Bcc: evil@example.net", "{}a", "a{}"]
ESPS = sorted(CREDENTIALS)
YOU = "you@example.com"


class Doorbell:
    """Counts the connections that are made to a port, and takes none of them further."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.rings = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                if connection.recv(1) == b"!":
                    return
                self.rings += 1

    def close(self) -> None:
        """Stop listening; whoever rang before has been counted."""
        with socket.create_connection(self._socket.getsockname()) as last:
            last.sendall(b"!")
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def doorbell() -> Iterator[Doorbell]:
    """Return a server that nobody may reach in these tests."""
    bell = Doorbell()
    yield bell
    bell.close()
    assert bell.rings == 0


@pytest.fixture
def apps(make_app: MakeApp, doorbell: Doorbell) -> dict[str, Flask]:
    """Return an app for each ESP, all of whose requests go to the doorbell."""
    return {
        name: make_app(
            **{**CREDENTIALS[name], f"MAILESP_{name.upper()}_API_URL": doorbell.url},
            MAILESP_IGNORE_UNSUPPORTED_FEATURES=True,
        )
        for name in ESPS
    }


Field = Callable[[str], dict[str, Any]]

# Every text of a message that may become part of a header, or of the envelope.
FIELDS: dict[str, Field] = {
    "subject": lambda x: {"subject": x},
    "sender": lambda x: {"sender": f"{x}@example.com"},
    "sender's domain": lambda x: {"sender": f"me@{x}"},
    "sender's name": lambda x: {"sender": (x, "me@example.com")},
    "sender's name in text": lambda x: {"sender": f"{x} <me@example.com>"},
    "sender's quoted name": lambda x: {"sender": f'"{x}" <me@example.com>'},
    "to": lambda x: {"to": f"{x}@example.com"},
    "to's name": lambda x: {"to": [(x, YOU)]},
    "to as Address": lambda x: {"to": [YOU, Address(YOU, x)]},
    "to as Address's addr_spec": lambda x: {"to": [YOU, Address(f"{x}@example.com")]},
    "cc": lambda x: {"cc": [f"{x}@example.com"]},
    "cc's name": lambda x: {"cc": [(x, YOU)]},
    "bcc": lambda x: {"bcc": [f"{x}@example.com"]},
    "bcc's name": lambda x: {"bcc": [(x, YOU)]},
    "reply_to": lambda x: {"reply_to": [f"{x}@example.com"]},
    "reply_to's name": lambda x: {"reply_to": [(x, YOU)]},
    "envelope_sender": lambda x: {"envelope_sender": f"{x}@example.com"},
    "header name": lambda x: {"headers": {f"X-{x}": "1"}},
    "header value": lambda x: {"headers": {"X-A": x}},
    "header value in a pair": lambda x: {"headers": [("X-A", "1"), ("X-A", x)]},
    "Reply-To header": lambda x: {"headers": {"Reply-To": f'"{x}" <me@example.com>'}},
    "tag": lambda x: {"tags": ["a", x]},
    "metadata key": lambda x: {"metadata": {x: "1"}},
    "metadata value": lambda x: {"metadata": {"k": x}},
    "template_id": lambda x: {"template_id": x},
    "template_id per ESP": lambda x: {"template_id": dict.fromkeys(ESPS, x)},
    "idempotency_key": lambda x: {"idempotency_key": x},
    "filename": lambda x: {"attachments": [Attachment(x, "text/plain", b"")]},
    "attachment's content type": lambda x: {"attachments": [Attachment("a", x, b"")]},
    "attachment's parameter": lambda x: {"attachments": [Attachment("a", f"a/b; c={x}", b"")]},
    "content id": lambda x: {"attachments": [Attachment("a", "a/b", b"", content_id=f"a{x}a")]},
    "charset": lambda x: {"attachments": [Attachment("a", "text/plain", b"", charset=x)]},
    "charset of text": lambda x: {"attachments": [Attachment("a", "text/plain", "", charset=x)]},
    "alternative's content type": lambda x: {"alternatives": [("x", f"text/{x}")]},
    "alternative's parameter": lambda x: {"alternatives": [("x", f"text/calendar; a={x}")]},
    "merge_data key": lambda x: {"merge_data": {f"{x}@example.com": {}}},
    "merge_metadata's address": lambda x: {"merge_metadata": {f"{x}@example.com": {}}},
    "merge_metadata key": lambda x: {"merge_metadata": {YOU: {x: "1"}}},
    "merge_metadata value": lambda x: {"merge_metadata": {YOU: {"k": x}}},
    "merge_headers' address": lambda x: {"merge_headers": {f"{x}@example.com": {}}},
    "merge_headers name": lambda x: {"merge_headers": {YOU: {x: "1"}}},
    "merge_headers value": lambda x: {"merge_headers": {YOU: {"X-A": x}}},
}

# What may hold line breaks, but must be text that UTF-8 can carry.
CONTENT: dict[str, Field] = {
    "body": lambda x: {"body": x},
    "html": lambda x: {"html": x},
    "body of a raw message": lambda x: {"body": x, "reply_to": [YOU, "me@example.com"]},
    "html of a raw message": lambda x: {"html": x, "reply_to": [YOU, "me@example.com"]},
    "attached text": lambda x: {"attachments": [("a.txt", "text/plain", x)]},
    "esp_extra": lambda x: {"esp_extra": {"Key": {"deep": [x]}}},
    "esp_extra key": lambda x: {"esp_extra": {x: 1}},
}


def message(**fields: Any) -> Message:
    """Return a message that is fine but for the given fields."""
    return Message(**{"subject": "Hi", "to": YOU, "sender": "me@example.com", **fields})


def send(app: Flask, field: Field, text: str) -> None:
    """Make the message and send it: either may refuse."""
    with app.app_context():
        MailESP().send(message(**field(text)))


@pytest.mark.parametrize("esp", ESPS)
@pytest.mark.parametrize("name", FIELDS)
def test_no_field_lets_a_line_break_through(name: str, esp: str, apps: dict[str, Flask]) -> None:
    """Refused before any connection, whether or not the ESP would have taken the field."""
    for control in BREAKS:
        for place in PLACES:
            with pytest.raises(InvalidMessageError) as caught:
                send(apps[esp], FIELDS[name], place.format(control))
            assert "evil@" not in str(caught.value)


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_are_fine_without_it(name: str) -> None:
    """Or the test above would prove nothing."""
    text = {"attachment's content type": "text/plain", "charset of text": "latin-1"}.get(name, "a")
    prepared = prepare(message(**FIELDS[name](text)), {}, PrepareOptions(), "postmark")

    assert prepared.recipients


@pytest.mark.parametrize("esp", ESPS)
@pytest.mark.parametrize("name", CONTENT)
def test_a_lone_surrogate_in_the_content_is_a_serialization_error(
    name: str, esp: str, apps: dict[str, Flask]
) -> None:
    """Before any connection; line breaks are what texts are made of."""
    for surrogate in ("\ud800", "\udfff"):
        for place in PLACES:
            with pytest.raises(SerializationError):
                send(apps[esp], CONTENT[name], place.format(surrogate))


@pytest.mark.parametrize("esp", ESPS)
def test_many_messages_are_checked_as_one_is(esp: str, apps: dict[str, Flask]) -> None:
    """Each has its error, and none of them reaches the ESP."""
    messages = [message(subject=f"a{control}b") for control in BREAKS]
    with apps[esp].app_context():
        results = list(MailESP().send_many(messages))

    assert len(results) == len(BREAKS)
    assert all(isinstance(result.error, InvalidMessageError) for result in results)
