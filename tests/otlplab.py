"""A collector of traces: OTLP over HTTP, with protobuf, as an OpenTelemetry collector has it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    """One that was received. process: of ours, from which it came."""

    process: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start: int
    end: int
    failed: bool
    facts: dict[str, str] = field(default_factory=dict)


class Collector:
    """What has been received."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.raw: list[bytes] = []
        self._spans: list[Span] = []
        self._came = threading.Condition()

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._came:
            self.raw.append(body)
            self._spans += _spans(request)
            self._came.notify_all()

    def until(self, *names: str, trace: str = "", seconds: float = 30) -> list[Span]:
        """The spans of *trace* (empty: all), once there are some with all of *names*."""

        def there() -> bool:
            return set(names) <= {span.name for span in self.of(trace)}

        with self._came:
            assert self._came.wait_for(there, seconds), sorted({span.name for span in self._spans})
            return self.of(trace)

    def of(self, trace: str) -> list[Span]:
        return [span for span in self._spans if not trace or span.trace == trace]


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for whole in request.resource_spans:
        resource = {one.key: one.value.string_value for one in whole.resource.attributes}
        assert resource["service.name"] == "portlayer"
        for scope in whole.scope_spans:
            for span in scope.spans:
                yield Span(
                    process=resource["portlayer.process"],
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    kind=span.kind,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    facts={one.key: one.value.string_value or str(one.value.int_value) for one in span.attributes},
                )


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()
