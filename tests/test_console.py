"""What the ESPs' management calls ask, and how their answers are read: no I/O here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_mailesp.config import Lookup, esp_settings
from flask_mailesp.console import (
    Action,
    Change,
    Finding,
    HookTarget,
    Talk,
    Verdict,
    console_of,
    converse,
    masked,
    same_path,
    same_place,
    userinfo,
    with_credentials,
)
from flask_mailesp.consoles import postal, postmark
from flask_mailesp.esp import HttpRequest, HttpResponse, SecretBytes, Settings
from flask_mailesp.exceptions import APIError, ConfigurationError, SendUncertainError
from flask_mailesp.registry import all_esps, require_esp

TOKEN = "canary-token-1"
URL = "https://app.example.com/mail-hooks/postmark/tracking/"
TARGET = HookTarget("tracking", URL, SecretBytes(b"user:long password"))
AUTH = {"Username": "user", "Password": "long password"}
ALL_ON: dict[str, Any] = {name: {"Enabled": True} for name in postmark.TRIGGERS}
OURS: dict[str, Any] = {"ID": 7, "Url": URL, "HttpAuth": AUTH, "Triggers": ALL_ON}


def settings_of(esp: str, **own: Any) -> Settings:
    """Return the settings of a working configuration."""
    config = {
        "MAILESP_POSTMARK_SERVER_TOKEN": TOKEN,
        "MAILESP_POSTAL_API_KEY": "canary-key-1",
        "MAILESP_POSTAL_API_URL": "https://postal.example.com",
        **own,
    }
    return esp_settings(Lookup(config), require_esp(esp, "here"), sending=True)


def json_answer(body: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(status, {}, json.dumps(body).encode())


class Answers:
    """A transport that has its answers ready."""

    def __init__(self, *answers: HttpResponse | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[HttpRequest] = []

    def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ask(talk: Talk[list[Finding]], *answers: HttpResponse) -> list[Finding]:
    return converse(Answers(*answers), talk)


# --- credentials -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (json_answer({"Name": "Shop", "DeliveryType": "Live"}), "ok", "'Shop'"),
        (json_answer({"DeliveryType": "Live"}), "ok", "without a name"),
        (json_answer({"Name": "Try", "DeliveryType": "Sandbox"}), "warning", "delivers nothing"),
        (json_answer({"ErrorCode": 10}, 401), "failed", "MAILESP_POSTMARK_SERVER_TOKEN"),
        (json_answer({"ErrorCode": 1480}, 422), "failed", "allow-list"),
        (HttpResponse(401, {}, b"no"), "failed", "HTTP 401"),
        (HttpResponse(503, {}, b"<h1>later</h1>"), "cannot tell", "HTTP 503"),
        (json_answer({"ErrorCode": 429}, 429), "cannot tell", "429"),
        (HttpResponse(200, {}, b"<h1>hello</h1>"), "cannot tell", "HTTP 200"),
        (HttpResponse(302, {}, b""), "cannot tell", "Redirects are never followed"),
    ],
)
def test_postmarks_answer_about_the_token(answer: HttpResponse, verdict: str, words: str) -> None:
    """Only what is said about the token itself is a failure of it."""
    finding, sender = ask(postmark.check(settings_of("postmark")), answer)

    assert (finding.check, finding.verdict) == ("credentials", verdict)
    assert words in finding.text
    assert TOKEN not in finding.text
    assert sender.verdict is Verdict.CANNOT_TELL


def test_postmarks_test_token_is_not_asked_about() -> None:
    """It belongs to no server; everything it accepts is thrown away."""
    settings = settings_of("postmark", MAILESP_POSTMARK_SERVER_TOKEN="postmark_api_test")

    finding, _ = ask(postmark.check(settings))

    assert finding.verdict is Verdict.WARNING
    assert "sends none" in finding.text


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (json_answer({"status": "error", "data": {"code": "MessageNotFound"}}), "ok", "accepts"),
        (json_answer({"status": "success", "data": {"id": 0}}), "ok", "accepts"),
        (
            json_answer({"status": "error", "data": {"code": "InvalidServerAPIKey"}}),
            "failed",
            "MAILESP_POSTAL_API_KEY",
        ),
        (
            json_answer({"status": "error", "data": {"code": "AccessDenied"}}),
            "failed",
            "MAILESP_POSTAL_API_KEY",
        ),
        (
            json_answer({"status": "error", "data": {"code": "ServerSuspended"}}),
            "failed",
            "suspended",
        ),
        (json_answer({"status": "error", "data": {"code": "New"}}), "failed", "another reason"),
        (HttpResponse(403, {}, b""), "failed", "host name"),
        (HttpResponse(404, {}, b"<h1>nginx</h1>"), "failed", "no Postal"),
        (HttpResponse(200, {}, b"<h1>nginx</h1>"), "failed", "no Postal"),
        (HttpResponse(502, {}, b""), "cannot tell", "HTTP 502"),
    ],
)
def test_postals_answer_about_the_key(answer: HttpResponse, verdict: str, words: str) -> None:
    """A message that cannot exist is not found only with the right URL and key."""
    transport = Answers(answer)

    finding, sender = converse(transport, postal.check(settings_of("postal")))

    assert (finding.check, finding.verdict) == ("credentials", verdict)
    assert words in finding.text
    assert sender.verdict is Verdict.CANNOT_TELL
    request = transport.requests[0]
    assert request.url == "https://postal.example.com/api/v1/messages/message"
    assert request.body == b'{"id":0}'
    assert request.headers["X-Server-API-Key"] == "canary-key-1"


def test_every_esp_has_a_console() -> None:
    """`flask mailesp doctor` has something to ask everywhere."""
    assert all(console_of(esp) is not None for esp in all_esps())


# --- the plan for one message stream ---------------------------------------------------


def changes(*hooks: dict[str, Any], target: HookTarget = TARGET) -> list[Change]:
    settings = settings_of("postmark")
    return list(postmark.stream_changes(settings, target, "outbound", list(hooks)))


def body_of(change: Change) -> Any:
    assert change.request is not None
    assert isinstance(change.request.body, bytes)
    return json.loads(change.request.body)


def test_a_stream_without_our_webhook_gets_one_for_all_events() -> None:
    """The credentials go where Postmark keeps them, not into the URL."""
    (change,) = changes()

    assert change.action is Action.CREATE
    assert change.request is not None
    assert (change.request.method, change.request.url) == (
        "POST",
        "https://api.postmarkapp.com/webhooks",
    )
    assert body_of(change) == {
        "Url": URL,
        "MessageStream": "outbound",
        "HttpAuth": AUTH,
        "Triggers": ALL_ON,
    }
    assert "long password" not in repr(change)


@pytest.mark.parametrize(
    "hook",
    [
        OURS,
        OURS | {"HttpAuth": {"Username": "user"}},  # the password may not be shown
        {**OURS, "HttpAuth": None, "Url": URL.replace("://", "://user:long%20password@")},
        OURS | {"Triggers": ALL_ON | {"Bounce": {"Enabled": True, "IncludeContent": True}}},
        OURS | {"HttpHeaders": [{"Name": "X-Own", "Value": "1"}]},
    ],
)
def test_what_works_is_left_as_it_is(hook: dict[str, Any]) -> None:
    """Also what somebody has set up by hand, as the documentation says."""
    (change,) = changes(hook)

    assert change.action is Action.UNCHANGED
    assert change.request is None


@pytest.mark.parametrize(
    ("hook", "sent", "details"),
    [
        (
            OURS | {"Triggers": ALL_ON | {"Open": {"Enabled": False}, "Click": {}}},
            {"Triggers": {"Open": {"Enabled": True}, "Click": {"Enabled": True}}},
            "turns on Open, Click",
        ),
        (
            {name: value for name, value in OURS.items() if name != "Triggers"},
            {"Triggers": ALL_ON},
            "turns on Open, Click, Delivery, Bounce, SpamComplaint, SubscriptionChange",
        ),
        (
            OURS | {"HttpAuth": {"Username": "user", "Password": "old"}},
            {"Url": URL, "HttpAuth": AUTH},
            "other credentials",
        ),
        (
            OURS | {"HttpAuth": None, "Url": URL.replace("://", "://user:old@")},
            {"Url": URL, "HttpAuth": AUTH},
            "other credentials",
        ),
        (
            OURS | {"Url": URL.replace("https", "http").rstrip("/")},
            {"Url": URL, "HttpAuth": AUTH},
            "was http://app.example.com/mail-hooks/postmark/tracking",
        ),
        (
            OURS | {"Url": URL + "?secret=1"},
            {"Url": URL, "HttpAuth": AUTH},
            f"was {URL}?***",
        ),
    ],
)
def test_only_what_is_wrong_is_corrected(
    hook: dict[str, Any], sent: dict[str, Any], details: str
) -> None:
    """A partial edit keeps what else was chosen in the console."""
    (change,) = changes(hook)

    assert change.action is Action.UPDATE
    assert change.details == (details,)
    assert change.request is not None
    assert (change.request.method, change.request.url[-11:]) == ("PUT", "/webhooks/7")
    assert body_of(change) == sent


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://crm.example.net/pm?key=s3cret", "https://crm.example.net/pm?***"),
        ("https://u:s3cret@app.example.com/other", "https://***@app.example.com/other"),
        ("https://staging.example.com/mail-hooks/postmark/tracking/", None),
        ("https://app.example.com:8443/mail-hooks/postmark/tracking/", None),
        ("https://app.example.com/mail-hooks/postmark/inbound/", None),
        ("https://[broken/x", "(not a URL)"),
        ("https://app.example.com:99999/mail-hooks/postmark/tracking/", None),
        ("", ""),
    ],
)
def test_other_webhooks_are_never_touched(url: str, shown: str | None) -> None:
    """They are listed, without what may be a credential, and ours is made beside them."""
    ours, other = changes({"ID": 1, "Url": url, "Triggers": {}})

    assert ours.action is Action.CREATE
    assert (other.action, other.request) == (Action.FOREIGN, None)
    assert other.url == (url if shown is None else shown)
    assert "s3cret" not in repr(other)


def test_our_path_on_another_host_is_pointed_out() -> None:
    """It may be the address the app had before, or another installation: a person decides."""
    _, other = changes({"ID": 1, "Url": "https://old.example.com/mail-hooks/postmark/tracking"})

    assert other.details == ("the same path on another host",)


def test_a_second_webhook_to_the_same_place_is_pointed_out() -> None:
    """It makes every event come twice; deleting is left to a person."""
    first, second = changes(OURS, OURS | {"ID": 8})

    assert first.action is Action.UNCHANGED
    assert (second.action, second.request) == (Action.FOREIGN, None)
    assert "a second time" in second.details[0]


def test_an_unverified_webhook_is_pointed_out() -> None:
    """Postmark posts nothing to it until somebody presses Verify."""
    (change,) = changes(OURS | {"Status": "unverified"})

    assert change.action is Action.UNCHANGED
    assert "Verify" in change.details[0]


def test_without_credentials_there_is_no_plan() -> None:
    """A webhook nobody can authenticate would be answered with 401 for ever."""
    with pytest.raises(ConfigurationError, match="MAILESP_WEBHOOK_SECRET is not set"):
        changes(target=HookTarget("tracking", URL))


def test_the_mailers_own_secret_serves_where_the_target_has_none() -> None:
    """The first of several secrets is the new one."""
    settings = settings_of("postmark", MAILESP_WEBHOOK_SECRET=["new:password-1", "old:password-2"])

    (change,) = postmark.stream_changes(settings, HookTarget("tracking", URL), "outbound", [])

    assert body_of(change)["HttpAuth"] == {"Username": "new", "Password": "password-1"}


# --- the inbound hook ------------------------------------------------------------------

INBOUND = HookTarget(
    "inbound", "https://app.example.com/mail-hooks/postmark/inbound/", SecretBytes(b"u:p/w")
)
WHOLE = "https://u:p%2Fw@app.example.com/mail-hooks/postmark/inbound/"


@pytest.mark.parametrize(
    ("url", "action", "details"),
    [
        ("", Action.CREATE, ()),
        (WHOLE, Action.UNCHANGED, ()),
        (INBOUND.url, Action.UPDATE, (f"was {INBOUND.url}",)),
        (WHOLE.replace("u:", "v:"), Action.UPDATE, (f"was {masked(WHOLE)}",)),
        (WHOLE.rstrip("/"), Action.UPDATE, (f"was {masked(WHOLE.rstrip('/'))}",)),
        ("https://crm.example.net/in", Action.FOREIGN, ()),
    ],
)
def test_the_servers_one_inbound_hook(url: str, action: Action, details: tuple[str, ...]) -> None:
    """It has no HttpAuth: the credentials are in the URL. Somebody else's stays."""
    change = postmark.inbound_change(settings_of("postmark"), INBOUND, url)

    assert (change.action, change.details) == (action, details)
    if change.request is not None:
        assert body_of(change) == {"InboundHookUrl": WHOLE}
    assert "p%2Fw" not in repr(change)


