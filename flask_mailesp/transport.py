"""HTTP: the only I/O of the package.

One `Transport` sends requests over kept-alive connections, each used by one send at a
time. Everything a send does after its start, from the connect to the last byte of the
answer, ends at one deadline; only name resolution is left to the operating system's own
time-out. What a failure means for the message is told by how far the exchange had come::

    connect, TLS, proxy → NotSentError         nothing of the request had gone out
    request, headers    → SendUncertainError   something had, and no answer was understood
    body                → HttpResponse         the status is known; complete=False

`requests` is imported by the first send. Its `HTTPAdapter` is the door (tools that stand
in for ``HTTPAdapter.send`` in users' tests work), urllib3 connects (TLS, proxies), and
`http.client` reads the answer. Sessions are left out, and with them redirects, cookies,
``.netrc`` and a walk through the environment for every call.
"""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import ssl
import sys
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, RemoteDisconnected
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ._version import VERSION
from .esp import Body, HttpRequest, HttpResponse
from .exceptions import MailESPError, NotSentError, SendUncertainError
from .patterns import pattern

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection
    from urllib3.util import Url
else:  # the bases of the mixins below are joined to them by the first send
    HTTPAdapter = HTTPConnection = object

_MAX_HEADERS = 64 * 1024  # bytes of status line and headers; servers themselves stop at 8 to 32 kB
_MAX_IDLE_ADAPTERS = 64
_MAX_DESTINATIONS = 16  # remembered per adapter; an application has one or two
# Proxies and load balancers commonly drop a connection after 60 idle seconds. Sending
# on one that is just being dropped is uncertain, so a connection is not kept that long.
_MAX_IDLE_SECONDS = 50.0
_PIECE = 64 * 1024  # bytes read or decoded at once

_TOKEN = pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110 section 5.6.2
_FIELD_VALUE = pattern(r"[^\x00-\x08\x0a-\x1f\x7f]*").fullmatch  # RFC 9110 section 5.5
_URL = pattern(r"https?://[^\x00-\x20\x7f/?#@]+([/?#][^\x00-\x20\x7f]*)?", re.I).fullmatch
_DOTTED_QUAD = pattern(r"(?:(?:0|[1-9][0-9]{0,2})(?:\.(?!\Z)|\Z)){4}").fullmatch
_PRIVATE_NAMES = frozenset({"localhost", "localdomain", "local", "internal", "lan", "home", "arpa"})
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "expect", "accept-encoding"}
)


