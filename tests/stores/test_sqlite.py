"""The SQLite store, against what every store must do."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conformance.store import StoreConformance, law
from conformance.store_tools import KEPT_DELETIONS, FakeClock, delete, next_changes, places_of, put

from portlayer.interfaces.store import Put, Record, Transaction
from portlayer.stores import sqlite_reader
from portlayer.stores.sqlite import SqliteStore
from portlayer.stores.sqlite_leases import RESTART_SECONDS


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock):
    store = await SqliteStore.open(tmp_path / "store.db", clock=clock, kept_deletions=KEPT_DELETIONS)
    yield store
    await store.close()


class TestSqliteStore(StoreConformance):
    test_it_does_what_a_dict_does = law()


def modes_in(directory: Path) -> dict[str, int]:
    return {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()}


async def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a name?&#%"
    store = await SqliteStore.open(path)
    start = await put(store, "kept", "gone", value=b"\0\xff")
    last = await delete(store, "gone")
    await store.close()
    assert modes_in(tmp_path) == {path.name: 0o600}

    store = await SqliteStore.open(path)
    assert await store.revision() == last
    assert await store.get("kept") == Record("kept", b"\0\xff", start, start)
    assert places_of(await next_changes(store.watch("", start), 1)) == [(last, 0, "gone", False)]
    await store.close()


@asynccontextmanager
async def opened(path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, clock=clock)
    try:
        yield store
    finally:
        await store.close()


async def test_a_lease_goes_on_over_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path / "s", clock) as store:
        await put(store, "lease", ttl=60)
    clock.advance(20)
    async with opened(tmp_path / "s", clock) as store:
        clock.advance(39)
        assert await store.get("lease")
        clock.advance(1)
        assert await store.get("lease") is None


async def test_a_lease_waits_while_nobody_has_the_store_open(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path / "s", clock) as store:
        await put(store, "short", ttl=5)
        await put(store, "lease", ttl=RESTART_SECONDS + 60)
        clock.advance(10)
        await put(store, "other")
    clock.advance(100_000)
    async with opened(tmp_path / "s", clock) as store:
        assert await store.get("short") is None
        clock.advance(49)
        assert await store.get("lease")
        clock.advance(1)
        assert await store.get("lease") is None


async def test_a_lease_starts_over_after_a_reboot(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path / "s", clock) as store:
        await put(store, "lease", ttl=60)
        clock.advance(59)
    clock.reboot()
    async with opened(tmp_path / "s", clock) as store:
        clock.advance(59)
        assert await store.get("lease")
        clock.advance(1)
        assert await store.get("lease") is None


async def test_revisions_of_before_a_reboot_are_not_given_again(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path / "s", clock) as store:
        before = await put(store, "a")
    clock.reboot()
    async with opened(tmp_path / "s", clock) as store:
        seen = store.watch("", before + 1000)
        after = await put(store, "b")
        assert after > before + 1000
        assert places_of(await next_changes(seen, 1)) == [(after, 0, "b", True)]


async def test_a_lease_does_not_wait_while_the_store_is_open_and_idle(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path / "s", clock) as store:
        await put(store, "lease", ttl=1000)
        clock.advance(900)
        store._refresh()  # as the timer does every few seconds
    async with opened(tmp_path / "s", clock) as store:
        clock.advance(99)
        assert await store.get("lease")
        clock.advance(1)
        assert await store.get("lease") is None


async def test_a_snapshot_that_takes_too_long_in_place_is_read_whole_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_reader, "INLINE_SECONDS", 0.0)
    monkeypatch.setattr(sqlite_reader, "STEPS_BETWEEN_LOOKS", 1)
    store = await SqliteStore.open(tmp_path / "store.db")
    keys = [f"key{number}" for number in range(2000)]
    await store.apply(Transaction(ops=[Put(key, b"value") for key in keys]))
    for _ in range(50):
        rows = await store.get_many(keys)
        assert [row.key for row in rows if row is not None] == keys
    await store.close()
