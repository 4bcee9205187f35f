"""The rtnetlink requests that networks need, and what a link looks like in an answer.

Source: linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from sys import byteorder
from typing import NamedTuple

import msgspec

from portlayer.substrates.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    attributes,
    number,
    string,
    text,
)

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26
_NEWNEIGH = 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP, _IFLA_NET_NS_FD = 16, 18, 20, 27, 28
_IFLA_EXT_MASK, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 29, 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_IFLA_BRPORT_STATE, _IFLA_BRPORT_MODE = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_STALE = 0x04
_IFA_F_NODAD = 0x02
_IPV6_METRIC = 1024  # the kernel's own of a route that names none; 0 means this one
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, _RTN_LOCAL = 254, 4, 0, 1, 2
_IFF_UP = 1
_OPERSTATE_UP = 6
_FORWARDING = 3
_WITHOUT_STATISTICS = number(_IFLA_EXT_MASK, 1 << 3)
_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface


class Link(msgspec.Struct, frozen=True):
    """A link as the kernel tells. `peer`: index of the other end of a veth, 0 else. `forwards`: its port of a bridge
    passes frames."""

    index: int
    name: str
    kind: str
    group: int
    master: int
    peer: int
    mtu: int
    alias: str
    ready: bool
    forwards: bool


def mac_bytes(mac: str) -> bytes:
    """`02:42:…` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def _header(index: int = 0, up: bool = False) -> bytes:
    flags = _IFF_UP if up else 0
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def _by_name(name: str) -> bytes:
    return _header() + text(_IFLA_IFNAME, name)


