"""The mailbox page over HTTP: what it shows, who may see it, and what it does."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests
from flask import Flask
from werkzeug.test import Client as WsgiClient
from werkzeug.test import TestResponse

from flask_mailesp import MailESP
from flask_mailesp.simulator import Delivery, Simulator, mailbox_content, mailbox_words
from flask_mailesp.simulator.mailbox import attach, mailbox_app, mount, routes
from flask_mailesp.simulator.mailbox_compare import Verdict
from flask_mailesp.simulator.server import LocalServer

from .conftest import Application, Client
from .hostile import HOSTILE, hostile

TOKEN = "a-token-nobody-guesses"
LETTER = {
    "From": "Trains <trains@example.com>",
    "To": "ann@example.net",
    "Subject": "The timetable",
    "TextBody": "Good evening",
}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)
MAIL = (
    b"From: Ann <ann@example.net>\r\nTo: Inbox <inbox@example.com>\r\nSubject: Hello\r\n"
    b"Message-ID: <1@example.net>\r\n\r\nHello\r\n"
)
PAGE_POLICY = {
    "form-action 'self'",
    "frame-ancestors 'none'",
    "default-src 'self'",
    "frame-src 'self'",
    "object-src 'none'",
    "base-uri 'none'",
}
MAIL_POLICY = "sandbox; default-src 'none'; img-src data: cid:; style-src 'unsafe-inline'"


@dataclass
class Box:
    """A visitor of the mailbox, with a browser that runs no scripts."""

    url: str
    session: requests.Session
    sim: Simulator

    def get(self, path: str = "", **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=10, **options)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> Any:
        data = {"csrf": self.csrf(), **(data or {})}
        return self.session.post(self.url + path, data, timeout=10, **options)

    def csrf(self) -> str:
        token = re.search(r'name="csrf" value="([^"]+)"', self.get("compose/").text)
        assert token is not None
        return token[1]

    def place(self, message: Any = None) -> str:
        message = message or self.sim.messages[-1]
        return f"messages/{message.esp}/{message.id}/"


@pytest.fixture
def box(sim: Simulator, server: LocalServer, hooked: Application, session: requests.Session) -> Box:
    """The mailbox beside the simulator's API, with hooks to an application that answers 200."""
    sim.auto = ()
    attach(sim)
    return Box(f"{server.url}/_mailbox/", session, sim)


def calling(app: Any) -> WsgiClient:
    """Return a client on this machine that calls the page without a server."""
    return LocalClient(app, TestResponse)


class LocalClient(WsgiClient):
    """Calls from 127.0.0.1, as ``localhost``, unless told otherwise."""

    def open(self, *args: Any, **options: Any) -> TestResponse:
        overrides = {"REMOTE_ADDR": "127.0.0.1", **options.pop("environ_overrides", {})}
        return super().open(*args, environ_overrides=overrides, **options)


def words_of(page: requests.Response) -> str:
    """Return the text a person reads."""
    return " ".join(html.unescape(re.sub(r"<[^<>]*>", " ", page.text)).split())


def subjects(page: requests.Response) -> list[str]:
    found = re.findall(r'<span class="row-subject">([^<]*)</span>', page.text)
    return [html.unescape(subject) for subject in found]


# --- the list ----------------------------------------------------------------------------


def test_the_front_page_leads_to_the_mailbox(box: Box, server: LocalServer) -> None:
    answer = box.session.get(server.url, timeout=10)

    assert answer.url == box.url
    assert "No mail yet" in answer.text
    assert box.session.post(server.url, timeout=10).status_code == 404


def test_the_api_beside_it_works_on(box: Box, postmark: Client) -> None:
    assert postmark.post("/email", LETTER).status_code == 200
    assert subjects(box.get()) == ["The timetable"]


def test_the_newest_message_comes_first(box: Box, postmark: Client) -> None:
    for number in range(3):
        postmark.post("/email", {**LETTER, "Subject": f"No. {number}"})

    assert subjects(box.get()) == ["No. 2", "No. 1", "No. 0"]


def test_long_lists_have_pages(box: Box, postmark: Client) -> None:
    """Fifty messages each; a page that is not there is the nearest one that is."""
    postmark.post("/email/batch", [{**LETTER, "Subject": str(n)} for n in range(120)])

    assert subjects(box.get())[:2] == ["119", "118"]
    assert len(subjects(box.get("?page=1"))) == 50
    assert subjects(box.get("?page=3"))[-1] == "0"
    assert subjects(box.get("?page=99")) == subjects(box.get("?page=3"))
    assert subjects(box.get("?page=-1")) == subjects(box.get())
    assert subjects(box.get("?page=x")) == subjects(box.get())
    assert len(subjects(box.get("?q=ann&page=2"))) == 50


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("jo@example.org", ["Delay"]),
        ("TIMETABLE", ["The timetable"]),
        ("sorry", ["Delay"]),
        ("late-trains", ["Delay"]),
        ("ann evening", ["The timetable"]),
        ("ann sorry", []),
        ("trains@example.com", ["Delay", "The timetable"]),
        ("<b>bold</b>", []),
        ("   ", ["Delay", "The timetable"]),
    ],
)
def test_a_search_finds_every_word_in_recipient_subject_body_and_tag(
    box: Box, postmark: Client, postal: Client, query: str, found: list[str]
) -> None:
    postmark.post("/email", LETTER)
    postal.post(
        "/api/v1/send/message",
        {
            "from": "trains@example.com",
            "to": ["jo@example.org"],
            "subject": "Delay",
            "plain_body": "We are sorry",
            "tag": "late-trains",
        },
    )

    page = box.get(params={"q": query})

    assert subjects(page) == found
    assert query.strip() == "" or f'value="{html.escape(query)}"' in page.text


def feed(box: Box, **query: str) -> dict[str, Any]:
    answer: dict[str, Any] = box.get("feed", params=query).json()
    return answer


