"""What the C library keeps of memory that is free, in a process that lives long. Source: mallopt(3), malloc_trim(3)."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8


def keep_little() -> None:
    """One heap for all threads, of which the interpreter's lock lets one run at a time. Before there are any."""
    _call("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """Give what is free back to the kernel."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)  # other C libraries than glibc have none
    if function is not None:
        function(*arguments)
