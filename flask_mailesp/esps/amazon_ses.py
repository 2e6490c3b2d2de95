"""Amazon SES (v2 API): signed requests, raw MIME, bulk templates; webhooks through Amazon SNS.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/Welcome.html
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..address import Address, encode_domain, idna2008, parse_address
from ..compose import compose, make_message_id
from ..esp import (
    Call,
    Esp,
    Feature,
    Fetch,
    HttpRequest,
    HttpResponse,
    Part,
    Reading,
    Setting,
    Settings,
    Webhook,
    WebhookRequest,
)
from ..events import EventType, InboundEvent, RejectReason, TrackingEvent, unknown_event
from ..exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    FetchError,
    InvalidMessageError,
    MailESPError,
    NotSentError,
    RateLimitedError,
    SerializationError,
    UnsupportedFeatureError,
    WebhookRejected,
)
from ..forms import form_body
from ..message import Attachment, PreparedMessage
from ..outcomes import (
    WITHOUT_EVERY_RECIPIENT,
    accepted,
    failure,
    same_for_all,
    unreadable,
    whole_call,
)
from ..patterns import pattern
from ..prepare import split_addresses
from ..records import record, replace
from ..results import RecipientStatus, Status
from ..sigv4 import Credentials, signed
from ..sns import is_raw, open_envelope, verify_signature
from ..wire import (
    Base64,
    as_list,
    as_object,
    as_text,
    from_iso,
    json_body,
    merged,
    parse_json,
    strings,
    text,
    verify_basic,
)

if TYPE_CHECKING:
    from ..esp import Event

logger = logging.getLogger("flask_mailesp")

NAME = "Amazon SES"

# https://docs.aws.amazon.com/ses/latest/dg/quotas.html
MOST_RECIPIENTS = 50  # destinations of one call
MOST_BYTES = 40 * 1024 * 1024  # of a mail that comes in
CERTIFICATE_BYTES = 64 * 1024
CERTIFICATE_SECONDS = 86_400

_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}"


# --- settings --------------------------------------------------------------------------


def region(name: str, value: Any) -> str:
    """Check the REGION setting."""
    if isinstance(value, str) and IS_REGION.fullmatch(value.strip()):
        return str.__str__(value.strip())
    raise ConfigurationError(f'{name} must be the code of an AWS region, such as "eu-west-1".')


def configuration_set(name: str, value: Any) -> str:
    """Check the CONFIGURATION_SET setting."""
    return _word(name, value, 64)


def tag_name(name: str, value: Any) -> str:
    """Check the MESSAGE_TAG_NAME setting."""
    return _word(name, value, 256)


def _word(name: str, value: Any, longest: int) -> str:
    if isinstance(value, str) and len(value) <= longest and IS_WORD.fullmatch(value):
        return str.__str__(value)
    raise ConfigurationError(f"{name} must be at most {longest} of the characters A-Z a-z 0-9 _ -.")


def topic_arns(name: str, value: Any) -> frozenset[str]:
    """Read the TOPIC_ARNS setting: one ARN, several in one text, or a list of them."""
    items = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not items or not all(map(_is_arn, items)):
        raise ConfigurationError(
            f"{name} must be the ARN of an SNS topic, such as "
            '"arn:aws:sns:eu-west-1:123456789012:ses-events", or a list of them. '
            f"You will find the value in {WHERE_TOPICS}."
        )
    return frozenset(str.__str__(item) for item in items)


def _is_arn(item: Any) -> bool:
    return isinstance(item, str) and IS_TOPIC.fullmatch(item) is not None


IS_REGION = pattern(_REGION)
IS_WORD = pattern(r"[A-Za-z0-9_-]+")
IS_TOPIC = pattern(rf"arn:aws(?:-cn|-us-gov)?:sns:({_REGION}):[0-9]{{12}}:[A-Za-z0-9_-]{{1,256}}")

WHERE_KEYS = "the AWS console > IAM > Users > your user > Security credentials"
WHERE_TOPICS = "the AWS console > Amazon SNS > Topics"

SETTINGS = (
    Setting(
        "REGION",
        where="the region menu of the AWS console",
        required=True,
        convert=region,
        env=("AWS_REGION", "AWS_DEFAULT_REGION"),
    ),
    Setting("ACCESS_KEY_ID", where=WHERE_KEYS, secret=True, bare=True, env=("AWS_ACCESS_KEY_ID",)),
    Setting(
        "SECRET_ACCESS_KEY",
        where=WHERE_KEYS,
        secret=True,
        bare=True,
        env=("AWS_SECRET_ACCESS_KEY",),
    ),
    Setting(
        "SESSION_TOKEN",
        where="what AWS STS gives with a temporary key",
        secret=True,
        bare=True,
        env=("AWS_SESSION_TOKEN",),
    ),
    Setting(
        "CONFIGURATION_SET",
        where="the AWS console > Amazon SES > Configuration sets",
        convert=configuration_set,
    ),
    Setting("MESSAGE_TAG_NAME", convert=tag_name),
    Setting("TOPIC_ARNS", where=WHERE_TOPICS, convert=topic_arns, hooks=True),
    Setting("AUTO_CONFIRM_SNS", default=True),
    Setting("ALLOW_RAW_DELIVERY", default=False),
    Setting("API_URL", bare=True, env=("AWS_ENDPOINT_URL_SESV2",)),
    Setting("SNS_URL", bare=True, env=("AWS_ENDPOINT_URL_SNS",)),
    Setting("S3_URL", bare=True, env=("AWS_ENDPOINT_URL_S3",)),
)


def complete(values: Mapping[str, Any], name: Callable[[str], str]) -> dict[str, Any]:
    """Derive the API's address from the region, and find what requests are signed with.

    Raises ConfigurationError for half a credential, and for none where none can be found.
    """
    found: dict[str, Any] = {"CREDENTIALS": credentials_of(values, name)}
    if values["API_URL"] is None and values["REGION"] is not None:
        found["API_URL"] = endpoint("email", values["REGION"])
    return found


def endpoint(service: str, in_region: str) -> str:
    """Return the address of an AWS service in a region."""
    china = ".cn" if in_region.startswith("cn-") else ""
    return f"https://{service}.{in_region}.amazonaws.com{china}"


def credentials_of(
    values: Mapping[str, Any], name: Callable[[str], str]
) -> Callable[[], Credentials]:
    """Return what gives the credentials whenever a request is signed."""
    key, secret = values["ACCESS_KEY_ID"], values["SECRET_ACCESS_KEY"]
    if key is None and secret is None:
        return _chain(values, name)
    missing = "ACCESS_KEY_ID" if key is None else "SECRET_ACCESS_KEY" if secret is None else None
    if missing is None and key.startswith("ASIA") and values["SESSION_TOKEN"] is None:
        missing = "SESSION_TOKEN"
    if missing is not None:
        raise ConfigurationError(
            f"{name(missing)} is not set, but goes with the rest of the credential. You will "
            f"find the value in {next(s.where for s in SETTINGS if s.name == missing)}."
        )
    # A long-lived key has no token: one in the environment belongs to another key.
    token = None if key.startswith("AKIA") else values["SESSION_TOKEN"]
    credentials = Credentials(key, secret, token)
    return lambda: credentials


def _chain(values: Mapping[str, Any], name: Callable[[str], str]) -> Callable[[], Credentials]:
    """Leave the search to botocore. An app that has set topics may only want to receive."""
    from ..aws import CredentialChain, has_botocore

    what_to_do = (
        f"Set {name('ACCESS_KEY_ID')} and {name('SECRET_ACCESS_KEY')} (you will find the values "
        f"in {WHERE_KEYS}). Or, for the credentials of a role, SSO or a container: "
        "pip install 'Flask-MailESP[ses]'."
    )
    if not (has_botocore() or values["TOPIC_ARNS"]):
        raise ConfigurationError(f"{name('ACCESS_KEY_ID')} is not set. {what_to_do}")
    return CredentialChain(what_to_do)


SUPPORTS = frozenset(
    {
        Feature.ATTACHMENTS,
        Feature.INLINE_IMAGES,
        Feature.AMP,
        Feature.ALTERNATIVES,
        Feature.HEADERS,
        Feature.MANY_REPLY_TO,
        Feature.NO_TO,
        Feature.ENVELOPE_SENDER,
        Feature.METADATA,
        Feature.TAGS,
        Feature.MANY_TAGS,
        Feature.TRACK_CLICKS,
        Feature.TRACK_OPENS,
        Feature.TEMPLATES,
        Feature.MERGE_DATA,
        Feature.MERGE_GLOBAL_DATA,
        Feature.MERGE_METADATA,
        Feature.MERGE_HEADERS,
    }
)


# --- sending ---------------------------------------------------------------------------


def sign(request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
    """Sign a request to Amazon SES."""
    return signed(
        request, settings["CREDENTIALS"](), service="ses", region=settings["REGION"], now=now
    )


def build(message: PreparedMessage, settings: Settings) -> Iterable[Call]:
    """Build the calls for one message, each to at most 50 recipients.

    A message with a template goes through SendBulkEmail, any other as MIME source through
    SendEmail: once for each ``to`` of a batch. Raises InvalidMessageError before the first
    call, if at all.
    """
    check(message, settings)
    if message.template_id is not None:
        return bulk_calls(message, settings)
    if not message.is_batch:
        return raw_calls(message, settings)
    copies = list(map(partial(copy_for, message), message.to))
    for copy in copies:  # all but the common content, which is composed when its turn comes
        raw_source(replace(copy, body="", html=None, alternatives=(), attachments=()))
    return (call for copy in copies for call in raw_calls(copy, settings))


_RECIPIENTS = frozenset({"Destination", "BulkEmailEntries"})


def check(message: PreparedMessage, settings: Settings) -> None:
    """Raise UnsupportedFeatureError for what would be lost silently."""
    lost = None
    if not _RECIPIENTS.isdisjoint(message.esp_extra):
        raise InvalidMessageError(
            "esp_extra must not hold Destination or BulkEmailEntries: give recipients and their "
            "data as Message attributes."
        )
    if "EndpointId" in message.esp_extra:
        lost = "esp_extra['EndpointId'] (it needs another signature, SigV4A)"
    elif len(message.tags) > 1 and settings["MESSAGE_TAG_NAME"] is not None:
        lost = "several tags in one message tag (see MESSAGE_TAG_NAME)"
    elif message.template_id is not None:
        lost = _lost_with_template(message)
    if lost is not None:
        raise UnsupportedFeatureError(f"{NAME} cannot express: {lost}.")


def _lost_with_template(message: PreparedMessage) -> str | None:
    if message.alternatives:
        return "alternative parts with a template"
    if any(name.lower() == "reply-to" for row in _rows(message.merge_headers) for name in row):
        return "a Reply-To per recipient with a template"
    if "ListManagementOptions" in message.esp_extra:
        return "esp_extra['ListManagementOptions'] with a template"
    return None


def _rows(merge: Mapping[str, Mapping[str, Any]] | None) -> Iterable[Mapping[str, Any]]:
    return merge.values() if merge else ()


def copy_for(message: PreparedMessage, address: Address) -> PreparedMessage:
    """Return what one recipient of a batch gets."""
    headers = (message.merge_headers or {}).get(address.key, {})
    names = {name.lower() for name in headers}
    replies = [value for name, value in headers.items() if name.lower() == "reply-to"]
    return replace(
        message,
        to=(address,),
        headers=(
            *(pair for pair in message.headers if pair[0].lower() not in names),
            *(pair for pair in headers.items() if pair[0].lower() != "reply-to"),
        ),
        reply_to=tuple(map(_reply_to, split_addresses(replies[0])))
        if replies
        else message.reply_to,
        metadata={**(message.metadata or {}), **own_metadata(message, address)} or None,
    )


def _reply_to(value: str) -> Address:
    field = "merge_headers['Reply-To']"
    return encode_domain(parse_address(value, field), idna2008, field)


def own_metadata(message: PreparedMessage, address: Address) -> Mapping[str, Any]:
    """Return the metadata of one recipient only."""
    return (message.merge_metadata or {}).get(address.key, {})


def request(settings: Settings, path: str, payload: Mapping[str, Any]) -> HttpRequest:
    """Return an unsigned request to the API."""
    url = f"{settings['API_URL']}/v2/email/{path}"
    return HttpRequest("POST", url, {"Content-Type": "application/json"}, json_body(payload))


def common(message: PreparedMessage, settings: Settings) -> dict[str, Any]:
    """Return the parameters that SendEmail and SendBulkEmail have in common."""
    sender = message.envelope_sender
    return {
        "FeedbackForwardingEmailAddress": sender.addr_spec if sender else None,
        "ConfigurationSetName": settings["CONFIGURATION_SET"],
        "ConfigurationOverrides": tracking_overrides(message),
    }


def tracking_overrides(message: PreparedMessage) -> dict[str, Any] | None:
    """Return the switches for open and click tracking; None is the configuration set's word.

    https://docs.aws.amazon.com/ses/latest/dg/configuration-overrides.html
    """
    switches = {
        "OpenTrackingEnabled": SWITCH[message.track_opens],
        "ClickTrackingEnabled": SWITCH[message.track_clicks],
    }
    tracking = given(switches)
    return {"Tracking": tracking} if tracking else None


SWITCH = {True: "ENABLED", False: "DISABLED", None: None}


def message_tags(message: PreparedMessage, settings: Settings) -> list[dict[str, str]] | None:
    """Return the tag as a message tag, for Amazon's own statistics, if it is given a name."""
    name = settings["MESSAGE_TAG_NAME"]
    if name is None or not message.tags:
        return None
    return [{"Name": name, "Value": message.tags[0]}]


