"""The mailbox in a real browser: nothing in a mail runs or tells tales; everything else works."""

from __future__ import annotations

import importlib.util
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from flask import Flask
from simulator.hostile import HOSTILE, hostile

from flask_mailesp import InboundEvent, MailESP, Message, TrackingEvent, signals
from flask_mailesp.simulator import LocalServer, Simulator
from flask_mailesp.simulator.mailbox import attach

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

pytestmark = pytest.mark.browser

WAIT = 15  # seconds until a test gives up; it goes on as soon as what it waits for is there
SECRET = "simulator:a-webhook-password"


@dataclass
class Canary:
    """Listens on a port and counts who connects: a mere connection tells that a mail was read."""

    listener: socket.socket
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                connection.close()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@dataclass
class Office:
    """A simulator with its mailbox, and an app that sends through it and hears from it."""

    sim: Simulator
    url: str
    app: Flask
    mail: MailESP
    tracked: list[TrackingEvent] = field(default_factory=list)
    arrived: list[InboundEvent] = field(default_factory=list)

    @property
    def mailbox(self) -> str:
        return f"{self.url}/_mailbox/"

    def send(self, **fields: Any) -> str:
        """Send a message from the app; return the address of its page."""
        fields = {"subject": "The timetable", "to": ["ann@example.net"], "body": "Hi", **fields}
        with self.app.app_context():
            self.mail.send(Message(sender="trains@example.com", **fields))
        return self.page()

    def page(self) -> str:
        message = self.sim.messages[-1]
        return f"{self.mailbox}messages/{message.esp}/{message.id}/"

    def on_tracking(self, _app: Flask, event: TrackingEvent, **_: Any) -> None:
        self.tracked.append(event)

    def on_inbound(self, _app: Flask, event: InboundEvent, **_: Any) -> None:
        self.arrived.append(event)


@contextmanager
def opened(esp: str) -> Iterator[Office]:
    """Run a simulator and an app for one provider, with genuine webhooks between them."""
    sim = Simulator(auto=(), esps=(esp,))
    attach(sim)
    app = Flask(__name__)
    with ExitStack() as stack:
        server = stack.enter_context(sim.running())
        own = {"POSTMARK_SERVER_TOKEN": "POSTMARK-SIMULATOR-TOKEN"}
        if esp == "postal":
            own = {"POSTAL_API_KEY": "PostalSimulatorKey000001", "POSTAL_WEBHOOK_KEY": ""}
            own["POSTAL_WEBHOOK_KEY"] = sim.postal_public_key
        settings = {"ESP": esp, f"{esp.upper()}_API_URL": server.url_for(esp), **own}
        app.config["MAILESP"] = {**settings, "WEBHOOK_SECRET": SECRET}
        office = Office(sim, server.url, app, MailESP(app))
        signals.tracking.connect(office.on_tracking, app)
        signals.inbound.connect(office.on_inbound, app)
        hooks = LocalServer(app)
        stack.callback(hooks.stop)
        base = f"{hooks.url.replace('://', f'://{SECRET}@')}/mail-hooks/{esp}"
        sim.hook(esp, tracking=f"{base}/tracking/", inbound=f"{base}/inbound/")
        yield office


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    canary = Canary(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=canary.listen)
    thread.start()
    yield canary
    canary.stop()
    thread.join()


@pytest.fixture(scope="module")
def prison() -> Iterator[Office]:
    """One mailbox for all hostile mail."""
    with opened("postmark") as office:
        yield office


@pytest.fixture
def office() -> Iterator[Office]:
    with opened("postmark") as office:
        yield office


@pytest.fixture(params=["postmark", "postal"])
def either(request: pytest.FixtureRequest) -> Iterator[Office]:
    """Each provider in turn."""
    with opened(request.param) as office:
        yield office


