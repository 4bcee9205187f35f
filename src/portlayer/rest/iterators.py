"""Small things about async iterators that both ends need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


async def close(iterator: AsyncIterator[Any]) -> None:
    """Close *iterator*, where it is one that can be."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


async def until(iterator: AsyncIterator[T], event: asyncio.Event) -> AsyncIterator[T]:
    """The items of *iterator* until it ends or *event* is set. Closing it is left to whoever has it."""
    ending = asyncio.ensure_future(event.wait())
    following: asyncio.Future[Any] = ending
    try:
        while not event.is_set():
            following = asyncio.ensure_future(anext(iterator, _END))
            await asyncio.wait((following, ending), return_when=asyncio.FIRST_COMPLETED)
            if not following.done() or (item := following.result()) is _END:
                return
            yield item
    finally:
        ending.cancel()
        following.cancel()
        await asyncio.gather(ending, following, return_exceptions=True)
