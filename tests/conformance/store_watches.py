"""What the watches of every store must do."""

from __future__ import annotations

import asyncio

import pytest

from conformance.store_tools import (
    KEPT_DELETIONS,
    changes_until,
    delete,
    keys_of,
    next_changes,
    places_of,
    put,
)
from portlayer.interfaces.store import (
    Changed,
    Check,
    CheckFailed,
    Compacted,
    Delete,
    Put,
    Record,
    Store,
    Transaction,
)


class Watches:
    async def test_a_watch_is_subscribed_from_the_call_on(self, store: Store) -> None:
        await put(store, "before")
        watch = store.watch("")
        revision = await put(store, "a", value=b"1")
        assert await next_changes(watch, 1) == [Changed(revision, 0, "a", Record("a", b"1", revision, revision))]

    async def test_transactions_come_whole_and_in_order(self, store: Store) -> None:
        await put(store, "gone")
        watch = store.watch("")
        first = await store.apply(
            Transaction(ops=[Put("z", b""), Delete("never"), Delete("gone"), Put("a", b"")], durable=False)
        )
        second = await put(store, "z")
        seen = await next_changes(watch, 4)
        assert [(change.revision, change.key, change.record is not None) for change in seen] == [
            (first, "z", True),
            (first, "gone", False),
            (first, "a", True),
            (second, "z", True),
        ]
        assert seen[0].index < seen[1].index < seen[2].index

    async def test_a_failed_transaction_is_not_seen(self, store: Store) -> None:
        watch = store.watch("")
        with pytest.raises(CheckFailed):
            await store.apply(Transaction(checks=[Check("a", None)], ops=[Put("b", b"")]))
        await put(store, "c")
        assert keys_of(await next_changes(watch, 1)) == ["c"]

    async def test_live_watchers_see_every_change_to_one_key(self, store: Store) -> None:
        watch = store.watch("n")
        await asyncio.gather(*(put(store, "n", value=b"%d" % number) for number in range(50)))
        seen = await next_changes(watch, 50)
        assert sorted(int(change.record.value) for change in seen if change.record) == list(range(50))
        assert places_of(seen) == sorted(places_of(seen))

    async def test_a_watch_waits_for_what_comes(self, store: Store) -> None:
        watch = store.watch("dir/")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(next_changes(watch, 2))
            await put(store, "other")
            await put(store, "dir/1")
            await delete(store, "dir/1")
        assert [change.record is None for change in waiting.result()] == [False, True]

    async def test_a_resumed_watch_sees_what_is_there_and_what_went(self, store: Store) -> None:
        start = await put(store, "kept", "gone", "changed")
        await put(store, "new", "short")
        third = await store.apply(Transaction(ops=[Delete("gone"), Put("changed", b"2"), Delete("short")]))
        watch = store.watch("", start)
        seen = await changes_until(watch, (third, 2))
        assert "new" in keys_of(seen)
        assert places_of(seen[-3:]) == [
            (third, 0, "gone", False),
            (third, 1, "changed", True),
            (third, 2, "short", False),
        ]
        await put(store, "live")
        assert keys_of(await next_changes(watch, 1)) == ["live"]

    async def test_resuming_at_the_present_sees_only_what_comes(self, store: Store) -> None:
        watch = store.watch("", await put(store, "a"))
        await put(store, "b")
        assert keys_of(await next_changes(watch, 1)) == ["b"]

    async def test_a_watch_from_zero_sees_all_that_is_there(self, store: Store) -> None:
        keys = [f"k/{number:04}" for number in range(500)]
        for start in range(0, 500, 7):
            await put(store, *keys[start : start + 7])
        assert keys_of(await next_changes(store.watch("k/", 0), 500)) == keys

    async def test_a_slow_watcher_misses_no_last_state(self, store: Store) -> None:
        watch = store.watch("k/")
        await put(store, "k/first")
        assert keys_of(await next_changes(watch, 1)) == ["k/first"]
        for turn in range(30):
            await put(store, *(f"k/{number:03}" for number in range(100)), value=b"%d" % turn)
        last = await delete(store, "k/first")
        seen = await changes_until(watch, (last, 0))
        assert places_of(seen) == sorted(places_of(seen))
        state = {change.key: change.record for change in seen}
        assert {record.key: record for record in await store.range("k/")} | {"k/first": None} == state

    async def test_a_slow_watcher_does_not_hold_up_apply(self, store: Store) -> None:
        slow, quick = store.watch(""), store.watch("")
        for number in range(20):
            await put(store, f"{number}", value=bytes(1 << 20))
            assert keys_of(await next_changes(quick, 1)) == [f"{number}"]
        assert keys_of(await next_changes(slow, 20)) == [f"{number}" for number in range(20)]

    async def test_deletions_that_are_not_kept_are_compacted(self, store: Store) -> None:
        start = await put(store, "a")
        keys = [f"k/{number}" for number in range(KEPT_DELETIONS // 4)]
        for _ in range(200):
            await put(store, *keys)
            await delete(store, *keys)
        last = await store.revision()
        with pytest.raises(Compacted):
            await next_changes(store.watch("", start), 1)
        seen = await next_changes(store.watch("", last - 1), len(keys))
        assert places_of(seen) == [(last, index, key, False) for index, key in enumerate(keys)]

    async def test_a_revision_that_never_was_is_compacted(self, store: Store) -> None:
        revision = await put(store, "a")
        with pytest.raises(Compacted):
            await next_changes(store.watch("", revision + 1), 1)

    async def test_closing_a_watch_ends_it(self, store: Store) -> None:
        watch = store.watch("")
        waiting = asyncio.ensure_future(anext(watch, None))
        await asyncio.sleep(0)
        await watch.aclose()  # type: ignore[attr-defined]
        assert await waiting is None
        await put(store, "a")
        assert await anext(watch, None) is None

    async def test_closing_the_store_ends_watches(self, store: Store) -> None:
        waiting = asyncio.ensure_future(anext(store.watch(""), None))
        idle = store.watch("")
        await asyncio.sleep(0)
        await store.close()
        assert await waiting is None
        assert await anext(idle, None) is None

    async def test_a_reader_that_was_cancelled_loses_nothing(self, store: Store) -> None:
        watch = store.watch("")
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await put(store, "a")
        assert keys_of(await next_changes(watch, 1)) == ["a"]
