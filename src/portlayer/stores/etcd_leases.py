"""Leases over etcd: never early, exact while who wrote them lives.

A record's time is kept twice. Who put it deletes it when its time is over, by a clock of its own (Deadlines). And it
is attached to a lease of etcd, which ends a little later, for the case that the process is no more. Those are shared
(SharedLeases): one costs etcd a proposal and some memory, and there are many receipts and events.

etcd keeps the time of its leases by its leader's monotonic clock; after a restart or an election they start over.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import NamedTuple

from portlayer.stores.clock import Clock
from portlayer.stores.etcd_client import Client
from portlayer.stores.etcd_messages import CLASSES

SPARE_SECONDS = 5.0
"""How much longer than asked a lease of etcd lasts, at least, so that those who come later can share it."""
SPARE_PART, MOST_SPARE_SECONDS = 0.25, 3600.0
DRIFT = 1.0005
"""What our clock may run faster than etcd's."""
EXACT_SECONDS = 3600.0
"""Longer ones are left to etcd: nobody minds, and they would be many."""
LONGEST_SECONDS = 8_000_000_000


class Lease(NamedTuple):
    """A lease of etcd; end: by our clock, when it ends at the earliest."""

    ident: int
    end: float


class SharedLeases:
    """Leases of etcd, each for all puts that fit it."""

    def __init__(self, client: Client, clock: Clock, spare_seconds: float = SPARE_SECONDS) -> None:
        self._client = client
        self._clock = clock
        self._spare = spare_seconds
        self._held: list[Lease] = []
        self._grant = asyncio.Lock()

    async def get(self, ttl: float) -> tuple[int, float]:
        """The id of one that lasts at least *ttl* seconds from now, and how much longer it lasts."""
        async with self._grant:
            now = self._clock()[1]
            room = min(max(ttl * SPARE_PART, self._spare), MOST_SPARE_SECONDS)
            seconds = min(math.ceil(ttl * DRIFT + room), LONGEST_SECONDS)
            self._held = [lease for lease in self._held if lease.end > now]
            fit = next((lease for lease in self._held if ttl * DRIFT <= lease.end - now <= seconds), None)
            if fit is None:
                granted = await self._client.call("grant", CLASSES["LeaseGrantRequest"](TTL=seconds))
                fit = Lease(granted.ID, now + seconds)
                self._held.append(fit)
            return fit.ident, max(0.0, fit.end - now - ttl)

    def forget(self) -> None:
        """Some have ended before their time (an etcd that was restored): start anew."""
        self._held.clear()


class Deadlines:
    """When the records that this process put are to go. Revisions are etcd's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, bytes, int]] = []
        self._written: dict[bytes, int] = {}

    def put(self, key: bytes, written: int, ttl: float | None, now: float) -> None:
        """*key* was put at *written*, by a transaction that was begun at *now*, or later."""
        if self._written.get(key, 0) > written:
            return
        self._written.pop(key, None)
        if ttl is not None and ttl <= EXACT_SECONDS:
            self._written[key] = written
            heapq.heappush(self._heap, (now + ttl, key, written))

    def delete(self, key: bytes, written: int) -> None:
        """*key* was deleted at *written*."""
        if self._written.get(key, 0) < written:
            self._written.pop(key, None)

    @property
    def any_due(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= self._clock()[1]

    def due(self, limit: int) -> dict[bytes, int]:
        """Up to *limit* keys whose time is over, with the revision that wrote them; they are forgotten."""
        now = self._clock()[1]
        found: dict[bytes, int] = {}
        while self._heap and self._heap[0][0] <= now and len(found) < limit:
            _, key, written = heapq.heappop(self._heap)
            if self._written.get(key) == written:
                found[key] = written
                del self._written[key]
        return found

    def again(self, found: dict[bytes, int]) -> None:
        """*found* could not be deleted just now."""
        now = self._clock()[1]
        for key, written in found.items():
            if key not in self._written:
                self._written[key] = written
                heapq.heappush(self._heap, (now, key, written))
