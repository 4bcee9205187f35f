"""Commands about VCHs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Columns, Json, age, print_json, print_table, print_tree, size
from portlayer.cli.values import parse_bytes, parse_number
from portlayer.client import PortLayer
from portlayer.model import service as m
from portlayer.model.errors import InvalidArgument

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
NONE = "none"

Containers = Annotated[str | None, typer.Option(help="How many containers.")]
Cpus = Annotated[str | None, typer.Option(help="The sum of all containers' cpus.")]
Memory = Annotated[str | None, typer.Option(help="The sum of all containers' memory, as 4g.")]
Storage = Annotated[str | None, typer.Option(help="What images unpack to and volumes may hold, as 20g.")]
Networks = Annotated[str | None, typer.Option(help="How many networks.")]
Addresses = Annotated[str | None, typer.Option(help="How many addresses.")]
Names = Annotated[list[str], typer.Argument(metavar="VCH...")]


@app.callback()
def _group() -> None:
    """VCHs: tenants, each with containers, networks, volumes, images and a quota of its own.

    A limit is a number, or `none`.
    """


@app.command()
def create(
    name: str,
    containers: Containers = None,
    cpus: Cpus = None,
    memory: Memory = None,
    storage: Storage = None,
    networks: Networks = None,
    addresses: Addresses = None,
    json: Json = False,
) -> None:
    """Create a VCH; what is not limited has no limit."""
    wanted = _limits(containers, cpus, memory, storage, networks, addresses)
    made = ask(lambda pl: pl.service.create_vch(name, m.Quota(**wanted)))
    if json:
        print_json(made)
    else:
        typer.echo(made.name)


@app.command()
def ls(json: Json = False) -> None:
    """List VCHs."""
    vchs = ask(lambda pl: pl.service.list_vchs())
    if json:
        print_json(vchs)
    else:
        print_table(vchs, _COLUMNS)


@app.command()
def inspect(vchs: Names, json: Json = False) -> None:
    """Show quota and usage of VCHs."""

    async def of(pl: PortLayer) -> list[m.Vch]:
        return [await pl.service.inspect_vch(name) for name in vchs]

    found = ask(of)
    if json:
        print_json(found)
        return
    for vch in found:
        print_tree(vch)


@app.command("set")
def set_(
    name: str,
    containers: Containers = None,
    cpus: Cpus = None,
    memory: Memory = None,
    storage: Storage = None,
    networks: Networks = None,
    addresses: Addresses = None,
    json: Json = False,
) -> None:
    """Change limits of a VCH, at once; `none` lifts one. What is above a limit stays."""
    wanted = _limits(containers, cpus, memory, storage, networks, addresses)
    if not wanted:
        raise InvalidArgument("Nothing is to be set; give a limit, as --containers 10.")
    changed = ask(lambda pl: pl.service.set_quota(name, m.QuotaChange(**wanted)))
    (print_json if json else print_tree)(changed)


@app.command()
def rm(
    vchs: Names,
    force: Annotated[bool, typer.Option("--force", "-f", help="With everything that is in it.")] = False,
    json: Json = False,
) -> None:
    """Remove VCHs."""

    async def one(pl: PortLayer, name: str) -> None:
        await pl.service.remove_vch(name, force=force)

    each(vchs, one, json=json)


def _limits(
    containers: str | None,
    cpus: str | None,
    memory: str | None,
    storage: str | None,
    networks: str | None,
    addresses: str | None,
) -> dict[str, Any]:
    """The limits that were given, by field of Quota."""
    given = {
        "containers": _read(containers, int),
        "cpus": _read(cpus, parse_number),
        "memory_bytes": _read(memory, parse_bytes),
        "storage_bytes": _read(storage, parse_bytes),
        "networks": _read(networks, int),
        "addresses": _read(addresses, int),
    }
    return {name: limit for name, limit in given.items() if limit is not msgspec.UNSET}


def _read(text: str | None, parse: Callable[[str], T]) -> T | msgspec.UnsetType | None:
    if text is None:
        return msgspec.UNSET
    if text == NONE:
        return None
    try:
        return parse(text)
    except ValueError:
        raise InvalidArgument(f"{text!r} is no limit; write a number, or none.") from None
    except InvalidArgument as error:
        raise InvalidArgument(f"{error.detail.removesuffix('.')}, or none.") from None


def _of(used: str, limit: str | None) -> str:
    return used if limit is None else f"{used}/{limit}"


def _number(count: int | None) -> str | None:
    return None if count is None else str(count)


def _size(count: int | None) -> str | None:
    return None if count is None else size(count)


_COLUMNS: Columns[m.Vch] = {
    "NAME": lambda vch: vch.name,
    "STATE": lambda vch: vch.state,
    "CONTAINERS": lambda vch: _of(f"{vch.usage.containers}", _number(vch.quota.containers)),
    "MEMORY": lambda vch: _of(size(vch.usage.memory_bytes), _size(vch.quota.memory_bytes)),
    "STORAGE": lambda vch: _of(size(vch.usage.storage_bytes), _size(vch.quota.storage_bytes)),
    "CREATED": lambda vch: f"{age(vch.created_at)} ago",
}
