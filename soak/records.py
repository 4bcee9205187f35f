"""What the SQLite store holds, read from its file, without any code of the port layer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path

EXPLAINED = {
    "meta": "who this instance is, and its sealing keys",
    "vchs": "the tenant itself",
    "hosts": "the host itself, with what it has",
    "subnets": "which network has which subnet: one record, empty",
    "removed": "containers that are no more, for handles to them; they end after 48 hours",
    "receipts": "results of commits, for retries; they end after 48 hours",
    "events": "history for those who resume; it ends after 7 days",
    "processes": "the server that runs, and one that was killed; they end after 30 seconds",
    "attached": "who read output in a server that was killed; they end after an hour",
    "idempotency": "answers of creations, for retries; they end after 24 hours",
}
EXPIRING = frozenset({"receipts", "removed", "events", "idempotency", "processes", "attached"})


class Records:
    """The records of the store at *path*. keys: those that do not end by themselves. expiring: the others, by kind."""

    def __init__(self, path: Path) -> None:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT key, value, deadline IS NULL FROM records").fetchall()
        self.keys = {key for key, _, stays in rows if stays}
        self.expiring = Counter(kind(key) for key, _, stays in rows if not stays)
        self.subnets = next((value for key, value, _ in rows if key == "/subnets"), b"")
        self.bytes = {
            "store": path.stat().st_size,
            "wal": path.with_name(path.name + "-wal").stat().st_size if _has_wal(path) else 0,
        }

    def unexplained(self) -> list[str]:
        """Records that should not be there once all is deleted, a line each."""
        found = [f"record {key}" for key in sorted(self.keys) if kind(key) not in EXPLAINED.keys() - EXPIRING]
        found += [f"{count} {name} records" for name, count in self.expiring.items() if name not in EXPIRING]
        if b"/" in self.subnets:  # a CIDR
            found.append(f"record /subnets holds {self.subnets.decode(errors='replace')[:100]}")
        return found

    def counts(self) -> Counter[str]:
        """How many there are, by kind."""
        return Counter(map(kind, self.keys)) + self.expiring


def kind(key: str) -> str:
    """`/v/<vch>/<kind>/...` or `/<kind>/...`."""
    parts = key.split("/")
    return parts[3] if parts[1] == "v" else parts[1]


def _has_wal(path: Path) -> bool:
    return path.with_name(path.name + "-wal").exists()
