"""Waking the kernel's cgroup migration.

The first process that is moved into a cgroup after a quiet time waits for an RCU grace period (6 to 16 ms were
measured), the ones right after it do not (0.05 to 0.3 ms): the kernel's cgroup_threadgroup_rwsem goes through rcu_sync.
Moving ourselves to where we are takes the same lock and changes nothing; started when a process is about to be made,
the wait is over when the runtime comes to its own move. One start is often followed by another, so the kernel is kept
awake for a moment.
Source: Linux, kernel/cgroup/cgroup.c (cgroup_attach_lock) and kernel/rcu/sync.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

_AWAKE_SECONDS = 0.05
_AGAIN_SECONDS = 0.004
"""Less than a grace period, after which the kernel falls asleep."""


def own_procs(root: Path, hierarchies: str) -> Path | None:
    """The cgroup.procs file of the cgroup that we are in. hierarchies: the text of /proc/self/cgroup (cgroups(7))."""
    for line in hierarchies.splitlines():
        _, controllers, path = line.split(":", 2)
        name = controllers.removeprefix("name=").split(",")[0]
        procs = root / name / path.lstrip("/") / "cgroup.procs"
        if procs.exists():
            return procs
    return None


class Waker:
    """Wakes on demand, in a thread, which then keeps the kernel awake for some time."""

    def __init__(self, root: Path) -> None:
        self._procs = own_procs(root, Path("/proc/self/cgroup").read_text(encoding="utf-8"))
        self._busy: asyncio.Future[None] | None = None
        self._until = 0.0

    def wake(self) -> None:
        """Start it, or let it go on; nothing waits for it."""
        if self._procs is None:
            return
        self._until = time.monotonic() + _AWAKE_SECONDS
        if self._busy is None:
            self._busy = asyncio.get_running_loop().run_in_executor(None, self._keep_awake, self._procs)
            self._busy.add_done_callback(self._done)

    def _keep_awake(self, procs: Path) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"0")
                while time.monotonic() < self._until:
                    time.sleep(_AGAIN_SECONDS)
                    os.write(descriptor, b"0")
            finally:
                os.close(descriptor)

    def _done(self, _: asyncio.Future[None]) -> None:
        self._busy = None

    async def close(self) -> None:
        """Wait for one that is under way."""
        self._until = 0.0
        if self._busy is not None:
            await asyncio.wait((self._busy,))
