"""Whether another process still answers, while something is waited for that may take as long as it likes.

A commit, or a wait, has no time of its own. So who waits for one asks the other end now and then for its health, which
every process answers at once. Where that does not come, the process hangs, is paused, or is cut off; whoever waits for
it is told, and need not wait for a network that may never heal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType

EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 5.0
LAST_WORDS_SECONDS = 1.0


class Silent(Exception):
    """The other end does not answer any more."""


class Pulse:
    """Of one other process, at which calls are waited for. ask: for its health."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._waiting: set[Feeling] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def felt(self) -> Feeling:
        """Wait for the other end within it. Raises Silent where it does not answer for ten seconds, or is given up."""
        return Feeling(self._waiting, self._look_later)

    def give_up(self) -> None:
        """The other end is gone, as somebody knows: wait no longer, but for answers that are on their way."""
        asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self._lose, set(self._waiting))

    def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _look_later(self) -> None:
        """One timer for all calls: most are over before it rings."""
        if self._timer is None and self._asking is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiting:
            self._asking = asyncio.create_task(self._feel(set(self._waiting)))

    async def _feel(self, waiting: set[Feeling]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._ask()
        except Exception:  # noqa: BLE001  (whatever it says: it is not the answer)
            self._lose(waiting)
        finally:
            self._asking = None
        if self._waiting:
            self._look_later()

    def _lose(self, waiting: set[Feeling]) -> None:
        for each in waiting & self._waiting:
            each.lose()


class Feeling(AbstractContextManager[None]):
    """One that waits, in *waiting* meanwhile. An `asyncio.timeout` without a time, which takes much longer to make."""

    __slots__ = ("_begin", "_cancelling", "_lost", "_task", "_waiting")

    def __init__(self, waiting: set[Feeling], begin: Callable[[], None]) -> None:
        self._waiting = waiting
        self._begin = begin
        self._lost = False

    def lose(self) -> None:
        """There is nothing to wait for any more."""
        if not self._lost:
            self._lost = True
            self._task.cancel()

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can wait")
        self._task, self._cancelling = task, task.cancelling()
        self._waiting.add(self)
        self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting.discard(self)
        if not self._lost:
            return
        # Somebody else may have cancelled the task meanwhile, too: that goes before.
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise Silent from None
