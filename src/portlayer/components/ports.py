"""Published ports: checked and chosen at join, claimed by commit."""

from __future__ import annotations

import ipaddress
import random

from portlayer.components import keys
from portlayer.interfaces.store import Store
from portlayer.model.errors import InvalidArgument, ResourceExhausted, Unsupported
from portlayer.model.execution import replace
from portlayer.model.network import NetworkSpec, Port

FIRST_EPHEMERAL, LAST_EPHEMERAL = 49152, 60999
MAX_PORTS = 1024
TRIES = 64


class Ports:
    """The ports of the hosts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def choose(self, host: str, network: NetworkSpec, ports: tuple[Port, ...]) -> tuple[Port, ...]:
        """*ports*, each with a port of *host*: the one asked for, or one that is free at this time.

        Raises:
            InvalidArgument: no port, one twice, in an internal network, or on an IPv6 address for one without IPv6.
            Unsupported: on ::1.
            ResourceExhausted: no free one was found.
        """
        if ports and network.internal:
            raise InvalidArgument("An internal network publishes no ports.", pointer="/ports")
        if len(ports) > MAX_PORTS:
            raise InvalidArgument(f"At most {MAX_PORTS} ports.", pointer="/ports")
        chosen: dict[tuple[str, int], Port] = {}
        for index, port in enumerate(ports):
            _check(port, network, f"/ports/{index}")
            number = port.host_port or await self._free(host, port.protocol, chosen)
            if (port.protocol, number) in chosen:
                raise InvalidArgument(f"Port {number} is published twice.", pointer=f"/ports/{index}/hostPort")
            chosen[port.protocol, number] = replace(port, host_port=number)
        return tuple(chosen.values())

    async def _free(self, host: str, protocol: str, chosen: dict[tuple[str, int], Port]) -> int:
        for _ in range(TRIES):
            number = random.randint(FIRST_EPHEMERAL, LAST_EPHEMERAL)  # noqa: S311 - any free one will do
            taken = (protocol, number) in chosen or await self._store.get(keys.port(host, protocol, number))
            if not taken:
                return number
        raise ResourceExhausted("No free host port was found; name one.", resource="ports")


def _check(port: Port, network: NetworkSpec, pointer: str) -> None:
    if not 1 <= port.container_port <= 65535 or not 0 <= port.host_port <= 65535:
        raise InvalidArgument("A port is between 1 and 65535.", pointer=pointer)
    if port.host_address:
        pointer = f"{pointer}/hostAddress"
        try:
            address = ipaddress.ip_address(port.host_address)
        except ValueError:
            raise InvalidArgument(f"{port.host_address[:60]!r} is no address.", pointer=pointer) from None
        if "%" in port.host_address or getattr(address, "ipv4_mapped", None):
            raise InvalidArgument(f"{port.host_address[:60]!r} is no address that a port can be on.", pointer=pointer)
        if address.version == 6 and not network.ipv6:
            raise InvalidArgument(
                f"Network {network.name} has no IPv6: its ports cannot be published on {address}.", pointer=pointer
            )
        if address.version == 6 and address.is_loopback:
            raise Unsupported(
                "Kernels let nothing come back to ::1 from a container; publish on 127.0.0.1 instead.",
                option="hostAddress",
                pointer=pointer,
            )
