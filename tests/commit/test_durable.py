"""When a commit waits for the disk: before its answer, and before what cannot be made again; not before a release."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import Harness

from portlayer.interfaces.store import Transaction
from portlayer.model.errors import Unavailable


class Slow:
    """The way to a store whose disk takes until it is told to go on. syncs: how many wait for it. durable: whether
    each transaction with a receipt does by itself."""

    def __init__(self, harness: Harness) -> None:
        self._store: Any = harness.engine.work._store
        self._going = asyncio.Event()
        self.error: Unavailable | None = None
        self.syncs = 0
        self.durable: list[bool] = []
        harness.engine.work._store = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, transaction: Transaction) -> int:
        if any("/receipts/" in op.key for op in transaction.ops):
            self.durable.append(transaction.durable)
        return int(await self._store.apply(transaction))

    async def sync(self) -> None:
        self.syncs += 1
        await self._going.wait()
        if self.error is not None:
            raise self.error

    def go_on(self, error: Unavailable | None = None) -> None:
        self.error = error
        self._going.set()


def released(harness: Harness) -> asyncio.Event:
    """Set once a process has been let go."""
    event = asyncio.Event()
    harness.world.after(lambda step: event.set() if step.name == "execution.release" else None)
    return event


async def test_a_process_is_let_go_while_the_disk_is_waited_for_but_nobody_is_told(harness: Harness) -> None:
    handle = await harness.set_state(await harness.draft("sleep", "1000", name="early"), "running")
    disk, gone = Slow(harness), released(harness)
    committing = asyncio.ensure_future(harness.commit(handle))
    async with asyncio.timeout(10):
        await gone.wait()
    assert (await harness.inspect("early")).state == "running"
    assert disk.syncs == 1
    told, _ = await asyncio.wait({committing}, timeout=0.05)
    assert not told
    disk.go_on()
    assert (await committing).state == "running"


async def test_a_disk_that_fails_meanwhile_is_told(harness: Harness) -> None:
    handle = await harness.set_state(await harness.draft("sleep", "1000", name="lost"), "running")
    disk = Slow(harness)
    committing = asyncio.ensure_future(harness.commit(handle))
    disk.go_on(Unavailable("The disk does not write."))
    with pytest.raises(Unavailable, match="disk"):
        await committing


async def test_a_record_is_on_the_disk_before_anything_is_removed(harness: Harness) -> None:
    await harness.run("sleep", "1000", name="goes")
    disk = Slow(harness)
    await harness.remove("goes", force=True)
    assert disk.syncs == 0
    assert disk.durable == [True]
