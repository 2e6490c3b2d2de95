"""An ESP in a package of its own: found by its entry point, written from the guide alone."""

from __future__ import annotations

import hmac
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_mailesp import MailESP, Message, signals
from flask_mailesp.esp import HttpRequest, HttpResponse
from flask_mailesp.exceptions import ConfigurationError
from flask_mailesp.testing import EspServer

pytest_plugins = ["pytester"]

GUIDE = Path(__file__).parent.parent / "docs" / "adding-an-esp.md"
MODULE = "flask_mailesp_example"
KEY = "canary-4711-webhook-key"


def block_with(start: str) -> str:
    """The example of the guide that begins so."""
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text("utf-8"), re.M | re.S)
    (found,) = [block for block in blocks if block.startswith(start)]
    return found


def install(where: Path, **entry_points: str) -> None:
    """Do what pip does: put the module and the package's metadata onto the path."""
    module = block_with('"""Example: one JSON endpoint')
    (where / f"{MODULE}.py").write_text(module, "utf-8")
    info = where / "flask_mailesp_example-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flask-mailesp-example\nVersion: 1.0\n"
    )
    points = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[flask_mailesp.esps]\n{points}")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    install(tmp_path, example=f"{MODULE}:esp")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop(MODULE, None)


def app_with(**config: Any) -> Flask:
    app = Flask("shop")
    app.config.update(TESTING=True, **{f"MAILESP_{name}": value for name, value in config.items()})
    MailESP(app)
    return app


def test_the_guides_own_example_keeps_the_contract(pytester: pytest.Pytester) -> None:
    """The guide is all it takes: its ESP and its tests run as they stand there."""
    install(pytester.path, example=f"{MODULE}:esp")
    pytester.makepyfile(test_example=block_with("import hmac\nimport itertools"))
    pytester.makeini("[pytest]\npythonpath = .")
    outcome = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    counts = outcome.parseoutcomes()
    assert set(counts) <= {"passed", "skipped"}
    assert counts["passed"] > 80


def test_a_package_brings_an_esp_under_its_entry_points_name(installed: Path) -> None:
    def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {}, b'{"id": "m-1"}')

    with EspServer(answer) as server:
        app = app_with(ESP="example", EXAMPLE_API_KEY="key-1", EXAMPLE_API_URL=server.url)
        with app.app_context():
            message = Message("Hello", "bea@example.com", "Hi", sender="shop@example.org")
            result = MailESP().send(message)
        app.extensions["mailesp"].transport.close()

    assert (result.esp_name, result.message_id) == ("Example", "m-1")


def test_its_webhooks_have_a_route_and_its_settings_a_check(installed: Path) -> None:
    app = app_with(ESP="example", EXAMPLE_API_KEY="key-1", EXAMPLE_WEBHOOK_KEY=KEY)
    assert post(app) == [("Example", "delivered")]

    with pytest.raises(ConfigurationError, match="Did you mean MAILESP_EXAMPLE_API_KEY"):
        app_with(ESP="example", EXAMPLE_API_KEY="key-1", EXAMPLE_API_KAY="key-1")
    with pytest.raises(ConfigurationError, match=r"MAILESP_EXAMPLE_API_KEY is not set.*API keys"):
        app_with(ESP="example")


def test_webhooks_of_a_package_that_sends_nothing_are_received(installed: Path) -> None:
    """After a change of provider, the former one still has things to tell."""
    app = app_with(ESP="postmark", POSTMARK_SERVER_TOKEN="t", EXAMPLE_WEBHOOK_KEY=KEY)
    assert post(app) == [("Example", "delivered")]


def post(app: Flask) -> list[tuple[str, str]]:
    """Post an authentic webhook; return what the app was told."""
    told: list[tuple[str, str]] = []

    def receiver(app: Flask, event: Any, esp_name: str) -> None:
        told.append((esp_name, event.event_type))

    body = b'{"type": "delivered", "event_id": "e-1"}'
    signature = hmac.new(KEY.encode(), body, "sha256").hexdigest()
    with signals.tracking.connected_to(receiver, sender=app):
        answer = app.test_client().post(
            "/mail-hooks/example/tracking/", data=body, headers={"X-Signature": signature}
        )
    assert answer.status_code == 200
    return told


def test_an_installed_package_that_is_not_configured_is_not_even_loaded(installed: Path) -> None:
    """Whatever is installed costs nothing, and strangers' URLs find only what is in use."""
    app = app_with(ESP="postmark", POSTMARK_SERVER_TOKEN="t")

    answer = app.test_client().post("/mail-hooks/example/tracking/", data=b"{}")
    assert answer.status_code == 404
    assert MODULE not in sys.modules


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (
            {"example": "not_there:esp"},
            "'example'.*not_there:esp.*cannot be loaded: ModuleNotFound",
        ),
        ({"example": f"{MODULE}:ESP"}, "'example'.*cannot be loaded: AttributeError"),
        ({"example": f"{MODULE}:NAME"}, "'example'.*must be an Esp whose key is 'example'"),
        ({"other": f"{MODULE}:esp"}, "'other'.*must be an Esp whose key is 'other'"),
        ({"exemple": f"{MODULE}:esp"}, "'example'. Did you mean 'exemple'.*Known: .*exemple"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: dict[str, str], text: str
) -> None:
    install(tmp_path, **points)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match=text):
        app_with(ESP="other" if "other" in points else "example")
    sys.modules.pop(MODULE, None)


def test_a_package_cannot_take_a_built_in_esps_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, postmark=f"{MODULE}:esp")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = app_with(ESP="postmark", POSTMARK_SERVER_TOKEN="t")
    assert app.extensions["mailesp"].mailer(None).esp.name == "Postmark"
