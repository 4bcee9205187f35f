"""Control groups of incarnations: `/portlayer-<instance>/<incarnation>`, in each hierarchy of v1 or in the one of v2.

The runtime makes an incarnation's group and moves the process in; the rest is here. Everything is done by file, so a
tree of ordinary files with the same names does for tests.
Sources: kernel documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2.
"""

# Paths of groups are strings here: a Path would cost more than the system call that it is for.
# ruff: noqa: PTH103, PTH106, PTH110
from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from portlayer.model.errors import ResourceExhausted
from portlayer.model.execution import Resources
from portlayer.substrates.linux import files

ROOT = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
_LEAST_QUOTA_MICROSECONDS = 1_000
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


class Cgroups(Protocol):
    """The groups of one instance. Names are incarnations; one that has no group is empty, unfrozen, and gone."""

    layout: str
    counts_swap: bool

    def start(self) -> None:
        """Make the parent, which stays: the first group of a hierarchy costs the kernel some 10 ms."""

    def path(self, name: str) -> str:
        """As `linux.cgroupsPath` has it."""

    def names(self) -> list[str]:
        """Groups that are there."""

    def parent(self) -> str:
        """The path of the parent, empty or not; "" where there is none."""

    def exists(self, name: str) -> bool:
        """Whether anything of the group is there."""

    def pids(self, name: str) -> list[int]:
        """Processes in the group and in those below it."""

    def kill(self, name: str) -> None:
        """SIGKILL to all, frozen or not; they may take a moment to die."""

    def freeze(self, name: str, *, frozen: bool) -> None:
        """Ask for it; `state` tells when it has come about."""

    def state(self, name: str) -> str:
        """`thawed`, `freezing` (asked for, and not all have stopped) or `frozen`."""

    def limit(self, name: str, resources: Resources) -> None:
        """Set all limits; None lifts one. Raises ResourceExhausted where it uses more memory now."""

    def out_of_memory(self, name: str) -> bool:
        """Whether the kernel killed any of its processes for want of memory."""

    def remove(self, name: str) -> bool:
        """Remove the group; False while something in it still lives."""

    def keep(self, purpose: str, pid: int) -> None:
        """Put a helper of ours, which serves all incarnations, into the group `/portlayer-<instance>-<purpose>`, so
        that it does not die with the group of whoever started it."""

    def dissolve(self, purpose: str) -> None:
        """Undo `keep`, once the helper has ended."""

    def close(self) -> None:
        """Remove the parent where it is empty."""


def detect(instance: str, root: Path = ROOT) -> Cgroups:
    """The layout of this host."""
    if (root / "cgroup.controllers").exists():
        return UnifiedCgroups(instance, root)
    return SplitCgroups(instance, root)


def quota(cpus: float) -> int:
    """Microseconds of CPU time in each period that *cpus* cores are."""
    return max(_LEAST_QUOTA_MICROSECONDS, round(cpus * PERIOD_MICROSECONDS))


def _write(path: str, value: str | int) -> None:
    files.write(path, str(value).encode())


def _write_if_there(path: str, value: str | int) -> bool:
    """False where there is no such file, or its group is just being removed."""
    try:
        _write(path, value)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENODEV}:
            raise
        return False
    return True


def _read(path: str) -> str:
    try:
        return files.content(path).decode()
    except OSError:  # gone, or going
        return ""


def _counter(path: str, name: str) -> int:
    """The number beside *name* in a file of `name number` lines."""
    return next((int(line.split()[1]) for line in _read(path).splitlines() if line.split()[:1] == [name]), 0)


def _tree(group: str) -> Iterator[str]:
    """The groups below *group*, the deepest first, and then itself; none where it is gone."""
    with contextlib.suppress(FileNotFoundError):
        with os.scandir(group) as entries:
            below = [entry.path for entry in entries if entry.is_dir()]
        for path in below:
            yield from _tree(path)
        yield group


def _groups_in(parent: str) -> set[str]:
    with os.scandir(parent) as entries:
        return {entry.name for entry in entries if entry.is_dir()}


