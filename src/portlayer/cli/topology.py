"""`portlayer topology`: who runs where, and how healthy it is."""

from __future__ import annotations

import typer

from portlayer.cli.asking import ask
from portlayer.cli.output import Columns, Json, age, print_json, print_table
from portlayer.model.service import ProcessHealth

app = typer.Typer(rich_markup_mode=None)
_COLUMNS: Columns[dict[str, str]] = {
    "HOST": lambda one: one["host"],
    "PROCESS": lambda one: one["name"],
    "COMPONENTS": lambda one: one["components"],
    "STARTED": lambda one: age(one["startedAt"]),
    "HEALTH": lambda one: one["health"],
}


@app.command()
def topology(json: Json = False) -> None:
    """Show which process has which components, where, and how it is."""
    found = [_row(one) for one in ask(lambda pl: pl.service.list_processes())]
    if json:
        print_json(found)
    else:
        print_table(found, _COLUMNS)


def _row(one: ProcessHealth) -> dict[str, str]:
    process = one.process
    return {
        "host": process.host,
        "name": process.name,
        "components": ", ".join(process.components),
        "address": process.address,
        "startedAt": process.started_at,
        "health": "ready" if one.ready else "; ".join(f"{name}: {said}" for name, said in one.checks.items()),
    }
