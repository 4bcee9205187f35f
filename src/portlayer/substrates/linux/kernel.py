"""System calls that Python 3.11 does not have, by their names in the manual. Errors are OSError."""

from __future__ import annotations

import ctypes
import os
import struct
import time

CLONE_FS = 0x0000_0200
CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_DELETE = 0x200
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000

MOUNT_ATTR_RDONLY = 1

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437  # the same number on every architecture, as for all calls since Linux 5.1
_SYS_PIDFD_GETFD = 438
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def timer(seconds: float) -> int:
    """A descriptor that does not block, and can be read once *seconds* have passed. Source: timerfd_create(2)."""
    descriptor = _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    whole, rest = divmod(max(1, round(seconds * 1e9)), 1_000_000_000)
    _checked(_libc.timerfd_settime(descriptor, 0, struct.pack("@llll", 0, 0, whole, rest), None))
    return descriptor


def unshare(flags: int) -> None:
    """Give the calling thread its own of what *flags* (CLONE_*) name."""
    _checked(_libc.unshare(flags))


def setns(descriptor: int, kind: int) -> None:
    """Take the calling thread into the namespace of *descriptor*. kind: the one of CLONE_* that it is of."""
    _checked(_libc.setns(descriptor, kind))


def mount(source: str, target: str, flags: int) -> None:
    """Bind mounts and changes of propagation; no file system types."""
    _checked(_libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None), target)


def umount(target: str, flags: int = 0) -> None:
    """Take the mount at *target* away."""
    _checked(_libc.umount2(target.encode(), flags), target)


def clone_mount(path: str) -> int:
    """A descriptor of another mount of what is mounted at *path*, without what is mounted in it; it goes with the
    descriptor where it is not attached. The caller has to be in its mount namespace. Source: open_tree(2)."""
    return _checked(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, path.encode(), _OPEN_TREE_CLONE | os.O_CLOEXEC), path)


def clear_mount(descriptor: int, attributes: int) -> None:
    """Take *attributes* (MOUNT_ATTR_*) from the mount of *descriptor*; ENOSYS before Linux 5.12."""
    change = struct.pack("=4Q", 0, attributes, 0, 0)
    _checked(_libc.syscall(_SYS_MOUNT_SETATTR, descriptor, b"", _AT_EMPTY_PATH, change, len(change)))


def attach_mount(descriptor: int, target: str) -> None:
    """Mount at *target* what `clone_mount` gave. Source: move_mount(2)."""
    path = target.encode()
    _checked(_libc.syscall(_SYS_MOVE_MOUNT, descriptor, b"", _AT_FDCWD, path, _MOVE_MOUNT_F_EMPTY_PATH), target)


def openat2(directory: int, path: str, flags: int, resolve: int = RESOLVE_IN_ROOT) -> int:
    """Open *path* below *directory*, which is the root for `..` and for links while it is resolved; with
    RESOLVE_BENEATH what would lead out of it fails instead."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _checked(_libc.syscall(_SYS_OPENAT2, directory, path.encode(), how, len(how)), path)


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """A duplicate of another process's *descriptor*, sharing its open file description."""
    return _checked(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, descriptor, 0))


def inotify_init() -> int:
    """A descriptor that does not block."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    """A watch descriptor: one for each inode."""
    return _checked(_libc.inotify_add_watch(descriptor, path.encode(), mask), path)


def inotify_rm_watch(descriptor: int, watch: int) -> None:
    """Stop one watch."""
    _checked(_libc.inotify_rm_watch(descriptor, watch))
