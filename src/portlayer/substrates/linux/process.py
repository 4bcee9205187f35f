"""Processes by pid and start time: together they never come twice within one boot.

Source: proc_pid_stat(5), field 22.
"""

# Paths are strings here: a Path would cost more than the system call that it is for.
# ruff: noqa: PTH116, PTH208
from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from portlayer.substrates.linux import files

_START_TIME_AFTER_NAME = 19
_STATE_AFTER_NAME = 0
_NO_PROCESS = {errno.ESRCH, errno.EINVAL, errno.ENOENT}
"""What kernels say of a number that no process has: the latter where it is a thread's by now, or a group's still."""


class Process(NamedTuple):
    """pid and its start, in clock ticks since the boot."""

    pid: int
    start: int


def identify(pid: int) -> Process | None:
    """The process that has *pid* now; None for none, or for one that has ended and waits for its parent."""
    try:
        fields = files.content(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[_STATE_AFTER_NAME] in {b"Z", b"X"}:
        return None
    return Process(pid, int(fields[_START_TIME_AFTER_NAME]))


def is_alive(process: Process) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def open_pidfd(process: Process) -> int | None:
    """A descriptor of this very process; None where it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno not in _NO_PROCESS:
            raise
        return None
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


def send_signal(process: Process, number: int) -> None:
    """To this very process; one that has ended is fine."""
    descriptor = open_pidfd(process)
    if descriptor is not None:
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def executable(pid: int) -> tuple[int, int] | None:
    """Device and inode of the program that *pid* runs; None for none."""
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the last: certainly none of ours
        return None
    return status.st_dev, status.st_ino


def groups(pid: int) -> str:
    """The control groups of *pid*, a line for each hierarchy; "" for none. Source: cgroups(7)."""
    try:
        return files.content(f"/proc/{pid}/cgroup").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def find(*words: str) -> Iterator[Process]:
    """Processes that have all *words* among their arguments."""
    wanted = {word.encode() for word in words}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                if wanted <= set(Path("/proc", entry, "cmdline").read_bytes().split(b"\0")):
                    found = identify(int(entry))
                    if found is not None:
                        yield found
