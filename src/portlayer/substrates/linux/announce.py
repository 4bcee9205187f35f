"""Tell a network where an address is now: an ARP announcement.

An address that is given out again has another MAC address; who talked to the one before would go on sending to that
for half a minute.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

from portlayer.substrates.linux.links import mac_bytes

_ETHERTYPE_ARP = 0x0806
_EVERYBODY = b"\xff" * 6
_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4, their lengths, request


class Announcer:
    """Sends out of bridges, in the name of their ports. Source: RFC 5227, section 2.3."""

    def __init__(self) -> None:
        # Protocol 0: nothing is ever received. One socket for all, because closing one waits for the kernel.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)

    def close(self) -> None:
        self._socket.close()

    def announce(self, bridge: str, address: IPv4Address, mac: str) -> None:
        """All on *bridge* learn that *address* is at *mac*."""
        sender = mac_bytes(mac)
        frame = (
            _EVERYBODY
            + sender
            + _ETHERTYPE_ARP.to_bytes(2, "big")
            + _REQUEST
            + sender
            + address.packed
            + bytes(6)
            + address.packed
        )
        self._socket.sendto(frame, (bridge, _ETHERTYPE_ARP))
