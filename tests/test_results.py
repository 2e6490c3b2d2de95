"""What became of a message."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from flask_mailesp import Address, Outcome, RecipientStatus, SendResult, Status
from flask_mailesp.esp import HttpResponse
from flask_mailesp.exceptions import APIError, NotSentError
from flask_mailesp.results import Recipients

QUEUED = RecipientStatus(Status.QUEUED, "1")
SENT = RecipientStatus(Status.SENT, "2")
FAILED = RecipientStatus(Status.FAILED, None, "you@example.com is unknown")
COPIES = RecipientStatus(Status.SENT, frozenset({"2", "3"}))


def pickled(value: Any) -> Any:
    """Return what another process would get."""
    return pickle.loads(pickle.dumps(value))


def result_of(*statuses: RecipientStatus, **fields: Any) -> SendResult:
    """Return a result with one recipient for each status."""
    entries = ((Address(f"user{n}@example.com"), status) for n, status in enumerate(statuses))
    return SendResult("Postmark", Outcome.ACCEPTED, Recipients(entries), **fields)


@pytest.mark.parametrize(
    ("statuses", "message_id"),
    [
        ((), None),
        ((FAILED,), None),
        ((QUEUED,), "1"),
        ((QUEUED, QUEUED), "1"),
        ((QUEUED, FAILED), "1"),
        ((QUEUED, SENT), {"1", "2"}),
        ((COPIES,), {"2", "3"}),
        ((COPIES, QUEUED, SENT), {"1", "2", "3"}),
    ],
)
def test_the_message_id_is_a_set_where_ids_differ(
    statuses: tuple[RecipientStatus, ...], message_id: Any
) -> None:
    """One id is a string, none is None."""
    assert result_of(*statuses).message_id == message_id


def test_the_status_is_the_set_of_the_recipients_statuses() -> None:
    """Its words are plain strings to whoever compares, prints or stores them."""
    assert result_of(QUEUED, QUEUED).status == {"queued"}
    assert result_of(QUEUED, FAILED).status == {"queued", "failed"}
    assert result_of().status == set()
    assert f"{Status.QUEUED} {Outcome.NOT_SENT:>9}" == "queued  not_sent"
    assert str(Status.QUEUED) == "queued" == json.loads(json.dumps(Status.QUEUED))


@pytest.mark.parametrize(
    "spelling",
    [
        "You@B\u00fccher.Example",
        "you@b\u00fccher.example",
        "YOU@XN--BCHER-KVA.EXAMPLE",
        " you@b\u00fccher.example",
        "You <you@b\u00fccher.example>",
        ("You", "you@b\u00fccher.example"),
        Address("you@b\u00fccher.example", "You"),
    ],
)
def test_a_recipient_is_found_by_any_spelling(spelling: Any) -> None:
    """In whatever form the caller still has the address."""
    address = Address("you@xn--bcher-kva.example", spelling="You@B\u00fccher.example")
    recipients = Recipients([(Address("me@example.com"), FAILED), (address, QUEUED)])

    assert recipients[spelling] is QUEUED
    assert spelling in recipients


def test_an_address_that_was_encoded_otherwise_is_found_as_it_was_spelled() -> None:
    """IDNA 2003 sends stra\u00dfe to strasse; IDNA 2008 would not find it."""
    address = Address("you@strasse.example", spelling="you@stra\u00dfe.example")
    other = Address("you@xn--strae-oqa.example")

    assert Recipients([(address, QUEUED)])["You@stra\u00dfe.example"] is QUEUED
    assert Recipients([(address, QUEUED), (other, SENT)])["you@stra\u00dfe.example"] is SENT


@pytest.mark.parametrize("address", ["me@example.com", "", "not an address", None, 5, ("x",)])
def test_somebody_else_is_a_key_error_that_quotes_nothing(address: Any) -> None:
    """As with any mapping; the text may be logged."""
    recipients = Recipients([(Address("you@example.com"), QUEUED)])

    with pytest.raises(KeyError, match="no such recipient"):
        recipients[address]
    assert address not in recipients
    assert recipients.get(address) is None


def test_each_recipient_is_listed_once_as_the_caller_spelled_it() -> None:
    """So that the addresses can be matched with what the app has stored."""
    recipients = Recipients(
        [
            (Address("A@Example.com", "A"), QUEUED),
            (Address("a@example.com"), SENT),
            (Address("b@xn--bcher-kva.example", spelling="b@B\u00fccher.example"), SENT),
        ]
    )

    assert list(recipients.items()) == [("A@Example.com", QUEUED), ("b@B\u00fccher.example", SENT)]
    assert len(recipients) == 2


def test_reprs_show_no_address() -> None:
    """Results are logged."""
    result = result_of(
        QUEUED,
        QUEUED,
        FAILED,
        response=HttpResponse(200, {"x": "you@example.com"}, b"you@example.com"),
        error=APIError("refused", message="you@example.com"),
    )

    assert repr(result.recipients) == "<Recipients: 2 queued, 1 failed>"
    assert repr(Recipients()) == "<Recipients: none>"
    assert "@" not in repr(result)


def test_raise_for_error_raises_the_error_or_returns_the_result() -> None:
    """For results of send_many()."""
    error = NotSentError("x")

    assert result_of(QUEUED).raise_for_error() == result_of(QUEUED)
    with pytest.raises(NotSentError) as caught:
        result_of(FAILED, error=error).raise_for_error()
    assert caught.value is error


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_results_survive_copying_and_pickling(duplicate: Any) -> None:
    """They come back from worker processes; the error and the result refer to each other."""
    error = APIError("x", status=422, code="300", message="said", esp_name="Postmark")
    result = result_of(FAILED, COPIES, error=error)
    error.result = result
    twin = duplicate(result)

    assert twin.recipients == result.recipients
    assert twin.recipients["USER1@example.com"] == COPIES
    assert twin.outcome is Outcome.ACCEPTED
    assert (twin.error.status, twin.error.code, twin.error.message) == (422, "300", "said")
    assert twin.error.result.recipients == result.recipients
