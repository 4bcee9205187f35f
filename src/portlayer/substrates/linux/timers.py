"""Short pauses: the event loop rounds its own timers up to milliseconds."""

from __future__ import annotations

import asyncio
import os

from portlayer.substrates.linux import kernel

_ROUNDED_SECONDS = 0.001


async def pause(seconds: float) -> None:
    """Let others run for *seconds*, to some hundredths of a millisecond where it is less than one."""
    if seconds >= _ROUNDED_SECONDS:
        await asyncio.sleep(seconds)
        return
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    descriptor = kernel.timer(seconds)
    loop.add_reader(descriptor, _set, over)
    try:
        await over
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _set(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
