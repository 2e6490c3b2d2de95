"""From app.config to checked settings."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import re
import traceback
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import CREDENTIALS, MakeApp
from flask import Flask

from flask_mailesp import MailESP, config
from flask_mailesp.config import Lookup
from flask_mailesp.delivery import Mailer
from flask_mailesp.esp import Secret, SecretBytes, Setting, Settings, Veiled, veiled
from flask_mailesp.esps import postmark
from flask_mailesp.exceptions import ConfigurationError
from flask_mailesp.extension import State

CANARY = "canary-5f2c"
POSTMARK = {"MAILESP_ESP": "postmark"}
WORKING = CREDENTIALS["postmark"]


def state_of(app: Flask) -> State:
    """Return what the extension keeps for an app."""
    state: State = app.extensions["mailesp"]
    return state


def mailer_of(make_app: MakeApp, name: str = "default", /, **config: Any) -> Mailer:
    """Return a mailer made from configuration keys."""
    return state_of(make_app(**config)).mailer(name)


def configured(**config: Any) -> ConfigurationError:
    """Return the error that configuration keys end in."""
    app = Flask("tests", root_path=".")
    app.config.update(config)
    with pytest.raises(ConfigurationError) as caught:
        MailESP(app)
    assert "mailesp" not in app.extensions
    return caught.value


# --- where a setting is found ----------------------------------------------------------


def test_a_setting_is_looked_up_from_the_most_specific_place(make_app: MakeApp) -> None:
    """The mailer's own, the MAILESP dict, the prefixed key, the bare key."""
    places: dict[str, Any] = {
        "POSTMARK_SERVER_TOKEN": "bare",
        "MAILESP_POSTMARK_SERVER_TOKEN": "prefixed",
        "MAILESP": {"POSTMARK_SERVER_TOKEN": "nested"},
        "MAILESP_MAILERS": {"default": {"esp": "postmark", "server_token": "own"}},
    }
    found = []
    while places:
        found.append(mailer_of(make_app, **POSTMARK, **places).settings["SERVER_TOKEN"])
        places.popitem()

    assert found == ["own", "nested", "prefixed", "bare"]


def test_only_credentials_and_urls_are_found_without_the_prefix() -> None:
    """A key as general as POSTMARK_SEND_DEFAULTS may be someone else's."""
    lookup = Lookup({"WEBHOOK_SECRET": "a:b", "POSTMARK_SEND_DEFAULTS": {}})

    assert lookup.find("WEBHOOK_SECRET")[1] is config._MISSING
    assert lookup.get("POSTMARK_SEND_DEFAULTS", "default")[1] == "default"


@pytest.mark.parametrize(
    "own",
    [
        {"server_token": "own"},
        {"SERVER_TOKEN": "own"},
        {"postmark_server_token": "own"},
        {"MAILESP_POSTMARK_SERVER_TOKEN": "own"},
    ],
)
def test_a_mailers_setting_may_be_written_short_or_in_full(
    own: dict[str, str], make_app: MakeApp
) -> None:
    """In either case."""
    mailers = {"bulk": {"esp": "postmark", **own}}
    mailer = mailer_of(make_app, "bulk", **WORKING, MAILESP_MAILERS=mailers)

    assert mailer.settings["SERVER_TOKEN"] == "own"


def test_the_nested_dict_may_be_in_lower_case(make_app: MakeApp) -> None:
    """As in TOML and YAML files."""
    nested = {"esp": "postmark", "postmark_server_token": "t", "ignore_recipient_status": True}
    mailer = mailer_of(make_app, MAILESP=nested)

    assert mailer.settings["SERVER_TOKEN"] == "t"
    assert mailer.ignore_recipient_status


@pytest.mark.parametrize("name", ["postmark", "Postmark", " POSTMARK "])
def test_the_esp_is_named_in_any_case(name: str, make_app: MakeApp) -> None:
    """Its own spelling included."""
    assert mailer_of(make_app, **{**WORKING, "MAILESP_ESP": name}).esp.name == "Postmark"


