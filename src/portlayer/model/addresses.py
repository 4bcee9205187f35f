"""The arithmetic of networks: subnets, ranges, which addresses may be handed out, MAC addresses.

Addresses and CIDRs are strings in their usual form ("10.210.0.2", "10.210.0.0/24", "fd00:1::/64"). Nothing is listed
that need not be: an IPv6 subnet holds more addresses than any loop ends with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from portlayer.model.errors import InvalidArgument, ResourceExhausted
from portlayer.model.network import Subnet

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

DEFAULT_POOLS = ("10.210.0.0/15", "172.30.0.0/15", "192.168.192.0/18")
_PREFIXES = {4: (8, 30), 6: (32, 126)}
_CHOSEN_PREFIX = {4: 24, 6: 64}
_SITE_PREFIX = 48

_FORBIDDEN: dict[IPNetwork, str] = {
    IPv4Network("0.0.0.0/8"): "means 'this host'",
    IPv4Network("127.0.0.0/8"): "is loopback",
    IPv4Network("169.254.0.0/16"): "is link-local",
    IPv4Network("224.0.0.0/4"): "is multicast",
    IPv4Network("240.0.0.0/4"): "is reserved",
    IPv6Network("::/8"): "is reserved: loopback and what stands for IPv4",
    IPv6Network("fe80::/10"): "is link-local",
    IPv6Network("ff00::/8"): "is multicast",
}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def version(text: str) -> int:
    """4 or 6: of an address or a CIDR in its usual form."""
    return 6 if ":" in text else 4


def of_version(subnets: Iterable[Subnet], wanted: int) -> tuple[Subnet, ...]:
    """Those of *subnets* that are IPv4, or IPv6."""
    return tuple(subnet for subnet in subnets if version(subnet.subnet) == wanted)


def check_subnet(text: str, pointer: str = "/subnet") -> str:
    """*text* in its usual form, where containers can live in it.

    Raises:
        InvalidArgument: no CIDR, host bits set, a prefix not in 8..30 (IPv6: 32..126), or a range with another meaning.
    """
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdecimal()):
        raise InvalidArgument(
            f"{text[:60]!r} is no subnet; write it like 10.1.2.0/24 or fd00:1:2:3::/64.", pointer=pointer
        )
    parsed = _address(address, pointer)
    prefix = int(length[:4])
    shortest, longest = _PREFIXES[parsed.version]
    if not shortest <= prefix <= longest:
        raise InvalidArgument(
            f"An IPv{parsed.version} subnet has a prefix of {shortest} to {longest} bits, not {length[:10]}.",
            pointer=pointer,
        )
    network = ip_network((str(parsed), prefix), strict=False)
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
    """
    network = ip_network(check_subnet(subnet.subnet, f"{pointer}/subnet"))
    gateway: IPAddress = network.network_address + 1
    if subnet.gateway is not None:
        gateway = _address(subnet.gateway, f"{pointer}/gateway")
        if not _is_host(gateway, network):
            raise InvalidArgument(
                f"The gateway {gateway} is no host address of {network}.", pointer=f"{pointer}/gateway"
            )
    spans = [_range(text, network, f"{pointer}/ranges/{place}") for place, text in enumerate(subnet.ranges)]
    kind = type(network.network_address)
    ranges = tuple(f"{kind(first)}-{kind(last)}" for first, last in spans if first <= last)
    result = Subnet(subnet=str(network), gateway=str(gateway), ranges=ranges)
    if (subnet.ranges and not ranges) or capacity([result]) == 0:
        raise InvalidArgument("The ranges leave no address to hand out.", pointer=f"{pointer}/ranges")
    return result


def check_address(text: str, subnets: Iterable[Subnet], pointer: str = "/address") -> tuple[str, Subnet]:
    """*text* in its usual form and the subnet of *subnets* that it can be handed out from; `ranges` do not bind one
    who asks for an address by name.

    Raises:
        InvalidArgument: no address, or not one that a container may have in any of them.
    """
    address = _address(text, pointer)
    tried = []
    for subnet in subnets:
        if _is_host(address, ip_network(subnet.subnet)) and str(address) != subnet.gateway:
            return str(address), subnet
        tried.append(subnet.subnet)
    raise InvalidArgument(
        f"{address} is not free for containers: choose a host address of {', '.join(tried) or 'no subnet'} "
        "that is not the gateway.",
        pointer=pointer,
    )


def subnet_of(address: str, subnets: Iterable[Subnet]) -> Subnet:
    """The one of *subnets* that *address* is in; raises LookupError where it is in none."""
    wanted = ip_address(address)
    for subnet in subnets:
        if wanted in ip_network(subnet.subnet):
            return subnet
    raise LookupError(f"{address} is in no subnet")


