"""Starting processes quickly: from one thread, by posix_spawn(3), which does not copy our page tables (see `posix`).

The thread has a working directory and a mount namespace of its own, in which everything that it starts lives. So a
bind mount made for one start is nobody else's, and ends with us at the latest; and a cgroup2 mount beside v1 is not
there: with controllers crun would refuse the host, and without any a runtime would make a cgroup in it that nothing
needs. Later mounts of the host are passed on.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from portlayer.substrates.linux import kernel
from portlayer.substrates.linux.posix import posix_spawn

P = ParamSpec("P")
T = TypeVar("T")
_HIDDEN = Path("/sys/fs/cgroup/unified")
# What Python has ignored since it started would stay ignored in what we start.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Spawner:
    """The thread, with a mount namespace of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "spawner", _enter)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """*function* in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """What was started runs on."""
        self._thread.shutdown()


def _enter() -> None:
    kernel.unshare(kernel.CLONE_FS | kernel.CLONE_NEWNS)
    kernel.mount("", "/", kernel.MS_REC | kernel.MS_SLAVE)
    if (_HIDDEN / "cgroup.procs").exists():
        kernel.umount(str(_HIDDEN), kernel.MNT_DETACH)


def spawn(command: list[str], environment: Mapping[str, str], *, directory: str, inherited: int) -> int:
    """Start *command* in a session of its own; its pid. Only in the spawner's thread.

    directory: where it starts. inherited: a descriptor of ours that it has as 3.
    """
    os.chdir(directory)
    return posix_spawn(
        command,
        environment,
        opened=((0, os.devnull, os.O_RDWR),),
        copied=((0, 1), (0, 2), (inherited, 3)),
        defaults=_IGNORED_BY_PYTHON,
    )
