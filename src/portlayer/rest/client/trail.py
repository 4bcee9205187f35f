"""What a request takes along, so that what it causes at the other end can be told to belong to it."""

from __future__ import annotations

import sys
from typing import Any

from portlayer import scope
from portlayer.tracing import HEADER, Link, current

REQUEST_ID = "X-Request-ID"
_OPENTELEMETRY = "opentelemetry.trace"


def trail(*, forwarded: bool) -> dict[str, str]:
    """Headers: the place in a trace, and, where one process of ours passes a call on to another, the request's id."""
    link = current() or _callers()
    headers = {HEADER: link.header} if link else {}
    request = scope.fields().get("request") if forwarded else None
    return {**headers, REQUEST_ID: request} if request else headers


def _callers() -> Link | None:
    """The span of a program that traces itself with OpenTelemetry, which is imported here by nobody else."""
    trace: Any = sys.modules.get(_OPENTELEMETRY)
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return Link(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled)
