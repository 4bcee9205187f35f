"""A transaction whose answer did not come, and which arrives at the store when nobody waits for it any more.

A network that was cut may deliver, once it heals, what was sent into it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from commit_kinds import check, picture, setting
from harness import ME, Harness

from portlayer.components import keys
from portlayer.components.records import decode
from portlayer.interfaces.store import CheckFailed, Put, Transaction
from portlayer.model import execution as e
from portlayer.model.errors import Unavailable
from portlayer.model.service import Subscribe


class Cut:
    """The way to the store: the next transaction with a receipt stays in it until it is `delivered`."""

    def __init__(self, harness: Harness) -> None:
        self._store: Any = harness.engine.work._store
        self._held: Transaction | None = None
        self.happened = False
        harness.engine.work._store = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, transaction: Transaction) -> int:
        if self._held is None and any(isinstance(op, Put) and "/receipts/" in op.key for op in transaction.ops):
            self._held = transaction
            raise Unavailable("The answer was lost.", retry_after_seconds=1)
        return int(await self._store.apply(transaction))

    async def deliver(self, _: str = "") -> None:
        assert self._held is not None
        try:
            await self._store.apply(self._held)
        except CheckFailed:
            return
        self.happened = True


@pytest.mark.parametrize("point", ["commit.undo.Prepare", "commit.undo.MakeRootfs"])
async def test_one_that_arrives_while_it_is_undone_does_not_happen(harness: Harness, point: str) -> None:
    await setting(harness)
    before = await picture(harness)
    handle = await harness.set_state(await harness.draft(name="cookie", network="gibson_network"), "running")
    cut = Cut(harness)
    harness.failpoints.arm(point, cut.deliver)
    with pytest.raises(Unavailable):
        await harness.commit(handle)
    assert point in harness.failpoints.seen
    assert not cut.happened
    assert await picture(harness) == before
    await check(harness)
    assert (await harness.commit(handle)).state == "running"
    await check(harness)


async def test_one_that_arrives_before_it_is_undone_has_happened(harness: Harness) -> None:
    await setting(harness)
    handle = await harness.set_state(await harness.draft(name="cookie", network="gibson_network"), "running")
    cut = Cut(harness)
    looked = cut.get_many

    async def look(keys: Any) -> Any:
        found = await looked(keys)
        if cut._held is not None and not cut.happened:
            await cut.deliver()  # just after we have looked whether it happened
        return found

    cut.get_many = look  # type: ignore[attr-defined]
    assert (await harness.commit(handle)).state == "running"
    assert cut.happened
    await check(harness)


async def test_what_was_stopped_stays_so_where_the_answer_was_lost(harness: Harness) -> None:
    """There is no way back from a death, so the commit goes on."""
    await setting(harness)
    await harness.run(name="cookie", restart_policy=e.RestartPolicy(name="always"))
    handle = await harness.set_state_at_once(await harness.handle("cookie"), "stopped")
    Cut(harness)
    with pytest.raises(Unavailable):
        await harness.commit(handle)
    events = await harness.pl.service.events(ME, Subscribe(since="0"))
    async with asyncio.timeout(20):
        while (await anext(events)).event.type != "container.exited":
            pass
    found = await harness.store.get(keys.entity("default", "observed", (await harness.inspect("cookie")).id))
    assert found is not None
    assert decode(e.Observed, found.value).stop_requested
    assert (await harness.commit(handle)).state == "stopped"
    assert not harness.world.live()
    await check(harness)
