"""Postal: one read-only call; everything else is set up in its web interface.

https://docs.postalserver.io/developer/api
"""

from __future__ import annotations

from ..console import Console, Finding, Talk, Verdict
from ..esp import HttpRequest, HttpResponse, Settings
from ..wire import as_object, text

NAME = "Postal"
WEBHOOKS = "Postal > your mail server > Webhooks > Add a webhook, for all events"
INBOUND = "Postal > your mail server > Routing > HTTP Endpoints, as JSON and raw message"

# What Postal answers to a key that it does not accept, and what to do.
REFUSALS: dict[str | None, str] = {
    "AccessDenied": "Postal misses the key: check MAILESP_POSTAL_API_KEY.",
    "InvalidServerAPIKey": (
        "Postal does not know this key: check MAILESP_POSTAL_API_KEY (your mail server > "
        "Credentials > type API)."
    ),
    "ServerSuspended": "The mail server is suspended: its operator can lift that.",
}
ELSEWHERE = "Check MAILESP_POSTAL_API_URL: it is the address of Postal's own web interface."


def check(settings: Settings) -> Talk[list[Finding]]:
    """Ask for a message that cannot exist: not finding it proves the URL and the key."""
    headers = {
        "X-Server-API-Key": settings["API_KEY"],
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    url = settings["API_URL"] + "/api/v1/messages/message"
    response = yield HttpRequest("POST", url, headers, b'{"id":0}')
    return [Finding("credentials", *credentials(response)), SENDER]


SENDER = Finding(
    "sender",
    Verdict.CANNOT_TELL,
    "Postal's API does not tell which sender domains are verified: look at your mail server > "
    "Domains.",
)


def credentials(response: HttpResponse) -> tuple[Verdict, str]:
    """Read the answer; Postal's errors come with HTTP 200."""
    if response.status >= 500:
        return Verdict.CANNOT_TELL, f"Postal answered HTTP {response.status}: try again later."
    if response.status == 403:
        return Verdict.FAILED, f"Postal refuses any host name but its own. {ELSEWHERE}"
    answer = as_object(response.json())
    code = text(as_object(answer.get("data")), "code")
    if response.status != 200 or text(answer, "status") is None:
        return Verdict.FAILED, f"What answered (HTTP {response.status}) is no Postal. {ELSEWHERE}"
    if code == "MessageNotFound" or text(answer, "status") == "success":
        return Verdict.OK, "Postal accepts the key."
    return Verdict.FAILED, REFUSALS.get(code, "Postal refuses the request for another reason.")


console = Console(
    check,
    places={"tracking": WEBHOOKS, "inbound": INBOUND},
    decodes_credentials=False,
)
