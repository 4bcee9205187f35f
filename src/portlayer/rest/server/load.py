"""What the server takes on: connections and requests, bounded so that it always has room to say how it is.

Fairness in what is expensive is the components' matter. Here it is only seen to that no number of callers takes all
memory and file descriptors, and that no VCH keeps the others out.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from portlayer.model.bounds import HttpBounds
from portlayer.model.errors import Unavailable

_RETRY_SECONDS = 1


class Connection(Protocol):
    """One that is open."""

    def force_close(self) -> None:
        """Close it now."""


class Load:
    """The connections that are open, and the requests that are being answered."""

    def __init__(self, bounds: HttpBounds) -> None:
        self._bounds = bounds
        self._idle: dict[Connection, None] = {}
        self._busy: set[Connection] = set()
        self._requests = 0
        self._of_vch: collections.Counter[str] = collections.Counter()

    def connected(self, connection: Connection) -> None:
        """A new one. Where there are too many, the one that has been idle for longest goes."""
        self._idle[connection] = None
        if len(self._idle) + len(self._busy) > self._bounds.connections:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.force_close()

    def disconnected(self, connection: Connection) -> None:
        """It is gone."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def connections(self) -> list[tuple[tuple[str, ...], float]]:
        """How many are idle and busy, as metrics want it."""
        return [(("idle",), len(self._idle)), (("busy",), len(self._busy))]

    @contextmanager
    def using(self, connection: Connection) -> Iterator[None]:
        """It has a request."""
        self._idle.pop(connection, None)
        self._busy.add(connection)
        try:
            yield
        finally:
            if connection in self._busy:
                self._busy.discard(connection)
                self._idle[connection] = None

    @contextmanager
    def answering(self, vch: str) -> Iterator[None]:
        """A request for *vch* ("" for none) is answered. Raises Unavailable where there are too many."""
        if self._requests >= self._bounds.requests or self._of_vch[vch] >= max(1, self._bounds.requests // 2):
            raise Unavailable("Too many requests at once; try again.", retry_after_seconds=_RETRY_SECONDS, refused=True)
        self._count(vch, 1)
        try:
            yield
        finally:
            self._count(vch, -1)

    def outlived(self, vch: str, work: asyncio.Task[Any]) -> None:
        """Who asked for *work* has gone, and it goes on: it counts until it is done."""
        self._count(vch, 1)
        work.add_done_callback(lambda _: self._count(vch, -1))

    def _count(self, vch: str, difference: int) -> None:
        self._requests += difference
        self._of_vch[vch] += difference
        if not self._of_vch[vch]:
            del self._of_vch[vch]
