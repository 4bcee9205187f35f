"""Figures that Prometheus reads: counters, histograms, and what is looked up when it is asked for.

The text is version 0.0.4 of the exposition format. Adding to a figure costs a dictionary's lookup, so that it may stand
in the way of everything. Values of labels come from small closed sets; what callers choose (ids, names, paths) is none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from time import perf_counter
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, TypeVar

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
F = TypeVar("F", bound="Family")

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of a histogram's buckets."""
UNSORTED = 1000
"""How many times a series takes before they are put into their buckets, where nobody asks for them."""
PREFIX = "portlayer_"
OTHERS = "(others)"
"""The value of a label for all that have none of their own, since there are too many."""


class Sample(NamedTuple):
    """One value. name: what follows the family's, as `_bucket`."""

    labels: str
    value: float
    name: str = ""


class Family(Protocol):
    """What has one name, with a value for each of its labels' values."""

    name: str
    kind: Kind
    help: str

    def samples(self) -> Iterable[Sample]: ...


def labelled(names: Sequence[str], values: Sequence[str]) -> str:
    """`name="value",...` as the format has it."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


class Counter:
    """Counts by the values of *labels*."""

    kind: Kind = "counter"

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name, self.help = name, text
        self._labels = labels
        self._counts: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, *values: str, amount: float = 1) -> None:
        """Count *amount* more for these values of the labels."""
        self._counts[values] = self._counts.get(values, 0) + amount

    def samples(self) -> Iterable[Sample]:
        return [Sample(labelled(self._labels, values), count) for values, count in self._counts.items()]


class Series:
    """The times of one value of a histogram's label. new: those that are not in their buckets yet, since appending is
    all that there is time for where they are taken."""

    __slots__ = ("_ends", "counts", "new", "total")

    def __init__(self, ends: Sequence[float]) -> None:
        self._ends = ends
        self.new: list[float] = []
        self.counts = [0] * (len(ends) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Once more, it took *seconds*."""
        self.new.append(seconds)
        if len(self.new) >= UNSORTED:
            self.sort()

    def sort(self) -> None:
        """Put the new ones into their buckets."""
        new, self.new = self.new, []
        for seconds in new:
            self.counts[bisect_left(self._ends, seconds)] += 1
        self.total += sum(new)


class Histogram:
    """How long things took, in seconds, by the value of its one *label*, where it has one."""

    kind: Kind = "histogram"

    def __init__(self, name: str, text: str, label: str = "", buckets: Sequence[float] = SECONDS) -> None:
        self.name, self.help = name, text
        self._label = label
        self._buckets = buckets
        self._series: dict[str, Series] = {}

    def of(self, value: str = "") -> Series:
        """The times of *value*."""
        series = self._series.get(value)
        if series is None:
            series = self._series[value] = Series(self._buckets)
        return series

    def samples(self) -> Iterator[Sample]:
        ends = [f"{end:g}" for end in self._buckets] + ["+Inf"]
        for value, series in self._series.items():
            series.sort()
            own = labelled((self._label,), (value,)) if self._label else ""
            for end, count in zip(ends, accumulate(series.counts), strict=True):
                yield Sample(f'{own}{"," if own else ""}le="{end}"', count, "_bucket")
            yield Sample(own, series.total, "_sum")
            yield Sample(own, sum(series.counts), "_count")


class Timed:
    """As long as what is within it takes, however it ends. It is made to be entered at once."""

    __slots__ = ("_began", "_series")

    def __init__(self, series: Series) -> None:
        self._series = series
        self._began = perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        new = self._series.new
        new.append(perf_counter() - self._began)
        if len(new) >= UNSORTED:
            self._series.sort()


class Read:
    """What *look* finds when it is asked: values, by those of *labels*."""

    def __init__(
        self,
        name: str,
        text: str,
        kind: Kind,
        look: Callable[[], Iterable[tuple[Labels, float]]],
        labels: Labels = (),
    ) -> None:
        self.name, self.help, self.kind = name, text, kind
        self._look = look
        self._labels = labels

    def samples(self) -> Iterable[Sample]:
        return [Sample(labelled(self._labels, values), value) for values, value in self._look()]


class Metrics:
    """The families of one process."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def counter(self, name: str, text: str, labels: Labels = ()) -> Counter:
        """A new one, called `portlayer_`*name*."""
        return self.add(Counter(PREFIX + name, text, labels))

    def histogram(self, name: str, text: str, label: str = "") -> Histogram:
        """A new one of seconds, called `portlayer_`*name*."""
        return self.add(Histogram(PREFIX + name, text, label))

    def add(self, family: F) -> F:
        """Tell of *family*, too. Raises ValueError where there is one of its name."""
        if family.name in self._families:
            raise ValueError(f"there are two metrics called {family.name}")
        self._families[family.name] = family
        return family

    def text(self) -> str:
        """All of them, as Prometheus wants to read them."""
        return "".join(exposition(family) for family in self._families.values())


def exposition(family: Family) -> str:
    """*family* as text."""
    name = family.name
    lines = [f"# HELP {name} {_one_line(family.help)}", f"# TYPE {name} {family.kind}"]
    for labels, value, more in family.samples():
        lines.append(f"{name}{more}{{{labels}}} {_number(value)}" if labels else f"{name}{more} {_number(value)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _one_line(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
