"""Waiting for something to be seen of a container.

An end may be followed at once by another start, so that who looks next sees a container that runs. The events tell of
every end, though: those since the wait began are asked, where another incarnation is there, or nothing any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from portlayer.components import keys
from portlayer.components.hosts import HostBook
from portlayer.components.records import decode, next_change
from portlayer.interfaces.store import Store
from portlayer.model.errors import Unavailable
from portlayer.model.events import Event
from portlayer.model.execution import ContainerSpec, Observed, Waited

Change = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def changes_of(store: Store, book: HostBook, vch: str, spec: ContainerSpec, here: str) -> AsyncIterator[Change]:
    """What waits, each time, until there is something new of the container, or, where that is not *here*, of its host;
    what comes in between is not missed. It raises Unavailable where the store is closed or changes were missed.
    """
    async with contextlib.aclosing(store.watch(keys.entity(vch, "observed", spec.id))) as watch:
        coming = asyncio.ensure_future(next_change(watch))
        rung = book.bell.next()

        async def change() -> None:
            nonlocal coming, rung
            waited: list[asyncio.Future[Any]] = [coming] if spec.host == here else [coming, rung]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                if coming.result() is None:
                    raise Unavailable("The server is stopping; wait again.", retry_after_seconds=1)
                coming = asyncio.ensure_future(next_change(watch))
            rung = book.bell.next()

        try:
            yield change
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


class Wait:
    """A wait for one container. seen: what there was of it when the wait began. revision: the store's, before that."""

    def __init__(self, store: Store, vch: str, container: str, seen: Observed, revision: int) -> None:
        self._store = store
        self._vch = vch
        self._container = container
        self._seen = seen
        self._revision = revision

    async def until(self, reached: Callable[[Observed], bool], change: Change) -> Waited:
        """What is seen once that has *reached* what is waited for. change: see `changes_of`."""
        while (observed := await self._look()) is not None:
            self._seen = observed
            if reached(observed):
                return Waited(exit_code=observed.exit_code, state=observed.state)
            await change()
        ends = await self._ends()
        return Waited(exit_code=ends[-1] if ends else self._seen.exit_code, state="removed")

    async def until_end(self, change: Change) -> Waited:
        """The end of the incarnation that there was, or else of the first that comes."""
        if self._seen.state == "stopped":
            return Waited(exit_code=self._seen.exit_code, state="stopped")
        while (observed := await self._look()) is not None:
            if observed.incarnation != self._seen.incarnation and (ends := await self._ends()):
                return Waited(exit_code=ends[0], state="stopped")
            if observed.state == "stopped":
                return Waited(exit_code=observed.exit_code, state="stopped")
            self._seen = observed
            await change()
        ends = await self._ends()
        return Waited(exit_code=ends[0] if ends else None, state="removed")

    async def _look(self) -> Observed | None:
        """None: removed."""
        row = await self._store.get(keys.entity(self._vch, "observed", self._container))
        return None if row is None else decode(Observed, row.value)

    async def _ends(self) -> list[int]:
        """The exit codes since the wait began, as far as events are kept, the oldest first."""
        rows = await self._store.since(keys.entities(self._vch, "events"), self._revision)
        ident = self._container
        told = [decode(Event, row.value) for row in rows if ident.encode() in row.value]
        return [int(one.attributes["exitCode"]) for one in told if (one.type, one.id) == ("container.exited", ident)]
