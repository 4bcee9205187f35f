"""What is told of requests: how many, with which end, and how long they took."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from portlayer.metrics import Metrics, Read
from portlayer.rest.calls import Call
from portlayer.rest.calls.execution import WAIT
from portlayer.rest.server.load import Load

UNKNOWN = "(none)"
"""The name of what no route leads to."""
GONE = 499
"""The status, of no answer, of a request whose caller went away first."""


class Figures:
    """The requests of one process. Calls that last for as long as their callers like have no time."""

    def __init__(self, metrics: Metrics, load: Load) -> None:
        self._requests = metrics.counter("http_requests_total", "Requests that were answered.", ("call", "status"))
        self._took = metrics.histogram(
            "http_request_seconds", "From a request's head to its answer; not of waits and streams.", "call"
        )
        self._under_way: Counter[str] = Counter()
        text = "Requests that are being answered: for events, attach and logs, who is subscribed."
        metrics.add(Read("portlayer_http_requests_under_way", text, "gauge", self._count, ("call",)))
        metrics.add(Read("portlayer_http_connections", "Open connections.", "gauge", load.connections, ("state",)))

    def _count(self) -> list[tuple[tuple[str, ...], float]]:
        return [((name,), count) for name, count in self._under_way.items()]

    def begun(self, call: Call[Any, Any]) -> None:
        """A request turned out to be this *call*."""
        self._under_way[call.name] += 1

    def ended(self, call: Call[Any, Any] | None, status: int, began: float) -> None:
        """A request that began then, by `time.monotonic`, has ended. call: None where no route led to one."""
        if call is None:
            self._requests.add(UNKNOWN, str(status))
            return
        self._under_way[call.name] -= 1
        self._requests.add(call.name, str(status))
        if not call.streams and call is not WAIT:
            self._took.observe(time.monotonic() - began, call.name)
