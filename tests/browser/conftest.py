"""The example app on a real port, and a real browser in front of it."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from example_app import create_app, offline
from example_app.history import Snapshot, history_of
from example_app.providers import PROVIDERS
from flask_mailesp.simulator import Simulator

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

CHROMIUM = "/usr/bin/chromium"
CHROMEDRIVER = "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Site:
    """A running example app."""

    app: Flask
    url: str

    @property
    def sim(self) -> Simulator:
        simulator = offline.simulator_of(self.app)
        assert simulator is not None
        return simulator.sim

    @property
    def history(self) -> Snapshot:
        return history_of(self.app).snapshot()


class Visitor:
    """A browser without JavaScript: it keeps cookies and posts forms with their token."""

    def __init__(self, site: Site, session: requests.Session) -> None:
        self.site = site
        self.session = session
        self.page = self.get("/").text

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.site.url + path, timeout=10)

    def post(self, path: str, data: dict[str, Any], **options: Any) -> requests.Response:
        token = re.search(r'name="csrf" value="([^"]+)"', self.page)
        assert token is not None
        data = {"csrf": token[1], **data}
        return self.session.post(self.site.url + path, data, timeout=10, **options)


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing about each request."""


@contextmanager
def serving(environ: Mapping[str, str]) -> Iterator[Site]:
    """Serve the app as ``python -m example_app`` does, on a free port."""
    app = create_app(environ)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Site(app, f"http://127.0.0.1:{server.port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        offline.stop(app)


Serve = Callable[..., Site]

# For what has nothing to do with the provider.
ONE_ESP = pytest.mark.parametrize("site", ["postmark"], indirect=True)
# For what every provider must be able to do; two are enough for a browser.
EVERY_ESP = pytest.mark.parametrize("site", sorted(PROVIDERS), indirect=True)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start the app with environment variables: ``serve(MAILESP_ESP="postal")``."""
    with ExitStack() as stack:
        yield lambda **environ: stack.enter_context(serving(environ))


@pytest.fixture(params=["postmark", "postal"])
def site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    """The app without any credential, for each provider."""
    return serve(MAILESP_ESP=request.param)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def visitor(site: Site, session: requests.Session) -> Visitor:
    return Visitor(site, session)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """One headless Chromium for all tests; skipped, unless required, where there is none."""
    selenium = _selenium()
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    service = selenium.ChromeService(CHROMEDRIVER)
    driver = selenium.Chrome(options=options, service=service)
    driver.set_page_load_timeout(20)
    try:
        yield driver
    finally:
        driver.quit()


def _selenium() -> Any:
    missing = [path for path in (CHROMIUM, CHROMEDRIVER) if shutil.which(path) is None]
    try:
        from selenium import webdriver
    except ImportError:
        missing.append("selenium")
    if not missing:
        return webdriver
    text = f"not installed: {', '.join(missing)}"
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture
def browser(chromium: WebDriver, serve: Serve) -> Iterator[WebDriver]:
    """The browser, without cookies; it leaves the app's page before the app stops."""
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.set_window_size(1280, 900)
    yield chromium
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get("about:blank")


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A file to attach."""
    path = tmp_path / "timetable.txt"
    path.write_text("09:00 breakfast\n", encoding="utf-8")
    return path
