"""Network: networks, endpoints, addresses. Every call may raise the taxonomy's errors."""

from __future__ import annotations

from typing import Protocol

from portlayer.model import network as m
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer


class Network(Protocol):
    async def join(self, caller: Caller, request: m.JoinNetwork) -> m.JoinedNetwork:
        """Record an endpoint. Raises NotFound, AlreadyExists (one endpoint in a network), InvalidArgument."""

    async def bind(self, caller: Caller, request: m.BindNetwork) -> m.BoundNetwork:
        """Lease addresses for joined endpoints: one each, and one of IPv6 more in networks that have it, both or none.
        Binding the same handle twice gives the same addresses.

        Raises ResourceExhausted (out of addresses), AlreadyExists (the address asked for is taken).
        """

    async def unbind(self, caller: Caller, request: m.BindNetwork) -> m.BoundNetwork:
        """The endpoints stay joined and lose their addresses at commit."""

    async def leave(self, caller: Caller, request: m.LeaveNetwork) -> HandleAnswer:
        """Take the endpoint away."""

    async def create_network(self, caller: Caller, request: m.CreateNetwork) -> m.Network:
        """Raises InvalidArgument (subnet), AlreadyExists (name, overlapping subnet), ResourceExhausted, Unsupported
        (for one, IPv6 on a host that has none)."""

    async def list_networks(self, caller: Caller, request: m.ListNetworks) -> m.Networks:
        """By id."""

    async def get_network(self, caller: Caller, request: m.NetworkRef) -> m.Network:
        """By name or id."""

    async def delete_network(self, caller: Caller, request: m.NetworkRef) -> None:
        """Raises InUse while it has endpoints. Nothing of it is on any host when this returns."""

    async def handle(self, caller: Caller, request: m.NetworkRef) -> m.NetworkHandle:
        """A network handle, pinned to this network: one of the same name made later is another."""

    async def network_endpoints(self, caller: Caller, request: m.ListEndpoints) -> m.Endpoints:
        """The committed endpoints in a network."""

    async def container_endpoints(self, caller: Caller, request: m.ListEndpoints) -> m.Endpoints:
        """The committed endpoints of a container."""
