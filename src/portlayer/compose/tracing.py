"""Settings of traces, and what exports them: `[tracing]` with `endpoint`, and `sample` where wanted.

OTEL_EXPORTER_OTLP_ENDPOINT goes before the file, and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, to which nothing is added,
before both. OpenTelemetry is imported only where there is an endpoint; then its other variables hold, too:
OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS, ...
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument, Unsupported
from portlayer.model.topology import Part
from portlayer.tracing import Tracer, Untraced

PATH = "/v1/traces"
_ENDPOINT, _TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


class TracingChoice(Value):
    """endpoint: where spans are sent, an OTLP/HTTP collector; in a file without `/v1/traces`, which is added; empty:
    nothing is exported. sample: the share, 0 to 1, of the traces that begin here; others follow whoever began them."""

    endpoint: str = ""
    sample: float = 1.0


def read_tracing(table: object, environment: Mapping[str, str]) -> TracingChoice:
    """What the section says, and the environment. Raises InvalidArgument for what is no such section."""
    try:
        choice = msgspec.convert(table, TracingChoice)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"tracing: {error}.") from None
    exact, base = environment.get(_TRACES_ENDPOINT, ""), environment.get(_ENDPOINT, "")
    choice = msgspec.structs.replace(choice, endpoint=exact or _whole(base or choice.endpoint))
    if choice.endpoint and not choice.endpoint.startswith(("http://", "https://")):
        raise InvalidArgument(f"tracing: {choice.endpoint!r} is no address; use http://host:4318 or https://host:4318.")
    if not 0 <= choice.sample <= 1:
        raise InvalidArgument("tracing: sample is a share, from 0 to 1.")
    return choice


def _whole(base: str) -> str:
    """Where a collector at *base* takes traces."""
    base = base.rstrip("/")
    return base if not base or base.endswith(PATH) else base + PATH


def open_tracer(choice: TracingChoice, part: Part, instance: str) -> Tracer:
    """What makes the spans of process *part*.

    Raises:
        Unsupported: they are to be exported, and what does that is not installed.
    """
    if not choice.endpoint:
        return Untraced()
    try:
        from portlayer.compose.otlp import OtlpTracer  # noqa: PLC0415 - takes 14 MB, where it is wanted
    except ImportError as error:
        raise Unsupported(
            f"Traces need OpenTelemetry ({error.name} is missing); pip install 'portlayer[tracing]'.", option="tracing"
        ) from None
    return OtlpTracer(choice.endpoint, choice.sample, part, instance)
