"""A whole port layer in the test's own process: any store, the memory substrate, real components.

`crash` stops it as SIGKILL would: whatever was under way never goes on, and a new one starts on the same store and
the same world.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from driver import ME, Driver

from portlayer.compose import Settings, assemble
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Store
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

__all__ = ["ME", "Harness"]


def _is_of_process(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and not any(part in code.co_filename for part in ("substrates/memory", "portlayer/stores"))


class Harness(Driver):
    """failpoints: of the present process; world: the host."""

    def __init__(self, open_store: Callable[[], Awaitable[Store]], state: Path, settings: Settings) -> None:
        self._open_store = open_store
        self._state = state
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._dead: list[contextlib.AsyncExitStack] = []
        self.world = World()
        self.failpoints = Failpoints()
        self.store: Store

    async def start(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self.failpoints = Failpoints()
        self.store = await self._open_store()
        substrate = MemorySubstrate(self.world)
        features = await substrate.start()
        self.pl = await self._stack.enter_async_context(
            assemble(self.store, substrate, features, self._state, "test", self._settings, self.failpoints)
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def crash(self) -> None:
        """The process is gone; what it was doing stays as it is. Start anew.

        Its tasks are cancelled, which runs no undo of ours; the world's programs and the store live on.
        """
        self._dead.append(self._stack)
        doomed = [task for task in asyncio.all_tasks() - {asyncio.current_task()} if _is_of_process(task)]
        for task in doomed:
            task.cancel()
        if doomed:
            await asyncio.wait(doomed, timeout=5)
        await self.start()

    async def close(self) -> None:
        await self.stop()
        mine = asyncio.current_task()
        for task in asyncio.all_tasks() - {mine}:
            task.cancel()
        for stack in self._dead:
            with contextlib.suppress(BaseException):
                async with asyncio.timeout(5):
                    await stack.aclose()
        self.world.close()

    async def until_hit(self, name: str, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Start *work* and return once it hangs at failpoint *name* (or is done)."""
        reached = asyncio.Event()

        async def hang(_: str) -> None:
            reached.set()
            await asyncio.Event().wait()

        self.failpoints.arm(name, hang)
        task = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(reached.wait())
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return task
