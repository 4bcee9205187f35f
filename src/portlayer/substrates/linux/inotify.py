"""One inotify descriptor for the whole process, read by the event loop."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable

from portlayer.substrates.linux import kernel

_HEADER = struct.Struct("iIII")
Callback = Callable[[str], None]


class Inotify:
    """Calls back, on the loop it was started on, with the name of what changed in a directory ("" for a file)."""

    def __init__(self) -> None:
        self._fd = -1
        self._callbacks: dict[int, list[Callback]] = {}

    def start(self) -> None:
        """Begin to listen."""
        self._fd = kernel.inotify_init()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def add(self, path: str, mask: int, callback: Callback) -> int:
        """Watch *path*; the token is for `drop`. Several may watch one file, with one mask."""
        watch = kernel.inotify_add_watch(self._fd, path, mask)
        self._callbacks.setdefault(watch, []).append(callback)
        return watch

    def drop(self, watch: int, callback: Callback) -> None:
        """Undo `add`; a file that has gone meanwhile is fine."""
        callbacks = self._callbacks.get(watch, [])
        if callback in callbacks:
            callbacks.remove(callback)
            if not callbacks:
                del self._callbacks[watch]
                kernel.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        """No callback comes after this."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._callbacks.clear()

    def _read(self) -> None:
        events = os.read(self._fd, 65536)
        position = 0
        while position < len(events):
            watch, mask, _, length = _HEADER.unpack_from(events, position)
            position += _HEADER.size + length
            name = events[position - length : position].rstrip(b"\0").decode()
            callbacks = self._callbacks.get(watch, [])
            if mask & kernel.IN_IGNORED:
                self._callbacks.pop(watch, None)
            for callback in list(callbacks):
                callback(name)