def test_environment_variables_are_understood(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """from_prefixed_env() decodes JSON where it can, and leaves text where it cannot."""
    variables = {
        "FLASK_MAILESP_ESP": "postmark",
        "FLASK_MAILESP__POSTMARK_SERVER_TOKEN": "12345678",
        "FLASK_MAILESP_REQUESTS_TIMEOUT": "[5, 20]",
        "FLASK_MAILESP_WEBHOOK_MAX_BYTES": "1000",
        "FLASK_MAILESP_DEBUG_API_REQUESTS": "true",
        "FLASK_MAILESP_IGNORE_UNSUPPORTED_FEATURES": "yes",
        "FLASK_MAILESP_WEBHOOK_SECRET": '["a:b", "c:d"]',
        "FLASK_MAILESP_SEND_DEFAULTS": '{"tags": ["news"]}',
        "FLASK_MAILESP_MAILERS__bulk__server_token": "bulk",
    }
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    flask = Flask("tests", root_path=".")
    flask.config.from_prefixed_env()
    state = state_of(make_app(**flask.config))

    assert (state.general.connect_timeout, state.general.total_timeout) == (5.0, 20.0)
    assert state.general.webhook_max_bytes == 1000
    assert state.general.debug_api_requests
    assert state.mailer(None).ignore_unsupported
    assert state.mailer(None).settings["SERVER_TOKEN"] == "12345678"
    assert state.mailer(None).settings["WEBHOOK_SECRET"] == (b"a:b", b"c:d")
    assert state.mailer(None).defaults == {"tags": ["news"]}
    assert state.mailer("bulk").settings["SERVER_TOKEN"] == "bulk"


# --- errors that say what to do --------------------------------------------------------


def test_a_missing_key_is_named_with_where_its_value_is_found() -> None:
    """The whole text: it is the first thing most users see."""
    error = configured(**POSTMARK)

    assert str(error).startswith(
        "MAILESP_POSTMARK_SERVER_TOKEN is not set. Add it to app.config before calling "
        "init_app(). You will find the value in Postmark > Servers > "
    )


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({}, "MAILESP_ESP is not set. Set it to the ESP to send through"),
    ({"MAILESP_ESP": None}, "MAILESP_ESP is not set"),
    ({"MAILESP_ESP": "postmrk"}, "MAILESP_ESP names no known ESP: 'postmrk'. Did you mean"),
    ({"MAILESP_ESP": "x"}, "Known: amazon_ses, mailgun, postal, postmark, resend, sendgrid"),
    ({"MAILESP_ESP": 5}, "MAILESP_ESP names no known ESP: '5'"),
    ({"MAILESP_ESP": "../postmark"}, "MAILESP_ESP names no known ESP"),
    ({**WORKING, "MAILESP": "postmark"}, r'app.config\["MAILESP"\] must be a dict'),
    ({"MAILESP": ["postmark"]}, r'app.config\["MAILESP"\] must be a dict'),
    # unknown keys, with or without everything else in place
    (
        {**WORKING, "MAILESP_WEBHOOK_SECRT": "a:b"},
        "MAILESP_WEBHOOK_SECRT is not a setting of Flask-MailESP. "
        "Did you mean MAILESP_WEBHOOK_SECRET?",
    ),
    (
        {**POSTMARK, "MAILESP_POSTMARK_SERVER_TOKN": CANARY},
        "MAILESP_POSTMARK_SERVER_TOKN .* Did you mean MAILESP_POSTMARK_SERVER_TOKEN?",
    ),
    ({"MAILESP_EPS": "postmark"}, "MAILESP_EPS .* Did you mean MAILESP_ESP?"),
    ({**WORKING, "MAILESP_POSTAL_API_KEI": "x"}, "Did you mean MAILESP_POSTAL_API_KEY?"),
    ({**WORKING, "MAILESP": {"postmark_server_tokn": "x"}}, r'^MAILESP\["POSTMARK_SERVER_TOKN"\]'),
    ({**WORKING, "MAILESP_QQQQQ": 1}, "^MAILESP_QQQQQ is not a setting of Flask-MailESP.$"),
    # mailers
    ({**WORKING, "MAILESP_MAILERS": ["bulk"]}, "MAILESP_MAILERS must be a dict"),
    ({**WORKING, "MAILESP_MAILERS": {"bulk": "postmark"}}, r"MAILERS\['bulk'\] must be a dict"),
    (
        {**WORKING, "MAILESP_MAILERS": {"a": {"server_token": CANARY}, "bulk": 5}},
        r"MAILERS\['bulk'\] must be a dict",
    ),
    ({"MAILESP_MAILERS": {"bulk": {}}}, r"MAILESP_MAILERS\['bulk'\] must be a dict such as"),
    (
        {"MAILESP_MAILERS": {"bulk": {"esp": "postmark", "server_token": "x"}}},
        r"MAILESP_ESP is not set.* \(or add a mailer named default\)",
    ),
    (
        {**WORKING, "MAILESP_MAILERS": {"bulk": {"esp": "postmrk"}}},
        r"MAILESP_MAILERS\['bulk'\]\['esp'\] names no known ESP",
    ),
    (
        {**WORKING, "MAILESP_MAILERS": {"bulk": {"server_tokn": CANARY}}},
        r"MAILESP_MAILERS\['bulk'\] has no setting 'SERVER_TOKN'. Did you mean SERVER_TOKEN\?",
    ),
    (
        {**WORKING, "MAILESP_MAILERS": {"bulk": {"timezone": "UTC"}}},
        r"MAILESP_MAILERS\['bulk'\] has no setting 'TIMEZONE'",
    ),
    # values
    ({**WORKING, "MAILESP_POSTMARK_SERVER_TOKEN": f"{CANARY} x"}, "SERVER_TOKEN is empty or"),
    ({**WORKING, "MAILESP_POSTMARK_SERVER_TOKEN": f"{CANARY}\n{CANARY}"}, "is empty or holds"),
    ({**WORKING, "MAILESP_POSTMARK_SERVER_TOKEN": f"{CANARY}\u00e9"}, "is empty or holds"),
    ({**WORKING, "MAILESP_POSTMARK_SERVER_TOKEN": True}, "SERVER_TOKEN must be text"),
    ({**WORKING, "MAILESP_POSTMARK_SERVER_TOKEN": 1e5}, "SERVER_TOKEN must be text"),
    ({**WORKING, "MAILESP_POSTMARK_SERVER_TOKEN": [CANARY]}, "SERVER_TOKEN must be text"),
    ({**WORKING, "MAILESP_POSTMARK_SERVER_TOKEN": {"x": CANARY}}, "SERVER_TOKEN must be text"),
    ({**WORKING, "MAILESP_POSTMARK_API_URL": f"https://u:{CANARY}@x.example"}, "user name or"),
    ({**WORKING, "MAILESP_WEBHOOK_SECRET": CANARY}, 'MAILESP_WEBHOOK_SECRET must be "user:pass'),
    ({**WORKING, "MAILESP_POSTMARK_WEBHOOK_SECRET": [f"u:{CANARY}", 5]}, "must be"),
    (
        {**WORKING, "MAILESP_SEND_DEFAULTS": "me@example.com"},
        "MAILESP_SEND_DEFAULTS must be a dict",
    ),
    (
        {**WORKING, "MAILESP_SEND_DEFAULTS": {"from": "me@example.com"}},
        "MAILESP_SEND_DEFAULTS has no meaning for 'from'",
    ),
    (
        {**WORKING, "MAILESP_POSTMARK_SEND_DEFAULTS": {"tag": "x"}},
        "MAILESP_POSTMARK_SEND_DEFAULTS has no meaning for 'tag'. Did you mean tags?",
    ),
    (
        {**WORKING, "MAILESP_SEND_DEFAULTS": {"cc": ("a@example.com", "b@example.com")}},
        "In SEND_DEFAULTS, cc is a pair",
    ),
    ({**WORKING, "MAILESP_IGNORE_RECIPIENT_STATUS": "maybe"}, "must be True or False"),
    ({**WORKING, "MAILESP_DEBUG_API_REQUESTS": 2}, "MAILESP_DEBUG_API_REQUESTS must be True"),
    ({**WORKING, "MAILESP_IDNA_ENCODER": "x"}, "MAILESP_IDNA_ENCODER must be one of"),
    *(
        ({**WORKING, "MAILESP_REQUESTS_TIMEOUT": value}, "MAILESP_REQUESTS_TIMEOUT must be a")
        for value in (
            0,
            -1,
            True,
            "soon",
            (1,),
            (1, 2, 3),
            (None, 5),
            float("nan"),
            {"a": 1},
            10**400,
        )
    ),
    *(
        ({**WORKING, "MAILESP_WEBHOOK_MAX_BYTES": value}, "MAILESP_WEBHOOK_MAX_BYTES must be a")
        for value in (0, -1, True, "40 MB", 1.5)
    ),
    *(
        ({**WORKING, "MAILESP_URL_PREFIX": value}, "MAILESP_URL_PREFIX must be a path")
        for value in ("", "/", "//", "hooks", 5, "/a b", "/<tenant>/hooks", "/a//b", "/a?b")
    ),
    *(
        ({**WORKING, "MAILESP_TIMEZONE": value}, "MAILESP_TIMEZONE must be a time zone such as")
        for value in ("Prague", "../../etc/passwd", "", 5, "a\0b", "\ud800")
    ),
    ({**WORKING, "MAILESP_TLS_VERIFY": False}, "MAILESP_TLS_VERIFY = False is allowed in debug"),
    ({**WORKING, "MAILESP_TLS_VERIFY": "off"}, "MAILESP_TLS_VERIFY = False is allowed in debug"),
    ({**WORKING, "MAILESP_TLS_VERIFY": "/no/such/ca.pem"}, "MAILESP_TLS_VERIFY is the path of"),
    ({**WORKING, "MAILESP_TLS_VERIFY": 5}, "MAILESP_TLS_VERIFY must be True or False"),
]


