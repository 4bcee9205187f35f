"""Which processes of ours live, and whether this one still may act.

    /processes/<id>   Process: a lease that its process prolongs by a timer; who is not there is dead

A commit names its process. Others leave it alone while that lives, and finish or undo it once it is dead. So a process
that was paused, or could not reach the store, must not go on with what others may have taken over: it stops acting by
itself well before its lease ends, and comes back under another id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from portlayer import __version__
from portlayer.components import keys
from portlayer.components.enduring import endure
from portlayer.components.records import decode, put
from portlayer.interfaces.store import Check, CheckFailed, Delete, Store, Transaction
from portlayer.model.base import Value, now
from portlayer.model.errors import PortlayerError
from portlayer.model.names import new_id
from portlayer.model.topology import Part

log = logging.getLogger(__name__)
LEASE_SECONDS = 30.0
ACT_PART = 2 / 3
"""For how much of its lease, since it last prolonged it, a process still acts: the rest is for steps that take time."""
REFRESH_PART = 1 / 6
"""How often it prolongs its lease."""

Clock = Callable[[], float]


class Process(Value):
    """A process of ours in the store. part: what of the port layer it is, with the address at which it is reached.
    seen_at: when it last said that it lives."""

    part: Part
    started_at: str
    seen_at: str = ""
    version: str = ""


class Deposed(Exception):
    """This process does not own what it works on any more, or cannot know: it must neither go on nor undo."""


def boot_seconds() -> float:
    """Seconds since the host's boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Membership:
    """This process among all that share the store. id: its key there, another one after each loss.

    seconds: how long it counts as alive after it last said so.
    """

    def __init__(self, store: Store, part: Part, clock: Clock = boot_seconds, seconds: float = LEASE_SECONDS) -> None:
        self.id = new_id()
        self.part = part
        self.host = part.host
        self._started_at = now()
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._until = 0.0
        self._acting: set[asyncio.Task[Any]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def join(self, *, alone: bool) -> None:
        """Begin to live. alone: something outside the store proves that no other process of this name does."""
        others = await self._store.range(keys.PROCESSES) if alone else []
        dead = [row.key for row in others if self._was_this(decode(Process, row.value).part)]
        await self._enter(dead)
        self._refreshing = asyncio.create_task(endure("the lease is prolonged", self._refresh_often))

    def _was_this(self, other: Part) -> bool:
        return (other.host, other.name) == (self.part.host, self.part.name)

    async def leave(self) -> None:
        """Nothing is under way any more: others need not wait for the lease to end."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        self._until = 0.0
        with contextlib.suppress(PortlayerError):
            await self._store.apply(Transaction(ops=[Delete(keys.process(self.id))], durable=False))

    def check(self, owner: str) -> None:
        """Raises Deposed where this process is not *owner*, or has not been able to say for long that it lives."""
        if owner != self.id or self._clock() > self._until:
            raise Deposed

    async def ensure(self) -> None:
        """After a pause, say that it lives before anything is begun; where that fails, `check` tells."""
        if self._clock() > self._until:
            async with self._turn:
                if self._clock() > self._until:
                    await self._refresh()

    def bind(self, task: asyncio.Task[Any]) -> None:
        """Cancel *task* where this process stops acting before it is done."""
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    async def living(self) -> frozenset[str]:
        """The ids of all processes that live."""
        return frozenset(keys.last(row.key) for row in await self._store.range(keys.PROCESSES))

    async def others(self, component: str) -> bool:
        """Whether another process of this host that has *component* lives."""
        rows = [row for row in await self._store.range(keys.PROCESSES) if keys.last(row.key) != self.id]
        parts = [decode(Process, row.value).part for row in rows]
        return any(part.host == self.host and component in part.components for part in parts)

    async def refresh(self) -> None:
        """Prolong the lease, or, where it has been lost, begin to live again. One at a time: what another has lost
        meanwhile would be taken for prolonged."""
        async with self._turn:
            await self._refresh()

    async def _refresh(self) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(self._seconds * REFRESH_PART):
                if not self._until:
                    await self._enter([])
                    return
                check = Check(keys.process(self.id), None)
                await self._store.apply(Transaction((check,), (self._put(),), durable=False))
                self._until = began + self._seconds * ACT_PART
        except CheckFailed:
            self._lose()
            await self._enter([])
        except (PortlayerError, TimeoutError) as error:
            log.warning("this process could not say that it lives: %s", error or "the store did not answer in time")
            if self._clock() > self._until:
                self._lose()

    async def _refresh_often(self) -> None:
        while True:
            await asyncio.sleep(self._seconds * REFRESH_PART)
            try:
                await self.refresh()
            except PortlayerError:
                log.exception("this process could not begin to live again; it will try again")

    async def _enter(self, dead: list[str]) -> None:
        began = self._clock()
        ops = [*(Delete(key) for key in dead), self._put()]
        await self._store.apply(Transaction(ops=ops, durable=False))
        self._until = began + self._seconds * ACT_PART

    def _put(self) -> Any:
        living = Process(part=self.part, started_at=self._started_at, seen_at=now(), version=__version__)
        return put(keys.process(self.id), living, self._seconds)

    def _lose(self) -> None:
        if self._until:
            log.error("this process has lost its lease: what it was doing is left to who finds it")
        self.id = new_id()
        self._until = 0.0
        while self._acting:  # each once: it clears away what it began
            self._acting.pop().cancel()