def given(body: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None."""
    return {name: value for name, value in body.items() if value is not None}


def header_json(values: Mapping[str, Any]) -> str:
    """Return metadata as JSON in ASCII, with blanks at which a header can be folded."""
    try:
        return json.dumps(values, allow_nan=False)
    except ValueError:
        raise SerializationError("metadata holds a number that JSON does not know.") from None


def own_headers(message: PreparedMessage) -> list[tuple[str, str]]:
    """Return tags and metadata as headers; Amazon SES hands them back with its events."""
    metadata = [("X-Metadata", header_json(message.metadata))] if message.metadata else []
    return [*metadata, *(("X-Tag", tag) for tag in message.tags)]


def unique(*lists: Sequence[Address]) -> tuple[tuple[Address, ...], ...]:
    """Keep each mailbox once among several lists: it would get several mails."""
    seen: set[str] = set()
    kept = []
    for addresses in lists:
        kept.append(tuple(item for item in addresses if item.key not in seen))
        seen.update(item.key for item in addresses)
    return tuple(kept)


# --- sending: MIME source, with SendEmail ----------------------------------------------


def raw_calls(message: PreparedMessage, settings: Settings) -> list[Call]:
    """Build the calls for one mail: the same source, to 50 recipients at a time.

    https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
    """
    source = Base64(raw_source(message))
    shared = common(message, settings) | {
        "Content": {"Raw": {"Data": source}},
        "EmailTags": message_tags(message, settings),
    }
    calls = []
    for recipients, destination in destinations(message):
        payload = merged(given({"Destination": destination} | shared), message.esp_extra)
        calls.append(Call(request(settings, SEND, payload), (Part(recipients),)))
    return calls


SEND = "outbound-emails"
SEND_BULK = "outbound-bulk-emails"


def destinations(
    message: PreparedMessage,
) -> Iterator[tuple[tuple[Address, ...], dict[str, list[str]]]]:
    """Yield the envelope's recipients in portions; what the headers say stays the same."""
    lists = zip(_LISTS, unique(message.to, message.cc, message.bcc), strict=True)
    everyone = [(name, address) for name, addresses in lists for address in addresses]
    for start in range(0, len(everyone), MOST_RECIPIENTS):
        portion = everyone[start : start + MOST_RECIPIENTS]
        destination: dict[str, list[str]] = {}
        for name, address in portion:
            destination.setdefault(name, []).append(address.addr_spec)
        yield tuple(address for _, address in portion), destination


_LISTS = ("ToAddresses", "CcAddresses", "BccAddresses")


def raw_source(message: PreparedMessage) -> bytearray:
    """Return the mail's source, all of it in ASCII: tracking would damage 8-bit text."""
    source = compose(
        replace(message, attachments=tuple(map(seven_bit, message.attachments))),
        date=datetime.now(timezone.utc),
        message_id=make_message_id(message.sender.domain),
        extra_headers=own_headers(message),
    )
    if not source.isascii():
        raise UnsupportedFeatureError(
            f"{NAME} cannot express: text beyond ASCII in an address, in the URL of a header such "
            "as List-Unsubscribe, or in an alternative that is a mail."
        )
    return source


def seven_bit(item: Attachment) -> Attachment:
    """Make a plain file of a mail with 8-bit text, which may not be encoded as a mail.

    RFC 2046 section 5.2.1.
    """
    is_mail = item.content_type.lower().startswith(("message/", "multipart/"))
    if not is_mail or item.data.isascii():
        return item
    return replace(item, content_type="application/octet-stream")


# --- sending: templates, with SendBulkEmail --------------------------------------------


def bulk_calls(message: PreparedMessage, settings: Settings) -> list[Call]:
    """Build the calls for a message with a template: an entry for each copy.

    https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendBulkEmail.html
    """
    extra = dict(message.esp_extra)
    if "EmailTags" in extra:
        extra["DefaultEmailTags"] = extra.pop("EmailTags")
    shared = bulk_parameters(message, settings)
    copies = list(entries(message))
    each = max((len(recipients) for recipients, _ in copies), default=1)
    at_once = max(1, MOST_RECIPIENTS // each)
    calls = []
    for start in range(0, len(copies), at_once):
        portion = copies[start : start + at_once]
        payload = merged(shared | {"BulkEmailEntries": [entry for _, entry in portion]}, extra)
        parts = tuple(Part(recipients) for recipients, _ in portion)
        calls.append(Call(request(settings, SEND_BULK, payload), parts))
    return calls


def bulk_parameters(message: PreparedMessage, settings: Settings) -> dict[str, Any]:
    """Return what is the same for all copies."""
    body = {
        "FromEmailAddress": mailbox(message.sender),
        "ReplyToAddresses": [mailbox(item) for item in message.reply_to] or None,
        **common(message, settings),
        "DefaultEmailTags": message_tags(message, settings),
        "DefaultContent": {"Template": template(message)},
    }
    return given(body)


def template(message: PreparedMessage) -> dict[str, Any]:
    """Return the template with what goes into every copy."""
    name = str(message.template_id)
    body = {
        "TemplateArn" if name.startswith("arn:") else "TemplateName": name,
        "TemplateData": template_data(message.merge_global_data or {}),
        "Headers": headers([*message.headers, *own_headers(message)]),
        "Attachments": [attachment(item) for item in message.attachments] or None,
    }
    return given(body)


def template_data(values: Mapping[str, Any]) -> str:
    """Return the data as the JSON text that Amazon SES wants, ``{}`` where there are none."""
    return bytes(json_body(values)).decode()


def entries(
    message: PreparedMessage,
) -> Iterator[tuple[tuple[Address, ...], dict[str, Any]]]:
    """Yield the recipients and the entry of each copy: of one for all, or one for each ``to``."""
    for to in zip(message.to) if message.is_batch else (message.to,):
        lists = unique(to, message.cc, message.bcc)
        named = zip(_LISTS, lists, strict=True)
        entry: dict[str, Any] = {
            "Destination": {
                name: [mailbox(item) for item in found] for name, found in named if found
            }
        }
        if message.is_batch:
            entry |= own_parts(message, to[0])
        yield sum(lists, ()), entry


def own_parts(message: PreparedMessage, address: Address) -> dict[str, Any]:
    """Return what one recipient's copy has of its own.

    Sources differ on whether Amazon SES merges the data with the default ones, so it is
    done here.
    """
    row = (message.merge_data or {}).get(address.key, {})
    data = template_data({**(message.merge_global_data or {}), **row})
    own = list((message.merge_headers or {}).get(address.key, {}).items())
    if own_metadata(message, address):
        metadata = {**(message.metadata or {}), **own_metadata(message, address)}
        own.append(("X-Metadata", header_json(metadata)))
    return given(
        {
            "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": data}},
            "ReplacementHeaders": headers(own),
        }
    )