@pytest.mark.parametrize(("keys", "text"), ERRORS)
def test_what_is_wrong_fails_in_init_app_with_the_full_key(keys: dict[str, Any], text: str) -> None:
    """And with the nearest known key; a secret value is in no text and no frame of ours."""
    error = configured(**keys)

    assert re.search(text, str(error))
    assert CANARY not in f"{error} {error!r}"
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in frames.stack if "flask_mailesp" in frame.filename]
    assert ours
    assert all(CANARY not in str(frame.locals) for frame in ours)


# --- URLs ------------------------------------------------------------------------------

GOOD_URLS = [
    ("https://api.example.com", "https://api.example.com"),
    (" https://api.example.com/ ", "https://api.example.com"),
    ("https://api.example.com/base/", "https://api.example.com/base"),
    ("https://api.example.com:8443", "https://api.example.com:8443"),
    ("HTTPS://API.example.com", "HTTPS://API.example.com"),
    ("https://my_host", "https://my_host"),
    ("https://192.0.2.1", "https://192.0.2.1"),
    ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ("http://localhost:5000", "http://localhost:5000"),
    ("http://LOCALHOST", "http://LOCALHOST"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ("http://127.8.9.10", "http://127.8.9.10"),
    ("http://[::1]:5000", "http://[::1]:5000"),
]
BAD_URLS = [
    *["", " ", "/", "api.example.com", "//api.example.com", "https:", "https://", "https:///x"],
    *["https:api.example.com", "ftp://x.example", "file:///etc/passwd", "javascript:alert(1)"],
    *["gopher://x.example", "https://user@x.example", "https://user:pw@x.example"],
    *["https://x.example@evil.example", "https://x.example\\@evil.example", "https://@x.example"],
    *[
        "https://evil.example\\.x.example",
        "https://x.example/a\\b",
        "https://x.example?q=1",
        "https://x.example/#f",
    ],
    *["https://x.example/?", "https://x.example#@evil.example", "https://x.example:99999"],
    *["https://x.example:0", "https://x.example:port", "https://x .example", "https://x.ex\tample"],
    *["https://x.example/\r\nHost: evil", "https://x.exam\nple", "https://x.example\0"],
    *[
        "https://b\u00fccher.example",
        "https://x.example\uff0fevil.example",
        "https://x\u2028.example",
    ],
    *[
        "https://[::1",
        "https://::1]",
        "https://[x]",
        "https://[fe80::1%25eth0]",
        "https://x%2e.com",
    ],
    *["https://-x.example", "https://x.example-", "https://x,y", "https://*.example.com"],
    *["https://${HOST}", "https://x.example;y", None, 5, b"https://x.example", ["https://x"]],
]
NOT_THIS_MACHINE = [
    *["http://api.example.com", "http://192.0.2.1", "http://10.0.0.1", "http://169.254.169.254"],
    *["http://0.0.0.0", "http://[::]", "http://localhost.example.com", "http://2130706433"],
    *["http://127.1", "http://0x7f000001", "http://127.0.0.1.example.com", "http://[fe80::1]"],
]


@pytest.mark.parametrize(("url", "found"), GOOD_URLS)
def test_a_base_url_is_https_or_to_this_machine(url: str, found: str, make_app: MakeApp) -> None:
    """It is used without its last slash."""
    mailer = mailer_of(make_app, **WORKING, MAILESP_POSTMARK_API_URL=url)

    assert mailer.settings["API_URL"] == found
    assert type(mailer.settings["API_URL"]) is str


@pytest.mark.parametrize("url", BAD_URLS, ids=ascii)
def test_a_url_that_may_lead_elsewhere_is_refused(url: Any) -> None:
    """Whatever two readers of URLs could disagree about; the value is not quoted."""
    with pytest.raises(ConfigurationError, match=r"^KEY (must|is not)") as caught:
        config.as_url("KEY", url, allow_http=True)

    assert "evil" not in str(caught.value)


@pytest.mark.parametrize("url", NOT_THIS_MACHINE)
def test_plain_http_to_another_machine_must_be_allowed(url: str) -> None:
    """The credential would cross the network in the clear."""
    error = configured(**WORKING, MAILESP_POSTMARK_API_URL=url)

    assert "MAILESP_POSTMARK_API_URL must begin with https://" in str(error)
    assert config.as_url("KEY", url, allow_http=True) == url


def test_http_is_allowed_by_a_switch(make_app: MakeApp) -> None:
    """On a network that one trusts."""
    keys = {"MAILESP_POSTMARK_API_URL": "http://postmark.internal", "MAILESP_ALLOW_HTTP": True}

    mailer = mailer_of(make_app, **WORKING, **keys)
    assert mailer.settings["API_URL"] == "http://postmark.internal"


# --- webhook secrets -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "accepted"),
    [
        ({}, None),
        ({"MAILESP_WEBHOOK_SECRET": "user:pass:word"}, (b"user:pass:word",)),
        ({"MAILESP_WEBHOOK_SECRET": ["a:b", "c:d"]}, (b"a:b", b"c:d")),
        ({"MAILESP_WEBHOOK_SECRET": ("a:b",)}, (b"a:b",)),
        ({"MAILESP_WEBHOOK_SECRET": "a:p\u00e4ss"}, ("a:p\u00e4ss".encode(),)),
        ({"MAILESP_WEBHOOK_SECRET": "a:b", "MAILESP_POSTMARK_WEBHOOK_SECRET": "c:d"}, (b"c:d",)),
        ({"MAILESP_WEBHOOK_SECRET": "a:b", "MAILESP_POSTMARK_WEBHOOK_SECRET": None}, None),
        ({"MAILESP_WEBHOOK_SECRET": "a:b", "MAILESP_POSTAL_WEBHOOK_SECRET": None}, (b"a:b",)),
        ({"MAILESP": {"POSTMARK_WEBHOOK_SECRET": None, "WEBHOOK_SECRET": "a:b"}}, None),
    ],
)
def test_webhook_credentials_are_one_or_several(
    keys: dict[str, Any], accepted: Any, make_app: MakeApp
) -> None:
    """The ESP's own setting overrides the general one, even with None."""
    assert mailer_of(make_app, **WORKING, **keys).settings["WEBHOOK_SECRET"] == accepted