def test_the_feed_tells_what_is_new(box: Box, postmark: Client) -> None:
    """Rows are rendered by the server; a page that knows the state hears nothing but it."""
    postmark.post("/email", LETTER)
    known = feed(box)
    postmark.post("/email", {**LETTER, "Subject": "<New>"})

    news = feed(box, newest=known["newest"], state=known["state"])

    assert (news["total"], news["found"], news["reset"]) == (2, 2, False)
    assert news["subjects"] == ["<New>"]
    assert "&lt;New&gt;" in news["rows"][0]
    assert "<New>" not in news["rows"][0]
    assert feed(box, newest=news["newest"], state=news["state"]) == {"state": news["state"]}


def test_the_feed_follows_a_search(box: Box, postmark: Client) -> None:
    postmark.post("/email", LETTER)
    known = feed(box, q="delay")
    postmark.post("/email", LETTER)
    postmark.post("/email", {**LETTER, "Subject": "A delay"})

    news = feed(box, newest=known["newest"], state=known["state"], q="delay")

    assert (news["total"], news["found"], news["subjects"]) == (3, 1, ["A delay"])


def test_the_feed_starts_anew_where_too_much_has_changed(box: Box, postmark: Client) -> None:
    """After the mailbox was emptied, or more came than a page holds."""
    postmark.post("/email", LETTER)
    known = feed(box)
    postmark.post("/email/batch", [LETTER] * 51)

    many = feed(box, newest=known["newest"], state=known["state"])
    box.post("clear")
    none = feed(box, newest=known["newest"], state=known["state"])

    assert many["reset"] is True
    assert len(many["rows"]) == 50
    assert (none["reset"], none["rows"], none["total"]) == (True, [], 0)


def test_the_mailbox_can_be_emptied(box: Box, postmark: Client) -> None:
    postmark.post("/email", LETTER)
    postmark.post("/email", {})

    answer = box.post("clear")

    assert answer.url == box.url
    assert "No mail yet" in answer.text
    assert (box.sim.messages, box.sim.rejected) == ([], [])


# --- one message -------------------------------------------------------------------------


def test_a_message_shows_all_that_is_known_of_it(box: Box, postmark: Client) -> None:
    postmark.post(
        "/email",
        {
            **LETTER,
            "To": '"Ann, the reader" <ann@example.net>, jo@example.org',
            "Cc": "cc@example.com",
            "Bcc": "bcc@example.com",
            "ReplyTo": "reply@example.com",
            "HtmlBody": "<b>Good evening</b>",
            "Tag": "weekly",
            "Metadata": {"order": "2041"},
            "Headers": [{"Name": "X-Own", "Value": "mine"}],
        },
    )

    text = words_of(box.get(box.place()))

    for shown in (
        "The timetable",
        "Trains <trains@example.com>",
        "ann@example.net, jo@example.org",
        "cc@example.com",
        "bcc@example.com",
        "reply@example.com",
        "weekly",
        "order: 2041",
        "X-Own mine",
        "Good evening",
        "Sent to Postmark",
        "Hard bounce",
    ):
        assert shown in text


def test_a_message_that_is_not_there_is_not_found(box: Box, postmark: Client) -> None:
    """Nor is one under another provider's name, or a part it does not have."""
    postmark.post("/email", LETTER)
    place = box.place()

    for path in (
        "messages/postmark/none/",
        place.replace("postmark", "postal"),
        "messages/nobody/1/",
        f"{place}body",
        f"{place}files/1",
        f"{place}files/0",
        "webhooks/1/",
        "webhooks/0/",
        "assets/base.html",
        "assets/..%2fmailbox.py",
        "nothing",
    ):
        answer = box.get(path)
        assert answer.status_code == 404, path
        assert "Traceback" not in answer.text


def test_what_was_sent_is_shown_without_credentials(box: Box, postal: Client) -> None:
    """And with base64 shortened: nobody reads it."""
    secret = base64.b64encode(bytes(range(256)) * 9).decode("ascii")
    postal.post(
        "/api/v1/send/message",
        {
            "from": "trains@example.com",
            "to": ["jo@example.org"],
            "plain_body": "Hi",
            "api_key": "hunter2-hunter2",
            "attachments": [{"name": "a.bin", "content_type": "x/y", "data": secret}],
        },
    )

    page = box.get(box.place())
    text = words_of(page)

    assert "POST /api/v1/send/message" in text
    assert "X-Server-API-Key: ••••" in text
    assert "PostalSimulatorKey000001" not in page.text
    assert "hunter2" not in page.text
    assert "base64, 2.3 kB" in text
    assert secret not in page.text


def test_a_raw_source_is_shown_and_saved_as_it_was_sent(box: Box, postal: Client) -> None:
    source = (
        b"From: a@example.com\r\nTo: b@example.com\r\nX-Odd: <i>\r\n"
        b"Subject: =?utf-8?q?caf=C3=A9?=\r\n\r\n\xff raw"
    )
    postal.post(
        "/api/v1/send/raw",
        {
            "mail_from": "a@example.com",
            "rcpt_to": ["b@example.com"],
            "data": base64.b64encode(source).decode("ascii"),
        },
    )

    page = box.get(box.place())
    saved = box.get(f"{box.place()}source")

    assert "X-Odd &lt;i&gt;" not in page.text
    assert "X-Odd: &lt;i&gt;" in page.text
    assert "café" in words_of(page)
    assert "As it was sent." in page.text
    assert saved.content == source
    assert saved.headers["Content-Type"] == "application/octet-stream"
    assert saved.headers["Content-Disposition"].startswith('attachment; filename="postal-')


def test_the_source_of_fields_is_composed(box: Box, postmark: Client) -> None:
    postmark.post("/email", {**LETTER, "HtmlBody": "<p>Hi", "Attachments": [_image(), _file()]})

    saved = box.get(f"{box.place()}source").text

    assert "Subject: The timetable" in saved
    assert "Content-ID: <logo>" in saved
    assert "multipart/related" in saved
    assert 'filename="a.txt"' in saved


@pytest.mark.parametrize("name", ["Subject", "From", "To"])
def test_what_cannot_be_composed_is_said_so(box: Box, postmark: Client, name: str) -> None:
    """A provider takes what the email package will not write; the page is shown all the same."""
    postmark.post("/email", {**LETTER, "Headers": [{"Name": name, "Value": "twice"}]})

    assert "cannot be composed" in words_of(box.get(box.place()))
    assert box.get(f"{box.place()}source").status_code == 404


