"""The tree of errors."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from flask_mailesp import Address, Outcome, SendResult, Status, exceptions
from flask_mailesp.exceptions import APIError, CancelSend, MailESPError, RateLimitedError
from flask_mailesp.results import Recipients, RecipientStatus

CLASSES = [
    item
    for _, item in inspect.getmembers(exceptions, inspect.isclass)
    if issubclass(item, MailESPError)
]

# Class: its direct bases in the tree, as the contract has them.
TREE = {
    "ConfigurationError": "MailESPError",
    "InvalidMessageError": "MailESPError",
    "InvalidHeaderError": "InvalidMessageError",
    "InvalidAddressError": "InvalidHeaderError",
    "SerializationError": "InvalidMessageError",
    "UnsupportedFeatureError": "InvalidMessageError",
    "APIError": "MailESPError",
    "AuthenticationError": "APIError",
    "RecipientsRefusedError": "APIError",
    "RateLimitedError": "APIError",
    "NotSentError": "MailESPError",
    "SendUncertainError": "MailESPError",
    "WebhookRejected": "MailESPError",
    "FetchError": "MailESPError",
}


def pickled(value: Any) -> Any:
    """Return what another process would get."""
    return pickle.loads(pickle.dumps(value))


def parameters(cls: type[MailESPError]) -> dict[str, Any]:
    """Return a value for each keyword that a class of error takes."""
    values = {
        "result": SendResult(
            "Postmark",
            Outcome.REFUSED,
            Recipients([(Address("you@example.com"), RecipientStatus(Status.FAILED))]),
        ),
        "esp_name": "Postmark",
        "request_id": "r-1",
        "status": 422,
        "code": "300",
        "message": "you@example.com is not an address",
        "retry_after": 1.5,
    }
    taken = inspect.signature(cls.__init__).parameters
    return {name: value for name, value in values.items() if name in taken}


def test_the_tree_is_the_documented_one() -> None:
    """Applications catch by these names; CancelSend stands outside."""
    found = {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES if cls is not MailESPError}

    assert found == TREE
    assert not issubclass(CancelSend, MailESPError)
    assert set(re.findall(r"\u2500 (\w+)", exceptions.__doc__ or "")) == set(TREE)


@pytest.mark.parametrize("name", ["ConfigurationError", "InvalidMessageError"])
def test_wrong_values_are_value_errors(name: str) -> None:
    """Code that knows nothing of this package may catch them as such."""
    assert issubclass(getattr(exceptions, name), ValueError)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_errors_survive_copying_and_pickling(cls: type[MailESPError], duplicate: Any) -> None:
    """With all they carry: queues and process pools pickle them."""
    error = cls("text", **parameters(cls))
    error.result = SendResult("Postmark", Outcome.REFUSED, Recipients(), error=error)
    twin = duplicate(error)

    assert (type(twin), str(twin), twin.args) == (cls, "text", ("text",))
    assert twin.result is not None
    assert twin.result.error is (error if duplicate is copy.copy else twin)
    for name, value in parameters(cls).items():
        assert name == "result" or getattr(twin, name) == value


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_not_known_is_none(cls: type[MailESPError]) -> None:
    """Every error has result, esp_name and request_id, whether or not there is a value."""
    error = cls()

    assert (error.result, error.esp_name, error.request_id) == (None, None, None)
    assert str(error) == ""


@pytest.mark.parametrize("cls", CLASSES)
def test_the_text_shows_neither_recipients_nor_what_the_esp_said(cls: type[MailESPError]) -> None:
    """Both may hold addresses; they are in attributes for those who ask."""
    error = cls("text", **parameters(cls))

    assert "@" not in f"{error} {error!r}"
    assert error.result is not None


def test_an_api_error_has_the_esps_own_words_apart() -> None:
    """And a rate limit, how long to wait."""
    error = RateLimitedError("text", status=429, code="x", message="said", retry_after=5.0)

    assert isinstance(error, APIError)
    assert (error.status, error.code, error.message, error.retry_after) == (429, "x", "said", 5.0)
    assert RateLimitedError().retry_after is None
