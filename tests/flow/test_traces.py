"""Traces: from the span that sends a command, over the span of its group, to its event."""

import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from celery import Celery, signals
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    use_span,
)

from card_worker.worker import spans, tracing
from tests.flow.processes import until
from tests.flow.system import ACCOUNT, System, card

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector(ThreadingHTTPServer):
    """Receives spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.services: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            raise NotImplementedError
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.server.services.add(named["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def running(shared: System, collector: Collector) -> System:
    host, port = collector.server_address[:2]
    shared.parts.settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{host!s}:{port}"
    shared.parts.settings["OTEL_BSP_SCHEDULE_DELAY"] = "100"
    shared.start("worker", TRACES="true")
    shared.start("relay")
    return shared


def test_a_group_has_a_span_that_links_to_those_of_its_messages(
    running: System, collector: Collector, plain_celery_client: Celery
) -> None:
    def instrument(headers: dict[str, Any], **_: object) -> None:
        # As opentelemetry-instrumentation-celery does.
        headers |= {"traceparent": PARENT, "tracestate": "a=b"}

    signals.before_task_publish.connect(instrument)
    try:
        plain_celery_client.send_task(
            "cards.create", queue="cards", kwargs={**card("traced"), "command_id": "traced"}
        )
    finally:
        signals.before_task_publish.disconnect(instrument)
    event = running.answers("traced")["traced"]
    assert (event["traceparent"], event["tracestate"]) == (PARENT, "a=b")

    def linked() -> list[Any]:
        return [(span, link) for span in collector.spans for link in span.links]

    until(linked, "the span of the group")
    ((span, link),) = linked()
    assert (link.trace_id.hex(), link.span_id.hex()) == (PARENT[3:35], PARENT[36:52])
    assert (span.name, span.parent_span_id) == ("process group", b"")
    counts = {each.key: each.value.int_value for each in span.attributes}
    assert counts["card_worker.answered"] == 1
    assert collector.services == {"card-worker"}


def test_the_client_sends_the_trace_of_the_current_span(running: System) -> None:
    context = SpanContext(1 << 100, 7, is_remote=False, trace_flags=TraceFlags(1))
    with use_span(NonRecordingSpan(context)):
        running.create("in-span")
    running.create("outside")
    answers = running.answers("in-span", "outside")
    assert answers["in-span"]["traceparent"] == f"00-{1 << 100:032x}-{7:016x}-01"
    assert "traceparent" not in answers["outside"]


def test_a_message_with_a_wrong_header_is_done(
    running: System, plain_celery_client: Celery
) -> None:
    plain_celery_client.send_task(
        "cards.create",
        queue="cards",
        kwargs={**card("wrong"), "command_id": "wrong"},
        headers={"traceparent": "4711"},
    )
    assert running.types("wrong") == ["card.created"]
    assert "traceparent" not in running.answers("wrong")["wrong"]
    assert ACCOUNT in running.answers("wrong")["wrong"]["source"]


@pytest.mark.parametrize(
    ("module", "schedule_delay", "words"),
    [
        (None, "100", "needs pip install 'card-worker\\[otel\\]'"),
        (spans, "-1", "ValueError: schedule_delay_millis"),
    ],
    ids=["without the extra", "wrong variable"],
)
def test_a_worker_that_can_not_make_spans_does_not_start(
    monkeypatch: pytest.MonkeyPatch, module: object, schedule_delay: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, spans.__name__, module)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", schedule_delay)
    with pytest.raises(tracing.NoTraces, match=f"^CARD_WORKER_TRACES: {words}"):
        tracing.check()
