"""Posting a webhook the way the provider's own HTTP client does, again and again if need be."""

from __future__ import annotations

import base64
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import ClassVar
from urllib.parse import unquote, urlsplit, urlunsplit

import requests

from .background import Background
from .records import Delivery, Fault, Pending, Post
from .store import Store

HELD_SECONDS = 2.0


class Poster:
    """Posts webhooks, records them, repeats them by the provider's schedule, and spoils some.

    ``time_scale`` shortens the schedule: 1 is real time, 0 repeats at once. ``chance``
    decides on faults that do not always happen.
    """

    def __init__(
        self, store: Store, background: Background, chance: random.Random, time_scale: float
    ) -> None:
        self._store = store
        self._background = background
        self._chance = chance
        self.time_scale = time_scale

    def send(self, request: Post, fault: Fault | None = None) -> Delivery:
        """Make the first attempt, or what a fault makes of it; the first one that was made."""
        fault = fault or self._store.faults.take(fits(request), self._chance)
        spoil = self._spoilers.get(fault.webhook) if fault and fault.webhook else None
        return spoil(self, request, fault) if spoil and fault else self.attempt(request)

    def attempt(self, request: Post, number: int = 1) -> Delivery:
        """Make one attempt, record it and plan the next if the answer asks for it."""
        schedule = request.schedule
        left = len(schedule.waits) - number + 1
        counted = {schedule.remaining: str(left)} if schedule.remaining else {}
        ready = signed(request)
        delivery = post(replace(ready, headers=ready.headers | counted))
        delivery = replace(delivery, attempt=number, verdict=schedule.judge(delivery.status))
        if delivery.verdict == "retry" and left < 1:
            delivery = replace(delivery, verdict="exhausted")
        if delivery.verdict == "retry":
            delivery = replace(delivery, retry_in=schedule.waits[number - 1])
        self._store.add_delivery(delivery)
        if delivery.retry_in is not None:
            self._later(request, number + 1, delivery.retry_in * self.time_scale)
        self._background.release(request.esp)
        return delivery

    def _later(self, request: Post, number: int, seconds: float, *, held: bool = False) -> None:
        what = Pending(request.esp, request.event, request.message, number, seconds)
        job = self._job(request, number)
        self._background.submit(job, what, awaited=False, held=held)

    def _job(self, request: Post, number: int) -> Callable[[], object]:
        return lambda: self.attempt(request, number)

    # -- faults ---------------------------------------------------------------------------

    def _lose(self, request: Post, _fault: Fault) -> Delivery:
        lost = replace(unposted(request, "lost by a fault: never posted"), verdict="dropped")
        self._store.add_delivery(lost)
        return lost

    def _double(self, request: Post, _fault: Fault) -> Delivery:
        first = self.attempt(request)
        self.attempt(request)
        return first

    def _delay(self, request: Post, fault: Fault) -> Delivery:
        self._later(request, 1, fault.delay)
        return unposted(request, f"made late by a fault: posted in {fault.delay:g} s")

    def _hold(self, request: Post, fault: Fault) -> Delivery:
        self._later(request, 1, fault.delay or HELD_SECONDS, held=True)
        return unposted(request, "held back by a fault until the next webhook has gone")

    def _forge(self, request: Post, _fault: Fault) -> Delivery:
        """A forgery comes first: a receiver must not take it for the event itself."""
        url, _ = split_credentials(request.url)
        real = signed(request)
        forged = replace(real, url=url, headers=real.headers | forged_headers(real))
        if forged.forge is not None:
            forged = forged.forge(forged)
        self._store.add_delivery(replace(post(forged), forged=True))
        return self.attempt(request)

    _spoilers: ClassVar[dict[str, Callable[[Poster, Post, Fault], Delivery]]] = {
        "lost": _lose,
        "doubled": _double,
        "late": _delay,
        "reordered": _hold,
        "forged": _forge,
    }


def fits(request: Post) -> Callable[[Fault], bool]:
    """Whether a fault is for this webhook."""

    def fit(fault: Fault) -> bool:
        ours = fault.esp in (None, request.esp) and fault.event in (None, request.event)
        return fault.webhook is not None and ours

    return fit


def signed(request: Post) -> Post:
    """The request as it goes out now."""
    return request if request.sign is None else request.sign(request, datetime.now(timezone.utc))


def forged_headers(request: Post) -> dict[str, str]:
    """Credentials and signatures that are of the right form, and wrong."""
    guess = base64.b64encode(f"forged:{secrets.token_hex(8)}".encode()).decode("ascii")
    backwards = {name: backward(request.headers[name]) for name in request.proofs}
    return {"Authorization": f"Basic {guess}", **backwards}


def backward(proof: str) -> str:
    """The same characters the other way round; base64 stays base64."""
    core = proof.rstrip("=")
    return core[::-1] + "=" * (len(proof) - len(core))


def post(request: Post) -> Delivery:
    """Make one attempt and record what came of it. Never raises for the network."""
    delivery = unposted(request, "")
    try:
        with requests.Session() as session:
            session.trust_env = False  # neither proxies nor .netrc
            answer = session.post(
                delivery.url,
                data=request.body,
                headers=delivery.request_headers,
                timeout=request.timeout,
                allow_redirects=request.follow_redirects,
            )
    except requests.RequestException as error:
        return replace(delivery, error=f"{type(error).__name__}: {error}")
    return replace(delivery, status=answer.status_code, response_body=answer.content, error=None)


def unposted(request: Post, error: str) -> Delivery:
    """The record of a request that has not been made."""
    url, authorization = split_credentials(request.url, decode=request.decode_userinfo)
    return Delivery(
        url,
        request.body,
        request.headers | authorization,
        None,
        error=error,
        esp=request.esp,
        event=request.event,
        message=request.message,
        at=datetime.now(timezone.utc),
    )


def split_credentials(url: str, *, decode: bool = True) -> tuple[str, dict[str, str]]:
    """Take ``user:password@`` out of a URL and turn it into the Basic header (RFC 7617).

    Postal sends the two as they are written in the URL; ``decode`` undoes percent-encoding.
    """
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    credentials = unquote(userinfo) if decode else userinfo
    token = base64.b64encode(credentials.encode()).decode("ascii")
    return urlunsplit(parts._replace(netloc=host)), {"Authorization": f"Basic {token}"}