class Page:
    """The mailbox as a person uses it."""

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def open(self, url: str) -> Page:
        self.driver.get("about:blank")  # an address that differs by its # alone is no load
        self.driver.get(url)
        return self

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def wait_for(self, css: str, text: str) -> str:
        """Wait until an element shows a text; return all that it shows."""
        self.wait(lambda: any(text in item.text for item in self.all(css)), f"{text!r} in {css}")
        return str(self.find(css).text)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        WebDriverWait(self.driver, WAIT, 0.05, ignored).until(lambda _: condition(), what)

    def keys(self, *typed: str) -> Any:
        """Type, and return what then has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*typed).perform()
        return self.driver.switch_to.active_element

    def width(self, width: int) -> None:
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def scripts(self, allowed: bool) -> None:
        value = {"value": not allowed}
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", value)

    @property
    def overflow(self) -> int:
        script = "const d = document.documentElement; return d.scrollWidth - d.clientWidth"
        return int(self.driver.execute_script(script))


@pytest.fixture
def page(chromium: WebDriver) -> Iterator[Page]:
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.set_window_size(1280, 900)
    page = Page(chromium)
    yield page
    page.scripts(allowed=True)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get("about:blank")


@pytest.fixture(scope="module")
def cell(chromium: WebDriver) -> Iterator[Page]:
    """The browser as it is, for many pages one after the other."""
    chromium.set_window_size(1280, 900)
    yield Page(chromium)
    chromium.get("about:blank")


# --- hostile mail ------------------------------------------------------------------------

PRESSED = "#go, form[action] button, a[id=go]"


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_in_a_mail_runs_or_is_fetched(
    cell: Page, prison: Office, canary: Canary, name: str
) -> None:
    """Neither in the frame, nor alone in a tab, nor when its links and buttons are pressed."""
    body = hostile(name, canary.url)
    url = prison.send(subject="Safe", html=body)
    sent = len(prison.sim.messages)

    cell.driver.get(url)
    cell.driver.switch_to.frame(cell.find("iframe.mail"))
    press_all(cell)
    cell.driver.switch_to.default_content()
    title, marker = cell.driver.title, cell.driver.execute_script("return window.owned")
    cell.driver.get(f"{url}body")
    press_all(cell)

    assert (title, marker) == ("Safe – Mailbox", None)
    assert cell.driver.title != "owned"
    assert cell.driver.current_url.rstrip("#") == f"{url}body"
    assert canary.connections == 0
    assert len(prison.sim.messages) == sent


def press_all(page: Page) -> None:
    from selenium.common.exceptions import WebDriverException

    for element in page.all(PRESSED):
        with suppress(WebDriverException):  # what cannot be pressed cannot do harm
            element.click()


@pytest.mark.parametrize(
    "name", ["script", "image that fails", "connection ahead", "style with urls", "meta refresh"]
)
def test_the_same_mail_does_harm_where_nobody_stops_it(page: Page, name: str) -> None:
    """So that the test above would notice."""
    canary = Canary(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=canary.listen)
    thread.start()

    def careless(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [hostile(name, canary.url).encode()]

    server = LocalServer(careless)
    try:
        page.open(server.url)
        page.wait(lambda: page.driver.title == "owned" or canary.connections > 0, name)
    finally:
        page.driver.get("about:blank")
        server.stop()
        canary.stop()
        thread.join()


def test_inline_images_are_shown(page: Page, office: Office) -> None:
    """From the message itself: no request is made for them."""
    message = Message("Hi", to=["ann@example.net"], sender="trains@example.com")
    cid = message.embed("logo.png", "image/png", png(48, 24))
    message.html = f'<img src="cid:{cid}">'
    with office.app.app_context():
        office.mail.send(message)

    page.open(office.page())
    page.driver.switch_to.frame(page.find("iframe.mail"))
    size = page.find("img").size

    assert (size["width"], size["height"]) == (48, 24)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    rows = zlib.compress((b"\0" + b"\x26\x54\x9a" * width) * height)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# --- a day with it -----------------------------------------------------------------------


def test_new_mail_appears_by_itself_and_is_announced(page: Page, office: Office) -> None:
    page.open(office.mailbox)
    page.driver.execute_script("window.marked = true")
    assert page.find("#empty").is_displayed()

    office.send(subject="First <b>")
    page.wait_for("#rows", "First <b>")
    office.send(subject="Second")
    rows = page.wait_for("#rows", "Second")

    assert rows.index("Second") < rows.index("First <b>")
    assert page.driver.execute_script("return window.marked")
    assert page.find("#news").get_attribute("textContent") == "New message: Second"
    assert page.find("#news").get_attribute("role") == "status"
    assert page.find("#count").text == "2"
    assert not page.find("#empty").is_displayed()


def test_a_search_stays_a_search_while_mail_arrives(page: Page, office: Office) -> None:
    page.open(f"{office.mailbox}?q=lounge")

    office.send(subject="The timetable")
    office.send(subject="The lounge is closed")
    page.wait_for("#rows", "The lounge is closed")

    assert len(page.all("#rows > li")) == 1
    assert page.find("#found").text == "1"


@pytest.mark.parametrize("width", [1280, 390])
def test_pressing_hard_bounce_runs_the_apps_receiver(
    page: Page, either: Office, width: int
) -> None:
    """Through the real webhook route, for the recipient whose button it was."""
    url = either.send(to=["ann@example.net", "jo@example.org"])
    page.width(width)
    page.open(url)

    page.all("button[value=bounced]")[1].click()
    shown = page.wait_for(".recipient:nth-of-type(2) [data-outcome]", "The app took it")
    page.wait_for("#told", "bounce" if either.sim.esps == ("postal",) else "Hard bounce")

    [event] = either.tracked
    assert (event.event_type, event.recipient) == ("bounced", "jo@example.org")
    assert shown.startswith("Hard bounce: The app took it (200).")
    assert page.driver.switch_to.active_element.get_attribute("value") == "bounced"


def test_an_app_that_refuses_is_explained_on_the_spot(page: Page, office: Office) -> None:
    hook = office.sim.hook("postmark").tracking or ""
    office.sim.hook("postmark", tracking=hook.replace(SECRET, "simulator:wrong"))
    page.open(office.send())

    page.find("button[value=opened]").click()
    page.wait_for("[data-outcome]", "The app does not believe it.")

    assert office.tracked == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_composed_mail_arrives_at_the_app(page: Page, either: Office, width: int) -> None:
    page.width(width)
    page.open(f"{either.mailbox}compose/")

    page.find("#subject").clear()
    page.find("#subject").send_keys("Is anybody there?")
    page.find(".primary").click()
    page.wait_for(".outcome", "The app took it")

    [event] = either.arrived
    assert event.message.subject == "Is anybody there?"


def test_an_uploaded_mail_arrives_and_another_file_does_not(
    page: Page, office: Office, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.eml", tmp_path / "bad.eml"
    good.write_bytes(b"From: a@example.com\r\nTo: in@example.com\r\nSubject: Up\r\n\r\nHi\r\n")
    bad.write_bytes(png(4, 4))

    for path, text in ((bad, "This file is not a mail"), (good, "The app took it")):
        page.open(f"{office.mailbox}compose/")
        page.find("#eml").send_keys(str(path))
        page.find("form[aria-labelledby=eml-head] .primary").click()
        page.wait_for(".outcome", text)

    assert [event.message.subject for event in office.arrived] == ["Up"]


def test_emptying_asks_first(page: Page, office: Office) -> None:
    office.send()
    page.open(office.mailbox)

    page.find("#clear").click()
    page.driver.switch_to.alert.dismiss()
    kept = len(office.sim.messages)
    page.find("#clear").click()
    page.driver.switch_to.alert.accept()
    page.wait_for("#empty", "No mail yet")

    assert (kept, office.sim.messages) == (1, [])


# --- keyboard, narrow screens, no scripts ------------------------------------------------


def test_tabs_are_used_with_the_arrow_keys(page: Page, office: Office) -> None:
    """One of them is in the order of Tab; the address remembers which; Home and End work."""
    from selenium.webdriver.common.keys import Keys

    page.open(office.send(html="<b>Hi</b>"))
    page.driver.execute_script("document.querySelector('[role=tab]').focus()")

    def now() -> tuple[str, list[str]]:
        chosen = page.driver.switch_to.active_element
        assert chosen.get_attribute("aria-selected") == "true"
        shown = [one.get_attribute("id") for one in page.all(".panel") if one.is_displayed()]
        return chosen.text, shown

    page.keys(Keys.ARROW_RIGHT)
    assert now() == ("Text", ["text"])
    page.keys(Keys.END)
    assert now() == ("Other providers", ["others"])
    page.keys(Keys.ARROW_RIGHT)
    assert now() == ("HTML", ["html"])
    page.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert now() == ("Sent to Postmark", ["sent"])
    assert page.driver.current_url.endswith("#sent")
    page.driver.refresh()
    assert [one.text for one in page.all("[aria-selected=true]")] == ["Sent to Postmark"]
    page.driver.execute_script("document.querySelector('[aria-selected=true]').focus()")
    page.keys(Keys.HOME)
    assert now() == ("HTML", ["html"])
    assert len(page.all("[role=tab][tabindex='0']")) == 1


def test_the_keyboard_alone_opens_a_message_and_reports_an_event(
    page: Page, office: Office
) -> None:
    from selenium.webdriver.common.keys import Keys

    office.send()
    page.open(office.mailbox)

    for _ in range(20):
        if "row-link" in (page.keys(Keys.TAB).get_attribute("class") or ""):
            break
    page.keys(Keys.ENTER)
    page.wait_for("h1", "The timetable")
    for _ in range(40):
        if page.keys(Keys.TAB).get_attribute("value") == "complained":
            break
    page.keys(Keys.ENTER)
    page.wait_for("[data-outcome]", "Spam complaint: The app took it")

    assert [event.event_type for event in office.tracked] == ["complained"]


def views(office: Office) -> list[str]:
    """Fill a mailbox and return the addresses of all kinds of pages."""
    long = "https://example.com/" + "x" * 200
    attachment = {"Name": "x" * 120 + ".txt", "ContentType": "text/plain", "Content": "aGk="}
    body = {
        "From": f"{'Trains ' * 9}<trains@example.com>",
        "To": f"ann@example.net, {'j' * 60}@{'example.' * 6}org",
        "Subject": f"{'A long subject ' * 8}{'w' * 90}",
        "TextBody": f"Hi {long}",
        "HtmlBody": f'<a href="{long}">Hi</a>',
        "Tag": "t" * 90,
        "Metadata": {"k" * 20: "v" * 80},
        "Headers": [{"Name": "X-Long-Header-Name", "Value": "v" * 300}],
        "TrackOpens": True,
        "Attachments": [attachment],
    }
    headers = {"Accept": "application/json", "X-Postmark-Server-Token": "POSTMARK-SIMULATOR-TOKEN"}
    for one in (body, {}):
        requests.post(f"{office.url}/postmark/email", json=one, headers=headers, timeout=10)
    message = office.sim.messages[-1]
    office.sim.emit(message, "bounced")
    office.sim.fault(status=503, path="/never")
    own = [f"#{tab}" for tab in ("html", "headers", "sent", "others")]
    pages = ["", "?q=nothing", "compose/", "webhooks/", "webhooks/1/", "refused/", "faults/", "no"]
    return [office.mailbox + path for path in pages] + [office.page() + tab for tab in own]


def test_no_page_is_wider_than_the_screen(page: Page, office: Office) -> None:
    """Whatever long words a mail holds."""
    for url in views(office):
        page.open(url)
        for width in (1280, 768, 390, 320):
            page.width(width)
            assert page.overflow <= 0, (url, width)


def test_everything_works_without_scripts(page: Page, office: Office) -> None:
    """Views are sections below each other, and events end in a page that tells."""
    page.scripts(allowed=False)
    page.open(office.send(html="<b>Hi</b>"))
    panels = [one.is_displayed() for one in page.all(".panel")]
    page.find("button[value=bounced]").click()
    page.wait_for("[data-outcome]", "The app took it (200).")
    page.open(office.mailbox)
    page.find("#clear").click()
    page.wait_for("#empty", "No mail yet")

    assert panels == [True] * 6
    assert [event.event_type for event in office.tracked] == ["bounced"]


def axe() -> str:
    """Return axe-core's source, from whichever package ships it."""
    for package in ("axe_core_python", "axe_playwright_python"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    pytest.skip("axe-core-python is not installed")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing(page: Page, office: Office, width: int, scheme: str) -> None:
    """Not a violation of any weight, on any page."""
    source = axe()
    page.width(width)
    page.scheme(scheme)
    run = "axe.run({iframes: false, resultTypes: ['violations']}).then(arguments[0])"
    for url in views(office):
        page.open(url)
        page.driver.execute_script(source)
        result = page.driver.execute_async_script(run)
        found = [
            (one["impact"], one["id"], one["nodes"][0]["html"]) for one in result["violations"]
        ]
        assert found == [], url
        assert len(result["passes"]) > 10
