"""Opening a store's file: all connections to it, and the check that it is one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from portlayer.model.errors import Unavailable
from portlayer.stores import sqlite_leases, sqlite_schema
from portlayer.stores.clock import Clock
from portlayer.stores.sqlite_errors import unavailable


class Connections(NamedTuple):
    """The connections of one store, each for one thread at a time."""

    writer: sqlite3.Connection
    checkpointer: sqlite3.Connection
    inline_reader: sqlite3.Connection
    long_reader: sqlite3.Connection


def connect(path: Path, clock: Clock, busy_seconds: float) -> Connections:
    """Open the file: made if it is not there (mode 0600), migrated, its leases resumed. Blocks.

    Raises:
        Unavailable: it cannot be opened, is damaged, of another program, or of a newer portlayer.
    """
    try:
        # Only a new file is opened here: closing a second descriptor would drop SQLite's locks (fcntl(2), F_SETLK).
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with ExitStack() as opened:
            connections = Connections(
                *(_connect(path, mode, busy_seconds, opened) for mode in ("rw", "rw", "ro", "ro"))
            )
            _make_ready(connections.writer, path, clock)
            for connection in connections:  # what each has open, it has from now on, and not from its first use
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            opened.pop_all()
            return connections
    except sqlite3.Error as error:
        raise unavailable(error, path) from error
    except OSError as error:
        raise Unavailable(f"The store {path} cannot be made: {error.strerror}; check its directory.") from error


def _connect(path: Path, mode: str, busy_seconds: float, opened: ExitStack) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    opened.callback(connection.close)
    return connection


def _make_ready(connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
    # Checkpoints have a thread of their own: at commit they would cost a caller some ten milliseconds.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # Some distributions build SQLite to overwrite what is deleted; that writes more pages and protects nothing here.
    connection.execute("PRAGMA secure_delete = OFF")
    sqlite_schema.prepare(connection, path)
    connection.execute("BEGIN IMMEDIATE")
    sqlite_leases.resume(connection, *clock())
    connection.execute("COMMIT")
