"""Commands about networks."""

from __future__ import annotations

from typing import Annotated

import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Columns, Json, Quiet, print_json, print_table, print_tree
from portlayer.cli.refs import SHOWN, Container, Network, Networks, container_id, network_id
from portlayer.cli.values import parse_labels, parse_subnets
from portlayer.client import JoinOptions, PortLayer, Steps
from portlayer.model import network as m

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Networks: what containers reach each other over."""


@app.command()
def create(
    name: str,
    subnets: Annotated[
        list[str], typer.Option("--subnet", help="As 10.1.2.0/24 or fd00:1::/64; without, a free one is chosen.")
    ] = [],  # noqa: B006
    gateways: Annotated[
        list[str], typer.Option("--gateway", help="Address of the gateway in one of the subnets.")
    ] = [],  # noqa: B006
    ipv6: Annotated[bool, typer.Option("--ipv6", help="Give containers an IPv6 address as well.")] = False,
    dns: Annotated[list[str], typer.Option(help="Name server for its containers.")] = [],  # noqa: B006
    internal: Annotated[bool, typer.Option("--internal", help="No way out of it.")] = False,
    mtu: Annotated[int, typer.Option(help="Largest packet, in bytes.")] = 1500,
    labels: Annotated[list[str], typer.Option("--label", "-l", help="KEY=VALUE.")] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Create a bridge network."""
    wanted = parse_subnets(subnets, gateways)
    made = ask(
        lambda pl: pl.network.create_network(
            name, subnets=wanted, dns=dns, internal=internal, ipv6=ipv6, mtu=mtu, labels=parse_labels(labels)
        )
    )
    if json:
        print_json(made)
    else:
        typer.echo(made.id)


@app.command()
def ls(quiet: Quiet = False, json: Json = False) -> None:
    """List networks."""
    networks = ask(lambda pl: pl.network.list())
    if json:
        print_json(networks)
    elif quiet:
        for network in networks:
            typer.echo(network.id)
    else:
        print_table(networks, _COLUMNS)


@app.command()
def inspect(networks: Networks, json: Json = False) -> None:
    """Show all there is to know of networks."""

    async def of(pl: PortLayer) -> list[m.Network]:
        return [await pl.network.inspect_network(await network_id(pl, ref)) for ref in networks]

    found = ask(of)
    if json:
        print_json(found)
        return
    for network in found:
        print_tree(network)


@app.command()
def rm(networks: Networks, json: Json = False) -> None:
    """Remove networks."""

    async def one(pl: PortLayer, ref: str) -> None:
        await pl.network.remove(await network_id(pl, ref))

    each(networks, one, json=json)


@app.command()
def connect(
    network: Network,
    container: Container,
    aliases: Annotated[list[str], typer.Option("--alias", help="Another name of it in this network.")] = [],  # noqa: B006
    address: Annotated[str | None, typer.Option("--ip", help="The address that it must get.")] = None,
    address6: Annotated[str | None, typer.Option("--ip6", help="The IPv6 address that it must get.")] = None,
) -> None:
    """Join a container to a network, and bind it: it has an address when this returns."""
    options: JoinOptions = {"aliases": aliases}
    if address is not None:
        options["address"] = address
    if address6 is not None:
        options["address6"] = address6

    async def one(pl: PortLayer) -> str:
        handle = await pl.execution.get_container(await container_id(pl, container))
        joined = await network_id(pl, network)
        committed = await pl.execution.commit(Steps(handle).join_network(joined, **options).bind_network(joined))
        ours = (each for each in committed.endpoints if joined in {each.network, each.network_id})
        return " ".join(address for each in ours for address in (each.address, each.address6) if address)

    typer.echo(ask(one))


@app.command()
def disconnect(network: Network, container: Container) -> None:
    """Let a container leave a network."""

    async def one(pl: PortLayer) -> None:
        handle = await pl.execution.get_container(await container_id(pl, container))
        await pl.execution.commit(Steps(handle).leave_network(await network_id(pl, network)))

    ask(one)


def _free(network: m.Network) -> int:
    """How many more containers find an address, or one of each kind."""
    free, free6 = network.free_addresses, network.free_addresses6
    return free if free6 is None else min(free, free6)


_COLUMNS: Columns[m.Network] = {
    "ID": lambda network: network.id[:SHOWN],
    "NAME": lambda network: network.name,
    "TYPE": lambda network: network.type + (" (internal)" if network.internal else ""),
    "SUBNETS": lambda network: ", ".join(subnet.subnet for subnet in network.subnets),
    "USED": lambda network: str(network.allocated_addresses),
    "FREE": lambda network: str(_free(network)),
}