class Transport:
    """Sends `HttpRequest`\\ s and returns `HttpResponse`\\ s. May be shared by threads.

    ``connect_timeout`` (seconds) bounds connecting, the proxy and the TLS handshake
    together; ``total_timeout`` (seconds) bounds the whole of a send. ``max_response`` is
    the most bytes of a body that are read, and that it may decode to. ``verify`` is True,
    the path of a CA bundle (a file or directory), or False to accept any certificate.
    With ``trust_env``, proxies and ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE`` are taken
    from the environment, once per process and destination.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = 10.0,
        total_timeout: float = 30.0,
        max_response: int = 5 * 1024 * 1024,
        verify: bool | str = True,
        trust_env: bool = True,
    ) -> None:
        connect_timeout = min(connect_timeout, total_timeout)
        self._limits = _Limits(connect_timeout, total_timeout, max_response)
        self._verify = verify
        self._trust_env = trust_env
        self._process = _Process(verify, trust_env)

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        """Send a request, once, and return the answer, whatever its status.

        ``within`` (seconds) shortens this exchange's time-outs.

        Raises NotSentError where certainly nothing of the request went out, and
        SendUncertainError where something did and no answer was understood. Neither
        carries the library's own error, whose frames and texts hold credentials.
        """
        limits = self._limits if within is None else self._limits.shortened(within)
        outcome = self._attempt(request, _Clock(limits))
        if isinstance(outcome, HttpResponse):
            return outcome
        try:
            raise outcome
        finally:  # some log the locals of frames, and the request's repr shows its URL
            del request, outcome

    def fetch(
        self, request: HttpRequest, *, max_bytes: int, public: bool = False, seconds: float = 10.0
    ) -> HttpResponse:
        """Send a request for what a webhook speaks of; return the answer, whatever its status.

        ``max_bytes`` and ``seconds`` bound the answer and the whole exchange. With ``public``
        the URL is a stranger's: it must be https, and every address that its host resolves
        to a public one (no other service of this machine or network may be reached by it).
        Raises as `send` does.
        """
        connect, total, _ = self._limits
        limits = _Limits(min(connect, seconds), min(total, seconds), max_bytes)
        outcome = self._attempt(request, _Clock(limits, public=public))
        if isinstance(outcome, HttpResponse):
            return outcome
        try:
            raise outcome
        finally:
            del request, outcome

    def close(self) -> None:
        """Close the connections that are idle. The transport can still be used."""
        _close_all(self._here().idle)

    def __repr__(self) -> str:
        connect, total, _ = self._limits
        return f"<Transport: {connect:g} s to connect, {total:g} s in all>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("A Transport holds connections and cannot be pickled.")

    def _attempt(self, request: HttpRequest, clock: _Clock) -> HttpResponse | MailESPError:
        process = self._here()
        adapter = process.take(fresh=clock.public)
        outcome: HttpResponse | MailESPError
        try:
            outcome = adapter.exchange(request, clock)
        except adapter.kit.failures as error:
            if isinstance(error, adapter.kit.read_timeout):
                clock.begin()  # only a stand-in raises it, and means that it was sent
            outcome = clock.explain(error, _place(request.url))
        except BaseException:
            adapter.close()
            raise
        if clock.public:  # a connection to a stranger's host is for one exchange
            adapter.close()
        else:
            process.give_back(adapter)
        return outcome

    def _here(self) -> _Process:
        """What belongs to this process. A fork's child starts without connections.

        The child closes its copies of the parent's sockets, which neither sends anything
        nor ends the parent's connections: close(2) only drops the child's reference.
        """
        process = self._process
        if process.pid != os.getpid():
            self._process = _Process(self._verify, self._trust_env)
            _close_all(process.idle)
        return self._process


class _Limits(NamedTuple):
    """Seconds to connect, seconds in all, bytes of response."""

    connect: float
    total: float
    response: int

    def shortened(self, seconds: float) -> _Limits:
        return self._replace(connect=min(self.connect, seconds), total=min(self.total, seconds))


class _Clock:
    """One send: when it must end, and whether anything of the request has gone out."""

    __slots__ = ("_deadline", "_until", "began", "limits", "public", "via")

    def __init__(self, limits: _Limits, *, public: bool = False) -> None:
        now = monotonic()
        self.limits = limits
        self.public = public
        self._deadline = now + limits.total
        self._until = now + limits.connect
        self.began = False
        self.via = ""  # the proxy, for the text of errors

    def left(self) -> float:
        """Seconds until the connect, or afterwards the exchange, must have ended.

        Raises TimeoutError if that is past: 0 would mean *non-blocking* to a socket.
        """
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def begin(self) -> None:
        """The connection stands; from here on, bytes of the request go out."""
        self._until = self._deadline
        self.began = True

    def explain(self, error: BaseException, place: str) -> MailESPError:
        """Say what an error means for the message, in words that hold nothing secret."""
        cause = _cause(error)
        if self.began:
            what = _interruption(cause, self.limits.total)
            return SendUncertainError(f"{place} {what}. The message may or may not have been sent.")
        if isinstance(cause, _Unsendable):
            return _lasting(NotSentError(f"The request cannot be sent: {cause}. Nothing was sent."))
        why = _obstacle(cause, self.limits.connect) or (
            "the proxy refused it" if self.via else "the connection failed"
        )
        error = NotSentError(f"{place} could not be reached{self.via}: {why}. Nothing was sent.")
        return _lasting(error) if isinstance(cause, ssl.SSLCertVerificationError) else error


class _Process:
    """What belongs to one process: its idle adapters and its kit."""

    def __init__(self, verify: bool | str, trust_env: bool) -> None:
        self.pid = os.getpid()
        self.idle: deque[_Adapter] = deque()
        self._settings = verify, trust_env
        self._lock = threading.Lock()
        self._kit: _Kit | None = None
        weakref.finalize(self, _close_all, self.idle)

    def take(self, *, fresh: bool = False) -> _Adapter:
        """Take the adapter used last (its connection is the warmest), or make one."""
        if not fresh:
            with suppress(IndexError):
                return self.idle.pop()
        kit = self._made()
        return kit.adapter(kit)

    def give_back(self, adapter: _Adapter) -> None:
        if len(self.idle) < _MAX_IDLE_ADAPTERS:
            self.idle.append(adapter)
        else:
            adapter.close()

    def _made(self) -> _Kit:
        with self._lock:
            if self._kit is None:
                self._kit = _Kit(*self._settings)
            return self._kit


def _close_all(idle: deque[_Adapter]) -> None:
    while idle:
        try:
            idle.pop().close()
        except IndexError:  # another thread has just taken the last one
            return


# --- what the first send needs ---------------------------------------------------------


class _Kit:
    """requests' and urllib3's classes joined with ours, and what is read only once."""

    def __init__(self, verify: bool | str, trust_env: bool) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3 import connection, exceptions

        self.prepared = requests.PreparedRequest
        self.case_insensitive = requests.structures.CaseInsensitiveDict
        self.agent = f"Flask-MailESP/{VERSION} (+requests/{requests.__version__})"
        self.read_timeout = requests.exceptions.ReadTimeout
        self.failures = OSError, HTTPException, exceptions.HTTPError, ValueError
        self.adapter: type[_Adapter] = type("_Adapter", (_Adapter, HTTPAdapter), {})
        self._plain: Any = type("_Plain", (_Connection, connection.HTTPConnection), {})
        self._secure: Any = type("_Secure", (_Connection, connection.HTTPSConnection), {})
        self._proxy_config = connection.ProxyConfig
        self._verify = verify
        self._trust_env = trust_env
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        self._proxies: dict[str, str | None] = {}

    def connection(self, scheme: str, host: str, port: int, proxy: str | None) -> _Connection:
        """Make a connection, not yet connected, to a server or to its proxy."""
        if proxy is None:
            return self._connection(scheme == "https", host, port)
        via = _parse_url(proxy)
        if via.scheme not in ("http", "https") or not via.host:
            raise _Unsendable("the proxy for it is not one of http or https")
        secure = "https" in (scheme, via.scheme)
        config = self._proxy_config(self.tls() if secure else None, False, None, None)
        return self._connection(secure, via.host, _port(via), proxy=via, proxy_config=config)

    def _connection(self, secure: bool, host: str, port: int, **options: Any) -> _Connection:
        if secure:
            options["ssl_context"] = self.tls()
        make = self._secure if secure else self._plain
        connection: _Connection = make(host.strip("[]"), port, **options)  # [] of IPv6
        return connection

    def tls(self) -> ssl.SSLContext:
        """Return the one context, for reading the CA bundle costs more than a handshake."""
        with self._lock:
            if self._tls is None:
                self._tls = _tls_context(self._authorities())
            return self._tls

    def _authorities(self) -> str | None:
        """The path of the CA bundle; None to accept any certificate."""
        from requests.utils import DEFAULT_CA_BUNDLE_PATH

        if self._verify is False:
            return None
        if isinstance(self._verify, str):
            return self._verify
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if self._trust_env else ()
        return next(filter(None, map(os.environ.get, names)), None) or DEFAULT_CA_BUNDLE_PATH

    def proxy_for(self, origin: str) -> str | None:
        """The URL of the proxy the environment names for ``scheme://host:port``."""
        from requests.utils import get_environ_proxies, select_proxy

        if not self._trust_env:
            return None
        if origin not in self._proxies:
            found = select_proxy(origin, get_environ_proxies(origin))
            self._proxies[origin] = found if not found or "://" in found else f"http://{found}"
        return self._proxies[origin]


