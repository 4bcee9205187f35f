"""The result as a table, and as JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from soak.flat import Fit
from soak.records import EXPLAINED
from soak.result import Result

_LINES = 40


def show(result: Result, console: Console) -> None:
    """The figures, what is left and why, and what is wrong."""
    table = Table(title=f"soak, seed {result.seed}", title_justify="left", show_header=False)
    for name, value in _figures(result):
        table.add_row(name, value)
    console.print(table)
    left = Table("records left in the store", "", "because", title_justify="left")
    for name, count in result.remaining.items():
        left.add_row(name, str(count), EXPLAINED.get(name, "[red]nothing explains them[/red]"))
    console.print(left)
    wrong = result.wrong()
    for line in wrong[:_LINES]:
        console.print(f"[red]wrong:[/red] {escape(line)}", highlight=False, soft_wrap=True)
    if len(wrong) > _LINES:
        console.print(f"[red]and {len(wrong) - _LINES} more[/red]")
    console.print("[red]failed[/red]" if wrong else "[green]nothing is wrong, and nothing is left[/green]")


def write_json(result: Result, path: Path) -> None:
    """All of the result, and what was made of it."""
    made = {
        **msgspec.to_builtins(result),
        "memory": msgspec.to_builtins(result.memory()),
        "store": msgspec.to_builtins(result.store()),
        "wrong": result.wrong(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")


def _figures(result: Result) -> list[tuple[str, str]]:
    kills = len(result.recoveries)
    first, last = result.descriptors()
    return [
        ("cycles that ended well", f"{result.done} of {result.cycles}, {result.at_once} at once"),
        ("time", f"{result.seconds:.0f} s, {result.done / max(result.seconds, 1e-9):.1f} cycles/s"),
        ("kinds", f"{len(result.kinds)}, each {_range(list(result.kinds.values()))} times"),
        ("kills of the server", f"{kills}, {_range([round(each, 1) for each in result.recoveries])} s to ready again"),
        ("calls repeated, streams resumed", f"{result.repeated}, {result.resumed}"),
        ("server's own memory", _fit(result.memory())),
        ("server's PSS", " ".join(f"{rest.pss / 1e6:.0f}" for rest in result.rests) + " MB at the rests"),
        ("server's descriptors", f"{first.total()} to {last.total()}"),
        ("store's file", _fit(result.store())),
        ("longest WAL", f"{max((rest.wal for rest in result.rests), default=0) / 1e6:.1f} MB"),
        ("left behind", str(len(result.leftovers))),
        ("errors", str(len(result.errors))),
    ]


def _fit(fit: Fit) -> str:
    if not fit.judged:
        return f"{fit.last / 1e6:.1f} MB; too short a run to judge its growth"
    said = f"{fit.first / 1e6:.1f} to {fit.last / 1e6:.1f} MB, {fit.slope:+.0f} bytes a cycle"
    return f"{said} ({'flat' if fit.flat else 'grows'}: up to {fit.tolerance:.0f})"


def _range(values: list[int] | list[float]) -> str:
    return f"{min(values)} to {max(values)}" if values else "none"
