"""Safety rails for staging: mail goes to one mailbox, to known people only, or nowhere.

They work on prepared messages, after the defaults and ``pre_send``, so that everything but
the network runs as in production. What the app is told stays true: a recipient who is held
back has a status that says so, and nobody is reported as accepted whose mail no ESP took.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .address import Address
from .exceptions import MailESPError, RecipientsRefusedError
from .message import PreparedMessage
from .records import field, record, replace
from .results import Outcome, Recipients, RecipientStatus, SendResult, Status

logger = logging.getLogger("flask_mailesp")

_REFUSED = RecipientStatus(
    Status.REJECTED, None, "Not sent: MAILESP_ALLOW_RECIPIENTS does not name this address."
)
_SUPPRESSED = RecipientStatus(Status.FAILED, None, "Not sent: MAILESP_SUPPRESS_SEND is on.")
_REDIRECTED = "Sent to MAILESP_REDIRECT_TO instead."
_MERGE_ROWS = ("merge_data", "merge_metadata", "merge_headers")
# What ESPs call recipients in their own JSON, which esp_extra goes into as it is.
_RECIPIENTS = frozenset(
    {
        "to",
        "cc",
        "bcc",
        "rcpt_to",
        "recipients",
        "personalizations",
        "destination",
        "bulkemailentries",
    }
)


@record(frozen=True)
class Rails:
    """Where mail may go.

    ``redirect_to`` is one mailbox in place of everybody. ``allows(address)`` judges where
    mail would go after that. ``suppress`` stops short of the network.
    """

    redirect_to: Address | None = field(default=None, repr=False)
    allows: Callable[[Address], bool] | None = field(default=None, repr=False)
    suppress: bool = False
    _said: set[str] = field(default_factory=set, repr=False, compare=False)

    def applied(self, message: PreparedMessage) -> PreparedMessage:
        """Return the message as it may go out; it may be left without a recipient."""
        if self.redirect_to is None and self.allows is None:
            return message
        message = replace(
            message, meant_for=message.recipients, esp_extra=_without_recipients(message.esp_extra)
        )
        if self.redirect_to is not None:
            message = _redirected(message, self.redirect_to)
        return message if self.allows is None else _allowed(message, self.allows)

    def refused(self, esp_name: str, message: PreparedMessage) -> SendResult:
        """Return the result of a message that may go to nobody."""
        error = RecipientsRefusedError(
            "MAILESP_ALLOW_RECIPIENTS names none of the recipients. Nothing was sent.",
            esp_name=esp_name,
        )
        entries = Recipients((item, _REFUSED) for item in message.meant_for)
        error.result = SendResult(esp_name, Outcome.REFUSED, entries, error=error)
        return error.result

    def suppressed(self, esp_name: str, message: PreparedMessage) -> SendResult:
        """Return the result of a message that was built, and not sent."""
        if not self._said:
            self._said.add("suppressed")
            logger.warning("MAILESP_SUPPRESS_SEND is on: this and further mail is not sent.")
        entries = Recipients((item, _SUPPRESSED) for item in message.recipients)
        return self.told(message, SendResult(esp_name, Outcome.CANCELLED, entries))

    def told(self, message: PreparedMessage, result: SendResult) -> SendResult:
        """Return the result as it concerns those whom the app has written to."""
        if not message.meant_for:
            return result
        entries = [(item, self._fate(item, result)) for item in message.meant_for]
        outcome = result.outcome
        if outcome is Outcome.ACCEPTED and any(fate is _REFUSED for _, fate in entries):
            outcome = Outcome.PARTIAL
        result = replace(result, recipients=Recipients(entries), outcome=outcome)
        if isinstance(result.error, MailESPError):
            result.error.result = result
        return result

    def _fate(self, address: Address, result: SendResult) -> RecipientStatus:
        if self.redirect_to is None:
            return result.recipients.get(address.addr_spec, _REFUSED)
        status = result.recipients[self.redirect_to.addr_spec]
        return replace(status, description=f"{_REDIRECTED} {status.description}".strip())


def _redirected(message: PreparedMessage, target: Address) -> PreparedMessage:
    """Return the message to one mailbox; of a batch, the first copy stands for all."""
    rows = {name: getattr(message, name) for name in _MERGE_ROWS}
    first = message.to[0].key if message.to else ""
    own: dict[str, Any] = {
        name: None if row is None else {target.key: row[first]} if first in row else {}
        for name, row in rows.items()
    }
    return replace(message, to=(target,), cc=(), bcc=(), **own)


def _allowed(message: PreparedMessage, allows: Callable[[Address], bool]) -> PreparedMessage:
    """Return the message to those who are allowed. A batch is nothing without a ``to``."""
    to = tuple(filter(allows, message.to))
    if message.is_batch and not to:
        return replace(message, to=(), cc=(), bcc=())
    cc, bcc = tuple(filter(allows, message.cc)), tuple(filter(allows, message.bcc))
    return replace(message, to=to, cc=cc, bcc=bcc)


def _without_recipients(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``esp_extra`` without what could put recipients beside the rails."""
    kept = {name: value for name, value in extra.items() if name.lower() not in _RECIPIENTS}
    if len(kept) < len(extra):
        logger.warning("Recipients in esp_extra are left out: this app restricts recipients.")
    return kept


def matching(patterns: Iterable[str]) -> Callable[[Address], bool]:
    """Return what tells whether an address matches one of some ``name@domain`` patterns.

    ``*`` stands for anything on its side of the ``@``.
    """
    found = [re.compile(_expression(text)) for text in patterns]
    return lambda address: any(one.fullmatch(address.key) for one in found)


def _expression(text: str) -> str:
    """The domain is what stands after the last ``@``; the name may hold one, in quotes."""
    name, _, domain = text.lower().rpartition("@")
    return f"{_wild(name, '.*')}@{_wild(domain, '[^@]*')}"


def _wild(text: str, anything: str) -> str:
    return anything.join(map(re.escape, text.split("*")))
