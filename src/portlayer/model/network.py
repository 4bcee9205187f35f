"""Networks and endpoints: entities, requests and answers."""

from __future__ import annotations

from typing import Literal

from portlayer.model.base import Value

COUNTABLE = 2**53 - 1
"""The largest number that every reader of JSON takes as it is written."""


class Subnet(Value):
    """An IPv4 or IPv6 range of a network. `ranges` limits what is handed out, each "first-last" or CIDR."""

    subnet: str
    gateway: str | None = None
    ranges: tuple[str, ...] = ()


class NetworkSpec(Value):
    """A committed network. `subnets` have their gateways filled in; at least one is IPv4, and those come first."""

    id: str
    name: str
    type: str
    subnets: tuple[Subnet, ...]
    dns: tuple[str, ...] = ()
    internal: bool = False
    mtu: int = 1500
    labels: dict[str, str] = {}
    created_at: str

    @property
    def ipv6(self) -> bool:
        """Whether its endpoints get an IPv6 address as well."""
        return any(":" in subnet.subnet for subnet in self.subnets)


class Port(Value, omit_defaults=False):
    """A published port. `host_port` 0 or absent means: choose one.

    host_address: empty for all of the host's addresses, `0.0.0.0` for those of IPv4, `::` for those of IPv6.
    """

    container_port: int
    host_port: int = 0
    host_address: str = ""
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"


class EndpointSpec(Value):
    """A container's place in a network, as committed or proposed.

    Joined is recorded; bound is active: only then are address, prefix_length and gateway set, and in a network with
    IPv6 also those that end in 6. requested_address is what the caller asked for at join.
    """

    id: str
    network: str
    network_name: str
    mac_address: str
    requested_address: str = ""
    requested_address6: str = ""
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    bound: bool = False
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""
    address6: str = ""
    prefix_length6: int = 0
    gateway6: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """What it has: none, one, or one of IPv4 and one of IPv6."""
        return tuple(address for address in (self.address, self.address6) if address)

    @property
    def publishes(self) -> bool:
        """Whether ports of the host lead to it while its container runs."""
        return self.bound and bool(self.ports)


class Endpoint(Value):
    """An endpoint as the API shows it. `state` is `joined` or `bound`. What ends in 6 is there where its network has
    IPv6 and it is bound."""

    id: str
    network: str
    network_id: str
    container_id: str
    address: str
    prefix_length: int
    gateway: str
    mac_address: str
    aliases: tuple[str, ...]
    ports: tuple[Port, ...]
    state: str
    address6: str = ""
    prefix_length6: int = 0
    gateway6: str = ""


class Network(Value):
    """A network as the API shows it, with the counts of its addresses: of IPv4, and where it has it of IPv6.

    free_addresses6: 9007199254740991 (2^53-1) stands for that many or more.
    """

    id: str
    name: str
    type: str
    subnets: tuple[Subnet, ...]
    dns: tuple[str, ...]
    internal: bool
    mtu: int
    labels: dict[str, str]
    created_at: str
    allocated_addresses: int
    free_addresses: int
    ipv6: bool = False
    allocated_addresses6: int | None = None
    free_addresses6: int | None = None


class CreateNetwork(Value):
    """`subnets`: where there is none of IPv4, a free one is chosen; so is one of IPv6 where `ipv6` asks for it. An IPv6
    subnet asks for it too."""

    name: str
    type: Literal["bridge", "external", "host", "none"] = "bridge"
    subnets: tuple[Subnet, ...] = ()
    dns: tuple[str, ...] = ()
    internal: bool = False
    ipv6: bool = False
    mtu: int = 1500
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


class ListNetworks(Value):
    name: str | None = None
    label: tuple[str, ...] = ()
    limit: int = 100
    after: str | None = None


class Networks(Value):
    networks: tuple[Network, ...]
    next: str | None


class NetworkRef(Value):
    ref: str


class NetworkHandle(Value):
    """A handle to a network, pinned to what the caller saw."""

    handle: str
    id: str


class ListEndpoints(Value):
    ref: str
    limit: int = 100
    after: str | None = None


class Endpoints(Value):
    endpoints: tuple[Endpoint, ...]
    next: str | None


class JoinNetwork(Value):
    """`network` is a name, an id, or a network handle. `address`, `address6`: those that bind must give. `aliases` are
    more names under which others on the network find the container while it runs; several containers may share one."""

    handle: str
    network: str
    aliases: tuple[str, ...] = ()
    address: str | None = None
    address6: str | None = None
    mac_address: str | None = None
    ports: tuple[Port, ...] = ()


class JoinedNetwork(Value):
    handle: str
    endpoint_id: str


class BindNetwork(Value):
    """Also for unbind: `network` left out means all joined ones."""

    handle: str
    network: str | None = None


class BoundNetwork(Value):
    handle: str
    endpoints: tuple[Endpoint, ...]


class LeaveNetwork(Value):
    handle: str
    network: str