@pytest.mark.parametrize(
    "value",
    [
        *["", ":", "user:", ":password", "password", "a:b\r\nX: y", "a:\ud800", "a\0:b"],
        *[[], ["a:b", ""], ["a:b", None], 5, True, {"a": "b"}, b"a:b"],
    ],
    ids=ascii,
)
def test_incomplete_webhook_credentials_are_refused(value: Any) -> None:
    """An empty password would let everyone in who knows that."""
    error = configured(**WORKING, MAILESP_WEBHOOK_SECRET=value)

    assert str(error) == 'MAILESP_WEBHOOK_SECRET must be "user:password" or a list of such texts.'


# --- general settings ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "connect", "total"),
    [
        (None, 10.0, 30.0),
        (5, 5.0, 5.0),
        (60, 10.0, 60.0),
        ("60", 60.0, 60.0),
        ((3, 20.5), 3.0, 20.5),
        ([40, 20], 20.0, 20.0),
    ],
)
def test_a_timeout_is_a_total_or_a_pair(
    value: Any, connect: float, total: float, make_app: MakeApp
) -> None:
    """In seconds; connecting never gets more than the whole."""
    general = state_of(make_app(**WORKING, MAILESP_REQUESTS_TIMEOUT=value)).general

    assert (general.connect_timeout, general.total_timeout) == (connect, total)


