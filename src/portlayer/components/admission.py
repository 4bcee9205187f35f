"""Admission: what is expensive runs a few at once; the rest waits its turn, fairly between VCHs, or is refused.

A `Gate` stands in front of one kind of work, in the component that does it. Who finds room goes through; who does not
waits as one future in the line of its VCH. A place that comes free goes to the VCH that has the fewest; among those, to
the one that has not had one for longest. So a VCH that floods waits for itself.

Where one VCH wants much more than another that is about, it has fewer places, and after each piece of work its place
rests for some time: who comes finds a machine with room, although nothing that was begun is ever taken back.

Waiting is not work: whoever waits for something else (a container's lock, a process that takes its time to stop)
steps aside meanwhile, and goes before the others of its VCH when it comes back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from portlayer.company import Company
from portlayer.metrics import OTHERS, Kind, Labels, Metrics, Read
from portlayer.model.bounds import Bounds
from portlayer.model.errors import Unavailable

T = TypeVar("T")
Waiter = asyncio.Future[None]
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1, 30
LAST_SECONDS = 2.0
SHARE = 0.25
"""How much of the time the places of a VCH are in use that wants much more than another."""
MOST_REST_SECONDS = 0.5
MOST_VCHS = 100
"""VCHs that have figures of their own, by when they came first; those of all others are added up. Of those, a gate
knows only who is at it."""
_SMOOTHING = 0.1
_FIGURES: dict[str, tuple[Kind, str]] = {
    "running": ("gauge", "that run now"),
    "waiting": ("gauge", "that wait for their turn"),
    "admitted_total": ("counter", "that were let through"),
    "refused_total": ("counter", "that were refused, to come again later"),
    "waited_seconds_total": ("counter", "Seconds waited for a turn, of all together"),
}


class Line:
    """One VCH at one gate: how many of it run, and who waits, in order (the dicts are ordered sets).

    wanted: how many are at the gate or through it, wherever. parked: how many have begun to wait for something else
    before they have done anything. resting: how many of its places are nobody's for a moment. one_of_many: its figures
    go to those of all others.
    """

    def __init__(self, vch: str, *, one_of_many: bool = False) -> None:
        self.vch = vch
        self.one_of_many = one_of_many
        self.wanted = 0
        self.running = 0
        self.resting = 0
        self.parked = 0
        self.returning: dict[Waiter, None] = {}
        self.coming: dict[Waiter, None] = {}
        self.admitted = 0
        self.refused = 0
        self.waited_seconds = 0.0

    @property
    def queued(self) -> int:
        """Those that have not done anything yet."""
        return len(self.coming) + self.parked

    @property
    def is_idle(self) -> bool:
        return not (self.wanted or self.resting)

    def figures(self) -> tuple[float, ...]:
        """As _FIGURES."""
        waiting = self.queued + len(self.returning)
        return self.running, waiting, self.admitted, self.refused, self.waited_seconds


class Gate:
    """Lets *bounds* of one *kind* (a plural) of work through. company: who is about, at this gate and others."""

    def __init__(self, kind: str, bounds: Bounds, company: Company | None = None) -> None:
        self.kind = kind
        self.bounds = bounds
        self.company = company or Company()
        self.lines: dict[str, Line] = {}
        self.gone = Line(OTHERS, one_of_many=True)
        self._turns: dict[str, Line] = {}
        self._running = 0
        self._looking_again: asyncio.TimerHandle | None = None
        self._mean_seconds = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def admit(self, vch: str, *, patient: bool = False) -> Place:
        """A place for work of *vch*, as soon as it is its turn. patient: work of our own, paced but never refused.

        Whoever is cancelled while it waits has left the line.

        Raises:
            Unavailable: too many wait already, or it has waited too long; with the time when to come again.
        """
        line = self.lines.get(vch)
        if line is None:
            line = self.lines[vch] = Line(vch, one_of_many=len(self.lines) >= MOST_VCHS)
        place = Place(self, line)
        try:
            if not patient and (line.parked or not self._has_room(line)):
                self._check_queue(line)
            await place.take(line.coming, None if patient else self.bounds.wait_seconds)
        except BaseException:
            place.leave()
            raise
        line.admitted += 1
        return place

    async def finish(self, vch: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What *work* gives, in a place of *vch*. Once begun it is finished, also where the caller goes away."""
        place = await self.admit(vch)
        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: place.leave())
        return await asyncio.shield(task)

    async def drain(self, seconds: float = LAST_SECONDS) -> None:
        """Wait until nothing that `finish` has begun is under way; what is after *seconds* is broken off."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def enter(self, line: Line) -> bool:
        """Take a place at once, where there is one."""
        if not self._has_room(line):
            return False
        self._start(line)
        return True

    async def wait(self, line: Line, order: dict[Waiter, None], patience: float | None) -> None:
        """Take a place when it is the turn of this one, which waits in *order*; patience in seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiter: Waiter = loop.create_future()
        order[waiter] = None
        self._turns.setdefault(line.vch, line)
        self._look_again()
        expiry = None if patience is None else loop.call_later(patience, self._expire, waiter, line)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:  # it was given a place just then
                self.leave(line, 0)
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
            order.pop(waiter, None)
            line.waited_seconds += loop.time() - began

    def leave(self, line: Line, seconds: float) -> None:
        """Give a place back, after *seconds* of work (0: none was done)."""
        line.running -= 1
        self._running -= 1
        if seconds:
            self._mean_seconds += (seconds - self._mean_seconds) * _SMOOTHING
            if self._holds_back(line, self.company.least()):
                self._rest(line, min(seconds * (1 / SHARE - 1), MOST_REST_SECONDS))
        self._serve_all()

    def _rest(self, line: Line, seconds: float) -> None:
        """Nobody of the VCH has the place until then; others may."""

        def end() -> None:
            line.resting -= 1
            self._serve_all()
            self.forget(line)

        line.resting += 1
        asyncio.get_running_loop().call_later(seconds, end)

    def forget(self, line: Line) -> None:
        """Where nobody of it is here any more, and what is told of it is among that of the others: VCHs come and go."""
        if line.one_of_many and line.is_idle and self.lines.get(line.vch) is line:
            del self.lines[line.vch]
            self._turns.pop(line.vch, None)
            self.gone.admitted += line.admitted
            self.gone.refused += line.refused
            self.gone.waited_seconds += line.waited_seconds

    def _serve_all(self) -> None:
        """Give all places away that there are."""
        while self._running < self.bounds.at_once and self._turns:
            least = self.company.least()
            able = [vch for vch, line in self._turns.items() if self._may(line, least)]
            if not able:
                self._look_again()
                return
            self._serve(min(able, key=lambda vch: self._turns[vch].running))  # the first of those with the fewest

    def _may(self, line: Line, least: int) -> bool:
        """Whether it may have one place more. least: what is wanted at once by who wants least."""
        if not self._holds_back(line, least):
            return line.running < self.bounds.at_once_per_vch
        return line.running + line.resting < min(self.bounds.at_once_shared, self.bounds.at_once_per_vch)

    def _holds_back(self, line: Line, least: int) -> bool:
        return self.bounds.at_once_shared > 0 and self.company.spares(line.vch, least)

    def _look_again(self) -> None:
        """When it may be that one VCH is about alone, and others of it may go on."""

        def look() -> None:
            self._looking_again = None
            self._serve_all()

        if self._looking_again is None and self._turns:
            self._looking_again = asyncio.get_running_loop().call_later(self.company.about_seconds, look)

    def _serve(self, vch: str) -> None:
        line = self._turns.pop(vch)
        for order in (line.returning, line.coming):
            while order:
                waiter = next(iter(order))
                del order[waiter]
                if not waiter.done():
                    if line.returning or line.coming:
                        self._turns[vch] = line  # behind all others
                    self._start(line)
                    waiter.set_result(None)
                    return

    def _has_room(self, line: Line) -> bool:
        return self._running < self.bounds.at_once and self._may(line, self.company.least())

    def _start(self, line: Line) -> None:
        line.running += 1
        self._running += 1

    def _check_queue(self, line: Line) -> None:
        queued = sum(each.queued for each in self.lines.values())
        if queued >= self.bounds.queued or line.queued >= self.bounds.queued_per_vch:
            raise self._refusal(line, "as many as may wait do so already")

    def _expire(self, waiter: Waiter, line: Line) -> None:
        if not waiter.done():
            waiter.set_exception(self._refusal(line, f"its turn did not come in {self.bounds.wait_seconds:g} seconds"))

    def _refusal(self, line: Line, why: str) -> Unavailable:
        line.refused += 1
        expected = math.ceil(self._mean_seconds * (line.queued + 1) / self.bounds.at_once)
        seconds = min(max(expected, FIRST_RETRY_SECONDS), LAST_RETRY_SECONDS)
        return Unavailable(
            f"Too many {self.kind} at once: {why}; nothing was done, try again.",
            retry_after_seconds=seconds,
            refused=True,
        )


