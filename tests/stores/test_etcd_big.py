"""Transactions beyond etcd's limits: whole or not at all, for every reader, wherever their process dies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import etcdlab
import pytest
from conformance.store_tools import changes_until, delete, keys_of, next_changes, put

from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Record, Transaction
from portlayer.model.errors import InvalidArgument, Unavailable
from portlayer.stores import etcd_staging
from portlayer.stores.etcd import EtcdStore

KEYS = [f"k/{number:03}" for number in range(200)]
Opener = Callable[[], Awaitable[EtcdStore]]


class Dead(BaseException):
    """What a call of a process that is no more ends with."""


@pytest.fixture
async def another(etcd: etcdlab.Cluster) -> AsyncIterator[Opener]:
    """Opens one more process's view of the same store."""
    opened: list[EtcdStore] = []
    prefix = uuid.uuid4().hex

    async def open_one() -> EtcdStore:
        opened.append(await EtcdStore.open(etcd.access, prefix))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()
    await etcdlab.wipe(etcd.access, prefix)


def dies_at(store: EtcdStore, last: int) -> list[str]:
    """Let the process behind *store* die after *last* more calls; what it called is listed."""
    call = store._client.call
    made: list[str] = []

    async def until_dead(method: str, request: Any, **options: Any) -> Any:
        if len(made) >= last:
            raise Dead
        made.append(method)
        return await call(method, request, **options)

    store._client.call = until_dead  # type: ignore[method-assign]
    return made


async def test_a_large_transaction_is_one(another: Opener) -> None:
    store, other = await another(), await another()
    start = await put(store, KEYS[0], "gone", value=b"old")
    watch = other.watch("", start)
    ops = [*(Put(key, b"new") for key in KEYS), Delete("gone"), Delete("never")]
    last = await store.apply(Transaction((Check("gone", start), Empty("x/")), ops))
    rows = await other.range("k/")
    assert rows[0] == Record(KEYS[0], b"new", last, start)
    assert rows[1:] == [Record(key, b"new", last, last) for key in KEYS[1:]]
    assert await other.get("gone") is None
    assert keys_of(await other.since("", start)) == KEYS
    seen = await next_changes(watch, len(KEYS) + 1)
    assert [(change.revision, change.key) for change in seen] == [(last, key) for key in [*KEYS, "gone"]]
    assert seen[0].record == rows[0]
    end = await put(store, KEYS[5])
    assert end > last
    assert await next_changes(watch, 1) == [seen[5].__class__(end, 0, KEYS[5], await other.get(KEYS[5]))]


async def test_what_it_wrote_can_be_demanded(another: Opener) -> None:
    store, other = await another(), await another()
    last = await store.apply(Transaction((), [Put(key, b"1") for key in KEYS]))
    with pytest.raises(CheckFailed):
        await other.apply(Transaction((Check(KEYS[0], last - 1),), (Put("x", b""),)))
    after = await other.apply(Transaction((Check(KEYS[0], last), Check(KEYS[1], last)), (Put(KEYS[0], b"2"),)))
    with pytest.raises(CheckFailed) as refused:
        await store.apply(Transaction((Check(KEYS[0], last), Check(KEYS[1], last)), (Put("x", b""),)))
    assert refused.value.keys == {KEYS[0]}
    assert await store.get(KEYS[0]) == Record(KEYS[0], b"2", after, (await store.get(KEYS[0])).created)


async def test_its_checks_are_made_and_nothing_is_left_where_they_fail(another: Opener) -> None:
    store = await another()
    revision = await put(store, "a")
    checks = [Check(f"absent/{number}", 0) for number in range(150)]
    with pytest.raises(CheckFailed) as refused:
        await store.apply(Transaction([*checks, Check("a", 0), Empty("a", besides="b")], [Put("k", b"")]))
    assert refused.value.failed == (Check("a", 0), Empty("a", besides="b"))
    assert await store.get("k") is None
    assert await store.apply(Transaction([*checks, Check("a", revision)], [Put("k", b"")])) > revision
    await put(store, "goes on")


async def test_what_is_too_large_for_one_value_goes_in_chunks(another: Opener) -> None:
    store, other = await another(), await another()
    watch = other.watch("big/")
    value = bytes(range(256)) * 4000
    last = await store.apply(Transaction((), [Put(f"big/{number}", value) for number in range(5)]))
    assert [(row.value == value, row.revision) for row in await other.range("big/")] == [(True, last)] * 5
    assert [change.record.value == value for change in await next_changes(watch, 5) if change.record] == [True] * 5
    space = store._layout.all
    left = await store._client.call("range", etcd_staging.m.Range(key=space.chunks, range_end=space.records))
    assert not [kv.key for kv in left.kvs if kv.key.startswith(space.chunks)]


async def test_a_record_that_etcd_cannot_take_is_refused(another: Opener) -> None:
    store = await another()
    with pytest.raises(InvalidArgument, match="too large"):
        await store.apply(Transaction((), [Put("a", bytes(2 << 20))]))


async def test_readers_see_all_or_nothing_meanwhile(another: Opener) -> None:
    store, other, third = await another(), await another(), await another()
    seen: set[tuple[int, int]] = set()
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            rows = await other.range("k/")
            seen.add((len(rows), len({row.value for row in rows})))

    async def interfere() -> int:
        count = 0
        while not done.is_set():
            await put(third, "n", value=b"%d" % count)
            count += 1
        return count

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(look())
        others = tasks.create_task(interfere())
        for turn in range(5):
            await asyncio.gather(
                *(
                    s.apply(Transaction((), [Put(key, b"%d%d" % (turn, n)) for key in KEYS]))
                    for n, s in ((0, store), (1, other))
                )
            )
        done.set()
    assert seen <= {(0, 0), (len(KEYS), 1)}
    assert others.result() > 0


async def test_wherever_its_process_dies_it_is_whole_or_not_at_all(
    another: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_staging, "LOCK_SECONDS", 1)
    monkeypatch.setattr(etcd_staging, "CHUNK_BYTES", 6000)
    other = await another()
    watch = other.watch("k/")
    whole = nothing = 0
    for last in range(1, 100):
        store = await another()
        before = await put(other, *KEYS[:100], value=b"old") and await put(other, *KEYS[100:], value=b"old")
        dies_at(store, last)
        try:
            await store.apply(Transaction((), [Put(key, b"new") for key in KEYS]))
            break
        except (Dead, Unavailable):  # the latter where a busy machine takes longer than it may have the lock
            pass
        rows = await other.range("k/")
        assert len(rows) == len(KEYS)
        assert len({row.value for row in rows}) == 1, last
        if rows[0].value == b"new":
            whole += 1
            assert len({row.revision for row in rows}) == 1
            assert await other.since("k/", before) == rows
        else:
            nothing += 1
    assert whole > 2
    assert nothing > 2
    end = await delete(other, KEYS[0])
    seen = await changes_until(watch, (end, 0))
    states = dict.fromkeys(KEYS)
    for change in seen:
        states[change.key] = change.record
    assert [state for state in states.values() if state] == await other.range("k/")
    assert len([change for change in seen if change.record and change.record.value == b"new"]) == 200 * (whole + 1)
