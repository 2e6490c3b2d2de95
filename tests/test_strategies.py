"""Failover and spreading: a message moves on only where that cannot deliver it twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from acme import (
    ACME,
    A,
    Answer,
    Answers,
    B,
    C,
    Sleeps,
    build,
    gone,
    lost,
    mailer,
    message,
    send_many,
    words,
)
from acme import retrying as retrying_with
from conftest import CREDENTIALS, MakeApp
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_mailesp import MailESP, Message
from flask_mailesp.breaker import Breaker
from flask_mailesp.delivery import Mailer, deliver
from flask_mailesp.esp import Call, Feature, HttpRequest, HttpResponse, Settings
from flask_mailesp.exceptions import (
    ConfigurationError,
    InvalidAddressError,
    NotSentError,
    SendUncertainError,
    UnsupportedFeatureError,
)
from flask_mailesp.limits import Limit
from flask_mailesp.message import PreparedMessage
from flask_mailesp.records import replace
from flask_mailesp.results import Outcome, SendResult, Status
from flask_mailesp.strategies import Failover, Member, RoundRobin, as_mailer

ONE = replace(ACME, name="One")
TWO = replace(ACME, name="Two")
DENIED = HttpResponse(401)
SLOW = HttpResponse(429)
REFUSED = HttpResponse(422)


def member(esp: Any, *answers: Answer, weight: float = 1.0, **options: Any) -> Member:
    made, _ = mailer(*answers, esp=esp, **options)
    return Member(made, Breaker(2, 30.0), weight)


def recipients(member: Member) -> list[list[str]]:
    assert isinstance(member.mailer.transport, Answers)
    return member.mailer.transport.recipients


def through(*members: Member, ambiguous: bool = False) -> Mailer:
    return as_mailer("default", Failover(members, ambiguous))


# --- what moves on ---------------------------------------------------------------------

MOVES: dict[str, tuple[Answer, bool]] = {
    "not sent": (gone(), True),
    "rate limited": (SLOW, True),
    "a credential that is refused": (DENIED, True),
    "accepted": ({}, False),
    "a refused recipient": ({A: "no"}, False),
    "a refused message": (REFUSED, False),
    "a refused message in a success": ({A: "bad"}, False),
    "uncertain": (lost(), False),
    "a bare 5xx": (HttpResponse(503), False),
}


@pytest.mark.parametrize(("answer", "moves"), MOVES.values(), ids=MOVES.keys())
def test_what_moves_on(answer: Answer, moves: bool) -> None:
    """And whose answer the result then is."""
    first, second = member(ONE, answer), member(TWO)
    result = deliver(through(first, second), message())
    assert len(recipients(second)) == moves
    assert len(result.attempts) == 1 + moves
    assert result.esp_name == ("Two" if moves else "One")
    if moves:
        assert (result.outcome, result.error) == ("accepted", None)
        assert [attempt.esp_name for attempt in result.attempts] == ["One", "Two"]


def test_uncertain_moves_on_if_the_user_says_so() -> None:
    """Twice is then better than never."""
    first, second = member(ONE, lost()), member(TWO)
    result = deliver(through(first, second, ambiguous=True), message())
    assert (result.outcome, result.esp_name) == ("accepted", "Two")
    assert isinstance(result.attempts[0].error, SendUncertainError)


def test_only_the_recipients_that_were_not_accepted_move_on() -> None:
    """Neither those that have it nor those that were refused."""
    first, second = member(ONE, {B: "slow", C: "no"}), member(TWO)
    result = deliver(through(first, second), message(A, B, C))
    assert recipients(second) == [[B]]
    assert words(result) == ["queued", "queued", "rejected"]
    assert (result.outcome, list(result.recipients)) == ("partial", [A, B, C])


def test_when_all_fail_the_last_one_speaks() -> None:
    """Every attempt is there."""
    result = deliver(through(member(ONE, SLOW), member(TWO, gone())), message())
    assert (result.outcome, result.esp_name) == ("not_sent", "Two")
    assert isinstance(result.error, NotSentError)
    assert [attempt.esp_name for attempt in result.attempts] == ["One", "Two"]


def test_each_member_is_retried_before_the_next_is_asked() -> None:
    """As its own mailer says."""
    first = member(ONE, gone(), gone(), retries=retrying_with(Sleeps(), 2))
    result = deliver(through(first, member(TWO)), message())
    assert [attempt.esp_name for attempt in result.attempts] == ["One", "One", "Two"]


def test_a_member_whose_rate_is_used_up_is_passed_by() -> None:
    """It was not asked; nothing is known against it."""
    limit = Limit()
    limit.refused(60.0)
    first, second = member(ONE, limit=limit), member(TWO)
    result = deliver(through(first, second), message())
    assert (result.esp_name, len(result.attempts), recipients(first)) == ("Two", 1, [])


# --- what a member cannot express ------------------------------------------------------

TAGGING = replace(TWO, supports=frozenset({Feature.TAGS}))


def test_a_member_that_cannot_express_the_message_is_passed_by() -> None:
    """Without a word to it."""
    first, second = member(ONE), member(TAGGING)
    assert deliver(through(first, second), message(tags=["news"])).esp_name == "Two"
    assert recipients(first) == []


def test_if_no_member_can_express_it_the_message_is_refused() -> None:
    """Before anything is sent, by the first one's name."""
    with pytest.raises(UnsupportedFeatureError) as caught:
        deliver(through(member(ONE), member(TWO)), message(tags=["news"]))
    assert caught.value.esp_name == "One"