def test_strange_text_is_shown_all_the_same(box: Box, postmark: Client) -> None:
    """Lone surrogates, controls, directions, and JSON nested deeply."""
    deep: Any = "core"
    for _ in range(200):
        deep = [deep]
    body = {**LETTER, "Subject": "\ud800 \u202egnp.exe \x00\x1b[31m", "TemplateModel": {"a": deep}}
    postmark.post("/email", data=json.dumps(body), headers={"Content-Type": "application/json"})

    assert box.get(box.place()).status_code == 200
    assert box.get().status_code == 200
    assert feed(box)["total"] == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"key": "hunter2", "API-Key": "hunter2", "a": {"key": "mine"}}, '"key": "mine"'),
        ({"a": b"raw \xff bytes"}, "raw \ufffd bytes"),
        ({"a": "x" * 30_000}, "(30,000 characters of base64, 22.5 kB)"),
        ({"a": "x " * 15_000}, "(30,000 characters)"),
        ({"a": list(range(100_000))}, "characters)"),
        ([1, None, True, "<b>"], "&lt;b&gt;"),
        ("just text", "just text"),
    ],
)
def test_json_is_shown_within_bounds(value: Any, shown: str) -> None:
    """Credentials stand at the top, under a few names; deeper down, the content is the app's."""
    page = str(mailbox_content.pretty(value))

    assert shown in html.unescape(re.sub("<[^>]*>", "", page)) or shown in page
    assert "hunter2" not in page
    assert "<b>" not in page
    assert len(page) < 2_000_000


def test_a_preview_of_broken_html_is_quick(box: Box, postmark: Client) -> None:
    """The first words a reader sees, whatever is not closed."""
    head = "<head><title>no</title><style>p{}</style></head>"
    postmark.post("/email", {**LETTER, "TextBody": None, "HtmlBody": f"{head}<p>Good&nbsp;<b>day"})
    postmark.post("/email", {**LETTER, "TextBody": None, "HtmlBody": "<style>" * 500_000})

    assert "Good day" in words_of(box.get())


def test_links_are_listed_to_be_followed(box: Box, postmark: Client) -> None:
    """Nothing in the frame leads anywhere, so that a link to confirm is beside it."""
    letter = {
        **LETTER,
        "HtmlBody": '<a href="https://example.com/?a=1&amp;b=2">x</a><a href="javascript:a()">',
        "TextBody": "See https://example.org/confirm.",
    }
    postmark.post("/email", letter)

    found = re.findall(
        r'<li><a href="([^"]+)" target="_blank" rel="([^"]+)"', box.get(box.place()).text
    )

    assert found == [
        ("https://example.com/?a=1&amp;b=2", "noopener noreferrer"),
        ("https://example.org/confirm", "noopener noreferrer"),
    ]


# --- the rendered mail -------------------------------------------------------------------


def _image(cid: str = "logo", data: bytes = PIXEL, kind: str = "image/png") -> dict[str, str]:
    content = base64.b64encode(data).decode("ascii")
    return {"Name": "logo.png", "Content": content, "ContentType": kind, "ContentID": f"cid:{cid}"}


def _file(name: str = "a.txt", kind: str = "text/html") -> dict[str, str]:
    content = base64.b64encode(b"<script>alert(1)</script>").decode("ascii")
    return {"Name": name, "Content": content, "ContentType": kind}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mail_is_shut_in(box: Box, postmark: Client, name: str) -> None:
    """Its answer allows nothing; in the pages around it stands as text at most."""
    mail = hostile(name, "http://127.0.0.1:9")
    postmark.post("/email", {**LETTER, "HtmlBody": mail, "Subject": mail[:500], "Tag": mail[:500]})

    answer = box.get(f"{box.place()}body")
    page, listed = box.get(box.place()), box.get()

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith(MAIL_POLICY)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-DNS-Prefetch-Control"] == "off"
    assert "Set-Cookie" not in answer.headers
    assert not re.search("<(link|i?frame|object|embed)", answer.text, re.IGNORECASE)
    for shown in (page, listed):
        assert mail[:100] not in shown.text
        assert " ".join(mail[:100].split()) in " ".join(html.unescape(shown.text).split())
    assert '<iframe class="mail" sandbox="" ' in page.text


def test_inline_images_stand_in_the_document_itself(box: Box, postmark: Client) -> None:
    """However the source writes the content id; an unknown one is left as it is."""
    mail = (
        '<img src="cid:logo"><img src=\'CID:logo\'><p style="background:url(cid:logo)">'
        '<img src="cid:a%40b"><img src="cid:a&#64;b"><img src="cid:other">'
    )
    images = [_image(), _image("logo", b"second"), _image("a@b")]
    postmark.post("/email", {**LETTER, "HtmlBody": mail, "Attachments": images})

    answer = box.get(f"{box.place()}body").text

    uri = f"data:image/png;base64,{base64.b64encode(PIXEL).decode('ascii')}"
    assert answer.count(uri) == 5
    assert 'src="cid:other"' in answer
    assert base64.b64encode(b"second").decode("ascii") not in answer


@pytest.mark.parametrize("kind", ["text/html", 'image/png";x', "image/", "application/pdf"])
def test_only_images_are_inlined(box: Box, postmark: Client, kind: str) -> None:
    postmark.post(
        "/email",
        {**LETTER, "HtmlBody": "<img src=cid:logo>", "Attachments": [_image(kind=kind)]},
    )

    assert box.get(f"{box.place()}body").text == "<img src=cid:logo>"


def test_inlining_is_bounded(box: Box, postmark: Client) -> None:
    """One image of a megabyte, named five hundred times, is not half a gigabyte."""
    mail = "<img src=cid:logo>" * 500
    letter = {**LETTER, "HtmlBody": mail, "Attachments": [_image(data=bytes(1_000_000))]}
    postmark.post("/email", letter)

    assert len(box.get(f"{box.place()}body").content) < 40_000_000


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("ticket.pdf", "ticket.pdf"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ('a".html', "a_.html"),
        ("a\r\nSet-Cookie: x=1", "a__Set-Cookie_ x=1"),
        ("gnp\u202egpj.js", "gnp_gpj.js"),
        ("", "attachment"),
    ],
)
def test_attachments_are_saved_never_shown(
    box: Box, postmark: Client, name: str, saved: str
) -> None:
    postmark.post("/email", {**LETTER, "Attachments": [_file(name)]})

    answer = box.get(f"{box.place()}files/1")

    assert answer.content == b"<script>alert(1)</script>"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith(MAIL_POLICY)
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    assert "Set-Cookie" not in answer.headers
    name_star = answer.headers["Content-Disposition"].partition("filename*=UTF-8''")[2]
    assert unquote(name_star) == saved.lstrip(".")


