"""What changes in etcd, revision by revision: one stream for all watches of a store, and history for those that lag."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from portlayer.interfaces.store import Changed, Compacted
from portlayer.model.errors import Unavailable
from portlayer.stores import etcd_messages as m
from portlayer.stores.etcd_client import PAUSE_SECONDS, Client, HistoryGone
from portlayer.stores.etcd_layout import Layout
from portlayer.stores.etcd_staging import Staging
from portlayer.stores.watching import WHOLE, Cursor, Page

HISTORY_BYTES = 4 << 20
HISTORY_CHANGES = 10_000
"""How much of history is read at once."""

log = logging.getLogger(__name__)
Group = tuple[int, list[Changed]]
"""etcd's revision, and what changed at it."""


class Changes:
    """Reads what changed, from any revision of etcd that is kept."""

    def __init__(self, client: Client, layout: Layout, staging: Staging) -> None:
        self._client = client
        self._layout = layout
        self._staging = staging

    async def after(self, revision: int) -> AsyncGenerator[Group, None]:
        """Every revision after *revision* (etcd's) at which something of this store changed.

        Raises:
            HistoryGone: they are not kept.
            Unavailable: the stream broke.
        """
        space = self._layout.all
        create = m.CLASSES["WatchCreateRequest"](
            key=space.start, range_end=space.end, start_revision=revision + 1, fragment=True
        )
        waiting: list[Any] = []
        async with contextlib.aclosing(self._client.watch(m.CLASSES["WatchRequest"](create_request=create))) as answers:
            async for answer in answers:
                if answer.compact_revision:
                    raise HistoryGone
                if answer.canceled:
                    raise Unavailable(f"etcd ended a watch: {answer.cancel_reason}.", retry_after_seconds=1)
                waiting += answer.events
                if not answer.fragment:
                    for group in _by_revision(waiting):
                        yield group[0].kv.mod_revision, await self._changes(group)
                    waiting = []

    async def _changes(self, events: Sequence[Any]) -> list[Changed]:
        """The changes of one revision."""
        space = self._layout.all
        found: list[Changed] = []
        for event in events:
            kv = event.kv
            if kv.key == space.step:
                return []  # a big transaction is unpacked, which was seen when it happened
            if kv.key == space.big and event.type != m.DELETED:
                return await self._staging.changes(kv)
            if not self._layout.holds(kv.key):
                continue
            if event.type == m.DELETED:
                index = found[-1].index + 1 if found else 0
                found.append(Changed(self._layout.revision(kv.mod_revision), index, self._layout.name(kv.key), None))
            else:
                stored = self._layout.decode(kv)
                record = stored.record
                found.append(Changed(record.revision, stored.header.position, record.key, record))
        return found

    async def page(self, prefix: str, cursor: Cursor, target: int) -> Page:
        """Changes under *prefix* after *cursor*, up to revision *target*, of which it is known that something changed.

        Raises:
            Compacted: they are not kept.
        """
        start = cursor[0] if cursor[1] == WHOLE else cursor[0] - 1
        found: list[Changed] = []
        size = 0
        if start < self._layout.meta.revision:
            raise _compacted(start)
        while True:
            try:
                groups = self.after(self._layout.of_etcd(start + 1) - 1)
                async with contextlib.aclosing(groups):
                    async for at, changes in groups:
                        start = self._layout.revision(at)
                        mine = [one for one in changes if one.key.startswith(prefix)]
                        found += [one for one in mine if (one.revision, one.index) > cursor]
                        size += sum(len(one.record.value) for one in mine if one.record)
                        if start >= target or size > HISTORY_BYTES or len(found) > HISTORY_CHANGES:
                            return Page(found, (start, WHOLE))
            except HistoryGone:
                raise _compacted(start) from None
            except Unavailable:
                if self._client.closed:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def beacon(self) -> int:
        """Change something of ours, so that a watch knows where it starts; etcd's revision."""
        request = m.Txn(success=[m.write(self._layout.all.opened, b"")])
        return int((await self._client.call("txn", request)).header.revision)

    async def follow(
        self, revision: int, publish: Callable[[int, list[Changed]], None], skip: Callable[[int], None]
    ) -> None:
        """Publish all that changes after *revision* (etcd's), for ever, whatever becomes of the connection.

        skip: told a revision where those before it, since the last, cannot be had any more.
        """
        while not self._client.closed:
            try:
                async with contextlib.aclosing(self.after(revision)) as groups:
                    async for at, changes in groups:
                        revision = at
                        publish(at, changes)
            except HistoryGone:
                with contextlib.suppress(Unavailable):
                    revision = await self.beacon()
                    skip(revision)
            except Unavailable as error:
                log.debug("the watch on etcd broke: %s", error.detail)
            except Exception:
                log.exception("the watch on etcd failed; it is begun again")
            await asyncio.sleep(PAUSE_SECONDS)


def _by_revision(events: Sequence[Any]) -> list[list[Any]]:
    groups: list[list[Any]] = []
    for event in events:
        if groups and groups[-1][0].kv.mod_revision == event.kv.mod_revision:
            groups[-1].append(event)
        else:
            groups.append([event])
    return groups


def _compacted(revision: int) -> Compacted:
    return Compacted(f"What changed after revision {revision} is not kept; read the present state.")
