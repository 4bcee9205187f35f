"""A batch of transactions on one SQLite connection: all of them in one commit, each with its own answer."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from portlayer.interfaces.store import Changed, Check, CheckFailed, Delete, Empty, Put, Record, Transaction
from portlayer.stores.clock import Clock
from portlayer.stores.keys import bounds
from portlayer.stores.sqlite_errors import is_busy
from portlayer.stores.sqlite_leases import expired

STATE = "SELECT revision, (SELECT min(deadline) FROM records WHERE deadline IS NOT NULL) FROM state"
SET_STATE = "UPDATE state SET revision = ?, alive = ?"
PUT = """INSERT INTO records (key, value, revision, position, created, ttl, deadline) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision,
    position = excluded.position, ttl = excluded.ttl, deadline = excluded.deadline RETURNING created"""
DELETE = "DELETE FROM records WHERE key = ? RETURNING 1"
REMEMBER = "INSERT INTO deletions (revision, position, key) VALUES (?, ?, ?)"
WRITTEN_AT = "SELECT revision FROM records WHERE key = ?"
ANY = "SELECT 1 FROM records WHERE key >= ? AND key < ? AND key <> ? LIMIT 1"
LATEST_TO_GO = "SELECT revision FROM deletions ORDER BY revision DESC, position DESC LIMIT 1 OFFSET ?"

# A value of class BLOB is above every text (sqlite.org/datatype3.html, 4.1): the upper bound of a range without one.
NO_END = b""

LOOK_AGAIN_SECONDS = 0.0005


class Applied(NamedTuple):
    """What a batch did. before: the revision it found; answers: of each transaction, in order."""

    before: int
    last: int
    changes: list[Changed]
    answers: list[int | CheckFailed]


class Applier:
    """Runs batches on *connection*; for the thread that owns it."""

    def __init__(
        self, connection: sqlite3.Connection, clock: Clock, *, kept_deletions: int, busy_seconds: float
    ) -> None:
        connection.execute("PRAGMA busy_timeout = 0")
        # Commits go to the WAL and are not synced: see sqlite_sync.
        connection.execute("PRAGMA synchronous = NORMAL")
        self._connection = connection
        self._busy_seconds = busy_seconds
        self._execute = connection.execute
        self._clock = clock
        self._kept_deletions = kept_deletions
        self._untrimmed = kept_deletions

    def run(self, transactions: Sequence[Transaction], *, wait: bool = True) -> Applied:
        """Commit *transactions*, each seeing those before it; with none, expire leases and tell that we live.

        wait: for other processes that write.
        All checks of a transaction come before its first write, so a refused one has nothing to take back.

        Raises:
            sqlite3.Error: nothing of the batch happened, as far as this connection can tell.
        """
        self._begin(self._busy_seconds if wait else 0.0)
        try:
            applied = self._batch(transactions)
            self._execute("COMMIT" if applied.last > applied.before or not transactions else "ROLLBACK")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise
        return applied

    def _begin(self, busy_seconds: float) -> None:
        # SQLite's own wait sleeps up to 100 ms between two looks, so a process that writes much starves the others.
        give_up = time.monotonic() + busy_seconds
        while True:
            try:
                self._execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > give_up:
                    raise
                time.sleep(LOOK_AGAIN_SECONDS)
            else:
                return

    def _batch(self, transactions: Sequence[Transaction]) -> Applied:
        now = self._clock()[1]
        before, due = self._execute(STATE).fetchone()
        last = before
        changes: list[Changed] = []
        answers: list[int | CheckFailed] = []
        # Expired leases go first, as a transaction of their own, so no check below can see one.
        if due is not None and due <= now:
            last += 1
            keys = expired(self._connection, now)
            changes.extend(self._deleted(last, position, key) for position, key in enumerate(keys))
        for transaction in transactions:
            if failed := [check for check in transaction.checks if not self._holds(check)]:
                answers.append(CheckFailed(failed))
                continue
            last += 1
            changes.extend(self._land(transaction.ops, last, now))
            answers.append(last)
        self._execute(SET_STATE, (last, now))
        if self._untrimmed > self._kept_deletions // 8:
            self._trim()
        return Applied(before, last, changes, answers)

    def _holds(self, check: Check | Empty) -> bool:
        if isinstance(check, Empty):
            lower, upper = bounds(check.prefix)
            return self._execute(ANY, (lower, NO_END if upper is None else upper, check.besides)).fetchone() is None
        row = self._execute(WRITTEN_AT, (check.key,)).fetchone()
        if check.revision is None:
            return row is not None
        return (row[0] if row else 0) == check.revision

    def _land(self, ops: Sequence[Put | Delete], revision: int, now: float) -> Iterator[Changed]:
        for position, op in enumerate(ops):
            if isinstance(op, Put):
                yield self._put(op, revision, position, now)
            elif self._execute(DELETE, (op.key,)).fetchone():
                yield self._deleted(revision, position, op.key)

    def _put(self, op: Put, revision: int, position: int, now: float) -> Changed:
        deadline = None if op.ttl_seconds is None else now + op.ttl_seconds
        row = (op.key, op.value, revision, position, revision, op.ttl_seconds, deadline)
        (created,) = self._execute(PUT, row).fetchone()
        return Changed(revision, position, op.key, Record(op.key, op.value, revision, created))

    def _deleted(self, revision: int, position: int, key: str) -> Changed:
        self._execute(REMEMBER, (revision, position, key))
        self._untrimmed += 1
        return Changed(revision, position, key, None)

    def _trim(self) -> None:
        """Forget old deletions; only now and then, as finding the latest one to go walks over all that stay."""
        self._untrimmed = 0
        if row := self._execute(LATEST_TO_GO, (self._kept_deletions,)).fetchone():
            self._execute("DELETE FROM deletions WHERE revision <= ?", row)
            self._execute("UPDATE state SET compacted = ?", row)
