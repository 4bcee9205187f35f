"""Fair locks by name: commits of one container queue in the order they came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager


class Locks:
    """A lock for each name while somebody holds or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def hold(
        self, *names: str, waiting: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext
    ) -> AsyncIterator[None]:
        """Hold all *names*, taken in one order by everybody, so that nobody waits in a circle.

        Where others hold some, it is waited for within *waiting*.
        """
        async with contextlib.AsyncExitStack() as stack:
            if any(name in self._locks for name in names):
                async with waiting():
                    await self._take(stack, names)
            else:
                await self._take(stack, names)
            yield

    async def _take(self, stack: contextlib.AsyncExitStack, names: tuple[str, ...]) -> None:
        for name in sorted(set(names)):
            await stack.enter_async_context(self._hold(name))

    @contextlib.asynccontextmanager
    async def _hold(self, name: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)

    def held(self, name: str) -> bool:
        """Whether somebody holds *name*."""
        return name in self._locks