class Place:
    """Room for one piece of work, until it leaves."""

    __slots__ = ("_gate", "_held", "_line", "_since", "_wanted")

    def __init__(self, gate: Gate, line: Line) -> None:
        self._gate = gate
        self._line = line
        self._wanted = True
        self._held = False
        self._since = 0.0
        line.wanted += 1
        gate.company.come(line.vch)

    async def take(self, order: dict[Waiter, None], patience: float | None) -> None:
        """Have it, at once or when the turn comes."""
        if not self._gate.enter(self._line):
            await self._gate.wait(self._line, order, patience)
        self._held = True
        self._since = asyncio.get_running_loop().time()

    def leave(self) -> None:
        """The work is done. Nothing where that was said already."""
        if self._wanted:
            self._wanted = False
            self._line.wanted -= 1
            self._gate.company.gone(self._line.vch)
        self.let_go()
        self._gate.forget(self._line)

    def let_go(self) -> None:
        """Give it back for now."""
        if self._held:
            self._held = False
            self._gate.leave(self._line, asyncio.get_running_loop().time() - self._since)

    def aside(self) -> AbstractAsyncContextManager[None]:
        """The place is others' while this block waits for something else."""
        return _Aside(self, self._line, 0)

    def parked(self) -> AbstractAsyncContextManager[None]:
        """As `aside`, for one that has not done anything yet: it counts as one of those that wait."""
        return _Aside(self, self._line, 1)


