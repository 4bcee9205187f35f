"""What bytes flow through inside the memory substrate: bells, pipes, logs and a terminal's line discipline."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable

from portlayer.model.execution import replace
from portlayer.model.interaction import STDOUT, Chunk

PIPE_BYTES = 65536  # what Linux gives a pipe
CHUNK_BYTES = 60 << 10


class Bell:
    """Wakes everybody who waits; whoever wakes looks at the state again."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


class BrokenPipe(Exception):
    """Nobody reads any more, or the writing end was closed."""


class Pipe:
    """A pipe of PIPE_BYTES: writers wait while it is full, readers while it is empty."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._bell = Bell()
        self.ended = False
        self.broken = False

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            if self.broken or self.ended:
                raise BrokenPipe
            room = PIPE_BYTES - len(self._buffer)
            self._buffer += rest[:room]
            rest = rest[room:]
            self._bell.ring()
            if not rest:
                return
            await self._bell.wait()

    async def read(self, size: int = PIPE_BYTES) -> bytes:
        """Up to *size* bytes; empty at the end."""
        while not self._buffer and not self.ended:
            await self._bell.wait()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._bell.ring()
        return data

    def end(self) -> None:
        """The writing end is closed; readers get what is left, then the end."""
        self.ended = True
        self._bell.ring()

    def break_(self) -> None:
        """The reading end is closed."""
        self.broken = True
        self._bell.ring()


class Log:
    """All output of a container; a cursor is the number of bytes before it."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.bell = Bell()
        self.removed = False

    @property
    def end(self) -> int:
        return self.chunks[-1].cursor if self.chunks else 0

    def append(self, stream: int, data: bytes) -> None:
        cursor = self.end
        now = time.time_ns()
        for start in range(0, len(data), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            cursor += len(piece)
            self.chunks.append(Chunk(stream=stream, data=piece, time=now, cursor=cursor))
        self.bell.ring()

    def after(self, cursor: int, *, split: bool) -> Chunk | None:
        """The first piece past *cursor*, cut where the cursor is inside of it; with split one line of it at most."""
        index = bisect_right(self.chunks, cursor, key=lambda chunk: chunk.cursor)
        if index == len(self.chunks):
            return None
        chunk = self.chunks[index]
        start = len(chunk.data) - (chunk.cursor - max(cursor, 0))
        line = chunk.data.find(b"\n", start) + 1 if split else 0
        end = line or len(chunk.data)
        return replace(chunk, data=chunk.data[start:end], cursor=chunk.cursor - len(chunk.data) + end)


class Terminal:
    """The line discipline that a new Linux terminal has: canonical input, echo, `\\n` written as `\\r\\n`."""

    def __init__(self, log: Log, interrupt: Callable[[], None]) -> None:
        self.input = Pipe()
        self.width = 0
        self.height = 0
        self._log = log
        self._interrupt = interrupt
        self._line = bytearray()

    def output(self, data: bytes) -> None:
        self._log.append(STDOUT, data.replace(b"\n", b"\r\n"))

    async def type(self, data: bytes) -> None:
        """What a person types: `^C` interrupts, `^D` ends the line, or the input where the line is empty."""
        for key in data.replace(b"\r", b"\n"):
            if key == 3:
                self.output(b"^C")
                self._line.clear()
                self._interrupt()
            elif key == 4:
                await self._enter()
            else:
                self.output(bytes((key,)))
                self._line.append(key)
                if key == 10:
                    await self._enter()

    async def _enter(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if line:
            await self.input.write(line)
        else:
            self.input.end()
