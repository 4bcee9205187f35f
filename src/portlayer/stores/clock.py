"""The clock of leases: which boot of the host this is, and the seconds since it.

CLOCK_BOOTTIME (clock_gettime(2)) cannot be set and counts suspended time; after a reboot it starts over, which the
boot id of the kernel tells (random(4), /proc/sys/kernel/random/boot_id).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

Clock = Callable[[], tuple[str, float]]
"""Gives (boot id, seconds). Seconds of one boot id only grow; those of different ones cannot be compared."""


@cache
def boot_id() -> str:
    """The kernel's name for this boot of the host; it cannot change while we run."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_clock() -> tuple[str, float]:
    """The clock of this host."""
    return boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)
