"""All of a SQLite store out, and in. Both block, and open the file themselves."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from portlayer.model.errors import InUse, Unavailable
from portlayer.stores.clock import Clock, boot_clock
from portlayer.stores.snapshot import Row, Snapshot
from portlayer.stores.sqlite_connect import connect
from portlayer.stores.sqlite_errors import unavailable

BUSY_SECONDS = 30.0
READ = """SELECT key, value, revision, created, position, ttl, coalesce(deadline - :now, 0) FROM records
    WHERE deadline IS NULL OR deadline > :now ORDER BY key"""
WRITE = """INSERT INTO records (key, value, revision, created, position, ttl, deadline)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""


def dump(path: Path, *, clock: Clock = boot_clock) -> Snapshot:
    """What the store at *path* holds; processes that use it may go on.

    Raises:
        Unavailable: there is none, or it cannot be read.
    """
    if not path.exists():
        raise Unavailable(f"There is no store {path}.")
    connections = connect(path, clock, BUSY_SECONDS)
    try:
        reader = connections.inline_reader
        reader.execute("BEGIN")
        (revision,) = reader.execute("SELECT revision FROM state").fetchone()
        rows = [Row(*row) for row in reader.execute(READ, {"now": clock()[1]})]
        reader.rollback()
        return Snapshot(revision, rows)
    except sqlite3.Error as error:
        raise unavailable(error, path) from error
    finally:
        for connection in connections:
            connection.close()


def revision(path: Path) -> int:
    """The last revision of the store at *path*; 0 where there is none, or it cannot be told."""
    if not path.exists():
        return 0
    with contextlib.suppress(Unavailable):
        return dump(path).revision
    return 0


def load(path: Path, snapshot: Snapshot, *, replace: bool = False, clock: Clock = boot_clock) -> None:
    """Make a store at *path* that holds *snapshot*; the file is there whole or not at all. Nobody may have it open.

    Raises:
        InUse: there is one, and not *replace*.
        Unavailable: it cannot be written.
    """
    if path.exists() and not replace:
        raise InUse(f"There is a store {path} already.", kind="store", id=str(path))
    fresh = path.with_name(f"{path.name}.new")
    _unlink(fresh)
    connections = connect(fresh, clock, BUSY_SECONDS)
    try:
        _fill(connections.writer, snapshot, clock()[1])
    except sqlite3.Error as error:
        raise unavailable(error, path) from error
    finally:
        for connection in connections:
            connection.close()
    # The journal of the old one must not be taken for the new one's.
    _unlink(path, "-wal", "-shm")
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def _fill(writer: sqlite3.Connection, snapshot: Snapshot, now: float) -> None:
    writer.execute("PRAGMA synchronous = FULL")
    writer.execute("BEGIN IMMEDIATE")
    for row in snapshot.rows:
        deadline = None if row.ttl is None else now + row.left
        writer.execute(WRITE, (row.key, row.value, row.revision, row.created, row.position, row.ttl, deadline))
    writer.execute("UPDATE state SET revision = ?, compacted = ?", (snapshot.revision, snapshot.revision))
    writer.execute("COMMIT")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _unlink(path: Path, *endings: str) -> None:
    for ending in endings or ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