def _tls_context(authorities: str | None) -> ssl.SSLContext:
    """Make the context urllib3 would make. Raises _Unsendable if the bundle is unusable."""
    from urllib3.util.ssl_ import create_urllib3_context

    if authorities is None:
        return create_urllib3_context(cert_reqs=ssl.CERT_NONE)
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    where = "capath" if os.path.isdir(authorities) else "cafile"
    try:
        context.load_verify_locations(**{where: authorities})
    except OSError:
        raise _Unsendable(f"the CA bundle {authorities} cannot be read") from None
    return context


def _parse_url(url: str) -> Url:
    from urllib3.util import parse_url

    return parse_url(url)


def _checked(url: str) -> Url:
    """Parse the URL of a request. Raises _Unsendable."""
    if not _URL(url):
        raise _Unsendable("its URL is not one of http or https, without credentials")
    try:
        return _parse_url(url)
    except ValueError:
        raise _Unsendable("its URL is malformed") from None


def _check_public(addresses: Iterable[object]) -> None:
    """Refuse a host of which any address is not public. Raises _Unsendable.

    The addresses are those that are then connected to: none is looked up a second time.
    """
    if not all(map(_is_public, addresses)):
        raise _Unsendable("its host is not a public one")


def _check_name(host: str) -> None:
    """The same for a host that a proxy will look up: what the name alone can tell."""
    import ipaddress

    name = host.strip("[]").rstrip(".").lower()
    last = name.rpartition(".")[2]
    # What ends in a number is an IPv4 address to whoever resolves it (127.1, 0x7f000001).
    if (
        ":" not in name
        and not _DOTTED_QUAD(name)
        and ("." not in name or last[:1].isdigit() or last in _PRIVATE_NAMES)
    ):
        raise _Unsendable("its host is not a public one")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return
    _check_public([name])


