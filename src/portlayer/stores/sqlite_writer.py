"""The writer: commits in place, or, where another process is at the file or much is to be written, on a thread that
commits all that waits as one.

loop     submit ──> Applier.run ──────────────────────> deliver: publish to watches, answer callers
            └─────> queue ──┐                       ┌──> deliver
thread                      └─ drain, Applier.run ──┘

Who wants it durable is answered after a sync (see sqlite_sync).
"""

from __future__ import annotations

import asyncio
import enum
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import Empty as Drained
from queue import SimpleQueue
from typing import NamedTuple

from portlayer.interfaces.store import Transaction
from portlayer.model.errors import Unavailable
from portlayer.stores.sqlite_apply import Applied, Applier
from portlayer.stores.sqlite_checkpoint import Checkpointer
from portlayer.stores.sqlite_errors import is_busy, unavailable
from portlayer.stores.sqlite_sync import Syncer

BATCH = 256
AT_ONCE = 200
"""Operations up to which a transaction is committed in place: some 15 microseconds each."""


class Job(NamedTuple):
    """A transaction that waits for its answer."""

    transaction: Transaction
    answer: asyncio.Future[int]


class Order(enum.Enum):
    """What the thread is told besides jobs. UPKEEP: expire leases, tell that we live."""

    UPKEEP = enum.auto()
    STOP = enum.auto()


class Writer:
    """Owns *connection*. landed is called on the loop with what each commit did, before its callers are answered."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        applier: Applier,
        checkpointer: Checkpointer,
        syncer: Syncer,
        landed: Callable[[Applied], None],
    ) -> None:
        self._path = path
        self._connection = connection
        self._applier = applier
        self._checkpointer = checkpointer
        self._syncer = syncer
        self._landed = landed
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job | Order] = SimpleQueue()
        self._waiting = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Nothing is on its way to the file, nor back from it."""
        return not self._waiting

    def submit(self, transaction: Transaction) -> asyncio.Future[int]:
        """Its answer comes once it is committed."""
        answer = self._loop.create_future()
        if self._stopped:
            answer.set_exception(Unavailable(f"The store {self._path} is closed; open it again."))
        elif not self.idle or len(transaction.ops) > AT_ONCE or not self._at_once(Job(transaction, answer)):
            self._waiting += 1
            self._queue.put(Job(transaction, answer))
        return answer

    def synced(self) -> asyncio.Future[None]:
        """Done once all that has been answered until now is on the disk."""
        return self._syncer.synced()

    def _at_once(self, job: Job) -> bool:
        """Commit here, while the thread has nothing to do; False where another process is at the file.

        It takes some 0.1 ms; handing it to the thread and back would take as long again.
        """
        try:
            applied = self._applier.run([job.transaction], wait=False)
        except sqlite3.Error as error:
            if is_busy(error):
                return False
            self._deliver(0, None, [(job, unavailable(error, self._path))])
        else:
            self._deliver(0, applied, [(job, applied.answers[0])])
            self._checkpointer.written(applied.changes)
        return True

    def upkeep(self) -> None:
        """Expire leases and tell that we live, some time soon; a failure shows in the next transaction."""
        self._waiting += 1
        self._queue.put(Order.UPKEEP)

    async def close(self) -> None:
        """Commit what waits, then end the thread and the connection."""
        if self._stopped:
            return
        self._stopped = True
        self._queue.put(Order.STOP)
        await asyncio.to_thread(self._thread.join)
        await self._syncer.close()
        await asyncio.to_thread(self._connection.close)

    def _run(self) -> None:
        while True:
            orders = self._drain()
            jobs = [order for order in orders if isinstance(order, Job)]
            if jobs or Order.UPKEEP in orders:
                self._commit(jobs, len(jobs) + orders.count(Order.UPKEEP))
            if Order.STOP in orders:
                return

    def _drain(self) -> list[Job | Order]:
        orders = [self._queue.get()]
        try:
            while len(orders) < BATCH:
                orders.append(self._queue.get_nowait())
        except Drained:
            pass
        return orders

    def _commit(self, jobs: Sequence[Job], done: int) -> None:
        try:
            applied = self._applier.run([job.transaction for job in jobs])
        except Exception as error:  # noqa: BLE001 - whatever it is, its callers must hear of it
            self._failed(jobs, done, error)
        else:
            self._post(done, applied, list(zip(jobs, applied.answers, strict=True)))
            self._checkpointer.written(applied.changes)

    def _failed(self, jobs: Sequence[Job], done: int, error: Exception) -> None:
        if len(jobs) > 1 and not is_busy(error):
            # One of them may be too much for the disk: the others must not fail with it.
            self._post(done - len(jobs), None, [])
            for job in jobs:
                self._commit([job], 1)
            return
        reason = unavailable(error, self._path) if isinstance(error, sqlite3.Error) else error
        self._post(done, None, [(job, reason) for job in jobs])

    def _post(self, done: int, applied: Applied | None, answers: Sequence[tuple[Job, int | Exception]]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, done, applied, answers)

    def _deliver(self, done: int, applied: Applied | None, answers: Sequence[tuple[Job, int | Exception]]) -> None:
        self._waiting -= done
        if applied is not None:
            self._landed(applied)
        for job, answer in answers:
            if job.answer.done():
                continue  # its caller was cancelled
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            elif job.transaction.durable:
                self._syncer.synced().add_done_callback(partial(_answer, job, answer))
            else:
                job.answer.set_result(answer)


def _answer(job: Job, revision: int, synced: asyncio.Future[None]) -> None:
    error = synced.exception()
    if job.answer.done():
        return
    if error is None:
        job.answer.set_result(revision)
    else:
        job.answer.set_exception(error)
