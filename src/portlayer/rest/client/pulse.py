"""Whether another process still answers, while something is waited for that may take as long as it likes.

A commit, or a wait, has no time of its own. So who waits for one asks the other end now and then for its health, which
every process answers at once. Where that does not come, the process hangs, is paused, or is cut off; whoever waits for
it is told, and need not wait for a network that may never heal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 5.0


class Silent(Exception):
    """The other end does not answer any more."""


class Pulse:
    """Of one other process, at which calls are waited for. ask: for its health."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._waiting: set[asyncio.Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def felt(self) -> AsyncIterator[None]:
        """Wait for the other end. Raises Silent where it does not answer for ten seconds."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._waiting.add(limit)
                self._look_later()
                yield
        except TimeoutError:
            if limit.expired():
                raise Silent from None
            raise
        finally:
            self._waiting.discard(limit)

    def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _look_later(self) -> None:
        """One timer for all calls: most are over before it rings."""
        if self._timer is None and self._asking is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiting:
            self._asking = asyncio.create_task(self._feel(set(self._waiting)))

    async def _feel(self, waiting: set[asyncio.Timeout]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._ask()
        except Exception:  # noqa: BLE001  (whatever it says: it is not the answer)
            now = asyncio.get_running_loop().time()
            for limit in waiting & self._waiting:
                limit.reschedule(now)
        finally:
            self._asking = None
        if self._waiting:
            self._look_later()
