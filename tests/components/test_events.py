"""How many events of a VCH are kept, over each store."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import etcdlab
import pytest
from harness import ME, Harness

from portlayer.components.events import History, trim
from portlayer.components.records import event, event_puts
from portlayer.compose import Settings
from portlayer.interfaces.store import Compacted, Delete, Put, Store, Transaction
from portlayer.model import service as v
from portlayer.model.bounds import LEAST_EVENTS, Limits
from portlayer.stores.etcd import EtcdStore
from portlayer.stores.memory import MemoryStore
from portlayer.stores.sqlite import SqliteStore
from portlayer.stores.watching import RING_CHANGES


@pytest.fixture(params=["memory", "sqlite", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    prefix = uuid.uuid4().hex
    if request.param == "etcd":
        etcd = request.getfixturevalue("etcd")
        store: Store = await EtcdStore.open(etcd.access, prefix)
    else:
        store = MemoryStore() if request.param == "memory" else await SqliteStore.open(tmp_path / "store.db")
    yield store
    await store.close()
    if request.param == "etcd":
        await etcdlab.wipe(etcd.access, prefix)


async def tell(store: Store, vch: str, first: int, last: int) -> None:
    """Events named by their number, three of a transaction."""
    for start in range(first, last, 3):
        told = [event("cookie", "eaten", "id", str(number)) for number in range(start, min(start + 3, last))]
        await store.apply(Transaction(ops=event_puts(vch, *told), durable=False))


async def told(store: Store, vch: str) -> list[int]:
    """The events that are there, in order, as who reads them from the start sees them."""

    async def gone() -> bool:
        return False

    history = History(store, vch, "", gone)
    return [int(one.event.name) async for one in history.follow(await history.start("0"))]


async def test_the_oldest_go_and_no_other_vchs(store: Store) -> None:
    await tell(store, "default", 0, 440)
    await tell(store, "quiet", 0, 10)
    assert await trim(store, "default", 400) == 0, "a tenth more is no reason"
    await tell(store, "default", 440, 460)
    assert await trim(store, "default", 150) == 310
    assert await told(store, "default") == list(range(310, 460))
    assert await trim(store, "quiet", 150) == 0
    assert await told(store, "quiet") == list(range(10))


async def test_who_reads_slower_than_the_store_remembers_goes_on_with_what_is_there() -> None:
    store = MemoryStore(kept_deletions=10)

    async def there() -> bool:
        return True

    async with contextlib.aclosing(History(store, "default", "", there).follow((0, 0))) as events:
        slow = store.watch("/v/default/events/")
        await tell(store, "default", 0, 3)
        assert [int((await anext(events)).event.name) for _ in range(3)] == [0, 1, 2]
        reading = asyncio.ensure_future(anext(events))
        await tell(store, "default", 3, 6)
        assert int((await reading).event.name) == 3
        await tell(store, "default", 6, 9)
        for _ in range(RING_CHANGES // 100):
            keys = [f"/other/{number}" for number in range(100)]
            await store.apply(Transaction(ops=[Put(key, b"x") for key in keys], durable=False))
            await store.apply(Transaction(ops=[Delete(key) for key in keys], durable=False))
        with pytest.raises(Compacted):
            while True:
                await anext(slow)
        assert await trim(store, "default", 2) == 7
        told = [(await anext(events)).event for _ in range(5)]
        assert [one.type if one.type == "events.missed" else int(one.name) for one in told] == [
            4,
            5,
            "events.missed",
            7,
            8,
        ]
        await tell(store, "default", 9, 12)
        assert [int((await anext(events)).event.name) for _ in range(3)] == [9, 10, 11]
    await store.close()


@pytest.fixture
def settings() -> Settings:
    return Settings(limits=Limits(events=LEAST_EVENTS))


async def test_who_reads_on_from_one_that_is_no_more_is_told_and_sees_the_oldest(harness: Harness) -> None:
    async def seen(since: str, most: int) -> list[tuple[str, str, str]]:
        events = await harness.pl.service.events(ME, v.Subscribe(since=since))
        async with asyncio.timeout(10), contextlib.aclosing(events):  # type: ignore[type-var]
            found = [await anext(events) for _ in range(most)]
        return [(one.cursor, one.event.type, one.event.name) for one in found]

    ((cursor, *_),) = await seen("0", 1)
    await tell(harness.store, "default", 0, 3)
    assert [name for *_, name in await seen(cursor, 3)] == ["0", "1", "2"], "nothing was missed yet"
    await tell(harness.store, "default", 3, 300)
    await harness.pl.execution._reconciler.sweep()  # type: ignore[attr-defined]
    assert len(await harness.store.range("/v/default/events/")) == LEAST_EVENTS
    first, second = await seen(cursor, 2)
    assert first == (cursor, "events.missed", "default")
    assert second[2] == "200"
    assert await seen("0", 1) == [second], "who asks for what is kept misses nothing"
    assert [name for *_, name in await seen(second[0], 2)] == ["201", "202"]
    await trim(harness.store, "default", 0)
    assert [kind for _, kind, _ in await seen(second[0], 1)] == ["events.missed"]
    events = await harness.pl.service.events(ME, v.Subscribe(since="now"))
    async with asyncio.timeout(10), contextlib.aclosing(events):  # type: ignore[type-var]
        reading = asyncio.ensure_future(anext(events))
        await tell(harness.store, "default", 300, 301)
        assert (await reading).event.name == "300"
