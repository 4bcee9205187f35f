"""What commands print: tables for people, one JSON document for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
import typer

T = TypeVar("T")
Columns = Mapping[str, Callable[[T], str]]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print ids alone, whole.")]

_WHOLE = 2  # columns, from the left
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (365, "day"))


def print_json(value: Any) -> None:
    """*value*, as the API has it."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(rows: Sequence[T], columns: Columns[T]) -> None:
    """A row each. A terminal gets a table that fits it but never cuts ids and names; others get plain text."""
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    if sys.stdout.isatty():
        _print_rich(list(columns), cells)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        typer.echo("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(titles: list[str], cells: list[list[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to read, and for terminals alone
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, title in enumerate(titles):
        width = max((len(row[at]) for row in cells), default=0)
        table.add_column(title, no_wrap=True, min_width=max(width, len(title)) if at < _WHOLE else None)
    for row in cells:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def print_tree(value: Any) -> None:
    """*value* for people: a name a line, what is inside indented."""
    for line in _tree(msgspec.to_builtins(value)):
        typer.echo(line)


def _tree(value: Any, indent: str = "") -> Iterable[str]:
    pairs = value.items() if isinstance(value, dict) else (("-", item) for item in value)
    for name, inside in pairs:
        label = f"{indent}{name}" if name == "-" else f"{indent}{name}:"
        if isinstance(inside, dict | list | tuple) and inside:
            yield label
            yield from _tree(inside, indent + "  ")
        else:
            yield f"{label} {_scalar(inside)}".rstrip()


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or value in ({}, [], ()) else str(value)


def size(count: int) -> str:
    """*count* bytes for people."""
    number, unit = float(count), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g} {_UNITS[unit]}"


def age(moment: str | None) -> str:
    """How long ago an RFC 3339 time is, as `3 minutes`; empty where there is none."""
    if not moment:
        return ""
    number = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for most, unit in _STEPS:
        if number < most:
            return f"{int(number)} {unit}{'' if int(number) == 1 else 's'}"
        number /= most
    return f"{int(number)} years"
