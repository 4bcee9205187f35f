"""Files that are none of ours, disks that are full, locks that are held: Unavailable, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conformance.store_tools import keys_of, put

from portlayer.interfaces.store import Put, Transaction
from portlayer.model.errors import Unavailable
from portlayer.stores.sqlite import SqliteStore
from portlayer.stores.sqlite_schema import STEPS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Writes beyond *size* bytes of any file fail, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def text_file(path: Path) -> Path:
    path.write_bytes(b"not a database " * 1000)
    return path


@pytest.fixture
async def filled(path: Path) -> Path:
    """A store's file of some pages."""
    store = await SqliteStore.open(path)
    await put(store, *(f"k/{number:04}" for number in range(500)), value=b"x" * 500)
    await store.close()
    return path


@pytest.fixture
def damaged(filled: Path) -> Path:
    """One whose schema can be read, and nothing else."""
    with filled.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (filled.stat().st_size - 8192))
    return filled


@pytest.fixture
def truncated(filled: Path) -> Path:
    os.truncate(filled, 6000)
    return filled


@pytest.fixture
def directory(path: Path) -> Path:
    path.mkdir()
    return path


async def read_all(path: Path) -> None:
    store = await SqliteStore.open(path)
    try:
        await store.range("")
    finally:
        await store.close()


async def test_no_sqlite_file(text_file: Path) -> None:
    with pytest.raises(Unavailable, match=r"no SQLite file.*backup"):
        await SqliteStore.open(text_file)


async def test_a_damaged_file_is_told_when_it_is_met(damaged: Path) -> None:
    with pytest.raises(Unavailable, match=r"damaged.*backup"):
        await read_all(damaged)


async def test_a_truncated_file(truncated: Path) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        await SqliteStore.open(truncated)


async def test_a_directory_that_is_not_there(path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file or directory"):
        await SqliteStore.open(path / "store.db")


async def test_a_directory_in_its_place(directory: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be opened"):
        await SqliteStore.open(directory)


async def test_the_database_of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (url)")
    with pytest.raises(Unavailable, match="another program"):
        await SqliteStore.open(path)


async def test_a_newer_schema_is_refused_with_both_versions_named(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {len(STEPS) + 7}")
    with pytest.raises(Unavailable, match=rf"version {len(STEPS) + 7}.*up to {len(STEPS)}; run the portlayer"):
        await SqliteStore.open(path)


async def test_a_full_disk_harms_only_what_does_not_fit(path: Path) -> None:
    store = await SqliteStore.open(path)
    await put(store, "before")
    revision = await store.revision()
    watch = store.watch("")
    with full_disk(1 << 18):
        small, big, other = await asyncio.gather(
            put(store, "small"),
            store.apply(Transaction(ops=[Put("half", b""), Put("big", bytes(1 << 20))])),
            put(store, "other"),
            return_exceptions=True,
        )
        assert keys_of(await store.range("")) == ["before", "other", "small"]
    assert (small, other) == (revision + 1, revision + 2)
    assert isinstance(big, Unavailable)
    assert "disk" in big.detail
    assert await put(store, "after") == revision + 3
    assert [(await anext(watch)).key for _ in range(3)] == ["small", "other", "after"]
    await store.close()


async def test_a_lock_that_is_held_too_long(path: Path) -> None:
    store = await SqliteStore.open(path, busy_seconds=0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(*(put(store, f"{number}") for number in range(5)), return_exceptions=True)
        assert await store.range("") == []
        other.execute("ROLLBACK")
    for result in results:
        assert isinstance(result, Unavailable)
        assert "locked" in result.detail
        assert result.facts["retry_after_seconds"] == 1
    assert await put(store, "next") == 1
    await store.close()


async def test_a_caller_that_goes_away_harms_nobody(path: Path) -> None:
    store = await SqliteStore.open(path)
    gone = asyncio.ensure_future(put(store, "gone"))
    stays = asyncio.ensure_future(put(store, "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert await store.get("stays")
    await store.close()
