"""Checkpoints: moving the WAL into the database file, on a thread of their own.

A passive checkpoint lets the writer go on meanwhile, so under steady load it never reaches the WAL's end, and the
WAL is not begun again; when it has grown long, a restarting one holds up the writer for its last pages.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from portlayer.interfaces.store import Changed

PAGE_BYTES = 4096
PAGES_A_CHANGE = 4
CHECKPOINT_PAGES = 1000
LONG_PAGES = 8000


class Checkpointer:
    """Owns *connection*. `written` is called by the writer's thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store-checkpoint")
        self._pages = 0

    def written(self, changes: Sequence[Changed]) -> None:
        """Count what went to the WAL, roughly, and checkpoint when it is enough."""
        size = sum(len(change.record.value) for change in changes if change.record)
        self._pages += 1 + PAGES_A_CHANGE * len(changes) + size // PAGE_BYTES
        if self._pages >= CHECKPOINT_PAGES:
            self._pages = 0
            self._executor.submit(self._checkpoint)

    def _checkpoint(self) -> None:
        # A failure loses nothing, as the WAL has it all; the next one is tried after as many pages.
        with suppress(sqlite3.Error):
            _, pages, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > LONG_PAGES:
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    async def close(self) -> None:
        """Finish what runs; close the connection. The writer must have ended."""
        await asyncio.to_thread(self._executor.shutdown)
        await asyncio.to_thread(self._connection.close)
