"""Short calls take turns: while several VCHs call, one call of each is worked at, and the others of it wait in line.

So who comes waits for as many calls as there are VCHs, however many of them one sends at once. A VCH that calls alone
is not held up. What takes long waits for something else than the processor: a turn is over after TURN_SECONDS.

All of us share one event loop, which is fair by its steps and knows nothing of VCHs; a commit takes many. So while one
VCH is at work, another that wants much more at once pauses between its turns, and leaves it most of the loop.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext

from portlayer.company import Company

ABOUT_SECONDS = 5.0
"""How long after its last call a VCH is taken to be about."""
TURN_SECONDS = 0.05
LATELY_SECONDS = 0.05
"""How long after its last work a VCH is taken to be at work: who calls one by one is."""
LEAST_SECONDS = 0.001
"""What a turn counts for at least: HTTP around it takes as much as most of them."""
SHARE = 0.25
"""How much of the loop a VCH has for short calls while another one is at work."""
AHEAD_SECONDS = 0.02
"""What it may take ahead: who does not flood does not pause."""
MOST_SECONDS = 0.1


class Turns:
    """Who has a turn, by VCH, and who waits for one."""

    def __init__(self) -> None:
        self._about: dict[str, float] = {}
        self._lines: dict[str, collections.deque[asyncio.Future[None]]] = {}
        self._paid: dict[str, float] = {}
        self._at_work: collections.Counter[str] = collections.Counter()
        self._worked: dict[str, float] = {}
        self._company = Company()

    @contextmanager
    def work(self, vch: str) -> Iterator[None]:
        """In this block, something of *vch* is done that is not only waited for."""
        self._at_work[vch] += 1
        self._company.come(vch)
        try:
            yield
        finally:
            self._company.gone(vch)
            self._at_work[vch] -= 1
            if not self._at_work[vch]:
                del self._at_work[vch]
                now = asyncio.get_running_loop().time()
                self._worked.pop(vch, None)
                self._worked[vch] = now
                self._forget_work(now)

    def turn(self, vch: str) -> AbstractAsyncContextManager[None]:
        """A turn of *vch*, for some `work`, which lasts until the end of this block, or not quite so long."""
        return self._turn(vch) if self._shared(vch) else nullcontext()

    @asynccontextmanager
    async def _turn(self, vch: str) -> AsyncIterator[None]:
        await self._take(vch)
        loop = asyncio.get_running_loop()
        began, over = loop.time(), False

        def end() -> None:
            nonlocal over
            if over:
                return
            over = True
            pause = self._pause(vch, began, loop.time())
            if pause > 0:
                loop.call_later(pause, self._next, vch)
            else:
                self._next(vch)

        timer = loop.call_later(TURN_SECONDS, end)
        try:
            yield
        finally:
            timer.cancel()
            end()

    def _pause(self, vch: str, began: float, now: float) -> float:
        """Seconds until the next turn of *vch*, after one that *began* then."""
        paid = max(self._paid.get(vch, 0.0), began) + max(now - began, LEAST_SECONDS) / SHARE
        self._paid[vch] = min(paid, now + AHEAD_SECONDS + MOST_SECONDS)
        if not self._company.spares(vch, self._company.least()) or not self._others_work(vch, now):
            return 0.0
        return self._paid[vch] - now - AHEAD_SECONDS

    def _forget_work(self, now: float) -> None:
        """That is too long ago."""
        while self._worked and now - self._worked[first := next(iter(self._worked))] > LATELY_SECONDS:
            del self._worked[first]

    def _others_work(self, vch: str, now: float) -> bool:
        self._forget_work(now)
        return bool((self._at_work.keys() | self._worked.keys()) - {vch})

    def _shared(self, vch: str) -> bool:
        """Whether another VCH than *vch* has called lately."""
        now = asyncio.get_running_loop().time()
        self._about.pop(vch, None)
        self._about[vch] = now
        while now - self._about[first := next(iter(self._about))] > ABOUT_SECONDS:
            del self._about[first]
            self._paid.pop(first, None)
        return len(self._about) > 1

    async def _take(self, vch: str) -> None:
        line = self._lines.get(vch)
        if line is None:
            self._lines[vch] = collections.deque()
            return
        waiter = asyncio.get_running_loop().create_future()
        line.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # it was its turn just then
                self._next(vch)
            raise

    def _next(self, vch: str) -> None:
        """The turn of *vch* is over."""
        line = self._lines[vch]
        while line:
            waiter = line.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        del self._lines[vch]
