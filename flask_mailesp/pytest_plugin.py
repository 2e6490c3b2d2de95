"""The pytest plugin of Flask-MailESP: an outbox, webhooks and inbound mail, and a guard.

pytest imports this in every run, used or not. So it imports nothing of Flask, and of the
package nothing until a fixture needs it; what the fixtures do is in
`flask_mailesp.recording`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from .recording import Outbox

_MARKER = "mailesp_network"
_OPTION = "mailesp_allow_network"
_TRANSPORT = "flask_mailesp.transport"


# --- fixtures --------------------------------------------------------------------------


@pytest.fixture
def mailesp_outbox() -> Iterator[Outbox]:
    """Every message that any app sends in this test, and nothing leaves the machine."""
    from .recording import record_all

    with record_all() as outbox:
        yield outbox


@pytest.fixture
def mailesp_simulate(mailesp_outbox: Outbox) -> Callable[..., int]:
    """``mailesp_simulate(message, "bounced", ...)``: see `Outbox.simulate`."""
    return mailesp_outbox.simulate


@pytest.fixture
def mailesp_receive(request: pytest.FixtureRequest, mailesp_outbox: Outbox) -> Callable[..., int]:
    """``mailesp_receive(from_=..., subject=..., text=...)``: see `Outbox.receive`.

    The app is, unless given: the active one, that of a fixture named ``app``, the only one
    that has been active.
    """
    from .recording import active_app

    def receive(*mail: Any, app: Flask | None = None, **fields: Any) -> int:
        chosen = app or active_app() or _app_of_fixture(request)
        return mailesp_outbox.receive(*mail, app=chosen, **fields)

    return receive


def _app_of_fixture(request: pytest.FixtureRequest) -> Flask | None:
    """Return the app of the ``app`` fixture, if there is one and it sends mail."""
    try:
        app = request.getfixturevalue("app")
    except pytest.FixtureLookupError:
        return None
    return app if "mailesp" in getattr(app, "extensions", ()) else None


# --- the guard -------------------------------------------------------------------------


class Guard:
    """Fails a test that is about to connect to anything but this machine.

    ``caught`` has what it said. Threads and broad ``except`` clauses swallow a failure, so
    `settle` repeats it when the test ends.
    """

    def __init__(self, allowed: bool) -> None:
        self.allowed = allowed
        self.caught: list[str] = []
        self._undo: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Watch the transport's connections, from its import on."""
        module = sys.modules.get(_TRANSPORT)
        if module is not None:
            self.watch(module)
            return
        finder = _ImportWatch(self.watch)
        sys.meta_path.insert(0, finder)
        self._undo = finder.end

    def watch(self, module: ModuleType) -> None:
        """Look at each request when the transport asks for a connection to send it over.

        Where another tool stands in for requests' sending, that never happens.
        """
        adapter = module._Adapter
        connect = adapter.get_connection_with_tls_context

        def watched(self_: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            self.check(request.url)
            return connect(self_, request, *args, **kwargs)

        def undo() -> None:
            adapter.get_connection_with_tls_context = connect

        adapter.get_connection_with_tls_context = watched
        self._undo = undo

    def remove(self) -> None:
        self._undo()

    def check(self, url: str) -> None:
        """Fail unless the URL is allowed: any in tests that are marked, else this machine's."""
        from .config import is_loopback

        host = urlsplit(url).hostname or ""
        if self.allowed or is_loopback(host):
            return
        said = (
            f"This test would have sent mail through {host}: use the fixture mailesp_outbox, "
            f"or mark the test with @pytest.mark.{_MARKER} if that is what you want."
        )
        self.caught.append(said)
        pytest.fail(said, pytrace=False)

    def settle(self) -> None:
        """Fail if something was caught that did not make the test fail."""
        if self.caught:
            said = self.caught[0]
            self.caught.clear()
            pytest.fail(said, pytrace=False)


class _ImportWatch(MetaPathFinder):
    """Calls back once the transport has been imported, however late a test does so."""

    def __init__(self, then: Callable[[ModuleType], None]) -> None:
        self._then = then

    def end(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TRANSPORT:
            return None
        self.end()
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenLoader(spec.loader, self._then)
        return spec


class _ThenLoader(Loader):
    """Another loader, and a call when it is done."""

    def __init__(self, loader: Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then(module)


# --- pytest's hooks --------------------------------------------------------------------

_GUARD = pytest.StashKey[Guard]()

Wrapper = Generator[None, object, object]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _OPTION, "Let tests connect to email service providers.", type="bool", default=False
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{_MARKER}: this test may connect to real email service providers."
    )
    guard = config.stash[_GUARD] = Guard(config.getini(_OPTION))
    guard.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _GUARD in config.stash:
        config.stash[_GUARD].remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Wrapper:
    """A marked test may connect, its fixtures included."""
    guard = item.config.stash[_GUARD]
    before, guard.allowed = guard.allowed, guard.allowed or _is_marked(item)
    try:
        return (yield)
    finally:
        guard.allowed = before


def _is_marked(item: pytest.Item) -> bool:
    return item.get_closest_marker(_MARKER) is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Wrapper:
    return (yield from _settled(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Wrapper:
    return (yield from _settled(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Wrapper:
    return (yield from _settled(item))


def _settled(item: pytest.Item) -> Wrapper:
    """Run one phase of a test; one that has failed need not be told twice."""
    guard = item.config.stash[_GUARD]
    try:
        result = yield
    except BaseException:
        guard.caught.clear()
        raise
    guard.settle()
    return result