# Amazon SES writes these itself and refuses them here; in MIME source it overwrites them.
NOT_WITH_TEMPLATES = frozenset({"date", "message-id"})


def headers(items: Sequence[tuple[str, str]]) -> list[dict[str, str]] | None:
    """Return headers; Amazon SES takes printable ASCII only."""
    return [
        {"Name": name, "Value": encoded(value)}
        for name, value in items
        if name.lower() not in NOT_WITH_TEMPLATES
    ] or None


def attachment(item: Attachment) -> dict[str, Any]:
    """Return one attachment of a template."""
    body = {
        "RawContent": Base64(item.data),
        "FileName": item.filename,
        "ContentType": item.content_type,
        "ContentDisposition": "INLINE" if item.is_inline else "ATTACHMENT",
        "ContentId": item.content_id,
        "ContentTransferEncoding": "BASE64",
    }
    return given(body)


def mailbox(address: Address) -> str:
    """Return an address in ASCII, its display name in encoded words if need be."""
    name = address.display_name
    if _is_literal(name):
        return str(address)
    return f"{encoded(name)} <{address.addr_spec}>"


def encoded(value: str) -> str:
    """Return text in printable ASCII, in the encoded words of RFC 2047 if need be."""
    if _is_literal(value):
        return value
    from email.header import Header

    return Header(value, "utf-8").encode().replace("\n", "")


