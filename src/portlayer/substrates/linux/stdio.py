"""The stdin and the terminal of an incarnation, by way of the descriptors that conmon holds.

conmon keeps the writing end of the stdin pipe, or the terminal, open for as long as the process lives. We take a
duplicate of it (pidfd_getfd(2)) and write ourselves: nothing is copied by conmon, a full pipe is felt at once, and our
own end closes nothing. conmon closes its own when a connection to its attach socket ends, and nobody else connects.
"""

# Paths are strings here: a Path would cost more than the system call that it is for.
# ruff: noqa: PTH115, PTH208
from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios

from portlayer.substrates.linux import kernel
from portlayer.substrates.linux.incarnation import Incarnation, Record
from portlayer.substrates.linux.process import open_pidfd

TERMINAL = "tty"
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
    if not record.stdin:
        return None
    descriptor = _duplicate(record, record.stdin)
    return None if descriptor is None else Stdin(descriptor, terminal=record.stdin == TERMINAL)


async def close_pipe(incarnation: Incarnation) -> None:
    """Make conmon close its end; the process reads what was written, and then the end."""
    directory = os.open(incarnation.directory, os.O_PATH | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        # By way of the descriptor, for an address has room for 107 characters only.
        await asyncio.get_running_loop().sock_connect(connection, f"/proc/self/fd/{directory}/attach")
    finally:
        connection.close()
        os.close(directory)


def resize(record: Record, width: int, height: int) -> bool:
    """Set the size in characters; False where there is no terminal."""
    descriptor = _duplicate(record, TERMINAL) if record.terminal else None
    if descriptor is None:
        return False
    try:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    finally:
        os.close(descriptor)
    return True


def pipe_of(pid: int) -> str:
    """What the kernel calls the stdin of *pid*: `pipe:[inode]`."""
    return os.readlink(f"/proc/{pid}/fd/0")


def _duplicate(record: Record, wanted: str) -> int | None:
    """A duplicate of conmon's descriptor of a pipe by its name, or of its terminal; None where it has none."""
    pidfd = open_pidfd(record.conmon)
    if pidfd is None:
        return None
    try:
        directory = f"/proc/{record.conmon.pid}/fd"
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):  # conmon closes others meanwhile
                target = os.readlink(f"{directory}/{name}")
                if target == wanted or (wanted == TERMINAL and target.endswith("/ptmx")):
                    return kernel.pidfd_getfd(pidfd, int(name))
    except OSError:
        return None
    finally:
        os.close(pidfd)
    return None