@pytest.mark.parametrize("value", [False, "false", 0, "off"])
def test_tls_may_go_unverified_in_testing_only(value: Any, make_app: MakeApp) -> None:
    """Elsewhere a private CA's certificate is the way."""
    assert state_of(make_app(**WORKING, MAILESP_TLS_VERIFY=value)).general.tls_verify is False


def test_a_private_ca_may_be_given_as_a_path(make_app: MakeApp, tmp_path: Path) -> None:
    """To a file or a directory."""
    for value in (tmp_path, str(tmp_path)):
        general = state_of(make_app(**WORKING, MAILESP_TLS_VERIFY=value)).general
        assert general.tls_verify == str(tmp_path)
    assert state_of(make_app(**WORKING)).general.tls_verify is True


def test_zones_are_names_or_objects(make_app: MakeApp) -> None:
    """Naive send_at times are in UTC unless told otherwise."""
    fixed = timezone(timedelta(hours=3))
    for value, name in ((None, "UTC"), ("Europe/Prague", "Europe/Prague"), (fixed, "UTC+03:00")):
        options = mailer_of(make_app, **WORKING, MAILESP_TIMEZONE=value).options
        assert str(options.timezone) == name


def test_the_prefix_of_the_routes_is_a_setting(make_app: MakeApp) -> None:
    """With or without a last slash."""
    for value, rule in (
        (None, "/mail-hooks/<esp>/tracking/"),
        ("/hooks/mail/", "/hooks/mail/<esp>/tracking/"),
    ):
        app = make_app(**WORKING, MAILESP_URL_PREFIX=value)
        assert rule in {item.rule for item in app.url_map.iter_rules()}


