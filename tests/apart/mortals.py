"""A port layer of several processes over etcd, in the test's own, any of which may be killed at any instruction.

Each is what a real one is: a server on a socket, components, and a store with connections of its own. What a process
has begun is told from what others have by the context in which its tasks were made.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from driver import Driver
from harness import Answers, Death, Mortal, is_of_process, until_hit

from portlayer.components.commit.engine import Engine
from portlayer.components.drafts import Drafts
from portlayer.components.membership import Membership
from portlayer.compose import Assembled, Settings, assemble
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Store
from portlayer.model.execution import replace
from portlayer.model.topology import Part, Topology
from portlayer.rest.server import Server
from portlayer.stores.clock import Clock
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

_life: contextvars.ContextVar[int] = contextvars.ContextVar("life", default=0)


class Process:
    """One that lives, until `kill`."""

    numbers = itertools.count(1)

    def __init__(self, part: Part, socket: Path, failpoints: Failpoints) -> None:
        self.part = replace(part, address=f"unix://{socket}")
        self.socket = socket
        self.failpoints = failpoints
        self.death = Death()
        self.life = next(self.numbers)
        self.stack = contextlib.AsyncExitStack()
        self.store: Store
        self.assembled: Assembled
        self.server: Server

    async def start(
        self, store: Store, world: World, directory: Path, topology: Topology, clock: Callable[[], float]
    ) -> None:
        """Run this in a context of its own."""
        _life.set(self.life)
        self.store = store
        substrate = MemorySubstrate(world)
        features = await substrate.start()
        for name in ("storage", "execution", "network", "interaction"):
            setattr(substrate, name, Mortal(getattr(substrate, name), self.death))
        self.answers = Answers(store)
        mortal: Any = Mortal(self.answers, self.death)
        whole = (mortal, substrate, features, directory, "test", Settings(topology=topology), self.failpoints)
        self.assembled = await self.stack.enter_async_context(assemble(*whole, part=self.part, clock=clock))
        self.server = Server(self.assembled.components, self.assembled.here, self.assembled.passport)
        await self.server.listen_unix(self.socket)

    @property
    def membership(self) -> Membership:
        return self.assembled.here.service._stuck.__self__._membership  # type: ignore[attr-defined,no-any-return]


class Mortals(Driver):
    """The processes of *topology*, on one host. pl: as the first serves it, to which callers come; failpoints: of the
    one with execution; store: to look into."""

    def __init__(
        self, topology: Topology, open_store: Callable[[], Awaitable[Store]], directory: Path, clock: Clock
    ) -> None:
        self._topology = topology
        self._open_store = open_store
        self._directory = directory
        self._clock = clock
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._living: dict[str, Process] = {}
        self._dead: list[Process] = []
        self.names = [part.name for part in topology.parts]
        self.world = World()
        self.failpoints = Failpoints()
        self.store: Store

    async def start(self) -> None:
        asyncio.get_running_loop().set_task_factory(self._make_task)
        self.store = await self._open_store()
        for part in self._topology.parts:
            await self._begin(part)
        self.pl = self._living[self.names[0]].assembled.components

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **more)
        context = more.get("context")
        self._tasks[task] = context.get(_life, 0) if context is not None else _life.get()
        return task

    async def _begin(self, part: Part) -> None:
        failpoints = Failpoints()
        if "execution" in part.components:
            self.failpoints = failpoints
        process = Process(part, self._directory / f"{part.name}.sock", failpoints)
        whole = (await self._open_store(), self.world, self._directory, self._topology, lambda: self._clock()[1])
        starting = asyncio.get_running_loop().create_task(process.start(*whole), context=contextvars.copy_context())
        await starting
        self._living[part.name] = process

    @property
    def execution(self) -> Process:
        return next(one for one in self._living.values() if "execution" in one.part.components)

    def losing(self, number: int, *, landed: bool) -> contextlib.AbstractContextManager[None]:
        """Of the process with execution; see Answers."""
        return self.execution.answers.losing(number, landed=landed)

    @property
    def drafts(self) -> Drafts:
        return self.execution.assembled.here.execution._drafts  # type: ignore[attr-defined,no-any-return]

    @property
    def engine(self) -> Engine:
        return self.execution.assembled.here.execution._engine  # type: ignore[attr-defined,no-any-return]

    def blobs(self) -> set[str]:
        """The digests of the layers that are kept as they came."""
        return {f"sha256:{file.name}" for file in (self._directory / "blobs" / "sha256").iterdir()}

    async def refresh(self) -> None:
        """Every process says that it lives."""
        for process in self._living.values():
            await process.membership.refresh()

    async def crash(self, number: int | None = None) -> None:
        """The process with *number*, of all in turn (None: that with execution), is killed, and started again."""
        name = self.execution.part.name if number is None else self.names[number % len(self.names)]
        process = self._living.pop(name)
        self._dead.append(process)
        doomed = [
            task
            for task, life in list(self._tasks.items())
            if life == process.life and not task.done() and is_of_process(task)
        ]
        for task in doomed:
            task.cancel()
        if doomed:
            await asyncio.wait(doomed, timeout=30)
        await process.server.drain(0)  # the kernel closes its sockets
        await self._begin(self._topology.part(name))
        self.pl = self._living[self.names[0]].assembled.components

    async def until_hit(self, name: str, work: Awaitable[Any]) -> asyncio.Task[Any]:
        return await until_hit(self.failpoints, name, work)

    async def close(self) -> None:
        for process in reversed(self._living.values()):
            await process.server.drain(0)
            await process.stack.aclose()
        for process in self._dead:
            process.death.happened = True
            process.death.buried.set()
            with contextlib.suppress(BaseException):
                async with asyncio.timeout(5):
                    await process.stack.aclose()
        self.world.close()