# --- what other providers would make of it -----------------------------------------------


def verdicts(box: Box) -> str:
    page = box.get(box.place()).text
    panel = page.partition('id="others"')[2].partition("</section>")[0]
    return " ".join(html.unescape(re.sub(r"<[^<>]*>", " ", panel.partition(">")[2])).split())


def test_a_plain_message_suits_everyone(box: Box, postmark: Client) -> None:
    postmark.post("/email", LETTER)

    assert "Postal Takes it as it is." in verdicts(box)


def test_what_another_provider_lacks_is_named(box: Box, postmark: Client) -> None:
    letter = {
        **LETTER,
        "TrackOpens": False,
        "TrackLinks": "None",
        "Metadata": {"a": "b"},
        "Tag": "t",
    }
    postmark.post("/email", letter)

    text = verdicts(box)

    assert "left out where IGNORE_UNSUPPORTED_FEATURES is set" in text
    for feature in ("Metadata", "Click tracking per message", "Open tracking per message"):
        assert feature in text
    assert "Tag " not in text


def test_a_template_is_named(box: Box, postmark: Client) -> None:
    box.sim.template("postmark", id=7, subject="Hi", text="Hi {{name}}")
    letter = {"From": "a@example.com", "To": "b@example.com", "TemplateId": 7}
    postmark.post("/email/withTemplate", {**letter, "TemplateModel": {"name": "Ann"}})

    assert "Templates stored at the ESP" in verdicts(box)
    assert "Merge data for all recipients" in verdicts(box)


def test_a_source_is_searched_for_what_it_asks(box: Box, postal: Client) -> None:
    """A calendar entry and a non-ASCII mailbox are more than Postmark can say."""
    source = (
        "From: trains@example.com\r\nTo: jörg@example.org\r\nX-Postal-Tag: t\r\n"
        "Content-Type: multipart/alternative; boundary=b\r\n\r\n"
        "--b\r\nContent-Type: text/plain\r\n\r\nHi\r\n"
        "--b\r\nContent-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR\r\n--b--\r\n"
    )
    postal.post(
        "/api/v1/send/raw",
        {
            "mail_from": "trains@example.com",
            "rcpt_to": ["jörg@example.org"],
            "data": base64.b64encode(source.encode()).decode("ascii"),
        },
    )

    text = verdicts(box)

    assert "Other alternative parts (calendar)" in text
    assert "Could not be sent: Postmark has no way to say this. Non-ASCII mailboxes" in text


def test_who_knows_more_may_say_what_is_lost(sim: Simulator, postmark: Client) -> None:
    """An app knows the message itself, where the provider saw only what became of it."""
    postmark.post("/email", LETTER)
    app = mailbox_app(sim, would_lose=lambda message: [Verdict("Pigeon", ("Attachments",))])
    [message] = sim.messages

    page = calling(app).get(f"/messages/postmark/{message.id}/")

    assert "Pigeon" in page.text
    assert "Postal</h2>" not in page.text


# --- events ------------------------------------------------------------------------------


@pytest.mark.parametrize("esp", ["postmark", "postal"])
def test_every_event_a_provider_can_report_has_a_button_that_reports_it(
    box: Box, postmark: Client, postal: Client, hooked: Application, esp: str
) -> None:
    """Each press is one genuine webhook, and the page tells what came of it."""
    _send(esp, postmark, postal)
    page = box.get(box.place()).text
    buttons = re.findall(r'<button name="event" value="([a-z_]+)"', page)

    for event in buttons:
        fields = {"event": event, "recipient": "ann@example.net"}
        answer = box.post(f"{box.place()}events", fields)
        assert answer.history[0].status_code == 303
        assert "The app took it (200)." in answer.text

    assert tuple(buttons) == box.sim.events(esp)
    assert len(hooked.requests) == len(buttons)
    assert hooked.last.path == f"/{esp}/tracking/"
    assert hooked.last.headers["authorization"].startswith("Basic ")


def _send(esp: str, postmark: Client, postal: Client) -> None:
    if esp == "postmark":
        postmark.post("/email", LETTER)
        return
    letter = {"from": "a@example.com", "to": ["ann@example.net"], "plain_body": "Hi"}
    postal.post("/api/v1/send/message", letter)


def test_the_page_itself_asks_for_json(box: Box, postmark: Client) -> None:
    postmark.post("/email", LETTER)
    fields = {"event": "bounced", "recipient": "ann@example.net"}

    answer = box.post(f"{box.place()}events", fields, headers={"X-Requested-With": "mailbox"})

    told = answer.json()
    assert (told["ok"], told["label"]) == (True, "Hard bounce")
    assert told["sentence"] == "The app took it (200)."
    assert 'href="/_mailbox/webhooks/1/"' in told["html"]


def test_each_recipient_has_buttons_of_its_own(
    box: Box, postmark: Client, hooked: Application
) -> None:
    postmark.post("/email", {**LETTER, "To": "ann@example.net, jo@example.org"})

    box.post(f"{box.place()}events", {"event": "opened", "recipient": "jo@example.org"})

    assert hooked.last.json["Recipient"] == "jo@example.org"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "The app does not believe it."),
        (400, "CSRF check"),
        (403, "login wall"),
        (404, "no such route"),
        (405, "takes no POST"),
        (413, "too large"),
        (418, "The app refuses it. (418)"),
        (503, "a real provider would try again"),
        (302, "The app redirects (302)"),
    ],
)
def test_an_unhappy_answer_is_put_in_words(
    box: Box, postal: Client, postmark: Client, hooked: Application, status: int, words: str
) -> None:
    _send("postal", postmark, postal)
    hooked.status = status

    fields = {"event": "bounced", "recipient": "ann@example.net"}
    answer = box.post(f"{box.place()}events", fields)

    assert words in words_of(answer)


