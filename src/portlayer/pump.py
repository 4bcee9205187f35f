"""Feeds what comes in on the event loop to blocking code in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor


async def pump(chunks: AsyncIterator[bytes], feed: Callable[[bytes], None], executor: Executor | None = None) -> None:
    """Call *feed* on each chunk, in order and one at a time, in a thread, while the next chunk is on its way.

    When this is cut short, one call of *feed* may still run: let it hold a lock that the cleaning up takes.
    """
    loop = asyncio.get_running_loop()
    feeding: asyncio.Future[None] | None = None
    try:
        async for chunk in chunks:
            if feeding is not None:
                await feeding
            feeding = loop.run_in_executor(executor, feed, chunk)
        if feeding is not None:
            await feeding
    finally:
        if feeding is not None:
            feeding.add_done_callback(lambda done: done.cancelled() or done.exception())
