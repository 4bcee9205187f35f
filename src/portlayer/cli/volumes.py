"""Commands about volumes."""

from __future__ import annotations

from typing import Annotated

import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Columns, Json, Quiet, age, print_json, print_table, print_tree, size
from portlayer.cli.refs import SHOWN, Volumes, volume_id
from portlayer.cli.values import parse_bytes, parse_labels
from portlayer.client import PortLayer
from portlayer.model import storage as m

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Volumes: what outlives containers."""


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="Without, the volume is anonymous.")] = None,
    labels: Annotated[list[str], typer.Option("--label", "-l", help="KEY=VALUE.")] = [],  # noqa: B006
    capacity: Annotated[str | None, typer.Option(help="What it may hold, such as 500m or 20g.")] = None,
    host: Annotated[str | None, typer.Option(help="Where it lives; without, where it is used first.")] = None,
    json: Json = False,
) -> None:
    """Create an empty volume."""
    most = None if capacity is None else parse_bytes(capacity)
    made = ask(lambda pl: pl.storage.create_volume(name, labels=parse_labels(labels), capacity_bytes=most, host=host))
    if json:
        print_json(made)
    else:
        typer.echo(made.name)


@app.command()
def ls(quiet: Quiet = False, json: Json = False) -> None:
    """List volumes."""
    volumes = ask(lambda pl: pl.storage.list_volumes())
    if json:
        print_json(volumes)
    elif quiet:
        for volume in volumes:
            typer.echo(volume.id)
    else:
        print_table(volumes, _COLUMNS)


@app.command()
def inspect(volumes: Volumes, json: Json = False) -> None:
    """Show all there is to know of volumes."""

    async def of(pl: PortLayer) -> list[m.Volume]:
        return [await pl.storage.inspect_volume(await volume_id(pl, ref)) for ref in volumes]

    found = ask(of)
    if json:
        print_json(found)
        return
    for volume in found:
        print_tree(volume)


@app.command()
def rm(volumes: Volumes, json: Json = False) -> None:
    """Remove volumes with what is in them."""

    async def one(pl: PortLayer, ref: str) -> None:
        await pl.storage.remove_volume(await volume_id(pl, ref))

    each(volumes, one, json=json)


_COLUMNS: Columns[m.Volume] = {
    "ID": lambda volume: volume.id[:SHOWN],
    "NAME": lambda volume: volume.name + (" (anonymous)" if volume.anonymous else ""),
    "STORE": lambda volume: volume.store,
    "CAPACITY": lambda volume: "" if volume.capacity_bytes is None else size(volume.capacity_bytes),
    "CREATED": lambda volume: f"{age(volume.created_at)} ago",
}
