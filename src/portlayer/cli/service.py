"""Commands about the port layer itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from portlayer import __version__
from portlayer.cli.asking import ask
from portlayer.cli.output import Json, print_json, print_tree
from portlayer.client import PortLayer
from portlayer.model.errors import Unavailable
from portlayer.model.events import NumberedEvent

app = typer.Typer(rich_markup_mode=None)


@app.command()
def events(
    since: Annotated[
        str | None, typer.Option(help="`now` (default), `0` for all that is kept, or the cursor of one seen.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each event as one line of JSON.")] = False,
) -> None:
    """Show what happens, as it happens, until interrupted."""

    async def follow(pl: PortLayer) -> None:
        async for event in pl.service.events(since):
            typer.echo(msgspec.json.encode(event).decode() if json else _line(event))

    ask(follow)


@app.command()
def info(json: Json = False) -> None:
    """Show what this port layer is made of."""
    found = ask(lambda pl: pl.service.info())
    (print_json if json else print_tree)(found)


@app.command()
def version(json: Json = False) -> None:
    """Show the versions of this command and of the server."""
    versions = {"client": __version__}
    try:
        versions["server"] = ask(lambda pl: pl.service.info()).version
    except Unavailable:
        versions["server"] = None if json else "not reachable"  # type: ignore[assignment]
    (print_json if json else print_tree)(versions)


def _line(numbered: NumberedEvent) -> str:
    event = numbered.event
    facts = "".join(f" {name}={value}" for name, value in event.attributes.items())
    return f"{event.time} {numbered.cursor} {event.type} {event.name} ({event.id}){facts}"
