"""Migration: an older file becomes a present one, step by step and all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conformance.store_tools import put

from portlayer.stores.sqlite import SqliteStore
from portlayer.stores.sqlite_schema import STEPS, Step, prepare

VERSION = len(STEPS)
LATER: tuple[Step, ...] = (
    *STEPS,
    ("ALTER TABLE records ADD COLUMN owner TEXT NOT NULL DEFAULT 'nobody'", "CREATE TABLE owners (name TEXT)"),
    ("INSERT INTO owners SELECT DISTINCT owner FROM records",),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


def version(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


async def filled(path: Path) -> None:
    store = await SqliteStore.open(path)
    await put(store, "a", "b")
    await store.close()


async def test_an_older_file_goes_through_the_missing_steps_alone(path: Path) -> None:
    await filled(path)
    with connected(path) as connection:
        prepare(connection, path, LATER)
        assert version(connection) == VERSION + 2
        assert connection.execute("SELECT key, owner FROM records ORDER BY key").fetchall() == [
            ("a", "nobody"),
            ("b", "nobody"),
        ]
        assert connection.execute("SELECT name FROM owners").fetchall() == [("nobody",)]
        prepare(connection, path, LATER)
        assert connection.execute("SELECT name FROM owners").fetchall() == [("nobody",)]


async def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    await filled(path)
    broken: tuple[Step, ...] = (*LATER, ("INSERT INTO nowhere VALUES (1)",))
    with connected(path) as connection:
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            prepare(connection, path, broken)
        assert version(connection) == VERSION
    store = await SqliteStore.open(path)
    assert [record.key for record in await store.range("")] == ["a", "b"]
    await store.close()


async def test_two_that_open_an_older_file_at_once_migrate_it_once(path: Path) -> None:
    await filled(path)

    def migrate(_: int) -> int:
        with connected(path) as connection:
            prepare(connection, path, LATER)
            return version(connection)

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(migrate, range(8))) == {VERSION + 2}
    with connected(path) as connection:
        assert connection.execute("SELECT name FROM owners").fetchall() == [("nobody",)]


def test_a_new_file_that_another_is_just_making_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As several processes do that are started at once: SQLite itself refuses there without waiting."""
    with connected(path) as other, connected(path) as mine:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("portlayer.stores.sqlite_schema.time.sleep", lambda _: other.execute("COMMIT"))
        prepare(mine, path)
        assert version(mine) == VERSION
    path.unlink()
    with connected(path) as other, connected(path) as mine:
        other.execute("BEGIN IMMEDIATE")
        mine.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            prepare(mine, path)


async def test_a_file_of_version_1_written_by_hand_is_a_store(path: Path) -> None:
    with connected(path) as connection:
        prepare(connection, path, STEPS[:1])
        connection.execute("UPDATE state SET revision = 7, boot = 'long ago', alive = 5")
        connection.execute("INSERT INTO records VALUES (1, 'k', x'76', 7, 0, 3, NULL, NULL)")
    store = await SqliteStore.open(path)
    record = await store.get("k")
    assert record is not None
    assert (record.value, record.revision, record.created) == (b"v", 7, 3)
    assert await store.revision() > 7
    await store.close()
