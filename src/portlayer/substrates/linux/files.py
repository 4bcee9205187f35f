"""Small files in as few system calls as can be: open() makes seven to read one, and each lets go of the interpreter's
lock, for which threads then have to wake each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

_BLOCK = 65536
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_TOP_OF_HIERARCHIES = 0x00020000


def content(path: str) -> bytes:
    """All of a small file, or of one in /proc or a control group; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(descriptor, _BLOCK)
        while found and len(found) % _BLOCK == 0:
            more = os.read(descriptor, _BLOCK)
            if not more:
                break
            found += more
        return found
    finally:
        os.close(descriptor)


def write(path: str, data: bytes, flags: int = 0, mode: int = 0o644) -> None:
    """Write *data* at the beginning of the file; raises OSError. flags: of open(2)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, mode)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def spread(directory: str) -> None:
    """Have the subdirectories of *directory* lie far from each other, where its file system knows the wish.

    ext4 puts a tree near its parent; without a journal it goes past every inode nearby that was freed in the last
    minutes, so the more trees come and go in one place, the longer it looks. Source: chattr(1), `T`; ioctl_iflags(2).
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            (flags,) = struct.unpack("i4x", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))  # an int, whatever its name
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i4x", flags | _TOP_OF_HIERARCHIES))
    finally:
        os.close(descriptor)