def _pids(group: str) -> list[int]:
    return [int(pid) for part in _tree(group) for pid in _read(f"{part}/cgroup.procs").split()]


def _remove(group: str) -> bool:
    try:
        os.rmdir(group)
    except FileNotFoundError:
        return True
    except OSError:
        try:
            for part in _tree(group):
                os.rmdir(part)
        except OSError:
            return not os.path.exists(group)
    return True


def _inherit(hierarchy: str, group: str) -> None:
    """What v1's cpuset wants to be told before it takes a process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if os.path.exists(f"{hierarchy}/{name}") and os.path.exists(f"{group}/{name}"):
            _write(f"{group}/{name}", _read(f"{hierarchy}/{name}"))


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class _Named:
    """What both layouts have in common: the parent's name."""

    def __init__(self, instance: str, root: Path) -> None:
        self._root = str(root)
        self._parent = f"portlayer-{instance}"

    def path(self, name: str) -> str:
        return f"/{self._parent}/{name}"

    def parent(self) -> str:
        return f"/{self._parent}" if self.exists("") else ""

    def exists(self, name: str) -> bool:
        raise NotImplementedError

    def keep(self, purpose: str, pid: int) -> None:
        for hierarchy in self._all():
            group = f"{hierarchy}/{self._parent}-{purpose}"
            os.makedirs(group, exist_ok=True)
            _inherit(hierarchy, group)
            _write(f"{group}/cgroup.procs", pid)

    def dissolve(self, purpose: str) -> None:
        for hierarchy in self._all():
            with contextlib.suppress(OSError):
                os.rmdir(f"{hierarchy}/{self._parent}-{purpose}")

    def _all(self) -> list[str]:
        """Every hierarchy that processes of ours are in, also those that limit nothing."""
        return [self._root]


class SplitCgroups(_Named):
    """v1: a hierarchy for each controller. On a hybrid host v2 is mounted beside them, and not used."""

    def __init__(self, instance: str, root: Path) -> None:
        super().__init__(instance, root)
        self.layout = "hybrid" if (root / "unified").exists() else "v1"
        self.counts_swap = (root / "memory" / "memory.memsw.limit_in_bytes").exists()
        self._hierarchies = [
            str(path)
            for path in sorted(root.iterdir())
            if path.name != "unified" and not path.is_symlink() and (path / "cgroup.procs").exists()
        ]

    def start(self) -> None:
        for hierarchy in self._hierarchies:
            parent = f"{hierarchy}/{self._parent}"
            os.makedirs(parent, exist_ok=True)
            _inherit(hierarchy, parent)

    def names(self) -> list[str]:
        found: set[str] = set()
        for hierarchy in self._hierarchies:
            with contextlib.suppress(FileNotFoundError):
                found |= _groups_in(f"{hierarchy}/{self._parent}")
        return sorted(found)

    def exists(self, name: str) -> bool:
        return any(os.path.exists(f"{hierarchy}/{self._parent}/{name}") for hierarchy in self._hierarchies)

    def pids(self, name: str) -> list[int]:
        return _pids(self._group("freezer", name))

    def kill(self, name: str) -> None:
        _kill(self.pids(name))
        self.freeze(name, frozen=False)

    def freeze(self, name: str, *, frozen: bool) -> None:
        _write_if_there(f"{self._group('freezer', name)}/freezer.state", "FROZEN" if frozen else "THAWED")

    def state(self, name: str) -> str:
        return _read(f"{self._group('freezer', name)}/freezer.state").strip().lower() or "thawed"

    def limit(self, name: str, resources: Resources) -> None:
        cpu = self._group("cpu", name)
        _write(f"{cpu}/cpu.cfs_period_us", PERIOD_MICROSECONDS)
        _write(f"{cpu}/cpu.cfs_quota_us", -1 if resources.cpus is None else quota(resources.cpus))
        _write(f"{self._group('pids', name)}/pids.max", "max" if resources.pids is None else resources.pids)
        self._limit_memory(name, -1 if resources.memory_bytes is None else resources.memory_bytes)

    def _limit_memory(self, name: str, limit: int) -> None:
        memory = self._group("memory", name)
        names = ["memory.limit_in_bytes", *(["memory.memsw.limit_in_bytes"] if self.counts_swap else [])]
        try:
            # Memory may never exceed memory with swap: which of the two goes first depends on the direction.
            try:
                for file in names:
                    _write(f"{memory}/{file}", limit)
            except OSError:
                for file in reversed(names):
                    _write(f"{memory}/{file}", limit)
        except OSError as error:
            raise _in_use(limit) from error

    def out_of_memory(self, name: str) -> bool:
        return _counter(f"{self._group('memory', name)}/memory.oom_control", "oom_kill") > 0

    def remove(self, name: str) -> bool:
        left = [hierarchy for hierarchy in self._hierarchies if not _remove(f"{hierarchy}/{self._parent}/{name}")]
        return not left

    def close(self) -> None:
        for hierarchy in self._hierarchies:
            with contextlib.suppress(OSError):
                os.rmdir(f"{hierarchy}/{self._parent}")

    def _all(self) -> list[str]:
        unified = f"{self._root}/unified"
        return [*self._hierarchies, *([unified] if os.path.exists(f"{unified}/cgroup.procs") else [])]

    def _group(self, controller: str, name: str) -> str:
        return f"{self._root}/{controller}/{self._parent}/{name}"


