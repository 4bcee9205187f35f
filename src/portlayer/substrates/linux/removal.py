"""Taking an incarnation off the host: its processes, its groups, its files. No runtime is asked; files tell all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from portlayer.substrates.linux import process
from portlayer.substrates.linux import shim as shims
from portlayer.substrates.linux.cgroups import Cgroups
from portlayer.substrates.linux.exits import Exits, reap
from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.process import Process

_POLL_SECONDS = 0.001
_SHIM_SECONDS = 2.5


class Remover:
    """Undoes a start however far it came; what is not there is fine."""

    def __init__(self, cgroups: Cgroups, exit_watch: Exits) -> None:
        self._cgroups = cgroups
        self._exits = exit_watch

    async def remove(self, place: Incarnation) -> None:
        """Return when nothing is left; never, where a killed process does not die."""
        if not place.exists() and place.exit() is None and not self._cgroups.exists(place.id):
            self._exits.forget(place.id)
            return
        record = place.record()
        if record is not None:
            if place.exit() is None:
                await asyncio.to_thread(self._kill, place.id, record.init)
            await self._shim_gone(place.id, record.shim)
        elif place.exists() or self._cgroups.pids(place.id):
            for shim in await asyncio.to_thread(self._kill_unrecorded, place):
                await self._killed(shim)
        # The groups first, for what is left in them may still write to the directory.
        while not await asyncio.to_thread(self._ungroup, place.id):  # noqa: ASYNC110 - nothing tells of an empty group
            await asyncio.sleep(_POLL_SECONDS)
        place.delete()
        self._exits.forget(place.id)

    def _kill(self, incarnation: str, init: Process) -> None:
        self._cgroups.kill(incarnation)
        process.send_signal(init, signal.SIGKILL)

    def _kill_unrecorded(self, place: Incarnation) -> list[Process]:
        """The runtime may still be at work: it is in the process group of its shim, which nobody wrote down."""
        found = [*process.find(*shims.arguments(place.exits, place.id))]
        for shim in found:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shim.pid, signal.SIGKILL)
        self._cgroups.kill(place.id)
        return found

    async def _shim_gone(self, incarnation: str, shim: Process) -> None:
        """It writes the exit code first; where its container is dead and it does not end, it is stuck."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHIM_SECONDS):
                await self._exits.wait_alone(incarnation)
        await self._killed(shim)

    async def _killed(self, shim: Process) -> None:
        while process.is_alive(shim):
            process.send_signal(shim, signal.SIGKILL)
            await asyncio.sleep(_POLL_SECONDS)
        reap(shim)

    def _ungroup(self, incarnation: str) -> bool:
        """Remove its groups, for which the kernel's lock may have to be waited for; False while they are not empty."""
        if not self._cgroups.remove(incarnation):
            self._cgroups.kill(incarnation)
            return False
        return True
