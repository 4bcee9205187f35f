"""The etcd store: for processes on several machines, all of which see one etcd v3 cluster.

    EtcdStore
    ├── Client         endpoints in turn, TLS, password, errors
    ├── Applier        transactions; leases that this process gave
    │   └── Staging    transactions beyond etcd's limits
    ├── Room           makes room where etcd's quota is used up
    ├── Changes        one watch stream for all watches, history for those that lag
    └── Hub            watches

The keys are described in etcd_layout. Every read is linearizable: etcd confirms its leader for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Self

import msgspec

from portlayer.interfaces.store import Changed, Compacted, Record, Transaction
from portlayer.model.errors import Unavailable
from portlayer.stores import etcd_messages as m
from portlayer.stores.clock import Clock, boot_clock
from portlayer.stores.etcd_apply import Applier
from portlayer.stores.etcd_client import Access, Client, HistoryGone
from portlayer.stores.etcd_follow import Changes
from portlayer.stores.etcd_layout import VERSION, Layout, Meta, names, read_meta
from portlayer.stores.etcd_leases import SPARE_SECONDS, SharedLeases
from portlayer.stores.etcd_room import Room
from portlayer.stores.etcd_staging import MAX_OPS, Staging
from portlayer.stores.keys import require_text, validate
from portlayer.stores.watching import Cursor, Hub, Page, Watch

KEPT_REVISIONS = 100_000
"""How many revisions of etcd a watch that resumes can go back, at least."""
UPKEEP_SECONDS = 0.25

log = logging.getLogger(__name__)


class EtcdStore:
    """Records under one prefix of an etcd; `open` makes it."""

    name = "etcd"

    def __init__(
        self, client: Client, layout: Layout, clock: Clock, opened: int, kept_revisions: int, spare_seconds: float
    ) -> None:
        self._client = client
        self._layout = layout
        self._staging = Staging(client, layout)
        self._applier = Applier(client, layout, self._staging, SharedLeases(client, clock, spare_seconds), clock)
        self._changes = Changes(client, layout, self._staging)
        self._kept_revisions = kept_revisions
        self._compacted = opened
        self._seen = layout.revision(opened)
        self._hub = Hub(self._seen, self._reread, self._upkeep, idle_seconds=UPKEEP_SECONDS)
        self._hub.schedule()
        self._tasks = {asyncio.create_task(self._changes.follow(opened, self._publish, self._skip))}
        if kept_revisions:
            self._spawn(Room(client).keep())

    @classmethod
    async def open(
        cls,
        access: Access,
        prefix: str,
        *,
        clock: Clock = boot_clock,
        kept_revisions: int = KEPT_REVISIONS,
        spare_seconds: float = SPARE_SECONDS,
    ) -> Self:
        """Open the store under *prefix*; a missing one is made.

        Args:
            access: How etcd is reached.
            prefix: One word; stores with different ones know nothing of each other.
            clock: What the leases of this process are counted by.
            kept_revisions: How far a resumed watch can go back, at least; older history is compacted, of the whole
                etcd, and all of it where its quota is used up. 0: who runs etcd sees to that.
            spare_seconds: How long a lease may outlive its time, at most a quarter of it or this, where the process
                that gave it is no more.
        Raises:
            InvalidArgument: a prefix or certificates that cannot be.
            Unavailable: it cannot be reached, refuses us, or holds something else or something newer.
        """
        client = Client(access)
        try:
            await client.authenticate()
            layout, opened = await _enter(client, prefix, access)
            return cls(client, layout, clock, opened, kept_revisions, spare_seconds)
        except BaseException:
            await client.close()
            raise

    async def get(self, key: str) -> Record | None:
        found, _ = await self._read([m.read(self._layout.key(key))])
        return self._record(found[0])

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        wanted = [self._layout.key(key) for key in keys]
        while True:
            try:
                return [self._record(one) for one in await self._many(wanted)]
            except HistoryGone:
                continue  # compacted between two parts

    async def _many(self, wanted: Sequence[bytes]) -> list[Any]:
        found: list[Any] = []
        at = 0
        for start in range(0, len(wanted), MAX_OPS):
            part = [m.read(key, revision=at) for key in wanted[start : start + MAX_OPS]]
            some, revision = await self._read(part)
            at = at or revision
            found += some
        return found

    async def range(self, prefix: str, *, after: str = "", limit: int = 0) -> list[Record]:
        start, end = self._layout.span(prefix, after)
        if start >= end:
            return []
        found, _ = await self._read([m.read(start, range_end=end, limit=limit)])
        return [self._layout.decode(kv).record for kv in found[0].kvs]

    async def ranges(self, prefixes: Sequence[str]) -> list[list[Record]]:
        spans = [self._layout.span(prefix) for prefix in prefixes]
        found, _ = await self._read([m.read(start, range_end=end) for start, end in spans])
        return [[self._layout.decode(kv).record for kv in one.kvs] for one in found]

    async def count(self, prefix: str) -> int:
        start, end = self._layout.span(prefix)
        found, _ = await self._read([m.read(start, range_end=end, count_only=True)])
        return int(found[0].count)

    async def since(self, prefix: str, revision: int, *, limit: int = 0) -> list[Record]:
        start, end = self._layout.span(prefix)
        # What was moved has a higher revision in etcd than it says, never a lower one.
        least = max(0, self._layout.of_etcd(revision) + 1)
        found, _ = await self._read([m.read(start, range_end=end, min_mod_revision=least)])
        rows = [self._layout.decode(kv) for kv in found[0].kvs]
        rows = [row for row in rows if row.record.revision > revision]
        rows.sort(key=lambda row: (row.record.revision, row.header.position))
        return [row.record for row in (rows[:limit] if limit else rows)]

    async def revision(self) -> int:
        _, at = await self._read([])
        return self._layout.revision(at)

    async def apply(self, transaction: Transaction) -> int:
        validate(transaction)
        await self._ready()
        revision = self._layout.revision(await self._applier.apply(transaction))
        self._seen = max(self._seen, revision)
        return revision

    async def sync(self) -> None:
        """Nothing to do: etcd answers when it is on the disks of most members."""

    def watch(self, prefix: str, revision: int | None = None) -> Watch:
        if self._client.closed:
            raise Unavailable("The store is closed; open it again.")
        return self._hub.watch(require_text(prefix), revision, self._seen)

    async def close(self) -> None:
        self._hub.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._client.close()

    async def _ready(self) -> None:
        if self._client.closed:
            raise Unavailable("The store is closed; open it again.")
        if self._applier.any_due:
            await self._applier.expire()

    async def _read(self, operations: Sequence[Any]) -> tuple[list[Any], int]:
        """What *operations* find, at one instant, at which no big transaction is half done; and etcd's revision."""
        await self._ready()
        request = m.Txn(success=[m.read(self._layout.all.big), *operations])
        while True:
            answer = await self._client.call("txn", request)
            big, *found = (one.response_range for one in answer.responses)
            self._seen = max(self._seen, self._layout.revision(answer.header.revision))
            if not big.kvs or not self._staging.owned(big.kvs[0]):
                return found, answer.header.revision
            await self._staging.settle(big.kvs[0])

    def _record(self, found: Any) -> Record | None:
        return self._layout.decode(found.kvs[0]).record if found.kvs else None

    def _publish(self, at: int, changes: list[Changed]) -> None:
        revision = self._layout.revision(at)
        self._seen = max(self._seen, revision)
        self._hub.publish(self._hub.tip[0], revision, changes)
        if self._kept_revisions and at - self._compacted >= 2 * self._kept_revisions:
            self._compacted = at - self._kept_revisions
            self._spawn(self._compact(self._compacted))

    def _skip(self, at: int) -> None:
        revision = self._layout.revision(at)
        self._seen = max(self._seen, revision)  # a watch that begins now does not begin with what is gone
        self._hub.skip_to(revision)

    async def _reread(self, prefix: str, cursor: Cursor, _limit: int) -> Page:
        if cursor[0] < 0:
            # A revision that this process has not heard of: etcd knows whether it has been.
            revision = ~cursor[0]
            if revision > await self.revision():
                raise Compacted(f"The store has not reached revision {revision}; read the present state.")
            return Page([], (revision, cursor[1]))
        return await self._changes.page(prefix, cursor, self._hub.tip[0])

    def _upkeep(self) -> None:
        if self._applier.any_due and not self._applier.expiring:
            self._spawn(self._applier.expire())

    async def _compact(self, at: int) -> None:
        with contextlib.suppress(HistoryGone):  # another process did
            await self._client.call("compact", m.CLASSES["CompactionRequest"](revision=at))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("upkeep of the etcd store: %s", error)


async def _enter(client: Client, prefix: str, access: Access) -> tuple[Layout, int]:
    """Make the store or look at what is there; its layout, and etcd's revision of a change of ours."""
    space = names(prefix)
    where = f"{prefix} in etcd at {', '.join(access.endpoints)}"
    fresh = msgspec.json.encode(Meta(VERSION, 0))
    request = m.Txn(
        compare=[m.written_at(space.start, 0, end=space.end)],
        success=[m.write(space.meta, fresh)],
        failure=[m.read(space.meta)],
    )
    answer = await client.call("txn", request)
    if answer.succeeded:
        return Layout(prefix, Meta(VERSION, 0), answer.header.revision), answer.header.revision
    found = answer.responses[0].response_range.kvs
    if not found:
        raise Unavailable(f"{where} holds something else; give the store a prefix of its own.")
    layout = Layout(prefix, read_meta(found[0].value, where), found[0].mod_revision)
    return layout, await Changes(client, layout, Staging(client, layout)).beacon()