def test_an_app_that_does_not_run_is_put_in_words(box: Box, postmark: Client) -> None:
    box.sim.hook("postmark", tracking="http://127.0.0.1:9/hook/")
    postmark.post("/email", LETTER)

    fields = {"event": "bounced", "recipient": "ann@example.net"}
    answer = box.post(f"{box.place()}events", fields)

    assert "Nothing listens at 127.0.0.1:9 (connection refused)." in words_of(answer)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("ReadTimeout: Read timed out.", "app.test:5000 did not answer in time."),
        ("ConnectTimeout: ...", "app.test:5000 did not answer in time."),
        ("SSLError: ...", "app.test:5000 could not be reached."),
        (None, "app.test:5000 could not be reached."),
        ("lost by a fault: never posted", "Not posted: lost by a fault: never posted."),
    ],
)
def test_silence_is_put_in_words(error: str | None, sentence: str) -> None:
    delivery = Delivery("http://app.test:5000/hook/", b"", {}, None, error=error)

    assert mailbox_words.outcome(delivery).startswith(sentence)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"event": "exploded", "recipient": "ann@example.net"}, "cannot report 'exploded'"),
        ({"event": "", "recipient": "ann@example.net"}, "cannot report ''"),
        ({"event": "opened", "recipient": "eve@example.net"}, "no such recipient"),
    ],
)
def test_what_cannot_be_reported_is_explained(
    box: Box, postmark: Client, hooked: Application, fields: dict[str, str], words: str
) -> None:
    postmark.post("/email", LETTER)

    page = box.post(f"{box.place()}events", fields)
    told = box.post(f"{box.place()}events", fields, headers={"X-Requested-With": "mailbox"})

    assert (page.status_code, told.status_code) == (409, 409)
    assert words in words_of(page)
    assert words in told.json()["sentence"]
    assert hooked.requests == []


def test_without_a_hook_nothing_is_sent(
    sim: Simulator, server: LocalServer, session: requests.Session, postmark: Client
) -> None:
    """The sentence names the provider and the kind of URL that is missing."""
    attach(sim)
    box = Box(f"{server.url}/_mailbox/", session, sim)
    postmark.post("/email", LETTER)

    emitted = box.post(f"{box.place()}events", {"event": "opened", "recipient": "ann@example.net"})
    received = box.post("compose/", {**NOTE, "esp": "postal"})

    assert "no tracking URL is set for Postmark" in words_of(emitted)
    assert "no inbound URL is set for Postal" in words_of(received)
    assert (emitted.status_code, received.status_code) == (409, 409)


def test_a_test_token_has_no_events(box: Box, postmark: Client) -> None:
    token = {"X-Postmark-Server-Token": "POSTMARK_API_TEST"}
    postmark.post("/email", LETTER, headers=token)

    page = box.get(box.place())

    assert "reports no events for its test token" in words_of(page)
    assert 'name="event"' not in page.text


def test_a_suppressed_recipient_is_named(box: Box, postmark: Client) -> None:
    box.sim.suppress("postmark", "gone@example.net")
    postmark.post("/email", {**LETTER, "To": "ann@example.net, gone@example.net"})

    assert "on the suppression list: gone@example.net" in words_of(box.get(box.place()))


# --- webhooks, refusals, faults ----------------------------------------------------------


def test_webhooks_are_listed_and_shown_without_their_password(
    box: Box, postmark: Client, hooked: Application
) -> None:
    postmark.post("/email", LETTER)
    box.sim.emit(box.sim.messages[0], "opened")

    listed, shown = box.get("webhooks/"), box.get("webhooks/1/")

    assert "The app took it (200)." in words_of(listed)
    assert "Authorization: Basic ••••" in words_of(shown)
    assert '"RecordType" : "Open"' in words_of(shown)
    assert "thanks" in words_of(shown)
    for page in (listed, shown):
        assert hooked.last.headers["authorization"].split()[1] not in page.text
        assert "s3cret" not in page.text


def test_a_message_lists_what_the_app_was_told_of_it(box: Box, postmark: Client) -> None:
    postmark.post("/email", LETTER)
    postmark.post("/email", LETTER)
    box.sim.emit(box.sim.messages[0], "opened")

    first, second = (box.get(box.place(one)) for one in box.sim.messages)

    assert "What the app was told Open 200" in words_of(first)
    assert "/webhooks/1/" in first.text
    assert "/webhooks/1/" not in second.text


def test_what_was_refused_is_listed_with_its_answer(box: Box, postmark: Client) -> None:
    postmark.post("/email", {**LETTER, "To": "<script>"})

    page = box.get("refused/")

    assert "Postmark /email HTTP 422" in words_of(page)
    assert "Invalid 'To' address" in html.unescape(page.text)
    assert "<script>." not in page.text


def test_faults_are_added_described_and_removed(box: Box, postmark: Client) -> None:
    box.post("faults/", {"kind": "limited", "esp": "postmark", "times": "1"})
    box.post("faults/", {"kind": "lost", "esp": "", "times": "0"})
    box.sim.fault(status=418, path="/email", probability=0.5)

    page = words_of(box.get("faults/"))
    limited = postmark.post("/email", LETTER)
    for fault in list(box.sim.faults):
        box.post("faults/remove", {"id": fault.id})

    assert "429, Retry-After 5 seconds, postmark only (1 ×)" in page
    assert "Webhook: Lost (until removed)" in page
    assert "HTTP 418, path with /email, 50% (1 ×)" in page
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "5")
    assert list(box.sim.faults) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "flood", "esp": "", "times": "1"},
        {"kind": "slow", "esp": "pigeon", "times": "1"},
        {"kind": "slow", "esp": "", "times": "7"},
        {},
    ],
)
def test_a_fault_that_is_none_is_not_added(box: Box, fields: dict[str, str]) -> None:
    answer = box.post("faults/", fields)

    assert answer.status_code == 422
    assert list(box.sim.faults) == []


