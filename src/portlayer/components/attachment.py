"""An open attachment on this host: output from the log, input to the task, then the exit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from portlayer.components import keys
from portlayer.components.admission import Place
from portlayer.components.records import Records, decode, next_change
from portlayer.interfaces.interaction import Control, Output
from portlayer.interfaces.store import Delete, Put, Transaction
from portlayer.interfaces.substrate import InteractionDriver
from portlayer.model.detach import Detacher
from portlayer.model.errors import InvalidState, PortlayerError
from portlayer.model.execution import Observed
from portlayer.model.names import new_id

READING_SECONDS = 3600.0


class Life:
    """Waits for the start and the end of a container's present or next task.

    One that was begun with `announced` is in the store for as long as it is open: who is removed on exit goes only when
    its output has been read, in whichever process that happens.
    """

    @classmethod
    async def announced(cls, records: Records, vch: str, container: str, process: str) -> Life:
        """One that a removal on exit waits for, while *process*, where it is, lives."""
        key = f"{keys.attachments(vch, container)}{new_id()}"
        said = Transaction(ops=[Put(key, process.encode(), READING_SECONDS)], durable=False)
        await records.store.apply(said)
        life = cls(records, vch, container)
        life._key = key
        life._announcing = asyncio.create_task(life._announce_again(said))
        return life

    async def _announce_again(self, said: Transaction) -> None:
        """It is a lease, for a process that dies; who reads for longer says so."""
        while True:
            await asyncio.sleep(READING_SECONDS / 3)
            with contextlib.suppress(PortlayerError):
                await self._records.store.apply(said)

    def __init__(self, records: Records, vch: str, container: str) -> None:
        self._key = ""
        self._announcing: asyncio.Task[None] | None = None
        self._records = records
        self._vch = vch
        self._container = container
        self._changes = records.store.watch(keys.entity(vch, "observed", container))
        self._last: Observed | None = None

    async def _next(self) -> Observed | None:
        """What is observed: first now, then after each change. None: removed."""
        if self._last is None:
            found = await self._records.container(self._vch, self._container)
            self._last = found[1] if found else None
            return self._last
        change = await next_change(self._changes)
        if change is None or change.record is None:
            return None
        self._last = decode(Observed, change.record.value)
        return self._last

    async def incarnation(self) -> str | None:
        """The present task's incarnation, once there is one; None where the container is removed before."""
        while (observed := await self._next()) is not None:
            if observed.state != "created":
                return observed.incarnation
        return None

    async def end(self, incarnation: str) -> Observed | None:
        """How *incarnation* ended; None where that is not known any more."""
        observed = self._last
        while observed is not None and observed.incarnation == incarnation:
            if observed.state == "stopped":
                return observed
            observed = await self._next()
        return None

    async def aclose(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
        await self._changes.aclose()
        if self._announcing is not None:
            await asyncio.wait((self._announcing,))
        if self._key:
            with contextlib.suppress(PortlayerError):  # its lease ends
                await self._records.store.apply(Transaction(ops=[Delete(self._key)], durable=False))


class LocalAttachment:
    """Implements interfaces.interaction.Attachment."""

    def __init__(
        self,
        driver: InteractionDriver,
        life: Life,
        container: str,
        cursor: int,
        streams: frozenset[int],
        detach_keys: bytes,
        place: Place,
        *,
        stdin: bool,
    ) -> None:
        self._driver = driver
        self._life = life
        self._container = container
        self._cursor = cursor
        self._streams = streams
        self._detacher = Detacher(detach_keys)
        self._place = place
        self._stdin = stdin
        self._incarnation = asyncio.create_task(life.incarnation())
        self._detached = asyncio.Event()
        self._read = False

    def __aiter__(self) -> AsyncIterator[Output | Control]:
        return self._frames()

    async def _frames(self) -> AsyncGenerator[Output | Control, None]:
        self._read = True
        frames = self._until_end()
        detached = asyncio.ensure_future(self._detached.wait())
        following: asyncio.Future[Any] = detached
        try:
            while True:
                following = asyncio.ensure_future(anext(frames, None))
                await asyncio.wait((following, detached), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    yield Control(kind="detached", fields={"cursor": str(self._cursor)})
                    return
                frame = following.result()
                if frame is None:
                    return
                yield frame
        finally:
            for task in (following, detached):
                task.cancel()
            try:
                await asyncio.gather(following, detached, return_exceptions=True)  # what runs cannot be closed
                await frames.aclose()
            finally:
                await self._end()

    async def _until_end(self) -> AsyncGenerator[Output | Control, None]:
        incarnation = await asyncio.shield(self._incarnation)
        if incarnation is None:
            yield Control(kind="exit", fields={"exitCode": None})
            return
        log = self._driver.read_log(self._container, self._cursor, follow=incarnation)
        async with contextlib.aclosing(log):
            async for chunk in log:
                self._cursor = chunk.cursor
                if chunk.stream in self._streams:
                    yield Output(stream=chunk.stream, data=chunk.data)
        ended = await self._life.end(incarnation)
        fields: dict[str, object] = {"exitCode": ended.exit_code if ended else None}
        if ended is not None and ended.start_error:
            fields["startError"] = ended.start_error
        yield Control(kind="exit", fields=fields)

    async def _task(self) -> str:
        incarnation = await asyncio.shield(self._incarnation)
        if incarnation is None:
            raise InvalidState("The container has been removed.", kind="container", id=self._container)
        return incarnation

    async def write(self, data: bytes) -> None:
        if not self._stdin:
            raise InvalidState("This attachment has no stdin.", kind="container", id=self._container)
        passing, complete = self._detacher.feed(data)
        if passing:
            await self._driver.write_stdin(self._container, await self._task(), passing)
        if complete:
            self._detached.set()

    async def close_stdin(self) -> None:
        if self._stdin:
            await self._driver.close_stdin(self._container, await self._task())

    async def resize(self, width: int, height: int) -> None:
        await self._driver.resize(self._container, await self._task(), width, height)

    async def detach(self) -> None:
        self._detached.set()

    async def close(self) -> None:
        self._detached.set()
        if not self._read:
            await self._end()

    async def _end(self) -> None:
        self._place.leave()
        self._incarnation.cancel()
        try:
            await asyncio.wait((self._incarnation,))
        finally:
            await self._life.aclose()
