"""Durability: commits go to the WAL at once, and a thread syncs the WAL behind them, one sync for all that wait.

    commit A ──> WAL          commit B ──> WAL     commit C ──> WAL
                 └─ sync for A ──────────────> answer A
                                                └─ sync for B and C ─────────> answer B, C

So no transaction waits for the sync of another, durable or not, and the order in which they survive a power failure
is that of the WAL. A sync that was begun before a commit is none for it.
Source: sqlite.org/wal.html; what PRAGMA synchronous = FULL does at commit, and NORMAL leaves to us.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from portlayer.model.errors import Unavailable

Sync = Callable[[int], None]
"""Brings the content of a descriptor's file to the disk; raises OSError."""


class Syncer:
    """Syncs the WAL of the store at *path*. It never locks that file, and neither does SQLite, so that a descriptor of
    our own drops no lock of SQLite's (fcntl(2), F_SETLK).

    broken: called with the reason when a sync has failed: the kernel may have dropped what it could not write, and
    the next sync would not tell.
    """

    def __init__(self, path: Path, sync: Sync, broken: Callable[[Unavailable], None]) -> None:
        self._path = path
        self._sync = sync
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store-sync")
        self._descriptor = -1
        self._waiting: list[asyncio.Future[None]] = []
        self._running: asyncio.Future[None] | None = None

    def synced(self) -> asyncio.Future[None]:
        """Done once all that has been committed until now is on the disk; Unavailable where that cannot be."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(done)
        if self._running is None:
            self._begin()
        return done

    def _begin(self) -> None:
        told, self._waiting = self._waiting, []
        self._running = self._loop.run_in_executor(self._executor, self._bring)
        self._running.add_done_callback(lambda running: self._end(running, told))

    def _bring(self) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)  # the name of the WAL, where it is new
            finally:
                os.close(directory)
        self._sync(self._descriptor)

    def _end(self, running: asyncio.Future[None], told: list[asyncio.Future[None]]) -> None:
        self._running = None
        error = running.exception()
        reason = None if error is None else self._reason(error)
        for done in told:
            if done.done():
                continue  # its caller was cancelled
            if reason is None:
                done.set_result(None)
            else:
                done.set_exception(reason)
        if reason is not None:
            self._broken(reason)
        if self._waiting:
            self._begin()

    def _reason(self, error: BaseException) -> Unavailable:
        return Unavailable(
            f"The store {self._path} cannot be used: its disk does not write as it should ({error}); see the kernel's "
            "log, then start again."
        )

    async def close(self) -> None:
        """Once nobody waits; the writer has ended."""
        while self._running is not None:
            with suppress(OSError):
                await asyncio.shield(self._running)
            await asyncio.sleep(0)  # what is done already is no wait, and `_end` needs the loop
        await asyncio.to_thread(self._executor.shutdown)
        if self._descriptor >= 0:
            os.close(self._descriptor)
