"""This process as the kernel sees it, under the names that Prometheus's clients use."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from portlayer.metrics import Family, Metrics, Read

_STAT, _FILES = Path("/proc/self/stat"), Path("/proc/self/fd")
_AFTER_NAME = 3  # the number of the first field after the name in parentheses, in proc(5)
_TICKS = os.sysconf("SC_CLK_TCK")


def tell_of_process(metrics: Metrics) -> None:
    """Add what Prometheus wants to know of any process."""
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + _field(22) / _TICKS
    for family in (
        _gauge("start_time_seconds", "When it started, in seconds since 1970.", lambda: started),
        Read(
            "process_cpu_seconds_total",
            "Processor time that it has used.",
            "counter",
            lambda: [((), (_field(14) + _field(15)) / _TICKS)],
        ),
        _gauge("resident_memory_bytes", "Memory that it has.", lambda: _field(24) * resource.getpagesize()),
        _gauge("virtual_memory_bytes", "Addresses that it has.", lambda: _field(23)),
        _gauge("open_fds", "Files that it has open.", lambda: len(os.listdir(_FILES))),  # noqa: PTH208 - names do
        _gauge("max_fds", "Files that it may have open.", lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    ):
        metrics.add(family)


def _gauge(name: str, text: str, look: Callable[[], float]) -> Family:
    return Read(f"process_{name}", text, "gauge", lambda: [((), look())])


def _field(number: int) -> int:
    """A field of /proc/self/stat, by its number in proc(5)."""
    return int(_STAT.read_text().rpartition(")")[2].split()[number - _AFTER_NAME])
