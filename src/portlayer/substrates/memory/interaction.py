"""Interaction in memory: logs, stdin pipes and terminals."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from portlayer.model.errors import InvalidState
from portlayer.model.interaction import Chunk
from portlayer.substrates.memory.driver import Driver, step
from portlayer.substrates.memory.pipes import BrokenPipe


class MemoryInteraction(Driver):
    """Streams of a World."""

    room = "interaction"

    @step
    async def log_end(self, container: str) -> int:
        rootfs = self.world.rootfs.get(container)
        return rootfs.log.end if rootfs else 0

    @step
    async def log_tail(self, container: str, lines: int, streams: frozenset[int]) -> int:
        del container, lines, streams
        return 0  # all of it is in memory

    async def read_log(
        self, container: str, cursor: int = 0, *, follow: str = "", split: bool = False
    ) -> AsyncGenerator[Chunk, None]:
        rootfs = self.world.rootfs.get(container)
        if rootfs is None:
            return
        log = rootfs.log
        end = log.end
        while True:
            followed = self.find(container, follow)
            chunk = log.after(cursor, split=split)
            if chunk is not None and (follow or cursor < end):
                cursor = chunk.cursor
                yield chunk
            elif followed is not None and followed.live and not log.removed:
                await log.bell.wait()
            else:
                return

    @step
    async def write_stdin(self, container: str, incarnation: str, data: bytes) -> None:
        found = self.find(container, incarnation)
        if found is None or found.stdin is None or not found.live:
            raise _no_stdin(container)
        try:
            await (found.terminal.type(data) if found.terminal else found.stdin.write(data))
        except BrokenPipe:
            raise _no_stdin(container) from None

    @step
    async def close_stdin(self, container: str, incarnation: str) -> None:
        found = self.find(container, incarnation)
        if found is not None and found.stdin is not None:
            found.stdin.end()

    @step
    async def resize(self, container: str, incarnation: str, width: int, height: int) -> None:
        found = self.find(container, incarnation)
        if found is None or found.terminal is None or not found.live:
            raise InvalidState(
                f"Container {container} has no terminal now; join interaction with one and start it.",
                kind="container",
                id=container,
            )
        found.resize(width, height)


def _no_stdin(container: str) -> InvalidState:
    return InvalidState(
        f"Container {container} has no open stdin; join and bind interaction with stdin, then start it.",
        kind="container",
        id=container,
    )
