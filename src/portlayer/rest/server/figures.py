"""What is told of requests: how many, with which end, and how long they took."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

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

    def answering(self, call: Call[Any, Any] | None) -> Answering:
        """As long as a request is being answered. call: which one it is; None where no route led to one."""
        return Answering(self, call)

    def begun(self, call: Call[Any, Any] | None) -> None:
        """A request has come."""
        if call is not None:
            self._under_way[call.name] += 1

    def ended(self, call: Call[Any, Any] | None, status: int, seconds: float) -> None:
        """It is over."""
        if call is None:
            self._requests.add(UNKNOWN, str(status))
            return
        self._under_way[call.name] -= 1
        self._requests.add(call.name, str(status))
        if not call.streams and call is not WAIT:
            self._took.of(call.name).add(seconds)


class Answering(AbstractContextManager["Answering"]):
    """A request that is being answered; status: of its answer, once there is one."""

    __slots__ = ("_began", "_call", "_figures", "status")

    def __init__(self, figures: Figures, call: Call[Any, Any] | None) -> None:
        self._figures = figures
        self._call = call
        self.status = GONE

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._figures.begun(self._call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._figures.ended(self._call, self.status, time.perf_counter() - self._began)
