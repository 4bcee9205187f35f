"""Networks and endpoints: entities, requests and answers."""

from __future__ import annotations

from typing import Literal

from portlayer.model.base import Value

MAX_ALIASES = 32


class Subnet(Value):
    """An IPv4 range of a network. `ranges` limits what is handed out, each "first-last" or CIDR."""

    subnet: str
    gateway: str | None = None
    ranges: tuple[str, ...] = ()


class NetworkSpec(Value):
    """A committed network. `subnets` have their gateways filled in."""

    id: str
    name: str
    type: str
    subnets: tuple[Subnet, ...]
    dns: tuple[str, ...] = ()
    internal: bool = False
    mtu: int = 1500
    labels: dict[str, str] = {}
    created_at: str


class Port(Value, omit_defaults=False):
    """A published port. `host_port` 0 or absent means: choose one."""

    container_port: int
    host_port: int = 0
    host_address: str = ""
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"


class EndpointSpec(Value):
    """A container's place in a network, as committed or proposed.

    Joined is recorded; bound is active: only then are address, prefix_length and gateway set.
    requested_address is what the caller asked for at join; claim names the lease that a not yet committed
    bind reserved (the handle's own claim), and is empty once it is committed.
    """

    id: str
    network: str
    network_name: str
    mac_address: str
    requested_address: str = ""
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    bound: bool = False
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""


class Endpoint(Value):
    """An endpoint as the API shows it. `state` is `joined` or `bound`."""

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


class Network(Value):
    """A network as the API shows it, with the counts of its addresses."""

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


class CreateNetwork(Value):
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
    """`network` is a name, an id, or a network handle."""

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