def _is_public(address: object) -> bool:
    """Tell whether an IP address is one of the public internet's (RFC 6890).

    An address inside which an IPv4 address stands is judged by that one.
    """
    import ipaddress

    try:
        found = ipaddress.ip_address(str(address).partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in ipaddress.ip_network("64:ff9b::/96") or int(found) < 1 << 32:
            # NAT64 (RFC 6052) and what was IPv4-compatible (RFC 4291 section 2.5.5.1)
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        # Only this is allocated (RFC 4291 section 2.4): not the site-local fec0::/10, local
        # NAT64 (64:ff9b:1::/48), IPv4-translated ... of which Python's versions know some.
        if found not in ipaddress.ip_network("2000::/3"):
            return False
    return found.is_global and not found.is_multicast


def _port(url: Url) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _place(url: str) -> str:
    """``host:port``, for the text of an error."""
    try:
        parsed = _parse_url(url)
    except ValueError:
        return "The server"
    return f"{parsed.host}:{_port(parsed)}"


# --- one exchange ----------------------------------------------------------------------


class _Destination(NamedTuple):
    """Where a URL leads: the line to the server, the request target, the Host header."""

    line: _Line
    target: str
    host: str


class _Adapter(HTTPAdapter):
    """A requests adapter used by one send at a time, with its own lines to servers.

    requests' ``send`` is kept; what it asks for on the way is answered from memory here.
    """

    clock: _Clock
    head: bytes

    def __init__(self, kit: _Kit) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)
        self.kit = kit
        self._lines: dict[tuple[str, str, int], _Line] = {}
        self._destinations: dict[str, _Destination] = {}

    def exchange(self, request: HttpRequest, clock: _Clock) -> HttpResponse:
        """Send one request and read its answer."""
        if clock.public and not request.url.startswith("https://"):
            raise _Unsendable("its URL is not https")
        self._destination = self._destinations.get(request.url) or self._find(request.url)
        line, target, host = self._destination
        headers = _headers(request, host, self.kit.agent)
        self.clock = clock
        self.head = _head(request.method, target, headers | line.added_headers)
        answer: Any = self.send(self._prepared(request, headers), stream=True)
        if isinstance(answer, HTTPResponse):
            return line.read(answer, clock.limits.response)
        return _from_stand_in(answer)

    def _prepared(self, request: HttpRequest, headers: dict[str, str]) -> PreparedRequest:
        """Fill in a PreparedRequest by hand: there is nothing left to prepare."""
        prepared = self.kit.prepared()
        prepared.method = request.method
        prepared.url = request.url
        prepared.headers = self.kit.case_insensitive(headers)
        prepared.body = request.body  # type: ignore[assignment]
        return prepared

    def _find(self, url: str) -> _Destination:
        parsed = _checked(url)
        if len(self._destinations) >= _MAX_DESTINATIONS:
            self.close()
        line = self._line(parsed)
        target = f"{line.prefix}{parsed.request_uri}"
        found = self._destinations[url] = _Destination(line, target, parsed.netloc or "")
        return found

    def _line(self, parsed: Url) -> _Line:
        key = parsed.scheme or "", parsed.host or "", _port(parsed)
        if key not in self._lines:
            self._lines[key] = _Line(self, *key)
        return self._lines[key]

    # What HTTPAdapter.send calls:

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._destination.line

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """The TLS context has been told already."""

    def request_url(self, *args: Any, **kwargs: Any) -> str:
        return self._destination.target

    def build_response(self, req: PreparedRequest, resp: Any) -> Any:
        return resp if isinstance(resp, HTTPResponse) else super().build_response(req, resp)

    def close(self) -> None:
        for line in self._lines.values():
            line.close()
        self._lines.clear()
        self._destinations.clear()


