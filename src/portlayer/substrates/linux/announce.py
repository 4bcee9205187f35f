"""Tell a network where an address is now: an ARP announcement, or in IPv6 a neighbour advertisement.

An address that is given out again has another MAC address; who talked to the one before would go on sending to that
for half a minute.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from portlayer.substrates.linux.links import mac_bytes

_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_EVERYBODY = b"\xff" * 6
_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4, their lengths, request
_ALL_NODES = IPv6Address("ff02::1").packed
_ALL_NODES_MAC = b"\x33\x33\0\0\0\1"
_ICMPV6, _NEAREST = 58, 255  # who advertises must be a neighbour: no router lets that hop limit through
_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK, _LINK_UNITS = 136, 1 << 29, 2, 1


class Announcer:
    """Sends out of bridges, in the name of their ports. Source: RFC 5227, section 2.3."""

    def __init__(self) -> None:
        # Protocol 0: nothing is ever received. One socket for all, because closing one waits for the kernel.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)

    def close(self) -> None:
        self._socket.close()

    def announce(self, bridge: str, address: IPv4Address | IPv6Address, mac: str) -> None:
        """All on *bridge* learn that *address* is at *mac*."""
        sender = mac_bytes(mac)
        if isinstance(address, IPv6Address):
            frame = _ALL_NODES_MAC + sender + _ETHERTYPE_IPV6.to_bytes(2, "big") + _advertise(address, sender)
            self._socket.sendto(frame, (bridge, _ETHERTYPE_IPV6))
            return
        arp = _REQUEST + sender + address.packed + bytes(6) + address.packed
        frame = _EVERYBODY + sender + _ETHERTYPE_ARP.to_bytes(2, "big") + arp
        self._socket.sendto(frame, (bridge, _ETHERTYPE_ARP))


def _advertise(address: IPv6Address, mac: bytes) -> bytes:
    """The packet that says so unasked. Source: RFC 4861, sections 4.4 and 7.2.6."""
    option = struct.pack("!BB", _TARGET_LINK, _LINK_UNITS) + mac
    tail = struct.pack("!I", _OVERRIDE) + address.packed + option
    length = 4 + len(tail)
    addresses = address.packed + _ALL_NODES
    pseudo = addresses + struct.pack("!II", length, _ICMPV6)
    total = _checksum(pseudo + struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + tail)
    header = struct.pack("!IHBB", 6 << 28, length, _ICMPV6, _NEAREST)
    return header + addresses + struct.pack("!BBH", _ADVERTISEMENT, 0, total) + tail


def _checksum(data: bytes) -> int:
    """Of an even number of bytes. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
