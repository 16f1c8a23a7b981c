"""Spans of OpenTelemetry: one for each group, linked to the spans that have sent its messages."""

from collections import Counter
from collections.abc import Callable, Sequence
from threading import Thread
from typing import TypeAlias

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from card_worker.contracts.traces import Trace
from card_worker.storage.contention import Row
from card_worker.worker.messages import Message, Outcome

LINKS_MAX = 1_000
"""As many as a group has messages; the default of OpenTelemetry is 128."""
SERVICE = "card-worker"

Deliver: TypeAlias = Callable[[Sequence[Message], frozenset[Row]], list[Outcome]]

_READER = TraceContextTextMapPropagator()


class Spans:
    """Makes spans of groups, and exports them as the variables `OTEL_…` say.

    `processor` is what gets the spans, by default an exporter by OTLP over HTTP.
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        # A name that the variables give wins.
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(
            resource=resource, span_limits=SpanLimits(max_links=LINKS_MAX), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("card_worker")

    def deliver(
        self, deliver: Deliver, messages: Sequence[Message], locked: frozenset[Row]
    ) -> list[Outcome]:
        """Return what `deliver` returns for a group, in a span."""
        traces = [each.conditions.trace for each in messages]
        attributes: dict[str, str | int] = {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.batch.message_count": len(messages),
        }
        with self._tracer.start_as_current_span(
            "process group",
            # A group has many senders, so it is a trace of its own.
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(_context_of(trace)) for trace in traces if trace is not None],
        ) as span:
            outcomes = deliver(messages, locked)
            for kind, count in Counter(map(type, outcomes)).items():
                span.set_attribute(f"card_worker.{kind.__name__.lower()}", count)
        return outcomes

    def close(self, *, within_s: float) -> None:
        """Export the last spans; give up after that time, such as when the server is away."""
        thread = Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(within_s)


def _context_of(trace: Trace) -> SpanContext:
    headers = {name: value for name, value in trace._asdict().items() if value is not None}
    return get_current_span(_READER.extract(headers, Context())).get_span_context()