def _is_literal(value: str) -> bool:
    return value.isascii() and value.isprintable() and "=?" not in value


# --- reading the answer ----------------------------------------------------------------

# https://docs.aws.amazon.com/ses/latest/APIReference-V2/CommonErrors.html
ERROR_KINDS: dict[str | None, type[APIError]] = {
    "TooManyRequestsException": RateLimitedError,
    "ThrottlingException": RateLimitedError,
    "Throttling": RateLimitedError,
    "AccessDeniedException": AuthenticationError,
    "ExpiredTokenException": AuthenticationError,
    "IncompleteSignature": AuthenticationError,
    "IncompleteSignatureException": AuthenticationError,
    "InvalidClientTokenId": AuthenticationError,
    "InvalidSignatureException": AuthenticationError,
    "MissingAuthenticationToken": AuthenticationError,
    "MissingAuthenticationTokenException": AuthenticationError,
    "NotAuthorized": AuthenticationError,
    "OptInRequired": AuthenticationError,
    "SignatureDoesNotMatch": AuthenticationError,
    "UnrecognizedClientException": AuthenticationError,
}
_CREDENTIAL = "Check MAILESP_AMAZON_SES_ACCESS_KEY_ID and MAILESP_AMAZON_SES_SECRET_ACCESS_KEY."
_SANDBOX = "Verify the sender (in the sandbox, the recipients too): Amazon SES > Identities."
HINTS: dict[str | None, str] = {
    "AccessDeniedException": "Allow what error.message names in the IAM policy; SendEmail needs "
    "ses:SendEmail and ses:SendRawEmail, templates ses:SendBulkTemplatedEmail too.",
    "ExpiredTokenException": "The session token has expired: renew the temporary credentials.",
    "IncompleteSignature": _CREDENTIAL,
    "InvalidClientTokenId": _CREDENTIAL,
    "InvalidSignatureException": f"{_CREDENTIAL} The clock must be right within five minutes.",
    "SignatureDoesNotMatch": f"{_CREDENTIAL} The clock must be right within five minutes.",
    "UnrecognizedClientException": _CREDENTIAL,
    "MessageRejected": _SANDBOX,
    "MailFromDomainNotVerifiedException": "Repair the custom MAIL FROM domain: Amazon SES > "
    "Identities.",
    "AccountSuspendedException": "The account may not send: Amazon SES > Account dashboard.",
    "SendingPausedException": "Sending is paused, for the account or the configuration set.",
    "NotFoundException": "No such template or configuration set in this region.",
    "LimitExceededException": "A quota of the account is used up: Amazon SES > Account dashboard.",
}
_DAILY = "daily"  # "Daily message quota exceeded": tomorrow is too far to wait for
_RATE = "It takes no more for now; nothing was taken. Wait some seconds, then twice as long."

