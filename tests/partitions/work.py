"""What callers do all the while: containers come and go through every door, and something runs that nobody touches."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from driver import ME, Driver
from partitions.lab import Lab, Process, within
from partitions.laws import Unread

from portlayer.interfaces.interaction import Attachment
from portlayer.model import execution as e
from portlayer.model import interaction as i
from portlayer.model import network as n
from portlayer.model.errors import AlreadyExists, Conflict, InvalidState, NotFound, PortlayerError, Unavailable

CALL_SECONDS = 25.0
"""No call takes longer, whatever is cut: see docs/partitions.md."""
HEAL_SECONDS = 40.0
FIRST_PORT = 9000
LOSSES = (AlreadyExists, Conflict, InvalidState, NotFound)
"""What a caller may be told who has others beside it, and tries again what it does not know to have happened."""


class Work:
    """Callers at the doors of *lab*, who want *names* names and any host, or *host*.

    done: what has succeeded, by door; unavailable: what could not be done then.
    """

    def __init__(self, lab: Lab, *, names: int = 3, host: str | None = None) -> None:
        self._lab = lab
        self._names = names
        self._host = host
        self._numbers = itertools.count()
        self.done: Counter[str] = Counter()
        self.unavailable: Counter[str] = Counter()
        self.slowest = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def once(self, process: Process) -> None:
        """A container with a name and a port that others want too is made, started and removed."""
        number = next(self._numbers)
        driver = process.driver
        port = n.Port(container_port=80, host_port=FIRST_PORT + number % (self._names + 1))
        name = f"w{number % self._names}"
        handle = await driver.draft("sleep", "1000", name=name, network="lan", ports=(port,), host=self._host)
        handle = await driver.set_state(handle, "running")
        try:
            done = await driver.commit(handle)
        except PortlayerError:
            with contextlib.suppress(PortlayerError):  # else its address stays reserved for two minutes, and all are
                await driver.pl.execution.discard(ME, e.Discard(handle=handle))
            raise
        again = await driver.commit(handle)
        assert again == done
        await driver.remove(done.id, force=True)

    async def at(self, process: Process) -> None:
        """The same again and again."""
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(4 * CALL_SECONDS):
                    await self.once(process)
            except Unavailable as error:
                assert process.killed or error.facts.get("retry_after_seconds"), f"{process.name}: {error}"
                self.unavailable[process.name] += 1
                await asyncio.sleep(0.2)
            except LOSSES:
                await self._clear(process.driver)
            else:
                self.done[process.name] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)

    async def _clear(self, driver: Driver) -> None:
        """What a caller has left who was told that it may have happened."""
        with contextlib.suppress(PortlayerError):
            for one in (await driver.pl.execution.list_containers(ME, e.ListContainers())).containers:
                if one.name.startswith("w"):
                    await driver.remove(one.id, force=True)

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Within this, at every door; and the laws hold."""
        self._tasks = [asyncio.create_task(self.at(process)) for process in self._lab.processes.values()]
        self._tasks.append(asyncio.create_task(self._keep_the_laws()))
        try:
            yield
            self._look()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _look(self) -> None:
        """Raises what has gone wrong."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _keep_the_laws(self) -> None:
        while True:
            with contextlib.suppress(Unread):
                await asyncio.to_thread(self._lab.laws.check)
            await asyncio.sleep(0.5)

    async def succeeds_at(self, *processes: Process, seconds: float = HEAL_SECONDS) -> None:
        """Work succeeds at each of *processes* from here on."""
        before = Counter(self.done)
        async with asyncio.timeout(seconds):
            while any(self.done[one.name] == before[one.name] for one in processes):
                self._look()
                await asyncio.sleep(0.05)

    async def fails_at(self, process: Process, seconds: float = CALL_SECONDS) -> None:
        """Whoever calls there is told that it cannot be done just now."""
        before = self.unavailable[process.name]
        async with asyncio.timeout(seconds):
            while self.unavailable[process.name] == before:
                self._look()
                await asyncio.sleep(0.05)


async def settles(lab: Lab) -> None:
    async with asyncio.timeout(HEAL_SECONDS):
        while left := await asyncio.to_thread(lab.laws.settled):
            await asyncio.sleep(0.2)
    assert not left
    await asyncio.to_thread(lab.laws.check)


async def again(work: Callable[[], Awaitable[Any]]) -> Any:
    """*work*, until it can be done."""
    async with asyncio.timeout(HEAL_SECONDS):
        while True:
            try:
                return await work()
            except Unavailable as error:
                await asyncio.sleep(error.facts["retry_after_seconds"])


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what is looked up outside the loop."""
    async with asyncio.timeout(HEAL_SECONDS):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.01)


class Counting:
    """A container that counts, and somebody who is attached to it at one door."""

    def __init__(self, name: str, driver: Driver) -> None:
        self.name = name
        self.seen = 0
        self._driver = driver
        self._reading: asyncio.Task[None] | None = None

    async def start(self, **fields: Any) -> None:
        script = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"
        await self._driver.run("sh", "-c", script, name=self.name, network="lan", **fields)
        await self.attach()

    async def attach(self) -> None:
        """Anew, where the process at which it was read is no more."""
        await self.leave()
        attachment = await self._driver.pl.interaction.attach(ME, i.Attach(ref=self.name))
        self._reading = asyncio.create_task(self._read(attachment))

    async def leave(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, attachment: Attachment) -> None:
        try:
            async for item in attachment:
                self.seen += len(getattr(item, "data", b"").splitlines())
        finally:
            await attachment.close()

    async def goes_on(self, seconds: float = HEAL_SECONDS) -> None:
        """More of what it says arrives."""
        assert self._reading is not None
        before = self.seen
        async with asyncio.timeout(seconds):
            while self.seen < before + 5:
                assert not self._reading.done(), self._reading
                await asyncio.sleep(0.05)


__all__ = ["CALL_SECONDS", "HEAL_SECONDS", "Counting", "Work", "again", "settles", "until"]


async def is_refused(call: Callable[[], Awaitable[Any]]) -> None:
    """In time, and with the time to come again."""
    async with within(CALL_SECONDS):
        with pytest.raises(Unavailable) as told:
            await call()
    assert told.value.facts["retry_after_seconds"]
