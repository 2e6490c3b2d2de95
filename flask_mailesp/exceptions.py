"""Everything that can go wrong, by what it means for the message.

::

    MailESPError
    ├── ConfigurationError            a setting is missing, unknown or unusable
    ├── InvalidMessageError           nothing was sent: the message cannot be expressed
    │   ├── InvalidHeaderError        CR, LF or another control character; a bad header name
    │   │   └── InvalidAddressError   not exactly one usable address
    │   ├── SerializationError        a value that JSON or UTF-8 cannot carry
    │   └── UnsupportedFeatureError   the ESP cannot express what the message asks for
    ├── APIError                      nothing was accepted: the ESP said no
    │   ├── AuthenticationError       ... to the credential (401, 403)
    │   ├── RecipientsRefusedError    ... to every recipient
    │   └── RateLimitedError          ... for now (429)
    ├── NotSentError                  nothing was sent: the ESP was not reached
    ├── SendUncertainError            the ESP may or may not have taken the message
    ├── WebhookRejected               a webhook that did not prove where it comes from
    └── FetchError                    what a webhook speaks of could not be fetched

    CancelSend                        raised by a ``pre_send`` receiver; never escapes ``send()``

``str()`` and ``repr()`` of these name settings, fields, statuses and codes. They never show
a credential or a recipient's address: for those look at ``error.result``. What the ESP said,
word for word, is in ``error.message``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import SendResult


class MailESPError(Exception):
    """The root of the tree; catch it to catch everything this package raises.

    ``result`` is what is known per recipient, or None where no send was begun.
    ``esp_name`` is the ESP's own spelling of its name, ``request_id`` the ESP's id
    of the exchange; each is None where unknown.
    """

    result: SendResult | None
    esp_name: str | None
    request_id: str | None

    def __init__(
        self,
        text: str = "",
        *,
        result: SendResult | None = None,
        esp_name: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(text)
        self.result = result
        self.esp_name = esp_name
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[MailESPError], args: tuple[Any, ...]) -> MailESPError:
    """Make an unpickled error without calling its ``__init__``."""
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class ConfigurationError(MailESPError, ValueError):
    """A setting is missing, unknown or unusable; the text names the key and what to do."""


class InvalidMessageError(MailESPError, ValueError):
    """The message cannot be sent as it is. No request was made; correct it and send again."""


class InvalidHeaderError(InvalidMessageError):
    """A header name is malformed, or a field holds a line break or control character."""


class InvalidAddressError(InvalidHeaderError):
    """A value is not exactly one usable email address (RFC 5322 section 3.4)."""


class SerializationError(InvalidMessageError):
    """A value cannot be carried to the ESP; convert it to str or a number first."""


class UnsupportedFeatureError(InvalidMessageError):
    """The ESP cannot express something the message asks for.

    Set ``MAILESP_IGNORE_UNSUPPORTED_FEATURES = True`` to have such things dropped with
    a logged warning instead.
    """


class APIError(MailESPError):
    """The ESP refused the message: no recipient was accepted.

    ``status`` is the HTTP status, ``code`` the ESP's own error code (a string), and
    ``message`` what the ESP said: it may quote addresses, so it is not in ``str()``.
    """

    status: int | None
    code: str | None
    message: str

    def __init__(
        self,
        text: str = "",
        *,
        status: int | None = None,
        code: str | None = None,
        message: str = "",
        result: SendResult | None = None,
        esp_name: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(text, result=result, esp_name=esp_name, request_id=request_id)
        self.status = status
        self.code = code
        self.message = message


class AuthenticationError(APIError):
    """The ESP did not accept the credential. Another credential or ESP may be tried."""


class RecipientsRefusedError(APIError):
    """Every recipient was refused; ``result.recipients`` tells each one's reason."""


class RateLimitedError(APIError):
    """The ESP takes no more for now. Nothing was accepted; trying again later is safe.

    ``retry_after`` is how long the ESP asked to wait, in seconds, or None if it did not say.
    """

    retry_after: float | None

    def __init__(
        self,
        text: str = "",
        *,
        retry_after: float | None = None,
        status: int | None = None,
        code: str | None = None,
        message: str = "",
        result: SendResult | None = None,
        esp_name: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(
            text,
            status=status,
            code=code,
            message=message,
            result=result,
            esp_name=esp_name,
            request_id=request_id,
        )
        self.retry_after = retry_after


class NotSentError(MailESPError):
    """The message certainly did not go out (DNS, connection, TLS); trying again is safe.

    ``may_pass`` is False where trying again is in vain until somebody acts: the server's
    certificate is not trusted, or the request cannot be made.
    """

    may_pass: bool = True


class SendUncertainError(MailESPError):
    """The ESP may or may not have taken the message.

    The request went out and no readable answer came back (read time-out, reset, 5xx,
    damaged answer). Sending again may deliver twice. ``status`` is the HTTP status, if any.
    """

    status: int | None

    def __init__(
        self,
        text: str = "",
        *,
        status: int | None = None,
        result: SendResult | None = None,
        esp_name: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(text, result=result, esp_name=esp_name, request_id=request_id)
        self.status = status


class WebhookRejected(MailESPError):
    """A webhook is not authentic: the credential or signature is missing, wrong or stale.

    Raised by an ESP's ``verify``; the view answers 401 and parses nothing.
    """


class FetchError(MailESPError):
    """What a webhook speaks of could not be fetched from the ESP (yet).

    Never escapes the view: it is logged, and the ESP is asked to post the webhook again.
    """


class CancelSend(Exception):
    """Raise this in a ``pre_send`` receiver to end the send quietly.

    ``send()`` then returns a result whose outcome is ``cancelled``.
    """
