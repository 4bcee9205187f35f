"""Spans to an OpenTelemetry collector, by OTLP over HTTP.

A thread of the exporter sends them in batches. Where they cannot be sent, as many as its queue holds are kept and the
others dropped: who works waits for none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace import Span as AnySpan
from opentelemetry.trace.propagation import set_span_in_context

from portlayer import __version__
from portlayer.model.errors import PortlayerError
from portlayer.model.topology import Part
from portlayer.tracing import Fact, Kind, Link, Span, current, entered

SERVICE = "portlayer"
EXPORT_SECONDS = 5.0
"""How long one attempt to send a batch may take."""
LAST_SECONDS = 2.0
"""How long the last one, at the end, is waited for."""
_KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
}


class _Noted:
    """A span that is under way."""

    __slots__ = ("_span",)

    def __init__(self, span: AnySpan) -> None:
        self._span = span

    def note(self, name: str, fact: Fact) -> None:
        self._span.set_attribute(name, fact)


class OtlpTracer:
    """Implements tracing.Tracer. url: where spans are sent. sample: the share of the traces that begin here."""

    silent = False

    def __init__(self, url: str, sample: float, part: Part, instance: str) -> None:
        resource = Resource.create(
            {
                "service.version": __version__,
                "service.instance.id": f"{instance}/{part.name}",
                "host.name": part.host,
                "portlayer.process": part.name,
                "portlayer.components": ",".join(part.components),
            }
        )
        if resource.attributes.get("service.name", "").startswith("unknown_service"):  # type: ignore[union-attr]
            resource = resource.merge(Resource({"service.name": SERVICE}))
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE, __version__)

    def span(self, name: str, *, kind: Kind = "internal", **facts: Fact) -> AbstractContextManager[Span]:
        return self._within(name, current(), _KINDS[kind], facts)

    def request(self, name: str, parent: Link | None) -> AbstractContextManager[Span]:
        return self._within(name, parent, SpanKind.SERVER, {})

    @contextmanager
    def _within(self, name: str, parent: Link | None, kind: SpanKind, facts: dict[str, Fact]) -> Iterator[Span]:
        context = set_span_in_context(NonRecordingSpan(_context(parent))) if parent else set_span_in_context(_ROOT)
        span = self._tracer.start_span(name, context, kind, facts)
        try:
            with entered(_link(span)):
                yield _Noted(span)
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left, for a few seconds at most: a collector that is away keeps nobody from stopping."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)


_ROOT = NonRecordingSpan(SpanContext(0, 0, is_remote=False))


def _context(link: Link) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if link.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(link.trace, 16), int(link.span, 16), is_remote=True, trace_flags=flags)


def _link(span: AnySpan) -> Link:
    context = span.get_span_context()
    return Link(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled)


def _fail(span: AnySpan, error: BaseException) -> None:
    """Its kind alone: what errors say to their callers is for these."""
    code = error.code if isinstance(error, PortlayerError) else type(error).__name__
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))
