"""A whole port layer in the test's own process: any store, the memory substrate, real components.

`crash` stops it as SIGKILL would: whatever was under way never goes on, and a new one starts on the same store and
the same world. `another` is a second process of the same host, and `die` leaves a process for the others to mourn.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator
from pathlib import Path
from typing import Any

from driver import ME, Driver

from portlayer.components.commit.engine import Engine
from portlayer.components.drafts import Drafts
from portlayer.compose import Settings, assemble
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Store, Transaction
from portlayer.model.errors import Unavailable
from portlayer.model.topology import LOCAL_HOST, Part
from portlayer.stores.clock import Clock, boot_clock
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

__all__ = ["ME", "Harness", "harness_over", "until", "until_hit"]


_OUTSIDE = ("substrates/memory", "portlayer/stores", "asyncio/selector_events")
"""What runs there is the host's, the store's or the kernel's: a process that dies leaves no accept(2) half done."""
_READS = {"get", "get_many", "range", "count", "revision", "sync"}
"""Calls of a store that change nothing."""


def is_of_process(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and not any(part in code.co_filename for part in _OUTSIDE)


class Death:
    """Of a process: when it happens, and when the test has seen enough of what it leaves."""

    def __init__(self) -> None:
        self.happened = False
        self.buried = asyncio.Event()


class Seams:
    """The calls by which a process may change what is outside of it, in turn: it can be held still at any."""

    def __init__(self) -> None:
        self._left: int | None = None
        self.reached = asyncio.Event()

    def hold(self, number: int) -> None:
        """From now on the process gets as far as just before (even) or just after (odd) call *number* // 2."""
        self._left = number
        self.reached = asyncio.Event()

    async def passing(self) -> None:
        """A call is about to be made, or has just been."""
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            self.reached.set()
            await asyncio.Event().wait()

    def open(self) -> None:
        """Hold nothing any more."""
        self._left = None


class Mortal:
    """Something outside the process, as it is seen from within: once that has died, no call returns to it. seams: of
    the calls that may change it; those that only look are not held."""

    def __init__(self, target: Any, death: Death, seams: Seams | None = None, looks: Container[str] = ()) -> None:
        self._target = target
        self._death = death
        self._seams = seams
        self._looks = looks

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not inspect.iscoroutinefunction(found):
            return found

        seams = None if name in self._looks else self._seams

        async def call(*args: Any, **kwargs: Any) -> Any:
            if seams is not None:
                await seams.passing()
            result = None if self._death.happened else await found(*args, **kwargs)
            if self._death.happened:
                await self._death.buried.wait()
                raise Unavailable("This process is dead.")
            if seams is not None:
                await seams.passing()
            return result

        return call


class Answers:
    """The way to a store, which may lose the answer to a transaction, or the transaction too."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._left: int | None = None
        self._landed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextlib.contextmanager
    def losing(self, number: int, *, landed: bool) -> Iterator[None]:
        """The answer to the transaction with *number* from now on is lost. landed: it alone."""
        self._left, self._landed = number, landed
        try:
            yield
        finally:
            self._left = None

    async def apply(self, transaction: Transaction) -> int:
        left, self._left = self._left, None if self._left is None else self._left - 1
        if left != 0:
            return int(await self._store.apply(transaction))
        if self._landed:
            await self._store.apply(transaction)
        raise Unavailable("The answer was lost.", retry_after_seconds=1)


class Harness(Driver):
    """failpoints: of the present process; world: the host. clock: of its leases; alone: whether it is the only one."""

    def __init__(
        self,
        open_store: Callable[[], Awaitable[Store]],
        state: Path,
        settings: Settings,
        *,
        world: World | None = None,
        clock: Clock = boot_clock,
        alone: bool = True,
        host: str = LOCAL_HOST,
    ) -> None:
        self._host = host
        self._clock = clock
        self._alone = alone
        self._death = Death()
        self._open_store = open_store
        self._state = state
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._dead: list[contextlib.AsyncExitStack] = []
        self.world = world or World()
        self.failpoints = Failpoints()
        self.seams = Seams()
        self.store: Store

    async def start(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self.failpoints = Failpoints()
        self.store = await self._open_store()
        substrate = MemorySubstrate(self.world)
        features = await substrate.start()
        death = self._death = Death()
        seams = self.seams = Seams()
        for name in ("storage", "execution", "network", "interaction"):
            setattr(substrate, name, Mortal(getattr(substrate, name), death, seams))
        self._answers = Answers(self.store)
        store: Any = Mortal(self._answers, death, seams, looks=_READS)
        assembled = await self._stack.enter_async_context(
            assemble(
                *(store, substrate, features, self._state, "test", self._settings, self.failpoints),
                part=Part(host=self._host),
                alone=self._alone,
                clock=lambda: self._clock()[1],
            )
        )
        self.pl = assembled.components
        self.authority = assembled.authority
        self.certificates, self.passport, self.here = assembled.certificates, assembled.passport, assembled.here

    async def another(self, host: str = LOCAL_HOST, *, alone: bool = False) -> Harness:
        """A second process on the same store and directory, and, where it is of this host, on the same world."""
        world = self.world if host == self._host else World()
        other = Harness(
            self._open_store, self._state, self._settings, world=world, clock=self._clock, alone=alone, host=host
        )
        await other.start()
        return other

    def losing(self, number: int, *, landed: bool) -> contextlib.AbstractContextManager[None]:
        """See Answers."""
        return self._answers.losing(number, landed=landed)

    @property
    def drafts(self) -> Drafts:
        return self.pl.execution._drafts  # type: ignore[attr-defined,no-any-return]

    @property
    def engine(self) -> Engine:
        return self.pl.execution._engine  # type: ignore[attr-defined,no-any-return]

    def blobs(self) -> set[str]:
        """The digests of the layers that are kept as they came."""
        return {f"sha256:{file.name}" for file in (self._state / "blobs" / "sha256").iterdir()}

    def die(self) -> None:
        """The process is killed, and nobody starts it again."""
        self._death.happened = True
        self.pause()

    def pause(self) -> None:
        """The process does not say any more that it lives."""
        refreshing = self.engine.membership._refreshing
        assert refreshing is not None
        refreshing.cancel()

    async def stop(self) -> None:
        await self._stack.aclose()

    async def refresh(self) -> None:
        """The process says that it lives, as it does when time is real."""
        await self.engine.membership.refresh()

    async def crash(self, _number: int | None = None) -> None:
        """The process is gone; what it was doing stays as it is. Start anew.

        Its tasks are cancelled, which runs no undo of ours; the world's programs and the store live on.
        """
        self._dead.append(self._stack)
        self.seams.open()
        doomed = [task for task in asyncio.all_tasks() - {asyncio.current_task()} if is_of_process(task)]
        for task in doomed:
            task.cancel()
        if doomed:
            await asyncio.wait(doomed, timeout=30)
        await self.start()

    @property
    def dead(self) -> bool:
        return self._death.happened

    async def close(self) -> None:
        if self.dead:
            self._death.buried.set()
            self._dead.append(self._stack)
        else:
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
        return await until_hit(self.failpoints, name, work)


@contextlib.asynccontextmanager
async def harness_over(
    open_store: Callable[[], Awaitable[Store]], state: Path, settings: Settings | None = None
) -> AsyncIterator[Harness]:
    """One with the image busybox; at the end the stores are closed that *open_store* gave, which may be the same."""
    opened: dict[Store, None] = {}

    async def opening() -> Store:
        store = await open_store()
        opened[store] = None
        return store

    harness = Harness(opening, state, settings or Settings())
    await harness.start()
    await harness.image()
    yield harness
    await harness.close()
    for store in opened:
        await store.close()


async def until(reached: asyncio.Event, work: Awaitable[Any]) -> asyncio.Task[Any]:
    """Start *work* and return once *reached* is set (or it is done)."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(reached.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return task


async def until_hit(failpoints: Failpoints, name: str, work: Awaitable[Any]) -> asyncio.Task[Any]:
    """Start *work* and return once it hangs at failpoint *name* (or is done)."""
    reached = asyncio.Event()

    async def hang(_: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    failpoints.arm(name, hang)
    return await until(reached, work)
