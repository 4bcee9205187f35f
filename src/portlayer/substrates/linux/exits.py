"""Notices the ends of incarnations: by the exit file that the shim leaves, or by the death of the shim itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from portlayer.substrates.linux import kernel
from portlayer.substrates.linux.incarnation import Incarnation, Record
from portlayer.substrates.linux.inotify import Inotify
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.process import Process, open_pidfd


class _Watch:
    """One incarnation: `over` once its end is known, `alone` once the shim is gone, too."""

    def __init__(self, incarnation: Incarnation, record: Record) -> None:
        self.incarnation = incarnation
        self.record = record
        self.over = asyncio.Event()
        self.alone = asyncio.Event()
        self.callbacks: list[Callable[[], None]] = []
        self.pidfd = -1


class Exits:
    """Without its shim, an incarnation is over when its first process is; its exit code is lost then.

    adopting: this process makes no incarnations, and looks after those of another when it is asked about them.
    """

    def __init__(self, paths: Paths, inotify: Inotify) -> None:
        self._paths = paths
        self._directory = str(paths.exits)
        self._inotify = inotify
        self._watches: dict[str, _Watch] = {}
        self.adopting = False

    def start(self) -> None:
        """Begin to notice; the directory of exit files is there."""
        self._loop = asyncio.get_running_loop()
        self._inotify.add(self._directory, kernel.IN_MOVED_TO, self._exit_file)

    def watch(self, incarnation: Incarnation, record: Record) -> None:
        """Look after *incarnation* from now on."""
        if incarnation.id not in self._watches:
            watch = self._watches[incarnation.id] = _Watch(incarnation, record)
            if not self._await_death(watch, record.shim):
                self._shim_died(watch)
            elif incarnation.exit() is not None:
                self._end(watch)

    def is_over(self, incarnation: str) -> bool:
        """Whether it has ended, or was never watched."""
        watch = self._find(incarnation)
        return watch is None or watch.over.is_set()

    def _find(self, incarnation: str) -> _Watch | None:
        if self.adopting and incarnation not in self._watches:
            place = Incarnation(self._paths, incarnation)
            record = place.record()
            if record is not None:
                self.watch(place, record)
        return self._watches.get(incarnation)

    async def wait(self, incarnation: str) -> None:
        """Until it is over."""
        if (watch := self._watches.get(incarnation)) is not None:
            await watch.over.wait()

    async def wait_alone(self, incarnation: str) -> None:
        """Until it is over and the shim has gone."""
        if (watch := self._watches.get(incarnation)) is not None:
            await watch.alone.wait()

    def subscribe(self, incarnation: str, callback: Callable[[], None]) -> None:
        """Call back once when it is over; soon where it is already."""
        watch = self._find(incarnation)
        if watch is None or watch.over.is_set():
            self._loop.call_soon(callback)
        else:
            watch.callbacks.append(callback)

    def unsubscribe(self, incarnation: str, callback: Callable[[], None]) -> None:
        """Undo `subscribe`."""
        watch = self._watches.get(incarnation)
        if watch is not None and callback in watch.callbacks:
            watch.callbacks.remove(callback)

    def forget(self, incarnation: str) -> None:
        """It is removed: whoever waits for it goes on."""
        watch = self._watches.pop(incarnation, None)
        if watch is not None:
            self._close(watch)
            self._end(watch)
            watch.alone.set()

    def close(self) -> None:
        """Whoever waits goes on; nothing is noticed after this."""
        for incarnation in list(self._watches):
            self.forget(incarnation)

    def _exit_file(self, name: str) -> None:
        if name in self._watches:
            self._end(self._watches[name])

    def _end(self, watch: _Watch) -> None:
        watch.over.set()
        callbacks, watch.callbacks = watch.callbacks, []
        for callback in callbacks:
            callback()

    def _await_death(self, watch: _Watch, process: Process) -> bool:
        descriptor = open_pidfd(process)
        if descriptor is None:
            return False
        watch.pidfd = descriptor
        self._loop.add_reader(descriptor, self._died, watch, process)
        return True

    def _died(self, watch: _Watch, process: Process) -> None:
        self._close(watch)
        if process == watch.record.shim:
            self._shim_died(watch)
        else:
            self._end(watch)

    def _shim_died(self, watch: _Watch) -> None:
        reap(watch.record.shim)
        watch.alone.set()
        if watch.incarnation.exit() is not None or not self._await_death(watch, watch.record.init):
            self._end(watch)
        if self.adopting and watch.over.is_set():
            del self._watches[watch.incarnation.id]

    def _close(self, watch: _Watch) -> None:
        if watch.pidfd >= 0:
            self._loop.remove_reader(watch.pidfd)
            os.close(watch.pidfd)
            watch.pidfd = -1


def reap(shim: Process) -> None:
    """Where it was our own child, and has ended, let the kernel forget it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(shim.pid, os.WNOHANG)
