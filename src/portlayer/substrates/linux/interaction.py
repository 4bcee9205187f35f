"""Streams on a Linux host: output is read from the shim's log, input goes to the pipe or terminal that it holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path

from portlayer.model.errors import InvalidState
from portlayer.model.interaction import Chunk
from portlayer.substrates.linux import crilog, kernel, stdio
from portlayer.substrates.linux.exits import Exits
from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.inotify import Inotify
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.stdio import Stdin

_BLOCK = 262_144
_INLINE = 65_536
"""Bytes that are read and parsed on the event loop; more is left to a thread."""


class LinuxInteraction:
    """`interfaces.substrate.InteractionDriver`."""

    def __init__(self, paths: Paths, exit_watch: Exits, inotify: Inotify) -> None:
        self._paths = paths
        self._exits = exit_watch
        self._inotify = inotify
        self._stdins: dict[str, Stdin | None] = {}  # None: closed by us

    def close(self) -> None:
        """Our ends of the stdins; the containers' stay open."""
        for incarnation in list(self._stdins):
            self._forget(incarnation)

    async def log_end(self, container: str) -> int:
        try:
            with self._paths.log(container).open("rb") as log:
                size = os.fstat(log.fileno()).st_size
                start = max(0, size - _INLINE)
                tail = os.pread(log.fileno(), _INLINE, start)
                return start + tail.rfind(b"\n") + 1
        except FileNotFoundError:
            return 0

    async def log_tail(self, container: str, lines: int, streams: frozenset[int]) -> int:
        return await asyncio.to_thread(_find_tail, self._paths.log(container), lines, streams)

    async def read_log(
        self, container: str, cursor: int = 0, *, follow: str = "", split: bool = False
    ) -> AsyncGenerator[Chunk, None]:
        path = str(self._paths.log(container))
        try:
            log = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        changed = asyncio.Event()
        stop = self._notify(path, follow, changed) if follow else None
        try:
            while True:
                changed.clear()
                last = not follow or self._exits.is_over(follow)  # looked at before the log: it is whole by then
                chunks, following = await _read(log, cursor, split=split)
                for chunk in chunks:
                    yield chunk
                if following != cursor:
                    cursor = following
                elif last:
                    return
                else:
                    await changed.wait()
        finally:
            if stop is not None:
                stop()
            os.close(log)

    def _notify(self, path: str, follow: str, changed: asyncio.Event) -> Callable[[], None]:
        """Set *changed* whenever the log grows, or the incarnation ends; the answer undoes this."""

        def grew(_: str) -> None:
            changed.set()

        watch = self._inotify.add(path, kernel.IN_MODIFY, grew)
        self._exits.subscribe(follow, changed.set)

        def stop() -> None:
            self._inotify.drop(watch, grew)
            self._exits.unsubscribe(follow, changed.set)

        return stop

    async def write_stdin(self, container: str, incarnation: str, data: bytes) -> None:
        stdin = self._stdin(container, incarnation)
        async with stdin.lock:
            try:
                await stdin.write(data)
            except OSError as error:
                raise _no_stdin(container) from error

    async def close_stdin(self, container: str, incarnation: str) -> None:
        try:
            stdin = self._stdin(container, incarnation)
        except InvalidState:
            return
        async with stdin.lock:
            self._stdins[incarnation] = None
            try:
                if stdin.terminal:
                    await stdin.end_terminal()
                else:
                    stdio.close_pipe(Incarnation(self._paths, incarnation).record())
            except OSError:
                pass  # it is gone, and its stdin with it
            finally:
                stdin.close()

    async def resize(self, container: str, incarnation: str, width: int, height: int) -> None:
        record = Incarnation(self._paths, incarnation).record()
        if record is None or not stdio.resize(record, width, height):
            raise InvalidState(f"Container {container} has no terminal now.", kind="container", id=container)

    def _stdin(self, container: str, incarnation: str) -> Stdin:
        if incarnation not in self._stdins:
            record = Incarnation(self._paths, incarnation).record()
            stdin = None if record is None or self._exits.is_over(incarnation) else stdio.open_stdin(record)
            if stdin is None:
                raise _no_stdin(container)
            self._stdins[incarnation] = stdin
            self._exits.subscribe(incarnation, lambda: self._forget(incarnation))
        known = self._stdins[incarnation]
        if known is None:
            raise _no_stdin(container)
        return known

    def _forget(self, incarnation: str) -> None:
        stdin = self._stdins.pop(incarnation, None)
        if stdin is not None:
            stdin.close()


def _find_tail(path: Path, lines: int, streams: Collection[int]) -> int:
    """See `log_tail`: block by block from the end."""
    try:
        log = path.open("rb", buffering=0)
    except FileNotFoundError:
        return 0
    with log:
        end = log.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - _BLOCK)
            block = os.pread(log.fileno(), end - begin, begin)
            first = block.find(b"\n", 0, -1) + 1 if begin else 0
            if begin and not first:
                return 0  # a line as long as that is none of ours
            lines -= crilog.count_lines(block[first:], streams)
            if lines < 0:
                return begin + first
            end = begin + first
        return 0


async def _read(log: int, cursor: int, *, split: bool) -> tuple[list[Chunk], int]:
    """The next block of the log, parsed."""
    if os.fstat(log).st_size - cursor <= _INLINE:
        return crilog.parse(os.pread(log, _INLINE, cursor), cursor, split=split)
    return await asyncio.to_thread(lambda: crilog.parse(os.pread(log, _BLOCK, cursor), cursor, split=split))


def _no_stdin(container: str) -> InvalidState:
    return InvalidState(
        f"Container {container} has no open stdin: it was not joined and bound, or is closed, or the process is gone.",
        kind="container",
        id=container,
    )