def test_if_those_that_can_express_it_fail_their_error_counts() -> None:
    """It tells more."""
    result = deliver(through(member(TAGGING, gone()), member(ONE)), message(tags=["news"]))
    assert (result.outcome, result.esp_name) == ("not_sent", "Two")


def test_a_template_has_a_name_for_each_member() -> None:
    """A member without one cannot express the message."""
    able = frozenset({Feature.TEMPLATES, Feature.TEMPLATE_SUBJECT, Feature.TEMPLATE_BODY})
    first, second = (member(replace(esp, supports=able)) for esp in (ONE, TWO))
    result = deliver(through(first, second), message(template_id={"two": "welcome"}))
    assert (result.esp_name, recipients(first)) == ("Two", [])


def test_a_bad_message_is_bad_for_all() -> None:
    """It raises, and nothing is sent."""
    first, second = member(ONE), member(TWO)
    with pytest.raises(InvalidAddressError):
        deliver(through(first, second), message("nobody"))
    assert recipients(first) == recipients(second) == []


def test_what_a_later_member_lacks_does_not_hide_what_is_known() -> None:
    """Such as a default sender of its own that is missing."""
    first = member(ONE, gone(), defaults={"sender": "me@example.org"})
    anonymous = Message("Hi", A, "Text")
    result = deliver(through(first, member(TWO)), anonymous)
    assert (result.outcome, len(result.attempts)) == ("not_sent", 1)


# --- breakers --------------------------------------------------------------------------


def test_a_member_that_fails_again_and_again_is_left_alone() -> None:
    """Two failures open this breaker."""
    first, second = member(ONE, *[gone()] * 9), member(TWO)
    default = through(first, second)
    for _ in range(5):
        assert deliver(default, message()).esp_name == "Two"
    assert len(recipients(first)) == 2


def test_it_is_asked_again_and_taken_back() -> None:
    """By one message as a probe, then by all."""
    now = [0.0]
    first, second = member(ONE, gone(), gone()), member(TWO)
    first = replace(first, breaker=Breaker(2, 30.0, lambda: now[0]))
    default = through(first, second)
    names = [deliver(default, message()).esp_name for _ in range(3)]
    now[0] = 30.0
    names += [deliver(default, message()).esp_name for _ in range(2)]
    assert names == ["Two", "Two", "Two", "One", "One"]


@pytest.mark.parametrize("answer", [{A: "no"}, REFUSED, SLOW, {}])
def test_refused_messages_and_recipients_never_open_it(answer: Answer) -> None:
    """The ESP is there; the message is at fault, or the pace."""
    first = member(ONE, *[answer] * 5)
    for _ in range(5):
        deliver(through(first, member(TWO)), message())
    assert len(recipients(first)) == 5


