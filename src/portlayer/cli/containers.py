"""Commands that show containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer

from portlayer.cli.asking import ask
from portlayer.cli.output import Json, Quiet, age, print_json, print_table, print_tree
from portlayer.cli.refs import SHOWN, Containers, container_id
from portlayer.client import PortLayer
from portlayer.client.execution import State
from portlayer.model.errors import InvalidArgument
from portlayer.model.execution import Container
from portlayer.model.network import Port

STATES = "created, running, paused, stopped or unknown"
app = typer.Typer(rich_markup_mode=None)

Filter = Annotated[list[str], typer.Option("--filter", "-f", help="state=, name= or label=KEY[=VALUE]; all must hold.")]


@app.command()
def ps(
    every: Annotated[bool, typer.Option("--all", "-a", help="Also those that do not run.")] = False,
    quiet: Quiet = False,
    filters: Filter = [],  # noqa: B006
    json: Json = False,
) -> None:
    """List containers that run."""
    asked = _filters(filters)
    found = ask(lambda pl: pl.execution.list(**asked))
    if not every and "state" not in asked:
        found = tuple(each for each in found if each.state in {"running", "paused", "unknown"})
    newest_first = sorted(found, key=lambda each: each.created_at, reverse=True)
    if json:
        print_json(newest_first)
    elif quiet:
        for each in newest_first:
            typer.echo(each.id)
    else:
        several = len({each.host for each in found}) > 1 or any(each.state == "unknown" for each in found)
        print_table(newest_first, _COLUMNS | _HOST if several else _COLUMNS)


@app.command()
def inspect(containers: Containers, json: Json = False) -> None:
    """Show all there is to know of containers."""

    async def of(pl: PortLayer) -> list[Container]:
        return [await pl.execution.inspect_container(await container_id(pl, ref)) for ref in containers]

    found = ask(of)
    if json:
        print_json(found)
        return
    for each in found:
        print_tree(each)


def _filters(texts: list[str]) -> dict[str, Any]:
    filters: dict[str, Any] = {"labels": []}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in {"state", "name", "label"}:
            raise InvalidArgument(f"{text!r} is no filter; write state=, name= or label=KEY[=VALUE].")
        if name == "label":
            filters["labels"].append(value)
        else:
            filters[name] = value
    try:
        msgspec.convert(filters.get("state"), State | None)
    except msgspec.ValidationError:
        raise InvalidArgument(f"{filters['state']!r} is no state; use {STATES}.") from None
    return filters


def _status(container: Container) -> str:
    if container.start_error:
        return f"not started ({container.exit_code})"
    if container.state == "stopped":
        return f"stopped ({container.exit_code}) {age(container.finished_at)} ago"
    if container.state in {"created", "unknown"}:
        return container.state
    return f"{container.state} for {age(container.started_at)}"


def _port(port: Port) -> str:
    """As docker writes it. The addresses of the host are left out where they are all."""
    address = f"[{port.host_address}]" if ":" in port.host_address else port.host_address
    place = f"{address}:{port.host_port}" if address else f"{port.host_port}"
    return f"{place}->{port.container_port}/{port.protocol}"


_COLUMNS: dict[str, Callable[[Container], str]] = {
    "ID": lambda each: each.id[:SHOWN],
    "NAME": lambda each: each.name,
    "IMAGE": lambda each: each.image,
    "COMMAND": lambda each: " ".join(each.process.args),
    "CREATED": lambda each: f"{age(each.created_at)} ago",
    "STATUS": _status,
    "ADDRESSES": lambda each: ", ".join(
        address for endpoint in each.endpoints for address in (endpoint.address, endpoint.address6) if address
    ),
    "PORTS": lambda each: ", ".join(_port(port) for endpoint in each.endpoints for port in endpoint.ports),
}
_HOST: dict[str, Callable[[Container], str]] = {"HOST": lambda each: each.host}
