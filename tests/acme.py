"""An ESP as small as can be, and a transport with its answers ready, for the delivery engine.

Acme takes JSON ``{"to": [...], "key": ...}`` and answers ``{address: word}``: ``ok``,
``slow`` (rate limited), ``no`` (rejected) or ``bad`` (refused). Each recipient is a part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flask_mailesp import Message
from flask_mailesp.delivery import Mailer
from flask_mailesp.esp import (
    Call,
    Esp,
    Feature,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Setting,
    Settings,
)
from flask_mailesp.exceptions import APIError, NotSentError, RateLimitedError, SendUncertainError
from flask_mailesp.many import deliver_many
from flask_mailesp.message import PreparedMessage
from flask_mailesp.outcomes import accepted, failure, same_for_all, unreadable
from flask_mailesp.records import replace
from flask_mailesp.results import RecipientStatus, SendResult, Status
from flask_mailesp.retries import Retries

A, B, C = "a@example.com", "b@example.com", "c@example.com"
Answer = HttpResponse | Exception | Mapping[str, str] | str


def call_for(items: Sequence[tuple[int, PreparedMessage]], settings: Settings) -> Call:
    content = [
        {"to": [to.addr_spec for to in message.recipients], "key": message.idempotency_key}
        for _, message in items
    ]
    request = HttpRequest("POST", settings["API_URL"], {}, json.dumps(content).encode())
    parts = [Part((to,), index) for index, message in items for to in message.recipients]
    return Call(request, tuple(parts))


def build(message: PreparedMessage, settings: Settings) -> list[Call]:
    return [call_for([(0, message)], settings)]


def build_many(messages: Sequence[PreparedMessage], settings: Settings) -> Iterator[Call]:
    yield call_for(list(enumerate(messages)), settings)


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    words = response.json()
    if response.status != 200 or not isinstance(words, dict):
        error = failure("Acme", response) if response.status != 200 else None
        return [same_for_all(part, error or unreadable("Acme", response)) for part in call.parts]
    return [read_part(part, words) for part in call.parts]


def read_part(part: Part, words: Mapping[str, str]) -> Reading:
    word = words.get(part.recipients[0].addr_spec)
    if word == "no":
        return Reading((RecipientStatus(Status.REJECTED),))
    if word == "slow":
        return same_for_all(part, RateLimitedError("Slow down."))
    if word == "bad":
        return same_for_all(part, APIError("Bad."))
    return accepted(part, f"id-{part.recipients[0].username}", Status.QUEUED)


ACME = Esp("Acme", (Setting("API_URL"),), frozenset({Feature.NO_TO}), build, read)
KEYED = replace(ACME, name="Keyed", supports=frozenset({Feature.IDEMPOTENCY_KEY}))
BATCHING = replace(ACME, name="Batching", build_many=build_many)


class Answers:
    """A transport that has its answers ready; when they are used up, all is well."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[HttpRequest] = []
        self.within: list[float | None] = []

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        self.requests.append(request)
        self.within.append(within)
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, HttpResponse):
            return answer
        return HttpResponse(200, {}, json.dumps(answer).encode())

    def fetch(
        self, request: HttpRequest, *, max_bytes: int, public: bool = False, seconds: float = 10.0
    ) -> HttpResponse:
        raise AssertionError("Nothing is fetched to send a message.")

    @property
    def sent(self) -> list[list[dict[str, Any]]]:
        """What each request held."""
        bodies = [request.body for request in self.requests]
        return [json.loads(body) for body in bodies if isinstance(body, bytes)]

    @property
    def recipients(self) -> list[list[str]]:
        """Whom each request was for."""
        return [[to for message in content for to in message["to"]] for content in self.sent]


class Sleeps(list[float]):
    """Pauses that are noted instead of made."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def mailer(*answers: Answer, esp: Esp = ACME, **options: Any) -> tuple[Mailer, Answers]:
    """Return a mailer whose transport answers so, and the transport."""
    transport = Answers(*answers)
    settings = Settings({"API_URL": "https://acme.example.com"})
    return Mailer("default", esp, settings, transport, **options), transport


def retrying(sleep: Callable[[float], None], attempts: int = 3, **options: Any) -> Retries:
    return Retries(attempts=attempts, sleep=sleep, **options)


def message(*to: str, **fields: Any) -> Message:
    return Message("Hi", list(to or (A,)), "Text", sender="me@example.org", **fields)


def gone() -> NotSentError:
    return NotSentError("gone")


def lost() -> SendUncertainError:
    return SendUncertainError("lost")


def send_many(
    through: Mailer, messages: Iterable[Message], workers: int = 1
) -> Iterator[SendResult]:
    """Send as `MailESP.send_many` does, to no receivers."""
    return deliver_many(through, messages, workers, lambda _: None, lambda _message, _result: None)


def words(result: SendResult) -> list[str]:
    return [str(entry.status) for entry in result.recipients.values()]