# --- conversations ---------------------------------------------------------------------


def test_an_interrupted_conversation_is_no_uncertain_send() -> None:
    """Nothing was being sent; the host is named, the request is not."""
    broken = Answers(SendUncertainError("a.example broke off. The message may have been sent."))

    with pytest.raises(APIError, match=r"api\.postmarkapp\.com was reached but") as info:
        converse(broken, postmark.check(settings_of("postmark")))

    assert "message" not in str(info.value)


@pytest.mark.parametrize("damaged", [[], {}, {"MessageStreams": 5}, {"MessageStreams": [1, {}]}])
def test_damaged_lists_are_empty(damaged: Any) -> None:
    """What Postmark should not answer makes no plan, or an error; never a traceback."""
    settings, transport = settings_of("postmark"), Answers(json_answer(damaged))

    if damaged == []:
        with pytest.raises(APIError):
            converse(transport, postmark.plan(settings, (TARGET,)))
    else:
        assert converse(transport, postmark.plan(settings, (TARGET,))) == []


def test_a_stream_id_is_quoted() -> None:
    """An id from the API never changes which call is made."""
    streams = {"MessageStreams": [{"ID": "a&b/../c", "MessageStreamType": "Broadcasts"}]}
    transport = Answers(json_answer(streams), json_answer({"Webhooks": [3, None]}))

    converse(transport, postmark.plan(settings_of("postmark"), (TARGET,)))

    assert transport.requests[1].url.endswith("/webhooks?MessageStream=a%26b%2F..%2Fc")


