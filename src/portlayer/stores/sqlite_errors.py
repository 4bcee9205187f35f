"""What SQLite reports, as Unavailable: the reason, and what to do about it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from portlayer.model.errors import Unavailable

PRIMARY = 0xFF
"""An extended result code carries its primary one in the low byte (sqlite.org/rescode.html)."""

BUSY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
BROKEN = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))

ADVICE = {
    sqlite3.SQLITE_FULL: "its disk is full; free some space and try again",
    sqlite3.SQLITE_BUSY: "another process has it locked; try again, or find that process and end it",
    sqlite3.SQLITE_LOCKED: "another process has it locked; try again, or find that process and end it",
    sqlite3.SQLITE_READONLY: "it may not be written; check its owner and mode, and that its disk is mounted writable",
    sqlite3.SQLITE_PERM: "it may not be opened; check its owner and mode",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its directory is there and belongs to this user",
    sqlite3.SQLITE_IOERR: "its disk does not read or write as it should; see the kernel's log, then try again",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup, or move it away to start with an empty store",
    sqlite3.SQLITE_NOTADB: "it is no SQLite file; restore a backup, or move it away to start with an empty store",
}


def primary(error: sqlite3.Error) -> int:
    """The primary result code of *error*; 0 where Python itself raised it."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & PRIMARY


def is_busy(error: Exception) -> bool:
    """Whether *error* says that someone else holds the lock."""
    return isinstance(error, sqlite3.Error) and primary(error) in BUSY


def unavailable(error: sqlite3.Error, path: Path) -> Unavailable:
    """*error*, met at the store at *path*, in the taxonomy."""
    code = primary(error)
    advice = ADVICE.get(code, "SQLite refuses it; try again")
    retry = None if code in BROKEN else 1
    return Unavailable(f"The store {path} cannot be used: {advice} ({error}).", retry_after_seconds=retry)
