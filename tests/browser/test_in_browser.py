"""The example app, as a person uses it: in a real browser, with and without a mouse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import ONE_ESP, Site

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

pytestmark = pytest.mark.browser

WAIT = 15  # seconds until a test gives up; it goes on as soon as what it waits for is there


class Page:
    """The page as its users see it: labelled fields, buttons, lists."""

    def __init__(self, driver: WebDriver, site: Site) -> None:
        self.driver = driver
        driver.get(site.url)

    def fill(self, field: str, text: str) -> None:
        box = self.driver.find_element("id", field)
        box.clear()
        box.send_keys(text)

    def press(self, css: str) -> None:
        self.driver.find_element("css selector", css).click()

    def wait_for(self, css: str, text: str) -> str:
        """Wait until an element shows a text; return all that it shows."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        def shown(driver: WebDriver) -> bool:
            return any(text in item.text for item in driver.find_elements("css selector", css))

        ignored = [StaleElementReferenceException]
        WebDriverWait(self.driver, WAIT, 0.05, ignored).until(shown, f"{text!r} not in {css}")
        return self.driver.find_element("css selector", css).text

    def mark(self) -> None:
        """Leave a mark that a reload would remove."""
        self.driver.execute_script("window.marked = true")

    @property
    def is_marked(self) -> bool:
        return bool(self.driver.execute_script("return window.marked === true"))

    def send_a_message(self, to: str = "ann@example.net") -> None:
        self.fill("to", to)
        self.fill("subject", "The timetable")
        self.fill("body", "It is attached.")
        self.press(".send .primary")
        self.wait_for("#messages", "The timetable")


@pytest.fixture
def page(browser: WebDriver, site: Site) -> Page:
    return Page(browser, site)


def test_what_happens_to_a_message_appears_by_itself(page: Page, site: Site, upload: Path) -> None:
    """Send, see the result per recipient, see delivered; press Bounce, see it arrive."""
    page.driver.find_element("id", "file").send_keys(str(upload))
    page.send_a_message("ann@example.net\nJo Doe <jo@example.org>")
    page.mark()

    shown = page.wait_for("#messages", "delivered")
    page.wait_for("#event-list", "jo@example.org")
    page.press("button[value=bounced]")
    page.wait_for("#event-list", "bounced")
    page.wait_for("#messages", "bounced")

    assert page.is_marked, "the page was reloaded"
    assert "ann@example.net" in shown
    assert "jo@example.org" in shown
    assert all(number in shown for number in site.sim.messages[0].ids.values())
    names = sorted(file.name for file in site.sim.messages[0].attachments)
    assert names == ["envelope.png", "timetable.txt"]


@ONE_ESP
def test_a_button_keeps_the_focus_and_the_news_is_announced(page: Page) -> None:
    """Lists grow around what someone is using, and screen readers hear of it."""
    page.send_a_message()
    page.wait_for("#messages", "delivered")

    page.press("button[value=opened]")
    page.wait_for("#event-list", "opened")

    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("value") == "opened"
    announcer = page.driver.find_element("id", "announcer")
    assert announcer.get_attribute("role") == "status"
    assert announcer.get_attribute("textContent") == "opened: ann@example.net"


def test_a_mail_to_the_app_appears_as_text_whatever_it_holds(page: Page) -> None:
    """A script in a mail is shown, not run."""
    page.fill("note-from", "Eve <eve@example.net>")
    page.fill("note-subject", "<script>document.title = 'owned'</script>")
    page.fill("note-text", "<img src=x onerror=\"document.title = 'owned'\">\nBye")
    page.press(".write .primary")

    shown = page.wait_for("#mails", "onerror")

    assert "<script>document.title = 'owned'</script>" in shown
    assert "eve@example.net" in shown
    assert "no attachments" in shown
    assert "owned" not in page.driver.title
    assert not page.driver.find_elements("css selector", "#mails script, #mails img")


