"""What the tests of stores share: a clock that stands still, and short words for transactions and watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from portlayer.interfaces.store import (
    Changed,
    Delete,
    Put,
    Record,
    Store,
    Transaction,
)

KEPT_DELETIONS = 40


@dataclass
class FakeClock:
    """A lease clock that moves when it is told to."""

    boot: str = "first boot"
    seconds: float = 1000.0

    def __call__(self) -> tuple[str, float]:
        return self.boot, self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    def reboot(self) -> None:
        self.boot, self.seconds = self.boot + "'", 1.0


async def put(store: Store, *keys: str, value: bytes = b"", ttl: float | None = None) -> int:
    return await store.apply(Transaction(ops=[Put(key, value, ttl) for key in keys], durable=False))


async def delete(store: Store, *keys: str) -> int:
    return await store.apply(Transaction(ops=[Delete(key) for key in keys], durable=False))


async def next_changes(watch: AsyncIterator[Changed], count: int) -> list[Changed]:
    async with asyncio.timeout(30):
        return [await anext(watch) for _ in range(count)]


async def changes_until(watch: AsyncIterator[Changed], last: tuple[int, int]) -> list[Changed]:
    """Up to and with the change at *last*. Overwritten puts may be among them or be left out."""
    seen = await next_changes(watch, 1)
    while (seen[-1].revision, seen[-1].index) < last:
        seen += await next_changes(watch, 1)
    return seen


def keys_of(found: Iterable[Record | Changed]) -> list[str]:
    return [one.key for one in found]


def places_of(changes: Iterable[Changed]) -> list[tuple[int, int, str, bool]]:
    return [(change.revision, change.index, change.key, change.record is not None) for change in changes]
