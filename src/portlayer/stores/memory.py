"""The memory store: a verified fake. Nothing outlives it, everything else is as the other stores do it."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from portlayer.interfaces.store import (
    Changed,
    Check,
    CheckFailed,
    Compacted,
    Delete,
    Empty,
    Put,
    Record,
    Transaction,
)
from portlayer.model.errors import Unavailable
from portlayer.stores.clock import Clock, boot_clock
from portlayer.stores.keys import bounds, require_text, validate
from portlayer.stores.watching import KEPT_DELETIONS, WHOLE, Cursor, Hub, Page, Watch, place


class _Entry(NamedTuple):
    record: Record
    position: int
    deadline: float | None

    @property
    def change(self) -> Changed:
        return Changed(self.record.revision, self.position, self.record.key, self.record)


class MemoryStore:
    """Records in a dict. kept_deletions: how many deletions a resumed watch can still see."""

    name = "memory"

    def __init__(self, *, clock: Clock = boot_clock, kept_deletions: int = KEPT_DELETIONS) -> None:
        self._clock = clock
        self._kept_deletions = kept_deletions
        self._entries: dict[str, _Entry] = {}
        self._keys: list[str] = []
        self._deadlines: list[tuple[float, str]] = []
        self._deletions: deque[Changed] = deque()
        self._compacted = 0
        self._revision = 0
        self._closed = False
        self._hub = Hub(0, self._reread, self._expire)

    async def get(self, key: str) -> Record | None:
        self._ready()
        entry = self._entries.get(require_text(key))
        return entry.record if entry else None

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        self._ready()
        entries = [self._entries.get(require_text(key)) for key in keys]
        return [entry.record if entry else None for entry in entries]

    async def range(self, prefix: str, *, after: str = "", limit: int = 0) -> list[Record]:
        self._ready()
        found = self._keys[self._span(prefix, after)]
        return [self._entries[key].record for key in (found[:limit] if limit else found)]

    async def ranges(self, prefixes: Sequence[str]) -> list[list[Record]]:
        return [await self.range(prefix) for prefix in prefixes]

    async def count(self, prefix: str) -> int:
        self._ready()
        return len(self._keys[self._span(prefix)])

    async def since(self, prefix: str, revision: int, *, limit: int = 0) -> list[Record]:
        self._ready()
        entries = [self._entries[key] for key in self._keys[self._span(prefix)]]
        found = sorted((entry.change for entry in entries if entry.record.revision > revision), key=place)
        return [change.record for change in (found[:limit] if limit else found) if change.record]

    async def revision(self) -> int:
        self._ready()
        return self._revision

    async def apply(self, transaction: Transaction) -> int:
        validate(transaction)
        # Every real store lets others run here; a fake that does not would hide their races.
        await asyncio.sleep(0)
        self._ready()
        if failed := [check for check in transaction.checks if not self._holds(check)]:
            raise CheckFailed(failed)
        self._land(transaction.ops)
        return self._revision

    async def sync(self) -> None:
        await asyncio.sleep(0)
        self._ready()

    def watch(self, prefix: str, revision: int | None = None) -> Watch:
        self._ready()
        return self._hub.watch(require_text(prefix), revision, self._revision)

    async def close(self) -> None:
        self._closed = True
        self._hub.close()

    def _ready(self) -> None:
        if self._closed:
            raise Unavailable("The store is closed; open it again.")
        self._expire()

    def _expire(self) -> None:
        now = self._clock()[1]
        gone = set()
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, key = heapq.heappop(self._deadlines)
            entry = self._entries.get(key)
            if entry and entry.deadline == deadline:
                gone.add(key)
        if gone:
            self._land([Delete(key) for key in sorted(gone)])

    def _holds(self, check: Check | Empty) -> bool:
        if isinstance(check, Empty):
            return all(key == check.besides for key in self._keys[self._span(check.prefix)])
        entry = self._entries.get(check.key)
        if check.revision is None:
            return entry is not None
        return (entry.record.revision if entry else 0) == check.revision

    def _land(self, ops: Sequence[Put | Delete]) -> None:
        before, self._revision = self._revision, self._revision + 1
        changes = [self._put(i, op) if isinstance(op, Put) else self._delete(i, op) for i, op in enumerate(ops)]
        self._hub.publish(before, self._revision, [change for change in changes if change])

    def _put(self, index: int, op: Put) -> Changed:
        old = self._entries.get(op.key)
        record = Record(op.key, op.value, self._revision, old.record.created if old else self._revision)
        deadline = None
        if op.ttl_seconds is not None:
            deadline = self._clock()[1] + op.ttl_seconds
            heapq.heappush(self._deadlines, (deadline, op.key))
        if old is None:
            insort(self._keys, op.key)
        self._entries[op.key] = _Entry(record, index, deadline)
        return self._entries[op.key].change

    def _delete(self, index: int, op: Delete) -> Changed | None:
        if self._entries.pop(op.key, None) is None:
            return None
        del self._keys[bisect_left(self._keys, op.key)]
        change = Changed(self._revision, index, op.key, None)
        self._deletions.append(change)
        if len(self._deletions) > self._kept_deletions:
            self._compacted = self._deletions.popleft().revision
        return change

    def _span(self, prefix: str, after: str = "") -> slice:
        lower, upper = bounds(prefix, after)
        return slice(bisect_left(self._keys, lower), None if upper is None else bisect_left(self._keys, upper))

    async def _reread(self, prefix: str, cursor: Cursor, limit: int) -> Page:
        self._ready()
        if cursor < (self._compacted, WHOLE):
            raise Compacted(f"Deletions up to revision {self._compacted} are not kept; read the present state.")
        puts = (self._entries[key].change for key in self._keys[self._span(prefix)])
        deletions = (change for change in self._deletions if change.key.startswith(prefix))
        found = sorted((change for change in (*puts, *deletions) if place(change) > cursor), key=place)
        if len(found) > limit:
            return Page(found[:limit], place(found[limit - 1]))
        return Page(found, self._hub.tip)
