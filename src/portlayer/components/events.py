"""Reading events: history from a cursor on, then what comes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from portlayer.components import keys
from portlayer.components.records import decode
from portlayer.interfaces.store import Compacted, Delete, Record, Store, Transaction
from portlayer.model.base import now
from portlayer.model.errors import InvalidArgument
from portlayer.model.events import LAST_EVENT, MISSED, Event, NumberedEvent

Cursor = tuple[int, int]
_NOW = 1 << 30
"""The index of a cursor that is the place of no event: nothing has been seen yet that could be gone."""
_AT_ONCE = 100
"""Of a transaction: no store has to take pains for that many."""


async def trim(store: Store, vch: str, most: int) -> int:
    """Remove the oldest events of *vch* where there are a tenth more than *most*; how many.

    The tenth is there so that many go at once: to find the oldest, a store may have to read all of them. Two processes
    that do this at once remove the same ones.
    """
    prefix = keys.entities(vch, "events")
    there = await store.count(prefix)
    if there <= most + most // 10:
        return 0
    oldest = await store.since(prefix, 0, limit=there - most)
    for start in range(0, len(oldest), _AT_ONCE):
        ops = [Delete(row.key) for row in oldest[start : start + _AT_ONCE]]
        await store.apply(Transaction(ops=ops, durable=False))
    return len(oldest)


class History:
    """The events of one VCH. A cursor is the place of the last event that was seen: its revision if it is the last of
    that, else `revision.index`.

    ident: the VCH's id, for another one may take its name. there: whether it still is there.
    """

    def __init__(self, store: Store, vch: str, ident: str, there: Callable[[], Awaitable[bool]]) -> None:
        self._store = store
        self._vch = vch
        self._ident = ident
        self._there = there
        self._prefix = keys.entities(vch, "events")

    async def start(self, since: str | None) -> Cursor:
        """The cursor that *since* means: `now`, `0`, a revision, or `revision.index`.

        Raises:
            InvalidArgument: none of these.
        """
        if since in (None, "", "now"):
            return await self._store.revision(), _NOW
        revision, dot, index = str(since).partition(".")
        if not revision.isdecimal() or len(revision) > 18 or (dot and not (index.isdecimal() and len(index) < 9)):
            raise InvalidArgument(f"{str(since)[:40]!r} is no cursor; use the id of an event.", pointer="?since")
        return int(revision), int(index) if dot else keys.LAST_OF_REVISION

    async def follow(self, after: Cursor) -> AsyncGenerator[NumberedEvent, None]:
        """Every event behind *after*, in order, until the VCH is removed. Where some may have gone before they could be
        told, a MISSED comes in their place."""
        while True:
            async with contextlib.aclosing(self._store.watch(self._prefix)) as changes:
                gone = not await self._there()  # asked first: what it says in the end is there by then
                rows = await self._store.since(self._prefix, max(0, after[0] - 1))
                if await self._has_missed(after, rows):
                    yield self._missed(after)
                for row in rows:
                    if (place := _place(row)) > after:
                        after = place
                        numbered = _numbered(row, place)
                        if self._is_foreign(numbered):
                            return
                        yield numbered
                if gone:
                    return
                with contextlib.suppress(Compacted):  # the store was away for long; what came meanwhile is in it
                    async for change in changes:
                        if change.record is not None and (place := _place(change.record)) > after:
                            after = place
                            numbered = _numbered(change.record, place)
                            if self._is_foreign(numbered):
                                return
                            yield numbered
                            if numbered.event.type == LAST_EVENT:
                                return
                    return

    async def _has_missed(self, after: Cursor, rows: Sequence[Record]) -> bool:
        """Whether events behind *after* may be gone: the oldest go first, so none is while one up to there is kept.
        rows: those of that revision, and later ones."""
        if after[0] == 0 or after[1] == _NOW or any(_place(row) <= after for row in rows):
            return False
        oldest = await self._store.since(self._prefix, 0, limit=1)
        return not oldest or _place(oldest[0]) > after

    def _missed(self, after: Cursor) -> NumberedEvent:
        told = Event(type=MISSED, kind="events", id=self._ident, name=self._vch, time=now())
        return NumberedEvent(cursor=_text(after), event=told)

    def _is_foreign(self, numbered: NumberedEvent) -> bool:
        """Whether it is of a later VCH of this name."""
        return numbered.event.kind == "vch" and numbered.event.id != self._ident


def _place(row: Record) -> Cursor:
    return row.revision, int(keys.last(row.key))


def _numbered(row: Record, place: Cursor) -> NumberedEvent:
    return NumberedEvent(cursor=_text(place), event=decode(Event, row.value))


def _text(place: Cursor) -> str:
    revision, index = place
    return f"{revision}" if index >= keys.LAST_OF_REVISION else f"{revision}.{index}"
