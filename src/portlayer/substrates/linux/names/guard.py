"""The name server is started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable

from portlayer.substrates.linux.names.keeper import Keeper

log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.05, 5.0
_STABLE_SECONDS = 10.0


class Guard:
    """Follows the server of *keeper*. run: does something in the thread that the keeper belongs to."""

    def __init__(self, keeper: Keeper, run: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._keeper = keeper
        self._run = run
        self._followed = -1
        self._pause = _FIRST_PAUSE_SECONDS
        self._since = 0.0
        self._reviving: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Where there are networks, the server runs; where that fails, it is tried again."""
        if not await self._revived():
            self._reviving = asyncio.create_task(self._revive())

    def follow(self) -> None:
        """Notice the death of the server that runs now; none is fine."""
        if self._keeper.pidfd < 0:
            return
        loop = asyncio.get_running_loop()
        self._let_go()
        self._followed = os.dup(self._keeper.pidfd)
        self._since = loop.time()
        loop.add_reader(self._followed, self._died)

    async def close(self) -> None:
        """The server runs on."""
        self._let_go()
        if self._reviving is not None:
            self._reviving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reviving

    def _died(self) -> None:
        self._let_go()
        if asyncio.get_running_loop().time() - self._since > _STABLE_SECONDS:
            self._pause = _FIRST_PAUSE_SECONDS
        self._reviving = asyncio.create_task(self._revive())

    async def _revive(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LAST_PAUSE_SECONDS)
            if await self._revived():
                return

    async def _revived(self) -> bool:
        try:
            await self._run(self._keeper.revive)
        except OSError as error:
            log.warning("the name server cannot be started; it will be tried again: %s", error)
            return False
        self.follow()
        return True

    def _let_go(self) -> None:
        if self._followed >= 0:
            asyncio.get_running_loop().remove_reader(self._followed)
            os.close(self._followed)
            self._followed = -1
