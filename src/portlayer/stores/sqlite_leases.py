"""Leases in SQLite: expiry within a transaction, and what opening the file does to them."""

from __future__ import annotations

import sqlite3

RESTART_SECONDS = 30.0
"""Time in which no process has the store open counts for leases up to this, so that a restart changes nothing."""

HEARTBEAT_SECONDS = 5.0
"""How stale `state.alive` may get while a process has the store open and there are leases."""

REBOOT_GAP = 1_000_000
"""How far the revision skips after a reboot: beyond what may have been lost with transactions that were not durable."""


def expired(connection: sqlite3.Connection, now: float) -> list[str]:
    """Remove the records whose time is over at *now*; their keys, in order."""
    rows = connection.execute("DELETE FROM records WHERE deadline <= ? RETURNING key", (now,)).fetchall()
    return sorted(key for (key,) in rows)


def resume(connection: sqlite3.Connection, boot: str, now: float) -> None:
    """Bring deadlines to this boot and moment; call it within a transaction, when a process opens the file."""
    known, alive = connection.execute("SELECT boot, alive FROM state").fetchone()
    if known == boot:
        _skip_pause(connection, alive, now)
        connection.execute("UPDATE state SET alive = max(alive, ?)", (now,))
        return
    connection.execute("UPDATE records SET deadline = ? + ttl WHERE ttl IS NOT NULL", (now,))
    # A number that a power failure took back must not be given again: who resumes from it would miss changes.
    gap = REBOOT_GAP if known else 0
    connection.execute("UPDATE state SET boot = ?, alive = ?, revision = revision + ?", (boot, now, gap))


def _skip_pause(connection: sqlite3.Connection, alive: float, now: float) -> None:
    granted = "SELECT max(deadline - ttl) FROM records WHERE deadline IS NOT NULL"
    (last,) = connection.execute(granted).fetchone()
    seen = alive if last is None else max(alive, last)
    pause = now - seen - RESTART_SECONDS
    if pause > 0:
        connection.execute("UPDATE records SET deadline = deadline + ? WHERE deadline > ?", (pause, seen))
