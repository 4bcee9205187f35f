"""An event loop in a thread, for callers that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from portlayer.client.streams import closing

T = TypeVar("T")
_CANCEL_SECONDS = 1.0


class Portal:
    """Runs what is async in its own thread and waits for it in the caller's. Any thread may use it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="portlayer", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What *work* gives or raises. An exception here, such as KeyboardInterrupt, cancels it."""
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_telling(work, ended), self._loop)
        try:
            return future.result()
        finally:
            if future.cancel():
                ended.wait(_CANCEL_SECONDS)

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """*items*, one by one as they come."""
        with self.enter(closing(items)) as following:
            while (item := self.call(_next(following))) is not _END:
                yield item

    @contextmanager
    def enter(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """*context*, entered and left by one task, as structured concurrency wants it."""
        entered: asyncio.Future[T] = asyncio.run_coroutine_threadsafe(_future(), self._loop).result()
        leave = asyncio.Event()
        task = asyncio.run_coroutine_threadsafe(_hold(context, entered, leave), self._loop)
        try:
            yield self.call(_result(entered))
        finally:
            self._loop.call_soon_threadsafe(leave.set)
            task.result()

    def close(self) -> None:
        """End the thread."""
        self.call(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_END: Any = object()


async def _telling(work: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    try:
        return await work
    finally:
        ended.set()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items, _END)


async def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def _result(future: asyncio.Future[T]) -> T:
    return await future


async def _hold(context: AbstractAsyncContextManager[T], entered: asyncio.Future[T], leave: asyncio.Event) -> None:
    try:
        async with context as value:
            entered.set_result(value)
            await leave.wait()
    except BaseException as error:
        if entered.done():
            raise
        entered.set_exception(error)
