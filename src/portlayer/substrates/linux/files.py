"""Small files in as few system calls as can be: open() makes seven to read one, and each lets go of the interpreter's
lock, for which threads then have to wake each other.
"""

from __future__ import annotations

import os

_BLOCK = 65536


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
