"""Amazon SES: the account behind the key, and the SNS subscriptions that webhooks come of.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_GetAccount.html
https://docs.aws.amazon.com/sns/latest/api/API_Subscribe.html
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlsplit

from ..console import (
    Action,
    Change,
    Console,
    Finding,
    HookTarget,
    Kind,
    Talk,
    Verdict,
    answered,
    checked,
    masked,
    same_place,
    with_credentials,
)
from ..esp import HttpRequest, HttpResponse, Settings
from ..esps import amazon_ses
from ..exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    MailESPError,
    NotSentError,
)
from ..forms import form_body
from ..outcomes import failure
from ..patterns import pattern
from ..sigv4 import signed
from ..wire import as_list, as_object, json_body, text

NAME = amazon_ses.NAME
EVENTS = (
    "SEND",
    "REJECT",
    "BOUNCE",
    "COMPLAINT",
    "DELIVERY",
    "OPEN",
    "CLICK",
    "RENDERING_FAILURE",
    "DELIVERY_DELAY",
    "SUBSCRIPTION",
)
DESTINATION = "flask-mailesp"  # the name of the event destination that is made
_XML_CODE = pattern(r"<Code>([\w.]{1,60})</Code>")
_MEMBER = pattern(r"<member>(.*?)</member>", re.DOTALL)
_NEXT = pattern(r"<NextToken>([^<]+)</NextToken>")


def ask(settings: Settings, method: str, path: str, body: Any = None) -> HttpRequest:
    """Return a signed call to Amazon SES."""
    headers, data = ({}, b"") if body is None else ({"Content-Type": JSON}, bytes(json_body(body)))
    request = HttpRequest(method, f"{settings['API_URL']}/v2/email/{path}", headers, data)
    return amazon_ses.sign(request, settings, datetime.now(timezone.utc))


JSON = "application/json"


def ask_sns(settings: Settings, topic: str, action: str, **fields: str) -> HttpRequest:
    """Return a signed call to Amazon SNS, about one topic."""
    in_region = topic.split(":")[3]
    base = settings.get("SNS_URL") or amazon_ses.endpoint("sns", in_region)
    pairs = {"Action": action, "TopicArn": topic, "Version": "2010-03-31", **fields}
    content_type, data = form_body(pairs.items())
    return signed(
        HttpRequest("POST", f"{base}/", {"Content-Type": content_type}, data),
        settings["CREDENTIALS"](),
        service="sns",
        region=in_region,
        now=datetime.now(timezone.utc),
    )


def problem(response: HttpResponse) -> MailESPError | None:
    """Return what an answer of SES (JSON) or SNS (XML) complains about, or None."""
    if response.status == 200:
        return None
    found = _XML_CODE.search(response.text)
    code = found[1] if found else amazon_ses.error_code(response, as_object(response.json()))
    kind = amazon_ses.ERROR_KINDS.get(code)
    if code in ("AuthorizationError", "AuthorizationErrorException"):
        kind = AuthenticationError
    hint = HINTS.get(code) or amazon_ses.HINTS.get(code, "")
    return failure(NAME, response, code=code, hint=hint, kind=kind or _kind(response.status))


def _kind(status: int) -> type[APIError]:
    return AuthenticationError if status in (401, 403) else APIError


HINTS: dict[str | None, str] = {
    "AuthorizationError": "Allow sns:Subscribe and sns:ListSubscriptionsByTopic in the IAM policy.",
    "AccessDeniedException": "The IAM policy does not allow this question.",
    "NotFoundException": "Check MAILESP_AMAZON_SES_CONFIGURATION_SET: there is no such set in "
    "this region.",
    "NotFound": "Check MAILESP_AMAZON_SES_TOPIC_ARNS: there is no such topic.",
}


# --- the credential --------------------------------------------------------------------


def check(settings: Settings) -> Talk[list[Finding]]:
    """Ask for the account. A key that may only send is not allowed to, and says so."""
    try:
        request = ask(settings, "GET", "account")
    except (ConfigurationError, NotSentError) as error:  # there is nothing to sign with
        return [Finding("credentials", Verdict.FAILED, str(error)), SENDER]
    response = yield request
    return [Finding("credentials", *credentials(response)), SENDER]


SENDER = Finding(
    "sender",
    Verdict.CANNOT_TELL,
    "Which senders are verified is not asked: look at Amazon SES > Identities, in this region.",
)


def credentials(response: HttpResponse) -> tuple[Verdict, str]:
    """Read the answer of GetAccount."""
    error = problem(response)
    if isinstance(error, APIError) and error.code == "AccessDeniedException":
        return (
            Verdict.OK,
            "Amazon accepts the key; it may not look at the account (ses:GetAccount).",
        )
    if isinstance(error, AuthenticationError):
        return Verdict.FAILED, str(error)
    if error is not None:
        return Verdict.CANNOT_TELL, str(error)
    account = as_object(response.json())
    if "SendingEnabled" not in account:
        return Verdict.CANNOT_TELL, f"What answered (HTTP {response.status}) is not Amazon SES."
    if account["SendingEnabled"] is False:
        return Verdict.FAILED, "Amazon accepts the key, but the account's sending is paused."
    if account.get("EnforcementStatus") not in (None, "HEALTHY"):
        status = text(account, "EnforcementStatus")
        return Verdict.WARNING, f"Amazon accepts the key; the account is under review: {status}."
    if account.get("ProductionAccessEnabled") is False:
        return Verdict.WARNING, SANDBOX
    return Verdict.OK, "Amazon accepts the key, and the account may send."


SANDBOX = (
    "Amazon accepts the key; the account is in the sandbox of this region: it sends to verified "
    "addresses only, 200 mails a day."
)


# --- the webhooks ----------------------------------------------------------------------


def plan(settings: Settings, targets: tuple[HookTarget, ...]) -> Talk[list[Change]]:
    """See that events are published, and that each topic has a subscription for its URL.

    Of the configured topics, those that the configuration set publishes to are for tracking,
    the others for inbound mail. While that is not known, no topic is touched.
    """
    ours = sorted(settings.require("TOPIC_ARNS"))
    tracks = any(target.kind == "tracking" for target in targets)
    published: set[str] = set()
    if tracks or settings["CONFIGURATION_SET"] is not None:
        published = yield from topics_of_events(settings)
    for_tracking = [topic for topic in ours if topic in published]
    changes: list[Change] = []
    if tracks and not for_tracking:
        changes.append(publishing(settings, ours))
        if len(ours) > 1:
            return changes
        for_tracking = ours
    topics: dict[Kind, Sequence[str]] = {
        "tracking": for_tracking,
        "inbound": [topic for topic in ours if topic not in for_tracking],
    }
    for target in targets:
        for topic in topics[target.kind]:
            subscriptions = yield from subscriptions_of(settings, topic)
            changes += topic_changes(settings, target, topic, subscriptions)
    return changes


def topics_of_events(settings: Settings) -> Talk[set[str]]:
    """Return the topics that the configuration set publishes to."""
    response = yield ask(settings, "GET", destinations_path(settings))
    answer = answered(response, problem)
    found = map(as_object, as_list(answer.get("EventDestinations")))
    return {
        arn
        for item in found
        if item.get("Enabled") is not False
        and (arn := text(item.get("SnsDestination"), "TopicArn")) is not None
    }


def destinations_path(settings: Settings) -> str:
    """Return the path of a configuration set's event destinations."""
    name = quote(settings.require("CONFIGURATION_SET"), safe="")
    return f"configuration-sets/{name}/event-destinations"


