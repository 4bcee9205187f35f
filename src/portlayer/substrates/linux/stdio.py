"""The stdin and the terminal of an incarnation, by way of the descriptor that its shim holds.

The shim keeps the writing end of the stdin pipe, or the terminal, open for as long as the process lives. We take a
duplicate of it (pidfd_getfd(2)) and write ourselves: nothing is copied, a full pipe is felt at once, and our own end
closes nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios

from portlayer.substrates.linux import kernel, process, shim
from portlayer.substrates.linux.incarnation import Record

_END_OF_FILE = b"\x04"


class Stdin:
    """An open stdin. OSError from `write` means that nobody reads it any more."""

    def __init__(self, descriptor: int, *, terminal: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self.terminal = terminal
        self._at_line_start = True
        self._waiter: asyncio.Future[None] | None = None
        self.lock = asyncio.Lock()
        os.set_blocking(descriptor, False)

    async def write(self, data: bytes) -> None:
        """All of *data*, waiting while the pipe is full. Hold `lock`."""
        rest = memoryview(data)
        while rest:
            if self._descriptor < 0:
                raise BrokenPipeError
            try:
                written = os.write(self._descriptor, rest)
            except BlockingIOError:
                await self._writable()
            else:
                rest = rest[written:]
        if data:
            self._at_line_start = data.endswith(b"\n")

    async def end_terminal(self) -> None:
        """Tell a terminal's reader that the input has ended. In the middle of a line the first of the two only hands
        over the line. Source: termios(3), VEOF."""
        await self.write(_END_OF_FILE if self._at_line_start else _END_OF_FILE * 2)

    async def _writable(self) -> None:
        self._waiter = waiter = self._loop.create_future()
        self._loop.add_writer(self._descriptor, _finish, waiter)
        try:
            await waiter
        finally:
            if self._descriptor >= 0:
                self._loop.remove_writer(self._descriptor)

    def close(self) -> None:
        """Our end alone; whoever is writing gets an error."""
        if self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._waiter is not None:
            _finish(self._waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def open_stdin(record: Record) -> Stdin | None:
    """None where it has none, or it is closed or gone."""
    descriptor = _duplicate(record) if record.stdin else None
    return None if descriptor is None else Stdin(descriptor, terminal=record.terminal)


def close_pipe(record: Record | None) -> None:
    """Make the shim close its end; the process reads what was written, and then the end."""
    if record is not None:
        process.send_signal(record.shim, signal.SIGUSR1)


def resize(record: Record, width: int, height: int) -> bool:
    """Set the size in characters; False where there is no terminal."""
    descriptor = _duplicate(record) if record.terminal else None
    if descriptor is None:
        return False
    try:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    finally:
        os.close(descriptor)
    return True


def _duplicate(record: Record) -> int | None:
    """A duplicate of the shim's end; None where it is closed, or the shim is gone."""
    pidfd = process.open_pidfd(record.shim)
    if pidfd is None:
        return None
    try:
        return kernel.pidfd_getfd(pidfd, shim.INPUT)
    except OSError:
        return None
    finally:
        os.close(pidfd)
