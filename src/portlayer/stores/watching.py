"""Watches over any store: one shared ring of the latest changes, and cursors into it.

A store publishes each transaction that lands to its Hub. A Watch has no buffer of its own: it is a cursor (revision,
index) that reads on in the ring. One that lags until the ring has moved past it reads on from the store instead, page
by page, and so does every watch when another process has written. What a watch gets from the store is the present
state in order of change: a put that was overwritten meanwhile is left out, deletions are kept. So memory is bounded
however slow a watcher is, and apply never waits for one.

    Hub ── ring: changes after `floor`, up to `tip`
     ├── Watch(prefix, cursor)    cursor >= floor: reads the ring
     └── Watch(prefix, cursor)    cursor <  floor: asks the store (`reread`), then reads the ring
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from typing import NamedTuple

from portlayer.interfaces.store import Changed

POLL_SECONDS = 0.03
RING_CHANGES = 1024
RING_BYTES = 4 << 20
PAGE = 64
KEPT_DELETIONS = 10_000
"""How many deletions a store keeps for watches that resume, at least, unless it is told otherwise."""
WHOLE = sys.maxsize
"""An index beyond any: the cursor (revision, WHOLE) has seen that transaction to its end."""

Cursor = tuple[int, int]


class Page(NamedTuple):
    """Changes in order, and the cursor up to which they are complete."""

    changes: Sequence[Changed]
    cursor: Cursor


Reread = Callable[[str, Cursor, int], Awaitable[Page]]
"""(prefix, cursor, limit): the next changes as the store has them. Raises Compacted, Unavailable."""


def place(change: Changed) -> Cursor:
    """Where *change* stands in the order of all changes."""
    return change.revision, change.index


class Watch(AsyncIterator[Changed]):
    """Changes under a prefix, in order, until `aclose` or until the store closes. For one reader at a time."""

    def __init__(self, hub: Hub, prefix: str, cursor: Cursor) -> None:
        self.prefix = prefix
        self.cursor = cursor
        self._hub = hub
        self._page: deque[Changed] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    async def __anext__(self) -> Changed:
        while not self._page and not self._closed:
            self._wake.clear()
            page = self._hub.recent(self.prefix, self.cursor)
            if page is None:
                page = await self._hub.reread(self.prefix, self.cursor, PAGE)
            self.cursor = page.cursor
            self._page.extend(page.changes)
            if not self._page and self.cursor >= self._hub.tip:
                await self._wake.wait()
        if self._closed:
            raise StopAsyncIteration
        return self._page.popleft()

    async def aclose(self) -> None:
        """End this watch; a reader that waits in it is let go."""
        self._hub.drop(self)
        self.end()

    def wake(self) -> None:
        """There may be something to see."""
        self._wake.set()

    def end(self) -> None:
        """Stop the iteration."""
        self._closed = True
        self._wake.set()


class Hub:
    """The watches of one store, on one event loop.

    refresh: called every POLL_SECONDS while someone watches, and every *idle_seconds* (None: never) while nobody does.
    """

    def __init__(
        self, revision: int, reread: Reread, refresh: Callable[[], None], *, idle_seconds: float | None = None
    ) -> None:
        self.reread = reread
        self.tip: Cursor = (revision, WHOLE)
        self._floor: Cursor = self.tip
        self._ring: deque[Changed] = deque()
        self._ring_bytes = 0
        self._refresh = refresh
        self._idle_seconds = idle_seconds
        # Weak, so that a watch that was dropped without aclose is no leak. A dictionary, since a WeakSet takes several
        # times as long to go through, and every transaction does.
        self._watches: dict[int, weakref.ref[Watch]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def watch(self, prefix: str, revision: int | None, present: int) -> Watch:
        """Subscribe after *revision* (None: *present*, the store's revision right now)."""
        start = present if revision is None else revision
        # A revision that the store has not reached is of a past that it lost: never reachable, as if compacted. Where
        # others may have brought the store there, `reread` can find out: the revision is the complement.
        watch = Watch(self, prefix, (start if start <= present else ~start, WHOLE))
        number = id(watch)
        self._watches[number] = weakref.ref(watch, lambda _: self._watches.pop(number, None))
        if len(self._watches) == 1:
            self.schedule()
        return watch

    def drop(self, watch: Watch) -> None:
        """Forget *watch*."""
        self._watches.pop(id(watch), None)

    def _open(self) -> list[Watch]:
        return [watch for ref in list(self._watches.values()) if (watch := ref()) is not None]

    def publish(self, before: int, last: int, changes: Sequence[Changed]) -> None:
        """What landed after revision *before* and up to *last*. What others wrote until *before* is reread."""
        if before > self.tip[0]:
            self.skip_to(before)
        tip, self.tip = self.tip, max(self.tip, (last, WHOLE))
        for change in changes:
            self._remember(change)
        keys = [change.key for change in changes]
        for watch in self._open():
            if watch.cursor != tip or _meets(watch.prefix, keys):
                watch.wake()
            else:
                watch.cursor = self.tip

    def skip_to(self, revision: int) -> None:
        """Another process brought the store to *revision*: watches find out by rereading."""
        self._ring.clear()
        self._ring_bytes = 0
        self._floor = self.tip = (revision, WHOLE)
        for watch in self._open():
            watch.wake()

    def recent(self, prefix: str, cursor: Cursor) -> Page | None:
        """The next changes after *cursor* from the ring; None if it does not reach back that far."""
        if cursor < self._floor:
            return None
        found: list[Changed] = []
        for change in islice(self._ring, bisect_right(self._ring, cursor, key=place), None):
            if change.key.startswith(prefix):
                found.append(change)
                if len(found) == PAGE:
                    return Page(found, place(change))
        return Page(found, max(cursor, self.tip))

    def _remember(self, change: Changed) -> None:
        self._ring.append(change)
        self._ring_bytes += _size(change)
        while len(self._ring) > RING_CHANGES or self._ring_bytes > RING_BYTES:
            gone = self._ring.popleft()
            self._ring_bytes -= _size(gone)
            self._floor = place(gone)

    def schedule(self) -> None:
        """Start or restart the timer of `refresh`."""
        if self._timer is not None:
            self._timer.cancel()
        seconds = POLL_SECONDS if self._watches else self._idle_seconds
        self._timer = (
            None if seconds is None or self._closed else asyncio.get_running_loop().call_later(seconds, self._tick)
        )

    def _tick(self) -> None:
        try:
            self._refresh()
        finally:
            self.schedule()

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for watch in self._open():
            watch.end()
        self._watches.clear()


def _meets(prefix: str, keys: Sequence[str]) -> bool:
    for key in keys:  # noqa: SIM110 - a generator would take as long again
        if key.startswith(prefix):
            return True
    return False


def _size(change: Changed) -> int:
    return len(change.key) + (len(change.record.value) if change.record else 0)
