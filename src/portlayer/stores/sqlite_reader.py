"""Reads: on the event loop where they are short, which nearly all are, else on a thread.

Each read is tried on the loop's own connection with some time to spend; one that takes longer is interrupted and
done over on another connection, in a thread. Both see all that was committed before they began.
"""

from __future__ import annotations

import asyncio
import functools
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from portlayer.interfaces.store import Changed, Compacted, Record
from portlayer.model.errors import Unavailable
from portlayer.stores.clock import Clock
from portlayer.stores.keys import bounds, require_text
from portlayer.stores.sqlite_apply import NO_END
from portlayer.stores.sqlite_errors import primary, unavailable
from portlayer.stores.watching import WHOLE, Cursor, Page

INLINE_SECONDS = 0.002
STEPS_BETWEEN_LOOKS = 500

T = TypeVar("T")
Query = Callable[[sqlite3.Connection], T]

ROW = "SELECT value, revision, created, deadline FROM records WHERE key = ?"
ALIVE = "(deadline IS NULL OR deadline > :now)"
RANGE = f"""SELECT key, value, revision, created FROM records
    WHERE key >= :lower AND key < :upper AND {ALIVE} ORDER BY key LIMIT :limit"""  # noqa: S608
# Two counts over indexes alone, instead of one that reads every record for its deadline.
COUNT = """SELECT (SELECT count(*) FROM records WHERE key >= :lower AND key < :upper)
    - (SELECT count(*) FROM records INDEXED BY records_by_deadline
        WHERE deadline <= :now AND key >= :lower AND key < :upper)"""
# By revision, not by key: nearly always few records are newer, however many have the prefix.
SINCE = f"""SELECT key, value, revision, created FROM records INDEXED BY records_by_revision
    WHERE revision > :revision AND key >= :lower AND key < :upper AND {ALIVE}
    ORDER BY revision, position LIMIT :limit"""  # noqa: S608
CHANGES = f"""SELECT revision, position, key, value, created FROM records INDEXED BY records_by_revision
    WHERE (revision, position) > (:revision, :position) AND key >= :lower AND key < :upper AND {ALIVE}
    UNION ALL SELECT revision, position, key, NULL, 0 FROM deletions
    WHERE (revision, position) > (:revision, :position) AND key >= :lower AND key < :upper
    ORDER BY revision, position LIMIT :limit"""  # noqa: S608
PULSE = "SELECT revision, alive, (SELECT min(deadline) FROM records WHERE deadline IS NOT NULL) FROM state"
NO_LIMIT = -1
FEW = 20
"""Keys up to which one statement reads them all."""


@functools.cache
def rows(keys: int) -> str:
    """The statement that reads so many keys."""
    marks = ", ".join("?" * keys)
    return f"SELECT key, value, revision, created, deadline FROM records WHERE key IN ({marks})"  # noqa: S608


class Pulse(NamedTuple):
    """revision: the last one; alive: when a process last was; deadline: of the next lease to expire."""

    revision: int
    alive: float
    deadline: float | None


