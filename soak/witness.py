"""Reads every event through all restarts, and says at the end whether any was missed, invented or told twice."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable

from portlayer.client import PortLayer
from portlayer.model.errors import Unavailable

_PAUSE_SECONDS = 0.05
_PATIENCE_SECONDS = 30.0


class Witness:
    """told: how often each (type, id) of a container's event came. restarts: how often the stream was resumed."""

    def __init__(self, pl: PortLayer) -> None:
        self.told: Counter[tuple[str, str]] = Counter()
        self.resumed = 0
        self.disordered: list[str] = []
        self._pl = pl
        self._cursor = "0"
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            try:
                async for numbered in self._pl.service.events(since=self._cursor):
                    self._take(numbered.cursor, numbered.event.type, numbered.event.id)
            except Unavailable:
                pass
            self.resumed += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    def _take(self, cursor: str, kind: str, ident: str) -> None:
        if _place(cursor) <= _place(self._cursor):
            self.disordered.append(f"event {cursor} came after {self._cursor}")
        self._cursor = cursor
        self.told[kind, ident] += 1

    async def differences(self, created: Iterable[str], removed: Iterable[str]) -> list[str]:
        """Where what was told is not what was done, once all of it has come."""
        wanted = Counter([("container.created", one) for one in created])
        wanted += Counter([("container.removed", one) for one in removed])
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while wanted - self.told and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a deadline
            await asyncio.sleep(_PAUSE_SECONDS)
        told = Counter({what: count for what, count in self.told.items() if what[0] in _KEPT})
        missed = [f"{what} of {ident} was never told" for what, ident in wanted - told]
        return [*self.disordered, *missed, *(f"{what} of {ident} was told too often" for what, ident in told - wanted)]

    async def close(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


_KEPT = ("container.created", "container.removed")


def _place(cursor: str) -> tuple[int, float]:
    """The last event of a revision has that alone."""
    revision, _, index = cursor.partition(".")
    return int(revision), int(index) if index else math.inf