def prefix_length(subnet: Subnet) -> int:
    """The bits of *subnet* that all of its addresses share."""
    return int(subnet.subnet.rpartition("/")[2])


def after(address: str) -> str:
    """The address that follows."""
    return str(ip_address(address) + 1)


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

    Network, broadcast (of IPv6: the routers' anycast address) and gateway are never among them; `ranges` are honoured.
    """
    spans, gateway = _spans(subnet), _gateway(subnet)
    kind = type(ip_network(subnet.subnet).network_address)
    origin = int(ip_address(start)) if start is not None else 0
    upper = (range(max(first, origin), last + 1) for first, last in spans)
    lower = (range(first, min(last + 1, origin)) for first, last in spans)
    for part in (*upper, *lower):
        for value in part:
            if value != gateway:
                yield str(kind(value))


def overlaps(a: str, b: str) -> bool:
    """Whether two CIDRs have an address in common."""
    return ip_network(a).overlaps(ip_network(b))


def choose_subnet(taken: Iterable[str], pools: Sequence[str] = DEFAULT_POOLS) -> str:
    """The first /24 of *pools*, or /64 where they are IPv6, that overlaps nothing of *taken*; a pool smaller than that
    is taken whole.

    Raises:
        ResourceExhausted: all of them are taken.
    """
    used = [ip_network(cidr) for cidr in taken]
    for pool in map(ip_network, pools):
        near = [network for network in used if network.overlaps(pool)]
        prefix = max(_CHOSEN_PREFIX[pool.version], pool.prefixlen)
        size = 1 << (pool.max_prefixlen - prefix)
        first = int(pool.network_address)
        while first <= int(pool.broadcast_address):
            choice = ip_network((str(type(pool.network_address)(first)), prefix))
            ends = [int(network.broadcast_address) for network in near if network.overlaps(choice)]
            if not ends:
                return str(choice)
            first = (max(ends) // size + 1) * size  # past what is in the way, however large
    raise ResourceExhausted(
        f"All subnets of {', '.join(pools)} are taken; remove a network, or name a subnet.", resource="subnets"
    )


def make_site(random: bytes) -> str:
    """A /48 of fd00::/8, whose other 40 bits are the five bytes of *random*: nobody else has it, by chance.

    Source: RFC 4193 (unique local addresses).
    """
    return str(IPv6Network((b"\xfd" + random + bytes(10), _SITE_PREFIX)))


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


def _address(text: str, pointer: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidArgument(f"{text[:60]!r} is no IP address.", pointer=pointer) from None
    if "%" in text:
        raise InvalidArgument(f"{text[:60]!r} names a link; leave that out.", pointer=pointer)
    return address


def _hosts(network: IPNetwork) -> tuple[int, int]:
    """The first and the last address that a host may have. The first of all is the network's, or in IPv6 that of any
    of its routers; the last is IPv4's broadcast address."""
    return int(network.network_address) + 1, int(network.broadcast_address) - (network.version == 4)


def _is_host(address: IPAddress, network: IPNetwork) -> bool:
    first, last = _hosts(network)
    return address.version == network.version and first <= int(address) <= last


def _range(text: str, network: IPNetwork, pointer: str) -> tuple[int, int]:
    """First and last host address of a range, "first-last" or CIDR, that lies inside *network*.

    The last comes before the first where the range holds only the network or the broadcast address.
    """
    first: IPAddress
    last: IPAddress
    if "/" in text and "%" not in text:
        try:
            block = type(network)(text)
        except ValueError as error:
            raise InvalidArgument(f"{text[:60]!r} is no range: {error}.", pointer=pointer) from None
        first, last = block.network_address, block.broadcast_address
    else:
        low, _, high = text.partition("-")
        first, last = _address(low.strip(), pointer), _address(high.strip() or low.strip(), pointer)
    if first not in network or last not in network or int(first) > int(last):
        raise InvalidArgument(
            f"The range {text[:60]!r} must go upwards inside {network}, as first-last or CIDR.", pointer=pointer
        )
    lowest, highest = _hosts(network)
    return max(int(first), lowest), min(int(last), highest)


def _spans(subnet: Subnet) -> list[tuple[int, int]]:
    """The host addresses that may be handed out, the gateway still among them, as disjoint spans upwards."""
    network = ip_network(subnet.subnet)
    if not subnet.ranges:
        return [_hosts(network)]
    merged: list[tuple[int, int]] = []
    for first, last in sorted(_range(text, network, "/ranges") for text in subnet.ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _gateway(subnet: Subnet) -> int:
    return int(ip_address(subnet.gateway)) if subnet.gateway else 0