def publishing(settings: Settings, ours: Sequence[str]) -> Change:
    """Return the change that has events published; where topics are several, a person chooses."""
    place = f"configuration set {settings['CONFIGURATION_SET']!r}"
    if len(ours) != 1:
        return Change(Action.FOREIGN, place, "", (CHOOSE,))
    body = {
        "EventDestinationName": DESTINATION,
        "EventDestination": {
            "Enabled": True,
            "MatchingEventTypes": EVENTS,
            "SnsDestination": {"TopicArn": ours[0]},
        },
    }
    sent = ask(settings, "POST", destinations_path(settings), body)
    return Change(Action.CREATE, place, ours[0], ("publishes all events to the topic",), sent)


CHOOSE = (
    "publishes to none of the topics in TOPIC_ARNS: add an event destination in the console, so "
    "that it is known which of them is for tracking"
)


def subscriptions_of(settings: Settings, topic: str) -> Talk[list[tuple[str, str]]]:
    """Return the address and the ARN of each subscription; the ARN tells what is pending."""
    found: list[tuple[str, str]] = []
    more: dict[str, str] = {}
    while True:
        response = yield ask_sns(settings, topic, "ListSubscriptionsByTopic", **more)
        said = checked(response, problem).text
        found += [(tag(item, "Endpoint"), tag(item, "SubscriptionArn")) for item in members(said)]
        following = _NEXT.search(said)
        if following is None or html.unescape(following[1]) == more.get("NextToken"):
            return found
        more = {"NextToken": html.unescape(following[1])}


def members(said: str) -> Iterator[str]:
    """Yield the items of a list in SNS's XML."""
    return (match[1] for match in _MEMBER.finditer(said))


def tag(item: str, name: str) -> str:
    """Return the text of an element."""
    return html.unescape(item.partition(f"<{name}>")[2].partition(f"</{name}>")[0])


def topic_changes(
    settings: Settings, target: HookTarget, topic: str, subscriptions: list[tuple[str, str]]
) -> Iterator[Change]:
    """Yield what is to be done about one topic. At most one subscription is made."""
    place = f"topic {topic.rpartition(':')[2]!r}"
    ours = [arn for url, arn in subscriptions if same_place(url, target.url)]
    if any(arn.startswith("arn:") for arn in ours):
        yield Change(Action.UNCHANGED, place, target.url)
    elif ours:
        details = ("waits to be confirmed: asks once more",)
        yield Change(Action.UPDATE, place, target.url, details, subscribe(settings, target, topic))
    else:
        details = ("the app confirms it by itself",)
        yield Change(Action.CREATE, place, target.url, details, subscribe(settings, target, topic))
    for url, _ in subscriptions:
        if not same_place(url, target.url):
            yield Change(Action.FOREIGN, place, masked(url))


def subscribe(settings: Settings, target: HookTarget, topic: str) -> HttpRequest:
    """Return the call that makes a subscription, or has its token sent again."""
    secret = target.secret or next(iter(settings.get("WEBHOOK_SECRET") or ()), None)
    url = target.url if secret is None else with_credentials(target.url, secret)
    protocol = urlsplit(target.url).scheme
    return ask_sns(settings, topic, "Subscribe", Protocol=protocol, Endpoint=url)


TOPICS = "Amazon SNS > Topics > the topic"

console = Console(
    check,
    places={
        "tracking": f"{TOPICS} of the events > Create subscription, with HTTPS",
        "inbound": f"{TOPICS} of the receipt rule > Create subscription, with HTTPS",
    },
    plan=plan,
    problem=problem,
)