class UnifiedCgroups(_Named):
    """v2: one hierarchy."""

    layout = "v2"

    def __init__(self, instance: str, root: Path) -> None:
        super().__init__(instance, root)
        self.counts_swap = Path("/proc/swaps").exists()

    def start(self) -> None:
        parent = f"{self._root}/{self._parent}"
        os.makedirs(parent, exist_ok=True)
        for group in (self._root, parent):
            available = _read(f"{group}/cgroup.controllers").split()
            enabled = _read(f"{group}/cgroup.subtree_control").split()
            for controller in _CONTROLLERS:
                if controller in available and controller not in enabled:
                    _write(f"{group}/cgroup.subtree_control", f"+{controller}")

    def names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(_groups_in(f"{self._root}/{self._parent}"))
        return []

    def exists(self, name: str) -> bool:
        return os.path.exists(self._group(name))

    def pids(self, name: str) -> list[int]:
        return _pids(self._group(name))

    def kill(self, name: str) -> None:
        if not _write_if_there(f"{self._group(name)}/cgroup.kill", 1):  # before Linux 5.14
            _kill(self.pids(name))
            self.freeze(name, frozen=False)

    def freeze(self, name: str, *, frozen: bool) -> None:
        _write_if_there(f"{self._group(name)}/cgroup.freeze", int(frozen))

    def state(self, name: str) -> str:
        if _counter(f"{self._group(name)}/cgroup.events", "frozen"):
            return "frozen"
        return "freezing" if _read(f"{self._group(name)}/cgroup.freeze").strip() == "1" else "thawed"

    def limit(self, name: str, resources: Resources) -> None:
        group = self._group(name)
        share = "max" if resources.cpus is None else quota(resources.cpus)
        _write(f"{group}/cpu.max", f"{share} {PERIOD_MICROSECONDS}")
        _write(f"{group}/pids.max", "max" if resources.pids is None else resources.pids)
        memory = resources.memory_bytes
        if memory is not None and int(_read(f"{group}/memory.current") or 0) > memory:
            raise _in_use(memory)  # the kernel would take the limit and kill
        _write(f"{group}/memory.max", "max" if memory is None else memory)
        if os.path.exists(f"{group}/memory.swap.max"):
            _write(f"{group}/memory.swap.max", "max" if memory is None else 0)

    def out_of_memory(self, name: str) -> bool:
        return _counter(f"{self._group(name)}/memory.events", "oom_kill") > 0

    def remove(self, name: str) -> bool:
        return _remove(self._group(name))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(f"{self._root}/{self._parent}")

    def _group(self, name: str) -> str:
        return f"{self._root}/{self._parent}/{name}"


def _in_use(limit: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"The container uses more than {limit} bytes of memory now, or the kernel takes no such limit. "
        "Choose a larger one, or stop the container first.",
        resource="memory",
    )