def test_a_fault_that_holds_a_webhook_back_is_said_so(
    box: Box, postmark: Client, hooked: Application
) -> None:
    postmark.post("/email", LETTER)
    box.post("faults/", {"kind": "late", "esp": "", "times": "0"})
    fields = {"event": "opened", "recipient": "ann@example.net"}

    emitted = box.post(f"{box.place()}events", fields)
    received = box.post("compose/", NOTE)

    assert "made late by a fault" in words_of(emitted)
    assert "made late by a fault" in words_of(received)
    assert hooked.requests == []


# --- inbound -----------------------------------------------------------------------------

NOTE = {
    "esp": "postmark",
    "from": "Ann <ann@example.net>",
    "to": "inbox@example.com",
    "subject": "A question",
    "text": "May I?",
}


def test_a_written_mail_arrives(box: Box, hooked: Application) -> None:
    answer = box.post(
        "compose/",
        {**NOTE, "html": "<b>May I?</b>"},
        files=[("files", ("../a.txt", b"file", "text/plain")), ("files", ("b.png", b"png", "x"))],
    )

    told = hooked.last.json
    assert "The app took it (200)." in words_of(answer)
    assert (told["From"], told["OriginalRecipient"]) == ("ann@example.net", "inbox@example.com")
    assert (told["Subject"], told["TextBody"].strip()) == ("A question", "May I?")
    assert told["HtmlBody"].strip() == "<b>May I?</b>"
    assert [one["Name"] for one in told["Attachments"]] == ["_a.txt", "b.png"]


def test_an_uploaded_mail_arrives_as_it_is(box: Box, hooked: Application) -> None:
    """For its first recipient, unless another one is named."""
    fields = {"esp": "postal", "kind": "eml"}
    box.post("compose/", fields, files={"eml": ("a.eml", MAIL)})
    first = hooked.last.json
    box.post("compose/", {**fields, "eml_to": "x@example.org"}, files={"eml": ("a.eml", MAIL)})

    assert base64.b64decode(first["message"]) == MAIL
    assert first["rcpt_to"] == "inbox@example.com"
    assert hooked.last.json["rcpt_to"] == "x@example.org"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b"PK\x03\x04",
        b"%PDF-1.7\nSubject: no\n",
        b"Just some words.\n\nAnd more.",
        b"key: value\nother: thing\n\nYAML, perhaps",
        b"<html>From: x</html>",
        b"\r\nFrom: a@example.com\r\n\r\nHi",
        b"From: a@example.com\x00\r\n\r\nHi",
    ],
)
def test_a_file_that_is_no_mail_is_not_sent(box: Box, hooked: Application, raw: bytes) -> None:
    answer = box.post("compose/", {"esp": "postmark", "kind": "eml"}, files={"eml": ("a.eml", raw)})

    assert answer.status_code == 422
    assert "This file is not a mail" in words_of(answer)
    assert "Nothing was sent" in words_of(answer)
    assert hooked.requests == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": ""}, "To: enter one email address"),
        ({"to": "a@example.com, b@example.com"}, "To: enter one email address"),
        ({"from": "nobody"}, "From: enter one email address"),
        ({"from": "a@example.com\r\nBcc: b@example.com"}, "From: enter one email address"),
        ({"subject": "two\nlines"}, "cannot be written as a mail"),
        ({"text": " "}, "Write a text, or HTML"),
        ({"esp": "pigeon"}, "Choose the provider"),
        ({"esp": "postmark", "kind": "eml"}, "Choose an .eml file"),
    ],
)
def test_a_mail_that_cannot_be_written_keeps_what_was_typed(
    box: Box, hooked: Application, changes: dict[str, str], words: str
) -> None:
    answer = box.post("compose/", {**NOTE, "text": "Kept <text>", **changes})

    assert answer.status_code == 422
    assert words in words_of(answer)
    assert "Kept &lt;text&gt;" in answer.text or "text" in changes
    assert hooked.requests == []


def test_an_upload_needs_a_recipient(box: Box, hooked: Application) -> None:
    fields = {"esp": "postmark", "kind": "eml"}
    raw = b"From: a@example.com\r\nSubject: Hi\r\n\r\nHi"

    answer = box.post("compose/", fields, files={"eml": ("a.eml", raw)})

    assert "The mail names no recipient" in words_of(answer)
    assert hooked.requests == []


def test_an_upload_over_the_limit_is_refused(box: Box, hooked: Application) -> None:
    fields = {"esp": "postmark", "kind": "eml"}
    huge = box.post("compose/", fields, files={"eml": ("a.eml", MAIL + bytes(36_000_000))})
    larger = box.post("compose/", fields, files={"eml": ("a.eml", MAIL + bytes(42_000_000))})

    assert (huge.status_code, larger.status_code) == (422, 413)
    assert "larger than 35 MB" in words_of(huge)
    assert hooked.requests == []


# --- who gets in -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "host", "headers", "status"),
    [
        ("127.0.0.1", "localhost:5000", {}, 200),
        ("127.8.9.1", "127.0.0.1:5000", {}, 200),
        ("::1", "[::1]:5000", {}, 200),
        ("::ffff:127.0.0.1", "LOCALHOST", {}, 200),
        ("127.0.0.1", "app.localhost:5000", {}, 200),
        ("127.0.0.1", "localhost.:5000", {}, 200),
        ("127.0.0.1", "dev.example:5000", {}, 200),
        ("192.0.2.7", "localhost:5000", {}, 403),
        ("10.0.0.1", "10.0.0.2:5000", {}, 403),
        ("::ffff:192.0.2.7", "localhost", {}, 403),
        ("", "localhost", {}, 403),
        ("unix:", "localhost", {}, 403),
        ("127.0.0.1", "rebound.example:5000", {}, 403),
        ("127.0.0.1", "127.0.0.1.example:5000", {}, 403),
        ("127.0.0.1", "localhost.example", {}, 403),
        ("127.0.0.1", "notlocalhost", {}, 403),
        ("127.0.0.1", "0.0.0.0:5000", {}, 403),
        ("127.0.0.1", "127.0.0.1@evil.example", {}, 403),
        ("127.0.0.1", "", {}, 403),
        ("127.0.0.1", "[::1", {}, 403),
        ("127.0.0.1", "localhost", {"X-Forwarded-For": "127.0.0.1"}, 403),
        ("127.0.0.1", "localhost", {"X-Forwarded-For": "203.0.113.7"}, 403),
        ("127.0.0.1", "localhost", {"Forwarded": "for=127.0.0.1"}, 403),
        ("127.0.0.1", "localhost", {"X-Real-IP": "203.0.113.7"}, 403),
    ],
)
def test_without_a_token_only_this_machine_gets_in_under_its_own_name(
    sim: Simulator, peer: str, host: str, headers: dict[str, str], status: int
) -> None:
    """A proxy speaks for others; a foreign name may have been pointed here by its owner."""
    client = calling(mailbox_app(sim, hosts=["Dev.example:80"]))

    for path in ("/", "/feed", "/assets/mailbox.js", "/messages/postmark/1/"):
        answer = client.get(
            path, headers=headers, environ_overrides={"REMOTE_ADDR": peer, "HTTP_HOST": host}
        )
        assert answer.status_code in ((200, 404) if status == 200 else (403,))


