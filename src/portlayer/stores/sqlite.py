"""The SQLite store: the embedded default, for all processes of one host.

    SqliteStore
    ├── Writer         a connection, and a thread for when it has to wait; revision and leases are kept in the file
    ├── Syncer         a thread: brings the WAL to the disk, for all that wait for it at once
    ├── Checkpointer   a thread and a connection: moves the WAL into the file
    ├── Reader         two read-only connections: one for the event loop, one with a thread for long reads
    └── Hub            watches; changes of other processes are found by looking at the revision now and then

The file is described in sqlite_schema. Several processes may have it open: SQLite makes their transactions take turns.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from portlayer.interfaces.store import Record, Transaction
from portlayer.model.errors import Unavailable
from portlayer.stores.clock import Clock, boot_clock
from portlayer.stores.keys import require_text, validate
from portlayer.stores.sqlite_apply import Applied, Applier
from portlayer.stores.sqlite_checkpoint import Checkpointer
from portlayer.stores.sqlite_connect import Connections, connect
from portlayer.stores.sqlite_leases import HEARTBEAT_SECONDS
from portlayer.stores.sqlite_reader import Reader
from portlayer.stores.sqlite_sync import Sync, Syncer
from portlayer.stores.sqlite_writer import Writer
from portlayer.stores.watching import KEPT_DELETIONS, Hub, Watch

BUSY_SECONDS = 5.0


class SqliteStore:
    """Records in a SQLite file; `open` makes it."""

    name = "sqlite"

    def __init__(self, path: Path, connections: Connections, clock: Clock, applier: Applier, sync: Sync) -> None:
        self._clock = clock
        self._reader = Reader(path, connections.inline_reader, connections.long_reader, clock)
        self._checkpointer = Checkpointer(connections.checkpointer)
        syncer = Syncer(path, sync, self._reader.refuse)
        self._writer = Writer(path, connections.writer, applier, self._checkpointer, syncer, self._landed)
        self._hub = Hub(self._present(), self._reader.changes, self._refresh, idle_seconds=HEARTBEAT_SECONDS)
        self._hub.schedule()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock = boot_clock,
        kept_deletions: int = KEPT_DELETIONS,
        busy_seconds: float = BUSY_SECONDS,
        sync: Sync = os.fdatasync,
    ) -> Self:
        """Open the file at *path*; an older one is migrated, a missing one made.

        Args:
            path: The file; SQLite puts two more beside it (`-wal`, `-shm`) while it is open.
            clock: What leases are counted by.
            kept_deletions: How many deletions a resumed watch can still see, at least.
            busy_seconds: How long a transaction waits for those of other processes before it is Unavailable.
            sync: How what was written gets to the disk. Where that fails, the store is Unavailable until it is opened
                again: nobody can tell what is there.
        Raises:
            Unavailable: it cannot be opened, is damaged, of another program, or of a newer portlayer.
        """
        connections = await asyncio.to_thread(connect, path, clock, busy_seconds)
        applier = Applier(connections.writer, clock, kept_deletions=kept_deletions, busy_seconds=busy_seconds)
        return cls(path, connections, clock, applier, sync)

    async def get(self, key: str) -> Record | None:
        return await self._reader.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        return await self._reader.get_many(keys)

    async def range(self, prefix: str, *, after: str = "", limit: int = 0) -> list[Record]:
        return await self._reader.range(prefix, after, limit)

    async def ranges(self, prefixes: Sequence[str]) -> list[list[Record]]:
        return await self._reader.ranges(prefixes)

    async def count(self, prefix: str) -> int:
        return await self._reader.count(prefix)

    async def since(self, prefix: str, revision: int, *, limit: int = 0) -> list[Record]:
        return await self._reader.since(prefix, revision, limit)

    async def revision(self) -> int:
        return self._present()

    async def apply(self, transaction: Transaction) -> int:
        validate(transaction)
        self._reader.check()
        return await self._writer.submit(transaction)

    async def sync(self) -> None:
        self._reader.check()
        await self._writer.synced()

    def watch(self, prefix: str, revision: int | None = None) -> Watch:
        return self._hub.watch(require_text(prefix), revision, self._present())

    async def close(self) -> None:
        self._hub.close()
        await self._reader.close()
        await self._writer.close()
        # Last, as the last connection that can write leaves the file without a WAL.
        await self._checkpointer.close()

    def _present(self) -> int:
        return self._reader.pulse().revision

    def _landed(self, applied: Applied) -> None:
        self._hub.publish(applied.before, applied.last, applied.changes)

    def _refresh(self) -> None:
        # While the writer is at it, it finds what others wrote by itself, and expires leases.
        if not self._writer.idle:
            return
        with suppress(Unavailable):
            pulse = self._reader.pulse()
            if pulse.revision > self._hub.tip[0]:
                self._hub.skip_to(pulse.revision)
            now = self._clock()[1]
            if pulse.deadline is not None and (pulse.deadline <= now or now - pulse.alive >= HEARTBEAT_SECONDS):
                self._writer.upkeep()
