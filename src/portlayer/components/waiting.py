"""Waiting for something to be seen of a container."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from portlayer.components import keys
from portlayer.components.hosts import HostBook
from portlayer.components.records import next_change
from portlayer.interfaces.store import Store
from portlayer.model.errors import Unavailable
from portlayer.model.execution import ContainerSpec


@contextlib.asynccontextmanager
async def changes_of(
    store: Store, book: HostBook, vch: str, spec: ContainerSpec, here: str
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
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