def test_insecure_webhooks_need_debug_or_testing(make_app: MakeApp) -> None:
    """A setting left over from development opens nothing in production."""
    lookup = Lookup({"MAILESP_WEBHOOK_ALLOW_INSECURE": True})

    assert config.general(lookup, debug_or_testing=True).allow_insecure_webhooks
    assert not config.general(lookup, debug_or_testing=False).allow_insecure_webhooks


# --- defaults for messages -------------------------------------------------------------


def test_the_more_specific_defaults_win_key_by_key(make_app: MakeApp) -> None:
    """The mailer's over the ESP's over the app's; other ESPs' have no say."""
    mailer = mailer_of(
        make_app,
        "bulk",
        **WORKING,
        MAILESP_SEND_DEFAULTS={"sender": "app@example.com", "tags": "app", "subject": "app"},
        MAILESP_POSTMARK_SEND_DEFAULTS={"tags": ["esp"], "body": "esp", "track_opens": True},
        MAILESP_POSTAL_SEND_DEFAULTS={"sender": "postal@example.com"},
        MAILESP_MAILERS={"bulk": {"esp": "postmark", "send_defaults": {"track_opens": None}}},
    )

    assert mailer.defaults == {
        "sender": "app@example.com",
        "tags": ["esp"],
        "subject": "app",
        "body": "esp",
        "track_opens": None,
    }


