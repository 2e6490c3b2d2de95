"""OpenTelemetry: each exchange with an ESP is a span, which holds figures and no addresses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import MakeApp
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from scripted import Item, Reply, ScriptedServer, scripted
from test_rails import MAIL, answer, app_for

from flask_mailesp import Message
from flask_mailesp.exceptions import APIError, MailESPError, SendUncertainError
from flask_mailesp.otel import trace_sends


class Traces:
    """A provider that keeps its spans in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


@pytest.fixture
def traces() -> Iterator[Traces]:
    made = Traces()
    yield made
    made.provider.shutdown()


def send(make_app: MakeApp, server: ScriptedServer, traces: Traces) -> None:
    app = app_for(make_app, server)
    stop = trace_sends(app, traces.provider)
    try:
        with app.app_context():
            MAIL.send(Message("Secret plans", ["bea@example.com", "carl@example.net"], "Hi"))
    finally:
        stop()


def test_an_exchange_is_a_client_span(make_app: MakeApp, traces: Traces) -> None:
    """With the names of the semantic conventions."""
    with scripted(answer) as server:
        send(make_app, server, traces)

    (span,) = traces.spans
    attributes = dict(span.attributes or {})
    assert (span.name, span.kind) == ("send Postmark", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert attributes.pop("http.request.body.size") == len(server.requests[0].body)
    assert attributes.pop("http.response.body.size") == len(answer(server.requests[0]).body)
    assert attributes == {
        "messaging.system": "postmark",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 1,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rpartition(":")[2]),
        "mailesp.recipient_count": 2,
        "mailesp.outcome": "accepted",
    }


@pytest.mark.parametrize(
    ("item", "error", "kind"),
    [
        (Reply(422, b'{"ErrorCode": 300, "Message": "bea@example.com"}'), APIError, "422"),
        (b"", SendUncertainError, "SendUncertainError"),
    ],
    ids=["refused", "no answer"],
)
def test_what_failed_is_marked_with_its_kind_only(
    make_app: MakeApp, traces: Traces, item: Item, error: type[MailESPError], kind: str
) -> None:
    """The ESP's words may quote an address."""
    with scripted(item) as server, pytest.raises(error):
        send(make_app, server, traces)

    (span,) = traces.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == kind
    assert "example." not in span.to_json()
    assert "Secret" not in span.to_json()


def test_spans_of_a_batch_are_below_the_span_that_sends(make_app: MakeApp, traces: Traces) -> None:
    """Though other threads make the exchanges."""
    tracer = traces.provider.get_tracer("app")
    with scripted(answer) as server:
        app = app_for(make_app, server)
        stop = trace_sends(None, traces.provider)
        with app.app_context(), tracer.start_as_current_span("newsletter"):
            list(MAIL.send_many(Message("Hi", "bea@example.com", "Hi") for _ in range(300)))
        stop()

    *sends, newsletter = traces.spans
    counts = [(span.attributes or {})["messaging.batch.message_count"] for span in sends]
    assert sorted(counts, key=str) == [250, 50]
    assert {span.parent.span_id for span in sends if span.parent} == {
        newsletter.get_span_context().span_id  # type: ignore[union-attr]
    }


def test_after_the_end_there_are_no_spans(make_app: MakeApp, traces: Traces) -> None:
    with scripted(answer) as server:
        app = app_for(make_app, server)
        trace_sends(app, traces.provider)()
        with app.app_context():
            MAIL.send(Message("Hi", "bea@example.com", "Hi"))

    assert traces.spans == ()


def test_without_the_extra_an_error_names_it() -> None:
    """And nothing else of the package needs it."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import flask_mailesp.otel\n"
        "try: flask_mailesp.otel.trace_sends()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "Flask-MailESP[otel]" in done.stdout
