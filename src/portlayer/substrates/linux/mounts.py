"""mount(2) and its kin. Sources: man pages mount(2), umount(2), proc_pid_mountinfo(5)."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

_UMOUNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """A line of mountinfo. device: of its files; root: which directory of the filesystem is mounted."""

    target: Path
    kind: str
    source: str
    device: int
    root: str


def mount(source: str, target: Path, kind: str, options: str, flags: int = 0) -> None:
    """Mount a filesystem of *kind* at *target*; raises OSError. options: less than a page, see mount(2)."""
    done = _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, os.fsencode(options))
    _check(done, target)


def detach(target: Path) -> bool:
    """Take the mount away from the tree at once, whoever still uses it; False where there is none (any more): others
    may look after it, too. Raises OSError."""
    try:
        _check(_libc.umount2(os.fsencode(target), _UMOUNT_DETACH | _UMOUNT_NOFOLLOW), target)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOENT}:
            return False
        raise
    return True


def sync_filesystem(descriptor: int) -> None:
    """Bring all of the filesystem that *descriptor* is on to the disk; raises OSError."""
    _check(_libc.syncfs(descriptor), None)


def is_mounted(target: Path) -> bool:
    """Whether a filesystem other than the parent's is at *target*: two stat calls, whatever the number of mounts."""
    path = os.fspath(target)
    try:
        return os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev  # noqa: PTH116, PTH120
    except FileNotFoundError:
        return False


def mounts_under(directory: Path, source: str = "") -> list[Mount]:
    """Mounts at or below *directory*, or with *source*, the newest first: the order in which they can go."""
    inside = os.path.realpath(directory)
    found = [
        mount
        for mount in read("/proc/self/mountinfo")
        if mount.target.is_relative_to(inside) or (source and mount.source == source)
    ]
    return found[::-1]


def read(mountinfo: str | int) -> list[Mount]:
    """What the file *mountinfo*, a path or a descriptor, tells, from the oldest on."""
    with open(mountinfo, "rb") as lines:  # noqa: PTH123
        return [_mount(line) for line in lines]


def _mount(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    kind, source = after.split(b" ")[:2]
    _, _, device, root, target = before.split(b" ")[:5]
    major, _, minor = device.partition(b":")
    number = os.makedev(int(major), int(minor))
    return Mount(Path(_unescape(target)), kind.decode(), _unescape(source), number, _unescape(root))


def _unescape(field: bytes) -> str:
    """Space, tab, newline and backslash stand as octal in mountinfo."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))


def _check(result: int, target: Path | None) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target and str(target))