def test_a_password_goes_into_a_url_percent_encoded() -> None:
    """RFC 3986 section 3.2.1; some ESPs send what stands there as it is."""
    secret = b"us er:p@ss/w:rd"

    encoded = with_credentials("https://a.example/x/", secret)
    plain = with_credentials("https://a.example/x/", b"***:***", encode=False)

    assert encoded == "https://us%20er:p%40ss%2Fw%3Ard@a.example/x/"
    assert plain == "https://***:***@a.example/x/"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("https://app.example/hooks/", True),
        ("http://APP.example/hooks", True),
        ("https://user:password@app.example:443/hooks/?a=1#b", True),
        ("http://app.example:80/hooks/", True),
        ("https://app.example:8443/hooks/", False),
        ("https://app.example/hooks/more/", False),
        ("https://app.example/Hooks/", False),
        ("https://other.example/hooks/", False),
        ("https://app.example.evil.example/hooks/", False),
        ("https://app.example@other.example/hooks/", False),
        ("https://app.example:port/hooks/", False),
        ("https://[app.example/hooks/", False),
        ("/hooks/", False),
        ("", False),
    ],
)
def test_two_urls_lead_to_the_same_place(other: str, same: bool) -> None:
    """One route of one host, whatever scheme, credentials, query or last slash it is given."""
    assert same_place("https://app.example/hooks/", other) is same
    assert same_place(other, "https://app.example/hooks/") is same


@pytest.mark.parametrize("url", ["", "/", "https://", "https://[a/", "https://a.example:x/"])
def test_what_is_no_url_leads_nowhere(url: str) -> None:
    """Not even to the same place as itself."""
    assert not same_place(url, url)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example/x/", "https://b.example/x", True),
        ("https://a.example/x", "https://a.example/y", False),
        ("https://a.example/", "https://b.example", False),
        ("https://[a/x", "https://[a/x", False),
    ],
)
def test_the_same_path_on_maybe_another_host(one: str, other: str, same: bool) -> None:
    """It hints at a webhook of a former address; no path at all is no hint."""
    assert same_path(one, other) is same


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("https://a:p%40ss:w@a.example/", "a", "p@ss:w"),
        ("https://a@a.example/", "a", ""),
        ("https://a.example/", "", ""),
        ("https://[a", "", ""),
    ],
)
def test_the_credentials_in_a_url(url: str, user: str, password: str) -> None:
    assert userinfo(url) == (user, password)
