"""What is known by a watch stays true, however the store goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from portlayer.components import following
from portlayer.components.following import Bell, Followed
from portlayer.components.records import put
from portlayer.interfaces.store import Changed, Compacted, Store, Transaction
from portlayer.model.errors import Unavailable
from portlayer.model.hosts import Capacity
from portlayer.stores.memory import MemoryStore


class Flapping:
    """A store whose first watch ends by *fault*, having missed something, and which then is away for a moment."""

    def __init__(self, store: Store, fault: Exception) -> None:
        self._store = store
        self._fault = fault
        self.watches = 0
        self.missed = asyncio.Event()
        self._reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def watch(self, prefix: str) -> Any:
        self.watches += 1
        return self._missing() if self.watches == 1 else self._store.watch(prefix)

    async def _missing(self) -> AsyncIterator[Changed]:
        await self.missed.wait()
        raise self._fault
        yield

    async def range(self, prefix: str) -> Any:
        self._reads += 1
        if self._reads == 2:
            raise Unavailable("Away.")
        return await self._store.range(prefix)


@pytest.mark.parametrize("fault", [Compacted(), RuntimeError("as nobody has foreseen")])
async def test_what_was_missed_is_read_as_soon_as_it_can_be(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN_SECONDS", 0.001)
    store: Any = Flapping(MemoryStore(), fault)
    bell = Bell()
    followed = Followed(store, "/x/", Capacity, bell.ring)
    await followed.start()
    await store.apply(Transaction(ops=[put("/x/one", Capacity(cpus=1))]))
    store.missed.set()
    async with asyncio.timeout(10):
        while "one" not in followed.known:
            await asyncio.wait([bell.next()])
        await store.apply(Transaction(ops=[put("/x/two", Capacity(cpus=2))]))
        while "two" not in followed.known:
            await asyncio.wait([bell.next()])
    await followed.close()
    await store.close()
