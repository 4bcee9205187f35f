"""Commands about hosts."""

from __future__ import annotations

from typing import Annotated

import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Columns, Json, age, print_json, print_table, size
from portlayer.client import PortLayer
from portlayer.model.service import HostInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Hosts: the machines on which containers run."""


@app.command()
def ls(json: Json = False) -> None:
    """List hosts: how they are, and how much of their room is committed."""
    hosts = ask(lambda pl: pl.service.info()).hosts
    if json:
        print_json(hosts)
    else:
        print_table(hosts, _COLUMNS)


@app.command()
def rm(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...")],
    force: Annotated[bool, typer.Option("--force", "-f", help="With its containers and volumes.")] = False,
    json: Json = False,
) -> None:
    """Forget hosts that are away and do not come back: what they had is let go."""

    async def remove(pl: PortLayer, name: str) -> None:
        await pl.service.remove_host(name, force=force)

    each(hosts, remove, json=json)


def _of(committed: str, whole: str) -> str:
    return f"{committed} of {whole}"


_COLUMNS: Columns[HostInfo] = {
    "HOST": lambda host: host.name,
    "STATE": lambda host: host.state,
    "SINCE": lambda host: f"{age(host.since)} ago" if host.since else "",
    "CONTAINERS": lambda host: "" if host.containers is None else str(host.containers),
    "CPUS": lambda host: "" if host.cpus is None else _of(f"{host.committed_cpus or 0:g}", f"{host.cpus:g}"),
    "MEMORY": lambda host: (
        "" if host.memory_bytes is None else _of(size(host.committed_memory_bytes or 0), size(host.memory_bytes))
    ),
    "SUBSTRATE": lambda host: host.substrate,
    "LABELS": lambda host: ", ".join(f"{key}={value}" for key, value in sorted(host.labels.items())),
}