class Reader:
    """Owns two read-only connections to the store at *path*: *inline* for the loop, *long* for a thread."""

    def __init__(self, path: Path, inline: sqlite3.Connection, long: sqlite3.Connection, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._inline = inline
        self._inline.set_progress_handler(self._overdue, STEPS_BETWEEN_LOOKS)
        self._inline_until = 0.0
        self._long = long
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._refused: Unavailable | None = None

    async def get(self, key: str) -> Record | None:
        return await self._read(lambda connection: self._record(connection, require_text(key)))

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        for key in keys:
            require_text(key)
        if len(keys) <= FEW:
            return await self._read(lambda connection: self._few(connection, keys))
        return await self._read(_snapshot(lambda connection: [self._record(connection, key) for key in keys]))

    async def range(self, prefix: str, after: str, limit: int) -> list[Record]:
        span = self._span(prefix, after) | {"limit": limit or NO_LIMIT}
        rows = await self._read(lambda connection: connection.execute(RANGE, span).fetchall())
        return [Record(*row) for row in rows]

    async def ranges(self, prefixes: Sequence[str]) -> list[list[Record]]:
        spans = [self._span(prefix) | {"limit": NO_LIMIT} for prefix in prefixes]
        found = await self._read(
            _snapshot(lambda connection: [connection.execute(RANGE, span).fetchall() for span in spans])
        )
        return [[Record(*row) for row in rows] for rows in found]

    async def count(self, prefix: str) -> int:
        span = self._span(prefix)
        (found,) = await self._read(lambda connection: connection.execute(COUNT, span).fetchone())
        return int(found)

    async def since(self, prefix: str, revision: int, limit: int) -> list[Record]:
        span = self._span(prefix) | {"revision": revision, "limit": limit or NO_LIMIT}
        rows = await self._read(lambda connection: connection.execute(SINCE, span).fetchall())
        return [Record(*row) for row in rows]

    async def changes(self, prefix: str, cursor: Cursor, limit: int) -> Page:
        """The next changes after *cursor*: those that are still in the file.

        Raises:
            Compacted: deletions after it are not kept any more.
        """
        span = self._span(prefix) | {"revision": cursor[0], "position": cursor[1], "limit": limit}

        def query(connection: sqlite3.Connection) -> Page:
            revision, compacted = connection.execute("SELECT revision, compacted FROM state").fetchone()
            if cursor < (compacted, WHOLE):
                raise Compacted(f"Deletions up to revision {compacted} are not kept; read the present state.")
            found = [_changed(*row) for row in connection.execute(CHANGES, span)]
            return Page(found, (found[-1].revision, found[-1].index) if len(found) == limit else (revision, WHOLE))

        return await self._read(_snapshot(query))

    def pulse(self) -> Pulse:
        """The present state of the store, at once."""
        row = self._at_once(lambda connection: connection.execute(PULSE).fetchone(), math.inf)
        return Pulse(*row)

    def check(self) -> None:
        """Raises what `refuse` was told."""
        if self._refused is not None:
            raise self._refused

    def refuse(self, reason: Unavailable) -> None:
        """Answer nothing any more."""
        self._refused = self._refused or reason

    async def close(self) -> None:
        self.refuse(Unavailable(f"The store {self._path} is closed; open it again."))
        await asyncio.to_thread(self._executor.shutdown)
        self._inline.close()
        self._long.close()

    def _record(self, connection: sqlite3.Connection, key: str) -> Record | None:
        row = connection.execute(ROW, (key,)).fetchone()
        if row is None:
            return None
        value, revision, created, deadline = row
        if deadline is not None and deadline <= self._clock()[1]:
            return None
        return Record(key, value, revision, created)

    def _few(self, connection: sqlite3.Connection, keys: Sequence[str]) -> list[Record | None]:
        """In one statement, which sees one instant."""
        now = self._clock()[1]
        found = {
            key: Record(key, value, revision, created)
            for key, value, revision, created, deadline in connection.execute(rows(len(keys)), keys)
            if deadline is None or deadline > now
        }
        return [found.get(key) for key in keys]

    def _span(self, prefix: str, after: str = "") -> dict[str, str | bytes | float]:
        lower, upper = bounds(prefix, after)
        return {"lower": lower, "upper": NO_END if upper is None else upper, "now": self._clock()[1]}

    async def _read(self, query: Query[T]) -> T:
        try:
            return self._at_once(query)
        except _Overdue:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._at_length, query)

    def _at_once(self, query: Query[T], seconds: float | None = None) -> T:
        self.check()
        self._inline_until = time.perf_counter() + (INLINE_SECONDS if seconds is None else seconds)
        try:
            return query(self._inline)
        except sqlite3.Error as error:
            if primary(error) == sqlite3.SQLITE_INTERRUPT:
                raise _Overdue from None
            raise unavailable(error, self._path) from error
        finally:
            self._inline_until = math.inf  # the end of a snapshot must not be cut short as well
            self._inline.rollback()

    def _at_length(self, query: Query[T]) -> T:
        try:
            return query(self._long)
        except sqlite3.Error as error:
            raise unavailable(error, self._path) from error
        finally:
            self._long.rollback()

    def _overdue(self) -> bool:
        return time.perf_counter() > self._inline_until


class _Overdue(Exception):
    """A read that the event loop cannot wait for."""


def _snapshot(query: Query[T]) -> Query[T]:
    """*query*, all of whose statements see one instant; who runs it ends the transaction."""

    def run(connection: sqlite3.Connection) -> T:
        connection.execute("BEGIN")
        return query(connection)

    return run


def _changed(revision: int, position: int, key: str, value: bytes | None, created: int) -> Changed:
    record = None if value is None else Record(key, value, revision, created)
    return Changed(revision, position, key, record)