def test_if_all_are_open_the_first_to_expire_is_asked() -> None:
    """Rather than nobody."""
    first, second = member(ONE, *[gone()] * 9), member(TWO, *[gone()] * 3)
    default = through(first, second)
    for _ in range(3):
        deliver(default, message())
    second.breaker.until = 1.0
    first.breaker.until = 1e12
    second.mailer.transport.answers.clear()  # type: ignore[attr-defined]
    second.breaker.failed()
    assert deliver(default, message()).esp_name == "Two"


# --- spreading -------------------------------------------------------------------------


def test_members_take_turns_by_weight() -> None:
    """Evenly mixed, not in blocks."""
    one, two = member(ONE, weight=3.0), member(TWO)
    default = as_mailer("default", RoundRobin([one, two]))
    names = [deliver(default, message()).esp_name for _ in range(8)]
    assert names == ["One", "One", "Two", "One"] * 2


def test_the_others_stand_in_for_one_that_fails() -> None:
    """Until it is back."""
    one, two = member(ONE, *[gone()] * 9), member(TWO)
    default = as_mailer("default", RoundRobin([one, two]))
    assert {deliver(default, message()).esp_name for _ in range(6)} == {"Two"}


def test_many_messages_choose_their_members_one_by_one() -> None:
    """In order, each with its result."""
    first, second = member(ONE, gone()), member(TWO)
    sent = send_many(through(first, second), map(message, [A, B, C]), 1)
    assert [(list(result.recipients), result.esp_name) for result in sent] == [
        ([A], "Two"),
        ([B], "One"),
        ([C], "One"),
    ]


# --- whatever happens ------------------------------------------------------------------
#
# A provider that keeps its mails, and whose connection fails before or after that.

FAULTS = ["ok", "gone", "lost before", "lost after", "slow", "denied", "refused", "503 after"]
RECIPIENTS = st.sampled_from(["ok", "ok", "ok", "slow", "no", "bad"])


class Provider(Answers):
    """A transport with the provider behind it: it counts what was really accepted."""

    def __init__(self, faults: list[tuple[str, list[str]]]) -> None:
        super().__init__()
        self.faults = faults
        self.copies: Counter[str] = Counter()

    def send(self, request: HttpRequest, within: float | None = None) -> HttpResponse:
        fault, fates = self.faults.pop(0) if self.faults else ("ok", [])
        if fault == "gone":
            raise NotSentError(fault)
        if fault == "lost before":
            raise SendUncertainError(fault)
        if fault in ("slow", "denied", "refused"):
            return {"slow": SLOW, "denied": DENIED, "refused": REFUSED}[fault]
        self.answers = [self._take(request, fates)]
        answer = super().send(request, within)
        if fault == "lost after":
            raise SendUncertainError(fault)
        return answer if fault == "ok" else HttpResponse(503)

    def _take(self, request: HttpRequest, fates: list[str]) -> dict[str, str]:
        self.requests = [request]
        to = self.recipients[0]
        said = dict(zip(to, [*fates, *["ok"] * len(to)], strict=False))
        self.copies.update(name for name in to if said[name] == "ok")
        return said


def chunky(message: PreparedMessage, settings: Settings) -> list[Call]:
    """Two recipients to a request."""
    people = message.recipients
    chunks = [people[at : at + 2] for at in range(0, len(people), 2)]
    parts = [replace(message, to=chunk, cc=(), bcc=()) for chunk in chunks]
    return [call for part in parts for call in build(part, settings)]


SCRIPT = st.lists(st.tuples(st.sampled_from(FAULTS), st.lists(RECIPIENTS, max_size=3)), max_size=5)


@settings(max_examples=300, deadline=None)
@given(SCRIPT, SCRIPT, st.integers(1, 5), st.booleans())
def test_nothing_is_sent_twice_lost_or_made_up(
    one: list[tuple[str, list[str]]], two: list[tuple[str, list[str]]], count: int, chunks: bool
) -> None:
    """Whatever both providers do, with retries and failover as they are by default."""
    providers = Provider(one), Provider(two)
    members = [
        Member(replace(made.mailer, transport=provider), made.breaker)
        for made, provider in zip(
            [
                member(
                    replace(esp, build=chunky if chunks else build),
                    retries=retrying_with(Sleeps()),
                )
                for esp in (ONE, TWO)
            ],
            providers,
            strict=True,
        )
    ]
    people = [f"p{number}@example.com" for number in range(count)]
    result = deliver(through(*members), message(*people))
    check(result, people, providers[0].copies + providers[1].copies)


