"""Which subnets a new network gets: what was asked for, and what is chosen."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable

from portlayer.model import addresses as pure
from portlayer.model import network as m
from portlayer.model.base import Value
from portlayer.model.errors import AlreadyExists, InvalidArgument

MIN_MTU, MIN_MTU6, MAX_MTU = 576, 1280, 65535


class Subnets(Value):
    """Which CIDR belongs to which network, over all tenants of the substrate. site: the /48 that IPv6 subnets are
    chosen from; drawn once, with the first of them."""

    taken: dict[str, str] = {}
    site: str = ""


def wants_ipv6(request: m.CreateNetwork) -> str | None:
    """The pointer of what asks for IPv6; None where nothing does. Raises InvalidArgument for the MTU."""
    asking = [f"/subnets/{index}/subnet" for index, one in enumerate(request.subnets) if ":" in one.subnet]
    pointer = "/ipv6" if request.ipv6 else next(iter(asking), None)
    smallest = MIN_MTU6 if pointer else MIN_MTU
    if not smallest <= request.mtu <= MAX_MTU:
        why = " in a network with IPv6" if pointer else ""
        raise InvalidArgument(f"mtu must be between {smallest} and {MAX_MTU}{why}.", pointer="/mtu")
    return pointer


def choose(
    request: m.CreateNetwork, known: Subnets, reserved: Iterable[str], mine: Collection[str] = ()
) -> tuple[tuple[m.Subnet, ...], str]:
    """The subnets of a new network, those of IPv4 first, and the site. There is always one of IPv4.

    mine: those of the VCH's own networks. That another is in use is told, too, but neither which nor by whom.

    Raises:
        InvalidArgument: a subnet is wrong. AlreadyExists: it overlaps another. ResourceExhausted: none is free.
    """
    used, site = [*known.taken, *reserved], known.site
    subnets: list[m.Subnet] = []
    for index, asked in enumerate(request.subnets):
        subnet = pure.complete(asked, f"/subnets/{index}")
        other = next((other for other in used if pure.overlaps(subnet.subnet, other)), None)
        if other is not None:
            own = other in mine or any(other == earlier.subnet for earlier in subnets)
            why = f"overlaps {other}, which is in use" if own else "is not free on this host"
            raise AlreadyExists(
                f"Subnet {subnet.subnet} {why}; choose another, or none.",
                kind="subnet",
                id=other if own else subnet.subnet,
            )
        used.append(subnet.subnet)
        subnets.append(subnet)
    if not pure.of_version(subnets, 4):
        subnets.append(pure.complete(m.Subnet(subnet=pure.choose_subnet(used))))
    if request.ipv6 and not pure.of_version(subnets, 6):
        site = site or pure.make_site(secrets.token_bytes(5))
        subnets.append(pure.complete(m.Subnet(subnet=pure.choose_subnet(used, (site,)))))
    return (*pure.of_version(subnets, 4), *pure.of_version(subnets, 6)), site