def _from_stand_in(answer: Response) -> HttpResponse:
    """Read what a tool that replaces ``HTTPAdapter.send`` in tests has answered."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return HttpResponse(answer.status_code, headers, answer.content)


class _Line:
    """The way to one server: at most one connection, through at most one proxy.

    Stands where HTTPAdapter expects a connection pool.
    """

    def __init__(self, owner: _Adapter, scheme: str, host: str, port: int) -> None:
        origin = f"{scheme}://{host}:{port}"
        proxy = owner.kit.proxy_for(origin)
        forwarded = proxy is not None and scheme == "http"
        proxy_headers = owner.proxy_headers(proxy) if proxy else {}
        self.prefix = origin if forwarded else ""  # RFC 9112 section 3.2.2
        self.added_headers = proxy_headers if forwarded else {}
        self._tunnel = (host, port, proxy_headers) if proxy and not forwarded else None
        self._owner = owner
        self._host = host
        self._connection = owner.kit.connection(scheme, host, port, proxy)
        self._used = 0.0  # when an answer was last read, by the monotonic clock
        self._whole = False  # whether the request has gone out to its end

    def urlopen(self, method: str, body: Any, **_: Any) -> HTTPResponse:
        """Send the request and read the answer's status line and headers."""
        connection, clock = self._connection, self._owner.clock
        try:
            self._connect(connection, clock)
            clock.begin()
            self._whole = connection.transmit(self._owner.head, body)
            return connection.answer(method)
        except BaseException:
            connection.close()
            raise

    def _connect(self, connection: _Connection, clock: _Clock) -> None:
        """Make sure that the connection stands, and that the server has not closed it."""
        connection.clock = clock
        if clock.public and connection.proxy is not None:
            _check_name(self._host)
        if connection.sock is not None:
            if monotonic() - self._used < _MAX_IDLE_SECONDS and connection.is_connected:
                return
            connection.close()
        if connection.proxy is not None:
            clock.via = f" through the proxy {connection.host}:{connection.port}"
            if self._tunnel is not None:
                connection.set_tunnel(*self._tunnel, scheme=connection.proxy.scheme or "http")
        connection.connect()

    def read(self, answer: HTTPResponse, limit: int) -> HttpResponse:
        """Read the body, and keep the connection only if nothing can be left in it."""
        keep = False
        try:
            body, complete = _drain(answer, limit)
            keep = complete and self._whole and not answer.will_close
        finally:
            answer.close()
            self._used = monotonic()
            if not keep:
                self._connection.close()
        headers = _fields(answer)
        if coding := headers.get("content-encoding"):
            body, decoded = _decode(body, coding.strip().lower(), limit)
            complete = complete and decoded
        return HttpResponse(answer.status, headers, body, complete)

    def close(self) -> None:
        self._connection.close()