# What became of one entry of SendBulkEmail, where trying again may help.
PASSING = frozenset({"ACCOUNT_THROTTLED", "TRANSIENT_FAILURE"})
ENTRY_HINTS: dict[str | None, str] = {
    "MESSAGE_REJECTED": _SANDBOX,
    "MAIL_FROM_DOMAIN_NOT_VERIFIED": HINTS["MailFromDomainNotVerifiedException"],
    "CONFIGURATION_SET_NOT_FOUND": HINTS["NotFoundException"],
    "TEMPLATE_NOT_FOUND": HINTS["NotFoundException"],
    "ACCOUNT_SUSPENDED": HINTS["AccountSuspendedException"],
    "ACCOUNT_SENDING_PAUSED": HINTS["SendingPausedException"],
    "CONFIGURATION_SET_SENDING_PAUSED": HINTS["SendingPausedException"],
    "ACCOUNT_DAILY_QUOTA_EXCEEDED": HINTS["LimitExceededException"],
    "ACCOUNT_THROTTLED": _RATE,
    "TRANSIENT_FAILURE": "It failed for a moment; nothing was taken for this recipient.",
}


def read(call: Call, response: HttpResponse, settings: Settings) -> list[Reading]:
    """Read Amazon's answer: an id for the call, or a result for each entry in order."""
    data = as_object(response.json())
    if not 200 <= response.status < 300:
        return whole_call(call, refusal(response, data))
    if call.request.url.endswith(f"/{SEND_BULK}"):
        return bulk_results(call, response, as_list(data.get("BulkEmailEntryResults")))
    message_id = own_id(data)
    if message_id is None:
        return whole_call(call, unreadable(NAME, response))
    return [accepted(part, message_id, Status.QUEUED) for part in call.parts]


def own_id(data: Mapping[str, Any]) -> str | None:
    """Return the MessageId of an answer; only text is one."""
    found = data.get("MessageId")
    return text(data, "MessageId") if isinstance(found, str) else None


def refusal(response: HttpResponse, data: Mapping[str, Any]) -> MailESPError:
    """Return the error for an answer that says no. Every 4xx means that nothing was taken."""
    code = error_code(response, data)
    said = text(data, "message") or text(data, "Message") or ""
    kind, hint = ERROR_KINDS.get(code), HINTS.get(code, "")
    if kind is RateLimitedError:
        late = _DAILY in said.lower()
        kind, hint = (APIError, HINTS["LimitExceededException"]) if late else (kind, _RATE)
    if response.status >= 500:  # it is unknown what was taken, whatever the code says
        kind, hint = None, ""
    return failure(NAME, response, code=code, message=said, hint=hint, kind=kind)


def error_code(response: HttpResponse, data: Mapping[str, Any]) -> str | None:
    """Return Amazon's code: ``Code:https://…`` in a header, or ``name.space#Code`` in the body."""
    header = response.headers.get("x-amzn-errortype", "").partition(":")[0].strip()
    named = (text(data, "__type") or "").rpartition("#")[2]
    return header or named or text(data, "code") or None


def bulk_results(call: Call, response: HttpResponse, results: list[Any]) -> list[Reading]:
    """Read the results of the entries. Where their number is wrong, none can be trusted."""
    if len(results) == len(call.parts):
        return [
            entry_result(part, response, as_object(item))
            for part, item in zip(call.parts, results, strict=True)
        ]
    what = WITHOUT_EVERY_RECIPIENT if results else "with a body that could not be read"
    error = unreadable(NAME, response, what)
    ids = [own_id(as_object(item)) for item in results[: len(call.parts)]]
    ids += [None] * (len(call.parts) - len(ids))
    return [_doubtful(part, found, error) for part, found in zip(call.parts, ids, strict=True)]


def _doubtful(part: Part, message_id: str | None, error: MailESPError) -> Reading:
    """Keep an id that may be another copy's."""
    entry = RecipientStatus(Status.UNKNOWN, message_id, str(error))
    return Reading((entry,) * len(part.recipients), error)


def entry_result(part: Part, response: HttpResponse, result: Mapping[str, Any]) -> Reading:
    """Read what became of one copy."""
    status, message_id = text(result, "Status"), own_id(result)
    if status == "SUCCESS" and message_id is not None:
        return accepted(part, message_id, Status.QUEUED)
    if status is None or status == "SUCCESS":
        return same_for_all(part, unreadable(NAME, response))
    error = failure(
        NAME,
        response,
        code=status,
        message=text(result, "Error") or "",
        hint=ENTRY_HINTS.get(status, ""),
        kind=RateLimitedError if status in PASSING else APIError,
    )
    return same_for_all(part, error)


# --- webhooks: what Amazon SNS wraps around ---------------------------------------------

CERTIFICATE_URL = pattern(
    rf"https://sns\.({_REGION})\.amazonaws\.com(?:\.cn)?"
    r"/(SimpleNotificationService-[0-9a-f]{32}\.pem)"
)


def verify(request: WebhookRequest, settings: Settings, now: datetime) -> Fetch | None:
    """Check that Amazon SNS signed this message and that it is of a topic of ours.

    A signature proves no more than that some customer of AWS has a topic, so nothing is
    fetched before the topic is known. Basic credentials, where configured, are required
    besides. SNS knows no limit for how late a message may come, and neither does this check:
    an event's ``key`` tells repetitions.

    https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

    Raises WebhookRejected, or ConfigurationError where no topic is configured. Returns the
    fetch of the certificate that the signature is then checked with.
    """
    secret = settings.get("WEBHOOK_SECRET")
    if secret is not None:
        verify_basic(request.headers.get("Authorization"), secret)
    ours = settings.require("TOPIC_ARNS")
    if settings.get("ALLOW_RAW_DELIVERY") and is_raw(request.headers):
        verify_raw(request, settings, ours)
        return None
    envelope = open_envelope(request.body, request.headers)
    if envelope.fields["TopicArn"] not in ours:
        raise WebhookRejected("The SNS topic is not among MAILESP_AMAZON_SES_TOPIC_ARNS.")
    return Fetch(
        HttpRequest("GET", certificate_url(envelope.fields, settings)),
        partial(verify_signature, envelope, now),
        max_bytes=CERTIFICATE_BYTES,
        keep_seconds=CERTIFICATE_SECONDS,
    )


