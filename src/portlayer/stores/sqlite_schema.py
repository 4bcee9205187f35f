"""The schema of a store's file, its version, and how an older file becomes a present one.

    the file                    application_id: ours; user_version: the schema's version; journal: WAL
    ├── state                   one row
    │   ├── revision            of the last transaction
    │   ├── compacted           deletions up to this revision are not kept
    │   ├── boot                boot id that all deadlines belong to; null in a new file
    │   └── alive               seconds since that boot at which a process last had the store open
    ├── records                 what is there, by key; also by (revision, position), and leases by deadline
    │   ├── key, value          text in order of code points; bytes
    │   ├── revision, position  transaction that wrote it last, and the place in it
    │   ├── created             revision that made it
    │   ├── ttl                 seconds; null: it stays
    │   └── deadline            seconds since that boot; null: it stays
    └── deletions               the latest deletions, for watches that resume; by (revision, position)
        ├── revision, position
        └── key

A file of version n becomes one of version n + 1 by STEPS[n]; a new file goes through all of them. Steps that have
been released are never edited: a change of the schema is one more step.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from portlayer.model.errors import Unavailable

APPLICATION_ID = 0x706F7274
Step = Sequence[str]
_AGAIN_SECONDS = 0.005
_PRIMARY = 0xFF  # of an extended result code

STEPS: tuple[Step, ...] = (
    (
        "CREATE TABLE state (revision INTEGER NOT NULL, compacted INTEGER NOT NULL, boot TEXT, alive REAL NOT NULL)",
        "INSERT INTO state VALUES (0, 0, NULL, 0)",
        """CREATE TABLE records (
            id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL,
            revision INTEGER NOT NULL, position INTEGER NOT NULL, created INTEGER NOT NULL,
            ttl REAL, deadline REAL)""",
        "CREATE INDEX records_by_revision ON records (revision, position)",
        "CREATE INDEX records_by_deadline ON records (deadline) WHERE deadline IS NOT NULL",
        """CREATE TABLE deletions (
            revision INTEGER NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL,
            PRIMARY KEY (revision, position)) WITHOUT ROWID""",
    ),
)


def prepare(connection: sqlite3.Connection, path: Path, steps: Sequence[Step] = STEPS) -> None:
    """Make the file what *steps* say; in one transaction, so that a failure leaves it as it was.

    Raises:
        Unavailable: it belongs to another program, or to a newer portlayer.
        sqlite3.Error: as SQLite reports it.
    """
    _log_ahead(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path, len(steps))
        for step in steps[version:]:
            for statement in step:
                connection.execute(statement)
        if version < len(steps):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(steps)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Let the file have a write-ahead log. Of those that open a new one at once SQLite refuses some without waiting."""
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    until = time.monotonic() + patience / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_AGAIN_SECONDS)
        else:
            return


def _version(connection: sqlite3.Connection, path: Path, known: int) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION_ID:
        raise Unavailable(f"{path} is the database of another program; give the store a path of its own.")
    if version > known:
        raise Unavailable(
            f"The store {path} has schema version {version}, and this portlayer knows versions up to {known}; "
            "run the portlayer that wrote it or a newer one, or restore a backup from before its upgrade."
        )
    return int(version)
