"""Whether a measure is flat: the typical growth with each cycle, held against a tolerance."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

import msgspec

LEAST_POINTS = 4


class Fit(msgspec.Struct, frozen=True, rename="camel"):
    """slope: bytes a cycle. tolerance: the most that is called flat. points: how many measurements there were."""

    first: int
    last: int
    slope: float
    tolerance: float
    points: int

    @property
    def judged(self) -> bool:
        """Whether there were enough measurements to say anything."""
        return self.points >= LEAST_POINTS

    @property
    def flat(self) -> bool:
        return not self.judged or self.slope <= self.tolerance


def fit(measured: Sequence[tuple[int, int]], tolerance: float) -> Fit:
    """Of (cycles, bytes), in order: the median of the slopes between all pairs (Theil and Sen).

    Single leaps of an allocator do not move it.
    """
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(measured, 2) if b[0] > a[0]]
    first, last = (measured[0][1], measured[-1][1]) if measured else (0, 0)
    return Fit(first, last, statistics.median(slopes) if slopes else 0.0, tolerance, len(measured))
