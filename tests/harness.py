"""A whole port layer in the test's own process: any store, the memory substrate, real components.

`crash` stops it as SIGKILL would: whatever was under way never goes on, and a new one starts on the same store and
the same world.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from builders import layer

from portlayer.compose import Settings, assemble
from portlayer.failpoints import Failpoints
from portlayer.interfaces.components import Components
from portlayer.interfaces.store import Store
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.caller import Caller
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

ME = Caller()


def _is_of_process(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and not any(part in code.co_filename for part in ("substrates/memory", "portlayer/stores"))


class Harness:
    """pl: the components; failpoints: of the present process; world: the host."""

    def __init__(self, open_store: Callable[[], Awaitable[Store]], state: Path, settings: Settings) -> None:
        self._open_store = open_store
        self._state = state
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._dead: list[contextlib.AsyncExitStack] = []
        self.world = World()
        self.failpoints = Failpoints()
        self.store: Store
        self.pl: Components

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

    # what tests do all the time

    async def image(self) -> s.Image:
        """busybox:latest, imported."""
        _, tar = layer()

        async def body() -> AsyncIterator[bytes]:
            yield tar

        imported = await self.pl.storage.import_image(ME, s.ImportImage(name="busybox", format="rootfs"), body())
        return imported.images[0]

    async def network(self, name: str = "gibson_network", **fields: Any) -> n.Network:
        return await self.pl.network.create_network(ME, n.CreateNetwork(name=name, **fields))

    async def draft(self, *args: str, network: str | None = None, volume: str | None = None, **fields: Any) -> str:
        """A handle to a container that is not committed."""
        request = e.Create(image="busybox", process=e.ProcessRequest(args=args or ("sleep", "1000")), **fields)
        handle = (await self.pl.execution.create(ME, request)).handle
        if network is not None:
            handle = (await self.pl.network.join(ME, n.JoinNetwork(handle=handle, network=network))).handle
            handle = (await self.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle
        if volume is not None:
            join = s.JoinVolume(handle=handle, volume=volume, destination="/data")
            handle = (await self.pl.storage.join(ME, join)).handle
        return handle

    async def run(self, *args: str, **fields: Any) -> e.Committed:
        """A container that was created and started in one commit."""
        return await self.commit(await self.set_state(await self.draft(*args, **fields), "running"))

    async def handle(self, ref: str) -> str:
        return (await self.pl.execution.handle(ME, e.ContainerRef(ref=ref))).handle

    async def set_state(self, handle: str, state: Any, **fields: Any) -> str:
        return (await self.pl.execution.set_state(ME, e.SetState(handle=handle, state=state, **fields))).handle

    async def set_labels(self, handle: str, **labels: str | None) -> str:
        return (await self.pl.execution.set_labels(ME, e.SetLabels(handle=handle, labels=labels))).handle

    async def rename(self, handle: str, name: str) -> str:
        return (await self.pl.execution.rename(ME, e.Rename(handle=handle, name=name))).handle

    async def commit(self, handle: str, **fields: Any) -> e.Committed:
        answer = await self.pl.execution.commit(ME, e.Commit(handle=handle, **fields))
        assert isinstance(answer, e.Committed)
        return answer

    async def inspect(self, ref: str) -> e.Container:
        return await self.pl.execution.get_container(ME, e.ContainerRef(ref=ref))

    async def remove(self, ref: str, **fields: Any) -> None:
        await self.pl.execution.delete_container(ME, e.DeleteContainer(ref=ref, **fields))

    async def wait(self, ref: str, condition: Any = "exited") -> e.Waited:
        return await self.pl.execution.wait(ME, e.Wait(ref=ref, condition=condition, timeout_seconds=20))
