"""Small things about async iterators that both ends need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any


async def close(iterator: AsyncIterator[Any]) -> None:
    """Close *iterator*, where it is one that can be."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()