def verify_raw(request: WebhookRequest, settings: Settings, ours: frozenset[str]) -> None:
    """Check a message that SNS delivers raw: unsigned, so that all depends on a secret.

    Raises WebhookRejected, or ConfigurationError where no secret is configured.
    """
    settings.require("WEBHOOK_SECRET")  # it has been compared already
    if request.headers.get("x-amz-sns-topic-arn") not in ours:
        raise WebhookRejected("The SNS topic is not among MAILESP_AMAZON_SES_TOPIC_ARNS.")


def certificate_url(envelope: Mapping[str, Any], settings: Settings) -> str:
    """Return where the certificate is: on the host of SNS in the topic's region, or nowhere."""
    url = envelope.get("SigningCertURL")
    match = CERTIFICATE_URL.fullmatch(url) if isinstance(url, str) else None
    topic = IS_TOPIC.fullmatch(envelope["TopicArn"])
    if match is None or topic is None or match[1] != topic[1]:
        raise WebhookRejected("The certificate is not one of Amazon SNS in the topic's region.")
    base = settings.get("SNS_URL")
    return match[0] if base is None else f"{base}/{match[2]}"


def parse(request: WebhookRequest, settings: Settings) -> Sequence[Event | Fetch]:
    """Read one message of Amazon SNS; whatever has no known shape becomes an unknown event."""
    envelope = unwrapped(request) if is_raw(request.headers) else parse_json(request.body)
    if not isinstance(envelope, dict):
        return (unknown_event(NAME, request.body, request.body),)
    kind = text(envelope, "Type")
    if kind == "SubscriptionConfirmation":
        return confirmation(envelope, request.body, settings)
    if kind == "UnsubscribeConfirmation":
        logger.warning("An SNS subscription has ended: no more webhooks of %s come of it.", NAME)
        return ()
    return notification(envelope, request.body, settings)


def unwrapped(request: WebhookRequest) -> dict[str, Any]:
    """Return the envelope that a raw delivery leaves out; its headers tell the rest.

    https://docs.aws.amazon.com/sns/latest/dg/sns-large-payload-raw-message-delivery.html
    """
    return given(
        {
            "Type": "Notification",
            "MessageId": request.headers.get("x-amz-sns-message-id"),
            "TopicArn": request.headers.get("x-amz-sns-topic-arn"),
            "Message": request.body.decode("utf-8", "replace"),
        }
    )


def confirmation(
    envelope: dict[str, Any], body: bytes, settings: Settings
) -> Sequence[Event | Fetch]:
    """Confirm a subscription by calling SNS; the URL in the message is never looked at.

    https://docs.aws.amazon.com/sns/latest/api/API_ConfirmSubscription.html
    """
    topic, token = text(envelope, "TopicArn") or "", text(envelope, "Token")
    match = IS_TOPIC.fullmatch(topic)
    if match is None or token is None:
        return (unknown_event(NAME, envelope, body, text(envelope, "MessageId")),)
    if not settings.get("AUTO_CONFIRM_SNS"):
        logger.warning(
            "An SNS subscription to %s waits to be confirmed by hand: open the SubscribeURL in "
            "the esp_event of its unknown event.",
            topic,
        )
        return (unknown_event(NAME, envelope, body, text(envelope, "MessageId")),)
    url = settings.get("SNS_URL") or endpoint("sns", match[1])
    content_type, form = form_body(
        [
            ("Action", "ConfirmSubscription"),
            ("TopicArn", topic),
            ("Token", token),
            ("Version", "2010-03-31"),
        ]
    )
    call = HttpRequest("POST", f"{url}/", {"Content-Type": content_type}, form)
    return (Fetch(call, partial(confirmed, topic)),)


def confirmed(topic: str, response: HttpResponse) -> tuple[()]:
    """See whether SNS has confirmed. Else it may ask again, or the console's button makes it."""
    if response.status != 200:
        raise FetchError(f"Amazon SNS did not confirm the subscription (HTTP {response.status}).")
    logger.info("The SNS subscription to %s is confirmed.", topic)
    return ()


TRIALS = ("Successfully validated SNS topic",)


def notification(
    envelope: dict[str, Any], body: bytes, settings: Settings
) -> Sequence[Event | Fetch]:
    """Read what Amazon SES has to say, which is JSON in a text."""
    said, message_id = envelope.get("Message"), text(envelope, "MessageId")
    raw = parse_json(said) if isinstance(said, str) else None
    if not isinstance(raw, dict):
        is_trial = isinstance(said, str) and said.startswith(TRIALS)
        return () if is_trial else (unknown_event(NAME, envelope, body, message_id),)
    kind = text(raw, "eventType") or text(raw, "notificationType")
    if kind == "Received":
        return received(raw, envelope, body, settings)
    if kind == "AmazonSnsSubscriptionSucceeded":
        return ()
    return to_events(kind, raw, envelope, body, settings)


# --- tracking --------------------------------------------------------------------------


@record(frozen=True)
class Kind:
    """What one kind of event means, and where its details are.

    ``recipients`` names the list of those it is about (else they are the mail's), and
    ``description`` what is worth telling.
    """

    detail: str
    event_type: EventType
    reject_reason: RejectReason | None = None
    recipients: str = ""
    description: tuple[str, ...] = ()


