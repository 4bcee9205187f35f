"""What a process does for as long as it lives must not end by a fault that nobody has foreseen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)
AGAIN_SECONDS = 1.0


async def endure(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do *work* until it returns; where a fault ends it, the log says so, and it begins anew. what: as in `the hosts
    are followed`."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("%s: a fault has ended that; it begins anew", what)
        await asyncio.sleep(AGAIN_SECONDS)
