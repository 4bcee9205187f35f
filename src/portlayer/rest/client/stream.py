"""A stream that holds a connection: closing it, read or not, gives the connection back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import aiohttp

from portlayer.rest.iterators import close

T = TypeVar("T")


class Stream(AsyncIterator[T], Generic[T]):
    """The *items* that are read from *response*; at their end, or on `aclose`, the response is closed."""

    def __init__(self, response: aiohttp.ClientResponse, items: AsyncIterator[T]) -> None:
        self._response = response
        self._items = items

    async def __anext__(self) -> T:
        try:
            return await anext(self._items)
        except BaseException:
            self._response.close()
            raise

    async def aclose(self) -> None:
        """Stop reading."""
        await close(self._items)
        self._response.close()
