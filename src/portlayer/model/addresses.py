"""The arithmetic of networks: subnets, ranges, which addresses may be handed out, MAC addresses.

Addresses and CIDRs are strings in their usual form ("10.210.0.2", "10.210.0.0/24"). IPv4 only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from portlayer.model.errors import InvalidArgument, ResourceExhausted, Unsupported
from portlayer.model.network import Subnet

DEFAULT_POOLS = ("10.210.0.0/15", "172.30.0.0/15", "192.168.192.0/18")
SHORTEST_PREFIX, LONGEST_PREFIX = 8, 30
_CHOSEN_PREFIX = 24

_FORBIDDEN = {
    IPv4Network("0.0.0.0/8"): "means 'this host'",
    IPv4Network("127.0.0.0/8"): "is loopback",
    IPv4Network("169.254.0.0/16"): "is link-local",
    IPv4Network("224.0.0.0/4"): "is multicast",
    IPv4Network("240.0.0.0/4"): "is reserved",
}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def check_subnet(text: str, pointer: str = "/subnet") -> str:
    """*text* in its usual form, where containers can live in it.

    Raises:
        InvalidArgument: no CIDR, host bits set, a prefix not in 8..30, or a range with another meaning.
        Unsupported: IPv6.
    """
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdecimal()):
        raise InvalidArgument(f"{text[:60]!r} is no subnet; write it like 10.1.2.0/24.", pointer=pointer)
    parsed = _address(address, pointer)
    prefix = int(length[:4])
    if not SHORTEST_PREFIX <= prefix <= LONGEST_PREFIX:
        raise InvalidArgument(
            f"A subnet has a prefix of {SHORTEST_PREFIX} to {LONGEST_PREFIX} bits, not {length[:10]}.", pointer=pointer
        )
    network = IPv4Network((parsed, prefix), strict=False)
    if network.network_address != parsed:
        raise InvalidArgument(f"{text} has host bits set; did you mean {network}?", pointer=pointer)
    for forbidden, reason in _FORBIDDEN.items():
        if network.overlaps(forbidden):
            raise InvalidArgument(f"{network} cannot be a subnet: {forbidden} {reason}.", pointer=pointer)
    return str(network)


def complete(subnet: Subnet, pointer: str = "/subnets/0") -> Subnet:
    """*subnet* checked and in its usual form, with its gateway: by default the first address.

    Raises:
        InvalidArgument: subnet, gateway or a range is wrong, or nothing is left to hand out.
        Unsupported: IPv6.
    """
    network = IPv4Network(check_subnet(subnet.subnet, f"{pointer}/subnet"))
    gateway = network.network_address + 1
    if subnet.gateway is not None:
        gateway = _address(subnet.gateway, f"{pointer}/gateway")
        if not _is_host(gateway, network):
            raise InvalidArgument(
                f"The gateway {gateway} is no host address of {network}.", pointer=f"{pointer}/gateway"
            )
    spans = [_range(text, network, f"{pointer}/ranges/{place}") for place, text in enumerate(subnet.ranges)]
    ranges = tuple(f"{IPv4Address(first)}-{IPv4Address(last)}" for first, last in spans if first <= last)
    result = Subnet(subnet=str(network), gateway=str(gateway), ranges=ranges)
    if (subnet.ranges and not ranges) or capacity([result]) == 0:
        raise InvalidArgument("The ranges leave no address to hand out.", pointer=f"{pointer}/ranges")
    return result


def check_address(text: str, subnets: Iterable[Subnet], pointer: str = "/address") -> tuple[str, Subnet]:
    """*text* in its usual form and the subnet of *subnets* that it can be handed out from; `ranges` do not bind one
    who asks for an address by name.

    Raises:
        InvalidArgument: no address, or not one that a container may have in any of them.
        Unsupported: IPv6.
    """
    address = _address(text, pointer)
    tried = []
    for subnet in subnets:
        network = IPv4Network(subnet.subnet)
        if _is_host(address, network) and str(address) != subnet.gateway:
            return str(address), subnet
        tried.append(subnet.subnet)
    raise InvalidArgument(
        f"{address} is not free for containers: choose a host address of {', '.join(tried) or 'no subnet'} "
        "that is not the gateway.",
        pointer=pointer,
    )


def capacity(subnets: Iterable[Subnet]) -> int:
    """How many addresses completed *subnets* can hand out."""
    total = 0
    for subnet in subnets:
        gateway = _gateway(subnet)
        for first, last in _spans(subnet):
            total += last - first + 1 - (first <= gateway <= last)
    return total


def candidates(subnet: Subnet, start: str | None = None) -> Iterator[str]:
    """Every address that completed *subnet* can hand out, once, upwards from *start* and around; lazily.

    Network, broadcast and gateway are never among them; `ranges` are honoured.
    """
    spans, gateway = _spans(subnet), _gateway(subnet)
    origin = int(IPv4Address(start)) if start is not None else 0
    upper = (range(max(first, origin), last + 1) for first, last in spans)
    lower = (range(first, min(last + 1, origin)) for first, last in spans)
    for part in (*upper, *lower):
        for value in part:
            if value != gateway:
                yield str(IPv4Address(value))


def overlaps(a: str, b: str) -> bool:
    """Whether two CIDRs have an address in common."""
    return IPv4Network(a).overlaps(IPv4Network(b))


def choose_subnet(taken: Iterable[str], pools: Sequence[str] = DEFAULT_POOLS) -> str:
    """The first /24 of *pools* that overlaps nothing of *taken*; a pool smaller than that is taken whole.

    Raises:
        ResourceExhausted: all of them are taken.
    """
    used = [IPv4Network(cidr) for cidr in taken]
    for pool in map(IPv4Network, pools):
        near = [network for network in used if network.overlaps(pool)]
        for choice in pool.subnets(new_prefix=max(_CHOSEN_PREFIX, pool.prefixlen)):
            if not any(choice.overlaps(network) for network in near):
                return str(choice)
    raise ResourceExhausted(
        f"All subnets of {', '.join(pools)} are taken; remove a network, or name a subnet.", resource="subnets"
    )


def check_mac(text: str, pointer: str = "/macAddress") -> str:
    """*text* in lower case with colons, where it can be the MAC address of a container.

    Raises:
        InvalidArgument: no MAC address, zero, or that of a group.
    """
    mac = text.lower().replace("-", ":")
    if _MAC.fullmatch(mac) is None:
        raise InvalidArgument(f"{text[:60]!r} is no MAC address; write it like 02:42:0a:d2:00:02.", pointer=pointer)
    if mac == "00:00:00:00:00:00" or int(mac[:2], 16) & 1:
        raise InvalidArgument(f"{mac} cannot belong to one container: it is zero or a group's.", pointer=pointer)
    return mac


def mac_of(endpoint: str) -> str:
    """The MAC address of an endpoint id: always the same, locally administered, of one station."""
    digest = bytearray(hashlib.sha256(endpoint.encode()).digest()[:6])
    digest[0] = digest[0] & 0b1111_1100 | 0b10
    return digest.hex(":")


def _address(text: str, pointer: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        if _is_ipv6(text):
            raise Unsupported(
                f"{text[:60]} is IPv6, which networks do not offer here; use IPv4.", option="ipv6", pointer=pointer
            ) from None
        raise InvalidArgument(f"{text[:60]!r} is no IPv4 address.", pointer=pointer) from None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Network(text, strict=False) if "/" in text else IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_host(address: IPv4Address, network: IPv4Network) -> bool:
    return address in network and address not in {network.network_address, network.broadcast_address}


def _range(text: str, network: IPv4Network, pointer: str) -> tuple[int, int]:
    """First and last host address of a range, "first-last" or CIDR, that lies inside *network*.

    The last comes before the first where the range holds only the network or the broadcast address.
    """
    if "/" in text:
        try:
            block = IPv4Network(text)
        except ValueError as error:
            raise InvalidArgument(f"{text[:60]!r} is no range: {error}.", pointer=pointer) from None
        first, last = block.network_address, block.broadcast_address
    else:
        low, _, high = text.partition("-")
        first, last = _address(low.strip(), pointer), _address(high.strip() or low.strip(), pointer)
    if first not in network or last not in network or first > last:
        raise InvalidArgument(
            f"The range {text[:60]!r} must go upwards inside {network}, as first-last or CIDR.", pointer=pointer
        )
    lowest, highest = int(network.network_address) + 1, int(network.broadcast_address) - 1
    return max(int(first), lowest), min(int(last), highest)


def _spans(subnet: Subnet) -> list[tuple[int, int]]:
    """The host addresses that may be handed out, the gateway still among them, as disjoint spans upwards."""
    network = IPv4Network(subnet.subnet)
    if not subnet.ranges:
        return [(int(network.network_address) + 1, int(network.broadcast_address) - 1)]
    merged: list[tuple[int, int]] = []
    for first, last in sorted(_range(text, network, "/ranges") for text in subnet.ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _gateway(subnet: Subnet) -> int:
    return int(IPv4Address(subnet.gateway)) if subnet.gateway else 0
