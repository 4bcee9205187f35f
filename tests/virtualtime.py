"""Time that passes where everybody waits, and at once: what a test finds of it depends on no machine."""

from __future__ import annotations

import asyncio
from typing import Any


class VirtualTime:
    """The time of the running event loop from now on. What the test waits for comes from within the loop."""

    def __init__(self) -> None:
        loop: Any = asyncio.get_running_loop()
        self._now = loop.time()
        self._select = loop._selector.select
        loop.time = lambda: self._now
        loop._selector.select = self._wait

    def passes(self, seconds: float) -> None:
        """While something keeps the loop busy."""
        self._now += seconds

    def _wait(self, timeout: float | None) -> list[Any]:
        if timeout is not None:
            self._now += max(timeout, 0)
            timeout = 0
        found: list[Any] = self._select(timeout)
        return found
