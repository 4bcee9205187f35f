"""A run as tables for people, as JSON and as a plot."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.results import MEASURES, Measure, Results, Verdict
from bench.stats import advantage
from bench.targets import US

ENOUGH = 5  # samples, for a 95th percentile to say anything


def show(results: Results, console: Console) -> None:
    """Print everything."""
    console.print("  ".join(f"{name} {value}" for name, value in results.host.items()), style="dim")
    for peer, version in results.versions.items():
        console.print(f"  {peer}: {version}", style="dim")
    for peer, reason in results.skipped.items():
        console.print(f"  [yellow]{peer} is left out[/yellow]: {escape(reason)}", highlight=False)
    for measure in MEASURES:
        if results.samples.get(measure.key):
            console.print(measure_table(results, measure))
    console.print(verdict_table(results.verdicts))


def measure_table(results: Results, measure: Measure) -> Table:
    """Peers from the best to the worst."""
    table = Table(title=f"{measure.title} ({measure.unit})", title_justify="left", min_width=76)
    table.add_column("peer")
    for column in ("median", "95th percentile", "samples", f"{US} is better by"):
        table.add_column(column, justify="right")
    ours = results.median(measure, US)
    for peer in ranking(results, measure):
        found = results.summary(measure, peer)
        assert found is not None
        label = peer if peer in results.samples.get(measure.key, {}) else f"{peer} (without network)"
        better = f"{advantage(ours, found.median, lower_is_better=measure.lower_is_better):.2f}x" if ours else ""
        style = "bold green" if peer == US else None
        p95 = _number(found.percentile95, measure) if found.count >= ENOUGH else ""
        table.add_row(label, _number(found.median, measure), p95, str(found.count), better, style=style)
    return table


def ranking(results: Results, measure: Measure) -> list[str]:
    """The peers that have a value, the best first."""
    medians = {peer: results.median(measure, peer) for peer in results.versions}
    known = {peer: value for peer, value in medians.items() if value is not None}
    return sorted(known, key=lambda peer: known[peer], reverse=not measure.lower_is_better)


def verdict_table(verdicts: list[Verdict]) -> Table:
    """What is promised, and what this run reached."""
    table = Table(title="Targets", title_justify="left", min_width=76)
    table.add_column("target")
    for column in ("at least", "aim", "reached"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for verdict in verdicts:
        sign = "<=" if verdict.lower_is_better else ">="
        reached = "-" if verdict.reached is None else f"{verdict.reached:.2f}"
        table.add_row(
            verdict.title, f"{sign} {verdict.at_least:g}", f"{sign} {verdict.aim:g}", reached, judgement(verdict)
        )
    return table


def judgement(verdict: Verdict) -> str:
    """One word, coloured."""
    if verdict.reached is None:
        return "[dim]not measured[/dim]"
    if verdict.meets(verdict.aim):
        return "[bold green]aim[/bold green]"
    return "[green]met[/green]" if verdict.meets(verdict.at_least) else "[red]missed[/red]"


def write_json(results: Results, path: Path) -> None:
    """All samples, so that another reading is possible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))


def read_json(path: Path) -> Results:
    """What write_json wrote. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write_plot(results: Results, path: Path) -> None:
    """One bar chart a measure, with medians and whiskers to the 95th percentile."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the backend has to be chosen before

    measures = [measure for measure in MEASURES if results.samples.get(measure.key)]
    figure, axes = plt.subplots(-(-len(measures) // 3), 3, figsize=(18, 4 * -(-len(measures) // 3)), squeeze=False)
    for measure, axis in zip(measures, axes.flat, strict=False):
        peers = ranking(results, measure)[::-1]
        found = [summary for peer in peers if (summary := results.summary(measure, peer))]
        medians = [summary.median for summary in found]
        whiskers = [s.percentile95 - s.median if s.count >= ENOUGH else 0.0 for s in found]
        colours = ["tab:green" if peer.startswith(US) else "tab:gray" for peer in peers]
        axis.barh(peers, medians, xerr=[[0.0] * len(peers), whiskers], color=colours)
        axis.bar_label(axis.containers[-1], labels=[_number(median, measure) for median in medians], padding=4)
        axis.margins(x=0.15)
        axis.set_title(measure.title)
        axis.set_xlabel(measure.unit)
    for axis in axes.flat[len(measures) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _number(value: float, measure: Measure) -> str:
    return f"{value:.2f}" if measure.unit == "MB" else f"{value:.1f}"