def test_with_a_token_nobody_gets_in_without_it(sim: Simulator, postmark: Client) -> None:
    """From anywhere: what is behind it does not show, whatever is asked for."""
    postmark.post("/email", LETTER)
    [message] = sim.messages
    client = calling(mailbox_app(sim, token=TOKEN))

    for path in every_path(sim):
        answer = client.get(path, environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
        assert answer.status_code == 401 or path.startswith("/assets/")
        assert "timetable" not in answer.text
        assert message.id not in answer.text


def _login(client: WsgiClient, token: str) -> TestResponse:
    page = client.get("/").text
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)
    assert csrf is not None
    return client.post("/login", data={"csrf": csrf[1], "token": token})


def test_the_token_opens_the_mailbox(sim: Simulator) -> None:
    """The cookie proves it without being it; neither scripts nor other sites get at it."""
    client = calling(mailbox_app(sim, token=TOKEN))

    answer = _login(client, TOKEN)

    cookie = answer.headers["Set-Cookie"]
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "é" * 20])
def test_a_wrong_token_opens_nothing(sim: Simulator, token: str) -> None:
    client = calling(mailbox_app(sim, token=TOKEN))

    answer = _login(client, token)

    assert answer.status_code == 401
    assert "That is not the token." in answer.text
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Basic {TOKEN}", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (TOKEN, 401),
    ],
)
def test_a_program_sends_the_token_as_a_bearer(
    sim: Simulator, authorization: str, status: int
) -> None:
    """It needs no CSRF token: no site can make a browser send this header."""
    client = calling(mailbox_app(sim, token=TOKEN))
    headers = {"Authorization": authorization}

    assert client.get("/feed", headers=headers).status_code == status
    assert client.post("/clear", headers=headers).status_code == (303 if status == 200 else 401)


def test_a_forged_session_opens_nothing(sim: Simulator) -> None:
    client = calling(mailbox_app(sim, token=TOKEN))
    for value in ("", TOKEN, "0" * 64, "é"):
        headers = {"Cookie": f"mailesp_mailbox={value}"}
        assert client.get("/", headers=headers).status_code == 401


@pytest.mark.parametrize("token", ["", "short", "x" * 15])
def test_a_short_token_is_refused(sim: Simulator, token: str) -> None:
    with pytest.raises(ValueError, match="at least 16 characters"):
        mailbox_app(sim, token=token)


def test_without_a_token_there_is_no_login(box: Box) -> None:
    assert box.post("login", {"token": ""}).status_code == 404


# --- forged posts ------------------------------------------------------------------------

