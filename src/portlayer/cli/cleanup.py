"""`portlayer cleanup`: what this port layer has on the host."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from portlayer.cli.lock import holding
from portlayer.cli.output import Json, print_json
from portlayer.compose import Settings, make_paths, open_host, read_settings

app = typer.Typer(rich_markup_mode=None)


@app.command()
def cleanup(
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; containers that run are killed.")] = False,
    config: Annotated[Path | None, typer.Option(help="The server's TOML file.")] = None,
    json: Json = False,
) -> None:
    """List, and with --apply remove, all that this port layer has on the host: mounts, links, groups, processes.

    Its state directory stays, with images, volumes and what containers wrote. Works without a server; with --apply,
    only without one.
    """
    settings = read_settings(os.environ, config)
    found = asyncio.run(_cleanup(settings, apply=apply)) if (Path(settings.state) / "instance").exists() else []
    if json:
        print_json({"leftovers": found, "removed": apply})
        return
    for line in found:
        typer.echo(line)
    if not found:
        typer.echo(f"Nothing of the port layer in {settings.state} is on this host.")
    elif apply:
        typer.echo("All of this is removed.")


async def _cleanup(settings: Settings, *, apply: bool) -> list[str]:
    with ExitStack() as stack:
        if apply:
            paths = make_paths(settings)
            stack.enter_context(holding(paths.state, paths.run))
        async with open_host(settings) as substrate:
            found = await substrate.leftovers()
            if apply:
                await substrate.purge()
            return found
