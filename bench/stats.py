"""Medians, percentiles and ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec


class Summary(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A sample in two numbers, in the unit of what was measured."""

    median: float
    percentile95: float
    count: int


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least *percent* percent of *values* do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summarize(values: Sequence[float]) -> Summary:
    """Median and 95th percentile of at least one value."""
    return Summary(statistics.median(values), percentile(values, 95), len(values))


def advantage(ours: float, theirs: float, *, lower_is_better: bool) -> float:
    """How many times better we are: above 1 we win, whichever way the unit points."""
    return theirs / ours if lower_is_better else ours / theirs