# https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
KINDS: dict[str | None, Kind] = {
    "Bounce": Kind(
        "bounce",
        EventType.BOUNCED,
        RejectReason.BOUNCED,
        "bouncedRecipients",
        ("bounceType", "bounceSubType"),
    ),
    "Complaint": Kind(
        "complaint",
        EventType.COMPLAINED,
        RejectReason.SPAM,
        "complainedRecipients",
        ("complaintFeedbackType", "complaintSubType"),
    ),
    "Delivery": Kind("delivery", EventType.DELIVERED, recipients="recipients"),
    "Send": Kind("send", EventType.SENT),
    "Reject": Kind("reject", EventType.REJECTED, RejectReason.BLOCKED, description=("reason",)),
    "Open": Kind("open", EventType.OPENED),
    "Click": Kind("click", EventType.CLICKED),
    "Rendering Failure": Kind(
        "failure", EventType.FAILED, description=("templateName", "errorMessage")
    ),
    "DeliveryDelay": Kind(
        "deliveryDelay",
        EventType.DEFERRED,
        recipients="delayedRecipients",
        description=("delayType",),
    ),
    "Subscription": Kind("subscription", EventType.SUBSCRIBED, description=("contactList",)),
}
_UNKNOWN = Kind("", EventType.UNKNOWN)


def to_events(
    name: str | None,
    raw: dict[str, Any],
    envelope: Mapping[str, Any],
    body: bytes,
    settings: Settings,
) -> list[TrackingEvent]:
    """Normalise one message: an event for each recipient, or one without a recipient."""
    kind = KINDS.get(name, _UNKNOWN)
    mail, detail = as_object(raw.get("mail")), as_object(raw.get(kind.detail))
    event_type, reject_reason = classify(kind, detail)
    event_id = text(envelope, "MessageId")
    known: dict[str, Any] = {
        "event_type": event_type,
        "esp_event": raw,
        "timestamp": from_iso(detail, "timestamp") or from_iso(envelope, "Timestamp"),
        "event_id": event_id,
        "message_id": text(mail, "messageId"),
        "reject_reason": reject_reason,
        "description": ": ".join(strings(detail.get(key) for key in kind.description)) or None,
        "metadata": metadata(mail),
        "click_url": text(detail, "link"),
        "user_agent": text(detail, "userAgent"),
    }
    # Whoever is not named has not bounced, only because the mail was also to him.
    affected = as_list(detail.get(kind.recipients) if kind.recipients else mail.get("destination"))
    return [
        TrackingEvent(
            **known,
            recipient=recipient(item),
            mta_response=text(item, "diagnosticCode") or text(detail, "smtpResponse"),
            tags=tags(mail, settings),
            identity=(NAME, event_id or sha256(body).hexdigest(), recipient(item)),
        )
        for item in affected or [None]
    ]


def classify(kind: Kind, detail: Mapping[str, Any]) -> tuple[EventType, RejectReason | None]:
    """Return the event type and reject reason; a subscription's event may end one."""
    if kind.event_type is EventType.SUBSCRIBED and is_unsubscribing(detail):
        return EventType.UNSUBSCRIBED, RejectReason.UNSUBSCRIBED
    return kind.event_type, kind.reject_reason


def is_unsubscribing(detail: Mapping[str, Any]) -> bool:
    """Tell whether a recipient wants no more mail, or no more of one topic."""
    new, old = topics(detail, "newTopicPreferences"), topics(detail, "oldTopicPreferences")
    preferences = as_object(detail.get("newTopicPreferences"))
    return preferences.get("unsubscribeAll") is True or "OptOut" in (
        status for name, status in new.items() if old.get(name) != "OptOut"
    )


def topics(detail: Mapping[str, Any], key: str) -> dict[str | None, str | None]:
    """Return each topic of a contact list with its subscription's status."""
    found = as_list(as_object(detail.get(key)).get("topicSubscriptionStatus"))
    return {text(item, "topicName"): text(item, "subscriptionStatus") for item in found}


def recipient(item: Any) -> str | None:
    """Return an address: a text, or in an object; without a display name."""
    found = text(item, "emailAddress") if isinstance(item, dict) else as_text(item)
    if found is None or not found.endswith(">"):
        return found
    return found.rpartition("<")[2].removesuffix(">") or None


