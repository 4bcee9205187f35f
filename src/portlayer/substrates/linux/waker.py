"""Waking the kernel's cgroup migration.

The first process that is moved into a cgroup after a quiet time waits for an RCU grace period (6 to 16 ms were
measured), the ones right after it do not (0.05 to 0.3 ms): the kernel's cgroup_threadgroup_rwsem goes through rcu_sync.
Moving ourselves to where we are takes the same lock and changes nothing; started when a process is about to be made,
the wait is over when the runtime comes to its own move.
Source: Linux, kernel/cgroup/cgroup.c (cgroup_attach_lock) and kernel/rcu/sync.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

AWAKE_SECONDS = 0.01


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
    """Wakes on demand, in a thread, and not again while it is awake."""

    def __init__(self, root: Path) -> None:
        self._procs = own_procs(root, Path("/proc/self/cgroup").read_text(encoding="utf-8"))
        self._busy: asyncio.Future[None] | None = None
        self._last = 0.0

    def wake(self) -> None:
        """Start it; nothing waits for it."""
        now = time.monotonic()
        if self._procs is None or self._busy is not None or now - self._last < AWAKE_SECONDS:
            return
        self._busy = asyncio.get_running_loop().run_in_executor(None, self._move)
        self._busy.add_done_callback(self._done)

    def _move(self) -> None:
        if self._procs is not None:
            with contextlib.suppress(OSError), self._procs.open("w") as procs:
                procs.write("0")

    def _done(self, _: asyncio.Future[None]) -> None:
        self._busy = None
        self._last = time.monotonic()

    async def close(self) -> None:
        """Wait for one that is under way."""
        if self._busy is not None:
            await asyncio.wait((self._busy,))
