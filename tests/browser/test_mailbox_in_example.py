"""The example app and its mailbox, side by side in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from flask_mailesp import MailESP, Message

from .conftest import ONE_ESP, Site
from .test_in_browser import WAIT, Page

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

pytestmark = pytest.mark.browser

SCRIPT = "<script>document.body.textContent = 'it ran'</script><p>Hello <b>Ann</b></p>"


class Desk:
    """Two tabs: the app, and the mailbox that its link has opened."""

    def __init__(self, driver: WebDriver, site: Site) -> None:
        self.driver = driver
        self.site = site
        self.app = Page(driver, site)
        self.is_narrow = False
        self.home = driver.current_window_handle

    def open_mailbox(self) -> None:
        """Follow the app's link; it opens a tab of its own."""
        self.app.press("#mailbox")
        self.wait(lambda driver: len(driver.window_handles) == 2, "a new tab")
        [tab] = set(self.driver.window_handles) - {self.home}
        self.driver.switch_to.window(tab)
        if self.is_narrow:
            self.narrow()  # each tab has a width of its own
        self.wait_for(".brand", "Mailbox")

    def to_app(self) -> None:
        self.driver.switch_to.window(self.home)

    def to_mailbox(self) -> None:
        self.driver.switch_to.window(self.driver.window_handles[-1])

    def close(self) -> None:
        for tab in set(self.driver.window_handles) - {self.home}:
            self.driver.switch_to.window(tab)
            self.driver.close()
        self.to_app()

    def wait(self, condition: Any, what: str) -> None:
        """Wait, whatever the browser says of a page that is just going or coming."""
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, WAIT, 0.05, [WebDriverException]).until(condition, what)

    def wait_for(self, css: str, text: str) -> None:
        """Wait until an element shows a text."""
        self.wait(lambda _: text in self.find(css).text, f"{text!r} not in {css}")

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def press(self, css: str) -> None:
        """Press a button as a thumb does: after scrolling to it."""
        button = self.find(css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def narrow(self) -> None:
        self.is_narrow = True
        metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        root = "document.documentElement"
        return int(self.driver.execute_script(f"return {root}.scrollWidth - innerWidth"))


@pytest.fixture
def desk(browser: WebDriver, site: Site) -> Iterator[Desk]:
    desk = Desk(browser, site)
    yield desk
    desk.close()


def whole_way(desk: Desk, site: Site) -> None:
    """Send; see the mail rendered; press *hard bounce*; see the app's list; write to the app."""
    desk.app.send_a_message()
    desk.open_mailbox()
    desk.wait_for("main", "The timetable")
    assert desk.overflow <= 0
    desk.press("main a[href*='/messages/']")
    see_it_rendered(desk)
    assert desk.overflow <= 0

    desk.press("button[value=bounced]")
    desk.wait_for("[data-outcome]", "The app took it")
    desk.to_app()
    desk.wait_for("#event-list", "bounced")
    told = {(event.event_type, event.recipient) for event in site.history.events}
    assert ("bounced", "ann@example.net") in told  # "delivered" comes when it comes

    desk.to_mailbox()
    write_to_the_app(desk)
    desk.to_app()
    desk.wait_for("#mails", "Is anybody there?")


def see_it_rendered(desk: Desk) -> None:
    """The HTML, with the inline image, in its sandbox."""
    desk.wait_for("h1", "The timetable")
    desk.driver.switch_to.frame(desk.find("iframe.mail"))
    desk.wait_for("body", "It is attached.")
    desk.wait(lambda _: desk.find("img").get_property("naturalWidth") > 0, "the inline image")
    desk.driver.switch_to.default_content()


def write_to_the_app(desk: Desk) -> None:
    """Compose an inbound mail on the page for it."""
    desk.press("a[href$='/compose/']")
    subject = desk.find("#subject")
    subject.clear()
    subject.send_keys("Is anybody there?")
    desk.press("form[aria-labelledby=write-head] .primary")
    desk.wait_for(".outcome", "The app took it")
    assert desk.overflow <= 0


def test_from_the_app_to_the_mailbox_and_back(desk: Desk, site: Site) -> None:
    """Every event and mail comes through the real, authenticated webhook routes."""
    whole_way(desk, site)


@ONE_ESP
def test_the_same_on_a_narrow_screen(desk: Desk, site: Site) -> None:
    """390 pixels: nothing to scroll sideways, everything within a thumb's reach."""
    desk.narrow()
    desk.wait_for("h1", "Flask-MailESP example")
    assert desk.overflow <= 0
    whole_way(desk, site)


@ONE_ESP
def test_a_script_in_the_mail_does_not_run(desk: Desk, site: Site) -> None:
    """The rest of the mail is shown."""
    with site.app.app_context():
        MailESP().send(Message("Scripted", "ann@example.net", html=SCRIPT))
    desk.open_mailbox()
    desk.press("main a[href*='/messages/']")
    desk.wait_for("h1", "Scripted")
    desk.driver.switch_to.frame(desk.find("iframe.mail"))
    desk.wait_for("body", "Hello")
    shown = desk.find("body").text
    desk.driver.switch_to.default_content()

    assert shown == "Hello Ann"
