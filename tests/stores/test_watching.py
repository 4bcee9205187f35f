"""What watches cost: memory that does not grow, and nothing when they are gone."""

from __future__ import annotations

import gc

import pytest
from conformance.store_tools import changes_until, keys_of, next_changes, put

from portlayer.stores.memory import MemoryStore
from portlayer.stores.watching import RING_BYTES, RING_CHANGES


@pytest.fixture
async def store():
    store = MemoryStore()
    yield store
    await store.close()


async def test_what_is_kept_for_slow_watchers_is_bounded(store: MemoryStore) -> None:
    watches = [store.watch("") for _ in range(10)]
    for number in range(RING_CHANGES * 3):
        last = await put(store, f"k/{number % 10}", value=bytes(10_000))
    assert len(store._hub._ring) <= RING_BYTES // 10_000
    for watch in watches:
        seen = await changes_until(watch, (last, 0))
        assert len(seen) <= 10


async def test_a_quiet_watcher_is_not_left_behind(store: MemoryStore) -> None:
    watch = store.watch("quiet/")
    for number in range(RING_CHANGES * 2):
        await put(store, f"k/{number % 10}")
    assert watch.cursor == store._hub.tip
    await put(store, "quiet/1")
    assert keys_of(await next_changes(watch, 1)) == ["quiet/1"]


async def test_a_watch_that_was_dropped_is_forgotten(store: MemoryStore) -> None:
    watch = store.watch("")
    del watch
    gc.collect()
    assert not store._hub._watches
