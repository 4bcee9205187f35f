"""A process knows whether it lives, also where it asks several times at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from portlayer.components.membership import Deposed, Membership
from portlayer.interfaces.store import Store, Transaction
from portlayer.model.errors import Unavailable
from portlayer.model.topology import Part
from portlayer.stores.memory import MemoryStore


class Slow:
    """A store that answers the first transaction late, and none of those meanwhile. It is away for good after that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_slow = False
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, transaction: Transaction) -> int:
        if not self.is_slow:
            return await self._store.apply(transaction)
        if self.asked.is_set():
            raise Unavailable("Away.")
        self.asked.set()
        await self.go_on.wait()
        return await self._store.apply(transaction)


async def test_what_another_look_has_lost_is_not_taken_for_alive() -> None:
    seconds = 0.0
    store: Any = Slow(MemoryStore())
    membership = Membership(store, Part(), lambda: seconds)
    await membership.join(alone=False)
    seconds, store.is_slow = 1000.0, True
    first = asyncio.ensure_future(membership.refresh())
    await store.asked.wait()
    second = asyncio.ensure_future(membership.ensure())
    for _ in range(10):
        await asyncio.sleep(0)
    store.go_on.set()
    await asyncio.gather(first, second)
    try:
        membership.check(membership.id)
    except Deposed:
        pytest.fail("it has said that it lives")
    assert membership.id in await membership.living()
    store.is_slow = False
    await membership.leave()
    await store.close()


async def test_what_it_was_doing_is_cut_off_once_and_may_clear_away() -> None:
    seconds, cuts = 0.0, 0
    store: Any = Slow(MemoryStore())
    membership = Membership(store, Part(), lambda: seconds)
    await membership.join(alone=False)
    cleared = asyncio.Event()

    async def act() -> None:
        nonlocal cuts
        while not cleared.is_set():
            try:
                await cleared.wait()
            except asyncio.CancelledError:
                cuts += 1

    acting = asyncio.create_task(act())
    membership.bind(acting)
    await asyncio.sleep(0)
    seconds, store.is_slow = 1000.0, True
    store.asked.set()
    for _ in range(3):
        await membership.refresh()
        await asyncio.sleep(0)
    cleared.set()
    await acting
    assert cuts == 1
    store.is_slow = False
    await membership.leave()
    await store.close()