# --- secrets ---------------------------------------------------------------------------


def secretive(make_app: MakeApp) -> Flask:
    """Return an app with a canary in every place for a secret."""
    return make_app(
        MAILESP_ESP="postmark",
        MAILESP={"postmark_server_token": f"{CANARY}-1", "webhook_secret": f"u:{CANARY}-2"},
        POSTAL_API_KEY=f"{CANARY}-3",
        MAILESP_MAILERS={
            "bulk": {"server_token": f"{CANARY}-4", "webhook_secret": [f"u:{CANARY}-2"]},
            "own": {"esp": "postal", "api_url": "https://x.example"},
        },
    )


def test_no_repr_shows_a_secret(make_app: MakeApp) -> None:
    """Whatever of ours a debugger, a log line or an error page prints."""
    app = secretive(make_app)
    state = state_of(app)
    shown: list[Any] = [state, state.general, state.lookup, state.transport, app.extensions]
    for mailer in state.mailers.values():
        shown += [mailer, mailer.settings, dict(mailer.settings), mailer.esp]
        shown += [list(mailer.settings.values()), vars(type(mailer))]
    shown += [vars(state.lookup)["nested"], vars(state.lookup)["own"], state.hooks]

    assert CANARY not in repr(shown)
    assert CANARY not in str(shown)


def test_what_holds_secrets_cannot_be_pickled(make_app: MakeApp) -> None:
    """A pickle would carry them into queues and caches."""
    state = state_of(secretive(make_app))
    mailer = state.mailer("bulk")

    for value in (state, mailer, mailer.settings, state.lookup, state.lookup.nested):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(value)
    for secret in (Secret(CANARY), SecretBytes(CANARY.encode())):
        with pytest.raises(TypeError, match="credential"):
            pickle.dumps(secret)
        with pytest.raises(TypeError, match="credential"):
            copy.deepcopy(secret)


def test_a_secret_is_text_wherever_it_is_used() -> None:
    """Only its repr differs."""
    secret = Secret("token")

    assert (f"{secret}", secret + "", json.dumps(secret)) == ("token", "token", '"token"')
    assert repr([secret, SecretBytes(b"x")]) == "['***', b'***']"
    assert repr(veiled({"a": "b"})) == "{***}" == repr(Veiled(a="b"))
    assert repr(veiled(("a", ["b", 5]))) == "['***', ['***', 5]]"
    assert veiled(5) == 5


def test_settings_tell_their_secrets_to_those_who_blot_them_out() -> None:
    """Nested lists and empty values included."""
    settings = Settings(
        {"A": Secret("a"), "B": ["b", ("c",)], "C": "", "D": None, "E": "shown", "F": 5},
        secret="ABCDF",
        missing={"D": "D is not set: see the console."},
    )

    assert sorted(settings.secrets()) == ["a", "b", "c"]
    assert repr(settings) == "<Settings: A, B, C, D, E, F>"
    assert (len(settings), settings.require("E"), dict(settings)["E"]) == (6, "shown", "shown")
    with pytest.raises(ConfigurationError, match="D is not set: see the console"):
        settings.require("D")
    with pytest.raises(ConfigurationError, match="G is not set"):
        settings.require("G")


