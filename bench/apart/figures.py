"""What a run gives, with the promises beside it."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.stats import percentile

COLOCATED, APART, ELSEWHERE = "colocated", "apart", "apart, asked elsewhere"
ALONE, FLOODED = "alone", "another VCH floods"
STORES = ("memory", "sqlite", "etcd")


class Figure(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One thing measured, in variants. over, under: of which two the ratio is promised to be `promise` at most."""

    key: str
    title: str
    unit: str
    over: str = ""
    under: str = ""
    promise: float | None = None
    percent: float = 50


START = Figure("start", "start of a container created before", "ms", APART, COLOCATED, 1.3)
START_ELSEWHERE = Figure("start", "the same, where execution is elsewhere", "ms", ELSEWHERE, COLOCATED, 1.3)
EXIT = Figure("exit", "create -> exit, bridge network", "ms", APART, COLOCATED, 1.3)
EXIT_ELSEWHERE = Figure("exit", "the same, where execution is elsewhere", "ms", ELSEWHERE, COLOCATED, 1.3)
RATE = Figure("rate", "network/join, 32 callers, all servers on one core", "calls/s")
JOIN = Figure("join", "network/join, 32 callers, 99th percentile", "ms", percent=99)
HOP = Figure("hop", "network/join, one caller: what a hop adds", "ms")
COMMITS = Figure("commits", "commits of a label, 32 containers at once", "commits/s")
COMMITS_ONE = Figure("commitsOne", "commits of a label, one after the other", "commits/s")
FLOOD = Figure("flood", "start of a container created before", "ms", FLOODED, ALONE, 1.5)
FIGURES = (START, START_ELSEWHERE, EXIT, EXIT_ELSEWHERE, RATE, JOIN, HOP, COMMITS, COMMITS_ONE, FLOOD)


class Samples(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """One run. samples: by a figure's key, then by variant, in the figure's unit. skipped: with the reason."""

    started_at: str
    host: dict[str, str]
    samples: dict[str, dict[str, list[float]]] = {}
    skipped: dict[str, str] = {}

    def add(self, figure: Figure, variant: str, *values: float) -> None:
        """Add samples."""
        self.samples.setdefault(figure.key, {}).setdefault(variant, []).extend(values)

    def value(self, figure: Figure, variant: str) -> float | None:
        """The figure's percentile (by default the median) of *variant*; None where it was not measured."""
        values = self.samples.get(figure.key, {}).get(variant)
        if not values:
            return None
        return statistics.median(values) if figure.percent == 50 else percentile(values, figure.percent)

    def ratio(self, figure: Figure) -> float | None:
        """What the promise is about."""
        over, under = self.value(figure, figure.over), self.value(figure, figure.under)
        return over / under if over is not None and under else None

    def keeps(self, figure: Figure) -> bool | None:
        """Whether the promise was kept; None where there is none, or nothing was measured."""
        ratio = self.ratio(figure)
        return None if figure.promise is None or ratio is None else ratio <= figure.promise


def show(run: Samples, console: Console) -> None:
    """Print the table."""
    table = Table(title="Apart, stores and floods", title_justify="left", min_width=76)
    for column in ("figure", "variants", "ratio", "promise", "verdict"):
        table.add_column(column)
    for figure in FIGURES:
        wanted = [figure.under, figure.over] if figure.over else list(run.samples.get(figure.key, {}))
        values = [(variant, run.value(figure, variant)) for variant in wanted]
        told = "\n".join(f"{variant} {value:,.4g} {figure.unit}" for variant, value in values if value is not None)
        if told:
            ratio, kept = run.ratio(figure), run.keeps(figure)
            verdict = "" if kept is None else "[green]met[/green]" if kept else "[red]missed[/red]"
            promise = f"<= {figure.promise:g}" if figure.promise else ""
            table.add_row(figure.title, told, "" if ratio is None else f"{ratio:.2f}", promise, verdict)
    console.print(table)
    for name, reason in run.skipped.items():
        console.print(f"  [yellow]{name} is left out[/yellow]: {reason}", highlight=False)


def write_json(run: Samples, path: Path) -> None:
    """All samples, so that another reading is possible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