class _Aside(AbstractAsyncContextManager[None]):
    def __init__(self, place: Place, line: Line, parked: int) -> None:
        self._place = place
        self._line = line
        self._parked = parked

    async def __aenter__(self) -> None:
        self._line.parked += self._parked
        self._place.let_go()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._line.parked -= self._parked
        if kind is None or issubclass(kind, Exception):  # not where it is cancelled: it does not work on
            await self._place.take(self._line.returning, None)


class Held(AsyncIterator[T]):
    """The *items*, which hold *place* until they end or are closed."""

    def __init__(self, place: Place, items: AsyncIterator[T]) -> None:
        self._place = place
        self._items = items

    async def __anext__(self) -> T:
        try:
            return await anext(self._items)
        except BaseException:
            self._place.leave()
            raise

    async def aclose(self) -> None:
        """Stop."""
        self._place.leave()
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


def tell_of(gates: Sequence[Gate], metrics: Metrics) -> None:
    """Add the gates' figures to *metrics*, by kind and VCH."""

    def look(at: int) -> list[tuple[Labels, float]]:
        sums: dict[Labels, float] = {}
        for gate in gates:
            gone = [gate.gone] if gate.gone.admitted or gate.gone.refused else []
            for line in (*gate.lines.values(), *gone):
                labels = (gate.kind, OTHERS if line.one_of_many else line.vch)
                sums[labels] = sums.get(labels, 0) + line.figures()[at]
        return list(sums.items())

    for at, (name, (kind, what)) in enumerate(_FIGURES.items()):
        text = f"Commits, imports and streams: {what}."
        metrics.add(Read(f"portlayer_queue_{name}", text, kind, partial(look, at), ("kind", "vch")))