class _Connection(HTTPConnection):
    """A urllib3 connection whose every wait ends when the clock says so."""

    clock: _Clock

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, each having its share of the time."""
        sys.audit("http.client.connect", self, self.host, self.port)
        found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        if self.clock.public and self.proxy is None:
            _check_public(address[0] for *_, address in found)
        for untried, (*kind, _, address) in zip(range(len(found), 0, -1), found, strict=True):
            try:
                return self._open(kind, address, self.clock.left() / untried)
            except OSError:
                if untried == 1:
                    raise
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def _open(self, kind: Sequence[Any], address: Any, seconds: float) -> socket.socket:
        sock = socket.socket(*kind)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(seconds)
            sock.connect(address)
            sock.settimeout(self.clock.left())  # for the TLS handshake
        except BaseException:
            sock.close()
            raise
        return sock

    def transmit(self, head: bytes, body: bytes | Body) -> bool:
        """Send a request; return False if the server stopped reading before its end.

        It may have answered before it did (413, for one), so the answer is still read.
        """
        try:
            if not isinstance(body, bytes):
                self.send(head)
                for piece in body:
                    self.send(piece)
            elif len(body) < _PIECE:
                self.send(head + body)  # one packet, one TLS record
            else:
                self.send(head)
                self.send(body)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            return False
        return True

    def send(self, data: Any) -> None:
        """Send all of the data in time, however slowly it is taken."""
        view = memoryview(data)
        while view:
            self.sock.settimeout(self.clock.left())
            view = view[self.sock.send(view) :]

    def answer(self, method: str) -> HTTPResponse:
        """Read the status line and headers. Raises HTTPException if they are not such."""
        reader = _Reader(self.sock, self.clock)
        answer = HTTPResponse(reader, method=method)  # type: ignore[arg-type]
        answer.begin()
        if answer.status < 200:
            raise HTTPException("an interim answer in place of a final one")
        reader.budget += self.clock.limits.response
        return answer

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None
    ) -> HTTPResponse:
        """What http.client reads a proxy's answer to CONNECT with."""
        return HTTPResponse(_Reader(sock, self.clock), method=method)  # type: ignore[arg-type]


class _Reader(io.RawIOBase):
    """Reads from a socket until the clock or the budget, in bytes, is used up."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock = sock
        self._clock = clock
        self.budget = _MAX_HEADERS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._clock.left())
        count = self._sock.recv_into(buffer)
        self.budget -= count
        if self.budget < 0:
            raise _TooLarge
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """What HTTPResponse asks a socket for."""
        return io.BufferedReader(self)


# --- bytes -----------------------------------------------------------------------------


class _Unsendable(ValueError):
    """The request, or what is configured for sending it, is unusable. The text is safe."""


class _TooLarge(HTTPException):
    """More bytes came than an answer may have."""


def _cause(error: BaseException) -> BaseException:
    """What the library has wrapped."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    return error


def _obstacle(cause: BaseException, seconds: float) -> str | None:
    """Why a server could not be reached, never in the library's own words; None if unclear."""
    if isinstance(cause, socket.gaierror):
        return f"its name could not be resolved ({cause.strerror})"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message.rstrip('.')})"
    if isinstance(cause, ssl.SSLError):
        return f"the TLS handshake failed ({cause.reason})"
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno).lower()
    if isinstance(cause, TimeoutError):
        return f"no connection within {seconds:g} s"
    if isinstance(cause, UnicodeError):
        return "its name is malformed"
    return None


def _lasting(error: NotSentError) -> NotSentError:
    """Mark a failure that trying again does not mend."""
    error.may_pass = False
    return error


