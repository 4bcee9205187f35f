"""`portlayer doctor`: what this host lacks."""

from __future__ import annotations

import typer

from portlayer.cli.output import Columns, Json, print_json, print_table
from portlayer.compose import Check, host_checks

app = typer.Typer(rich_markup_mode=None)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this host lacks, and how to get it; exit with 1 if containers cannot run without it."""
    found = host_checks()
    if json:
        print_json(found)
    else:
        print_table(found, _COLUMNS)
    lacking = [check.name for check in found if check.needed and not check.ok]
    if lacking:
        typer.echo(f"portlayer: containers cannot run here: {', '.join(lacking)}.", err=True)
        raise typer.Exit(1)


def _state(check: Check) -> str:
    if check.ok:
        return "ok"
    return "needed" if check.needed else "advised"


_COLUMNS: Columns[Check] = {
    "CHECK": lambda check: check.name,
    "STATE": _state,
    "FOUND": lambda check: check.found,
    "REMEDY": lambda check: check.remedy,
}