# --- an ESP's own settings -------------------------------------------------------------


def test_a_setting_is_converted_by_what_it_is() -> None:
    """Switches, URLs and credentials have their checks; the rest is the ESP's affair."""
    settings = (
        Setting("SWITCH", default=False),
        Setting("PLAIN"),
        Setting("NUMBER", default=5),
        Setting("LEFT_OUT", default="default"),
        Setting("NAMED", convert=lambda key, value: f"{key}={value}"),
        Setting("BASE_URL", convert=lambda key, value: value.upper()),
        Setting("KEY", required=True, secret=True, where="the console"),
    )
    esp = replace(postmark.esp, name="Some ESP", settings=settings)
    values = {"SWITCH": "yes", "PLAIN": "text", "NUMBER": 7, "NAMED": "x", "KEY": "k"}
    values |= {"BASE_URL": "https://x.example/"}
    found = config.esp_settings(
        Lookup({f"MAILESP_SOME_ESP_{name}": value for name, value in values.items()}),
        esp,
        sending=True,
    )

    assert dict(found) == {
        "SWITCH": True,
        "PLAIN": "text",
        "NUMBER": 7,
        "LEFT_OUT": "default",
        "NAMED": "MAILESP_SOME_ESP_NAMED=x",
        "BASE_URL": "HTTPS://X.EXAMPLE",
        "KEY": "k",
        "WEBHOOK_SECRET": None,
    }
    assert type(found["PLAIN"]) is str


def test_webhooks_need_no_setting_that_only_sending_needs() -> None:
    """An app may receive from an ESP that it does not send through."""
    found = config.esp_settings(Lookup({}), postmark.esp, sending=False)

    assert found["SERVER_TOKEN"] is None
    with pytest.raises(ConfigurationError, match="MAILESP_POSTMARK_SERVER_TOKEN is not set"):
        found.require("SERVER_TOKEN")
    with pytest.raises(ConfigurationError, match="MAILESP_WEBHOOK_SECRET is not set"):
        found.require("WEBHOOK_SECRET")


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_credential_is_a_missing_one(make_app: MakeApp, empty: str | None) -> None:
    """An environment variable that is set to nothing deserves the same help."""
    with pytest.raises(ConfigurationError, match="MAILESP_POSTMARK_SERVER_TOKEN is not set"):
        make_app(MAILESP_ESP="postmark", MAILESP_POSTMARK_SERVER_TOKEN=empty)


def test_mailers_of_one_esp_cannot_have_webhook_credentials_of_their_own(
    make_app: MakeApp,
) -> None:
    """They share one URL, so one of two passwords would be refused for ever."""
    token = {"esp": "postmark", "server_token": "a-token"}
    with pytest.raises(ConfigurationError, match="share one webhook URL"):
        make_app(
            MAILESP_MAILERS={
                "default": token | {"webhook_secret": "user:one-secret"},
                "bulk": token | {"webhook_secret": "user:two-secret"},
            }
        )


def test_mailers_of_one_esp_cannot_have_signing_secrets_of_their_own(make_app: MakeApp) -> None:
    """Whatever such a setting is named: the events of one account would be refused for ever."""
    one, two = ("whsec_" + base64.b64encode(letter * 32).decode() for letter in (b"a", b"b"))
    for name in ("signing_secret", "inbound_secret"):
        with pytest.raises(ConfigurationError, match="share one webhook URL"):
            make_app(
                MAILESP_MAILERS={
                    "default": {"esp": "resend", "api_key": "re_a", name: one},
                    "bulk": {"esp": "resend", "api_key": "re_b", name: two},
                }
            )
