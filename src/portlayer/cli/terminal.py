"""Our own end of a conversation: standard streams, and the terminal behind them."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

_PIECE = 32 * 1024
STDIN_FILE = 0


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes through as it is. The terminal is as before when this ends."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(STDIN_FILE)
    try:
        tty.setraw(STDIN_FILE, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(STDIN_FILE, termios.TCSANOW, before)


def terminal_size() -> tuple[int, int] | None:
    """Width and height in characters; None where there is no terminal, or it does not know."""
    for descriptor in range(3):
        with suppress(OSError):
            size = os.get_terminal_size(descriptor)
            if size.columns and size.lines:
                return size.columns, size.lines
    return None


async def read_stdin() -> AsyncIterator[bytes]:
    """Standard input as it comes. Its flags stay as they are, since others may share it."""
    while True:
        await _readable()
        try:
            piece = os.read(STDIN_FILE, _PIECE)
        except OSError:  # a terminal that is gone
            return
        if not piece:
            return
        yield piece


async def _readable() -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(STDIN_FILE, ready.set)
    except PermissionError:  # a file, which can always be read
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(STDIN_FILE)


async def write_out(descriptor: int, data: bytes) -> None:
    """Write all of *data*, however slow its reader is."""
    await asyncio.to_thread(_write_all, descriptor, data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