def metadata(mail: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata, where the original headers are included and not cut before it."""
    return as_object(parse_json(next(iter(header_values(mail, "x-metadata")), "")))


def tags(mail: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return the tags; where the headers are not included, the message tag."""
    found = strings(header_values(mail, "x-tag"))
    name = settings.get("MESSAGE_TAG_NAME") or ""
    return found or strings(as_list(as_object(mail.get("tags")).get(name)))


def header_values(mail: Mapping[str, Any], name: str) -> list[str]:
    """Return the values of a header of the mail that was sent, unfolded and decoded."""
    values = (
        text(item, "value") or ""
        for item in as_list(mail.get("headers"))
        if (text(item, "name") or "").lower() == name
    )
    return [value if _is_literal(value) else _decoded(value) for value in values]


def _decoded(value: str) -> str:
    from ..decoding import Defects
    from ..headers import header_text

    return header_text(re.sub(r"\r?\n(?=[ \t])", "", value), Defects())


# --- inbound ---------------------------------------------------------------------------

VERDICTS = {"PASS": False, "FAIL": True}  # GRAY and PROCESSING_FAILED are none
SETUP_NOTIFICATION = "AMAZON_SES_SETUP_NOTIFICATION"  # a bucket's first object is no mail
_BUCKET = pattern(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
_LONGEST_KEY = 1024  # bytes (of UTF-8)


def received(
    raw: dict[str, Any], envelope: Mapping[str, Any], body: bytes, settings: Settings
) -> Sequence[Event | Fetch]:
    """Read the notification about a mail: it is in there, or in S3, or nowhere.

    https://docs.aws.amazon.com/ses/latest/dg/receiving-email-notifications-contents.html
    """
    action = as_object(as_object(raw.get("receipt")).get("action"))
    content, key = raw.get("content"), text(action, "objectKey") or ""
    if isinstance(content, str):
        return (with_content(raw, content, text(action, "encoding"), body),)
    if key.rpartition("/")[2] == SETUP_NOTIFICATION:
        return ()
    fetch = stored(raw, action, envelope, settings)
    if fetch is not None:
        return (fetch,)
    logger.warning(
        "%s told of a mail that its notification does not contain: it is an unknown event. "
        "Choose an SNS or S3 action in the receipt rule.",
        NAME,
    )
    return (unknown_event(NAME, raw, body, text(envelope, "MessageId")),)


def with_content(
    raw: dict[str, Any], content: str, encoding: str | None, body: bytes
) -> InboundEvent:
    """Read a mail that came in the notification (of an SNS action)."""
    from ..decoding import Defects
    from ..decoding import decode_base64 as decode_leniently

    defects = Defects()
    if (encoding or "").upper() == "BASE64":
        return to_inbound(raw, decode_leniently(content, defects), body, defects)
    return to_inbound(raw, content.encode("utf-8", "replace"), body, defects)


def to_inbound(
    raw: dict[str, Any], source: bytes, body: bytes, defects: Iterable[str] = ()
) -> InboundEvent:
    """Return the event for a mail's source and what Amazon SES found out about it.

    Two actions of one rule tell of a mail twice, with the same id and recipients.
    """
    from ..inbound import InboundMessage

    mail, receipt = as_object(raw.get("mail")), as_object(raw.get("receipt"))
    recipients = strings(as_list(receipt.get("recipients")))
    event_id = text(mail, "messageId")
    sender = mail.get("source")
    message = InboundMessage.from_raw(
        source,
        envelope_sender=(as_text(sender) or "") if "source" in mail else None,
        envelope_recipient=next(iter(recipients), None),
        spam_detected=VERDICTS.get(text(as_object(receipt.get("spamVerdict")), "status") or ""),
        defects=defects,
    )
    return InboundEvent(
        message=message,
        esp_event=raw,
        event_id=event_id,
        timestamp=from_iso(mail, "timestamp") or from_iso(receipt, "timestamp"),
        identity=(NAME, event_id or sha256(body).hexdigest(), *sorted(recipients)),
    )


def stored(
    raw: dict[str, Any],
    action: Mapping[str, Any],
    envelope: Mapping[str, Any],
    settings: Settings,
) -> Fetch | None:
    """Return the fetch of a mail's source from S3, or None where the notification names none."""
    match = IS_TOPIC.fullmatch(text(envelope, "TopicArn") or "")
    bucket, key = text(action, "bucketName") or "", text(action, "objectKey") or ""
    if match is None or not _BUCKET.fullmatch(bucket) or not is_key(key):
        return None
    return StoredMail(raw, bucket, key, settings.get("S3_URL")).fetch(match[1])


def is_key(key: str) -> bool:
    """Tell an object's key that a URL can hold; dot segments would lead elsewhere."""
    return (
        0 < len(key.encode("utf-8", "replace")) <= _LONGEST_KEY
        and "\ufffd" not in key
        and not {".", ".."}.intersection(key.split("/"))
    )


@record(frozen=True)
class StoredMail:
    """A mail in an S3 bucket, and the notification that told of it."""

    raw: dict[str, Any]
    bucket: str
    key: str
    base: str | None

    def url(self, in_region: str) -> str:
        """Return the object's address: the bucket is in the host name, unless that won't do.

        A dot in it is beyond the certificate's wildcard, and two slashes at a path's
        beginning are beyond HTTP libraries.
        """
        key = "/".join(quote(segment, safe="-_.~") for segment in self.key.split("/"))
        if self.base is not None:
            return f"{self.base}/{self.bucket}/{key}"
        host = endpoint("s3", in_region)
        if "." in self.bucket or key.startswith("/"):
            return f"{host}/{self.bucket}/{key}"
        return f"{host.replace('//', f'//{self.bucket}.', 1)}/{key}"

    def fetch(self, in_region: str, *, again: bool = False) -> Fetch:
        """Return the signed fetch; ``again`` is for the second region that was told."""
        return Fetch(
            HttpRequest("GET", self.url(in_region)),
            partial(self.read, in_region, again),
            max_bytes=MOST_BYTES,
            sign=partial(sign_s3, in_region),
        )

    def read(
        self, in_region: str, again: bool, response: HttpResponse
    ) -> Sequence[Event | Fetch] | Fetch:
        """Read the object, or look in the region where S3 says that the bucket is."""
        if response.status == 200:
            return (self.event(response),)
        elsewhere = response.headers.get("x-amz-bucket-region", in_region)
        if elsewhere != in_region and not again and IS_REGION.fullmatch(elsewhere):
            return self.fetch(elsewhere, again=True)
        code = _S3_CODE.search(response.body[:2000])
        named = f", code {code[1].decode()}" if code else ""
        raise FetchError(f"Amazon S3 answered HTTP {response.status}{named} for a mail's source.")

    def event(self, response: HttpResponse) -> Event:
        """Return the mail; what the rule had encrypted with the customer's key cannot be read."""
        body = json.dumps(self.raw, sort_keys=True).encode()
        if any(name in response.headers for name in _ENCRYPTED):
            logger.error(
                "A mail in S3 is encrypted and becomes an unknown event: switch off message "
                "encryption in the receipt rule of %s.",
                NAME,
            )
            return unknown_event(
                NAME, self.raw, body, text(as_object(self.raw.get("mail")), "messageId")
            )
        return to_inbound(self.raw, response.body, body)


_S3_CODE = pattern(rb"<Code>([A-Za-z0-9]{1,60})</Code>")
_ENCRYPTED = ("x-amz-meta-x-amz-key", "x-amz-meta-x-amz-key-v2", "x-amz-meta-x-amz-iv")


def sign_s3(in_region: str, request: HttpRequest, settings: Settings, now: datetime) -> HttpRequest:
    """Sign the fetch of a mail. Without credentials it is put off, not given up."""
    try:
        credentials = settings["CREDENTIALS"]()
    except (ConfigurationError, NotSentError) as error:
        reason = str(error)
    else:
        return signed(request, credentials, service="s3", region=in_region, now=now)
    raise FetchError(f"A mail in S3 cannot be fetched. {reason}")


_WEBHOOK = Webhook(verify, parse)

esp = Esp(
    NAME,
    SETTINGS,
    SUPPORTS,
    build,
    read,
    tracking=_WEBHOOK,
    inbound=_WEBHOOK,
    sign=sign,
    complete=complete,
)
