"""What a soak found, and what counts as wrong."""

from __future__ import annotations

from collections import Counter

import msgspec

from soak.flat import Fit, fit

SETTLED_CYCLES = 1000
MEMORY_TOLERANCE = 4096.0
"""Bytes a cycle, which is some twenty calls, that the server's memory may grow by in the latter half of its last start.
Caches, SQLite's among them, fill during the first thousand cycles, so that a shorter time says nothing."""
STORE_TOLERANCE = 12 * 1024.0
"""Bytes a cycle that the store may grow by: receipts, events and replays, which end after hours and days."""
WAL_LIMIT = 64 << 20
WARM_UP_CYCLES = 40
"""After which all is open that ever will be."""


class Rest(msgspec.Struct, frozen=True, rename="camel"):
    """What was measured once all cycles of a round had ended. generation: which start of the server it was; served: the
    cycles since that start; cycles: since the beginning."""

    cycles: int
    generation: int
    served: int
    rss: int
    pss: int
    anonymous: int
    descriptors: dict[str, int]
    store: int
    wal: int


class Result(msgspec.Struct, rename="camel"):
    """errors: wrong outcomes of cycles, and of the checks at rest and at the end, a line each."""

    seed: int
    cycles: int
    at_once: int
    started_at: str
    done: int = 0
    seconds: float = 0.0
    kinds: dict[str, int] = {}
    recoveries: list[float] = []
    repeated: int = 0
    resumed: int = 0
    rests: list[Rest] = []
    errors: list[str] = []
    leftovers: list[str] = []
    remaining: dict[str, int] = {}

    def memory(self) -> Fit:
        """Of the server's own memory, in the latter half of the time for which it was left alone."""
        rests = self._last_start(0)
        long = rests and rests[-1].served >= SETTLED_CYCLES
        rests = [rest for rest in rests if rest.served * 2 >= rests[-1].served] if long else rests[-1:]
        return fit([(rest.served, rest.anonymous) for rest in rests], MEMORY_TOLERANCE)

    def store(self) -> Fit:
        """Of the store's file."""
        return fit([(rest.cycles, rest.store) for rest in self.rests], STORE_TOLERANCE)

    def descriptors(self) -> tuple[Counter[str], Counter[str]]:
        """What the server had open once its last start was warm, and at the end."""
        last = [rest.descriptors for rest in self._last_start(WARM_UP_CYCLES)]
        return (Counter(last[0]), Counter(last[-1])) if last else (Counter(), Counter())

    def _last_start(self, cycles: int) -> list[Rest]:
        """The rests of the last start after so many cycles."""
        last = self.rests[-1].generation if self.rests else 0
        return [rest for rest in self.rests if rest.generation == last and rest.served >= cycles]

    def wrong(self) -> list[str]:
        """Why the soak has failed; empty where it has not."""
        found = [*self.errors, *self.leftovers]
        if self.done < self.cycles:
            found.append(f"only {self.done} of {self.cycles} cycles ended well")
        if not self.memory().flat:
            found.append(f"memory grows by {self.memory().slope:.0f} bytes a cycle")
        if not self.store().flat:
            found.append(f"the store grows by {self.store().slope:.0f} bytes a cycle")
        if any(rest.wal > WAL_LIMIT for rest in self.rests):
            found.append(f"the WAL has grown to {max(rest.wal for rest in self.rests)} bytes")
        first, last = self.descriptors()
        if last - first:
            found.append(f"the server has more open than before: {dict(last - first)}")
        return found
