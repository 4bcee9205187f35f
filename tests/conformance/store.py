"""What every store must do. A subclass gives the fixture `store`, on the fixture `clock`, keeping KEPT_DELETIONS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.store_model import Attempt, Model, Wait, steps
from conformance.store_tools import (
    FakeClock,
    delete,
    keys_of,
    next_changes,
    places_of,
    put,
)
from conformance.store_watches import Watches
from portlayer.interfaces.store import (
    Check,
    CheckFailed,
    Delete,
    Empty,
    Put,
    Record,
    Store,
    Transaction,
)
from portlayer.model.errors import InvalidArgument, Unavailable


class Reads:
    async def test_a_new_store_is_empty(self, store: Store) -> None:
        assert await store.revision() == 0
        assert await store.get("a") is None
        assert await store.range("") == []
        assert await store.count("") == 0

    async def test_a_record_says_what_wrote_it_and_what_made_it(self, store: Store) -> None:
        first = await put(store, "a", value=b"1")
        await put(store, "b")
        third = await put(store, "a", value=b"2")
        assert await store.get("a") == Record("a", b"2", third, first)
        assert await store.revision() == third
        await delete(store, "a")
        fifth = await put(store, "a", value=b"3")
        assert await store.get("a") == Record("a", b"3", fifth, fifth)

    async def test_get_many_keeps_the_order_and_the_gaps(self, store: Store) -> None:
        await put(store, "a", "b", "c")
        found = await store.get_many(["c", "x", "a", "a"])
        assert [record and record.key for record in found] == ["c", None, "a", "a"]
        assert await store.get_many([]) == []

    async def test_what_is_synced_is_there(self, store: Store) -> None:
        await store.apply(Transaction(ops=[Put("a", b"")], durable=False))
        await store.sync()
        assert await store.get("a")

    async def test_range_is_by_key_and_pages(self, store: Store) -> None:
        keys = [f"c/{number:03}" for number in range(25)]
        await put(store, *reversed(keys), "b/1", "d/1")
        assert keys_of(await store.range("c/")) == keys
        paged, after = [], ""
        while page := await store.range("c/", after=after, limit=10):
            paged += keys_of(page)
            after = page[-1].key
        assert paged == keys
        assert keys_of(await store.range("c/", after="b/9", limit=1)) == keys[:1]
        assert await store.range("c/", after="c/024") == []
        assert await store.range("c/", after="d") == []

    async def test_several_ranges_are_of_one_instant(self, store: Store) -> None:
        async def write() -> None:
            for number in range(200):
                await store.apply(Transaction(ops=[Put("a/1", b"%d" % number), Put("c/1", b"%d" % number)]))

        writing = asyncio.create_task(write())
        seen = 0
        while not writing.done():
            first, nothing, second = await store.ranges(["a/", "b/", "c/"])
            assert nothing == []
            assert [row.value for row in first] == [row.value for row in second]
            seen += len(first)
            await asyncio.sleep(0)
        await writing
        assert seen
        assert await store.ranges([]) == []

    @pytest.mark.parametrize(
        ("prefix", "inside", "outside"),
        [
            ("a/", ["a/", "a/0", "a/\U0010ffff", "a/b/c"], ["a", "a.", "a0", "b"]),
            ("a%", ["a%", "a%b"], ["ab", "a/%"]),
            ("a_", ["a_b"], ["axb"]),
            ("a*", ["a*?["], ["ab"]),
            ("grün/", ["grün/ä", "grün/z"], ["grün", "grun/x", "Grün/x"]),
            ("\ud7ff", ["\ud7ff", "\ud7ffx"], ["\ue000", "\ud7fe"]),
            ("x\U0010ffff", ["x\U0010ffff", "x\U0010ffff\U0010ffff"], ["x\U0010fffe", "y"]),
            ("\U0010ffff", ["\U0010ffffz"], ["\uffff"]),
            ("a\0", ["a\0", "a\0b"], ["a", "a\1"]),
            ("a'\"", ["a'\"b"], ["a'b"]),
        ],
    )
    async def test_a_prefix_is_taken_literally(
        self, store: Store, prefix: str, inside: list[str], outside: list[str]
    ) -> None:
        await put(store, *inside, *outside)
        assert keys_of(await store.range(prefix)) == sorted(inside)
        assert await store.count(prefix) == len(inside)
        assert sorted(keys_of(await store.since(prefix, 0))) == sorted(inside)
        with pytest.raises(CheckFailed):
            await store.apply(Transaction(checks=[Empty(prefix)]))
        watch = store.watch(prefix)
        await put(store, *outside, *inside, value=b"2")
        assert keys_of(await next_changes(watch, len(inside))) == inside

    async def test_keys_are_ordered_by_code_point(self, store: Store) -> None:
        keys = ["", "z", "Z", "ä", "\uffff", "\U00010000", "a\0", "a", "a/"][1:]
        await put(store, *keys)
        assert keys_of(await store.range("")) == sorted(keys)

    async def test_since_is_by_revision_then_by_place(self, store: Store) -> None:
        start = await put(store, "a/1", "a/2")
        await put(store, "a/z", "b/1", "a/m", "a/b")
        await put(store, "a/1")
        assert keys_of(await store.since("a/", start)) == ["a/z", "a/m", "a/b", "a/1"]
        assert keys_of(await store.since("a/", start, limit=2)) == ["a/z", "a/m"]
        assert keys_of(await store.since("", 0)) == ["a/2", "a/z", "b/1", "a/m", "a/b", "a/1"]
        assert await store.since("a/", await store.revision()) == []

    @pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20])
    async def test_values_come_back_as_they_were(self, store: Store, size: int) -> None:
        value = bytes(number % 251 for number in range(size))
        await put(store, "big", value=value)
        record = await store.get("big")
        assert record is not None
        assert record.value == value

    async def test_many_records_are_read_at_one_instant(self, store: Store) -> None:
        keys = [f"k/{number:05}" for number in range(3000)]
        await put(store, *keys, value=b"x" * 100)
        assert await store.count("k/") == len(keys)
        reads = asyncio.gather(store.range("k/"), store.since("k/", 0))
        await put(store, *keys, value=b"y" * 100)
        for found in await reads:
            assert keys_of(found) == keys
            assert len({record.value for record in found}) == 1


class Transactions:
    async def test_checks(self, store: Store) -> None:
        revision = await put(store, "there", "dir/x")
        good: list[Check | Empty] = [
            Check("absent", 0),
            Check("there", None),
            Check("there", revision),
            Empty("dir/y"),
            Empty("abs"),
            Empty("dir/", besides="dir/x"),
        ]
        bad: list[Check | Empty] = [
            Check("absent", None),
            Check("absent", revision),
            Check("there", 0),
            Check("there", revision + 1),
            Empty("dir/"),
            Empty("", besides="dir/x"),
        ]
        await store.apply(Transaction(checks=good))
        with pytest.raises(CheckFailed) as caught:
            await store.apply(Transaction(checks=[*good, *bad], ops=[Put("new", b"")]))
        assert caught.value.failed == tuple(bad)
        assert caught.value.keys == {"absent", "there", "dir/", ""}

    async def test_a_failed_check_writes_nothing(self, store: Store) -> None:
        await put(store, "a", value=b"old")
        revision = await store.revision()
        with pytest.raises(CheckFailed):
            await store.apply(Transaction(checks=[Check("a", 0)], ops=[Put("b", b""), Delete("a"), Put("c", b"")]))
        assert keys_of(await store.range("")) == ["a"]
        assert await store.revision() == revision

    async def test_checks_are_about_the_state_before_the_ops(self, store: Store) -> None:
        await store.apply(Transaction(checks=[Check("a", 0), Empty("a")], ops=[Put("a", b"")]))
        await store.apply(Transaction(checks=[Check("a", None)], ops=[Delete("a")]))
        assert await store.get("a") is None

    async def test_each_transaction_has_a_higher_revision(self, store: Store) -> None:
        given_ = [await put(store, "a", "b"), await delete(store, "a"), await delete(store, "nothing")]
        given_.append(await store.apply(Transaction(ops=[Put("a", b"")])))
        assert given_ == sorted(set(given_))
        assert [record.revision for record in await store.range("")] == [given_[3], given_[0]]

    async def test_several_at_once_all_land(self, store: Store) -> None:
        given_ = await asyncio.gather(*(put(store, f"k/{number}") for number in range(100)))
        assert len(set(given_)) == 100
        assert {record.key: record.revision for record in await store.range("k/")} == {
            f"k/{number}": revision for number, revision in enumerate(given_)
        }

    async def test_one_that_fails_does_not_harm_others_of_its_batch(self, store: Store) -> None:
        wanted = [Transaction(checks=[Check("x", 0)], ops=[Put("x", b"%d" % n), Put(f"y/{n}", b"")]) for n in range(20)]
        results = await asyncio.gather(*(store.apply(one) for one in wanted), return_exceptions=True)
        assert [isinstance(result, CheckFailed) for result in results].count(True) == 19
        assert await store.count("y/") == 1

    async def test_concurrent_increments_lose_nothing(self, store: Store) -> None:
        async def increment(times: int) -> None:
            for _ in range(times):
                while True:
                    record = await store.get("n")
                    value, revision = (int(record.value), record.revision) if record else (0, 0)
                    op = Put("n", b"%d" % (value + 1))
                    with contextlib.suppress(CheckFailed):
                        await store.apply(Transaction(checks=[Check("n", revision)], ops=[op], durable=False))
                        break

        await asyncio.gather(*(increment(10) for _ in range(8)))
        record = await store.get("n")
        assert record is not None
        assert record.value == b"80"

    @pytest.mark.parametrize(
        "ops",
        [
            [Put("", b"")],
            [Delete("")],
            [Put("a", b""), Put("a", b"")],
            [Delete("a"), Put("a", b"")],
            [Put("a", b"", ttl_seconds=0)],
            [Put("a", b"", ttl_seconds=-1)],
            [Put("a", b"", ttl_seconds=float("nan"))],
            [Put("a", b"", ttl_seconds=float("inf"))],
            [Put("\ud800", b"")],
        ],
    )
    async def test_what_no_store_can_do_is_refused(self, store: Store, ops: Sequence[Put | Delete]) -> None:
        with pytest.raises(InvalidArgument):
            await store.apply(Transaction(ops=[Put("other", b""), *ops]))
        assert await store.range("") == []

    async def test_keys_that_are_no_unicode_are_refused_everywhere(self, store: Store) -> None:
        bad = "a\udfff"
        with pytest.raises(InvalidArgument):
            await store.get(bad)
        with pytest.raises(InvalidArgument):
            await store.get_many([bad])
        with pytest.raises(InvalidArgument):
            await store.range(bad)
        with pytest.raises(InvalidArgument):
            await store.range("", after=bad)
        with pytest.raises(InvalidArgument):
            store.watch(bad)
        with pytest.raises(InvalidArgument):
            await store.apply(Transaction(checks=[Empty(bad)]))

    async def test_a_closed_store_says_so(self, store: Store) -> None:
        await store.close()
        with pytest.raises(Unavailable, match="closed"):
            await store.get("a")
        with pytest.raises(Unavailable, match="closed"):
            await put(store, "a")
        with pytest.raises(Unavailable, match="closed"):
            store.watch("")
        await store.close()


class Leases:
    async def test_a_lease_ends_when_its_time_is_over(self, store: Store, clock: FakeClock) -> None:
        await put(store, "stays", "dir/a")
        start = await put(store, "dir/lease", ttl=60)
        clock.advance(59.9)
        assert await store.count("dir/") == 2
        clock.advance(0.2)
        assert await store.get("dir/lease") is None
        assert await store.get_many(["dir/lease"]) == [None]
        assert keys_of(await store.range("dir/")) == ["dir/a"]
        assert await store.count("dir/") == 1
        assert await store.since("dir/", start - 1) == []

    async def test_an_expired_record_satisfies_no_check(self, store: Store, clock: FakeClock) -> None:
        revision = await put(store, "dir/lease", ttl=60)
        clock.advance(60)
        for check in (Check("dir/lease", None), Check("dir/lease", revision)):
            with pytest.raises(CheckFailed):
                await store.apply(Transaction(checks=[check]))
        again = await store.apply(
            Transaction(checks=[Check("dir/lease", 0), Empty("dir/")], ops=[Put("dir/lease", b"mine", 60)])
        )
        assert await store.get("dir/lease") == Record("dir/lease", b"mine", again, again)

    async def test_a_put_again_extends_it(self, store: Store, clock: FakeClock) -> None:
        await put(store, "lease", ttl=60)
        clock.advance(40)
        await put(store, "lease", ttl=60)
        clock.advance(40)
        assert await store.get("lease")
        clock.advance(20)
        assert await store.get("lease") is None

    async def test_a_put_again_can_shorten_it(self, store: Store, clock: FakeClock) -> None:
        await put(store, "lease", ttl=60)
        await put(store, "lease", ttl=5)
        clock.advance(5)
        assert await store.get("lease") is None

    async def test_a_put_without_ttl_makes_it_stay(self, store: Store, clock: FakeClock) -> None:
        await put(store, "lease", ttl=60)
        await put(store, "lease")
        clock.advance(1e9)
        assert await store.get("lease")

    async def test_watchers_see_expiry_as_a_transaction_of_its_own(self, store: Store, clock: FakeClock) -> None:
        start = await put(store, "b", "a", "z", ttl=60)
        await put(store, "c", ttl=90)
        last = await put(store, "d")
        live, resumed = store.watch(""), store.watch("", start)
        clock.advance(60)
        seen = await next_changes(live, 3)
        assert [(change.index, change.key, change.record) for change in seen] == [
            (0, "a", None),
            (1, "b", None),
            (2, "z", None),
        ]
        assert {change.revision for change in seen} == {last + 1}
        assert keys_of(await next_changes(resumed, 5)) == ["c", "d", "a", "b", "z"]
        clock.advance(30)
        assert places_of(await next_changes(live, 1)) == [(last + 2, 0, "c", False)]

    async def test_deleting_a_lease_ends_it_once(self, store: Store, clock: FakeClock) -> None:
        watch = store.watch("")
        await put(store, "lease", ttl=60)
        await delete(store, "lease")
        clock.advance(60)
        await put(store, "end")
        assert keys_of(await next_changes(watch, 3)) == ["lease", "lease", "end"]


class StoreConformance(Reads, Transactions, Leases, Watches):
    """All of it but the law, which each suite makes for itself: hypothesis wants a function for each class."""


def law() -> Callable[..., Awaitable[None]]:
    """The test that a store does what a dict does, whatever is asked of it."""

    @given(taken=st.lists(steps, max_size=25))
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    async def test(self: StoreConformance, store: Store, clock: FakeClock, taken: list[Attempt | Wait]) -> None:
        model = Model(store, clock, prefix=f"example-{await store.revision()}/")
        await put(store, "so that the next example has another prefix")
        for step in taken:
            await model.take(step)
        await model.compare()

    return test
