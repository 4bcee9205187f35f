"""Directories to make something in that gets its name once it is whole.

Several processes share one area of them. What one of them works in is locked, and the kernel unlocks it with its death:
so a sweep takes what nobody works in any more, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def workplace(area: Path) -> Iterator[Path]:
    """A new directory in *area*, which no sweep takes before this ends; whoever has it moves or deletes it."""
    place, lock = _new(area)
    try:
        yield place
    finally:
        os.close(lock)


def sweep(area: Path, throw: Callable[[Path], None]) -> None:
    """*throw* away what nobody works in any more in *area*."""
    for place in area.iterdir():
        lock = _lock(place)
        if lock is None:
            continue
        try:
            throw(place)
        finally:
            os.close(lock)


def _new(area: Path) -> tuple[Path, int]:
    while True:
        place = Path(tempfile.mkdtemp(dir=area))
        lock = _lock(place)
        if lock is not None:
            return place, lock  # else a sweep was faster


def _lock(place: Path) -> int | None:
    """Lock *place*: a descriptor that holds the lock, None where another has it or *place* is gone."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if place.exists():
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None
