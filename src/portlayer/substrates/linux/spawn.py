"""Starting processes quickly: from one thread, by posix_spawn(3), which does not copy our page tables.

The thread has a working directory and a mount namespace of its own, in which everything that it starts lives. So a
bind mount made for one start is nobody else's, and ends with us at the latest; and where a cgroup2 mount beside v1 has
controllers, for which crun would refuse the host, it is not there. Later mounts of the host are passed on.
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

P = ParamSpec("P")
T = TypeVar("T")
_HIDDEN = Path("/sys/fs/cgroup/unified")
# What Python has ignored since it started would stay ignored in what we start.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def hides_cgroup2() -> bool:
    """Whether this is such a host. Source: crun's check of the hybrid layout."""
    controllers = _HIDDEN / "cgroup.controllers"
    return controllers.exists() and bool(controllers.read_text().strip())


class Spawner:
    """shared: the directory under which containers' root filesystems are mounted."""

    def __init__(self, shared: Path) -> None:
        self._shared = str(shared)
        self._thread = ThreadPoolExecutor(1, "spawner", _enter)

    def start(self) -> None:
        """Before anything is mounted below the shared directory, which is there."""
        share(self._shared)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """*function* in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """What was started runs on."""
        self._thread.shutdown()


def _enter() -> None:
    kernel.unshare(kernel.CLONE_FS | kernel.CLONE_NEWNS)
    kernel.mount("", "/", kernel.MS_REC | kernel.MS_SLAVE)
    if hides_cgroup2():
        kernel.umount(str(_HIDDEN), kernel.MNT_DETACH)


def spawn(command: list[str], environment: Mapping[str, str], *, directory: str, errors: int, inherited: int) -> int:
    """Start *command*; its pid. Only in the spawner's thread.

    directory: where it starts. errors, inherited: descriptors of ours that it has as its stderr and as 3.
    """
    os.chdir(directory)
    return os.posix_spawn(
        command[0],
        command,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, errors, 2),
            (os.POSIX_SPAWN_DUP2, inherited, 3),
        ],
        setsigmask=(),
        setsigdef=_IGNORED_BY_PYTHON,
    )


def share(directory: str) -> None:
    """See to it that what is mounted below *directory* is passed on to other namespaces: on most hosts it is, for
    their root is shared; else *directory* becomes a shared mount of its own, which stays."""
    real = os.path.realpath(directory)
    if not _is_shared(real):
        kernel.mount(real, real, kernel.MS_BIND)
        kernel.mount("", real, kernel.MS_SHARED)


def _is_shared(directory: str) -> bool:
    """Whether the mount that *directory* is in is shared. Source: proc_pid_mountinfo(5)."""
    shown = directory.replace("\\", "\\134").replace(" ", "\\040")
    mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [fields for fields in mounts if Path(shown).is_relative_to(fields[4])]
    nearest = max(inside, key=lambda fields: len(fields[4]))
    return any(field.startswith("shared:") for field in nearest[6:])