@ONE_ESP
def test_mail_from_elsewhere_appears_by_itself(page: Page, site: Site) -> None:
    """The page asks for news: nobody needs to touch it."""
    page.mark()
    mail = site.sim.compose(
        "postal", from_="ann@example.net", to="app@example.com", subject="Quite new", text="Hi"
    )
    esp = site.app.config["MAILESP_ESP"]

    assert site.sim.receive(esp, mail, to="app@example.com").status == 200
    page.wait_for("#mails", "Quite new")

    assert page.is_marked


@ONE_ESP
def test_the_keyboard_alone_can_send(page: Page, site: Site) -> None:
    """Every control is reached by Tab, in the order of reading, and Enter sends."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def keys(*typed: str) -> str:
        ActionChains(page.driver).send_keys(*typed).perform()
        return page.driver.switch_to.active_element.get_attribute("id") or ""

    def replace(text: str) -> None:
        chain = ActionChains(page.driver).key_down(Keys.CONTROL).send_keys("a")
        chain.key_up(Keys.CONTROL).send_keys(text).perform()

    keys(Keys.TAB)
    assert page.driver.switch_to.active_element.text == "Skip to the content"
    assert keys(Keys.ENTER) == "main"
    assert keys(Keys.TAB) == "to"
    replace("ann@example.net")
    assert keys(Keys.TAB) == "subject"
    replace("By keyboard")
    assert keys(Keys.TAB) == "body"
    assert keys(Keys.TAB) == "file"
    keys(Keys.TAB, Keys.SPACE)  # no inline image
    ActionChains(page.driver).send_keys(Keys.TAB, Keys.ENTER).perform()  # leaves the page
    page.wait_for("#messages", "By keyboard")

    assert site.sim.messages[0].recipients == ["ann@example.net"]
    assert site.sim.messages[0].attachments == []


@ONE_ESP
def test_every_width_shows_everything_without_scrolling_sideways(page: Page) -> None:
    """Long ids and addresses wrap; on a phone everything is large enough for a finger."""
    page.send_a_message("a-rather-long-name-that-someone-chose-for-a-mailbox@mail.example.org")
    page.wait_for("#messages", "delivered")

    for width, finger in ((1280, 24), (390, 44), (320, 44)):
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        page_width = page.driver.execute_script("return document.documentElement.scrollWidth")
        controls = page.driver.find_elements("css selector", "button, input[type=text], textarea")
        assert page_width <= width
        assert min(control.size["height"] for control in controls) >= finger

    page.press("button[value=bounced]")
    page.wait_for("#event-list", "bounced")


@ONE_ESP
def test_a_bad_address_is_explained_and_nothing_typed_is_lost(page: Page, site: Site) -> None:
    page.fill("to", "someone at home")
    page.fill("subject", "Still here")
    page.press(".send .primary")

    shown = page.wait_for(".send [role=alert]", "is not an email address")

    assert "someone at home" in shown
    assert page.driver.switch_to.active_element.get_attribute("role") == "alert"
    assert page.driver.find_element("id", "subject").get_attribute("value") == "Still here"
    assert site.sim.messages == []


@ONE_ESP
def test_a_file_that_is_too_large_is_refused_before_it_is_sent(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(7 * 1024 * 1024 + 1))
    field = page.driver.find_element("id", "file")

    field.send_keys(str(large))

    assert "larger than 7 MB" in (field.get_attribute("validationMessage") or "")


@ONE_ESP
def test_nothing_on_the_page_offends_its_own_security_policy(page: Page) -> None:
    console: Any = page.driver
    console.get_log("browser")  # what earlier tests left

    page.send_a_message()
    page.wait_for("#messages", "delivered")

    assert [entry["message"] for entry in console.get_log("browser")] == []


@ONE_ESP
def test_an_open_page_survives_a_restart_of_the_app(page: Page, site: Site) -> None:
    """After a restart the visitor's token is another one; the page learns it by itself."""
    page.driver.delete_all_cookies()
    site.app.config["SECRET_KEY"] = "another one"
    site.sim.receive(
        site.app.config["MAILESP_ESP"],
        b"From: ann@example.net\r\nSubject: News\r\n\r\nHi\r\n",
        to="app@example.com",
    )
    page.wait_for("#mails", "News")

    page.send_a_message()

    assert len(site.sim.messages) == 1