def check(result: SendResult, people: list[str], copies: Counter[str]) -> None:
    assert list(result.recipients) == people
    assert isinstance(result.outcome, Outcome)
    for name, entry in result.recipients.items():
        assert copies[name] <= 1
        if entry.status in (Status.QUEUED, Status.SENT):
            assert copies[name] == 1
        elif entry.status is not Status.UNKNOWN:
            assert copies[name] == 0
    assert (result.error is None) is (result.outcome in (Outcome.ACCEPTED, Outcome.PARTIAL))


# --- configuration ---------------------------------------------------------------------

BOTH = {**CREDENTIALS["postal"], **CREDENTIALS["postmark"]}


def test_a_strategy_is_a_mailer(make_app: MakeApp) -> None:
    """Its members are mailers, or ESPs with the app's settings."""
    app = make_app(
        **(BOTH | {"MAILESP_ESP": None}),
        MAILESP_MAILERS={
            "default": {"failover": ["main", "postal"], "ambiguous": "next"},
            "main": {"esp": "postmark", "server_token": "another-token"},
            "mixed": {
                "round_robin": ["main", "postal"],
                "weights": [3, 1],
                "breaker": {"failures": 9, "seconds": 5},
            },
        },
    )
    mailers = app.extensions["mailesp"].mailers
    assert set(mailers) == {"default", "main", "mixed", "postal"}
    default, mixed = mailers["default"].strategy, mailers["mixed"].strategy
    assert [item.mailer.name for item in default.members] == ["main", "postal"]
    assert (default.ambiguous, mixed.ambiguous) == (True, False)
    assert [item.weight for item in mixed.members] == [3.0, 1.0]
    assert default.members[0].mailer is mixed.members[0].mailer is mailers["main"]


def test_it_is_sent_through_like_any_other(make_app: MakeApp) -> None:
    """Nothing listens at either; the error and the attempts name both."""
    mail = MailESP()
    app = make_app(
        mail,
        **(
            BOTH
            | {
                "MAILESP_POSTMARK_API_URL": "http://127.0.0.1:1",
                "MAILESP_POSTAL_API_URL": "http://127.0.0.1:1",
            }
        ),
        MAILESP_MAILERS={"safe": {"failover": ["default", "postal"]}},
        MAILESP_RETRIES=False,
    )
    with app.app_context(), pytest.raises(NotSentError) as caught:
        mail.using("safe").send(message())
    assert caught.value.result is not None
    assert [item.esp_name for item in caught.value.result.attempts] == ["Postmark", "Postal"]


WRONG: dict[str, dict[str, Any]] = {
    "no members": {"failover": []},
    "not names": {"failover": "postmark"},
    "two kinds": {"failover": ["default"], "round_robin": ["default"]},
    "twice the same": {"failover": ["default", "default"]},
    "no such mailer": {"failover": ["defualt"]},
    "itself": {"failover": ["safe"]},
    "weights of failover": {"failover": ["default"], "weights": [1]},
    "too few weights": {"round_robin": ["default", "postal"], "weights": [1]},
    "no weight": {"round_robin": ["default"], "weights": [0]},
    "ambiguous": {"failover": ["default"], "ambiguous": "maybe"},
    "breaker": {"failover": ["default"], "breaker": 5},
    "breaker's failures": {"failover": ["default"], "breaker": {"failures": 0}},
    "breaker's keys": {"failover": ["default"], "breaker": {"time": 5}},
    "unknown": {"failover": ["default"], "retries": 5},
}


@pytest.mark.parametrize("spec", WRONG.values(), ids=WRONG.keys())
def test_a_strategy_that_means_nothing_is_refused(make_app: MakeApp, spec: dict[str, Any]) -> None:
    """When the app starts, not when a provider is down."""
    with pytest.raises(ConfigurationError):
        make_app(**BOTH, MAILESP_MAILERS={"safe": spec})