def _interruption(cause: BaseException, seconds: float) -> str:
    """What a server did instead of answering."""
    if isinstance(cause, _TooLarge):
        return "answered with headers that are too large"
    if isinstance(cause, (RemoteDisconnected, ssl.SSLEOFError)):
        return "closed the connection without an answer"
    if isinstance(cause, ssl.SSLError):
        return f"broke off the exchange ({cause.reason})"
    if isinstance(cause, OSError) and cause.errno:
        return f"broke off the exchange ({os.strerror(cause.errno).lower()})"
    if isinstance(cause, TimeoutError):
        return f"did not answer within {seconds:g} s"
    if isinstance(cause, HTTPException):
        return "gave an answer that is not HTTP"
    return "broke off the exchange"


def _headers(request: HttpRequest, host: str, agent: str) -> dict[str, str]:
    """Complete the headers. A given User-Agent or Accept stays; framing is ours."""
    headers = {"Host": host, "User-Agent": agent, "Accept": "*/*"}
    defaults = {name.lower(): name for name in headers}
    for name, value in request.headers.items():
        lower = name.lower()
        if lower not in _OURS:
            headers.pop(defaults.get(lower, ""), None)
            headers[name] = value
    headers["Accept-Encoding"] = "identity"
    if request.body or request.method not in ("GET", "HEAD"):
        headers["Content-Length"] = str(len(request.body))
    return headers


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Write the request line and headers (RFC 9112 section 3). Raises _Unsendable."""
    if not _TOKEN(method):
        raise _Unsendable("its method is not one")
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers.items():
        if not (_TOKEN(name) and _FIELD_VALUE(value)):
            raise _Unsendable("a header holds a character that HTTP does not allow")
        lines.append(f"{name}: {value}")
    lines.append("\r\n")
    try:
        return "\r\n".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        raise _Unsendable("a header holds a character beyond Latin-1") from None


def _drain(answer: HTTPResponse, limit: int) -> tuple[bytes, bool]:
    """Read the body; return what there is, and whether that is all of it."""
    left = answer.length  # None if the body is chunked or ends with the connection
    pieces: list[bytes] = []
    room = limit
    try:
        while left is None or left > 0:
            piece = answer.read1(min(_PIECE, room + 1 if left is None else left))
            if not piece:
                return b"".join(pieces), left is None
            pieces.append(piece)
            room -= len(piece)
            left = left if left is None else left - len(piece)
            if room < 0:
                return b"".join(pieces)[:limit], False
    except (OSError, HTTPException):
        return b"".join(pieces), False
    return b"".join(pieces), True


def _fields(answer: HTTPResponse) -> dict[str, str]:
    """Lower-case names; repeated fields become one (RFC 9110 section 5.3)."""
    fields: dict[str, str] = {}
    for name, value in answer.headers.items():
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return fields


def _decode(data: bytes, coding: str, limit: int) -> tuple[bytes, bool]:
    """Undo a Content-Encoding; return what there is, and whether that is all of it."""
    if coding == "identity" or not data:
        return data, True
    if coding not in ("gzip", "x-gzip", "deflate"):
        return data, False
    bare = coding == "deflate" and not _is_zlib(data)  # some servers leave the wrapping out
    pieces: list[bytes] = []
    try:
        pieces.extend(_inflated(data, -zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32, limit))
    except (zlib.error, EOFError, _TooLarge):
        return b"".join(pieces)[:limit], False
    return b"".join(pieces), True


def _inflated(data: bytes, window_bits: int, limit: int) -> Iterator[bytes]:
    """Yield the decoded data in pieces, not much more than ``limit`` bytes in all.

    Raises zlib.error if the data is damaged, EOFError if it is cut off (or goes on after
    its end), _TooLarge if it decodes to more.
    """
    inflater = zlib.decompressobj(window_bits)
    while not inflater.eof:
        piece = inflater.decompress(data, _PIECE)
        data = inflater.unconsumed_tail
        limit -= len(piece)
        yield piece
        if limit < 0:
            raise _TooLarge
        if not piece and not inflater.eof:
            raise EOFError
    if inflater.unused_data:
        raise EOFError


def _is_zlib(data: bytes) -> bool:
    """RFC 1950 section 2.2: method 8, and a check of the first two bytes."""
    return data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