def make_bridge(name: str, group: int, mac: str, mtu: int) -> Request:
    """A bridge; the kernel makes it without spanning tree. A fixed MAC does not change as ports come and go."""
    body = (
        _by_name(name)
        + attribute(_IFLA_ADDRESS, mac_bytes(mac))
        + number(_IFLA_MTU, mtu)
        + number(_IFLA_GROUP, group)
        + attribute(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"))
    )
    return Request(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def configure_bridge(index: int, alias: str, mtu: int) -> Request:
    """Name the bridge's owner and bring it up. An MTU set here stays; one set at creation follows the ports."""
    return Request(_SETLINK, 0, _header(index, up=True) + text(_IFLA_IFALIAS, alias) + number(_IFLA_MTU, mtu))


class Peer(NamedTuple):
    """The end of a veth that is made inside another namespace, given by a descriptor."""

    name: str
    mac: str
    namespace: int


def make_veth(name: str, group: int, master: int, mtu: int, peer: Peer) -> Request:
    """A veth whose end *name* is up and a port of bridge *master*; its peer is down until `bring_up`.

    It has one queue: the kernel would make one a processor, which takes longer and gains nothing on a bridge.
    """
    queues = number(_IFLA_NUM_TX_QUEUES, 1) + number(_IFLA_NUM_RX_QUEUES, 1)
    other = (
        _by_name(peer.name)
        + attribute(_IFLA_ADDRESS, mac_bytes(peer.mac))
        + number(_IFLA_MTU, mtu)
        + number(_IFLA_NET_NS_FD, peer.namespace)
        + queues
    )
    body = (
        _header(up=True)
        + text(_IFLA_IFNAME, name)
        + number(_IFLA_MTU, mtu)
        + number(_IFLA_GROUP, group)
        + number(_IFLA_MASTER, master)
        + queues
        + attribute(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "veth") + attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other)),
        )
    )
    return Request(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def attach(index: int, master: int) -> Request:
    """Make the link a port of bridge *master*, and bring it up."""
    return Request(_SETLINK, 0, _header(index, up=True) + number(_IFLA_MASTER, master))


def reflect(name: str) -> Request:
    """The bridge may send a frame out of port *name* that came in by it (hairpin mode)."""
    port = attribute(_IFLA_BRPORT_MODE, b"\1")
    slave = text(_IFLA_INFO_SLAVE_KIND, "bridge") + attribute(_IFLA_INFO_SLAVE_DATA, port)
    return Request(_NEWLINK, 0, _by_name(name) + attribute(_IFLA_LINKINFO, slave))


def bring_up(index: int) -> Request:
    return Request(_SETLINK, 0, _header(index, up=True))


def delete_link(name: str) -> Request:
    return Request(_DELLINK, 0, _by_name(name))


def get_link(name: str) -> Request:
    """The kernel first works off what is pending for the link's carrier (since Linux 6.8), so asking makes it ready."""
    return Request(_GETLINK, 0, _by_name(name) + _WITHOUT_STATISTICS)


def get_link_at(index: int) -> Request:
    """As `get_link`, by index."""
    return Request(_GETLINK, 0, _header(index) + _WITHOUT_STATISTICS)


def list_links() -> Request:
    return Request(_GETLINK, NLM_F_DUMP, _header() + _WITHOUT_STATISTICS)


def add_address(index: int, address: Interface) -> Request:
    """Also adds the route to the address's own subnet. The same address again is fine.

    An IPv6 address is used at once: the kernel does not ask first whether another has it, for we know. Yet packets to
    it are taken in only once another thread of the kernel has come to that: then its route `is_local`.
    """
    flags = _IFA_F_NODAD if address.version == 6 else 0
    head = _ADDRESS.pack(_FAMILIES[address.version], address.network.prefixlen, flags, _RT_SCOPE_UNIVERSE, index)
    body = head + attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    if address.version == 4:
        body += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    return Request(_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_address(index: int, address: Interface) -> Request:
    head = _ADDRESS.pack(_FAMILIES[address.version], address.network.prefixlen, 0, 0, index)
    return Request(_DELADDR, 0, head + attribute(_IFA_LOCAL, address.packed))


def list_addresses() -> Request:
    """Of IPv4 and IPv6."""
    return Request(_GETADDR, NLM_F_DUMP, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def add_default_route(index: int, gateway: Address, metric: int) -> Request:
    """Several may stand side by side; the one with the lowest *metric* counts, and the next when that has gone."""
    family = _FAMILIES[gateway.version]
    if gateway.version == 6:
        metric += _IPV6_METRIC
    head = _ROUTE.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
    body = head + attribute(_RTA_GATEWAY, gateway.packed) + number(_RTA_OIF, index) + number(_RTA_PRIORITY, metric)
    return Request(_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def get_route(destination: Address) -> Request:
    """Where packets to *destination* go; see `is_local`."""
    head = _ROUTE.pack(_FAMILIES[destination.version], destination.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return Request(_GETROUTE, 0, head + attribute(_RTA_DST, destination.packed))


def list_routes() -> Request:
    """Of the main table, of IPv4 and IPv6."""
    head = _ROUTE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)
    return Request(_GETROUTE, NLM_F_DUMP, head + number(_RTA_TABLE, _RT_TABLE_MAIN))


def set_neighbour(index: int, address: Address, mac: str) -> Request:
    """The host takes *address* to be at *mac*, whoever had it before."""
    head = _NEIGHBOUR.pack(_FAMILIES[address.version], index, _NUD_STALE, 0, 0)
    body = head + attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Request(_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def parse_link(body: bytes) -> Link:
    _, _, index, _, _ = _LINK.unpack_from(body)
    values = attributes(body, _LINK.size)
    info = attributes(values.get(_IFLA_LINKINFO, b""))
    port = attributes(info.get(_IFLA_INFO_SLAVE_DATA, b""))
    return Link(
        index=index,
        name=string(values.get(_IFLA_IFNAME, b"")),
        kind=string(info.get(_IFLA_INFO_KIND, b"")),
        group=_whole(values.get(_IFLA_GROUP)),
        master=_whole(values.get(_IFLA_MASTER)),
        peer=_whole(values.get(_IFLA_LINK)),
        mtu=_whole(values.get(_IFLA_MTU)),
        alias=string(values.get(_IFLA_IFALIAS, b"")),
        ready=_whole(values.get(_IFLA_OPERSTATE)) == _OPERSTATE_UP,
        forwards=_whole(port.get(_IFLA_BRPORT_STATE)) == _FORWARDING,
    )


def parse_links(bodies: Sequence[bytes]) -> list[Link]:
    return [parse_link(body) for body in bodies]


def parse_addresses(bodies: Sequence[bytes]) -> list[tuple[int, Interface]]:
    """Index of the link and address, of each."""
    found: list[tuple[int, Interface]] = []
    for body in bodies:
        family, length, _, _, index = _ADDRESS.unpack_from(body)
        values = attributes(body, _ADDRESS.size)
        packed = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if packed is None or family not in _FAMILIES.values():
            continue
        kind = IPv6Interface if family == socket.AF_INET6 else IPv4Interface
        found.append((index, kind((packed, length))))
    return found


def is_local(bodies: Sequence[bytes]) -> bool:
    """Whether that route leads to ourselves."""
    return any(_ROUTE.unpack_from(body)[7] == _RTN_LOCAL for body in bodies)


def parse_routes(bodies: Sequence[bytes]) -> list[IPv4Network | IPv6Network]:
    """The destinations."""
    found: list[IPv4Network | IPv6Network] = []
    for body in bodies:
        family, length = _ROUTE.unpack_from(body)[:2]
        destination = attributes(body, _ROUTE.size).get(_RTA_DST)
        if family == socket.AF_INET6:
            found.append(IPv6Network((destination or bytes(16), length)))
        elif family == socket.AF_INET:
            found.append(IPv4Network((destination or bytes(4), length)))
    return found


def _whole(value: bytes | None) -> int:
    return int.from_bytes(value, byteorder) if value else 0
