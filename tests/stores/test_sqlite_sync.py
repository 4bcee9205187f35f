"""What is durable is answered once a sync that began after its commit is over, and nothing else waits for one."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conformance.store_tools import keys_of

from portlayer.interfaces.store import Put, Transaction
from portlayer.model.errors import Unavailable
from portlayer.stores.sqlite import SqliteStore
from portlayer.stores.sqlite_sync import Syncer


class Disk:
    """Syncs one at a time, when it is told to. synced: the size of what each has brought to the disk."""

    def __init__(self) -> None:
        self.begun = 0
        self.synced: list[int] = []
        self.error: OSError | None = None
        self._turns = threading.Semaphore(0)

    def sync(self, descriptor: int) -> None:
        self.begun += 1
        size = os.fstat(descriptor).st_size
        self._turns.acquire()
        if self.error is not None:
            raise self.error
        os.fdatasync(descriptor)
        self.synced.append(size)

    def go_on(self, turns: int = 1) -> None:
        self._turns.release(turns)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def store(tmp_path: Path, disk: Disk) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db", sync=disk.sync)
    yield store
    disk.go_on(100)
    await store.close()


def begin(store: SqliteStore, key: str, *, durable: bool = True) -> asyncio.Future[int]:
    return asyncio.ensure_future(store.apply(Transaction(ops=[Put(key, b"")], durable=durable)))


async def syncs(disk: Disk, begun: int) -> None:
    """Wait until so many have begun."""
    async with asyncio.timeout(10):
        while disk.begun < begun:
            await asyncio.sleep(0.001)


async def test_what_need_not_be_durable_waits_for_no_sync(store: SqliteStore, disk: Disk) -> None:
    durable = begin(store, "durable")
    await syncs(disk, 1)
    async with asyncio.timeout(10):
        await begin(store, "plain", durable=False)
    assert not durable.done()
    assert keys_of(await store.range("")) == ["durable", "plain"]
    disk.go_on()
    assert await durable == 1


async def test_a_sync_that_began_before_is_none_and_one_serves_all_that_wait(store: SqliteStore, disk: Disk) -> None:
    first = begin(store, "first")
    await syncs(disk, 1)
    others = [begin(store, f"{number}") for number in range(5)]
    disk.go_on()
    await first
    await syncs(disk, 2)
    assert not any(other.done() for other in others)
    disk.go_on()
    assert await asyncio.gather(*others) == [2, 3, 4, 5, 6]
    assert disk.begun == 2
    assert disk.synced[0] < disk.synced[1]


async def test_sync_waits_for_what_was_applied_before(store: SqliteStore, disk: Disk) -> None:
    await begin(store, "plain", durable=False)
    synced = asyncio.ensure_future(store.sync())
    await syncs(disk, 1)
    assert not synced.done()
    disk.go_on()
    await synced


async def test_a_caller_that_goes_away_while_it_is_synced(store: SqliteStore, disk: Disk) -> None:
    gone, stays = begin(store, "gone"), begin(store, "stays")
    await syncs(disk, 1)
    gone.cancel()
    disk.go_on(2)
    assert await stays == 2


async def test_after_a_sync_that_failed_nothing_is_promised_any_more(
    store: SqliteStore, disk: Disk, tmp_path: Path
) -> None:
    disk.error = OSError(errno.EIO, "Input/output error")
    disk.go_on()
    with pytest.raises(Unavailable, match="does not write as it should"):
        await begin(store, "lost")
    disk.error = None
    with pytest.raises(Unavailable, match="start again"):
        await begin(store, "next", durable=False)
    with pytest.raises(Unavailable, match="start again"):
        await store.range("")
    await store.close()
    again = await SqliteStore.open(tmp_path / "store.db")
    await again.apply(Transaction(ops=[Put("again", b"")]))
    await again.close()


async def test_closing_waits_for_what_is_to_be_durable(tmp_path: Path, disk: Disk) -> None:
    store = await SqliteStore.open(tmp_path / "closing.db", sync=disk.sync)
    durable = begin(store, "durable")
    await syncs(disk, 1)
    closing = asyncio.ensure_future(store.close())
    disk.go_on()
    await closing
    assert await durable == 1


@pytest.mark.timeout(20)
async def test_closing_while_a_sync_is_done_and_has_not_been_told_of(tmp_path: Path) -> None:
    syncer = Syncer(tmp_path / "store.db", lambda _: None, lambda _: None)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.add_done_callback(lambda running: syncer._end(running, []))
    syncer._running = done
    done.set_result(None)
    await syncer.close()