FORGERIES = [
    "missing",
    "wrong",
    "empty",
    "no cookie",
    "cookie of a guess",
    "other origin",
    "null origin",
    "other site",
    "same site",
]
POSTS = ["clear", "compose/", "faults/", "faults/remove", "{place}events"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_post_changes_nothing(
    box: Box, postmark: Client, hooked: Application, path: str, forge: str
) -> None:
    """Whatever the form misses, and wherever the browser says it comes from."""
    postmark.post("/email", LETTER)
    fault = box.sim.fault(status=503)
    fields = {**NOTE, "event": "opened", "recipient": "ann@example.net", "id": fault.id}
    fields |= {"kind": "slow", "times": "1", "esp": "postmark", "csrf": box.csrf()}
    headers: dict[str, str] = {}
    if forge == "missing":
        del fields["csrf"]
    elif forge == "wrong":
        fields["csrf"] = "A" * 43
    elif forge == "empty":
        fields["csrf"] = ""
    elif forge == "no cookie":
        box.session.cookies.clear()
    elif forge == "cookie of a guess":
        box.session.cookies.clear()
        headers["Cookie"] = "mailesp_mailbox_csrf=guess"
        fields["csrf"] = "guess"
    elif forge == "other origin":
        headers["Origin"] = "http://127.0.0.1:9"
    elif forge == "null origin":
        headers["Origin"] = "null"
    else:
        headers["Sec-Fetch-Site"] = "cross-site" if forge == "other site" else "same-site"

    url = box.url + path.format(place=box.place())
    answer = box.session.post(url, fields, headers=headers, timeout=10)

    assert answer.status_code == 403
    assert "out of date or was sent by another site" in words_of(answer)
    assert len(box.sim.messages) == 1
    assert [one.id for one in box.sim.faults] == [fault.id]
    assert hooked.requests == []


@pytest.mark.parametrize("headers", [{}, {"Origin": "{own}"}, {"Sec-Fetch-Site": "same-origin"}])
def test_a_post_of_the_page_itself_is_believed(box: Box, headers: dict[str, str]) -> None:
    own = box.url.removesuffix("/_mailbox/")

    answer = box.post("clear", headers={key: text.format(own=own) for key, text in headers.items()})

    assert answer.status_code == 200


def test_what_changes_something_takes_a_post(box: Box) -> None:
    for path in ("clear", "faults/remove", "login", "messages/postmark/1/events"):
        answer = box.get(path)
        assert answer.status_code == 405
        assert "Traceback" not in answer.text


# --- every answer ------------------------------------------------------------------------


def every_path(sim: Simulator) -> Iterator[str]:
    """Yield a path for each route that can be got."""
    [message] = sim.messages
    values = {"esp": "postmark", "id": message.id, "number": "1", "name": "mailbox.js"}
    for rule in routes():
        if "GET" in (rule.methods or ()):
            yield re.sub(r"<(?:\w+:)?(\w+)>", lambda match: values[match[1]], rule.rule)


def test_every_answer_is_hardened(box: Box, postmark: Client) -> None:
    """The pages run nothing but their own script and are in nobody's frame."""
    letter = {**LETTER, "HtmlBody": "<p>Hi", "Attachments": [_file()]}
    postmark.post("/email", letter)
    box.sim.emit(box.sim.messages[0], "opened")
    paths = [*every_path(box.sim), "/nothing", "/messages/postmark/none/", "/clear"]

    assert len(paths) > 12
    for path in paths:
        answer = box.get(path.lstrip("/"))
        policy = answer.headers["Content-Security-Policy"]
        own = path.endswith(("/body", "/source", "/files/1"))
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache"), path
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin", path
        assert answer.headers["X-Frame-Options"] == ("SAMEORIGIN" if own else "DENY"), path
        assert answer.headers["Referrer-Policy"] == ("no-referrer" if own else "same-origin"), path
        assert policy.startswith(MAIL_POLICY) if own else set(policy.split("; ")) >= PAGE_POLICY
        assert "unsafe-inline" not in policy or own
        assert "Traceback" not in answer.text


def test_pages_hold_no_inline_script_or_style(box: Box, postmark: Client) -> None:
    """The policy would stop them; none is there to be stopped. And nothing is from elsewhere."""
    postmark.post("/email", {**LETTER, "HtmlBody": "<p>Hi", "Attachments": [_file()]})
    box.sim.emit(box.sim.messages[0], "opened")

    for path in every_path(box.sim):
        answer = box.get(path.lstrip("/"))
        if not answer.headers["Content-Type"].startswith("text/html") or path.endswith("/body"):
            continue
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", answer.text), path
        assert re.findall(r"<script[^>]*>", answer.text) == [
            '<script src="/_mailbox/assets/mailbox.js" defer>'
        ]
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', answer.text), path


def test_cookies_stay_in_the_mailbox(box: Box) -> None:
    cookie = box.get().headers["Set-Cookie"]

    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/_mailbox/" in cookie
    assert "Set-Cookie" not in box.get().headers


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/",
        "/\\evil.example",
        "///evil.example/%2f..",
        "?next=//evil.example",
        "?page=//evil.example&q=//evil.example",
        "messages//evil.example/",
        "compose//evil.example",
        "//evil.example/_mailbox",
        "/_mailbox//evil.example/..",
        "%5cevil.example",
    ],
)
def test_no_address_leads_elsewhere(box: Box, server: LocalServer, path: str) -> None:
    """There is no parameter to return to, and no path becomes a host."""
    for url in (server.url + path if path.startswith("/") else "", box.url + path):
        if not url:
            continue
        answer = requests.get(url, timeout=10, allow_redirects=False)
        location = answer.headers.get("Location", "")
        assert urlsplit(location).netloc == ""
        assert not location.startswith(("//", "/\\"))
        assert "evil" not in location


def test_posts_lead_nowhere_else(box: Box, postmark: Client) -> None:
    postmark.post("/email", LETTER)
    evil = {"next": "//evil.example", "url": "//evil.example", "recipient": "ann@example.net"}
    for path in POSTS:
        fields = {**NOTE, "event": "opened", "kind": "slow", "times": "1", "id": "1", **evil}
        answer = box.post(path.format(place=box.place()), fields, allow_redirects=False)
        location = answer.headers.get("Location", "/")
        assert location.startswith("/_mailbox/")
        assert "evil" not in location
        if path == "clear":
            postmark.post("/email", LETTER)


# --- in an app ---------------------------------------------------------------------------

PREFIX = "/mail-hooks/_mailbox"


def in_flask(sim: Simulator, **options: Any) -> Flask:
    """An app that has the mailbox as one of its views."""
    app = Flask(__name__)
    mailbox = mount(sim, PREFIX, **options)

    @app.route(f"{PREFIX}/", defaults={"rest": ""}, methods=["GET", "POST"])
    @app.route(f"{PREFIX}/<path:rest>", methods=["GET", "POST"])
    def show(rest: str) -> Any:
        return mailbox

    return app


def test_an_app_can_have_the_mailbox_as_a_view(sim: Simulator, postmark: Client) -> None:
    """Every link, cookie and redirect stays below its prefix, and below the app's own root."""
    postmark.post("/email", LETTER)
    client = in_flask(sim).test_client()
    root = {"SCRIPT_NAME": "/site"}

    page = client.get(f"{PREFIX}/", environ_overrides=root)
    cookie = page.headers["Set-Cookie"]
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert csrf is not None
    headers = {"Cookie": cookie.partition(";")[0]}
    cleared = client.post(
        f"{PREFIX}/clear", data={"csrf": csrf[1]}, headers=headers, environ_overrides=root
    )

    assert f'href="/site{PREFIX}/messages/postmark/' in page.text
    assert f"Path=/site{PREFIX}/" in cookie
    assert (cleared.status_code, cleared.headers["Location"]) == (303, f"/site{PREFIX}/")
    assert sim.messages == []


def test_a_mounted_mailbox_answers_below_its_prefix_only(sim: Simulator) -> None:
    client = calling(mount(sim, f"{PREFIX}/"))

    assert client.get(PREFIX).headers["Location"] == f"{PREFIX}/"
    assert client.get(f"{PREFIX}/").status_code == 200
    for path in ("/", "/mail-hooks/", f"{PREFIX}x/", f"{PREFIX}x", "/feed", "/_mailbox/"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_app_that_did_not_ask_for_it_has_no_mailbox(sim: Simulator, postmark: Client) -> None:
    """Not one of its paths is there, in production or in debug."""
    postmark.post("/email", LETTER)
    for debug in (False, True):
        app = Flask(__name__)
        app.debug = debug
        app.config.update(MAILESP_ESP="postmark", MAILESP_POSTMARK_SERVER_TOKEN="token")
        MailESP(app)
        for path in every_path(sim):
            assert app.test_client().get(PREFIX + path).status_code == 404
            assert app.test_client().post(PREFIX + path).status_code == 404
