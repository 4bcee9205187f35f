"""`portlayer topology`: who runs where, and how healthy it is."""

from __future__ import annotations

import asyncio

import typer

from portlayer.cli.asking import ask
from portlayer.cli.output import Columns, Json, age, print_json, print_table
from portlayer.client import PortLayer, connect
from portlayer.model.errors import PortlayerError
from portlayer.model.service import ProcessInfo

app = typer.Typer(rich_markup_mode=None)
PATIENCE_SECONDS = 5.0
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

    async def look(pl: PortLayer) -> list[dict[str, str]]:
        processes = (await pl.service.info()).processes
        return await asyncio.gather(*(_look(process) for process in processes))

    found = ask(look)
    if json:
        print_json(found)
    else:
        print_table(found, _COLUMNS)


async def _look(process: ProcessInfo) -> dict[str, str]:
    return {
        "host": process.host,
        "name": process.name,
        "components": ", ".join(process.components),
        "address": process.address,
        "startedAt": process.started_at,
        "health": await _health(process.address),
    }


async def _health(address: str) -> str:
    """What the process at *address* says of itself."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), connect(host=address, retries=0) as pl:
            readiness = await pl.service.ready()
    except PortlayerError as error:
        return error.detail
    except TimeoutError:
        return f"no answer in {PATIENCE_SECONDS:g} s"
    return "ready" if readiness.ready else "; ".join(f"{name}: {said}" for name, said in readiness.checks.items())
